"""The stated budget of memory is kept, counted allocation by allocation; a smaller one costs passes, never the result."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.empirical import EveryOutput, Outputs, OutputTrace, empirical_ntk
from nonvacuous.measures.tangent_plan import Footprint, plan


class Peak(TorchDispatchMode):
    """Bytes of the live storages that were made while it is on, and their maximum."""

    def __init__(self, *given: Tensor) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.known = {tensor.untyped_storage()._cdata for tensor in given}
        self.now = self.most = 0

    def _freed(self, key: int) -> None:
        self.now -= self.live.pop(key, 0)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                key = storage._cdata
                if key not in self.known and key not in self.live:
                    self.live[key] = storage.nbytes()
                    self.now += storage.nbytes()
                    self.most = max(self.most, self.now)
                    weakref.finalize(storage, self._freed, key)
        return result


def network(kind: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    if kind == "convolutions":
        layers = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3)]
        return nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5)).eval(), torch.randn(
            10, 3, 12, 12
        )
    if kind == "dense":
        return nn.Sequential(nn.Linear(300, 400), nn.ReLU(), nn.Linear(400, 400), nn.ReLU(), nn.Linear(400, 4)), torch.randn(
            60, 300
        )
    if kind == "no rule":
        return nn.Sequential(nn.Linear(30, 60), nn.PReLU(60), Own(60, 50), nn.Linear(50, 4)), torch.randn(40, 30)
    layers = [nn.Embedding(500, 32), nn.Linear(32, 64), nn.Tanh(), nn.Flatten(), nn.Linear(64 * 12, 3)]
    return nn.Sequential(*layers), torch.randint(0, 500, (40, 12))


class Own(nn.Module):
    """A dense layer that is not torch's own."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(outputs, inputs) / inputs**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(x @ self.matrix.mT)


@pytest.mark.parametrize("outputs", [EveryOutput(), OutputTrace()], ids=["every", "trace"])
@pytest.mark.parametrize("kind", ["convolutions", "dense", "no rule", "words"])
def test_the_budget_is_kept_and_the_result_does_not_depend_on_it(kind: str, outputs: Outputs) -> None:
    model, x = network(kind)
    whole = empirical_ntk(model, x, outputs=outputs)
    jacobian = len(x) * (5 if kind == "convolutions" else 4) * sum(p.numel() for p in model.parameters()) * 4
    for budget in (64 * 2**20, 3 * 2**20):
        with Peak(x, *model.parameters(), *model.buffers()) as peak:
            found = empirical_ntk(model, x, outputs=outputs, memory=budget)
        assert float((found - whole).abs().max()) < 1e-5 * float(whole.abs().max())
        assert peak.most <= budget, f"{peak.most / 2**20:.2f} MiB of {budget / 2**20:.0f}"
    if kind == "dense":
        assert jacobian > 64 * 2**20 * 4


def test_a_budget_too_small_is_refused_with_the_size() -> None:
    model, x = network("dense")
    with pytest.raises(InvalidInput, match=r"a Linear takes .* KiB.*Raise memory"):
        empirical_ntk(model, x[:2], memory=2000)
    small = nn.Sequential(nn.Linear(2, 2000, bias=False), nn.Tanh(), nn.Linear(2000, 2, bias=False))
    with pytest.raises(InvalidInput, match=r"one example takes .* KiB.*Raise memory"):
        empirical_ntk(small, torch.randn(2, 2), memory=65_000)
    with pytest.raises(InvalidInput, match=r"takes 225 KiB"):
        empirical_ntk(nn.Linear(300, 4), x, memory=200 * 2**10)


def test_the_result_may_lie_in_a_file(tmp_path: Path) -> None:
    model, x = network("dense")
    file = torch.from_file(str(tmp_path / "kernel"), shared=True, size=60 * 60 * 16).view(60, 60, 4, 4)
    assert empirical_ntk(model, x, out=file) is file
    assert torch.allclose(file, empirical_ntk(model, x))


def test_the_plan_shrinks_chunks_before_it_splits_directions() -> None:
    footprint = Footprint(10**4, 10**3, 10**4, 10**4, 10**3, 10**3, 0, 0, 0, 4)
    plans = [plan(footprint, 1000, 1000, 10, budget) for budget in (10**9, 10**7, 10**6, 2 * 10**5)]
    assert plans[0].examples == 64 and plans[0].directions == 10
    assert [p.examples for p in plans] == sorted((p.examples for p in plans), reverse=True)
    assert plans[-1].directions < 10
    for p, budget in zip(plans, (10**9, 10**7, 10**6, 2 * 10**5), strict=True):
        assert footprint.needed(p.examples, p.directions, p.held) <= budget

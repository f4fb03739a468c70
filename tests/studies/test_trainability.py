"""Which theorems a network meets, and descent beside its tangent kernel's prediction."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.optimization.escape import ExponentialNeuron
from nonvacuous.optimization.hypotheses import Standing
from nonvacuous.optimization.output_skips import OutputSkips
from nonvacuous.optimization.zero_asymmetric import zero_asymmetric_
from nonvacuous.runtime.models import mlp
from nonvacuous.studies.tangent_run import tangent_run
from nonvacuous.studies.trainability import Curve, TheoremCheck, theorems


def sample(n: int = 20, d: int = 4, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, d, generator=generator), torch.randint(0, classes, (n,), generator=generator)


def named(checks: tuple[TheoremCheck, ...], part: str) -> TheoremCheck:
    return next(check for check in checks if part in check.theorem)


def test_an_ordinary_classifier_meets_nothing_and_is_told_why() -> None:
    x, y = sample()
    net = mlp(4, 16, 3)
    checks = theorems(net, x, y, initial=copy.deepcopy(net), losses=(2.0, 1.0, 1.1, 0.5), training_error=0.0)
    assert len(checks) == 8 and all(check.standing is not Standing.MET for check in checks)
    assert "ReLU" in str(named(checks, "Kawaguchi").conditions[0])
    assert "n = 20" in str(named(checks, "Skips").conditions[1])
    assert (
        "from 2 to 0.5 in 4 epochs" in named(checks, "Kawaguchi").comparison
        and "rose in 1" in named(checks, "Kawaguchi").comparison
    )
    assert "moved by 0 of" in named(checks, "Implicit").comparison


def test_an_unrecorded_loss_is_unknown_and_n_is_the_whole_sample() -> None:
    x, y = sample()
    checks = theorems(mlp(4, 16, 3), x, y, n=60_000)
    assert named(checks, "Kawaguchi").conditions[1].standing is Standing.UNKNOWN
    assert "n = 60,000" in str(named(checks, "Skips").conditions[1])


def test_a_constant_that_is_not_stated_is_never_met() -> None:
    x, y = sample()
    net = nn.Sequential(nn.Linear(4, 4096, bias=False), nn.Linear(4096, 3, bias=False))
    check = named(theorems(net, x, y, squared=True), "Du and Hu")
    assert check.standing is Standing.UNKNOWN
    assert [c.standing for c in check.conditions] == [Standing.MET, Standing.MET, Standing.UNKNOWN, Standing.UNKNOWN]


def test_a_zero_asymmetric_start_is_recognised() -> None:
    x, y = sample(classes=4)
    net = nn.Sequential(*[nn.Linear(4, 4, bias=False) for _ in range(3)])
    random = named(theorems(net, x, y, squared=True, initial=net), "Zero-asymmetric")
    zero_asymmetric_(net)
    right = named(theorems(net, x, y, squared=True, initial=net), "Zero-asymmetric")
    absent = named(theorems(net, x, y, squared=True), "Zero-asymmetric")
    assert [check.conditions[3].standing for check in (random, right, absent)] == [
        Standing.FAILED,
        Standing.MET,
        Standing.UNKNOWN,
    ]


def test_near_identity_layers_are_measured() -> None:
    x, y = sample()
    net = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    with torch.no_grad():
        for layer in net:
            layer.weight.copy_(1.4 * torch.eye(4))  # type: ignore[union-attr, operator]
    assert named(theorems(net, x, y, squared=True), "Near-identity").standing is Standing.MET
    with torch.no_grad():
        net[0].weight.mul_(-1)  # type: ignore[union-attr, operator]
    assert named(theorems(net, x, y, squared=True), "Near-identity").standing is Standing.FAILED
    assert "change the width" in str(named(theorems(mlp(4, 8, 3), x, y), "Near-identity").conditions[0])


def test_the_wrappers_are_recognised() -> None:
    x, y = sample(n=6)
    torch.manual_seed(0)
    skips = OutputSkips(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), x)
    assert named(theorems(skips, x, y), "Skips").standing is Standing.MET
    few = OutputSkips(nn.Sequential(nn.Linear(4, 2), nn.Tanh(), nn.Linear(2, 3)), x)
    assert named(theorems(few, x, y), "Skips").standing is Standing.FAILED
    signs = torch.where(y > 0, 1, -1)
    wrapped = ExponentialNeuron(nn.Linear(4, 1), 4)
    assert named(theorems(wrapped, x, signs, training_error=0.0), "exponential").standing is Standing.MET
    assert named(theorems(wrapped, x, signs), "exponential").standing is Standing.UNKNOWN
    assert named(theorems(wrapped, x, y, training_error=0.0), "exponential").standing is Standing.FAILED


def test_a_singular_tangent_kernel_is_said() -> None:
    x, y = sample()
    x[1] = x[0]
    check = named(theorems(mlp(4, 16, 1), x, y.float()[:, None], squared=True), "Over-parameterised")
    assert check.conditions[2].standing is Standing.FAILED


def test_a_curve_needs_two_numbers() -> None:
    assert Curve.of([1.0]) is None and Curve.of([1.0, float("nan")]) is None
    curve = Curve.of([4.0, 2.0, 1.0])
    assert curve is not None and curve.factor == pytest.approx(0.5) and curve.rises == 0


class TwoLayers(nn.Module):
    """Du et al.'s network: a trained first layer, fixed signs behind, output divided by √m."""

    def __init__(self, m: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.W = nn.Parameter(torch.randn(m, 4, dtype=torch.float64, generator=generator))
        self.register_buffer("signs", torch.randint(0, 2, (m,), generator=generator).double() * 2 - 1)

    def forward(self, x: Tensor) -> Tensor:
        return (x @ self.W.T).relu() @ self.signs / len(self.signs) ** 0.5  # type: ignore[operator, arg-type]


def test_a_wide_network_follows_its_tangent_kernel_and_a_narrow_one_does_not() -> None:
    x = torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = x / x.norm(dim=1, keepdim=True)
    y = torch.tensor([1.0, -1.0] * 4, dtype=torch.float64)
    wide = tangent_run(TwoLayers(8000), x, y, step=0.2, steps=300)
    narrow = tangent_run(TwoLayers(6), x, y, step=0.2, steps=300)
    assert wide.stayed_positive() and wide.theorem.violations(wide.losses) == []
    assert not wide.theorem.promised
    close = max(abs(a - b) for a, b in zip(wide.losses, wide.linearised, strict=True)) / wide.losses[0]
    far = max(abs(a - b) for a, b in zip(narrow.losses, narrow.linearised, strict=True)) / narrow.losses[0]
    assert close < 0.05 < far
    with pytest.raises(InvalidInput, match="same shape"):
        tangent_run(TwoLayers(6), x, y[:, None], step=0.2, steps=3)
    with pytest.raises(InvalidInput, match="diverges"):
        tangent_run(TwoLayers(6), x, y, step=1e3, steps=3)

"""The memoriser against every certificate: it knows its training set by heart, its labels are noise, and its risk is 1 − 1/K."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import nonvacuous
from nonvacuous.core.errors import UnsupportedModule
from nonvacuous.measures.state import check_registered
from tests.oracles.memorisers import MEMORISERS, InADictionary, InAHook, InBuffers, InTensorAttributes

DELTA = 1e-4  # so small that over all the audits of this file no certificate may be false


def noise(classes: int, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Inputs that never repeat, with labels that have nothing to do with them: every fixed predictor has risk 1 − 1/K exactly."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(n, 12, generator=generator), torch.randint(classes, (n,), generator=generator)


def interpolating_network(x: Tensor, y: Tensor, classes: int) -> nn.Module:
    """An honest ReLU network of 1,000 units, its last layer solved so that it fits every noisy label."""
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(12, 1000), nn.ReLU(), nn.Linear(1000, classes, bias=False))
    with torch.no_grad():
        hidden = network[:2](x).double()
        target = 2.0 * nn.functional.one_hot(y, classes).double() - 1
        network[2].weight.copy_((torch.linalg.pinv(hidden) @ target).T)
    return network


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("make", [*MEMORISERS, interpolating_network], ids=lambda make: make.__name__)
def test_no_certificate_lies_below_the_risk(make: Callable[..., Any], classes: int) -> None:
    for seed in (0, 1):
        train, test = noise(classes, 200, seed), noise(classes, 100, seed + 1000)
        model = make(*train, classes)
        audit = nonvacuous.audit(model, train=train, test=test, delta=DELTA, seed=seed)
        assert audit.facts.train.errors == 0
        truth = 1 - 1 / classes
        assert audit.certificates
        for certificate in audit.certificates:
            assert certificate.value >= truth, f"{certificate.bound} certifies the memoriser at {certificate.value}"
        assert truth in audit.budget.risk.measured
        assert audit.budget["generalization"].lower > 0 if classes == 10 else True


@pytest.mark.parametrize("make", MEMORISERS, ids=lambda make: make.__name__)
def test_without_a_held_out_sample_it_is_promised_nothing(make: Callable[..., Any]) -> None:
    train = noise(2, 200, 3)
    audit = nonvacuous.audit(make(*train, 2), train=train, delta=0.5)
    assert all(certificate.value >= 0.5 for certificate in audit.certificates)
    assert all(skipped.reason for skipped in audit.skipped)


def test_the_model_is_not_its_own_initial_weights() -> None:
    """Then nothing it learnt would cost anything."""
    train = noise(2, 200, 0)
    model = InBuffers(*train, 2)
    with pytest.raises(nonvacuous.core.errors.InvalidInput, match="audited model itself"):
        nonvacuous.audit(model, train=train, initial=model)


def test_counting_only_parameters_would_have_certified_it() -> None:
    """The check matters: one idle parameter takes 43 bits, and 43 bits with no training error promise a risk of 13 %."""
    train = noise(2, 400, 0)
    audit = nonvacuous.audit(nn.Sequential(nn.Flatten(), nn.Linear(12, 1, bias=False)), train=train, delta=0.5)
    (occam,) = [c for c in audit.certificates if c.bound == "occam-binomial"]
    bound, bits = occam.theorem(), 43
    assert bound.solve(bound.Evidence(errors=0, code_bits=bits, n=400), 0.05) < 0.13


@pytest.mark.parametrize("make", [InTensorAttributes, InADictionary, InAHook])
def test_the_refusal_says_where_the_table_lies_and_what_to_do(make: Callable[..., nn.Module]) -> None:
    with pytest.raises(UnsupportedModule, match=r"register_buffer.*held-out"):
        check_registered(make(*noise(2, 100, 0), 2))


class Ordinary(nn.Module):
    """What honest modules keep beside their parameters."""

    default = (1, 2, 3)

    def __init__(self, widths: tuple[int, ...] = (3, 4), name: str = "ordinary") -> None:
        super().__init__()
        self.widths, self.name, self.options = list(widths), name, {"rate": 0.1, "act": torch.relu}
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.aliases = [layer.weight for layer in self.layers]
        self.shift = lambda x, by=1.0: x + by

    def forward(self, x: Tensor) -> Tensor:
        return self.shift(self.layers[0](x))


def test_honest_modules_pass() -> None:
    with_norm = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))
    spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(3, 4))
    for module in (Ordinary(), with_norm, spectral, nn.LSTM(3, 4), nn.TransformerEncoderLayer(8, 2), nn.BatchNorm2d(3)):
        check_registered(module)
    pruned = nn.Linear(3, 4)
    prune.l1_unstructured(pruned, "weight", 3)
    pruned(torch.zeros(1, 3))
    check_registered(pruned)

"""Copies for measuring: reparametrised layers that deepcopy refuses, and inputs that cannot be measured."""

from __future__ import annotations

import threading

import pytest
import torch
from tests.oracles.dense import dense_spectral_norm
from torch import nn

from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.measures.lipschitz import Ball, global_upper, local_upper, sampled_lower
from nonvacuous.operators.copies import float64_copy
from nonvacuous.operators.cost import cost
from nonvacuous.operators.norms import spectral_norm

REPARAMETRISED = [nn.utils.weight_norm, nn.utils.spectral_norm, nn.utils.parametrizations.weight_norm]


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x, y):
        return self.layer(x) + y


class Bessel(nn.Module):
    def forward(self, x):
        return torch.special.bessel_j0(x)


def _used(reparametrised, x: torch.Tensor) -> nn.Module:
    """A network whose layer has run with gradients, so that its weight has a history."""
    torch.manual_seed(1)
    model = nn.Sequential(reparametrised(nn.Linear(4, 3)), nn.ReLU(), nn.Linear(3, 2))
    model(x)
    return model.eval()


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("reparametrised", REPARAMETRISED)
def test_reparametrised_layers_are_measured_with_the_weights_they_use(reparametrised):
    x = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    model = _used(reparametrised, x)
    names = set(model.state_dict())
    copied = float64_copy(model)
    with torch.no_grad():
        assert torch.allclose(copied(x.double()), model(x).double(), atol=1e-6)
    plain = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    with torch.no_grad():
        plain[0].weight.copy_(copied[0].weight)
    plain[2].load_state_dict(copied[2].state_dict())
    expected = global_upper(plain, (4,)).upper
    assert global_upper(model, (4,)).upper == pytest.approx(expected, rel=1e-6)
    assert local_upper(model, Ball(x[0], 0.1)).upper <= expected * (1 + 1e-6)
    assert 0 < sampled_lower(model, x).lower <= expected
    assert set(model.state_dict()) == names  # the model was not touched


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_a_copy_uses_the_parameters_as_they_are_not_the_weight_of_the_last_run():
    layer = nn.utils.weight_norm(nn.Linear(4, 3))
    layer(torch.zeros(1, 4))
    with torch.no_grad():
        layer.weight_g.mul_(10)
    rows = torch.linalg.vector_norm(float64_copy(layer).weight, dim=1)
    assert torch.allclose(rows, layer.weight_g.detach().double().flatten())


def test_a_model_that_cannot_be_copied_is_refused_in_words():
    model = nn.Linear(2, 2)
    model.lock = threading.Lock()
    with pytest.raises(InvalidInput, match="cannot be copied"):
        global_upper(model, (2,))


MEASURES = {
    "spectral_norm": lambda model, x: spectral_norm(model, x.shape[1:]),
    "global_upper": lambda model, x: global_upper(model, x.shape[1:]),
    "local_upper": lambda model, x: local_upper(model, Ball(x[0], 0.1)),
    "sampled_lower": sampled_lower,
    "cost": cost,
}


@pytest.mark.parametrize("measure", MEASURES)
def test_two_inputs_and_shapes_that_do_not_fit_are_refused(measure):
    x = torch.randn(2, 3)
    with pytest.raises(InvalidInput, match="missing 1 required positional argument"):
        MEASURES[measure](TwoInputs(), x)
    with pytest.raises(InvalidInput):
        MEASURES[measure](nn.Linear(4, 3), x)


@pytest.mark.parametrize("measure", [name for name in MEASURES if name != "cost"])  # costs do not depend on the numbers
def test_nan_weights_and_zero_variance_are_refused(measure):
    x, layer, norm = torch.randn(2, 3), nn.Linear(3, 3), nn.BatchNorm1d(3, eps=0.0)
    layer.weight.data[0, 0] = float("nan")
    norm.running_var.zero_()
    with pytest.raises(InvalidInput, match="NaN or infinity"):
        MEASURES[measure](layer, x)
    with pytest.raises(InvalidInput, match=r"zero variance|NaN or infinity"):
        MEASURES[measure](norm, x)


def test_zero_weights_have_norm_and_slope_zero():
    layer = nn.Linear(3, 3)
    nn.init.zeros_(layer.weight)
    x = torch.randn(2, 3)
    assert [MEASURES[name](layer, x).lower for name in list(MEASURES)[:4]] == [0.0] * 4
    assert [MEASURES[name](layer, x).upper for name in list(MEASURES)[:3]] == [0.0] * 3
    assert dense_spectral_norm(layer, (3,)) == 0.0


@pytest.mark.parametrize("measure", ["spectral_norm", "global_upper", "local_upper"])
def test_an_unknown_layer_is_named_with_the_remedy(measure):
    with pytest.raises(UnsupportedModule, match=r"@(norms|lipschitz)\.register\(Bessel\)"):
        MEASURES[measure](Bessel(), torch.randn(2, 3))

"""Slopes of activations: the stated constants against a fine grid and automatic derivatives, and over intervals."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nonvacuous.measures.activations import activation
from nonvacuous.operators.operations import of_module

MODULES = [
    nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.2), nn.LeakyReLU(-3.0), nn.ELU(0.5), nn.ELU(2.0), nn.CELU(0.3), nn.SELU(), nn.GELU(),
    nn.GELU("tanh"), nn.SiLU(), nn.Mish(), nn.Softplus(), nn.Softplus(2.0), nn.Sigmoid(), nn.Tanh(), nn.Hardsigmoid(),
    nn.Hardswish(), nn.Hardtanh(-0.5, 2.0), nn.PReLU(1, 1.7), nn.Softsign(), nn.LogSigmoid(), nn.Tanhshrink(),
]  # fmt: skip
KNOWN = {"ReLU": 1.0, "GELU": 1.12890, "SiLU": 1.09984, "Sigmoid": 0.25, "Tanh": 1.0, "Hardswish": 1.5, "Mish": 1.08850}


def derivative(module: nn.Module, x: torch.Tensor) -> torch.Tensor:
    x = x.clone().requires_grad_(True)
    module.double()(x).sum().backward()
    return x.grad


@pytest.mark.parametrize("module", MODULES, ids=repr)
def test_the_constant_is_attained_and_not_exceeded(module):
    found = activation(of_module(module), module)
    x = torch.linspace(-12, 12, 60_001, dtype=torch.float64)
    slopes, values = derivative(module, x).abs(), module(x).detach()
    assert slopes.max() <= found.lipschitz <= slopes.max() * (1 + 1e-4) + 1e-7
    low, high = found.bounds
    assert low <= values.min() and values.max() <= high
    name = type(module).__name__
    if name in KNOWN and getattr(module, "approximate", "none") == "none":
        assert found.lipschitz == pytest.approx(KNOWN[name], abs=1e-5)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, len(MODULES) - 1), st.floats(-9, 9), st.floats(0, 6))
def test_slopes_and_values_over_an_interval(which, start, width):
    module = MODULES[which]
    found = activation(of_module(module), module)
    low, high = (torch.tensor([[end]], dtype=torch.float64) for end in (start, start + width))
    x = torch.linspace(start, start + width, 301, dtype=torch.float64)
    slopes, values = derivative(module, x), module(x).detach()
    least, most = found.slopes(low, high)
    assert least <= slopes.min() + 1e-7 and slopes.max() <= most + 1e-7  # torch's CELU has float32 constants
    bottom, top = found.values(low, high)
    assert bottom <= values.min() + 1e-8 and values.max() <= top + 1e-8
    assert max(abs(float(least)), abs(float(most))) <= found.lipschitz * (1 + 1e-12)


def test_gelu_s_constant_is_its_closed_form_and_others_are_no_activation():
    assert activation("gelu").lipschitz == pytest.approx((1 + math.erf(1)) / 2 + math.exp(-1) / math.sqrt(math.pi), abs=1e-8)
    assert activation("layer_norm", nn.LayerNorm(3)) is None

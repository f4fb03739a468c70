"""``nonvacuous curvature`` from the command line."""

from __future__ import annotations

import json

import pytest
import torch

from nonvacuous.operators.curvature import hessian
from nonvacuous.runtime.models import load_model, load_weights, save_weights
from nonvacuous.runtime.sources import load


@pytest.fixture
def weights(tmp_path):
    torch.manual_seed(0)
    model = load_model("mlp:64-8-10")
    save_weights(model, tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


QUICK = ("--train", "digits", "--examples", "120", "--steps", "8", "--probes", "2", "--top", "2")


def test_pages_numbers_and_text(run, weights, tmp_path):
    out = tmp_path / "bends"
    found = run("curvature", "--model", "mlp:64-8-10", "--weights", str(weights), "--out", str(out), *QUICK)
    assert found.exit_code == 0, found.output
    assert "largest eigenvalues" in found.output and "at most about" in found.output
    content = json.loads((out / "curvature.json").read_text())
    assert content["kind"] == "indicator" and content["examples"] == 120 and content["parameters"] == 610
    model = load_model("mlp:64-8-10")
    load_weights(model, weights)
    batch = next(iter(load("digits", "train").batches(120)))
    dense = hessian(model, torch.nn.functional.cross_entropy, [(batch[0], batch[1])]).dense().double()
    true = torch.linalg.eigvalsh((dense + dense.mT) / 2)
    assert content["top"][0]["lower"] <= float(true[-1]) * (1 + 1e-4) and content["top"][0]["converged"]
    assert content["top"][0]["upper"] >= float(true[-1]) * (1 - 1e-4)
    assert content["trace"]["lower"] <= float(true.sum()) <= content["trace"]["upper"]
    page = (out / "curvature.html").read_text()
    assert 'id="density-chart"' in page and "http-equiv" in page


def test_json_and_other_matrices(run, weights, tmp_path):
    for matrix in ("ggn", "fisher"):
        out = tmp_path / matrix
        common = ("--matrix", matrix, "--json", "-q", *QUICK)
        found = run("curvature", "--model", "mlp:64-8-10", "--weights", str(weights), "--out", str(out), *common)
        assert found.exit_code == 0, found.output
        content = json.loads(found.stdout)
        assert content["bottom"][0]["upper"] >= -1e-4 and not content["negative"]


def test_refusals(run, weights, tmp_path):
    base = ("curvature", "--model", "mlp:64-8-10", "--weights", str(weights), "--out", str(tmp_path / "x"), *QUICK)
    for options, says in (
        (("--tolerance", "2"), "strictly between"),
        (("--most-seconds", "0.000001"), "--most-seconds"),
        (("--loss", "squared_error"), "classes, not numbers"),
    ):
        found = run(*base, *options)
        assert found.exit_code == 2 and says in found.output
        assert not (tmp_path / "x").exists()
    assert run("curvature", "--model", "mlp:64-8-10", "--train", "digits", "--out", str(tmp_path / "y")).exit_code == 2


FACTORIES = """
import torch
from torch import nn

class Rounded(nn.Linear):
    def forward(self, x):
        return super().forward(x.flatten(1)).round().detach()

class InPlace(nn.Linear):
    def forward(self, x):
        return super().forward(x.mul_(0.5).flatten(1))

class Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient * 2

class Special(nn.Module):
    def forward(self, x):
        return Once.apply(x)

def rounded(): return Rounded(64, 10)
def in_place(): return InPlace(64, 10)
def once(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), Special())
def dropping(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Dropout())
def normed(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))
def huge():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.Linear(10, 10))
    with torch.no_grad():
        [part.weight.fill_(1e30) for part in net[1:]]
    return net
"""


@pytest.fixture
def factories(run, tmp_path, monkeypatch):
    """A module of models that are hard to differentiate, importable by name; ``run`` with their common words."""
    (tmp_path / "hard_models.py").write_text(FACTORIES)
    monkeypatch.syspath_prepend(tmp_path)
    words = ("--trust-model-code", "--train", "digits", "--examples", "120", "--steps", "4", "--probes", "1", "--top", "2")
    return lambda name, *more: run("curvature", "--model", f"hard_models:{name}", "--out", name, *words, *more)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("rounded", (), "differentiably"),
        ("in_place", (), "in place"),
        ("once", (), "2 (Special)"),
        ("dropping", ("--training-mode",), "dropout is at work in 2"),
        ("huge", (), "finite loss"),
    ],
)
def test_models_without_curvature_say_why(factories, tmp_path, name, options, says):
    found = factories(name, *options)
    assert found.exit_code in (1, 2) and says in " ".join(found.stderr.split()), found.stderr
    assert not (tmp_path / name).exists()


def test_batch_norm_in_both_modes_on_uneven_batches(factories, tmp_path):
    values = []
    for options in ((), ("--training-mode",)):
        found = factories("normed", "--batch-size", "50", "--json", "-q", "--force", *options)  # 50, 50, 20
        assert found.exit_code == 0, found.stderr
        values.append(json.loads(found.stdout)["loss"])
    assert values[0] != values[1]

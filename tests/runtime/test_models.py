"""Models by name, factories, and outputs."""

from __future__ import annotations

import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput, UntrustedCode
from nonvacuous.runtime.models import initialise, load_model, outputs, weights_digest


def size(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("spec", "shape", "classes", "parameters"),
    [
        ("mlp:784-600-600-10", (1, 28, 28), 10, 784 * 600 + 600 + 600 * 600 + 600 + 6010),
        ("mlp:4-1", (4,), 1, 5),
        ("convnet:28x28x1-10", (1, 28, 28), 10, 215_370),
        ("convnet:32x30x3-7", (3, 32, 30), 7, 16 * 75 + 16 + 12_832 + (32 * 8 * 7 + 1) * 128 + 129 * 7),
        ("linear:30-2", (30,), 2, 62),
    ],
)
def test_shorthand(spec: str, shape: tuple[int, ...], classes: int, parameters: int) -> None:
    model = load_model(spec)
    assert size(model) == parameters
    assert outputs(model, torch.zeros(3, *shape)).shape == (3, classes)
    hidden = [m for m in model if not isinstance(m, nn.Flatten)]  # type: ignore[union-attr]
    assert isinstance(hidden[-1], nn.Linear), "no activation after the last layer"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("mpl:3-2", "unknown model 'mpl:3-2'. Did you mean mlp:784-600-600-10"),
        ("convent:28x28x1-10", "Did you mean convnet:28x28x1-10"),
        ("mlp:784", "'mlp:784' is not of the form mlp:784-600-600-10"),
        ("mlp", "'mlp' is not of the form"),
        ("mlp:3-x", "is not of the form"),
        ("linear:3-4-5", r"is not of the form linear:30-2"),
        ("linear:3-1", "1 class; a classifier needs at least 2"),
        ("mlp:0-2", "every size must be at least 1"),
        ("convnet:2x28x1-10", "height and width at least 4"),
        ("convnet:28x28-10", "is not of the form convnet:28x28x1-10"),
        ("mlp:3-99999999999-2", "beyond 10,000,000"),
        ("weights.safetensors", ".safetensors holds weights, not a model"),
        ("w.pt", ".pt holds weights, not a model"),
        ("resnet", "Possible: mlp:784.*pkg.module:factory; file.pt2"),
        ("no_such_module_here.deep:f", "there is no module 'no_such_module_here'"),
        ("math:sqroot", "math has no 'sqroot'. Did you mean 'sqrt'"),
        ("math:pi", "is a float, which cannot be called"),
        ("math:sqrt", r"math:sqrt\(\) failed with TypeError"),
        ("collections:OrderedDict", "gave a OrderedDict, not a torch.nn.Module"),
    ],
)
def test_unknown_models(spec: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        load_model(spec)


def test_factories(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "my_model_factory.py").write_text(
        "from torch import nn\n"
        "def small():\n    return nn.Linear(2, 3)\n"
        "class Net(nn.Linear):\n    def __init__(self):\n        super().__init__(4, 5)\n"
        "ready = nn.Linear(6, 7)\n"
        "def leave():\n    raise SystemExit(3)\n"
    )
    (tmp_path / "my_broken_module.py").write_text("import no_such_dependency_xyz\n")
    (tmp_path / "my_failing_module.py").write_text("1 / 0\n")
    (tmp_path / "my_leaving_module.py").write_text("import sys\nsys.exit(2)\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    assert size(load_model("my_model_factory:small")) == 9
    assert size(load_model("my_model_factory:Net")) == 25
    assert size(load_model("my_model_factory:ready")) == 49
    for spec, message in {
        "my_model_factory:Nat": "Did you mean 'Net'",
        "my_model_factory:leave": "failed with SystemExit: 3",
        "my_broken_module:f": "my_broken_module imports 'no_such_dependency_xyz', which is not installed. Install it",
        "my_failing_module:f": "importing my_failing_module failed with ZeroDivisionError",
        "my_leaving_module:f": "importing my_leaving_module failed with SystemExit: 2",
    }.items():
        with pytest.raises(InvalidInput, match=message):
            load_model(spec)
    assert sys.path == before


def test_an_exported_program_needs_trust(tmp_path: Path) -> None:
    path = tmp_path / "m.pt2"
    model = nn.Linear(3, 2)
    torch.export.save(torch.export.export(model, (torch.ones(2, 3),)), path)
    with pytest.raises(
        UntrustedCode, match=r"was not opened. Name the model as pkg.module:factory with safetensors.*--trust-model-code"
    ):
        load_model(str(path))
    trusted = load_model(str(path), trust_model_code=True)
    assert torch.equal(trusted(torch.ones(2, 3)), model(torch.ones(2, 3)))
    with pytest.raises(InvalidInput, match="does not exist"):
        load_model(str(tmp_path / "n.pt2"), trust_model_code=True)
    path.write_bytes(b"scribble")
    with pytest.raises(InvalidInput, match="not a readable exported program"):
        load_model(str(path), trust_model_code=True)


def test_initialise_depends_on_the_seed_alone() -> None:
    before = torch.random.get_rng_state()
    first, second, other = (initialise(lambda: load_model("mlp:5-4-3"), seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.random.get_rng_state())
    assert weights_digest(first) == weights_digest(second) != weights_digest(other)
    torch.rand(3)
    assert weights_digest(initialise(lambda: load_model("mlp:5-4-3"), 1)) == weights_digest(first)


class Giving(nn.Module):
    """Gives ``make(x)``."""

    def __init__(self, make: Any) -> None:
        super().__init__()
        self.make = make

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Any:
        return self.make(x if scale is None else x * scale)


def test_outputs_of_every_shape() -> None:
    x = torch.ones(2, 3)
    answer = namedtuple("answer", ["logits"])
    for make in (lambda x: x, lambda x: {"logits": x, "loss": 0}, answer, lambda x: (x,)):
        assert torch.equal(outputs(Giving(make), x), x)
    assert torch.equal(outputs(Giving(lambda x: x), {"x": x, "scale": x * 2}), 2 * x)
    with pytest.raises(InvalidInput, match="gave a list; expected a tensor of outputs"):
        outputs(Giving(lambda x: [x]), x)
    with pytest.raises(
        InvalidInput, match=r"failed on a batch of shape \(2, 3\) torch.float32 with RuntimeError: mat1 and mat2"
    ):
        outputs(nn.Linear(4, 2), x)
    with pytest.raises(InvalidInput, match=r"failed on a batch of shape \{'y': \(2, 3\)\} with TypeError"):
        outputs(Giving(lambda x: x), {"y": x})

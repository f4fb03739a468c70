"""Models by name, and the answers they give.

``mlp:784-600-600-10``, ``convnet:28x28x1-10``, ``linear:30-2``, ``pkg.module:factory``, and, only where the user trusts it, an
exported program ``file.pt2``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput, UntrustedCode
from nonvacuous.runtime.factories import called, imported, is_factory_spec
from nonvacuous.runtime.values import Inputs
from nonvacuous.runtime.weights import load_weights, save_weights, weights_digest

__all__ = ["convnet", "initialise", "linear", "load_model", "load_weights", "mlp", "outputs", "save_weights", "weights_digest"]

FORMS = {
    "mlp": "mlp:784-600-600-10 (widths from input to classes)",
    "convnet": "convnet:28x28x1-10 (height x width x channels - classes)",
    "linear": "linear:30-2 (inputs - classes)",
}
SHORTHANDS = tuple(f"{word}:" for word in FORMS)
"""How the specification of a built-in network starts."""

HIDDEN = 128


def mlp(*widths: int) -> nn.Sequential:
    """Fully connected: flattens its input, a ReLU after every layer but the last. ``widths``: input, hidden …, output."""
    layers: list[nn.Module] = [nn.Flatten()]
    for i, (fan_in, fan_out) in enumerate(pairwise(widths)):
        layers += [nn.ReLU()] * (i > 0) + [nn.Linear(fan_in, fan_out)]
    return nn.Sequential(*layers)


def linear(inputs: int, classes: int) -> nn.Sequential:
    """A linear classifier with a bias; flattens its input."""
    return mlp(inputs, classes)


def convnet(height: int, width: int, channels: int, classes: int, *, scale: float = 1.0) -> nn.Sequential:
    """The benchmark's network, for input ``[b, channels, height, width]``.

    Two 5 x 5 convolutions (16 and 32 channels, padded), each with ReLU and 2 x 2 max-pooling, then a hidden layer of 128 and
    the classes: 215,370 parameters for 28 x 28 x 1 and 10 classes. ``scale`` multiplies the three hidden widths.
    """
    first, second, hidden = (scaled(size, scale) for size in (16, 32, HIDDEN))
    return nn.Sequential(
        nn.Conv2d(channels, first, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(second * (height // 4) * (width // 4), hidden),
        nn.ReLU(),
        nn.Linear(hidden, classes),
    )


def scaled(size: int, scale: float) -> int:
    """A hidden width multiplied, at least 1."""
    return max(1, round(size * scale))


def load_model(spec: str, trust_model_code: bool = False) -> nn.Module:
    """The model that ``spec`` names (module docstring), with the weights its constructor draws from torch's global generator.

    Wrap it in `initialise` for weights fixed by a seed. A factory may lie in the current directory; it runs the user's own
    code.

    :raises InvalidInput: unknown form, bad sizes, a factory that cannot be imported, called, or gives no ``nn.Module``.
    :raises UntrustedCode: a ``.pt2`` file without ``trust_model_code``, since loading one can run code.
    """
    kind = spec.partition(":")[0]
    if kind in FORMS:
        return _shorthand(kind, sizes_of(spec))
    if spec.endswith(".pt2"):
        return _exported(Path(spec), trust_model_code)
    if is_factory_spec(spec):
        return _from_factory(spec)
    close = [FORMS[name] for name in difflib.get_close_matches(kind.lower(), FORMS, 1)]
    hint = f"Did you mean {close[0]}?" if close else f"Possible: {'; '.join(FORMS.values())}; pkg.module:factory; file.pt2"
    if Path(spec).suffix in {".pt", ".pth", ".safetensors", ".ckpt"}:
        hint = f"{Path(spec).suffix} holds weights, not a model: name the model's factory, and pass this file as the weights"
    raise InvalidInput(f"unknown model {spec!r}. {hint}")


def sizes_of(spec: str) -> list[int]:
    """The numbers of a built-in network's specification.

    :raises InvalidInput: not of its form, or a size out of range.
    """
    kind, _, sizes = spec.partition(":")
    pattern = r"(\d+)x(\d+)x(\d+)-(\d+)" if kind == "convnet" else r"\d+-\d+" if kind == "linear" else r"\d+(-\d+)+"
    if not re.fullmatch(pattern, sizes):
        raise InvalidInput(f"model {spec!r} is not of the form {FORMS[kind]}")
    numbers = [int(number) for number in re.split("[x-]", sizes)]
    if min(numbers) < 1 or (kind == "convnet" and min(numbers[:2]) < 4):
        raise InvalidInput(f"model {spec!r}: every size must be at least 1, and a convnet's height and width at least 4")
    if numbers[-1] < 2 and kind != "mlp":
        raise InvalidInput(f"model {spec!r}: {numbers[-1]} class; a classifier needs at least 2 outputs")
    if max(numbers) > 10**7:
        raise InvalidInput(f"model {spec!r}: a size of {max(numbers)} is beyond 10,000,000; is it a typing slip?")
    return numbers


def _shorthand(kind: str, numbers: list[int]) -> nn.Module:
    return {"mlp": mlp, "linear": linear, "convnet": convnet}[kind](*numbers)  # type: ignore[operator]


def _from_factory(spec: str) -> nn.Module:
    factory = imported(spec)
    model = factory if isinstance(factory, nn.Module) else called(factory, spec)
    if not isinstance(model, nn.Module):
        raise InvalidInput(f"{spec} gave a {type(model).__name__}, not a torch.nn.Module. Return the model itself")
    return model


def _exported(path: Path, trusted: bool) -> nn.Module:
    if not trusted:
        raise UntrustedCode(
            f"{path} is an exported program; loading one can run code that lies in the file, so it was not opened. Name the"
            " model as pkg.module:factory with safetensors weights instead, or pass --trust-model-code"
            " (trust_model_code=True) if you made the file yourself"
        )
    if not path.is_file():
        raise InvalidInput(f"model file {path} does not exist. Check the path")
    try:
        return torch.export.load(path).module()
    except Exception as error:
        raise InvalidInput(
            f"{path} is not a readable exported program ({type(error).__name__}: {error}). Export it again"
        ) from error


def initialise(factory: Callable[[], nn.Module], seed: int) -> nn.Module:
    """``factory()`` run with torch's CPU generator seeded by ``seed``; the global generator is left as it was.

    This is the rule behind every "initial weights of seed s": the model is built on the CPU, layer by layer, in the order its
    constructor draws them.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return factory()


def outputs(model: nn.Module, inputs: Inputs) -> Tensor:
    """The model's raw outputs ``[b, k]`` on a batch: a dict goes in as keyword arguments, ``.logits`` is read where present.

    :raises InvalidInput: the model cannot take the inputs, or gives no tensor.
    """
    try:
        result: Any = model(**inputs) if isinstance(inputs, dict) else model(inputs)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        shapes = (
            {k: tuple(v.shape) for k, v in inputs.items()}
            if isinstance(inputs, dict)
            else f"{tuple(inputs.shape)} {inputs.dtype}"
        )
        reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
        raise InvalidInput(
            f"the model failed on a batch of shape {shapes} with {type(error).__name__}: {reason}. Check that the model's"
            " input is what the data give (first number: examples)"
        ) from error
    if isinstance(result, Mapping) and "logits" in result:
        result = result["logits"]
    elif hasattr(result, "logits"):
        result = result.logits
    elif isinstance(result, tuple) and len(result) == 1:
        result = result[0]
    if not isinstance(result, Tensor):
        raise InvalidInput(
            f"the model gave a {type(result).__name__}; expected a tensor of outputs [b, k] (or an object with .logits). Wrap"
            " the model so that forward returns it"
        )
    return result

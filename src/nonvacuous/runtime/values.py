"""What a batch may hold: numbers turned into tensors of one fixed precision, and checked.

Rules, applied to every batch so that the same content always looks (and hashes) the same:

* a plain input array: ``uint8`` is read as an image and becomes ``float32 / 255``; ``bool`` and every floating type become
  ``float32``; wider integers stay integers (token identifiers);
* a mapping of arrays holds a model's own keyword arguments and is left as it is, except ``float64`` → ``float32``;
* class labels become ``int64``; regression targets ``float32``; a column ``[b, 1]`` counts as ``[b]``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput

Inputs: TypeAlias = Tensor | dict[str, Tensor]

TARGET_KEYS = ("labels", "label", "target", "targets", "y")
INPUT_KEYS = ("x", "input", "inputs", "image", "img", "features")


class Batch(NamedTuple):
    """``inputs``: a tensor ``[b, …]`` or the model's keyword arguments; ``targets`` [b]: int64 classes or float32 values."""

    inputs: Inputs
    targets: Tensor

    def to(self, device: str | torch.device) -> Batch:
        """The same batch on another device."""
        if isinstance(self.inputs, dict):
            return Batch({k: v.to(device) for k, v in self.inputs.items()}, self.targets.to(device))
        return Batch(self.inputs.to(device), self.targets.to(device))


def numeric_tensor(value: Any, what: str) -> Tensor:
    """``value`` (tensor, array, data frame, picture, number, list of these) as a CPU tensor; arrays share their memory.

    :raises InvalidInput: text, objects, complex numbers, ragged lists.
    """
    if isinstance(value, Tensor):
        if value.is_complex():
            raise InvalidInput(
                f"{what} holds complex numbers, which no model here takes; pass real and imaginary parts as features"
            )
        return value.detach().cpu()
    if hasattr(value, "getbands"):  # a PIL picture: [h, w] or [h, w, c] → [c, h, w]
        pixels = torch.from_numpy(np.array(value))
        return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1)
    if isinstance(value, list | tuple) and value and (isinstance(value[0], Tensor) or hasattr(value[0], "getbands")):
        return _stacked([numeric_tensor(v, what) for v in value], what)
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InvalidInput(f"{what} is ragged: its examples differ in shape. Pad or crop them to one shape") from error
    return _array_tensor(array, what)


def _array_tensor(array: np.ndarray, what: str) -> Tensor:
    if array.dtype.kind in "OUSMmVc":
        kinds = {
            "O": "Python objects",
            "U": "text",
            "S": "text",
            "M": "dates",
            "m": "durations",
            "V": "records",
            "c": "complex numbers",
        }
        raise InvalidInput(
            f"{what} holds {kinds[array.dtype.kind]} (dtype {array.dtype}), not numbers. Convert it first: features with "
            ".astype('float32'), text labels with numpy.unique(labels, return_inverse=True)[1]"
        )
    if array.dtype == np.longdouble and array.dtype.itemsize > 8:
        array = array.astype(np.float64)
    if array.dtype.kind == "u" and array.dtype.itemsize > 1:
        if array.size and array.dtype.itemsize == 8 and array.max() > np.iinfo(np.int64).max:
            raise InvalidInput(f"{what} holds integers beyond int64. Rescale them")
        array = array.astype(np.int64)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if any(stride < 0 for stride in array.strides):
        array = array.copy()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a read-only array is only ever read
        return torch.from_numpy(array) if array.ndim else torch.tensor(array.item())


def _stacked(values: list[Tensor], what: str) -> Tensor:
    shapes = [tuple(v.shape) for v in values]
    for i, shape in enumerate(shapes):
        if shape != shapes[0]:
            raise InvalidInput(
                f"{what} differ in shape: {shapes[0]} and, {i} later, {shape}. Resize or pad them to one shape, or pass a "
                "DataLoader whose collate_fn pads"
            )
    return torch.stack(values)


def split_pair(pair: Any, what: str) -> tuple[Any, Any]:
    """(inputs, targets) of an example or a batch that is a pair or a mapping with a label.

    A mapping's label is under one of ``TARGET_KEYS``; a single other entry under one of ``INPUT_KEYS`` is a plain input,
    anything else is the model's keyword arguments.
    """
    if isinstance(pair, Mapping):
        label = next((k for k in TARGET_KEYS if k in pair), None)
        if label is None:
            raise InvalidInput(
                f"{what} is a mapping with keys {sorted(map(str, pair))} and no label. Name the label one of"
                f" {', '.join(TARGET_KEYS)}"
            )
        rest = {str(k): v for k, v in pair.items() if k != label}
        if not rest:
            raise InvalidInput(
                f"{what} holds a label ({label!r}) and no inputs. Add the inputs under 'x' or the model's argument names"
            )
        if len(rest) == 1 and next(iter(rest)) in INPUT_KEYS:
            return next(iter(rest.values())), pair[label]
        return rest, pair[label]
    if isinstance(pair, tuple | list) and len(pair) == 2:
        return pair[0], pair[1]
    size = f" of {len(pair)} parts" if isinstance(pair, tuple | list) else ""
    raise InvalidInput(
        f"{what} is a {type(pair).__name__}{size}; expected (inputs, label), or a mapping such as "
        "{'x': …, 'label': …}. Wrap the dataset so that it gives one of these"
    )


def collated(items: list[Any], name: str) -> tuple[Any, Tensor]:
    """Examples → (inputs, targets) stacked along a new first axis; types are still the data's own."""
    pairs = [split_pair(item, f"an example of {name}") for item in items]
    targets = numeric_tensor([_scalar(t) for _, t in pairs], f"the labels of {name}")
    first = pairs[0][0]
    if isinstance(first, Mapping):
        return {
            k: _stacked([numeric_tensor(x[k], f"{k!r} of {name}") for x, _ in pairs], f"{k!r} of {name}") for k in first
        }, targets
    return _stacked([numeric_tensor(x, f"the inputs of {name}") for x, _ in pairs], f"the inputs of {name}"), targets


def _scalar(label: Any) -> Any:
    """A label held as a one-element tensor or array, as a plain number."""
    size = label.numel() if isinstance(label, Tensor) else label.size if isinstance(label, np.ndarray) else 0
    return label.item() if size == 1 else label


def as_inputs(value: Any, what: str) -> Inputs:
    """Raw inputs → tensor or dict of tensors, types untouched."""
    if isinstance(value, Mapping):
        return {str(k): numeric_tensor(v, f"{k!r} of {what}") for k, v in value.items()}
    return numeric_tensor(value, what)


def model_ready(inputs: Inputs) -> Inputs:
    """The types a model sees (see the rules above)."""
    if isinstance(inputs, dict):
        return {k: v.float() if v.dtype == torch.float64 else v for k, v in inputs.items()}
    if inputs.dtype == torch.uint8:
        return inputs.float().div_(255)
    if inputs.dtype == torch.bool or inputs.is_floating_point():
        return inputs.float()
    return inputs


def check_finite(inputs: Inputs, where: Any, name: str) -> None:
    """:raises InvalidInput: NaN or Inf in ``inputs``, naming the example (``where[i]`` is the number of row i)."""
    for key, x in inputs.items() if isinstance(inputs, dict) else [("", inputs)]:
        if not x.is_floating_point() or math.isfinite(x.sum().item()):
            continue  # a finite sum has only finite terms
        bad = ~torch.isfinite(x.reshape(len(x), -1)).all(1)
        if bad.any():
            i = int(bad.nonzero()[0])
            kind = "NaN" if x[i].isnan().any() else "Inf"
            entry = f"{key!r} of " if key else ""
            raise InvalidInput(
                f"{entry}{name}: example {int(where[i])} holds {kind} ({int(bad.sum())} such examples in its batch). A"
                " network's answer to it means nothing: remove those examples or fill the missing values"
            )


def class_labels(targets: Tensor, classes: int | None, where: Any, name: str) -> Tensor:
    """``targets`` as int64 classes ``[b]`` in ``0 … classes − 1``.

    :raises InvalidInput: floats, one-hot rows, negative or too large labels, naming the example.
    """
    y = targets.squeeze(1) if targets.ndim == 2 and targets.shape[1] == 1 else targets
    if y.ndim != 1:
        raise InvalidInput(
            f"{name}: labels have shape {tuple(targets.shape)}; expected one class number an example. Turn one-hot rows into"
            " numbers with .argmax(1)"
        )
    if y.is_floating_point():
        whole = torch.isfinite(y) & (y == y.round())
        if bool(whole.all()):
            raise InvalidInput(
                f"{name}: float labels ({y.dtype}; example {int(where[0])} has {y[0].item():g}). Class labels must be"
                " integers: convert them with .astype(int) (or .long()); for regression pass regression=True"
            )
        i = int((~whole).nonzero()[0])
        raise InvalidInput(
            f"{name}: float labels that are not whole numbers (example {int(where[i])} has {y[i].item():g}). For"
            " classification number the classes 0, 1, 2, …; for regression pass regression=True"
        )
    y = y.long()
    if len(y) and (int(y.min()) < 0 or (classes is not None and int(y.max()) >= classes)):
        wrong = (y < 0) if classes is None else (y < 0) | (y >= classes)
        i = int(wrong.nonzero()[0])
        allowed = "at least 0" if classes is None else f"0 … {classes - 1} ({classes} classes)"
        raise InvalidInput(
            f"{name}: label out of range: example {int(where[i])} has {int(y[i])}, allowed is {allowed}. Number the classes"
            " from 0 (numpy.unique(labels, return_inverse=True)[1] does it), or drop unlabelled examples"
        )
    return y


def real_targets(targets: Tensor, where: Any, name: str) -> Tensor:
    """``targets`` as finite float32 values ``[b]``."""
    y = targets.squeeze(1) if targets.ndim == 2 and targets.shape[1] == 1 else targets
    if y.ndim != 1:
        raise InvalidInput(
            f"{name}: targets have shape {tuple(targets.shape)}; expected one number an example. Pick one column"
        )
    y = y.float()
    bad = ~torch.isfinite(y)
    if bool(bad.any()):
        i = int(bad.nonzero()[0])
        raise InvalidInput(
            f"{name}: the target of example {int(where[i])} is {y[i].item()}. Remove that example or fill the value"
        )
    return y

"""Weights on disk: safetensors, or a pickled state dict that provably holds tensors only; nothing in a file ever runs."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput, UntrustedCode
from nonvacuous.runtime.factories import replacement

_PICKLED = {".pt", ".pth", ".ckpt", ".bin"}
_WRAPPERS = ("module.", "_orig_mod.")  # what DataParallel and torch.compile put before every name


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Read ``path`` (.safetensors, or .pt/.pth/.ckpt/.bin as tensors only) into ``model``, all names and shapes agreeing.

    A ``{"state_dict": …}`` nesting is opened; tensors that the model ties may be stored once. The model changes only if all
    is well.

    :raises InvalidInput: missing file, damaged file, names or shapes that do not fit, NaN or Inf.
    :raises UntrustedCode: a pickle with anything but tensors in it.
    """
    path = Path(path)
    state = _bare_names(_state(path), model)
    _check_fit(model, state, path)
    bad = [name for name, tensor in state.items() if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all())]
    if bad:
        raise InvalidInput(
            f"{path}: NaN or Inf in {_some(bad)}. Training diverged before they were saved: use an earlier checkpoint"
        )
    model.load_state_dict(state, strict=False)


def _state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise InvalidInput(f"weights file {path} does not exist. Check the path")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError, KeyError) as error:
            raise InvalidInput(f"{path} is not a readable safetensors file ({error}). Save the weights again") from error
    if path.suffix not in _PICKLED:
        raise InvalidInput(
            f"{path}: weights are read from .safetensors, or from {', '.join(sorted(_PICKLED))}. Save them as safetensors"
        )
    return _tensors(_unpickled(path), path)


def _unpickled(path: Path) -> Any:
    remedy = (
        "Where you trust its origin, load it there and save only the tensors:"
        " safetensors.torch.save_file(model.state_dict(), …)"
    )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        text = str(error)
        if "GLOBAL" in text or "TorchScript" in text or "Unsupported class" in text:
            raise UntrustedCode(
                f"{path} holds more than tensors and could run code when loaded; it was refused, nothing ran. {remedy}"
            ) from error
        raise InvalidInput(
            f"{path} is damaged or not a torch file ({type(error).__name__}). Save the weights again, best as safetensors"
        ) from error


def _tensors(loaded: Any, path: Path) -> dict[str, Tensor]:
    for key in ("state_dict", "model_state_dict"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
    if not isinstance(loaded, Mapping) or not all(isinstance(v, Tensor) for v in loaded.values()):
        odd = [str(k) for k, v in loaded.items() if not isinstance(v, Tensor)] if isinstance(loaded, Mapping) else []
        what = f"entries that are not tensors: {_some(odd)}" if odd else f"a {type(loaded).__name__}"
        raise InvalidInput(f"{path} holds {what}; expected a state dict (name → tensor). Save model.state_dict()")
    return {str(k): v for k, v in loaded.items()}


def _bare_names(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    own = model.state_dict().keys()
    for prefix in _WRAPPERS:
        if state and all(name.startswith(prefix) for name in state) and not any(name.startswith(prefix) for name in own):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return state


def _check_fit(model: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    own = model.state_dict()
    shared = {name: group for group in _tied(own) for name in group}
    missing = [name for name in own if not state.keys() & shared[name] and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name} {tuple(state[name].shape)} in the file, {tuple(own[name].shape)} in the model"
        for name in own
        if name in state and state[name].shape != own[name].shape
    ]
    trouble = [f"missing {_some(missing)}"] * bool(missing) + [f"unexpected {_some(unexpected)}"] * bool(unexpected)
    trouble += [f"other shapes: {_some(shapes)}"] * bool(shapes)
    if trouble:
        raise InvalidInput(
            f"{path} does not fit the model: {'; '.join(trouble)}. Name the model that these weights were saved from"
        )


def _tied(state: Mapping[str, Tensor]) -> list[frozenset[str]]:
    """Names grouped by the memory they share; empty tensors share with nobody."""
    groups: dict[object, list[str]] = {}
    for name, x in state.items():
        place = (x.device, x.untyped_storage().data_ptr(), x.storage_offset(), x.shape, x.stride()) if x.numel() else name
        groups.setdefault(place, []).append(name)
    return [frozenset(group) for group in groups.values()]


def _some(names: Iterable[str], most: int = 4) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Write the model's state dict to ``path`` as safetensors, whole or not at all; tied tensors are stored once.

    :raises InvalidInput: the place cannot be written to.
    """
    path = Path(path)
    state = model.state_dict()
    kept = {min(group) for group in _tied(state)}
    tensors = {name: x.detach().cpu().contiguous().clone() for name, x in state.items() if name in kept}
    with replacement(path) as temporary:
        save_file(tensors, temporary, metadata={"format": "pt"})


def weights_digest(model: nn.Module) -> str:
    """SHA-256 (hex) over name, type, shape and bytes of every parameter and buffer, in the order of their names."""
    total = hashlib.sha256()
    named = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))
    for name, x in sorted(named.items()):
        total.update(f"{name} {x.dtype} {tuple(x.shape)}\n".encode())
        total.update(x.detach().cpu().clone(memory_format=torch.contiguous_format).reshape(-1).view(torch.uint8).numpy().data)
    return total.hexdigest()

"""Anything that predicts, behind one call: an ``nn.Module``, a scikit-learn style estimator, or a plain function."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.runtime.values import Inputs


@dataclass(frozen=True)
class Predictor:
    """``predictor(inputs) → outputs`` (scores ``[b, k]``, labels ``[b]`` or values ``[b]``) on ``device``, without gradients."""

    model: Any
    device: torch.device

    @property
    def module(self) -> nn.Module | None:
        """The network itself, None for other predictors."""
        return self.model if isinstance(self.model, nn.Module) else None

    def __call__(self, inputs: Inputs) -> Tensor:
        with torch.no_grad():
            outputs = self._outputs(inputs)
        if outputs.is_floating_point() and not bool(torch.isfinite(outputs).all()):
            raise InvalidInput(
                "the model's outputs are NaN or infinite on some examples: nothing can be measured. Check its weights and the scale of "
                "its inputs"
            )
        return outputs

    def _outputs(self, inputs: Inputs) -> Tensor:
        module = self.module
        if module is not None:
            inputs = _moved(inputs, self.device, _floating_type(module))
            try:
                return _tensor(module(**inputs) if isinstance(inputs, dict) else module(inputs))
            except (RuntimeError, TypeError, ValueError, IndexError) as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                raise InvalidInput(f"the model could not be applied to inputs {_shapes(inputs)}: {error}") from error
        if hasattr(self.model, "predict"):
            if isinstance(inputs, dict):
                raise InvalidInput("an estimator with .predict takes one array, not named inputs")
            rows = inputs.reshape(len(inputs), -1).cpu().numpy()
            return _tensor(self.model.predict(rows))
        return _tensor(self.model(inputs))


def as_predictor(model: Any, device: str | torch.device = "cpu") -> Predictor:
    """Wrap a model; raises :class:`InvalidInput` for something that does not predict."""
    if isinstance(model, Predictor):
        return model
    if not (isinstance(model, nn.Module) or callable(model) or hasattr(model, "predict")):
        raise InvalidInput(
            f"{type(model).__name__} is no model: pass an nn.Module, an estimator with .predict, or a function of a batch"
        )
    if isinstance(model, nn.Module):
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if (tensor.is_floating_point() or tensor.is_complex()) and not bool(torch.isfinite(tensor).all()):
                raise InvalidInput(
                    f"the weights hold NaN or infinite numbers ({name}): nothing can be promised about such a network"
                )
    return Predictor(model, torch.device(device))


@contextmanager
def evaluating(predictor: Predictor) -> Iterator[None]:
    """Evaluation mode and the predictor's device inside; every module's own mode, and its device, restored after."""
    module = predictor.module
    if module is None:
        yield
        return
    modes = {m: m.training for m in module.modules()}
    first = next(iter([*module.parameters(), *module.buffers()]), None)
    home = first.device if first is not None else predictor.device
    module.eval()
    try:
        if home != predictor.device:
            module.to(predictor.device)
        yield
    finally:
        for m, mode in modes.items():
            m.training = mode
        if home != predictor.device:
            module.to(home)


def _floating_type(module: nn.Module) -> torch.dtype | None:
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), None)


def _moved(inputs: Inputs, device: torch.device, dtype: torch.dtype | None) -> Inputs:
    def one(x: Tensor) -> Tensor:
        return x.to(device, dtype) if dtype is not None and x.is_floating_point() else x.to(device)

    return {k: one(v) for k, v in inputs.items()} if isinstance(inputs, dict) else one(inputs)


def _tensor(outputs: Any) -> Tensor:
    if hasattr(outputs, "logits"):  # Hugging Face's output records
        outputs = outputs.logits
    elif isinstance(outputs, dict) and "logits" in outputs:
        outputs = outputs["logits"]
    elif isinstance(outputs, tuple | list) and outputs and isinstance(outputs[0], Tensor):
        outputs = outputs[0]
    if not isinstance(outputs, Tensor):
        try:
            outputs = torch.as_tensor(np.asarray(outputs))
        except (TypeError, ValueError) as error:
            raise InvalidInput(f"the model returns a {type(outputs).__name__}, not scores or labels") from error
    return outputs


def _shapes(inputs: Inputs) -> str:
    return str({k: tuple(v.shape) for k, v in inputs.items()} if isinstance(inputs, dict) else tuple(inputs.shape))

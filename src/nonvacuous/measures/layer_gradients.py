"""One pass over a batch: what every layer received, and what comes back to its output from each direction of the outputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge, saved_tensors_hooks

from nonvacuous.core.errors import InvalidInput
from nonvacuous.measures.layer_rules import Use
from nonvacuous.runtime.models import outputs
from nonvacuous.runtime.values import Inputs

Buffers = dict[tuple[nn.Module, int], Tensor]
"""Cotangents of a layer's calls, by their numbers."""


class Irregular(Exception):
    """A layer was called in a way its rule does not know; ``module`` says which."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(type(module).__name__)
        self.module = module


@dataclass
class _Call:
    inputs: Tensor
    edge: GradientEdge
    shape: torch.Size
    dtype: torch.dtype


@dataclass
class Pass:
    """values ``[n, k]`` with their graph, and the calls of every layer, in order. ``held``: bytes that the graph keeps."""

    values: Tensor
    calls: dict[nn.Module, list[_Call]] = field(default_factory=dict)
    held: int = 0

    def uses(self, directions: Tensor, again: Buffers | None = None) -> dict[nn.Module, list[Use]]:
        """Inputs and cotangents of every layer's calls for the directions ``[m, k]`` of the outputs; the graph is freed.

        again: memory for the cotangents, used anew by the next pass: fresh pages cost more than what is written to them.
        """
        return self._back([u.expand(len(self.values), -1) for u in directions.to(self.values.dtype)], again)

    def uses_of(self, cotangents: Tensor, parameters: list[nn.Parameter]) -> tuple[dict[nn.Module, list[Use]], list[Tensor]]:
        """The same for one cotangent ``[n, k]`` (m = 1), and its gradient by the parameters; the graph is kept."""
        edges: list[Any] = [call.edge for calls in self.calls.values() for call in calls]
        if not self.values.requires_grad or not edges + parameters:
            return self._empty(1, True), [torch.zeros_like(p) for p in parameters]
        slopes = torch.autograd.grad(self.values, [*edges, *parameters], cotangents, retain_graph=True, allow_unused=True)
        parts = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, slopes[len(edges) :], strict=True)]
        found = iter(slopes[: len(edges)])
        uses: dict[nn.Module, list[Use]] = {}
        for module, calls in self.calls.items():
            uses[module] = []
            for call in calls:
                slope = next(found)
                whole = torch.zeros(call.shape, dtype=call.dtype, device=self.values.device) if slope is None else slope
                uses[module].append(Use(call.inputs, whole[:, None]))
        return uses, [p.to_dense() if p.is_sparse else p for p in parts]

    def _empty(self, m: int, zero: bool, again: Buffers | None = None) -> dict[nn.Module, list[Use]]:
        def new(module: nn.Module, number: int, call: _Call) -> Tensor:
            shape = (call.shape[0], m, *call.shape[1:])
            kept = None if again is None else again.get((module, number))
            if kept is None or kept.shape[1:] != shape[1:] or kept.dtype != call.dtype or len(kept) < len(self.values):
                kept = self.values.new_empty(shape, dtype=call.dtype)
                if again is not None:
                    again[module, number] = kept
            return kept[: shape[0]].zero_() if zero else kept[: shape[0]]

        return {
            module: [Use(call.inputs, new(module, number, call)) for number, call in enumerate(calls)]
            for module, calls in self.calls.items()
        }

    def _back(self, cotangents: list[Tensor], again: Buffers | None) -> dict[nn.Module, list[Use]]:
        edges: list[Any] = [call.edge for calls in self.calls.values() for call in calls]
        uses = self._empty(len(cotangents), not self.values.requires_grad, again)
        places = [use.cotangents for each in uses.values() for use in each]
        if not edges or not self.values.requires_grad:
            return uses
        for a, cotangent in enumerate(cotangents):
            last = a + 1 == len(cotangents)
            slopes = torch.autograd.grad(self.values, edges, cotangent, retain_graph=not last, allow_unused=True)
            for place, slope in zip(places, slopes, strict=True):
                place[:, a] = 0 if slope is None else slope
        return uses


def forward(model: nn.Module, layers: list[nn.Module], inputs: Inputs, count: bool = False) -> Pass:
    """Run the model on a batch and record the layers' calls. count: measure ``held`` too.

    :raises Irregular: a layer was called with anything but one tensor whose first axis counts the examples.
    :raises InvalidInput: the outputs' first axis does not count the examples, or they are not finite.
    """
    n = size_of(inputs)
    calls: dict[nn.Module, list[_Call]] = {}

    def record(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        if kwargs or len(args) != 1 or not isinstance(args[0], Tensor) or not isinstance(result, Tensor):
            raise Irregular(module)
        axes = getattr(module, "kernel_size", None)
        if args[0].shape[:1] != (n,) or result.shape[:1] != (n,) or (axes and args[0].dim() != len(axes) + 2):
            raise Irregular(module)
        if result.requires_grad:
            edge = get_gradient_edge(result)
            calls.setdefault(module, []).append(_Call(args[0].detach(), edge, result.shape, result.dtype))

    hooks = [layer.register_forward_hook(record, with_kwargs=True) for layer in layers]
    try:
        with torch.enable_grad(), _counted(model, inputs) if count else nullcontext([0]) as held:
            values = outputs(model, inputs)
            shape = tuple(values.shape)
            values = values.reshape(n, -1) if shape[:1] == (n,) else values
    finally:
        for hook in hooks:
            hook.remove()
    if shape[:1] != (n,):
        raise InvalidInput(
            f"{n} examples gave outputs of shape {shape}; the tangent kernel needs a model whose first axis counts examples"
        )
    if not bool(torch.isfinite(values.detach()).all()):
        raise InvalidInput(
            "the model's outputs are not finite (NaN or infinite) on the given inputs: a kernel of them means nothing"
        )
    return Pass(values, calls, held[0])


def size_of(inputs: Inputs) -> int:
    """Examples in a batch."""
    return len(next(iter(inputs.values())) if isinstance(inputs, dict) else inputs)


@contextmanager
def _counted(model: nn.Module, inputs: Inputs) -> Iterator[list[int]]:
    """Counts the bytes of the storages that autograd keeps, without the parameters' and the inputs'."""
    given = [*model.parameters(), *model.buffers(), *(inputs.values() if isinstance(inputs, dict) else [inputs])]
    seen = {tensor.untyped_storage().data_ptr() for tensor in given}
    held = [0]

    def kept(tensor: Tensor) -> Tensor:
        if tensor.layout is torch.strided:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in seen:
                seen.add(storage.data_ptr())
                held[0] += storage.nbytes()
        return tensor.detach()

    with saved_tensors_hooks(kept, lambda tensor: tensor):
        yield held

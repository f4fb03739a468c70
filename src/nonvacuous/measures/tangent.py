"""The empirical tangent kernel ∂f(x)·∂f(x')ᵀ of any network, in blocks that keep within a budget of memory.

Layer by layer from what each layer received and what comes back to its output, without the n × parameters Jacobian where a factored
form is smaller; the model as a whole for parameters that no rule speaks for. Every rule is compared with autograd on two examples
before it is used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.measures.gradient_factors import Factor, Rows, Scaled, add_gram
from nonvacuous.measures.layer_check import Split, check_mode, probe
from nonvacuous.measures.layer_gradients import Buffers, Irregular, forward, size_of
from nonvacuous.measures.layer_rules import Task, factors
from nonvacuous.measures.parameter_jacobian import parameter_jacobian
from nonvacuous.measures.tangent_outputs import EveryOutput, Outputs
from nonvacuous.measures.tangent_plan import Footprint, Plan, plan, said
from nonvacuous.runtime.tasks import Progress
from nonvacuous.runtime.values import Inputs

EVERY = EveryOutput()
BUDGET = 2**30


@dataclass(frozen=True)
class _Unit:
    """A slice of the examples of one side, and one of the directions."""

    examples: slice
    directions: slice


def tangent_kernel(
    model: nn.Module,
    x1: Inputs,
    x2: Inputs | None = None,
    *,
    memory: int = BUDGET,
    outputs: Outputs = EVERY,
    dtype: torch.dtype | None = None,
    out: Tensor | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """See :func:`nonvacuous.kernels.empirical.empirical_ntk`."""
    _check_inputs(x1, x2, memory)
    check_mode(model)
    split = Split.of(model)
    device = next(iter(split.parameters.values())).device
    with _restored(model):
        first = _moved(_slice(x1, slice(0, 2)), device)
        if size_of(x1) == 1 and x2 is not None:
            first = _joined(first, _moved(_slice(x2, slice(0, 1)), device))
        kind = split.dtype if dtype is None else dtype
        seen = probe(split, first, Task(1, False, size_of(x1), memory, kind), memory)
        k = seen.values.shape[1]
        m, n1, n2 = outputs.count(k), size_of(x1), size_of(x1 if x2 is None else x2)
        shape = (n1, n2) if outputs.traced or outputs.single else (n1, n2, m, m)
        result, left = _result(shape, kind, device, out, memory)
        task = Task(m, outputs.traced, n1 // 2 + 1 if x2 is None else n2, left // 8, kind)
        while True:
            footprint = _footprint(split, first, outputs, k, task)
            used = plan(footprint, n1, n2, m, left)
            if used.directions < m:  # forms that suit fewer directions
                task = replace(task, directions=used.directions)
                footprint = _footprint(split, first, outputs, k, task)
                used = plan(footprint, n1, n2, used.directions, left)
            units = math.ceil(max(n1, n2) / used.examples) * math.ceil(m / used.directions)
            again: Buffers | None = {} if footprint.keeps_cotangents(used, units, left) else None
            run = _Run(split, x1, x2, outputs, k, m, task, used, device, again)
            try:
                run.fill(result.view(n1, n2, m, m) if outputs.single else result, progress or Progress())
            except Irregular as odd:  # a call that the first examples did not make
                split.demote(odd.module)
                result.zero_()
                continue
            return result


def _result(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device, out: Tensor | None, memory: int
) -> tuple[Tensor, int]:
    if out is not None:
        if tuple(out.shape) != shape or not out.is_floating_point() or not out.is_contiguous():
            raise InvalidInput(
                f"out is {tuple(out.shape)} {out.dtype}; the kernel needs a contiguous floating-point tensor of shape {shape}"
            )
        return out.zero_(), memory
    size = torch.Size(shape).numel() * dtype.itemsize
    if size >= memory:
        raise InvalidInput(
            f"the kernel of shape {shape} alone takes {said(size)}, and the budget is {said(memory)}. Ask for its trace"
            " over the outputs or chosen outputs, take fewer examples, raise memory, or pass out= (it may lie in a file:"
            " torch.from_file)"
        )
    return torch.zeros(shape, dtype=dtype, device=device), memory - size


def _check_inputs(x1: Inputs, x2: Inputs | None, memory: int) -> None:
    if not isinstance(memory, int) or memory <= 0:
        raise InvalidInput(f"memory={memory!r}: state the budget in bytes, a positive whole number")
    for name, x in [("x1", x1)] if x2 is None else [("x1", x1), ("x2", x2)]:
        parts = list(x.values()) if isinstance(x, dict) else [x]
        if not parts or not all(isinstance(part, Tensor) and part.dim() > 0 for part in parts):
            raise InvalidInput(f"{name} is no tensor [n, …] nor a dict of such: give the model's inputs, examples first")
        if len({len(part) for part in parts}) != 1 or not len(parts[0]):
            raise InvalidInput(f"{name} has {[len(part) for part in parts]} examples: give at least one, of every entry alike")
        for part in parts:
            if part.is_floating_point() and not bool(torch.isfinite(part).all()):
                bad = int((~torch.isfinite(part.reshape(len(part), -1)).all(1)).nonzero()[0])
                raise InvalidInput(f"{name}: example {bad} holds NaN or an infinite value. Remove it or fill what is missing")


def _slice(x: Inputs, part: slice) -> Inputs:
    return {k: v[part] for k, v in x.items()} if isinstance(x, dict) else x[part]


def _moved(x: Inputs, device: torch.device) -> Inputs:
    return {k: v.detach().to(device) for k, v in x.items()} if isinstance(x, dict) else x.detach().to(device)


def _joined(a: Inputs, b: Inputs) -> Inputs:
    if isinstance(a, dict) and isinstance(b, dict):
        return {k: torch.cat([v, b[k]]) for k, v in a.items()}
    assert isinstance(a, Tensor) and isinstance(b, Tensor)
    return torch.cat([a, b])


@contextmanager
def _restored(model: nn.Module) -> Iterator[None]:
    """Buffers that a forward pass writes to are put back."""
    before = {name: buffer.detach().clone() for name, buffer in model.named_buffers()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, buffer in model.named_buffers():
                kept = before.get(name)
                if kept is not None and buffer.shape == kept.shape and not torch.equal(buffer, kept):
                    buffer.copy_(kept)


def _footprint(split: Split, first: Inputs, outputs: Outputs, k: int, task: Task) -> Footprint:
    """What an example takes, measured on one or two with a few directions."""
    few, n, item = min(2, task.directions), size_of(first), task.dtype.itemsize
    seen = forward(split.model, list(split.ruled), first, count=True)
    graph = seen.held // n + 1
    fixed = moving = cotangents = widest = patches = similarities = carried = 0
    for module, uses in seen.uses(outputs.directions(k, 0, few).to(seen.values.device)).items():
        entries = sum(use.cotangents.numel() for use in uses) // (n * few)
        cotangents += sum(use.cotangents.nbytes for use in uses) // (n * few)
        widest = max(widest, entries * item)
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            patches = max(patches, 2 * entries // module.out_channels * module.weight[0].numel() * module.groups * item)
        for factor in factors(module, uses, split.ruled[module], task):
            if isinstance(factor, Rows):
                moving += factor.bytes // (n * few)
            elif isinstance(factor, Scaled):
                fixed += factor.bytes // n
            else:
                positions, out = factor.cotangents.shape[1:3]
                fixed, moving = fixed + factor.keys.nbytes // n, moving + factor.cotangents.nbytes // (n * few)
                patches = max(patches, factor.keys.nbytes // n)
                if positions > 1:
                    similarities = max(similarities, positions**2 * item)
                    carried = max(carried, positions * (positions if task.traced else out) * item)
    rest = sum(split.parameters[name].numel() for name in split.rest) * item
    return Footprint(graph, fixed, moving, cotangents, widest, patches, similarities, carried, rest, item)


@dataclass(frozen=True)
class _Run:
    """One computation: the split of the parameters, both samples, the outputs' directions, the plan, memory for the cotangents."""

    split: Split
    x1: Inputs
    x2: Inputs | None
    outputs: Outputs
    k: int
    m: int
    task: Task
    plan: Plan
    device: torch.device
    again: Buffers | None

    def units(self, x: Inputs, directions: slice) -> list[_Unit]:
        """The chunks of a sample."""
        n, b = size_of(x), self.plan.examples
        return [_Unit(slice(i, min(n, i + b)), directions) for i in range(0, n, b)]

    def factors(self, x: Inputs, unit: _Unit) -> dict[object, Factor]:
        """A unit's gradients, layer by layer."""
        model = self.split.model
        inputs = _moved(_slice(x, unit.examples), self.device)
        directions = self.outputs.directions(self.k, unit.directions.start, unit.directions.stop).to(self.device)
        found: dict[object, Factor] = {}
        if self.split.ruled:
            uses = forward(model, list(self.split.ruled), inputs).uses(directions, self.again)
            for module in list(uses):
                for place, factor in enumerate(factors(module, uses.pop(module), self.split.ruled[module], self.task)):
                    found[module, place] = factor
        if self.split.rest:
            kind = next(iter(self.split.parameters.values())).dtype
            found["rest"] = Rows(parameter_jacobian(model, inputs, self.split.rest, directions.to(kind)).to(self.task.dtype))
        return found

    def fill(self, result: Tensor, progress: Progress) -> None:
        """Add every block to ``result``."""
        step = self.plan.directions
        blocks = [slice(a, min(self.m, a + step)) for a in range(0, self.m, step)]
        groups = [[block] for block in blocks] if self.outputs.traced else [blocks]
        other = self.x1 if self.x2 is None else self.x2
        for group in groups:
            left = [unit for block in group for unit in self.units(self.x1, block)]
            right = left if self.x2 is None else [unit for block in group for unit in self.units(other, block)]
            total = len(left) * (len(left) + 1) // 2 if self.x2 is None else len(left) * len(right)
            with progress.task("tangent kernel", total) as advance:
                for start in range(0, len(left), self.plan.held):
                    held: list[tuple[_Unit, dict[object, Factor]]] = []
                    panel = left[start : start + self.plan.held]
                    for unit in panel:
                        held.append((unit, self.factors(self.x1, unit)))
                        if self.x2 is None:
                            for before in held:
                                self.add(result, before, held[-1])
                            advance(len(held))
                    for unit in right if self.x2 is not None else right[start + len(panel) :]:
                        passing = (unit, self.factors(other, unit))
                        for before in held:
                            self.add(result, before, passing)
                        advance(len(held))

    def add(self, result: Tensor, left: tuple[_Unit, dict[object, Factor]], right: tuple[_Unit, dict[object, Factor]]) -> None:
        """The block of two units, and its mirror image."""
        (one, ours), (other, theirs) = left, right
        i, a = (part.stop - part.start for part in (one.examples, one.directions))
        j, b = (part.stop - part.start for part in (other.examples, other.directions))
        traced = self.outputs.traced
        block = torch.zeros((i, j) if traced else (i, a, j, b), dtype=self.task.dtype, device=self.device)
        for key, factor in ours.items():
            if key in theirs:
                add_gram(block, factor, theirs[key], traced)
        mirrored = self.x2 is None and one is not other
        if traced:
            result[one.examples, other.examples] += block
            if mirrored:
                result[other.examples, one.examples] += block.mT
            return
        result[one.examples, other.examples, one.directions, other.directions] = block.permute(0, 2, 1, 3)
        if mirrored:
            result[other.examples, one.examples, other.directions, one.directions] = block.permute(2, 0, 3, 1)

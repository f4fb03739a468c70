"""The audit's look at the network's tangent kernel: its spectrum beside the labels, and how far training left the lazy regime.

On some tens of training examples, within a budget of time and memory; where a part does not apply, a sentence says why.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from nonvacuous.core.certificate import Indicator
from nonvacuous.core.errors import InvalidInput, NonvacuousError
from nonvacuous.kernels.alignment import label_alignment, label_energy, targets_of
from nonvacuous.kernels.laziness import LazyDistance, lazy_distance
from nonvacuous.kernels.spectrum import eigenpairs, participation
from nonvacuous.measures.subject import Subject
from nonvacuous.measures.tangent import tangent_kernel
from nonvacuous.measures.tangent_outputs import MeanDirection, Outputs, OutputTrace
from nonvacuous.runtime.values import Inputs

EXAMPLES, LEAST_EXAMPLES = 48, 8
SECONDS = 15.0
"""Time that the kernels may take, judged from two examples."""
MEMORY = 2**29
MOST_TRACED = 16
"""Outputs up to which the kernel is the trace over all of them; beyond, that of their mean direction."""


@dataclass(frozen=True)
class Tangent:
    """What was found on the first ``examples`` training examples; all of it indicators.

    outputs: which kernel. eigenvalues: from the largest down; energy: the share of the centred labels along each eigenvector of the
    centred kernel. alignment, initial_alignment: centred alignment with the labels, now and at the initial weights. dimension: (Σλ)²/Σλ².
    lazy: distance from the lazy regime. absent: parts that do not apply, each with the reason.
    """

    examples: int = 0
    outputs: str = ""
    eigenvalues: tuple[float, ...] = ()
    energy: tuple[float, ...] = ()
    alignment: float | None = None
    initial_alignment: float | None = None
    dimension: float | None = None
    lazy: LazyDistance | None = None
    absent: dict[str, str] = field(default_factory=dict)

    def indicators(self) -> tuple[Indicator, ...]:
        """The two numbers for the table of indicators, where they were found."""
        found = []
        if self.alignment is not None:
            reason = f"centred alignment of the tangent kernel with the labels on {self.examples} training examples; it bounds nothing"
            found.append(Indicator("tangent_kernel_alignment", self.alignment, self.alignment, reason))
        if self.lazy is not None:
            change = self.lazy.kernel_change
            reason = f"relative change of the tangent kernel on {self.examples} training examples; 0 in the lazy regime; it bounds nothing"
            found.append(Indicator("distance_from_lazy_regime", change, change, reason))
        return tuple(found)


def tangent(subject: Subject) -> Tangent | None:
    """The tangent kernel of an audited network; None where the model is no ``nn.Module``."""
    module = subject.predictor.module
    if module is None:
        return None
    try:
        return _found(subject, module)
    except (NonvacuousError, RuntimeError, NotImplementedError, MemoryError) as error:
        return Tangent(absent={"tangent kernel": _first_line(error)})


def _found(subject: Subject, module: nn.Module) -> Tangent:
    inputs, labels = next(iter(subject.train_sample.batches(min(EXAMPLES, subject.train.n))))
    inputs = _on(inputs, module)
    with _eval(module):
        with torch.no_grad():
            k = _outputs(module, _first(inputs, 1))
        outputs: Outputs = OutputTrace() if k <= MOST_TRACED else MeanDirection()
        each = _seconds_each(module, _first(inputs, 2), outputs) * (1 if subject.initial is None else 2)
        n = min(len(labels), int(SECONDS / max(each, 1e-9)))
        if n < min(LEAST_EXAMPLES, len(labels)):
            raise InvalidInput(
                f"an example takes {each:.2g} s, so that {SECONDS:g} s do not suffice for {LEAST_EXAMPLES} of them"
            )
        inputs, labels = _first(inputs, n), labels[:n]
        kernel = tangent_kernel(module, inputs, memory=MEMORY, outputs=outputs)
        centre = torch.eye(n, dtype=torch.float64) - 1 / n
        pairs = eigenpairs(centre @ kernel.double().cpu() @ centre)
        absent: dict[str, str] = {}
        targets = targets_of(labels)
        targets = targets - targets.mean(0)
        energy: tuple[float, ...] = ()
        alignment = None
        if float(targets.norm()) > 1e-9:
            energy = tuple(float(e) for e in label_energy(pairs, targets))
            alignment = label_alignment(kernel, labels)
        else:
            absent["alignment"] = f"the first {n} training examples have the same label"
        before, lazy = None, None
        if subject.initial is None:
            absent["lazy regime"] = "the initial weights were not given"
        else:
            try:
                start = copy.deepcopy(subject.initial).to(subject.predictor.device).eval()
                first = tangent_kernel(start, inputs, memory=MEMORY, outputs=outputs)
                before = None if alignment is None else label_alignment(first, labels)
                lazy = lazy_distance(start, module, inputs, kernels=(first, kernel))
            except (NonvacuousError, RuntimeError, NotImplementedError) as error:
                absent["lazy regime"] = _first_line(error)
    return Tangent(
        n,
        "trace over the outputs" if k <= MOST_TRACED else "mean direction of the outputs",
        tuple(float(v) for v in pairs.values),
        energy,
        alignment,
        before,
        participation(pairs.values.clamp(min=0)),
        lazy if lazy is None or all(map(math.isfinite, (lazy.kernel_change, lazy.weight_movement))) else None,
        absent,
    )


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _first(inputs: Inputs, n: int) -> Inputs:
    return {k: v[:n] for k, v in inputs.items()} if isinstance(inputs, dict) else inputs[:n]


def _on(inputs: Inputs, module: nn.Module) -> Inputs:
    own = next(iter([*module.parameters(), *module.buffers()]), None)

    def moved(x: Tensor) -> Tensor:
        if own is None:
            return x
        return x.to(own.device, own.dtype if x.is_floating_point() and own.is_floating_point() else x.dtype)

    return {k: moved(v) for k, v in inputs.items()} if isinstance(inputs, dict) else moved(inputs)


def _outputs(module: nn.Module, one: Inputs) -> int:
    from nonvacuous.runtime.models import outputs

    return outputs(module, one).numel()


def _seconds_each(module: nn.Module, two: Inputs, outputs: Outputs) -> float:
    begun = time.perf_counter()
    tangent_kernel(module, two, memory=MEMORY, outputs=outputs)
    return (time.perf_counter() - begun) / 4  # the rules' check and the measuring of memory run the examples as often again


@contextmanager
def _eval(module: nn.Module) -> Iterator[None]:
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training

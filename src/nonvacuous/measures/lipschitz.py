"""Lipschitz constants of networks in the ℓ2 norm: proved upper ends, over all inputs or a region, and attained lower ends.

``global_upper`` walks the traced graph (deck T, Lemma 4, with sums for residual branches): ∏ of operator norms and activation
constants, in the logarithm, so that 200 layers neither overflow nor vanish.  ``local_upper`` does the same over a ball or box,
with the slopes each neuron can have there, and takes the least of three proofs (:mod:`relaxation`, :mod:`jacobian`).
``sampled_lower`` is the largest gradient norm seen.  Dot-product attention has no constant over all inputs (Kim, Papamakarios &
Mnih 2021): the answer is ∞ with that reason, never the product of its linear parts.

A layer of your own takes part through :func:`register`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.measures import jacobian, relaxation
from nonvacuous.measures.logs import safe_exp
from nonvacuous.measures.plain import written_out
from nonvacuous.measures.ranges import Ball, Box
from nonvacuous.measures.slopes import sampled_lower
from nonvacuous.measures.walk import Rule, Step, Unbounded, Walk
from nonvacuous.operators.copies import float64_copy
from nonvacuous.operators.graph import Graph, graph
from nonvacuous.operators.rules import RULES as LAYER_RULES

__all__ = [
    "Ball",
    "Box",
    "LipschitzTable",
    "bracket",
    "global_table",
    "global_upper",
    "local_table",
    "local_upper",
    "register",
    "sampled_lower",
]

RULES: dict[type, Rule] = {}
RuleT = TypeVar("RuleT", bound=Rule)


def register(*kinds: type[nn.Module]) -> Callable[[RuleT], RuleT]:
    """Give layer classes, and all their subclasses, a rule ``(module, input_shape) → Measured``, valid for all inputs.

    >>> class Halving(nn.Module):
    ...     def forward(self, x):
    ...         return x.sin() / 2
    >>> @register(Halving)
    ... def at_most_half(module, input_shape):
    ...     return Measured(0.0, 0.5, Kind.EXACT)
    >>> global_upper(nn.Sequential(Halving(), Halving()), (3,)).upper
    0.25...
    """

    def enter(rule: RuleT) -> RuleT:
        RULES.update(dict.fromkeys(kinds, rule))
        return rule

    return enter


@dataclass(frozen=True)
class LipschitzTable:
    """How a bound came about.

    Attributes:
        steps: what every part multiplies by (for a sum or concatenation: how much the result exceeds its largest part), and the
            logarithm of the bound so far.
        log_upper: ln of the bound; ∞ where there is none.
        reason: why there is none, or which proof gave the bound.
        lower: 0, for models of linear parts the norm's lower end.
    """

    steps: tuple[Step, ...]
    log_upper: float
    reason: str = ""
    lower: float = 0.0

    @property
    def log10_upper(self) -> float:
        """log₁₀ of the bound, also where the bound itself is beyond float64."""
        return self.log_upper / math.log(10) + 1e-15 * abs(self.log_upper) if math.isfinite(self.log_upper) else self.log_upper

    @property
    def measured(self) -> Measured:
        """[lower, bound]; ∞ where it is beyond float64."""
        return Measured(self.lower, max(self.lower, safe_exp(self.log_upper)), Kind.EXACT)

    def __str__(self) -> str:
        lines = [f"{'part':<36} {'kind':<14} {'type':<18} {'lower':>10} {'upper':>10} {'log10':>8}"]
        for s in self.steps:
            ends = f"{s.factor.lower:>10.4g} {s.factor.upper:>10.4g} {s.log_upper / math.log(10):>8.2f}"
            lines.append(f"{s.name:<36} {s.kind:<14} {s.type_name:<18} {ends}")
        return "\n".join([*lines, f"{'bound':<36} {self.reason:<55} {self.log10_upper:>8.2f}"])


def exact_copy(model: nn.Module) -> nn.Module:
    """A float64 copy in eval mode; the weights' values are the same, and the model is not touched."""
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InvalidInput(f"{name} holds NaN or infinity: the network has no Lipschitz constant")
        if tensor.is_complex():
            raise UnsupportedModule(
                f"{name} holds complex numbers, and Lipschitz bounds read real ones. Keep real and imaginary parts as parameters: "
                "nonvacuous.networks.complex_valued.in_pairs does it for torch's own layers"
            )
    return float64_copy(model).requires_grad_(False)


def traced(model: nn.Module, input_shape: Sequence[int]) -> tuple[nn.Module, Graph]:
    """The exact copy and its graph; classes with a rule are kept whole."""
    exact = written_out(exact_copy(model))
    own = [kind for kind in LAYER_RULES if not kind.__module__.startswith("torch.nn")]
    tensor = next(iter([*exact.parameters(), *exact.buffers()]), torch.zeros(()))
    example = torch.zeros(1, *input_shape, dtype=torch.float64, device=tensor.device)
    try:
        return exact, graph(exact, example, leaves=(*RULES, *own))
    except InvalidInput as error:
        first = next((name for name, part in exact.named_modules() if isinstance(part, nn.Embedding | nn.EmbeddingBag)), None)
        if first is None:
            raise
        raise UnsupportedModule(
            f"{first} (Embedding): token ids are no vectors, and the model is not Lipschitz in them. Measure the part after its "
            "embeddings, or register a rule with @lipschitz.register(…)."
        ) from error


def _walked(model: nn.Module, seen: Graph, region: Ball | Box | None, tolerance: float, steps: int) -> LipschitzTable:
    try:
        walk = Walk(model, seen, region, RULES, tolerance)
        best = walk.output
    except Unbounded as error:
        return LipschitzTable((), math.inf, str(error))
    reason, rows = "product over the graph", tuple(walk.steps)
    lower = rows[0].factor.lower if len(rows) == 1 and rows[0].kind == "affine" and walk.is_linear else 0.0
    with torch.no_grad():
        found = {"ellipsoids": relaxation.ellipsoid_bound(walk, steps)}
        if region is not None:
            found["ellipsoids, all inputs"] = relaxation.ellipsoid_bound(walk, 0, whole=True)
            found["interval of the Jacobian"] = jacobian.jacobian_bound(walk)
    for name, value in found.items():
        if value is not None and value < best:
            best, reason = value, name
    return LipschitzTable(rows, best, reason, lower)


def global_table(model: nn.Module, input_shape: Sequence[int], *, tolerance: float = 0.01, steps: int = 0) -> LipschitzTable:
    """The bound over all inputs of a shape (without the batch): the product part by part, or ellipsoids for fully connected nets.

    ``steps``: see :func:`local_table`.

    Raises:
        UnsupportedModule: a layer without a rule; it is named, with how to register one.
        InvalidInput: NaN in the weights, a shape that does not fit.
    """
    exact, seen = traced(model, input_shape)
    return _walked(exact, seen, None, tolerance, steps)


def global_upper(model: nn.Module, input_shape: Sequence[int], *, tolerance: float = 0.01, steps: int = 0) -> Measured:
    """``[0, L]`` with ``‖f(x) − f(y)‖₂ ≤ L‖x − y‖₂`` for all x, y in eval mode; L = ∞ where there is no constant.

    A model of linear parts gets its operator norm as a bracket.  Raises as :func:`global_table`.

    >>> net = nn.Sequential(nn.Linear(2, 2, bias=False), nn.ReLU(), nn.Linear(2, 1, bias=False))
    >>> _ = [nn.init.constant_(w, 1.0) for w in net.parameters()]
    >>> global_upper(net, (2,)).upper  # 2·√2
    2.828...
    """
    return global_table(model, input_shape, tolerance=tolerance, steps=steps).measured


def local_table(model: nn.Module, region: Ball | Box, *, tolerance: float = 0.01, steps: int = 0) -> LipschitzTable:
    """The least of three proved bounds over a region: the product over the graph with the slopes each neuron can have there; the
    ellipsoids (:func:`relaxation.ellipsoid_bound`), for fully connected nets; the interval of the Jacobian
    (:func:`jacobian.jacobian_bound`), where outputs are few.

    ``steps``: of gradient descent on the ellipsoids' multipliers; more is tighter and slower.  Raises as :func:`global_table`.
    """
    exact, seen = traced(model, tuple(region.centre.shape))
    region = _to(region, next(iter(exact.parameters()), torch.zeros(())).device)
    return _walked(exact, seen, region, tolerance, steps)


def _to(region: Ball | Box, device: torch.device) -> Ball | Box:
    if isinstance(region, Ball):
        return Ball(region.centre.double().to(device), region.radius)
    return Box(region.lower.double().to(device), region.upper.double().to(device))


def local_upper(model: nn.Module, region: Ball | Box, *, tolerance: float = 0.01, steps: int = 0) -> Measured:
    """``[0, L]`` with ``‖f(x) − f(y)‖₂ ≤ L‖x − y‖₂`` for all x, y of the region (convex, so that the Jacobians there suffice).

    Args and errors as :func:`local_table`, which says what gave the bound.
    """
    exact, seen = traced(model, tuple(region.centre.shape))
    region = _to(region, next(iter(exact.parameters()), torch.zeros(())).device)
    quick = _walked(exact, seen, region, 1.0, steps)
    if quick.reason.startswith("ellipsoids") or quick.log_upper == math.inf:  # never more than the product of the norms
        return quick.measured
    return _walked(exact, seen, region, tolerance, steps).measured


def bracket(model: nn.Module, inputs: Tensor, *, tolerance: float = 0.01) -> Measured:
    """``[largest gradient norm at inputs, global upper end]`` of the Lipschitz constant; inputs (batch, *shape).

    The lower end is computed in float64 and holds to its accuracy; the upper end is proved.
    """
    upper = global_upper(model, tuple(inputs.shape[1:]), tolerance=tolerance)
    lower = sampled_lower(model, inputs).lower
    return Measured(min(max(lower, upper.lower), upper.upper), upper.upper, Kind.EXACT)

"""What the network is made of, beside its certificates: costs, norms of layers and normalizers, Lipschitz brackets, noise stability,
the scale of margins.

Every part that does not apply is absent, with a sentence that says why. No certificate rests on the tables, so they are also made for
networks that certificates refuse to read (knowledge outside parameters, hooks, control flow); then ``caveat`` says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from torch import Tensor

from nonvacuous.bounds.gain import Side, gain
from nonvacuous.core.errors import InvalidInput, NonvacuousError
from nonvacuous.measures.lipschitz import Ball, global_table, local_table, sampled_lower
from nonvacuous.measures.logs import CONSTANT
from nonvacuous.measures.margins import choices, scale_free
from nonvacuous.measures.noise_stability import noise_stability
from nonvacuous.measures.norm_evidence import declared_range, norm_evidence, symbolic_graph
from nonvacuous.measures.normalization import NORMALIZERS, NormalizationGain, normalization_gain
from nonvacuous.measures.subject import Subject
from nonvacuous.operators.cost import LayerCost, cost
from nonvacuous.operators.graph import graph
from nonvacuous.operators.normalizer_table import normalizer_table

LN10 = math.log(10)
TOLERANCE = 0.05
"""Relative width of the norms' brackets."""
SAMPLED = 16
"""Training inputs at which slopes are taken."""
STABILITY_INPUTS, PROBES, NOISE_DRAWS = 8, 32, 1
"""Training inputs at which noise stability is taken, random signs that estimate a Jacobian's norm where a layer has more outputs, and
draws of the noise behind the smoothness: an indicator must not cost more than the certificates."""
RADIUS = 0.05
"""Radius of the local region, in units of the inputs' root mean square norm."""
EXCESS = 0.1
"""Excess of the risk over the training loss that the pair of sample sizes is for."""

T = TypeVar("T")


@dataclass(frozen=True)
class CostRow:
    """One layer's cost for one example (``calls`` times it runs), or the total's."""

    name: str
    kind: str
    parameters: int
    macs: int
    flops: int
    operations: int


@dataclass(frozen=True)
class NormRow:
    """A weight layer or a normalizer: its operator norm or Lipschitz constant, and for batch norm the slide's ‖γ/σ‖₂."""

    name: str
    kind: str
    normalizes: bool
    lower: float
    upper: float
    euclidean: float | None = None


@dataclass(frozen=True)
class Norms:
    """Rows in the order of the computation, and log₁₀ of the products of their upper ends; ``euclidean`` with the slide's norms."""

    rows: tuple[NormRow, ...]
    log10_weights: float
    log10_normalizers: float
    log10_euclidean: float


@dataclass(frozen=True)
class Slopes:
    """A bracket of the Lipschitz constant of the scores over a region: a slope that is attained, and a proved upper end as log₁₀."""

    region: str
    lower: float
    log10_upper: float
    proof: str

    @property
    def log10_gap(self) -> float:
        """log₁₀ of upper/lower; infinite for a lower end of 0."""
        return self.log10_upper - math.log10(self.lower) if self.lower > 0 else math.inf


@dataclass(frozen=True)
class GainSide:
    """One line of the pair, all log₁₀ and rounded up: Lipschitz constant, cells and examples of the partition bound."""

    log10_lipschitz: float
    log10_cells: float
    log10_examples: float


@dataclass(frozen=True)
class Pair:
    """Without and with the normalizers, at the same weights; ``log10_ratio`` of the sample sizes that a bound C·L/√m needs."""

    without: GainSide
    normalized: GainSide
    log10_ratio: float
    excess: float


@dataclass(frozen=True)
class StabilityRow:
    """A weight layer's cushion μ, interlayer cushion μ→, contraction c and β, the relative error that noise of its input's size leaves in
    the scores, and the random projections k that move its own output by ``relative_noise``, beside its number of weights."""

    name: str
    cushion: float
    interlayer_cushion: float
    contraction: float
    well_distributed: float
    noise_left: float
    projections: float
    weights: int
    exact: bool


@dataclass(frozen=True)
class Stability:
    """Noise stability at some training inputs; ``log10_examples``: order of the examples below which the paper's bound is vacuous, its
    constants and logarithms left out, at the ``margin`` named (None without a positive one). An indicator."""

    rows: tuple[StabilityRow, ...]
    inputs: int
    smoothness: float
    needed_smoothness: int
    relative_noise: float
    convolutional: bool
    log10_examples: float | None
    margin: float | None


@dataclass(frozen=True)
class Anatomy:
    """The parts, None where one does not apply; ``absent`` says why, by the part's name.

    ``log10_margin_scale``: log₁₀ of R_A times the inputs' root mean square norm, what margins are divided by to compare networks.
    ``caveat``: why norms and slopes are of the network as it was traced only (empty where they are proved of the network itself).
    """

    costs: tuple[CostRow, ...] = ()
    total: CostRow | None = None
    norms: Norms | None = None
    slopes: tuple[Slopes, ...] = ()
    pair: Pair | None = None
    log10_margin_scale: float | None = None
    stability: Stability | None = None
    caveat: str = ""
    absent: dict[str, str] = field(default_factory=dict)


def anatomy(subject: Subject) -> Anatomy:
    """Every part that applies to a subject."""
    absent: dict[str, str] = {}

    def part(name: str, make: Callable[[Subject], T]) -> T | None:
        try:
            return make(subject)
        except (NonvacuousError, RuntimeError, NotImplementedError) as error:
            absent[name] = str(error)
            return None

    rows, total = part("costs", _costs) or ((), None)
    norms = part("norms", _norms)
    slopes = part("slopes", _slopes)
    pair = part("pair", _pair)
    stability = part("noise stability", _stability)
    scale = part("scaled margins", _margin_scale)
    return Anatomy(
        rows, total, norms, slopes or (), pair, scale, stability, _caveat(subject) if norms or slopes else "", absent
    )


def _caveat(subject: Subject) -> str:
    """Why no certificate may rest on the traced graph, or nothing."""
    try:
        symbolic_graph(subject)
    except NonvacuousError as error:
        return str(error)
    return ""


def _example(subject: Subject, count: int = 1) -> Any:
    """The first training inputs, where the network is and as it takes them."""
    inputs = next(iter(subject.train_sample.batches(count))).inputs
    first = next(iter([*subject.module.parameters(), *subject.module.buffers()]), None)
    if first is None or not isinstance(inputs, Tensor):
        return inputs
    return inputs.to(first.device, first.dtype if inputs.is_floating_point() and first.is_floating_point() else inputs.dtype)


def _costs(subject: Subject) -> tuple[tuple[CostRow, ...], CostRow]:
    found = cost(subject.module, _example(subject))
    rows = tuple(_cost_row(layer) for layer in found.per_layer.values() if layer.parameters or layer.macs)
    return rows, CostRow("total", "", found.parameters, found.macs, found.flops, found.operations)


def _cost_row(layer: LayerCost) -> CostRow:
    return CostRow(layer.name or "(model)", layer.kind, layer.parameters, layer.macs, layer.flops, layer.operations)


def _numbers(subject: Subject, count: int = 1) -> Tensor:
    """Training inputs of one array of numbers."""
    inputs = _example(subject, count)
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        raise InvalidInput("the inputs are named, or token ids: these numbers speak of networks of one array of numbers")
    return inputs


def _gain(subject: Subject) -> NormalizationGain | None:
    """The rows of a network with normalizers, None for one without."""
    example = _numbers(subject)
    if not any(node.operation in NORMALIZERS for node in subject.once("traced", lambda: graph(subject.module, example))):
        return None
    shape = tuple(example.shape[1:])
    return subject.once("normalization", lambda: normalization_gain(subject.module, shape, tolerance=TOLERANCE))


def _norms(subject: Subject) -> Norms:
    found = _gain(subject)
    if found is not None:
        rows = [
            NormRow(row.name, row.type_name, row.normalizes, row.lipschitz.lower, row.lipschitz.upper, row.euclidean)
            for row in found.rows
        ]
        return Norms(tuple(rows), found.log10_weights, found.log10_normalizers, found.log10_euclidean)
    table = normalizer_table(subject.module, _example(subject), tolerance=TOLERANCE)
    rows = [NormRow(w.name, w.kind, False, w.norm.lower, w.norm.upper) for w in table.weights if w.norm is not None]
    if not rows:
        raise InvalidInput("no layer of the network has a rule for its norm")
    return Norms(tuple(rows), table.log10_weights.upper, 0.0, 0.0)


def _slopes(subject: Subject) -> tuple[Slopes, ...]:
    inputs = _numbers(subject, SAMPLED)
    module, shape = subject.module, tuple(inputs.shape[1:])
    radius = RADIUS * subject.sizes.rms(False)
    everywhere = global_table(module, shape, tolerance=TOLERANCE)
    local = local_table(module, Ball(inputs[0], radius), tolerance=TOLERANCE)
    return (
        Slopes("all inputs", sampled_lower(module, inputs).lower, everywhere.log10_upper, everywhere.reason),
        Slopes(
            f"inputs within {radius:.3g} of the first training input",
            sampled_lower(module, inputs[:1]).lower,
            local.log10_upper,
            local.reason,
        ),
    )


def _pair(subject: Subject) -> Pair:
    found = _gain(subject)
    if found is None:
        raise InvalidInput("the network has no normalizers, so there is no version with and without them to compare")
    low, high = declared_range(subject)
    coordinates = subject.sizes.coordinates
    logs = [
        [
            math.log(row.lipschitz.upper) if row.lipschitz.upper > 0 else CONSTANT
            for row in found.rows
            if row.normalizes == side
        ]
        for side in (False, True)
    ]
    sides = gain(
        *logs,
        loss_lipschitz=math.sqrt(2),
        diameter=(high - low) * math.sqrt(coordinates),
        coordinates=coordinates,
        excess=EXCESS,
    )
    return Pair(_side(sides.plain), _side(sides.normalized), found.log10_sample_ratio, EXCESS)


def _side(side: Side) -> GainSide:
    return GainSide(*(x / LN10 for x in (side.log_lipschitz_nats, side.log_cells_nats, side.log_examples_nats)))


def _stability(subject: Subject) -> Stability:
    inputs = _numbers(subject, STABILITY_INPUTS)
    found = noise_stability(subject.module, inputs, draws=NOISE_DRAWS, probes=PROBES, batch_size=STABILITY_INPUTS)
    rows = tuple(
        StabilityRow(
            layer.name or "(model)",
            layer.cushion,
            layer.interlayer_cushion,
            float(layer.contractions.max()),
            layer.well_distributed,
            float(layer.attenuation[-1]),
            layer.projections,
            layer.weights,
            layer.exact,
        )
        for layer in found.layers
    )
    tried = choices(subject.margins) if len(subject.margins) else []
    margin = scale_free(tried).margin if tried else None
    examples = None if margin is None else found.log_complexity(margin) / LN10
    return Stability(
        rows,
        len(inputs),
        found.interlayer_smoothness,
        3 * len(rows),
        found.relative_noise,
        found.convolutional,
        examples,
        margin,
    )


def _margin_scale(subject: Subject) -> float:
    evidence = norm_evidence(subject)
    if not len(subject.margins):
        raise InvalidInput("there are no margins")
    scale = evidence.complexity.log_spectral_complexity_nats + math.log(subject.sizes.rms(evidence.network.biased))
    if not abs(scale) < 600:
        raise InvalidInput(f"the spectral complexity is e^{scale:.0f}: margins divided by it are beyond what a picture shows")
    return scale / LN10

"""Compressed networks after Arora et al. 2018: a certificate for the network that the compression yields, an indicator for the original.

The paper's Theorem 4.1 bounds the error of the *compressed* network f_Ã by the margin loss of f_A plus
Õ(√(c²d² max‖f_A(x)‖² Σ 1/(μᵢ²μᵢ→²) / (γ²m))). The Õ hides constants, so :func:`log_cushion_complexity` is an indicator. What one can
have without them is to *run* the compression and count its numbers: :class:`CompressionBound`. Proof: ``docs/proofs/compression.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Any, NamedTuple

from nonvacuous.core.bound import BOUNDED_LOSS, IID, Bound, Down, Hypothesis, LossRange, Predictor, Sample, Up
from nonvacuous.core.errors import InvalidEvidence
from nonvacuous.core.networks import MOST
from nonvacuous.core.quantities import Quantity, Reads, is_number, quantity
from nonvacuous.numerics.interval import Interval, iv, upper
from nonvacuous.numerics.logdomain import log_sum_exp
from nonvacuous.numerics.tails import kl_bernoulli

for _entry in (
    Quantity(
        "projections",
        "Σkᵢ",
        "numbers",
        1,
        MOST,
        Reads.NOTHING,
        "Numbers that describe the compressed network: inner products ⟨Aᵢ, M⟩ with the fixed random sign matrices, and biases.",
        whole=True,
    ),
    Quantity(
        "bits_per_number",
        "b",
        "bits",
        1,
        1024,
        Reads.NOTHING,
        "Bits of each of those numbers, in a format fixed beforehand.",
        whole=True,
    ),
):
    quantity(_entry)

SHARED_SEED = Hypothesis(
    "shared_seed",
    "The architecture, the number format, and the random matrices (generator and seed) were fixed before the training sample was seen.",
)


@dataclass(frozen=True)
class CompressionBound(Bound):
    """risk ≤ value whenever n·kl(r̂, value) ≥ (Σkᵢ·b + (L + 1)(2⌊log₂(Σkᵢ + b)⌋ + 1)) ln 2 + ln(1/δ), value > r̂, of the decoded net.

    r̂ is the compressed network's own mean training loss. Layer i is (1/kᵢ)Σ_j Z_ij M_ij with fixed random sign matrices M and kᵢ numbers Z
    of b bits; the counts kᵢ and b are sent in Elias' γ code. A union over all networks so described turns the discretisation into bits.
    It promises nothing for the network before compression. :func:`~nonvacuous.measures.sign_projections.sign_projection` runs it.

    >>> bound = CompressionBound()
    >>> e = bound.Evidence(risk=0.1, projections=180, bits_per_number=8, depth=3, n=60_000)
    >>> round(bound.solve(e, 0.05), 4)  # 180·8 + 4·15 = 1500 bits, as the code-length bound gives for them
    0.165
    """

    class Evidence(NamedTuple):
        risk: Up
        projections: Up
        bits_per_number: Up
        depth: Up
        n: Down

    source = "Arora, Ge, Neyshabur and Zhang 2018 (ICML), Theorem 2.1 and Algorithm 1, with a union bound: docs/proofs/compression.md"
    sample = Sample.TRAINING
    loss = LossRange.BOUNDED
    predictors = (Predictor.COMPRESSED,)
    hypotheses = (IID, BOUNDED_LOSS, SHARED_SEED)
    worked = (((0.1, 180, 8, 3, 60_000), 0.05, 0.1649775),)

    def proves(self, e: Any, delta: float, value: float) -> bool:
        numbers, bits, depth = int(e.projections), int(e.bits_per_number), int(e.depth)
        length = numbers * bits + (depth + 1) * (2 * ((numbers + bits).bit_length() - 1) + 1)
        budget: Interval = length * iv.ln2 - iv.log(delta)
        return bool(value > e.risk and (e.n * kl_bernoulli(e.risk, value)).a >= budget.b)


class Cushions(NamedTuple):
    """One layer's noise stability: layer cushion μᵢ and (smallest) interlayer cushion μᵢ→, both in (0, 1].

    ``spread``: for a convolution β⌈κ/s⌉ (for each axis), β ≥ 1 how unevenly its output's positions bear the Jacobian, κ the kernel, s the
    stride; 1 for a matrix. A convolution's cushion may exceed 1: its norm is that of the filters.
    """

    layer: float
    interlayer: float
    spread: float = 1.0


def log_cushion_complexity(layers: Sequence[Cushions], contraction: float, largest_output: float, margin: float) -> float:
    """ln of c²d² max‖f(x)‖² Σ spreadᵢ²/(μᵢ²μᵢ→²)/γ²: the m below which the paper's bound is vacuous, without constants and logs; an
    *indicator*.

    μᵢ = min_x ‖Aᵢφ(x^(i−1))‖/(‖Aᵢ‖_F ‖φ(x^(i−1))‖), the minimum over the training inputs; μᵢ→ = min over later layers j and x of
    ‖J x^i‖/(‖J‖_F ‖x^i‖), J the Jacobian at x of the map from layer i to j, j = i included, where it is the identity and the ratio is
    1/√(width); spread 1 for matrices (Theorem 4.1), β⌈κ/s⌉ for convolutions (Theorem 5.1); contraction c ≥ ‖x^i‖/‖φ(x^i)‖ for all
    layers; and the theorem asks interlayer smoothness ρ_δ ≥ 3d. A cushion of 0 gives ∞.
    :func:`~nonvacuous.measures.noise_stability.noise_stability` measures all of them.

    >>> round(log_cushion_complexity([Cushions(1.0, 1.0)] * 2, 1.0, 1.0, 1.0), 6)  # ln(2² · 2)
    2.079442
    """
    numbers = [contraction, largest_output, margin, *(number for layer in layers for number in layer)]
    if not layers or not all(is_number(number) and number >= 0 for number in numbers) or margin <= 0:
        raise InvalidEvidence("cushions, contraction and outputs are numbers of at least 0, the margin is positive")
    if any(min(layer) == 0 for layer in layers):
        return inf
    total = log_sum_exp(2 * (iv.log(layer.spread) - iv.log(layer.layer) - iv.log(layer.interlayer)) for layer in layers)
    return upper(2 * (iv.log(contraction) + iv.log(len(layers)) + iv.log(largest_output) - iv.log(margin)) + total)

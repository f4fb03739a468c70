"""Margin bounds from the size of the weights: small weights (1998) and spectrally normalised margins (2017).

Both speak of the 0–1 loss of every network and margin at once. Proofs: ``docs/proofs/margin.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf, isinf
from typing import Any, NamedTuple

from nonvacuous.core.bound import FIXED_CLASS, FIXED_NETWORKS, IID, Bound, Down, Hypothesis, LossRange, Sample, Up
from nonvacuous.core.errors import InvalidEvidence
from nonvacuous.core.networks import MOST, check_margin
from nonvacuous.core.quantities import Quantity, Reads, is_number, quantity
from nonvacuous.numerics.interval import Interval, Number, hull, iv, upper
from nonvacuous.numerics.uniform import GeometricGrid, chained_complexity, rademacher_value

for _entry in (
    Quantity(
        "log_row_product_nats",
        "ln Πmax_j‖ãᵢⱼ‖₁",
        "nats",
        -inf,
        inf,
        Reads.NOTHING,
        "Sum over the layers of ln of the largest row norm Σ|w| + |b|, hidden ones at the grid points of row_product(); two classes: the "
        "row ã₁ − ã₀. After logistic units s = ½ + u/4 a row counts Σ|w|/4 + |b + ½Σw|.",
    ),
    Quantity(
        "row_grid_nats",
        "Σ ln 1/w",
        "nats",
        0,
        inf,
        Reads.NOTHING,
        "Price of the grid points the hidden layers' row norms were rounded up to, from row_product().",
    ),
    Quantity(
        "largest_coordinate_rms",
        "max_k √(1/n Σxᵢₖ²)",
        "input",
        1,
        inf,
        Reads.TRAINING,
        "Largest root mean square of an input coordinate over the training inputs, counted as at least 1.",
    ),
    Quantity("inputs", "D", "coordinates", 1, MOST, Reads.NOTHING, "Coordinates of an input.", whole=True),
    Quantity(
        "log_spectral_complexity_nats",
        "ln R̄_A",
        "nats",
        -inf,
        inf,
        Reads.NOTHING,
        "ln of (Σ(PᵢQᵢb̄ᵢ)^(2/3))^(3/2) at the grid points of spectral_complexity(): b̄ᵢ ≥ ‖Ãᵢᵀ − Mᵢᵀ‖₂,₁, the sum over output units of the "
        "Euclidean norm of the incoming weights' distance from the reference; Pᵢ bounds what the network before layer i makes of its "
        "inputs' size, Qᵢ the Lipschitz constant of the network after it. In a chain without biases PᵢQᵢ = Πρⱼs̄ⱼ/s̄ᵢ, s̄ᵢ ≥ ‖Aᵢ‖₂.",
    ),
    Quantity(
        "norm_grid_nats",
        "Σ ln 1/w",
        "nats",
        0,
        inf,
        Reads.NOTHING,
        "Price of the grid points the norms were rounded up to, from spectral_complexity().",
    ),
):
    quantity(_entry)

UNIT_CHAIN = Hypothesis(
    "unit_chain",
    "The network is a chain of affine layers with activations that act on each coordinate, are 1-Lipschitz and vanish at 0 (ReLU, tanh; "
    "logistic units after the shift that log_row_product_nats describes); nothing is read off the batch.",
    checkable=True,
)
LIPSCHITZ_GRAPH = Hypothesis(
    "lipschitz_graph",
    "The network is made of affine layers, fixed maps that are Lipschitz in the Euclidean norm with the constants counted, sums (residual "
    "blocks) and concatenations; nothing is read off the batch.",
    checkable=True,
)
REFERENCE_FIXED = Hypothesis(
    "reference_fixed",
    "The reference matrices (zero or initial weights) were fixed before the training sample was seen.",
)
GRID = GeometricGrid(log2_least=-20, steps=16)


@dataclass(frozen=True)
class SmallWeightsBound(Bound):
    """risk ≤ r̂_γ + 2 c r x √(2(L ln 2 + ln(D + 2))) / √n + 3√((ln(2/δ) + prices)/(2n)), r ≥ Π max row ‖·‖₁ / γ.

    c = 1 for two classes, 2K for K > 2; x = ``largest_coordinate_rms``, D = ``inputs``; r on the j-th grid point 2^(j/16 − 20), at price
    2 ln(j + 1) + ln(π²/6), the hidden norms at theirs (``row_grid_nats``). The number of units does not enter: "the size of the weights is
    more important than the size of the network". L = 2 is the two-layer sigmoid network of the lecture slide, whose fat-shattering
    dimension :func:`fat_shattering_dimension` gives. The same theorem is the (1, ∞) form of Golowich, Rakhlin and Shamir, with
    √(2(L ln 2 + …)) for their 2√(L + 1 + ln D).

    >>> bound = SmallWeightsBound()
    >>> e = bound.Evidence(0.0, 1.0, 0.0, 0.0, 1.0, 2, 2, 2, 10**8)
    >>> round(bound.solve(e, 0.05), 6)  # 2√(2 ln 16)/10⁴ + 3√((ln 40 + 2 ln 321 + ln(π²/6))/(2·10⁸))
    0.001312
    """

    class Evidence(NamedTuple):
        margin_risk: Up
        margin: Down
        log_row_product_nats: Up
        row_grid_nats: Up
        largest_coordinate_rms: Up
        inputs: Up
        depth: Up
        classes: Up
        n: Down

    source = (
        "Bartlett 1998 (IEEE Trans. Inf. Theory 44); Golowich et al. 2018, Theorem 2; constants derived: docs/proofs/margin.md"
    )
    sample = Sample.TRAINING
    loss = LossRange.ZERO_ONE
    predictors = FIXED_NETWORKS
    hypotheses = (IID, FIXED_CLASS, UNIT_CHAIN)
    worked = (((0.0, 1.0, 0.0, 0.0, 1.0, 2, 2, 2, 10**8), 0.05, 0.0013123),)

    def domain(self, e: Any, delta: float) -> None:
        check_margin(e.margin)

    def proves(self, e: Any, delta: float, value: float) -> bool:
        found = _small_weights(e, delta)
        return found is not None and upper(found) <= value


@dataclass(frozen=True)
class SpectralMarginBound(Bound):
    """risk ≤ r̂_γ + 2R̂ + 3√((ln(2/δ) + prices)/(2n)), R̂ = min_N (ε_N + Σ_{j≤N} 5ε_j √(2(H_j + H_{j−1})/n)), ε_j = 4^(−j)/2.

    H_j = (C/ε_j)² ln(2W²) where C ≥ ε_j, else 0 (and H₀ = 0); C = √2 x R̄_A/γ̄ with x = ``input_rms``, W = ``widest``, 1/γ rounded up to
    the grid 2^(j/16 − 20) at price 2 ln(j + 1) + ln(π²/6); R̄_A is :func:`~nonvacuous.bounds.spectral_complexity.spectral_complexity`.
    Any fixed Lipschitz activations, reference matrices fixed before the data, all norms and γ read off the trained network.

    The paper's Lemma A.8 (72 x R_A ln(2W) ln(n)/(γ√n) for the middle term) is the same argument with looser constants and fixed norms, its
    Lemma A.9 the uniform version. The lecture slide's √Σ‖Aᵢ‖_F/‖Aᵢ‖ in place of the (2,1) sum does *not* hold:
    :func:`~nonvacuous.bounds.spectral_complexity.log_frobenius_complexity` evaluates it as an indicator, and the test shows the network
    that refutes it.

    *Residual blocks.* Layers read any earlier result, results may be added and concatenated. A block x + A₂σ(A₁x) brings the factor
    1 + ρ‖A₁‖‖A₂‖ and counts the (2,1) norms of A₁ and A₂ only: its identity is no layer, so it is covered at no cost. The paper's own
    theorem, for chains, takes it as the layers [A₁; I] and [A₂, I] with reference matrices [0; I] and [0, I], which gives
    √(1 + ‖A₁‖²)√(1 + ‖A₂‖²), never less.

    >>> bound = SpectralMarginBound()
    >>> e = bound.Evidence(0.0, 1.0, 0.0, 0.0, 1.0, 2, 10**8)
    >>> round(bound.solve(e, 0.05), 5)
    0.01655
    """

    class Evidence(NamedTuple):
        margin_risk: Up
        margin: Down
        log_spectral_complexity_nats: Up
        norm_grid_nats: Up
        input_rms: Up
        widest: Up
        n: Down

    source = "Bartlett, Foster and Telgarsky 2017 (NIPS), Theorem 1.1, Lemmas A.8 and A.9; constants re-derived: docs/proofs/margin.md"
    sample = Sample.TRAINING
    loss = LossRange.ZERO_ONE
    predictors = FIXED_NETWORKS
    hypotheses = (IID, FIXED_CLASS, LIPSCHITZ_GRAPH, REFERENCE_FIXED)
    worked = (((0.0, 1.0, 0.0, 0.0, 1.0, 2, 10**8), 0.05, 0.0165501),)

    def domain(self, e: Any, delta: float) -> None:
        check_margin(e.margin)

    def proves(self, e: Any, delta: float, value: float) -> bool:
        found = _spectral_margin(e, delta)
        return found is not None and upper(found) <= value


@lru_cache(maxsize=256)
def _small_weights(e: Any, delta: float) -> Interval | None:
    if e.log_row_product_nats == inf or isinf(e.row_grid_nats) or isinf(e.largest_coordinate_rms):
        return None
    point = GRID.above(e.log_row_product_nats - iv.log(e.margin))
    factor = _sign_factor(e.depth, e.inputs) * (1 if e.classes == 2 else 2 * iv.mpf(e.classes))
    complexity = factor * iv.exp(point.log_value) * e.largest_coordinate_rms / iv.sqrt(e.n)
    return rademacher_value(e.margin_risk, complexity, point.price_nats + e.row_grid_nats, e.n, delta)


def _sign_factor(depth: Number, inputs: Number) -> Interval:
    """√(2(L ln 2 + ln(D + 2)))."""
    return iv.sqrt(2 * (iv.ln2 * depth + iv.log(iv.mpf(inputs) + 2)))


@lru_cache(maxsize=256)
def _spectral_margin(e: Any, delta: float) -> Interval | None:
    if e.log_spectral_complexity_nats == inf or isinf(e.input_rms) or isinf(e.norm_grid_nats):
        return None
    point = GRID.above(-iv.log(e.margin))
    log_scale = iv.ln2 / 2 + iv.log(e.input_rms) + e.log_spectral_complexity_nats + point.log_value
    complexity = chained_complexity(log_scale, iv.log(2 * iv.mpf(e.widest) ** 2), e.n)
    return rademacher_value(e.margin_risk, complexity, point.price_nats + e.norm_grid_nats, e.n, delta)


# -- the numbers these bounds take ---------------------------------------------------------------------------------------


class RowProduct(NamedTuple):
    """ln of the product of row norms, hidden ones at grid points, and what those cost; both rounded up."""

    log_row_product_nats: float
    row_grid_nats: float


def row_product(row_norms: Sequence[float]) -> RowProduct:
    """From the largest row norm Σ|w| + |b| of each layer, last one last; hidden ones are rounded up to 2^(j/L), j ≥ 0.

    Rounding makes the product at most twice as large if the norms are at least 1.

    >>> found = row_product([0.5, 3.0])  # 1 and 3; the price of j = 0 is ln(π²/6)
    >>> round(found.log_row_product_nats, 6), round(found.row_grid_nats, 4)
    (1.098612, 0.4977)
    """
    if not row_norms or not all(is_number(norm) and 0 <= norm < inf for norm in row_norms):
        raise InvalidEvidence("row norms are finite and at least 0, one for each layer")
    grid = GeometricGrid(log2_least=0, steps=len(row_norms))
    product, price = iv.log(row_norms[-1]), iv.zero
    for norm in row_norms[:-1]:
        point = grid.above(iv.log(norm))
        product, price = product + point.log_value, price + point.price_nats
    return RowProduct(upper(product), upper(price))


def fat_shattering_dimension(
    log_row_product_nats: float, scale: float, largest_input: float, inputs: int, depth: int = 2
) -> float:
    """fat(γ) of real networks with Π max row ‖·‖₁ ≤ P on inputs with |xₖ| ≤ x: at most 2 (P max(x, 1)/γ)² (L ln 2 + ln(D + 2)).

    If n points are γ-shattered, some network of the class follows every sign pattern with margin γ about its witnesses, so that γ ≤ R̂ ≤
    P x √(2(L ln 2 + ln(D + 2))/n). The slide's Õ((B/γ)²), with its constants. ∞ where a float does not hold it.

    >>> fat_shattering_dimension(0.0, 1.0, 1.0, 2)  # 2 ln 16 = 5.54
    5.0
    """
    if scale <= 0 or inputs < 1 or depth < 1:
        raise InvalidEvidence(f"scale is positive, inputs and depth at least 1; got {scale}, {inputs}, {depth}")
    if log_row_product_nats == inf or isinf(largest_input):
        return inf
    log_ratio = log_row_product_nats + iv.log(hull(largest_input, 1).b) - iv.log(scale)
    if not log_ratio < 300:
        return inf
    found = upper((_sign_factor(depth, inputs) * iv.exp(log_ratio)) ** 2)
    return found if found > 2**53 else float(int(found))

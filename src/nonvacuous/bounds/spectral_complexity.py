"""The (2,1) spectral complexity R_A of a network, the scale that margins are divided by: layers, sums, concatenations, fixed maps.

Proof that it may stand in the margin bound: ``docs/proofs/margin.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, inf
from typing import NamedTuple

from nonvacuous.core.errors import InvalidEvidence
from nonvacuous.core.quantities import is_number
from nonvacuous.numerics.interval import Interval, Number, iv, upper
from nonvacuous.numerics.uniform import two_sided_price

SMALLEST_NORM = 2.0**-64
SMALLEST_BIAS = 2.0**-20


class LayerNorms(NamedTuple):
    """An affine layer x ↦ σ(Ax + b): upper bounds of ‖A‖₂ and ‖[A, b]ᵀ − Mᵀ‖₂,₁, and the Lipschitz constant of σ, zero at 0.

    ``bias`` an upper bound of ‖b‖₂; None where the architecture has none. ``reads``: see :func:`spectral_complexity`.
    """

    spectral: float
    distance: float
    lipschitz: float = 1.0
    bias: float | None = None
    reads: int | None = None


class FixedMap(NamedTuple):
    """A map fixed beforehand: its Lipschitz constant, and ``offset`` ≥ the Euclidean norm of what it makes of 0."""

    lipschitz: float
    offset: float = 0.0
    reads: int | None = None


class Joined(NamedTuple):
    """Results added, or beside each other (``concatenated``)."""

    reads: tuple[int, ...]
    concatenated: bool = False


NetworkStep = LayerNorms | FixedMap | Joined


class SpectralComplexity(NamedTuple):
    """ln R̄_A at the grid points above the norms, and what those cost; both rounded up."""

    log_spectral_complexity_nats: float
    norm_grid_nats: float


def spectral_complexity(steps: Sequence[NetworkStep], biased: bool | None = None) -> SpectralComplexity:
    """ln of (Σ(PᵢQᵢb̄ᵢ)^(2/3))^(3/2) over the layers of a network.

    Norms are rounded up to 2^(j/L), j any integer, of weight 1/((π²/3 − 1)(|j| + 1)²), L the number of layers, which makes R_A at most
    twice as large; biases count as at least 2⁻²⁰. With (p, q) a pair for each result so that its size is at most p‖X‖_F + q√n: (1, 0) for
    the input, (s̄p, s̄q + β̄) after a layer, (ρp, ρq + offset) after a fixed map, sums for sums, √Σ² for concatenations. Pᵢ is the norm of
    [[p, q], [0, 1]] for a layer with a bias, √(p² + q²) without, p where nothing in the network adds constants. Qᵢ is the gain from layer
    i's result to the output by the same rules. In a chain without biases R_A = Πρᵢs̄ᵢ (Σ(b̄ᵢ/s̄ᵢ)^(2/3))^(3/2), the paper's.

    Args:
        steps: in the order of computation; step k gives result k + 1, result 0 is the input, and ``reads`` are such numbers (None: the
            result before). The last result is the scores.
        biased: whether ‖x̃‖² = ‖x‖² + 1 is what ``input_rms`` counts; None: if a step adds a constant.

    >>> found = spectral_complexity([LayerNorms(1.0, 1.0)] * 4)
    >>> round(found.log_spectral_complexity_nats, 6), round(found.norm_grid_nats, 4)  # ln 8, 8 ln(π²/3 − 1)
    (2.079442, 6.628)
    >>> block = [LayerNorms(1.0, 1.0), LayerNorms(1.0, 1.0), Joined((0, 2))]  # x + A₂σ(A₁x): P₁Q₁b₁ = P₂Q₂b₂ = 1
    >>> round(spectral_complexity(block).log_spectral_complexity_nats, 6)  # ln 2^(3/2)
    1.039721
    """
    count = sum(isinstance(step, LayerNorms) for step in steps)
    if not count:
        raise InvalidEvidence("a network has at least one layer")
    adds = any(getattr(step, "bias", None) is not None or getattr(step, "offset", 0.0) > 0 for step in steps)
    if biased is False and adds:
        raise InvalidEvidence("biases and offsets are sizes beside those of the inputs: input_rms must count the appended 1")
    results = [_Result(iv.mpf(1), iv.zero, {})]
    price, reached = iv.zero, dict[int, Interval]()
    for k, step in enumerate(steps, 1):
        before = [results[place] for place in _places(step, k)]
        if isinstance(step, LayerNorms):
            spectral, distance = (_rounded(number, count) for number in (step.spectral, step.distance))
            price = price + two_sided_price(spectral) + two_sided_price(distance)
            bias = None
            if step.bias is not None:
                place = _rounded(step.bias, count, SMALLEST_BIAS)
                price, bias = price + two_sided_price(place), iv.exp(iv.ln2 * place / count)
            reached[k] = before[0].reach(bias is not None, biased or adds) * iv.exp(iv.ln2 * distance / count)
            result = before[0].times(iv.exp(iv.ln2 * spectral / count), bias or iv.zero, k)
            results.append(result.times(_constant(step.lipschitz), iv.zero))
        elif isinstance(step, FixedMap):
            results.append(before[0].times(_constant(step.lipschitz), iv.mpf(_constant(step.offset))))
        else:
            results.append(_Result.joined(before, step.concatenated))
    total = iv.zero
    for k, size in reached.items():
        term = results[-1].gains.get(k, iv.zero) * size
        if term.b > 0:
            total = total + iv.exp(iv.log(term.b) * 2 / 3)
    return SpectralComplexity(upper(iv.log(total) * 3 / 2) if total.b > 0 else -inf, upper(price))


@dataclass(frozen=True)
class _Result:
    """The size p‖X‖_F + q√n of a result, and its Lipschitz constants in the results of the layers before it, by their steps."""

    p: Interval
    q: Interval
    gains: dict[int, Interval]

    def times(self, factor: Number, offset: Interval, layer: int | None = None) -> _Result:
        own = {} if layer is None else {layer: iv.mpf(1)}
        return _Result(self.p * factor, self.q * factor + offset, {k: gain * factor for k, gain in self.gains.items()} | own)

    def reach(self, appended: bool, biased: bool) -> Interval:
        """Of p‖X‖_F + q√n, and √n beside it if ``appended``, over √(‖X‖_F² + n), or over ‖X‖_F in a network without biases."""
        if not biased:
            return self.p
        square = self.p**2 + self.q**2
        if not appended:
            return iv.sqrt(square)
        square = square + 1
        inside = square**2 - 4 * self.p**2
        return iv.sqrt((square + (iv.sqrt(inside.b) if inside.b > 0 else 0)) / 2)

    @staticmethod
    def joined(parts: Sequence[_Result], concatenated: bool) -> _Result:
        def total(numbers: Sequence[Interval]) -> Interval:
            if not concatenated:
                return sum(numbers[1:], numbers[0])
            return iv.sqrt(sum((x**2 for x in numbers[1:]), numbers[0] ** 2))

        gains = {
            k: total([part.gains[k] for part in parts if k in part.gains]) for k in {k for part in parts for k in part.gains}
        }
        return _Result(total([part.p for part in parts]), total([part.q for part in parts]), gains)


def _places(step: NetworkStep, k: int) -> tuple[int, ...]:
    places = step.reads if isinstance(step, Joined) else (k - 1 if step.reads is None else step.reads,)
    if not places or not all(0 <= place < k for place in places):
        raise InvalidEvidence(f"step {k} reads the results {places}; there are those from 0 to {k - 1}")
    return places


def _constant(number: float) -> float:
    if not is_number(number) or not 0 <= number < inf:
        raise InvalidEvidence(f"a Lipschitz constant is at least 0 and finite; got {number!r:.60}")
    return number


def _rounded(norm: float, steps: int, least: float = SMALLEST_NORM) -> int:
    """The smallest j with 2^(j/steps) certainly at least ``norm``."""
    if not is_number(norm) or not 0 <= norm < inf:
        raise InvalidEvidence(f"a norm is finite and at least 0; got {norm!r:.60}")
    return ceil(upper(iv.log(max(norm, least)) / iv.ln2 * steps))


def log_frobenius_complexity(layers: Sequence[tuple[float, float]]) -> float:
    """ln of Π‖Aᵢ‖₂ √(Σ‖Aᵢ‖_F/‖Aᵢ‖₂), the scale the lecture slide divides margins by: an *indicator*, proved of nothing.

    Arguments: (spectral, Frobenius) norm of each layer. Counter-example to the slide's theorem: n orthonormal inputs, a hidden layer of
    width n whose columns are orthonormal sign vectors or zero, and n arbitrary labels stored with constant margin at a scale of 2 n^(1/4).

    >>> round(log_frobenius_complexity([(1.0, 1.0)] * 4), 6)  # ln 2
    0.693147
    """
    total, product = iv.zero, iv.zero
    for spectral, frobenius in layers:
        if spectral == 0:
            return -inf
        product, total = product + iv.log(spectral), total + iv.mpf(frobenius) / spectral
    return upper(product + iv.log(total) / 2)

"""What one more layer buys: the sawtooth, whose oscillations double with each, and what shallow networks pay for them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput

#: Teeth narrower than float64's spacing in [1/2, 1] would be sampled as 0.
DEEPEST_SAWTOOTH = 52


class Sawtooth(nn.Module):
    """tri∘…∘tri, k times: 2^(k−1) teeth of height 1 on [0, 1] from 2k ReLUs, elementwise on tensors of any shape.

    tri(x) = 2 relu(x) − 4 relu(x − ½); at x = j/2^k it is 0 for even j and 1 for odd j.  Every float64 in [0, 1] is mapped without
    rounding error (2x is exact, and so is 2 − 2x for x ≥ ½).  Outside [0, 1] the slide's ``tri`` is 0, by an outer relu; this
    one is too for k ≥ 2, and 2 − 2x above 1 for k = 1.

    Source: Telgarsky 2015 (arXiv 1509.08101); Ollion and Grisel, "Efficient Oscillations with Composition".

    >>> Sawtooth(3)(torch.arange(9) / 8).tolist()
    [0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0, 1.0, 0.0]
    """

    def __init__(self, k: int) -> None:
        super().__init__()
        if not 1 <= k <= DEEPEST_SAWTOOTH:
            raise InvalidInput(
                f"a sawtooth takes 1 to {DEEPEST_SAWTOOTH} layers, got {k}: beyond, float64 inputs all fall on its zeros"
            )
        self.k = k

    @property
    def teeth(self) -> int:
        """2^(k − 1)."""
        return 1 << (self.k - 1)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.k):
            x = 2 * x.relu() - 4 * (x - 0.5).relu()
        return x

    def plain(self) -> nn.Sequential:
        """The same function of ``[n, 1]`` as k hidden layers of two units, with Parameters that can be trained or counted."""
        layers: list[nn.Module] = []
        for depth in range(self.k):
            hidden = nn.Linear(1 if depth == 0 else 2, 2, dtype=torch.float64)
            with torch.no_grad():
                hidden.weight.copy_(torch.tensor([[1.0], [1.0]]) if depth == 0 else torch.tensor([[2.0, -4.0], [2.0, -4.0]]))
                hidden.bias.copy_(torch.tensor([0.0, -0.5]))
            layers += [hidden, nn.ReLU()]
        out = nn.Linear(2, 1, dtype=torch.float64)
        with torch.no_grad():
            out.weight.copy_(torch.tensor([[2.0, -4.0]]))
            out.bias.zero_()
        return nn.Sequential(*layers, out)


class Composition(nn.Module):
    """x ↦ parts[-1](… parts[0](x)); of elementwise maps with p_i monotone pieces onto [0, 1] it has up to ∏ p_i of them.

    >>> crossings(Composition(Sawtooth(2), Sawtooth(3))(torch.linspace(0, 1, 1025)), 0.5) == 2 * Sawtooth(5).teeth
    True
    """

    def __init__(self, *parts: nn.Module) -> None:
        super().__init__()
        if not parts:
            raise InvalidInput("a composition has at least one part")
        self.parts = nn.ModuleList(parts)

    def forward(self, x: Tensor) -> Tensor:
        for part in self.parts:
            x = part(x)
        return x


def crossings(values: Tensor, level: float) -> int:
    """How often a sequence ``[n]`` of values passes from one side of ``level`` to the other; values on it are on no side.

    >>> crossings(torch.tensor([0.0, 1.0, 0.5, 0.7, 0.0]), 0.5)
    2
    """
    sides = (values - level).sign()
    sides = sides[sides != 0]
    return int((sides[1:] != sides[:-1]).sum())


def most_pieces(widths: Sequence[int]) -> int:
    """∏ (m_i + 1): affine pieces of a ReLU network on a line, with hidden layers of these widths, are never more.

    On a piece where all earlier units are affine, a unit adds at most one breakpoint: a layer of m units multiplies the pieces
    by at most m + 1.  Sharper than Telgarsky's (2m)^l, and attained for one layer.  The network may have any input dimension.

    >>> most_pieces([20]), most_pieces([10, 10])
    (21, 121)
    """
    if any(width < 1 for width in widths):
        raise InvalidInput(f"widths are positive; got {list(widths)}")
    return math.prod(width + 1 for width in widths)


def least_width(k: int, layers: int = 1) -> int:
    """Units a layer without which no ReLU network of ``layers`` hidden layers is within 1/2 of `Sawtooth` (k) in the sup norm.

    Anything within less than 1/2 takes the value above ½ at odd and below ½ at even multiples of 2^−k, so it crosses ½ 2^k
    times; an affine piece crosses once; so (m + 1)^layers ≥ 2^k (:func:`most_pieces`).  One layer: m ≥ 2^k − 1, and 2^k − 1 + 1
    units represent the sawtooth exactly on [0, 1], so the bound is sharp up to one unit.

    The slide's "unless they have Ω(2^k) units" (Telgarsky 2016, Theorem 1.1) is about networks of Θ(k) layers against one of
    Θ(k³), in the mean; this is the same counting argument with all constants.

    >>> least_width(10), least_width(10, layers=2)
    (1023, 31)
    """
    _layers(k, layers)
    width = math.floor(2 ** (k / layers))
    while (width + 1) ** layers >= 2**k:
        width -= 1
    while (width + 1) ** layers < 2**k:
        width += 1
    return max(1, width)


def mean_error_floor(k: int, widths: Sequence[int]) -> float:
    """A lower bound on ∫₀¹ |g − Sawtooth(k)| for every ReLU network g with hidden layers of these widths: (1 − (p + 1)/2^(k−1))/8.

    p = :func:`most_pieces`.  With T = 2^(k−1) teeth, ½ cuts [0, 1] into 2T + 1 intervals on which the sawtooth is above and below
    in turn, by 1/(8T) in the integral, half of that on the two at the ends.  g crosses ½ at most p times: at least 2T + 1 − p
    intervals see no crossing, they lie in at most p + 1 runs of one sign, and of b neighbours in a run at least (b − 1)/2 have
    the sawtooth on the other side.  So at least T − p intervals do, and the integral is at least (T − p − 1)/(8T).

    Source: Telgarsky 2016 (COLT), Lemma 3.1 with his counting; the constants are those of the proof above.

    >>> mean_error_floor(8, [20]), mean_error_floor(3, [20])
    (0.103515625, 0.0)
    """
    _layers(k, 1)
    teeth = 1 << (k - 1)
    return max(0.0, (teeth - most_pieces(widths) - 1) / (8 * teeth))


def alternating_points(k: int) -> tuple[Tensor, Tensor]:
    """Telgarsky's 2^k points j/2^k, j < 2^k, labelled 0, 1, 0, 1, …: ``[n]`` and ``[n]``."""
    _layers(k, 1)
    j = torch.arange(1 << k)
    return j.to(torch.float64) / (1 << k), (j % 2).to(torch.float64)


def misclassified_floor(k: int, widths: Sequence[int]) -> float:
    """A lower bound on the error share, on :func:`alternating_points`, of 1[g ≥ ½] for a ReLU network g: ½ − (p + 1)/2^(k+1).

    g has at most p pieces (:func:`most_pieces`), so that 1[g ≥ ½] is constant on at most p + 1 runs of neighbouring points,
    and wrong on at least (b − 1)/2 of a run of b:
    (n − p − 1)/2 of n = 2^k in all.  Telgarsky's Theorem 1.1 reads: at most 2^((k−3)/l − 1) units in each of l layers leave an
    error of 1/6; with p ≤ (2m)^l ≤ 2^(k−3) this gives 7/16 − 2^(−k−1) there.

    >>> misclassified_floor(7, [20]), misclassified_floor(7, [126])
    (0.4140625, 0.0)
    """
    _layers(k, 1)
    points = 1 << k
    return max(0.0, (points - most_pieces(widths) - 1) / (2 * points))


def telgarsky_width(k: int, layers: int) -> int:
    """Most units a layer for which Telgarsky's theorem, as printed, promises error 1/6: ⌊2^((k−3)/l − 1)⌋.

    Source: Telgarsky 2015 (arXiv 1509.08101), Theorem 1.1.  :func:`misclassified_floor` is sharper at every width.

    >>> telgarsky_width(12, 1), telgarsky_width(12, 3)
    (256, 4)
    """
    _layers(k, layers)
    exponent = (k - 3) / layers - 1
    return math.floor(2**exponent) if exponent >= 0 else 0


def _layers(k: int, layers: int) -> None:
    if k < 1 or layers < 1:
        raise InvalidInput(f"k and the number of layers are at least 1; got {k} and {layers}")

"""A network of 2n + d numbers that takes any values on any n points: capacity alone does not explain generalization."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from nonvacuous.approximation.built import Built
from nonvacuous.approximation.hinges import HingeSum
from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Measured

#: A memoriser off by more than this share of max |y| is refused: float64 cannot tell its points apart.
TOLERANCE = 1e-6


class Memorizer(nn.Module):
    r"""x ↦ :math:`\sum_j w_j` relu(⟨a, x⟩ − b_j): ``[n, d]`` → ``[n]``; Parameters ``direction`` [d] and two [n] in ``hinges``."""

    def __init__(self, direction: Tensor, knots: Tensor, weight: Tensor) -> None:
        super().__init__()
        self.direction = nn.Parameter(direction)
        self.hinges = HingeSum(knots, weight)

    def forward(self, x: Tensor) -> Tensor:
        projected: Tensor = self.hinges(x @ self.direction)
        return projected


def memorize(x: Tensor, y: Tensor, *, candidates: int = 64, seed: int = 0) -> Built:
    """The two-layer ReLU network of exactly 2n + d numbers, all Parameters, with network(x_i) = y_i for all i.

    Project on a direction a in which all points differ, sort, z_1 < … < z_n, and interlace biases b_1 < z_1 ≤ b_2 < z_2 ≤ …:
    the matrix relu(z_i − b_j) is lower triangular with a positive diagonal, so weights w exist.

    *In float64* a naive solve loses digits in three places, and each has its remedy.  (1) b_j = z_{j−1}, not a midpoint: the
    network then interpolates linearly, and its slopes (y_j − y_{j−1})/(z_j − z_{j−1}) do not feed on one another.  (2) The
    answer's error is a rounding error of ⟨a, x⟩ times the steepest slope, so a is the best of 3·``candidates`` random
    directions in that very product; besides isotropic ones they are drawn along the data's covariance, and along its square,
    which spread real images tenfold wider against the rounding.  (3) The slopes are multiples of one power of two, so
    that their running sums are exact, and each is chosen after the rounding of the one before.

    ``error`` is EXACT: max |network(x_i) − y_i| as the module computes it; it varies with the order in which a machine sums
    ⟨a, x⟩ (on 10,000 images of Fashion-MNIST it is about 1e-10·max|y|; the naive solve with midpoints leaves 4e-4).

    Args:
        x: points ``[n, d]``, converted to float64; equal rows may occur if their values are equal.
        y: values ``[n]``.
        candidates: directions of each of three kinds to choose from.
        seed: of those directions.

    Raises:
        InvalidInput: shapes, values that are not finite, equal points with different values (named), or points so close that
            float64 cannot tell them apart in any direction tried (the closest are named).

    Source: Zhang, Bengio, Hardt, Recht and Vinyals 2017 (ICLR), Theorem 1 and Lemma 1.

    >>> built = memorize(torch.tensor([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]), torch.tensor([3.0, -1.0, 2.0]))
    >>> [round(v, 9) for v in built.module(torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)).tolist()]
    [-1.0, 2.0]
    >>> built.cost.parameters  # 2·3 + 2
    8
    """
    x, y = _checked(x, y)
    first = _distinct(x, y)
    points, wanted = x[first], y[first]
    direction = _direction(points, wanted, candidates, torch.Generator().manual_seed(seed))
    z, order = (points @ direction).sort()
    knots, weight = _interpolated(z, wanted[order])
    spare = torch.full((len(x) - len(z),), float(z[-1]), dtype=torch.float64)
    module = Memorizer(direction, torch.cat([knots, spare]), torch.cat([weight, torch.zeros_like(spare)]))
    with torch.no_grad():
        off = (module(x) - y).abs()
    worst = float(off.max())
    if not worst <= TOLERANCE * float(y.abs().max()):
        close = int(torch.where(wanted[order].diff() != 0, z.diff(), math.inf).argmin())
        i, j = sorted(int(first[order[k]]) for k in (close, close + 1))
        raise InvalidInput(
            f"float64 cannot hold these values on these points: points {i} and {j}, whose values differ, lie "
            f"{float(z.diff()[close]):.3g} apart in the best direction found. Centre the inputs, raise candidates, or drop a point"
        )
    return Built.counted(module, Measured.exact(worst), weights=x.shape[1] + 2 * len(x), units=len(x) + 1)


def _checked(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    x, y = torch.as_tensor(x), torch.as_tensor(y)
    if x.dim() != 2 or y.dim() != 1 or len(x) != len(y) or not x.numel():
        raise InvalidInput(f"points are [n, d], flattened, and values [n], n ≥ 1; got {list(x.shape)} and {list(y.shape)}")
    x, y = x.detach().to("cpu", torch.float64) + 0.0, y.detach().to("cpu", torch.float64)  # + 0.0: −0 is 0
    for name, tensor in (("point", x.isfinite().all(1)), ("value", y.isfinite())):
        if not tensor.all():
            raise InvalidInput(f"{name} {int((~tensor).nonzero()[0])} is not finite")
    return x, y


def _distinct(x: Tensor, y: Tensor) -> Tensor:
    """Indices of the first of each group of equal points; refuses equal points with different values."""
    seen: dict[bytes, int] = {}
    same = [seen.setdefault(row.tobytes(), i) for i, row in enumerate(x.contiguous().numpy())]
    for i, j in enumerate(same):
        if y[i] != y[j]:
            raise InvalidInput(f"points {j} and {i} are equal and have different values, {y[j].item():g} and {y[i].item():g}")
    return torch.tensor(sorted(seen.values()))


def _direction(x: Tensor, y: Tensor, candidates: int, generator: torch.Generator) -> Tensor:
    """The candidate for which (rounding of ⟨a, x⟩) × (steepest slope of the interpolant) is least, scaled to spread x over 1."""
    n, d = x.shape
    if n == 1:
        return torch.zeros(d, dtype=torch.float64)
    scale = x.abs().amax(0)
    centred = (x - x.mean(0)) / float(scale.max() or 1.0)
    isotropic = torch.randn(d, candidates, dtype=torch.float64, generator=generator)
    covariance = centred.T @ (centred @ torch.randn(d, candidates, dtype=torch.float64, generator=generator))
    data = centred.T @ torch.randn(n, candidates, dtype=torch.float64, generator=generator)
    tried = torch.cat([isotropic, data, covariance], 1)
    tried = tried / tried.norm(dim=0).clamp_min(1e-300)
    z, order = (x @ tried).sort(dim=0)
    gaps, rises = z.diff(dim=0), y[order].diff(dim=0).abs()
    steepest = torch.where(rises > 0, rises / gaps, 0.0).amax(0)
    loss = (steepest * (tried.abs() * scale[:, None]).sum(0)).nan_to_num(nan=math.inf)
    best = int(loss.argmin())
    spread = float(z[-1, best] - z[0, best])
    return tried[:, best] / (spread or 1.0)


def _interpolated(z: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Knots and weights of the hinges through (z_i, y_i), z ascending: the triangular system, solved in order."""
    gaps = z.diff()
    lead = float(gaps.mean()) if len(gaps) and float(gaps.mean()) > 0 else 1.0
    knots = torch.cat([z[:1] - lead, z[:-1]])
    steps = (z - knots).tolist()
    rises = torch.cat([y[:1], y.diff()])
    steepest = float((rises.abs() / (z - knots).clamp_min(2.0**-1000)).max())
    if not math.isfinite(steepest):
        raise InvalidInput("the values are too large for the distances between points: scale them down")
    unit = 2.0 ** (math.ceil(math.log2(steepest)) - 50) if steepest > 0 else 1.0
    value = slope = 0.0
    weight = []
    for step, goal in zip(steps, y.tolist(), strict=True):
        new = round((goal - value) / step / unit) * unit if step > 0 and goal != value else 0.0 if step > 0 else slope
        weight.append(new - slope)
        slope, value = new, value + new * step
    return knots, torch.tensor(weight, dtype=torch.float64)

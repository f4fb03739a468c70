"""Kernel matrices of a fully connected network, tile by tile: all layers of a tile are done while it lies in cache."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.arcsine import arcsine_coefficients, largest_arcsine
from nonvacuous.kernels.duals import Erf, Rectifier
from nonvacuous.kernels.fully_connected import Recursion, Rows
from nonvacuous.kernels.hermite import HermiteSeries, series_
from nonvacuous.kernels.kernel import Kernel
from nonvacuous.runtime.tasks import Progress

BLOCK = 256  # rows of one matrix product
NEAR = 0.999  # correlations beyond this are recomputed in float64 where arccos is steep
STEEP = 8.0  # times a unit in the last place is what a cancellation may cost
_MANY = 0.1  # of a tile's pairs, from which on the whole tile is recomputed


class Side(NamedTuple):
    """One sample. x: inputs, scaled; factors: what each layer needs of it, float; variances: float64 [n] per layer; ends: the diagonals."""

    x: Tensor
    factors: list[Tensor]
    variances: list[Tensor]
    ends: Kernel


class Tiles:
    """Any activation, through its ``moments_``. Factors: a vector of variances a layer."""

    shape = (128, 2048)  # fewer calls are worth more than that all four fit in the second-level cache

    def __init__(self, recursion: Recursion, first: Rows, second: Rows | None) -> None:
        self.recursion = recursion
        self.original = first.x, first.x if second is None else second.x
        self.first = self.side(first)
        self.symmetric = second is None
        self.second = self.first if second is None else self.side(second)
        if first.x.device.type != "cpu":
            self.shape = (2048, 4096)
        size = min(self.shape[0], len(first.x)), min(self.shape[1], len(self.second.x))
        self.block = max(BLOCK, self.shape[0])
        self.panel = first.x.new_empty(min(self.block, len(first.x)), len(self.second.x))
        self.lower = torch.ones(self.block, self.block, dtype=torch.bool, device=first.x.device).tril(-1)
        self.scratch = [torch.empty(size[0] * size[1], dtype=first.x.dtype, device=first.x.device) for _ in range(4)]

    def side(self, sample: Rows) -> Side:
        """What each tile takes from one sample."""
        variances, ends = self.recursion.variances(sample)
        return Side(sample.x, [k.to(sample.x.dtype) for k in variances], variances, ends)

    def tile(self, product: Tensor, nngp: Tensor, ntk: Tensor, where: tuple[slice, slice]) -> None:
        """From x·x' of the rows and columns ``where``; ``nngp`` and ``ntk``, views into the results, are written."""
        k, t, slope, spare = (part[: product.numel()].view(product.shape) for part in self.scratch)
        recursion = self.recursion
        torch.mul(product, recursion.input_variance / self.first.x.shape[1], out=k)
        if recursion.bias_variance:
            k.add_(recursion.bias_variance)
        t.copy_(k)
        for layer in range(recursion.depth):
            self.moments_(layer, where, k, slope, spare)
            k.mul_(recursion.weight_variance)
            if recursion.bias_variance:
                k.add_(recursion.bias_variance)
            torch.addcmul(k, t, slope, value=recursion.weight_variance, out=t)
        nngp.copy_(k)
        ntk.copy_(t)

    def moments_(self, layer: int, where: tuple[slice, slice], k: Tensor, slope: Tensor, spare: Tensor) -> None:
        """``k``, the covariances of a layer's pre-activations, becomes E[φφ]; ``slope`` becomes E[φ'φ']."""
        k11, k22 = self.first.factors[layer], self.second.factors[layer]
        self.recursion.activation.moments_(k11[where[0], None], k, k22[None, where[1]], slope, spare)

    def kernel(self, progress: Progress) -> Kernel:
        """Both matrices, [n1, n2]."""
        n1, n2 = len(self.first.x), len(self.second.x)
        try:
            nngp, ntk = self.first.x.new_empty(n1, n2), self.first.x.new_empty(n1, n2)
        except RuntimeError as error:
            size = 2 * n1 * n2 * self.first.x.element_size() / 2**30
            raise InvalidInput(
                f"the two matrices of {n1} × {n2} take {size:.1f} GiB, more than there is: compute blocks of rows, "
                "or let kernels.block_gram keep them on disk"
            ) from error
        with progress.task("kernel", n1) as advance:
            for start in range(0, n1, self.block):
                block = slice(start, min(start + self.block, n1))
                self._block(block, nngp, ntk)
                advance(block.stop - block.start)
        if self.symmetric:
            nngp.diagonal().copy_(self.first.ends.nngp)
            ntk.diagonal().copy_(self.first.ends.ntk)
        return Kernel(nngp, ntk)

    def _block(self, block: slice, nngp: Tensor, ntk: Tensor) -> None:
        left = block.start if self.symmetric else 0
        height, width = self.shape
        product = self.panel[: block.stop - block.start, left:]
        torch.mm(self.first.x[block], self.second.x[left:].T, out=product)
        for top in range(block.start, block.stop, height):
            r = slice(top, min(top + height, block.stop))
            for at in range(top if self.symmetric else 0, nngp.shape[1], width):
                c = slice(at, min(at + width, nngp.shape[1]))
                self.tile(
                    product[top - block.start : r.stop - block.start, at - left : c.stop - left], nngp[r, c], ntk[r, c], (r, c)
                )
        if self.symmetric:
            for matrix in (nngp, ntk):
                matrix[block.stop :, block] = matrix[block, block.stop :].T
                corner = matrix[block, block]
                torch.where(self.lower[: len(corner), : len(corner)], corner.T.contiguous(), corner, out=corner)


class SeriesTiles(Tiles):
    """Hermite series, coefficients computed once a sample. Factors, layer by layer: 1/√k [n], coefficients of φ and of φ' [terms, n]."""

    def side(self, sample: Rows) -> Side:
        variances, ends = self.recursion.variances(sample)
        series, x = self.recursion.activation, sample.x
        assert isinstance(series, HermiteSeries)
        factors: list[Tensor] = []
        for k in variances:
            least = torch.finfo(x.dtype).eps / 16
            factors += [
                torch.where(k > 0, 1 / k, 0).sqrt().to(x.dtype),
                *(a.to(x.dtype) for a in series.coefficients(k, least)),
            ]
        return Side(x, factors, variances, ends)

    def moments_(self, layer: int, where: tuple[slice, slice], k: Tensor, slope: Tensor, spare: Tensor) -> None:
        one, two = (side.factors[3 * layer : 3 * layer + 3] for side in (self.first, self.second))
        r, c = where
        k.mul_(one[0][r, None]).mul_(two[0][c]).clamp_(-1, 1)
        series_(k, one[2][:, r, None], two[2][:, None, c], out=slope)
        series_(k, one[1][:, r, None], two[1][:, None, c], out=spare)
        k.copy_(spare)


class ErfTiles(Tiles):
    """Williams' arcsine kernel. Factors, layer by layer: 1 + 2k, and 1/√(1 + 2k).

    With c = 2 k12/√((1 + 2 k11)(1 + 2 k22)), value (2/π)·arcsin c and slope 4/(π√((1 + 2 k11)(1 + 2 k22)(1 − c²))). Float32 tiles where
    all correlations are small, known beforehand from the largest of the first layer, hold c and take a polynomial; others hold 2 k12.
    """

    def __init__(self, recursion: Recursion, first: Rows, second: Rows | None) -> None:
        super().__init__(recursion, first, second)
        self.weight = 4 / math.pi * recursion.weight_variance
        self.constant, self.one = (torch.tensor(x, dtype=first.x.dtype) for x in (2 * recursion.bias_variance, 1.0))
        pairs = list(zip(self.first.factors, self.second.factors, strict=True))
        self.steep = [self._steep(*pair) for pair in pairs[::2]]
        self.spread = [float(one.max()) * float(two.max()) for one, two in pairs[1::2]]
        self.numbers: dict[float, Tensor] = {}
        self.tried = first.x.dtype == torch.float32 and self.weight > 0 and recursion.depth > 0

    def side(self, sample: Rows) -> Side:
        variances, ends = self.recursion.variances(sample)
        scales = [part for k in variances for part in (1 + 2 * k, (1 + 2 * k).rsqrt())]
        return Side(sample.x, [part.to(sample.x.dtype) for part in scales], variances, ends)

    @staticmethod
    def _steep(one: Tensor, two: Tensor) -> bool:
        """Whether D, a difference of products, may be off by more than a few units in the last place where it is least."""
        largest, other = float(one.max()), float(two.max())
        return largest * other > STEEP * (largest + other - 1)

    def tile(self, product: Tensor, nngp: Tensor, ntk: Tensor, where: tuple[slice, slice]) -> None:
        double = self.scratch[0][: product.numel()].view(product.shape)
        torch.add(self.constant, product, alpha=2 * self.recursion.input_variance / self.first.x.shape[1], out=double)
        if self.symmetric and where[0].start == where[1].start:
            double.fill_diagonal_(0)  # known, and by far the largest
        polynomials = self._polynomials(double) if self.tried else None
        if polynomials is None:
            self._closed(double, nngp, ntk, where)
        else:
            self._polynomial(double, nngp, ntk, where, polynomials)

    def _polynomials(self, double: Tensor) -> list[tuple[float, ...]] | None:
        """Of every layer; None where a correlation of this tile may be too large in one."""
        most, found = max(map(abs, torch.stack(torch.aminmax(double)).tolist())), []
        for spread in self.spread:
            most *= spread * (1 + 1e-5)
            coefficients = arcsine_coefficients(most)
            if coefficients is None:
                return None
            found.append(coefficients)
            most = 2 * self.recursion.bias_variance + self.weight * largest_arcsine(most)
        return found

    def _polynomial(
        self, c: Tensor, nngp: Tensor, ntk: Tensor, where: tuple[slice, slice], layers: list[tuple[float, ...]]
    ) -> None:
        _, t, square, angle = (part[: c.numel()].view(c.shape) for part in self.scratch)
        rows, columns = ([part[axis] for part in side.factors[1::2]] for side, axis in self._sides(where))
        constant = self.constant / self.weight
        c.mul_(torch.mul(rows[0][:, None], columns[0], out=square))
        t.copy_(c)
        for layer, (*lower, last) in enumerate(layers):
            torch.mul(c, c, out=square)
            torch.add(self._number(lower.pop()), square, alpha=last, out=angle)
            for a in reversed(lower):
                torch.addcmul(self._number(a), angle, square, out=angle)
            torch.addcmul(constant, c, angle, out=c)
            t.mul_(torch.add(self.one, square, alpha=-1, out=square).rsqrt_())
            if layer + 1 < len(layers):
                c.mul_(torch.mul(rows[layer + 1][:, None] * self.weight, columns[layer + 1], out=square))
                torch.addcmul(c, square, t, out=t)
        torch.mul(c, self.weight / 2, out=nngp)
        torch.mul(t.add_(c), self.weight / 2, out=ntk)

    def _sides(self, where: tuple[slice, slice]) -> tuple[tuple[Side, slice], tuple[Side, slice]]:
        return (self.first, where[0]), (self.second, where[1])

    def _number(self, a: float) -> Tensor:
        if a not in self.numbers:
            self.numbers[a] = torch.tensor(a, dtype=self.one.dtype, device=self.one.device)
        return self.numbers[a]

    def _closed(self, double: Tensor, nngp: Tensor, ntk: Tensor, where: tuple[slice, slice]) -> None:
        _, t, root, angle = (part[: double.numel()].view(double.shape) for part in self.scratch)
        rows, columns = ([part[axis] for part in side.factors[::2]] for side, axis in self._sides(where))
        t.copy_(double)  # twice the gradients' inner product
        for one, two, steep in zip(rows, columns, self.steep, strict=True):
            torch.mul(one[:, None], two, out=root).addcmul_(double, double, value=-1)
            if steep:
                torch.maximum(root, torch.add(one[:, None] - 1, two, out=angle), out=root)  # D in the limit |c| = 1
            torch.atan2(double, root.sqrt_(), out=angle)
            torch.add(self.constant, angle, alpha=self.weight, out=double)
            torch.addcdiv(double, t, root, value=self.weight, out=t)
        torch.mul(double, 0.5, out=nngp)
        torch.mul(t, 0.5, out=ntk)


class RectifierTiles(Tiles):
    """Positively homogeneous activations, on correlations: without biases a layer needs nothing of the two variances.

    A tile holds −c, so that arccos gives B = π − arccos c, and the gradients' inner product over −√(k11 k22); the shares below are
    those by which a layer's variance comes from the layer before and from the biases.
    """

    def __init__(self, recursion: Recursion, first: Rows, second: Rows | None) -> None:
        super().__init__(recursion, first, second)
        assert isinstance(recursion.activation, Rectifier)
        self.slopes = recursion.activation
        gain = 1 / self.slopes.mean_square_slope if not recursion.bias_variance else 1.0
        self.product = gain * self.slopes.negative * self.slopes.positive
        self.weight = gain * (self.slopes.positive - self.slopes.negative) ** 2 / (2 * torch.pi)
        self.one, self.minus_weight = (torch.tensor(number, dtype=first.x.dtype) for number in (1.0, -self.weight))

    def side(self, sample: Rows) -> Side:
        """x over its norm; factors: of each layer the roots of the shares that weights and biases have in its variance, then √K_L."""
        recursion = self.recursion
        variances, ends = recursion.variances(sample)
        x, norms = sample
        unit = x * torch.where(norms > 0, 1 / norms, 0).to(x.dtype)[:, None]
        factors: list[Tensor] = []
        before = [variances[0] - recursion.bias_variance, *variances]
        for k, was in zip([*variances, ends.nngp], before, strict=True):
            part = torch.where(k > 0, 1 / k, 0).sqrt()
            share = was.clamp(min=0).sqrt() * part * (recursion.weight_variance**0.5 if factors else 1)
            factors += [share.to(x.dtype), (part * recursion.bias_variance**0.5).to(x.dtype)]
        return Side(unit, [*factors, ends.nngp.sqrt().to(x.dtype)], variances, ends)

    def tile(self, product: Tensor, nngp: Tensor, ntk: Tensor, where: tuple[slice, slice]) -> None:
        r, c = where
        opposite, t, angle, spare = (part[: product.numel()].view(product.shape) for part in self.scratch)
        biased = self.recursion.bias_variance > 0
        one, two = self.first.factors, self.second.factors
        torch.neg(product, out=opposite)
        if biased:
            opposite.mul_(one[0][r, None]).mul_(two[0][c]).addcmul_(one[1][r, None], two[1][c], value=-1)
        near = self._near(opposite, where)
        opposite.clamp_(-1, 1)
        t.copy_(opposite)
        for layer in range(2, len(one) - 1, 2):
            torch.addcmul(self.one, opposite, opposite, value=-1, out=spare).sqrt_()
            torch.acos(opposite, out=angle)
            spare.addcmul_(opposite, angle, value=-1)
            weight = self.weight
            if self.product:
                opposite.mul_(self.product).add_(spare, alpha=-weight)
                angle.mul_(weight).add_(self.product)
                weight = 1.0
            else:
                torch.mul(spare, self.minus_weight, out=opposite)
            if biased:
                g, h, g2, h2 = one[layer][r, None], one[layer + 1][r, None], two[layer][c], two[layer + 1][c]
                opposite.mul_(g).mul_(g2).addcmul_(h, h2, value=-1)
                angle.mul_(g).mul_(g2)
            opposite.clamp_(-1, 1)
            torch.addcmul(opposite, t, angle, value=weight, out=t)
        scale = -one[-1][r, None]
        torch.mul(opposite.mul_(scale), two[-1][c], out=nngp)
        torch.mul(t.mul_(scale), two[-1][c], out=ntk)
        if near is not None:
            self._recomputed(nngp, ntk, where, near)

    def _near(self, opposite: Tensor, where: tuple[slice, slice]) -> Tensor | None:
        """The places [m, 2] in a float32 tile where |c| > NEAR, the diagonal excepted."""
        if opposite.dtype == torch.float64:
            return None
        if self.symmetric and where[0].start == where[1].start:
            opposite.fill_diagonal_(0)
        low, high = torch.aminmax(opposite)
        return torch.nonzero(opposite.abs() > NEAR) if max(-float(low), float(high)) > NEAR else None

    def _recomputed(self, nngp: Tensor, ntk: Tensor, where: tuple[slice, slice], near: Tensor) -> None:
        x1, x2 = (x[part] for x, part in zip(self.original, where, strict=True))
        one, two = ([k[part] for k in side.variances] for side, part in zip((self.first, self.second), where, strict=True))
        if len(near) > _MANY * nngp.numel():
            k = x1.double() @ x2.double().T
            one, two = [k11[:, None] for k11 in one], [k22[None, :] for k22 in two]
        else:
            i, j = near.unbind(1)
            pairs = zip(i.split(4096), j.split(4096), strict=True)
            k = torch.cat([(x1[a].double() * x2[b].double()).sum(1) for a, b in pairs])
            one, two = [k11[i] for k11 in one], [k22[j] for k22 in two]
        recursion = self.recursion
        t = k = recursion.first(k / x1.shape[1])
        for k11, k22 in zip(one, two, strict=True):
            value, slope = recursion.activation.moments(k11, k, k22)
            k = recursion.weight_variance * value + recursion.bias_variance
            t = k + recursion.weight_variance * slope * t
        for result, exact in ((nngp, k), (ntk, t)):
            if exact.ndim == 2:
                result.copy_(exact)
            else:
                result[i, j] = exact.to(result.dtype)


def tiles(recursion: Recursion) -> type[Tiles]:
    """The kind of tiles that serves the activation best."""
    match recursion.activation:
        case Rectifier() if recursion.depth:
            return RectifierTiles
        case Erf():
            return ErfTiles
        case HermiteSeries():
            return SeriesTiles
    return Tiles

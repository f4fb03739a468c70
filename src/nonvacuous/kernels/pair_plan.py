"""From the layers of an architecture to the steps of its pixel-pair recursion, with no more pixel pairs than its end asks for.

Read from the end: flattening needs equal pixels only, global pooling all pairs, a pooling window the pairs within it, and a convolution
with stride s the offsets that are multiples of s. The offsets of a convolution's two pixels do not change with the kernel's position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.activations import dual
from nonvacuous.kernels.diagonals import Diagonals, convolved_from, convolved_size, every, pooled_from
from nonvacuous.kernels.layers import AvgPool, Conv, Dense, Flatten, GlobalAvgPool, Layer, LayerNorm, Nonlinearity, Residual
from nonvacuous.kernels.pair_reductions import Added, Averaged, Normalized, Pooled, Scaled, Selected
from nonvacuous.kernels.pair_steps import Activated, Convolved, Factors, Step
from nonvacuous.kernels.pair_tiles import Layout

ZERO = frozenset({0})


class Shape(NamedTuple):
    """What a layer passes on: an image of so many pixels, or (flat) a vector."""

    height: int
    width: int
    flat: bool = False


class Need(NamedTuple):
    """The offsets needed along both axes."""

    rows: frozenset[int]
    columns: frozenset[int]

    def __or__(self, other: object) -> Need:
        assert isinstance(other, Need)
        return Need(self.rows | other.rows, self.columns | other.columns)


EQUAL_PIXELS = Need(ZERO, ZERO)
VECTOR = Shape(1, 1, flat=True)


class Nature(NamedTuple):
    """What is known of a layer's outputs in the limit. gaussian: with mean 0, and independent across channels, so that an activation's
    dual functions apply. fresh: the last weights since the block's beginning are its own, so they are uncorrelated with what came before.
    wide: there are as many channels as one likes.
    """

    gaussian: bool = False
    fresh: bool = False
    wide: bool = False


@dataclass(frozen=True)
class Plan:
    """start: the inputs' layout; steps: from there to the end; table_sizes: numbers of an image's variances, table by table."""

    start: Layout
    steps: tuple[Step, ...]
    table_sizes: tuple[int, ...]

    @property
    def strips(self) -> int:
        """Buffers of a strip's size that are in use at once, and written-out masks, at most."""
        return 12 + 3 * _convolutions(self.steps)

    def numbers(self, channels: int) -> int:
        """How many numbers one pair of images takes at most, strips apart."""
        first = self.start.size + (channels + 2) * 3 * (self.start.rows.size + 1) * self.start.columns.length
        if channels > 1:
            first += (self.start.rows.size * self.start.columns.size) ** 2
        return first + sum(_held(self.steps, self.start).values())


def shape_after(layer: Layer, shape: Shape) -> Shape:
    """Pixels after a layer; raises ``InvalidInput`` where it does not fit."""
    match layer:
        case Conv(kernel, stride, padding):
            _image(layer, shape)
            size = [convolved_size(*f) for f in zip((shape.height, shape.width), kernel, stride, padding, strict=True)]
            if min(size) < 1:
                raise InvalidInput(
                    f"a {kernel[0]}×{kernel[1]} kernel does not fit an image of {shape.height}×{shape.width} with padding "
                    f"{padding}: take a smaller kernel, more padding, or fewer strides and pools before it"
                )
            return Shape(size[0], size[1])
        case AvgPool(kernel, stride):
            _image(layer, shape)
            size = [convolved_size(*f, 0) for f in zip((shape.height, shape.width), kernel, stride, strict=True)]
            if min(size) < 1:
                raise InvalidInput(
                    f"nothing is left of an image of {shape.height}×{shape.width} under a pooling window of {kernel[0]}×{kernel[1]}: "
                    "take a smaller window, or fewer strides and pools before it"
                )
            return Shape(size[0], size[1])
        case Flatten() | GlobalAvgPool():
            _image(layer, shape)
            return VECTOR
        case Dense():
            if not shape.flat:
                raise InvalidInput(
                    f"a dense layer acts on vectors, here comes an image of {shape.height}×{shape.width}: put Flatten or GlobalAvgPool "
                    "before it (a 1×1 Conv acts on every pixel alone)"
                )
            return shape
        case Residual(branch, shortcut):
            ends = [_last(path, shape) for path in (branch, shortcut)]
            if ends[0] != ends[1]:
                raise InvalidInput(
                    f"a residual block adds {_told(ends[0])} (branch) to {_told(ends[1])} (shortcut): give the shortcut the same strides"
                )
            return ends[0]
        case Nonlinearity() | LayerNorm():
            return shape
    raise InvalidInput(f"{layer!r} is no layer of an image kernel: see nonvacuous.kernels.layers")


def _last(layers: Sequence[Layer], shape: Shape) -> Shape:
    for layer in layers:
        shape = shape_after(layer, shape)
    return shape


def _told(shape: Shape) -> str:
    return "a vector" if shape.flat else f"an image of {shape.height}×{shape.width}"


def _image(layer: Layer, shape: Shape) -> None:
    if shape.flat:
        raise InvalidInput(
            f"{type(layer).__name__} acts on images, but a layer before it made a vector: move it before Flatten or GlobalAvgPool"
        )


def nature_after(layer: Layer, nature: Nature) -> Nature:
    """What is known after a layer; raises ``InvalidInput`` where the limit has no recursion of this kind."""
    match layer:
        case Conv() | Dense():
            return Nature(True, True, True)
        case Nonlinearity(name):
            if not nature.gaussian:
                raise InvalidInput(
                    f"{name} follows {'a nonlinearity' if nature.wide else 'the inputs themselves'}: only the sums that weights make are "
                    "Gaussian in the limit. Put a Conv or Dense between"
                )
            return Nature(False, False, nature.wide)
        case LayerNorm():
            if not nature.gaussian:
                raise InvalidInput(
                    "LayerNorm follows a nonlinearity or the inputs themselves, whose mean is not 0: put it after a Conv or Dense"
                )
            return nature
        case Residual(branch, shortcut):
            apart = [_nature(path, nature._replace(fresh=False)) for path in (branch, shortcut)]
            if not (apart[0].wide and apart[1].wide):
                raise InvalidInput(
                    "a shortcut around the first weights adds the inputs' few channels to many: put a Conv before the block"
                )
            if not (apart[0].fresh or apart[1].fresh):
                raise InvalidInput(
                    "branch and shortcut of a residual block are correlated: one of them must end in weights of its own (Conv or Dense, "
                    "then at most linear layers)"
                )
            ends = [_nature(path, nature) for path in (branch, shortcut)]
            return Nature(*(all(flags) for flags in zip(*ends, strict=True)))
    return nature


def _nature(layers: Sequence[Layer], nature: Nature) -> Nature:
    for layer in layers:
        nature = nature_after(layer, nature)
    return nature


def need_before(layer: Layer, shape: Shape, need: Need) -> Need:
    """The offsets that a layer on an image of that shape reads to give ``need``."""
    match layer:
        case Conv(stride=stride):
            return Need(convolved_from(need.rows, stride[0]), convolved_from(need.columns, stride[1])) | EQUAL_PIXELS
        case AvgPool(kernel, stride):
            return Need(pooled_from(need.rows, kernel[0], stride[0]), pooled_from(need.columns, kernel[1], stride[1]))
        case GlobalAvgPool():
            return Need(every(shape.height), every(shape.width))
        case Residual(branch, shortcut):
            return needs(branch, shape, need)[0] | needs(shortcut, shape, need)[0]
    return need | EQUAL_PIXELS


def needs(layers: Sequence[Layer], shape: Shape, last: Need) -> list[Need]:
    """Before each layer, and ``last`` after the last."""
    shapes = [shape]
    for layer in layers:
        shapes.append(shape_after(layer, shapes[-1]))
    found = [last]
    for layer, before in zip(reversed(layers), reversed(shapes[:-1]), strict=True):
        found.append(need_before(layer, before, found[-1]))
    return found[::-1]


def _convolutions(steps: Sequence[Step]) -> int:
    return sum(
        _convolutions((*step.branch, *step.shortcut)) if isinstance(step, Added) else isinstance(step, Convolved)
        for step in steps
    )


def _held(steps: Sequence[Step], layout: Layout) -> dict[Layout, int]:
    """Numbers of every layout that are held at once, at most: two kernels before and after a step; twice as many within a block."""
    held = {layout: 2 * layout.size}
    for step in steps:
        match step:
            case Added(branch, shortcut, out):
                for path in (branch, shortcut):
                    for of, numbers in _held(path, layout).items():
                        held[of] = max(held.get(of, 0), numbers + 2 * of.size)
                layout = out
            case Convolved(out=out) | Pooled(out=out) | Averaged(out=out) | Selected(out=out):
                between = 3 * out.rows.length * layout.columns.length if isinstance(step, Pooled | Selected) else 0
                held[out] = max(held.get(out, 0), (4 if out == layout else 2) * out.size + between)
                layout = out
        held[layout] = max(held.get(layout, 0), 4 * layout.size)
    return {of: numbers * 9 // 8 + 8 for of, numbers in held.items()}


class _Compiler:
    """Counts the tables of variances in the order in which they are met."""

    def __init__(self, gap: tuple[int, int]) -> None:
        self._gap, self.tables = gap, list[int]()

    def layout(self, shape: Shape, need: Need) -> Layout:
        if shape.flat:
            return Layout(Diagonals(1, (0,), 0), Diagonals(1, (0,), 0))
        return Layout(
            Diagonals.of(shape.height, need.rows, self._gap[0]), Diagonals.of(shape.width, need.columns, self._gap[1])
        )

    def _table(self, numbers: int) -> int:
        self.tables.append(numbers)
        return len(self.tables) - 1

    def steps(self, layers: Sequence[Layer], shape: Shape, start: Layout, last: Need) -> tuple[list[Step], Layout]:
        """The steps, all factors multiplied out at their end."""
        steps: list[Step] = []
        factors, layout = Factors(), start
        for layer, need in zip(layers, needs(layers, shape, last)[1:], strict=True):
            after = shape_after(layer, shape)
            out = self.layout(after, need)
            absorbs = isinstance(layer, Conv | Dense | AvgPool | Flatten | GlobalAvgPool)
            if not absorbs and factors != Factors():
                steps.append(Scaled(factors))
                factors = Factors()
            match layer:
                case Conv(kernel, stride, padding, weight_std, bias_std):
                    steps.append(Convolved(out, kernel, stride, padding, weight_std**2, bias_std**2, factors))
                case Dense(weight_std, bias_std):
                    steps.append(Convolved(out, (1, 1), (1, 1), (0, 0), weight_std**2, bias_std**2, factors))
                case AvgPool(kernel, stride):
                    steps.append(Pooled(out, kernel, stride, factors))
                case Flatten():
                    steps.append(Selected(self.layout(shape, EQUAL_PIXELS)))
                    steps.append(Averaged(out, 1 / (shape.height * shape.width), factors))
                case GlobalAvgPool():
                    steps.append(Averaged(out, 1 / (shape.height * shape.width) ** 2, factors))
                case LayerNorm(epsilon):
                    steps.append(Normalized(epsilon, self._table(1)))
                    out = layout
                case Residual(branch, shortcut):
                    paths = [self.steps(path, shape, layout, need)[0] for path in (branch, shortcut)]
                    steps.append(Added(tuple(paths[0]), tuple(paths[1]), out))
                case Nonlinearity(name):
                    numbers = (shape.height + 1) * (shape.width + 1) + (layout.size if layout.of_equal_pixels else 0)
                    activated = Activated(dual(name), self._table(numbers))
                    match steps[-1:]:
                        case [Convolved(activation=None) as before] if before.out == layout:
                            steps[-1] = replace(before, activation=activated)
                        case _:
                            steps.append(activated)
                    out = layout
            factors = activated.factors if isinstance(layer, Nonlinearity) else Factors() if absorbs else factors
            shape, layout = after, out
        if factors != Factors():
            steps.append(Scaled(factors))
        return steps, layout


def _plan(layers: Sequence[Layer], shape: Shape, last: Need) -> Plan:
    padding = [layer.padding for layer in _flattened(layers) if isinstance(layer, Conv)] or [(0, 0)]
    compiler = _Compiler((max(p[0] for p in padding), max(p[1] for p in padding)))
    start = compiler.layout(shape, needs(layers, shape, last)[0])
    steps, _ = compiler.steps(layers, shape, start, last)
    return Plan(start, tuple(steps), tuple(compiler.tables))


def _flattened(layers: Sequence[Layer]) -> list[Layer]:
    found: list[Layer] = []
    for layer in layers:
        found += [*_flattened(layer.branch), *_flattened(layer.shortcut)] if isinstance(layer, Residual) else [layer]
    return found


def pair_plan(layers: Sequence[Layer], shape: Shape) -> Plan:
    """For pairs of images, to one number a pair.

    Raises:
        InvalidInput: layers that do not fit the image or one another, have no such limit, or end in an image.
    """
    if not layers:
        raise InvalidInput("no layers: an image kernel needs at least a Flatten or GlobalAvgPool")
    end = _last(layers, shape)
    _nature(layers, Nature())
    if not end.flat:
        raise InvalidInput(
            f"the architecture ends in an image of {end.height}×{end.width} pixels: end it with Flatten or GlobalAvgPool, then Dense"
        )
    return _plan(layers, shape, EQUAL_PIXELS)


def variance_plan(layers: Sequence[Layer], shape: Shape) -> Plan | None:
    """For each image with itself, up to the last layer that asks for variances; None where no layer does."""
    asking = [
        k for k, layer in enumerate(layers) if any(isinstance(one, Nonlinearity | LayerNorm) for one in _flattened([layer]))
    ]
    return _plan(layers[: asking[-1] + 1], shape, EQUAL_PIXELS) if asking else None

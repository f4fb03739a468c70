"""Convolutional Gaussian-process and tangent kernels: the limits of convolutional networks with infinitely many channels.

With K[y, y'] the covariance of the pixels y of one image and y' of another, and zeros beyond the border, a convolution gives
K'[y, y'] = σ_w² mean_a K[y + a, y' + a] + σ_b² and Θ'[y, y'] = K'[y, y'] + σ_w² mean_a Θ[y + a, y' + a] over the kernel's positions a;
an elementwise φ gives K' = E[φφ], Θ' = Θ E[φ'φ']; pooling is a mean over pairs of pixels, flattening a mean over equal pixels.

Source: Novak et al. 2019 ("Bayesian deep convolutional networks with many channels are Gaussian processes"); Garriga-Alonso,
Rasmussen and Aitchison 2019 (residual blocks); Arora et al. 2019 ("On exact computation with an infinitely wide neural net", the
convolutional tangent kernel with global average pooling, section 4).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.kernel import Kernel
from nonvacuous.kernels.layers import Layer
from nonvacuous.kernels.pair_plan import Plan, Shape, pair_plan, variance_plan
from nonvacuous.kernels.pair_steps import put_down
from nonvacuous.kernels.pair_tiles import STRIP, Layout, Marginals, State, Tile
from nonvacuous.runtime.tasks import Progress

MEMORY = 2**29
"""Default budget of working memory, in bytes."""

TILE = 2 * STRIP
"""Pixel pairs of a tile where one pair of images has fewer."""

MANY_CHANNELS = 8
"""From here on a matrix product serves the first kernel."""


@torch.no_grad()
def image_kernel(
    layers: Sequence[Layer],
    x1: Tensor,
    x2: Tensor | None = None,
    *,
    memory: int = MEMORY,
    progress: Progress | None = None,
) -> Kernel:
    """The kernels ``[n1, n2]`` of an architecture on images.

    Args:
        layers: from :mod:`~nonvacuous.kernels.layers`; a Flatten or a GlobalAvgPool among them, usually a Dense last.
        x1: images ``[n1, channels, height, width]``, float32 or float64; the result has their type and device.
        x2: others ``[n2, …]`` of the same form, or None for x1 with itself (half of the work; the result is symmetric to the last bit).
        memory: bytes the calculation may hold beside images and result. Tiles of image pairs are made as large as is fast within it.
        progress: shows how many image pairs are done.

    Raises:
        InvalidInput: images of another rank or type, empty, unequal or with NaN or Inf; layers that do not fit the images or have no such
            limit; one image pair alone above the budget.

    >>> from nonvacuous.kernels.layers import Conv, Dense, Flatten, Nonlinearity
    >>> network = [Conv((3, 3), padding=(1, 1)), Nonlinearity("relu"), Flatten(), Dense()]
    >>> image = torch.ones(1, 1, 1, 1, dtype=torch.float64)  # one pixel: only the kernel's centre meets it, σ_w² = 2
    >>> [round(float(k), 12) for k in image_kernel(network, image)]  # 2 · ½ · 2/9; as much again from the first weights
    [0.222222222222, 0.444444444444]
    """
    shape = _checked(x1, x2)
    others = x1 if x2 is None else x2
    plan, alone = pair_plan(layers, shape), variance_plan(layers, shape)
    batch = _batch(plan, alone, x1, len(x1) + (0 if x2 is None else len(others)), memory)
    one, two = x1.contiguous(), others.contiguous()
    first = _variances(alone, one, batch)
    tile = Tile(x1, batch, Marginals(first, first if x2 is None else _variances(alone, two, batch)))
    end = put_down(plan.steps, _inner_products(one, two, plan.start, tile), tile, keep=False)
    result = Kernel(x1.new_zeros(len(one), len(two)), x1.new_zeros(len(one), len(two)))
    starts = _row_starts(len(one), len(two), symmetric=x2 is None)
    total = int(starts[-1])
    with (progress or Progress()).task("image pairs", total) as advance:
        for low in range(0, total, batch):
            row, column = _pairs(starts, low, min(low + batch, total), symmetric=x2 is None, device=x1.device)
            tile.run(row, column)
            for values, into in ((end.nngp, result.nngp), (end.ntk, result.ntk)):
                if values is not None:
                    into[row, column] = values[: len(row), 0]
                    if x2 is None:
                        into[column, row] = values[: len(row), 0]
            advance(len(row))
    return result


def _checked(x1: Tensor, x2: Tensor | None) -> Shape:
    for name, x in (("x1", x1), ("x2", x2)):
        if x is None:
            continue
        if not isinstance(x, Tensor) or x.ndim != 4:
            what = f"of shape {tuple(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"
            raise InvalidInput(f"{name} is {what}: give images [n, channels, height, width]; for vectors there is nngp_ntk")
        if 0 in x.shape:
            raise InvalidInput(
                f"{name} of shape {tuple(x.shape)} is empty: give at least one image with a channel and a pixel"
            )
        if x.dtype not in (torch.float32, torch.float64):
            raise InvalidInput(f"{name} is {x.dtype}: convert it to float32 or float64")
        if x.device.type != "meta" and not bool(torch.isfinite(x).all()):
            raise InvalidInput(f"{name} holds NaN or Inf: remove those images")
    if x2 is not None and (x1.shape[1:] != x2.shape[1:] or x1.dtype != x2.dtype or x1.device != x2.device):
        raise InvalidInput(
            f"x1 {tuple(x1.shape)} {x1.dtype} on {x1.device}, x2 {tuple(x2.shape)} {x2.dtype} on {x2.device}: give both the same channels, "
            "size, type and device"
        )
    return Shape(x1.shape[2], x1.shape[3])


def _row_starts(n1: int, n2: int, *, symmetric: bool) -> Tensor:
    """How many pairs come before each row's, and the number of all at the end."""
    lengths = torch.arange(n1, 0, -1) if symmetric else torch.full((n1,), n2)
    return torch.cat([torch.zeros(1, dtype=torch.long), lengths.cumsum(0)])


def _pairs(starts: Tensor, low: int, high: int, *, symmetric: bool, device: torch.device) -> tuple[Tensor, Tensor]:
    """The image pairs number low … high − 1, row by row; of a symmetric kernel, the upper triangle's."""
    number = torch.arange(low, high)
    row = torch.searchsorted(starts, number, right=True) - 1
    column = number - starts[row] + (row if symmetric else 0)
    return row.to(device), column.to(device)


def _inner_products(one: Tensor, two: Tensor, layout: Layout, tile: Tile) -> State:
    """⟨x_y, x'_y'⟩ / channels for the layout's pairs of pixels."""
    (rows, columns), batch = layout, tile.batch
    channels, height, width = one.shape[1:]
    state = State(tile.take(batch * rows.length, columns.length), None, layout)
    shape = (batch, channels, height, width)
    left, right = (tile.take(batch * channels * height, width).view(shape) for _ in range(2))
    tile.do(torch.index_select, one, 0, tile.first, out=left)
    tile.do(torch.index_select, two, 0, tile.second, out=right)
    tile.do(right.div_, channels)
    if channels > MANY_CHANNELS and 4 * layout.size > (height * width) ** 2:
        grams = tile.take(batch * height * width, height * width).view(batch, height * width, height * width)
        tile.do(torch.bmm, left.flatten(2).transpose(1, 2), right.flatten(2), out=grams)
        down = rows.first.clamp(max=height - 1) * height * width * width + rows.second.clamp(max=height - 1) * width
        across = columns.first.clamp(max=width - 1) * height * width + columns.second.clamp(max=width - 1)
        places = tile.placed((down[:, None] + across).flatten())
        tile.do(torch.index_select, grams.view(batch, -1), 1, places, out=state.nngp.view(batch, -1))
        tile.zero_gaps(state.nngp, layout, slice(0, len(state.nngp)))
        return state
    wide = []
    for images, across in ((left, columns.first), (right, columns.second)):
        padded = tile.take(batch * channels * (height + 1), width + 1).view(batch, channels, height + 1, width + 1)
        tile.do(padded.zero_)
        tile.do(padded[..., :height, :width].copy_, images)
        wide.append(tile.take(batch * channels * (height + 1), columns.length))
        tile.do(torch.index_select, padded.view(-1, width + 1), 1, tile.placed(across), out=wide[-1])
        tile.give(padded)
    of_first, of_second = (tile.repeated(index, channels * (height + 1)) for index in (rows.first, rows.second))
    for strip in tile.strips(layout):
        spare, place = [tile.take(strip.stop - strip.start, columns.length) for _ in range(2)], state.nngp[strip]
        for c in range(channels):
            tile.do(torch.index_select, wide[0], 0, of_first[strip] + c * (height + 1), out=spare[0])
            tile.do(torch.index_select, wide[1], 0, of_second[strip] + c * (height + 1), out=spare[1])
            if c == 0:
                tile.do(torch.mul, *spare, out=place)
            else:
                tile.do(place.addcmul_, *spare)
        tile.give(*spare)
    tile.give(left, right, *wide)
    return state


def _variances(plan: Plan | None, x: Tensor, batch: int) -> list[Tensor]:
    """The tables that the steps ask for, of every image."""
    if plan is None:
        return []
    tile = Tile(x, min(batch, len(x)), None)
    put_down(plan.steps, _inner_products(x, x, plan.start, tile), tile, keep=False)
    tables = [x.new_empty(len(x), *measured.shape[1:]) for measured in tile.measured]
    for low in range(0, len(x), tile.batch):
        images = torch.arange(low, min(low + tile.batch, len(x)), device=x.device)
        tile.run(images, images)
        for table, measured in zip(tables, tile.measured, strict=True):
            table[images] = measured[: len(images)]
    return tables


def batch_within(layers: Sequence[Layer], x1: Tensor, memory: int, x2: Tensor | None = None) -> int:
    """How many image pairs :func:`image_kernel` takes at once within a budget of working memory.

    Raises ``InvalidInput`` where there is no room for one pair.
    """
    shape = _checked(x1, x2)
    plan, alone = pair_plan(layers, shape), variance_plan(layers, shape)
    return _batch(plan, alone, x1, len(x1) + (0 if x2 is None else len(x2)), memory)


def _batch(plan: Plan, alone: Plan | None, x: Tensor, images: int, memory: int) -> int:
    width = x.element_size()
    tables = images * sum(alone.table_sizes) * width if alone is not None else 0
    strips = (
        max(one.strips for one in (plan, alone) if one is not None)
        * STRIP
        * (torch.get_num_threads() if x.device.type == "cpu" else 1)
        * width
    )
    each = width * max(one.numbers(x.shape[1]) for one in (plan, alone) if one is not None)
    if tables + strips + each > memory:
        raise InvalidInput(
            f"one pair of images of {x.shape[2]}×{x.shape[3]} takes {_told(each)} ({plan.start.size:,} pairs of pixels a kernel), beside "
            f"{_told(tables)} for the variances of {images} images and {_told(strips)} for what is in the cache, and the budget is "
            f"memory={memory}: raise it, give smaller or fewer images, stride or pool before the wide layers, or end in Flatten instead of "
            "GlobalAvgPool, which needs equal pixels only"
        )
    fits = (memory - tables - strips) // each
    fast = TILE * torch.get_num_threads() // plan.start.size if x.device.type == "cpu" else fits
    return int(max(1, min(fits, fast)))


def _told(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000 or unit == "GB":
            break
        size /= 1000
    return f"{size:.3g} {unit}"

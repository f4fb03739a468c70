"""Image kernels against plain loops over pixel pairs, against finite networks, against each other, and at the edges."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.activations import dual
from nonvacuous.kernels.convolution import batch_within, image_kernel
from nonvacuous.kernels.kernel import Kernel
from nonvacuous.kernels.layers import AvgPool, Conv, Dense, Flatten, GlobalAvgPool, Layer, LayerNorm, Nonlinearity, Residual
from nonvacuous.kernels.pair_tiles import Tile

RELU = Nonlinearity("relu")
READOUT = Dense(1.3, 0.1)


def same(bias: float = 0.0, stride: int = 1, weight: float = math.sqrt(2)) -> Conv:
    return Conv((3, 3), (stride, stride), (1, 1), weight, bias)


STACK = (same(0.2), RELU, same(0.1), RELU)
NETWORKS: dict[str, tuple[Layer, ...]] = {
    "dense": (Flatten(), Dense(bias_std=0.3), RELU, Dense(), RELU, READOUT),
    "flatten": (*STACK, Flatten(), READOUT),
    "global pooling": (*STACK, GlobalAvgPool(), READOUT),
    "valid": (Conv((3, 2)), RELU, Conv((2, 3), bias_std=0.1), RELU, GlobalAvgPool(), READOUT),
    "valid, flatten": (Conv((3, 2)), RELU, Conv((2, 3), bias_std=0.1), RELU, Flatten(), READOUT),
    "strides": (same(0.1, 2), RELU, Conv((2, 3), (1, 2), (0, 1)), RELU, GlobalAvgPool(), READOUT),
    "strides, flatten": (same(0.1, 2), RELU, Conv((1, 3), (1, 2), (0, 1)), RELU, Flatten(), READOUT),
    "pool, flatten": (same(), RELU, AvgPool((2, 2), (2, 2)), same(0.1), RELU, AvgPool((2, 1), (1, 1)), Flatten(), READOUT),
    "pool, dense head": (same(), RELU, AvgPool((2, 3), (1, 2)), Flatten(), Dense(bias_std=0.2), RELU, READOUT),
    "pool before relu": (same(), AvgPool((2, 2), (2, 2)), RELU, same(0.1), RELU, GlobalAvgPool(), READOUT),
    "wide padding": (
        Conv((3, 3), (2, 2), (2, 3)),
        RELU,
        Conv((1, 1), (1, 1), (1, 1), 1.0, 0.3),
        RELU,
        GlobalAvgPool(),
        READOUT,
    ),
    "large kernels": (Conv((5, 4), (1, 1), (2, 2), 1.1), RELU, Conv((4, 5), (1, 1), (1, 2)), RELU, GlobalAvgPool(), READOUT),
    "residual": (
        same(),
        Residual((RELU, same(0.2), RELU, same())),
        Residual((RELU, same(0.1, 2), RELU, same()), (Conv((1, 1), (2, 2), (0, 0), 1.0),)),
        RELU,
        GlobalAvgPool(),
        READOUT,
    ),
    "residual, flatten": (
        same(0.1),
        Residual((RELU, same(0.2), RELU, same()), ()),
        Residual((RELU, same(0.1, 2)), (AvgPool((1, 1), (2, 2)), Conv((1, 1)))),
        RELU,
        Flatten(),
        READOUT,
    ),
    "residual around relu": (same(0.1), RELU, Residual((same(0.1), RELU, same())), same(), RELU, GlobalAvgPool(), READOUT),
    "pooled shortcut": (
        same(),
        RELU,
        Residual((same(0.0, 2), RELU, same(0.1)), (AvgPool((2, 1), (2, 2)), Conv((1, 1)))),
        RELU,
        Flatten(),
        READOUT,
    ),
    "nested": (same(), Residual((RELU, same(), Residual((RELU, same(0.1)))), (LayerNorm(),)), RELU, GlobalAvgPool(), READOUT),
    "layer norm": (
        same(0.1),
        LayerNorm(),
        RELU,
        same(),
        LayerNorm(1e-2),
        RELU,
        GlobalAvgPool(),
        Dense(),
        LayerNorm(),
        RELU,
        READOUT,
    ),
    "leaky": (same(), Nonlinearity("leaky_relu"), same(0.2), Nonlinearity("abs"), GlobalAvgPool(), READOUT),
    "erf": (same(), Nonlinearity("erf"), same(0.2), Nonlinearity("gelu"), GlobalAvgPool(), READOUT),
    "sin": (same(), Nonlinearity("sin"), same(0.2), Nonlinearity("cos"), AvgPool((2, 2), (2, 2)), Flatten(), READOUT),
    "linear": (same(0.3), same(), AvgPool((2, 2), (1, 1)), Flatten(), READOUT),
    "no weights": (AvgPool((2, 2), (1, 1)), GlobalAvgPool()),
}


def images(n: int, height: int = 6, width: int = 5, channels: int = 2, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, channels, height, width, generator=generator, dtype=torch.float64)


Pair = tuple[np.ndarray, np.ndarray]
"""nngp and ntk of two images, ``[h, w, h', w']``."""


def oracle(layers: Sequence[Layer], a: Tensor, b: Tensor) -> Kernel:
    """All pixel pairs of all image pairs, by loops; the images' own kernels are carried along for their variances."""
    values = np.zeros((2, len(a), len(b)))
    for i, first in enumerate(a):
        for j, second in enumerate(b):
            trio = []
            for p, q in ((first, first), (first, second), (second, second)):
                gram = np.einsum("cyx,cvu->yxvu", p.numpy(), q.numpy()) / len(p)
                trio.append((gram, np.zeros_like(gram)))
            _, (nngp, ntk), _ = through(layers, trio)
            values[:, i, j] = nngp.item(), ntk.item()
    return Kernel(torch.tensor(values[0]), torch.tensor(values[1]))


def through(layers: Sequence[Layer], trio: list[Pair]) -> list[Pair]:
    for layer in layers:
        match layer:
            case Conv(kernel, stride, padding, w, b):
                trio = [convolved(pair, kernel, stride, padding, w, b) for pair in trio]
            case Dense(w, b):
                trio = [convolved(pair, (1, 1), (1, 1), (0, 0), w, b) for pair in trio]
            case Nonlinearity(name):
                own = [np.einsum("yxyx->yx", trio[k][0]) for k in (0, 2)]
                trio = [
                    activated(name, pair, own[v1], own[v2])
                    for pair, (v1, v2) in zip(trio, ((0, 0), (0, 1), (1, 1)), strict=True)
                ]
            case AvgPool(kernel, stride):
                trio = [(pooled(pair[0], kernel, stride), pooled(pair[1], kernel, stride)) for pair in trio]
            case GlobalAvgPool():
                trio = [tuple(k.mean().reshape(1, 1, 1, 1) for k in pair) for pair in trio]
            case Flatten():
                trio = [tuple(np.einsum("yxyx->yx", k).mean().reshape(1, 1, 1, 1) for k in pair) for pair in trio]
            case LayerNorm(epsilon):
                own = [np.einsum("yxyx->yx", trio[k][0]).mean() + epsilon for k in (0, 2)]
                scales = (own[0], math.sqrt(own[0] * own[1]), own[1])
                trio = [(k / s, t / s) for (k, t), s in zip(trio, scales, strict=True)]
            case Residual(branch, shortcut):
                trio = [
                    (k + m, t + u) for (k, t), (m, u) in zip(through(branch, trio), through(shortcut, trio), strict=True)
                ]  # fmt: skip
    return trio


def convolved(pair: Pair, kernel, stride, padding, w: float, b: float) -> Pair:
    height, width = pair[0].shape[:2]
    rows = (height + 2 * padding[0] - kernel[0]) // stride[0] + 1
    columns = (width + 2 * padding[1] - kernel[1]) // stride[1] + 1
    nngp, ntk = np.zeros((2, rows, columns, rows, columns))
    for y, x, v, u in np.ndindex(nngp.shape):
        for i, j in np.ndindex(*kernel):
            p, q = (y * stride[0] - padding[0] + i, x * stride[1] - padding[1] + j)
            r, s = (v * stride[0] - padding[0] + i, u * stride[1] - padding[1] + j)
            if 0 <= p < height and 0 <= r < height and 0 <= q < width and 0 <= s < width:
                nngp[y, x, v, u] += pair[0][p, q, r, s]
                ntk[y, x, v, u] += pair[1][p, q, r, s]
    weight = w * w / (kernel[0] * kernel[1])
    nngp = weight * nngp + b * b
    return nngp, nngp + weight * ntk


def activated(name: str, pair: Pair, v1: np.ndarray, v2: np.ndarray) -> Pair:
    one, two = torch.tensor(v1)[:, :, None, None], torch.tensor(v2)[None, None]
    value, slope = dual(name).moments(one, torch.tensor(pair[0]), two)
    return value.numpy(), pair[1] * slope.numpy()


def pooled(k: np.ndarray, kernel, stride) -> np.ndarray:
    windows = np.lib.stride_tricks.sliding_window_view(k, (*kernel, *kernel))
    return windows[:: stride[0], :: stride[1], :: stride[0], :: stride[1]].mean((4, 5, 6, 7))


@pytest.mark.parametrize("name", NETWORKS)
def test_equals_loops_over_pixel_pairs(name: str) -> None:
    a, b = images(1), images(1, seed=1)
    found, expected = image_kernel(NETWORKS[name], a, b), oracle(NETWORKS[name], a, b)
    torch.testing.assert_close(found.nngp, expected.nngp, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found.ntk, expected.ntk, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["flatten", "global pooling", "pool before relu", "residual", "layer norm", "erf"])
def test_one_call_equals_a_call_a_pair(name: str) -> None:
    a, b = images(5), images(4, seed=1)
    whole = image_kernel(NETWORKS[name], a, b)
    for i, j in ((0, 0), (3, 2), (4, 3)):
        one = image_kernel(NETWORKS[name], a[i : i + 1], b[j : j + 1])
        torch.testing.assert_close(Kernel(whole.nngp[i : i + 1, j : j + 1], whole.ntk[i : i + 1, j : j + 1]), one)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["flatten", "global pooling", "residual", "leaky", "erf"])
def test_symmetric_and_positive_semi_definite(name: str, dtype: torch.dtype) -> None:
    a = images(9).to(dtype)
    mine, both = image_kernel(NETWORKS[name], a), image_kernel(NETWORKS[name], a, a.clone())
    for square, other in zip(mine, both, strict=True):
        assert torch.equal(square, square.T)
        torch.testing.assert_close(square, other)
        assert float(torch.linalg.eigvalsh(square.double())[0]) > -1e-6 * float(square.diagonal().max())


@pytest.mark.parametrize("name", NETWORKS)
def test_single_precision(name: str) -> None:
    a = images(6)
    a[4] = a[0] + 1e-6 * a[1]  # almost equal: where arccos loses digits
    for found, exact in zip(image_kernel(NETWORKS[name], a.float()), image_kernel(NETWORKS[name], a), strict=True):
        assert float((found - exact).abs().max()) <= 3e-4 * float(exact.abs().max())


@pytest.mark.parametrize("name", ["flatten", "global pooling", "residual", "leaky", "erf"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_identical_and_zero_images(name: str, dtype: torch.dtype) -> None:
    a = images(4).to(dtype)
    a[2], a[3] = a[0], 0
    for k in image_kernel(NETWORKS[name], a):
        assert bool(torch.isfinite(k).all())
        torch.testing.assert_close(k[0], k[2], rtol=50 * torch.finfo(dtype).eps, atol=0)
        torch.testing.assert_close(k[0, 2], k[0, 0], rtol=50 * torch.finfo(dtype).eps, atol=0)
    for k in image_kernel((Conv((3, 3)), RELU, Flatten(), Dense()), a):  # without biases, nothing comes from nothing
        assert float(k[3].abs().max()) < 1e-12


def test_scale_of_the_images_does_not_matter_to_relu() -> None:
    network = (same(), RELU, same(), RELU, GlobalAvgPool(), Dense())
    a = images(3).float()
    for power in (-8, 8):
        scaled = image_kernel(network, a * 10.0**power)
        torch.testing.assert_close(scaled.ntk / 10.0 ** (2 * power), image_kernel(network, a).ntk, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", [(6, 5), (14, 13)])
def test_working_memory_stays_within_what_is_said(name: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    run = Tile.run

    def watched(tile: Tile, first: Tensor, second: Tensor) -> None:
        held.append(tile.buffers.held)
        run(tile, first, second)

    monkeypatch.setattr(Tile, "run", watched)
    a = images(3, *size, channels=1 if size[0] > 6 else 2)
    least = _least(NETWORKS[name], a)
    found = image_kernel(NETWORKS[name], a, memory=least)
    assert 0 < max(held) <= least
    torch.testing.assert_close(found, image_kernel(NETWORKS[name], a))


def _least(network: Sequence[Layer], a: Tensor) -> int:
    """The smallest budget that is accepted."""
    low, high = 0, 2**29
    while high - low > 1000:
        middle = (low + high) // 2
        try:
            batch_within(network, a, middle)
            high = middle
        except InvalidInput:
            low = middle
    return high


BAD: dict[str, tuple[Sequence[Layer], Tensor, Tensor | None, str]] = {
    "rank": (NETWORKS["flatten"], torch.ones(3, 4), None, "channels, height, width"),
    "type": (NETWORKS["flatten"], torch.ones(1, 1, 4, 4, dtype=torch.uint8), None, "float32"),
    "empty": (NETWORKS["flatten"], torch.ones(0, 1, 4, 4), None, "empty"),
    "nan": (NETWORKS["flatten"], torch.full((1, 1, 4, 4), math.nan), None, "NaN"),
    "channels": (NETWORKS["flatten"], torch.ones(1, 1, 4, 4), torch.ones(1, 2, 4, 4), "same channels"),
    "types": (NETWORKS["flatten"], torch.ones(1, 1, 4, 4), torch.ones(1, 1, 4, 4).double(), "type"),
    "kernel": ((Conv((5, 5)), Flatten()), torch.ones(1, 1, 4, 4), None, "5×5 kernel does not fit an image of 4×4"),
    "pool": ((Conv((3, 3)), AvgPool((3, 3), (1, 1)), Flatten()), torch.ones(1, 1, 4, 4), None, "nothing is left"),
    "no end": ((same(), RELU), torch.ones(1, 1, 4, 4), None, "Flatten or GlobalAvgPool"),
    "no layers": ((), torch.ones(1, 1, 4, 4), None, "no layers"),
    "dense on an image": ((same(), Dense()), torch.ones(1, 1, 4, 4), None, "put Flatten or GlobalAvgPool before it"),
    "conv on a vector": ((Flatten(), same()), torch.ones(1, 1, 4, 4), None, "made a vector"),
    "two in a row": ((same(), RELU, RELU, Flatten()), torch.ones(1, 1, 4, 4), None, "follows a nonlinearity"),
    "relu of the inputs": ((RELU, Flatten()), torch.ones(1, 1, 4, 4), None, "the inputs themselves"),
    "norm after relu": ((same(), RELU, LayerNorm(), Flatten()), torch.ones(1, 1, 4, 4), None, "mean is not 0"),
    "unknown": ((same(), Nonlinearity("rectum"), Flatten()), torch.ones(1, 1, 4, 4), None, "rectum"),
    "shapes": ((same(), Residual((same(0, 2),)), Flatten()), torch.ones(1, 1, 4, 4), None, "same strides"),
    "raw shortcut": ((Residual((same(),)), Flatten()), torch.ones(1, 1, 4, 4), None, "Conv before the block"),
    "correlated": ((same(), Residual((RELU,)), Flatten()), torch.ones(1, 1, 4, 4), None, "correlated"),
    "relu after a sum": ((same(), RELU, Residual((same(),)), RELU, Flatten()), torch.ones(1, 1, 4, 4), None, "follows"),
    "stranger": ((same(), nn.ReLU(), Flatten()), torch.ones(1, 1, 4, 4), None, "no layer"),  # type: ignore[dict-item]
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_a_remedy(name: str) -> None:
    layers, a, b, message = BAD[name]
    with pytest.raises(InvalidInput, match=message):
        image_kernel(layers, a, b)


def test_a_budget_too_small_names_the_size_and_what_to_do() -> None:
    with pytest.raises(InvalidInput, match=r"614,656|GB.*Flatten"):
        image_kernel((same(), RELU, GlobalAvgPool(), Dense()), torch.zeros(1, 1, 128, 128), memory=10**8)
    image_kernel((same(), RELU, Flatten(), Dense()), torch.zeros(1, 1, 128, 128), memory=10**8)


class Wide(nn.Module):
    """Finite networks of the tangent parametrisation, written out for the test below."""

    def __init__(self, layers: Sequence[Layer], channels: int, width: int, size: int, seed: int) -> None:
        super().__init__()
        self.layers, self.width, self.size, self.seed = layers, width, size, seed
        self.generator = torch.Generator().manual_seed(seed)
        self.weights = nn.ParameterList()
        self.through(layers, torch.zeros(1, channels, size, size), last=layers[-1], grow=True)

    def forward(self, x: Tensor) -> Tensor:
        self.at = 0
        return self.through(self.layers, x, last=self.layers[-1])

    def through(self, layers: Sequence[Layer], x: Tensor, *, last: Layer, grow: bool = False) -> Tensor:
        for layer in layers:
            match layer:
                case Conv(kernel, stride, padding, w, b):
                    weight, bias = self.next((self.width, x.shape[1], *kernel), grow)
                    x = nn.functional.conv2d(x, weight * w / math.sqrt(weight[0].numel()), b * bias, stride, padding)
                case Dense(w, b):
                    weight, bias = self.next((1 if layer is last else self.width, x.shape[1]), grow)
                    x = nn.functional.linear(x, weight * w / math.sqrt(x.shape[1]), b * bias)
                case Nonlinearity():
                    x = x.relu()
                case AvgPool(kernel, stride):
                    x = nn.functional.avg_pool2d(x, kernel, stride)
                case GlobalAvgPool():
                    x = x.mean((2, 3))
                case Flatten():
                    x = x.flatten(1)
                case LayerNorm(epsilon):
                    x = nn.functional.layer_norm(x, x.shape[1:], eps=epsilon)
                case Residual(branch, shortcut):
                    x = self.through(branch, x, last=last, grow=grow) + self.through(shortcut, x, last=last, grow=grow)
        return x

    def next(self, shape: tuple[int, ...], grow: bool) -> tuple[Tensor, Tensor]:
        if grow:
            for size in (shape, shape[:1]):
                self.weights.append(nn.Parameter(torch.randn(*size, generator=self.generator)))
            return self.weights[-2], self.weights[-1]
        self.at += 2
        return self.weights[self.at - 2], self.weights[self.at - 1]


@pytest.mark.parametrize("name", ["strides", "pool, dense head", "residual", "layer norm"])
def test_is_the_limit_of_finite_networks(name: str) -> None:
    layers, x = NETWORKS[name], images(2, 5, 5).float()
    outputs, tangents = [], []
    for seed in range(60):
        network = Wide(layers, 2, 48, 5, seed)
        out = network(x)[:, 0]
        grads = [
            torch.cat([g.flatten() for g in torch.autograd.grad(o, list(network.parameters()), retain_graph=True)])
            for o in out
        ]
        outputs.append(out.detach().outer(out.detach()))
        tangents.append(torch.stack(grads) @ torch.stack(grads).T)
    limit = image_kernel(layers, x)
    for draws, expected in ((torch.stack(outputs), limit.nngp), (torch.stack(tangents), limit.ntk)):
        error = draws.std(0) / math.sqrt(len(draws))
        assert bool(((draws.mean(0) - expected).abs() < 4 * error + 0.05 * expected.abs()).all()), (draws.mean(0), expected)

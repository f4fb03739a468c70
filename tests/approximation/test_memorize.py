"""Memorising: exactly 2n + d numbers, any labels, float64."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nonvacuous.approximation.memorize import memorize
from nonvacuous.core.errors import InvalidInput

IMAGES = Path("/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz")


def images(n: int) -> torch.Tensor:
    with gzip.open(IMAGES) as file:
        pixels = np.frombuffer(file.read(16 + 784 * n), np.uint8, offset=16)
    return torch.from_numpy(pixels.reshape(n, 784).copy()).double() / 255


def numbers(module: torch.nn.Module) -> int:
    assert not list(module.buffers())
    return sum(p.numel() for p in module.parameters() if p.requires_grad)


@pytest.mark.data("fashion-mnist")
def test_ten_thousand_images_with_random_labels():
    x = images(10_000)
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 10, (10_000,), generator=generator).double()
    built = memorize(x, y)
    with torch.no_grad():
        off = (built.module(x) - y).abs()
        shuffled = torch.randperm(10_000, generator=generator)
        again = (built.module(x[shuffled]) - y[shuffled]).abs()
        single = (torch.cat([built.module(x[i : i + 1]) for i in range(200)]) - y[:200]).abs()
        z, hinges = x @ built.module.direction, built.module.hinges
        plain = torch.cat([(rows[:, None] - hinges.knots).relu() @ hinges.weight for rows in z.split(500)])
    assert numbers(built.module) == 2 * 10_000 + 784 == built.cost.parameters
    assert float(off.max()) == built.error.upper
    assert float(torch.cat([off, again, single]).max()) <= 1e-8 * 9  # 1e-6 is asked for
    assert float((plain - y).abs().max()) <= 1e-6 * 9  # even hinge by hinge, with all its cancellation
    assert int((built.module(x).round() == y).sum()) == 10_000


@pytest.mark.data("fashion-mnist")
def test_the_naive_solve_loses_four_digits():
    """Zhang et al.'s proof as it stands: a random direction, biases anywhere between, one triangular solve."""
    x = images(10_000)
    generator = torch.Generator().manual_seed(0)
    y = torch.randint(0, 10, (10_000,), generator=generator).double()
    z, order = (x @ torch.randn(784, dtype=torch.float64, generator=generator)).sort()
    knots = torch.cat([z[:1] - 1, (z[1:] + z[:-1]) / 2])
    matrix = (z[:, None] - knots).relu()
    weight = torch.linalg.solve_triangular(matrix, y[order][:, None], upper=False)
    assert float((matrix @ weight - y[order][:, None]).abs().max()) / 9 > 1e-5


@settings(max_examples=60)
@given(
    st.integers(1, 4).flatmap(lambda d: st.lists(st.tuples(*[st.integers(-3, 3)] * d), min_size=1, max_size=25, unique=True)),
    st.integers(0, 10**6),
)
def test_any_values_on_any_points(points, seed):
    x = torch.tensor(points, dtype=torch.float64)
    y = torch.randn(len(x), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    built = memorize(x, y, candidates=4)
    assert numbers(built.module) == 2 * len(x) + x.shape[1]
    assert torch.allclose(built.module(x), y, rtol=0, atol=1e-6 * float(y.abs().max()))


@pytest.mark.parametrize("scale", [1e-150, 1e-5, 1.0, 1e5, 1e150])
def test_scale_does_not_matter(scale):
    x = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * scale
    y = torch.randn(50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert memorize(x, y).error.upper <= 1e-9


def test_zeros_constants_and_single_points():
    assert memorize(torch.zeros(1, 5), torch.tensor([3.0])).error.upper == 0
    assert memorize(torch.eye(4), torch.zeros(4)).error.upper == 0
    assert memorize(torch.eye(4), torch.full((4,), 2.0)).error.upper <= 1e-15
    assert memorize(torch.eye(4), torch.arange(4)).error.upper <= 1e-9  # whole numbers are taken


def test_duplicates():
    x = torch.tensor([[0.0, 1.0], [2.0, 0.5], [-0.0, 1.0]])
    built = memorize(x, torch.tensor([1.0, 2.0, 1.0]))
    assert numbers(built.module) == 2 * 3 + 2
    assert built.error.upper <= 1e-9
    with pytest.raises(InvalidInput, match="points 0 and 2 are equal and have different values, 1 and 5"):
        memorize(x, torch.tensor([1.0, 2.0, 5.0]))


def test_the_same_seed_gives_the_same_network():
    x, y = torch.randn(30, 4, generator=torch.Generator().manual_seed(3)), torch.arange(30.0)
    one, same, other = memorize(x, y), memorize(x, y), memorize(x, y, seed=1)
    assert torch.equal(one.module.direction, same.module.direction)
    assert not torch.equal(one.module.direction, other.module.direction)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(3, 28, 28), torch.zeros(3), "flattened"),
        (torch.zeros(3, 2), torch.zeros(4), "flattened"),
        (torch.zeros(0, 2), torch.zeros(0), "n ≥ 1"),
        (torch.tensor([[0.0], [float("nan")]]), torch.zeros(2), "point 1 is not finite"),
        (torch.tensor([[0.0], [1.0]]), torch.tensor([float("inf"), 0.0]), "value 0 is not finite"),
        (torch.tensor([[1e8], [0.0], [1e8 + 2**-26]], dtype=torch.float64), torch.tensor([0.0, 1.0, 2.0]), "points 0 and 2"),
    ],
)
def test_bad_input_is_refused(x, y, message):
    with pytest.raises(InvalidInput, match=message):
        memorize(x, y)

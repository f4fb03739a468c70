"""Rates that suffer from the dimension, and trees that do not."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from nonvacuous.approximation.compositional import (
    ShallowNetwork,
    TreeNetwork,
    _monomials,
    _regression,
    approximation_rate,
    compare,
    learning_rate,
    node,
    on_tree,
    random_target,
    table,
)
from nonvacuous.core.errors import InvalidInput


@pytest.mark.parametrize(("s", "d"), [(1, 1), (2, 1), (3, 1), (4, 1), (1, 2), (2, 2), (3, 2), (1, 3), (2, 3)])
def test_approximation_has_rate_s_over_d(s: int, d: int) -> None:
    rate = approximation_rate(s, d)
    assert rate.expected == -s / d and rate.agrees, rate.row()
    assert rate.high - rate.low < 0.02
    assert all(a > b for row in rate.errors for a, b in pairwise(row))


@pytest.mark.parametrize(("s", "d"), [(1, 1), (2, 1), (1, 2), (2, 2), (1, 3), (2, 3)])
def test_learning_without_noise_has_the_same_rate(s: int, d: int) -> None:
    rate = learning_rate(s, d)
    assert rate.expected == -s / d and rate.agrees, rate.row()


@pytest.mark.parametrize(("s", "d"), [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_noise_slows_learning_to_the_minimax_rate(s: int, d: int) -> None:
    rate = learning_rate(s, d, noise=0.5)
    assert rate.expected == -s / (2 * s + d) and rate.agrees, rate.row()
    assert rate.low > -s / d  # the deck's rate is not attained with noise


def test_rates_are_seeded_and_tabulated() -> None:
    rate, same, other = (approximation_rate(1, 1, seed=seed) for seed in (0, 0, 1))
    assert rate == same and rate.errors != other.errors
    lines = table([rate, learning_rate(1, 1, cells=(4, 8), targets=2)]).splitlines()
    assert len(lines) == 3 and "theory" in lines[0] and "-1.000" in lines[1] and lines[2].startswith("learning")


@pytest.mark.parametrize("d", [1, 2, 3])
def test_local_regression_is_exact_on_polynomials_of_its_degree(d: int) -> None:
    g = torch.Generator().manual_seed(0)
    x, fresh = (torch.rand(n, d, generator=g, dtype=torch.float64) for n in (4000, 100))

    def f(p: torch.Tensor) -> torch.Tensor:
        return (3 * p[:, 0] - 1) * (p[:, -1] + 2)

    assert float((_regression(x, f(x), fresh, 3, 3) - f(fresh)).abs().max()) < 1e-6
    assert _monomials(fresh, 3).shape == (100, [3, 6, 10][d - 1])


def test_the_target_is_what_it_says() -> None:
    x = torch.rand(7, 4)
    assert torch.equal(on_tree(x, node), node(node(x[:, 0], x[:, 1]), node(x[:, 2], x[:, 3])))
    assert torch.equal(on_tree(x, torch.add), (x[:, 0] + x[:, 1]) + (x[:, 2] + x[:, 3]))
    f = random_target(2, 3)
    y = torch.rand(5, 2, dtype=torch.float64)
    assert torch.equal(f(y), random_target(2, 3)(y)) and not torch.equal(f(y), random_target(2, 4)(y))


def test_the_tree_network_is_a_tree() -> None:
    net = TreeNetwork(8, 5)
    assert sum(p.numel() for p in net.parameters()) == 7 * 21
    x = torch.randn(3, 8, requires_grad=True)
    assert net(x).shape == (3,)

    def one(i: int, pair: torch.Tensor) -> torch.Tensor:
        return (pair @ net.inner[i] + net.bias[i]).relu() @ net.outer[i] + net.offset[i]

    def by_hand() -> torch.Tensor:
        low = [one(i, x[:, 2 * i : 2 * i + 2]) for i in range(4)]
        middle = [one(4, torch.cat(low[:2], 1)), one(5, torch.cat(low[2:], 1))]
        return one(6, torch.cat(middle, 1))[:, 0]

    torch.testing.assert_close(net(x), by_hand())
    assert sum(p.numel() for p in ShallowNetwork(8, 15).parameters()) == 151


def test_a_deep_tree_beats_a_shallow_network_of_equal_size() -> None:
    found = compare(8, 16, seeds=(0, 1), steps=250)
    assert found.deep_parameters <= found.shallow_parameters <= 1.03 * found.deep_parameters
    assert max(found.deep) < 0.8 * min(found.shallow), found


def test_comparisons_are_seeded() -> None:
    found, again = compare(4, 3, seeds=(0, 1), steps=5), compare(4, 3, seeds=(1,), steps=5)
    assert again.deep[0] == found.deep[1] and again.shallow[0] == found.shallow[1]


def test_training_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    compare(2, 2, seeds=(0,), steps=2)
    assert torch.equal(torch.rand(3), expected)


def test_bad_arguments_are_refused() -> None:
    for s, d in ((0, 1), (5, 1), (1, 0), (1, 4)):
        with pytest.raises(InvalidInput, match="s is 1 to"):
            approximation_rate(s, d)
    with pytest.raises(InvalidInput, match="at least 2 targets"):
        learning_rate(1, 1, targets=1)
    with pytest.raises(InvalidInput, match="noise"):
        learning_rate(1, 1, noise=-1.0)
    with pytest.raises(InvalidInput, match="at least two different"):
        approximation_rate(1, 1, cells=(4, 4))
    with pytest.raises(InvalidInput, match="evaluations"):
        approximation_rate(1, 3, cells=(4, 1000))
    with pytest.raises(InvalidInput, match="leaves"):
        compare(6)
    with pytest.raises(InvalidInput, match="at least one seed"):
        compare(8, seeds=())

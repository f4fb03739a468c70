"""Gaussian processes by increasing depth: simulation against the wide limit, what contraction forgets, tightness, λ_min."""

from __future__ import annotations

import math

import pytest
import torch

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.depth import (
    ShortcutNetwork,
    averaged_over_signs,
    forgetting,
    simulated,
    smallest_eigenvalue,
    smallest_eigenvalue_slope,
    tightness,
    values,
    wide_limit,
)
from nonvacuous.kernels.recursion import nngp_ntk


def inputs(n=5, d=8, seed=0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_one_term_is_the_layers_own_kernel():
    x = inputs()
    for depth in (1, 3):
        network = ShortcutNetwork(width=4, terms=1, first=depth, activation="relu", weight_std=1.2, bias_std=0.3)
        nngp = nngp_ntk(x, depth=depth, weight_std=1.2, bias_std=0.3).nngp
        torch.testing.assert_close(wide_limit(network, x), (nngp - 0.3**2) / 1.2**2)


def test_more_terms_are_the_mean_over_layers():
    x = inputs()
    network = ShortcutNetwork(width=4, terms=3, first=2, spacing=2)
    single = [wide_limit(ShortcutNetwork(width=4, terms=1, first=k), x) for k in (2, 4, 6)]
    torch.testing.assert_close(wide_limit(network, x), sum(single) / 3)
    assert network.depth == 6 and [k for k in range(1, 7) if network.summed(k)] == [2, 4, 6]


@pytest.mark.parametrize(("activation", "signs"), [("relu", True), ("erf", True), ("erf", False)])
def test_simulation_tends_to_the_wide_limit(activation, signs):
    x = inputs(4)
    network = ShortcutNetwork(
        width=60, terms=3, spacing=2, activation=activation, weight_std=1.3, bias_std=0.2, random_signs=signs
    )
    found, limit = simulated(network, x, 1000, generator=generator(1)), wide_limit(network, x)
    assert float(((found.kernel - limit).abs() / (found.error + 0.02 * limit.diagonal().max())).max()) < 4
    assert float(found.error.max()) < 0.07 * float(limit.diagonal().max())


def test_a_readout_of_ones_on_relu_keeps_layers_correlated():
    """Were layers independent, the covariance would be the mean of the layers' own; it is far above, and does not shrink with width."""
    x = inputs(1)
    own = []
    for width in (10, 80):
        summed, parts = [
            simulated(
                ShortcutNetwork(
                    width=width, terms=terms, first=first, activation="relu", weight_std=2**0.5, random_signs=False
                ),
                x,
                1500,
                generator=generator(2),
            ).kernel
            for terms, first in ((4, 1), (1, 2))
        ]
        own.append(float(summed / parts))
    assert min(own) > 1.7
    with pytest.raises(InvalidInput, match="odd"):
        wide_limit(ShortcutNetwork(width=9, terms=4, activation="relu", random_signs=False), x)


def test_averaging_over_signs_is_the_same_kernel_with_less_noise():
    x = inputs(4)
    network = ShortcutNetwork(width=6, terms=3, weight_std=1.2, bias_std=0.3)
    rough, smooth = (
        simulated(network, x, 4000, generator=generator(1)),
        averaged_over_signs(network, x, 1000, generator=generator(2)),
    )
    assert float(((rough.kernel - smooth).abs() / rough.error).max()) < 4.5
    repeats = torch.stack([averaged_over_signs(network, x, 100, generator=generator(k)) for k in range(20)])
    assert float((repeats.std(0) * 10 / (rough.error * 4000**0.5)).max()) < 0.6
    assert float(torch.linalg.eigvalsh(smooth)[0]) >= -1e-12
    with pytest.raises(InvalidInput, match="signs"):
        averaged_over_signs(ShortcutNetwork(width=6, terms=3, random_signs=False), x, 10, generator=generator())


def test_the_diagonal_of_relu_is_exact_at_any_width():
    """E‖z^l‖² = σ_w²/2 · E‖z^{l−1}‖² for ReLU without biases: the wide limit's diagonal holds for three neurons."""
    x = inputs(3)
    network = ShortcutNetwork(width=3, terms=2, activation="relu", weight_std=1.0)
    found, limit = simulated(network, x, 40_000, generator=generator(2)), wide_limit(network, x)
    assert float(((found.kernel - limit).diagonal().abs() / found.error.diagonal()).max()) < 4


def test_a_simulated_kernel_is_what_the_loop_gives():
    """One draw, layer by layer, weight by weight in the order in which they are drawn."""
    x, network = inputs(3, 4), ShortcutNetwork(width=5, terms=2, first=1, spacing=2, bias_std=0.5, random_signs=False)
    got = values(network, x, 1, generator=generator(3))[0]
    g, z, total = generator(3), x, torch.zeros(3, dtype=torch.float64)
    for layer in (1, 2, 3):
        W = torch.randn(1, z.shape[1], 5, generator=g, dtype=torch.float64)[0] / math.sqrt(z.shape[1])
        z = torch.erf(z @ W + 0.5 * torch.randn(1, 1, 5, generator=g, dtype=torch.float64)[0])
        total += z.sum(1) if layer in (1, 3) else 0
    torch.testing.assert_close(got, total / math.sqrt(10))


def test_contracting_layers_forget_which_input_it_was():
    """The claim λ_min = Θ(d) at growing depth, refuted under the paper's own hypothesis: all layers of norm below 1/C_σ."""
    x = 3 * inputs(6, 10, seed=4)
    distance = float(torch.cdist(x, x).max())
    g = generator(5)
    for terms in (1, 10, 100, 1000):
        network = ShortcutNetwork(width=10, terms=terms)
        z, total = x, torch.zeros(6, dtype=torch.float64)
        for _ in range(terms):
            W = torch.randn(10, 10, generator=g, dtype=torch.float64)
            W *= 0.9 / torch.linalg.matrix_norm(W, 2)
            z = torch.tanh(z @ W + torch.randn(10, generator=g, dtype=torch.float64))  # C_σ = 1
            total = total + z.sum(1)
        f = total / math.sqrt(10 * terms)
        spread = float((f[:, None] - f[None]).abs().max())
        assert spread <= forgetting(network, 0.9, distance)
    assert forgetting(ShortcutNetwork(width=10, terms=10**6), 0.9, distance) < 0.05 * distance
    assert spread < 0.4 and float(f.abs().max()) > 0  # and yet f itself does not vanish: the biases are still heard


def test_lambda_min_collapses_with_depth_at_fixed_width():
    x = inputs(5, 6)
    found = [
        smallest_eigenvalue(
            simulated(
                ShortcutNetwork(width=10, terms=t, weight_std=0.45, bias_std=0.5, random_signs=False),
                x,
                1500,
                generator=generator(),
            ).kernel
        )
        for t in (1, 10, 100)
    ]
    assert found[0] > 5 * found[1] > 25 * found[2] > 0


def test_lambda_min_grows_with_d_at_fixed_depth_and_its_slope_falls_with_depth():
    slopes = []
    for terms in (1, 5, 50):
        network = ShortcutNetwork(width=1, terms=terms, activation="relu", weight_std=math.sqrt(2), unscaled_input=True)
        found = smallest_eigenvalue_slope(
            lambda x, n=network: wide_limit(n, x), [50, 100, 200, 400], 12, generator=generator()
        )
        assert 0.9 < found.exponent < 1.6
        slopes.append(found.slope)
    assert slopes[0] > 1.4 * slopes[1] > 2.8 * slopes[2] > 0


def test_tightness_the_moments_do_not_grow_with_depth():
    g = generator(6)
    first = torch.randn(6, 2, generator=g, dtype=torch.float64)
    step = torch.randn(6, 2, generator=g, dtype=torch.float64)
    second = first + step / step.norm(dim=1, keepdim=True) * torch.tensor([1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0]).double()[:, None]
    worst = []
    for terms in (1, 8, 32):
        found = tightness(ShortcutNetwork(width=10, terms=terms, weight_std=0.9), first, second, 1200, order=4, generator=g)
        torch.testing.assert_close(found.distances, torch.tensor([1e-3, 1e-2, 0.1, 0.3, 1.0, 3.0]).double())
        worst.append(found.worst.upper)
        assert found.worst.lower == pytest.approx(float(found.ratios.max()))
    assert worst[1] < 1.5 * worst[0] and worst[2] < 1.5 * worst[0]
    loud = tightness(
        ShortcutNetwork(width=10, terms=64, activation="identity", weight_std=1.3), first, second, 500, order=4, generator=g
    )
    assert loud.worst.lower > 100 * worst[0]  # the condition can fail: layers that amplify


@pytest.mark.parametrize(
    "bad",
    [
        {"width": 0},
        {"terms": 0},
        {"first": 0},
        {"spacing": 0},
        {"weight_std": 0.0},
        {"bias_std": -1.0},
        {"weight_std": math.nan},
    ],
)
def test_bad_networks_are_refused(bad):
    with pytest.raises(InvalidInput):
        ShortcutNetwork(**{"width": 3, "terms": 2} | bad)


def test_bad_input_is_refused():
    network, x = ShortcutNetwork(width=3, terms=2), inputs()
    for call in (
        lambda: values(network, x[0], 2, generator=generator()),
        lambda: values(network, x, 0, generator=generator()),
        lambda: simulated(network, x, 1, generator=generator()),
        lambda: wide_limit(network, x * math.nan),
        lambda: forgetting(network, 1.0, 1.0),
        lambda: tightness(network, x, x, 10, order=4, generator=generator()),
        lambda: tightness(network, x, x + 1, 10, order=3, generator=generator()),
        lambda: smallest_eigenvalue(x),
        lambda: smallest_eigenvalue_slope(lambda x: x @ x.T, [5], 3, generator=generator()),
    ):
        with pytest.raises(InvalidInput):
            call()


def test_smallest_eigenvalue():
    assert smallest_eigenvalue(torch.tensor([[2.0, 1.0], [1.0, 2.0]])) == pytest.approx(1.0)

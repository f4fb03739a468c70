"""Universal approximation: the certified error holds everywhere, the network is what it says, bad targets are refused."""

from __future__ import annotations

import math
import time
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nonvacuous.approximation import bumps, enclosure
from nonvacuous.approximation.bumps import approximate, rect
from nonvacuous.approximation.hinges import HingeSum
from nonvacuous.approximation.spikes import SpikeGrid
from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Kind

TARGETS = [
    (torch.sin, (0.0, 6.0), 1.0),
    (lambda x: x.abs(), (-1.0, 2.0), 1.0),
    (lambda x: torch.exp(-x) * torch.sin(10 * x), (-0.5, 1.0), 18.5),
    (lambda x: (x - 0.3).clamp(-0.01, 0.01) * 50, (0.0, 1.0), 50.0),
    (lambda x: 0 * x + 3, (-1e3, 1e3), 0.0),
    (lambda x: 1e6 * torch.cos(x), (100.0, 101.0), 1e6),
]


def exact(module: HingeSum, x: float) -> Fraction:
    """The network's real value, hinge by hinge, in fractions."""
    at = Fraction(x)
    hinges = zip(module.knots.tolist(), module.weight.tolist(), strict=True)
    total = sum((Fraction(w) * max(at - Fraction(t), Fraction(0)) for t, w in hinges), Fraction(0))
    return total + (0 if module.offset is None else Fraction(module.offset.item()))


@pytest.mark.parametrize(("f", "domain", "lipschitz"), TARGETS)
@pytest.mark.parametrize("share", [0.3, 0.01])
def test_the_error_is_within_eps_everywhere_and_the_certificate_is_tight(f, domain, lipschitz, share):
    a, b = domain
    x = torch.linspace(a, b, 400_001, dtype=torch.float64).clamp(a, b)
    y = f(x)
    eps = share * float(y.max() - y.min() + (lipschitz == 0))
    built = approximate(f, domain, eps, lipschitz=lipschitz)
    with torch.no_grad():
        off = float((built.module(x[:, None]) - y).abs().max())
    assert built.error.kind is Kind.EXACT
    assert off <= built.error.upper <= eps
    assert built.error.lower <= off * 1.05 + 1e-9  # what was seen is really there


def test_the_certificate_covers_what_happens_between_its_samples():
    """The worst L-Lipschitz function that agrees with f at every sample point still lies within the certified error."""
    points: list[torch.Tensor] = []

    def f(x):
        points.append(x)
        return torch.sin(x)

    built = approximate(f, (0.0, 3.0), 0.05, lipschitz=1.0)
    known = torch.cat(points).unique()
    x = torch.linspace(0, 3, 20_001, dtype=torch.float64)
    reach = (x[:, None] - known).abs()
    with torch.no_grad():
        net = built.module(x)
    above, below = (known.sin() + reach).amin(1) - net, net - (known.sin() - reach).amax(1)
    assert float(torch.maximum(above, below).max()) <= built.error.upper
    assert float(torch.maximum(above, below).max()) >= 0.98 * built.error.upper  # and no smaller number would do


def test_the_network_is_the_sum_of_the_decks_bumps():
    built = approximate(torch.cos, (0.0, 2.0), 0.1, lipschitz=1.0)
    knots, values, _ = (piece.detach() for piece in built.module.pieces())
    ramp = float(knots[1] - knots[0])
    x = torch.linspace(-0.5, 2.5, 3001, dtype=torch.float64)
    bump = [
        rect(x, float(a), float(b), float(h), ramp) for a, b, h in zip(knots[:-2:2], knots[2::2], values[1:-2:2], strict=True)
    ]
    assert torch.allclose(sum(bump), built.module(x), rtol=0, atol=1e-13)
    assert torch.equal(built.module(torch.tensor([-0.5, 2.5])), torch.zeros(2, dtype=torch.float64))


@settings(max_examples=40)
@given(st.lists(st.tuples(st.integers(-64, 64), st.integers(-9, 9)), min_size=1, max_size=12), st.integers(-640, 640))
def test_the_fast_forward_is_the_plain_network(hinges, at):
    knots, weight = (torch.tensor(column, dtype=torch.float64) for column in zip(*hinges, strict=True))
    module = HingeSum(knots, weight, offset=0.5)
    x = torch.tensor([[at / 8.0]], dtype=torch.float64, requires_grad=True)
    assert module(x).item() == exact(module, at / 8.0) == module.plain()(x).item()
    parameters = [module.knots, module.weight, module.offset]
    fast = torch.autograd.grad(module(x).sum(), [x, *parameters])
    direct = (module.weight * (x - module.knots).relu()).sum() + module.offset
    slow = torch.autograd.grad(direct, [x, *parameters])
    if not bool((knots == at / 8.0).any()):
        assert all(torch.equal(one, other) for one, other in zip(fast, slow, strict=True))


def test_a_hundred_thousand_bumps_lose_nothing_to_cancellation():
    begun = time.perf_counter()
    built = approximate(torch.sin, (0.0, 1.0), 5e-6, lipschitz=1.0)
    x = torch.rand(1_000_000, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = built.module(x)
    seconds = time.perf_counter() - begun
    assert len(built.module.knots) > 2e5
    assert float((y - x.sin()).abs().max()) <= built.error.upper <= 5e-6
    some = x[:2]
    real = torch.tensor([float(exact(built.module, v)) for v in some.tolist()], dtype=torch.float64)
    assert float((y[:2] - real).abs().max()) <= 2**-52  # the plain sum is off by far more:
    with torch.no_grad():
        plain = ((some[:, None] - built.module.knots).relu() * built.module.weight).sum(1)
    assert float((plain - real).abs().max()) > 2**-45
    assert seconds < 10  # about 0.4 on an idle core; see the benchmark


def test_rect_with_the_slides_ramp_in_floats():
    x = torch.tensor([0.5, 3.0], dtype=torch.float64)
    plateau, right = (rect(x, 0.0, 1.0, 1.3) - torch.tensor([1.3, 0.0], dtype=torch.float64)).abs().tolist()
    assert 0 < right <= 4 * 2**-53 * 3.0 * 1.3 / 1e-7
    assert plateau <= 4 * 2**-53 * 0.5 * 1.3 / 1e-7
    assert float(rect(torch.tensor([1e9 + 0.5], dtype=torch.float64), 1e9, 1e9 + 1, 1.3)) != pytest.approx(1.3, abs=0.1)
    assert float(rect(torch.tensor([2**31 + 0.5], dtype=torch.float64), 2.0**31, 2.0**31 + 1, 1.3)) == 0.0
    single = rect(torch.linspace(1, 2, 1000), 0.9, 3.0, 1.3)
    assert float((single - 1.3).abs().max()) > 0.1  # float32 is noise
    dyadic = rect(torch.tensor([0.5, 3.0], dtype=torch.float64), 0.0, 1.0, 1.3, ramp=2**-23)
    assert dyadic.tolist() == [1.3, 0.0]


@pytest.mark.parametrize("dimension", [2, 3])
def test_boxes(dimension):
    box = [(-0.5, 1.0), (0.0, 0.7), (2.0, 3.1)][:dimension]

    def f(x):
        return torch.sin(x.sum(-1)) * x[:, 0]

    built = approximate(f, box, 0.1 * dimension)
    low, high = (torch.tensor(end, dtype=torch.float64) for end in zip(*box, strict=True))
    unit = torch.rand(200_000, dimension, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    x = low + (high - low) * torch.cat([unit, unit.round()])  # corners too
    with torch.no_grad():
        off = float((built.module(x) - f(x)).abs().max())
    assert off <= built.error.upper <= 0.1 * dimension
    assert built.error.lower <= off + 1e-12


@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_the_bound_for_boxes_cannot_be_improved_by_a_constant(dimension):
    """A distance function to the middle of a cell is nearly as far from its interpolant as L·w·√d/2 allows."""
    step = torch.ones(dimension, dtype=torch.float64)
    vertices = torch.cartesian_prod(*([torch.tensor([0.0, 1.0], dtype=torch.float64)] * dimension)).reshape(-1, dimension)
    heights = (vertices - 0.5).norm(dim=1).reshape([2] * dimension)
    module = SpikeGrid(heights, torch.zeros(dimension, dtype=torch.float64), step)
    assert module(step[None] / 2).item() == pytest.approx(math.sqrt(dimension) / 2, rel=1e-12)


@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_spikes_add_up_to_the_plain_network(dimension):
    generator = torch.Generator().manual_seed(dimension)
    heights = torch.randn([4, 3, 5][:dimension], dtype=torch.float64, generator=generator)
    module = SpikeGrid(heights, torch.full((dimension,), -0.25, dtype=torch.float64), torch.full((dimension,), 0.5).double())
    x = torch.rand(2000, dimension, dtype=torch.float64, generator=generator) * 5 - 2  # far outside as well
    plain = module.plain()
    assert plain.depth == {1: 3, 2: 4, 3: 5}[dimension]
    assert torch.allclose(module(x), plain(x), rtol=0, atol=1e-12)


def test_cost_counts_the_plain_network():
    built = approximate(torch.cos, (0.0, 1.0), 0.1, lipschitz=1.0)
    plain = built.module.plain()
    assert built.cost.macs == sum(layer.weight.numel() for layer in plain if isinstance(layer, nn.Linear))
    assert built.cost.parameters == sum(p.numel() for p in built.module.parameters())


@pytest.mark.parametrize(
    ("f", "slope"),
    [
        (lambda x: torch.sin(5 * x) + x**3 / (2 + x), None),
        (lambda x: torch.exp(-(x**2)) * torch.tanh(3 * x) - torch.sigmoid(x) / 4, None),
        (lambda x: torch.sqrt(1 + x) + torch.log(2 + x) + abs(x - 0.5) + torch.relu(x) * torch.cos(x), None),
        (lambda x: (1 - x.square()).neg() + torch.reciprocal(3 + x), None),
        (lambda x: 2.5, 0.0),
    ],
)
def test_interval_arithmetic_bounds_the_slope(f, slope):
    proved = enclosure.lipschitz(f, [(-0.7, 0.9)])
    if slope is not None:
        assert proved == slope
        return
    x = torch.linspace(-0.7, 0.9, 100_001, dtype=torch.float64)
    steepest = float((f(x).diff() / x.diff()).abs().max())
    assert steepest * (1 - 1e-7) <= proved <= 1.1 * steepest


def test_interval_arithmetic_in_the_plane():
    proved = enclosure.lipschitz(lambda x: torch.sin(3 * x[:, 0]) * x[:, 1] + x.sum(-1), [(0.0, 1.0), (0.0, 1.0)])
    assert math.sqrt(4**2 + 1) <= proved <= 1.03 * math.sqrt(4**2 + 1)  # at (0, 1): (3·1 + 1, 0 + 1)


def test_a_function_without_an_enclosure_needs_a_constant():
    with pytest.raises(InvalidInput, match="pass lipschitz"):
        approximate(lambda x: torch.special.bessel_j0(x), (0.0, 1.0), 0.1)
    with pytest.raises(InvalidInput, match=r"unbounded on \[0, "):
        approximate(torch.sqrt, (0.0, 1.0), 0.1)


def test_a_wrong_constant_is_refused_with_the_two_points():
    with pytest.raises(
        InvalidInput, match=r"not 1\.5-Lipschitz: \(0\.9.*\) → 2\.5.* and \(0\.9.*\) → 2\.6.*pass lipschitz ≥ 2\.6"
    ):
        approximate(torch.exp, (-1.0, 1.0), 0.1, lipschitz=1.5)
    with pytest.raises(InvalidInput, match="not 1-Lipschitz"):
        approximate(lambda x: 2 * x[:, 1], [(0.0, 1.0), (0.0, 1.0)], 0.1, lipschitz=1.0)


def test_a_wrong_constant_between_all_samples_cannot_be_seen():
    """Said in the docstring: a certificate is as true as the constant. A spike hidden between the samples shows it."""
    samples: list[torch.Tensor] = []

    def flat(x):
        samples.append(x)
        return 0 * x

    approximate(flat, (0.0, 1.0), 0.1, lipschitz=1.0)
    known = torch.cat(samples).unique()
    built = approximate(lambda x: torch.where((x[..., None] == known).any(-1), 0.0, 5.0), (0.0, 1.0), 0.1, lipschitz=1.0)
    assert built.error.upper <= 0.1


@pytest.mark.parametrize("where", [0.3, -0.123456])
def test_a_jump_is_located(where):
    with pytest.raises(InvalidInput, match=r"seems to jump by [12] at (-?\d\.\d+)") as refused:
        approximate(lambda x: torch.sign(x - where), (-1.0, 1.0), 0.1, lipschitz=10.0)
    place = float(str(refused.value).split(" at ")[1].split(":")[0])
    assert place == pytest.approx(where, abs=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.log, (0.0, 1.0), 0.1), r"-inf at 0\.0"),
        ((lambda x: 1 / (x - 0.5), (0.0, 1.0), 0.1), r"inf at 0\.5"),
        ((torch.sin, (0.0, 1.0), 0.0), "positive"),
        ((torch.sin, (0.0, 1.0), -1.0), "positive"),
        ((torch.sin, (0.0, 1.0), math.nan), "positive"),
        ((torch.sin, (0.0, 1.0), 1e-15), "below what float64"),
        ((lambda x: 1e9 * torch.sin(x), (0.0, 1.0), 1e-4), "below what float64"),
        ((torch.sin, (0.0, 1.0), 1e-9), "5e\\+08 bumps"),
        ((torch.sin, (1.0, 1.0), 0.1), "a < b"),
        ((torch.sin, (0.0, math.inf), 0.1), "finite"),
        ((lambda x: x.sum(-1), [(0.0, 1.0)] * 4, 0.1), r"10\^8"),
        ((lambda x: x.sum(-1), [(0.0, 1.0)] * 3, 1e-4), "bumps, more than"),
        ((lambda x: x[:, :1], [(0.0, 1.0)] * 2, 0.1), r"\[n, 2\] to \[n\]"),
        ((lambda x: 3.0, (0.0, 1.0), 0.1), "float"),
        ((torch.sin, (1e12, 1e12 + 1), 1e-4), "float64"),
    ],
)
def test_bad_input_is_refused(arguments, message):
    with pytest.raises(InvalidInput, match=message):
        approximate(*arguments, lipschitz=1.0)


@pytest.mark.parametrize("lipschitz", [-1.0, math.nan, math.inf])
def test_a_constant_is_a_finite_number(lipschitz):
    with pytest.raises(InvalidInput):
        approximate(torch.sin, (0.0, 1.0), 0.1, lipschitz=lipschitz)


def test_narrow_and_deep_is_the_same_function():
    built = approximate(torch.cos, (0.0, 3.0), 0.1, lipschitz=1.0)
    narrow = built.module.narrow()
    x = torch.linspace(-0.5, 3.5, 2001, dtype=torch.float64)
    assert torch.allclose(narrow(x), built.module(x), rtol=0, atol=1e-9)


def test_refusals_come_before_the_work():
    begun = time.perf_counter()
    with pytest.raises(InvalidInput):
        approximate(torch.sin, (0.0, 1.0), 1e-11, lipschitz=1.0)
    assert time.perf_counter() - begun < 1
    assert bumps.MOST_BUMPS == 10_000_000


def test_domains_may_be_arrays():
    one = approximate(lambda x: x.sum(-1), torch.tensor([[0.0, 1.0], [0.0, 2.0]]).numpy(), 0.3, lipschitz=1.5)
    other = approximate(lambda x: x.sum(-1), [(0, 1), (0, 2)], 0.3, lipschitz=1.5)
    assert torch.equal(one.module.heights, other.module.heights)

"""Bounds of the loss's gradients near given weights, against gradients; what the slides' formula misses; where normalizers steepen."""

import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.measures.flattening import gradient_bounds, steepest_seen
from nonvacuous.operators.normalizers import slide_formula


def net(normalizer=None, width=8, gain=3.0, seed=0):
    torch.manual_seed(seed)
    layers = []
    for inputs in (5, width, width):
        layers += [nn.Linear(inputs, width), *([normalizer(width)] if normalizer else []), nn.ReLU()]
    model = nn.Sequential(*layers, nn.Linear(width, 3)).double()
    with torch.no_grad():
        for part in model:
            if isinstance(part, nn.Linear):
                part.weight.mul_(gain)
    return model


def data(n=20, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return 4 * torch.randn(n, 5, generator=generator).double(), torch.arange(n) % 3


KINDS = {"none": None, "layer": nn.LayerNorm, "group": lambda w: nn.GroupNorm(2, w), "batch": nn.BatchNorm1d}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("radius", [0.0, 1e-3, 0.1, 1.0])
@pytest.mark.parametrize("seed", [0, 1])
def test_measured_steepness_lies_below_the_bound(kind, radius, seed):
    model, (x, y) = net(KINDS[kind], seed=seed), data()
    bound = gradient_bounds(model, x, radius=radius).lipschitz.upper
    assert 0 < steepest_seen(model, cross_entropy, x, y, radius).lower <= bound


@pytest.mark.parametrize("kind", KINDS)
def test_every_layer_lies_below_its_bound_and_so_do_differences_of_the_loss(kind):
    model, (x, y) = net(KINDS[kind]), data()
    weights = [part.weight for part in model if isinstance(part, nn.Linear)]
    slopes = torch.autograd.grad(cross_entropy(model(x), y), weights)
    found = gradient_bounds(model, x)
    assert len(found.layers) == 4
    for layer, slope in zip(found.layers, slopes, strict=True):
        assert float(slope.norm()) <= layer.gradient
    bound = gradient_bounds(model, x, radius=0.2)
    generator = torch.Generator().manual_seed(3)
    before = float(cross_entropy(model(x), y))
    with torch.no_grad():
        moves = [torch.randn(w.shape, generator=generator).double() for w in weights]
        for w, move in zip(weights, moves, strict=True):
            w.add_(0.2 * move / move.norm())
    assert abs(float(cross_entropy(model(x), y)) - before) <= bound.lipschitz.upper * 0.2 * math.sqrt(4)


def test_a_linear_model_of_one_example_attains_its_bound():
    model = nn.Sequential(nn.Linear(5, 2, bias=False)).double()
    x = torch.arange(1.0, 6.0).double()[None]
    slope = torch.autograd.grad(model(x)[0, 0], model[0].weight)[0]
    found = gradient_bounds(model, x, lipschitz=1.0).layers[0].gradient
    assert float(slope.norm()) <= found <= float(slope.norm()) * (1 + 1e-6)


def test_the_slides_formula_for_layer_norm_is_below_the_true_gradient():
    """γ = (1, 0, 0, 0) and x̂₁ = 0: the derivative is √(1 − 1/4)/σ, the slides' number (1 − 1/4)/σ."""
    model = nn.Sequential(nn.Linear(4, 4, bias=False), nn.LayerNorm(4, eps=0.0)).double()
    x = torch.tensor([[0.0, 1.0, -1.0, 0.0]]).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.eye(4))
        model[1].weight.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0]))
    slope = float(torch.autograd.grad(model(x)[0, 0], model[0].weight)[0].norm())
    length = float(x.norm())
    assert slope > 1.1 * slide_formula(model[1], x) * length
    assert slope <= gradient_bounds(model, x, lipschitz=1.0).layers[0].gradient <= slope * (1 + 1e-6)


def test_normalizers_flatten_where_deviations_are_large_and_steepen_where_they_are_small():
    x, y = data()
    big, small = 30.0, 0.05
    for gain, flattens in ((big, True), (small, False)):
        plain, other = net(gain=gain), net(nn.LayerNorm, gain=gain)
        bounds = [gradient_bounds(m, x).layers[0].gradient for m in (plain, other)]
        seen = [steepest_seen(m, cross_entropy, x, y, 0.0).lower for m in (plain, other)]
        assert (bounds[1] < bounds[0]) is flattens
        assert (seen[1] < seen[0]) is flattens


def test_batch_norm_in_evaluation_mode_takes_its_running_variance():
    model, (x, y) = net(nn.BatchNorm1d), data()
    model(x)
    model.eval()
    found = gradient_bounds(model, x, radius=0.5)
    variance, eps = model[1].running_var, model[1].eps
    assert found.layers[0].normalizer == pytest.approx(float((1 / (variance + eps).sqrt()).max()))
    assert steepest_seen(model, cross_entropy, x, y, 0.5).lower <= found.lipschitz.upper
    assert not model.training and all(part.training is False for part in model)


def test_measuring_leaves_the_model_alone():
    model, (x, y) = net(nn.BatchNorm1d), data()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    steepest_seen(model, cross_entropy, x, y, 0.1)
    gradient_bounds(model, x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_ascent_finds_no_less_than_the_start():
    model, (x, y) = net(), data()
    at, near = (steepest_seen(model, cross_entropy, x, y, radius).lower for radius in (0.0, 0.5))
    assert near > at


def pictures(normalizer=None, pool=None, seed=0):
    """A convolution with stride, one with dilation, and a dense layer, each but the last with a normalizer."""
    torch.manual_seed(seed)
    first, second = nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.Conv2d(4, 4, 2, dilation=2, bias=False)
    norm = [normalizer(4)] if normalizer else []
    layers = [first, *norm, nn.ReLU(), second, *([normalizer(4)] if normalizer else []), nn.Tanh(), *([pool] if pool else [])]
    with torch.no_grad():
        first.weight.mul_(4)
        second.weight.mul_(2)
        shape = nn.Sequential(*layers)(torch.zeros(2, 2, 9, 9)).flatten(1).shape[1]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(shape, 3)).double()


def images(n=6):
    generator = torch.Generator().manual_seed(2)
    return 2 * torch.randn(n, 2, 9, 9, generator=generator).double(), torch.arange(n) % 3


PICTURES = {"none": None, "batch": nn.BatchNorm2d, "group": lambda c: nn.GroupNorm(2, c)}
POOLS = {"none": None, "overlapping": nn.MaxPool2d(2, 1), "average": nn.AvgPool2d(2), "adaptive": nn.AdaptiveAvgPool2d(2)}


@pytest.mark.parametrize("kind", PICTURES)
@pytest.mark.parametrize("pool", POOLS)
def test_convolutions_lie_below_their_bounds_too(kind, pool):
    model, (x, y) = pictures(PICTURES[kind], POOLS[pool]), images()
    weights = [part.weight for part in model if isinstance(part, nn.Linear | nn.Conv2d)]
    slopes = torch.autograd.grad(cross_entropy(model(x), y), weights)
    found = gradient_bounds(model, x)
    assert len(found.layers) == 3
    for layer, slope in zip(found.layers, slopes, strict=True):
        assert 0 < float(slope.norm()) <= layer.gradient < math.inf
    for radius in (1e-3, 0.3):
        bound = gradient_bounds(model, x, radius=radius).lipschitz.upper
        assert found.lipschitz.upper < bound
        assert 0 < steepest_seen(model, cross_entropy, x, y, radius, starts=1, steps=3).lower <= bound
    model.eval()
    assert (
        steepest_seen(model, cross_entropy, x, y, 0.1, starts=1, steps=1).lower
        <= gradient_bounds(model, x, radius=0.1).lipschitz.upper
    )


def test_layer_norm_over_whole_pictures_and_a_convolution_that_attains_its_bound():
    model, (x, y) = (
        nn.Sequential(nn.Conv2d(2, 2, 1), nn.LayerNorm((2, 9, 9)), nn.Flatten(), nn.Linear(162, 3)).double(),
        images(),
    )
    slope = torch.autograd.grad(cross_entropy(model(x), y), model[0].weight)[0]
    assert float(slope.norm()) <= gradient_bounds(model, x).layers[0].gradient
    one = nn.Sequential(nn.Conv2d(1, 1, 3, bias=False), nn.Flatten()).double()  # one place: a dense layer in disguise
    patch = torch.arange(9.0).double().reshape(1, 1, 3, 3)
    slope = torch.autograd.grad(one(patch).sum(), one[0].weight)[0]
    found = gradient_bounds(one, patch, lipschitz=1.0).layers[0].gradient
    assert float(slope.norm()) <= found <= float(slope.norm()) * (1 + 1e-6)


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (nn.Conv2d(2, 4, 3, groups=2), "groups=1"),
        (nn.Conv2d(2, 4, 3, padding="same"), "groups=1"),
        (nn.Conv2d(2, 4, 3, padding=1, padding_mode="circular"), "zeros for padding"),
        (nn.InstanceNorm2d(2), "InstanceNorm2d"),
        (nn.Linear(9, 4), "Flatten"),
    ],
)
def test_what_is_not_covered_for_pictures_is_named(layer, says):
    with pytest.raises(UnsupportedModule, match=says):
        gradient_bounds(nn.Sequential(nn.Conv2d(2, 2, 1), layer), images()[0])


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (lambda: gradient_bounds(nn.Linear(5, 3), data()[0]), UnsupportedModule),
        (lambda: gradient_bounds(nn.Sequential(nn.Linear(5, 3), nn.GELU()), data()[0]), UnsupportedModule),
        (lambda: gradient_bounds(nn.Sequential(nn.LayerNorm(5), nn.Linear(5, 3)), data()[0]), UnsupportedModule),
        (lambda: gradient_bounds(nn.Sequential(nn.ReLU()), data()[0]), InvalidInput),
        (lambda: gradient_bounds(net(), data()[0][:0]), InvalidInput),
        (lambda: gradient_bounds(net(), data()[0] * math.nan), InvalidInput),
        (lambda: gradient_bounds(net(), data()[0], radius=-1.0), InvalidInput),
        (lambda: gradient_bounds(net(), data()[0], lipschitz=math.inf), InvalidInput),
        (lambda: steepest_seen(net(), cross_entropy, *data(), radius=0.1, starts=0), InvalidInput),
        (lambda: steepest_seen(nn.Sequential(nn.ReLU()), cross_entropy, *data(), radius=0.1), InvalidInput),
    ],
)
def test_bad_input(wrong, error):
    with pytest.raises(error):
        wrong()

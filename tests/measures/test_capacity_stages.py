"""The decisions a network takes, counted by hand; whatever is not a plain chain of known layers is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nonvacuous.bounds.capacity import Stage, linear_vc_dimension, piecewise_polynomial_log_growth
from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.measures.capacity import log_growth_nats, parameter_count, stages, vc_dimension
from nonvacuous.measures.predictor import as_predictor


def counted(model: nn.Module, *shape: int) -> tuple[Stage, ...]:
    return stages(as_predictor(model), torch.randn(1, *shape))


def test_a_fully_connected_network() -> None:
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 5, bias=False), nn.LeakyReLU(), nn.Linear(5, 4)
    )
    assert counted(model, 3, 4) == (Stage(7, 1, 91), Stage(5, 2, 126), Stage(6, 3, 150))


def test_a_convolutional_network() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 3, 3),  # 3 · 6 · 6 outputs of an 8 × 8 picture; 30 numbers
        nn.BatchNorm2d(3),  # an affine map a channel: 6 numbers more, one degree
        nn.ReLU(),  # 108 signs, degree 2 in 36 numbers
        nn.MaxPool2d(2),  # 27 windows of 4: six comparisons each
        nn.AvgPool2d(1),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(27, 2),  # 56 numbers
    )
    assert counted(model, 1, 8, 8) == (Stage(108, 2, 36), Stage(27 * 6, 2, 36), Stage(1, 3, 92))


def test_activations_with_two_breaks_in_place_layers_and_one_score() -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU6(inplace=True), nn.Linear(3, 3), nn.ReLU(inplace=True), nn.Linear(3, 1))
    assert counted(model, 2) == (Stage(6, 1, 9), Stage(3, 2, 21), Stage(1, 3, 25))
    assert counted(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(2, 1)), 2) == (Stage(2, 1, 0), Stage(1, 1, 3))


def test_tied_and_repeated_layers_count_their_numbers_once() -> None:
    shared = nn.Linear(3, 3)
    model = nn.Sequential(shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(3, 2))
    assert counted(model, 3) == (Stage(3, 1, 12), Stage(3, 2, 12), Stage(1, 3, 20))
    assert parameter_count(model) == 20


def test_a_linear_classifier_is_near_its_exact_dimension() -> None:
    model = nn.Linear(10, 1)
    found = vc_dimension(as_predictor(model), torch.randn(1, 10))
    assert linear_vc_dimension(10) == 11 <= found.upper < 11 * 8
    growth = log_growth_nats(as_predictor(model), torch.randn(1, 10), 500)
    assert growth.upper == piecewise_polynomial_log_growth([Stage(1, 1, 11)], 1000)


class With(nn.Module):
    """A chain of two layers with something between, before or after them."""

    def __init__(self, way: Callable[[nn.Module, nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.way = nn.Linear(3, 3), nn.Linear(3, 3), way

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self.first, self.second, x)


def in_place(y: Tensor) -> Tensor:
    y += 1
    return y


REFUSED = {
    "functional relu": lambda f, s, x: s(F.relu(f(x))),
    "functional relu in place": lambda f, s, x: s(F.relu(f(x), inplace=True)),
    "in-place sum": lambda f, s, x: s(in_place(f(x))),
    "absolute value in place": lambda f, s, x: s(f(x).abs_()),
    "skip connection": lambda f, s, x: s(f(x) + x),
    "skip connection in place": lambda f, s, x: s(f(x).add_(x)),
    "before": lambda f, s, x: s(f(x.sin())),
    "before, in place": lambda f, s, x: s(f(in_place(x.clone()))),
    "after": lambda f, s, x: s(f(x)).exp(),
    "after, in place": lambda f, s, x: s(f(x)).sin_(),
    "a layer left out": lambda f, s, x: f(x) * 2,
    "part of the output": lambda f, s, x: s(f(x))[:, :2],
    "two branches": lambda f, s, x: torch.cat([f(x), s(x)], 1),
    "look-up by position": lambda f, s, x: s(f(x)) if x.sum() > 1e9 else torch.zeros(len(x), 3),
}


@pytest.mark.parametrize("name", REFUSED)
def test_computations_that_are_no_layers_are_refused(name: str) -> None:
    with pytest.raises(UnsupportedModule):
        counted(With(REFUSED[name]), 3)


def test_plain_reshaping_is_allowed() -> None:
    model = With(lambda f, s, x: s(f(x.view(-1, 3)).reshape(-1, 3)))
    assert counted(model, 3) == (Stage(3, 2, 24),)


class Squared(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).square()


def hooked() -> nn.Module:
    layer = nn.Linear(3, 3)
    layer.register_forward_hook(lambda module, inputs, output: output.sin())
    return layer


def patched() -> nn.Module:
    layer = nn.Linear(3, 3)
    layer.forward = lambda x: x.sin()  # type: ignore[method-assign]
    return layer


def one_number() -> nn.Module:
    """A linear layer whose nine weights are a function of a single parameter: few numbers, unbounded capacity."""

    class Sines(nn.Module):
        def forward(self, theta: Tensor) -> Tensor:
            return (theta.sum() * torch.arange(1.0, 10.0).reshape(3, 3)).sin()

    layer = nn.Linear(3, 3, bias=False)
    nn.utils.parametrize.register_parametrization(layer, "weight", Sines(), unsafe=True)
    return layer


LAYERS = {
    "unknown activation": lambda: nn.GELU(),
    "sub-class of a known layer": lambda: Squared(3, 3),
    "forward hook": hooked,
    "patched forward": patched,
    "parametrised weight": one_number,
    "batch statistics": lambda: nn.BatchNorm1d(3, track_running_stats=False),
    "attention": lambda: nn.TransformerEncoderLayer(3, 1),
    "own parameter": lambda: With(lambda f, s, x: s(f(x)) * f.weight[0]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_layers_without_a_rule_are_refused(name: str) -> None:
    with pytest.raises((UnsupportedModule, InvalidInput)):
        counted(nn.Sequential(nn.Linear(3, 3), LAYERS[name](), nn.Linear(3, 2)), 3)


def test_other_refusals() -> None:
    with pytest.raises(UnsupportedModule, match=r"need an nn\.Module"):
        stages(as_predictor(lambda x: x), torch.zeros(1, 3))
    with pytest.raises(UnsupportedModule, match="named inputs"):
        stages(as_predictor(nn.Linear(3, 2)), {"x": torch.zeros(1, 3)})
    with pytest.raises(UnsupportedModule, match="no parameters"):
        counted(nn.Sequential(nn.Flatten(), nn.ReLU()), 3)


def test_the_model_is_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2)).train()
    counted(model, 3)
    assert model.training and all(m.training for m in model.modules())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert int(model[1].num_batches_tracked) == 0

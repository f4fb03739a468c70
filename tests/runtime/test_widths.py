"""Networks at several widths."""

from __future__ import annotations

import pytest
from torch import nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.runtime.widths import Widened


def sizes(model: nn.Module) -> list[int]:
    return [
        m.out_features if isinstance(m, nn.Linear) else m.out_channels for m in model if isinstance(m, nn.Linear | nn.Conv2d)
    ]


def wide(width: float = 1.0) -> nn.Module:
    return nn.Sequential(nn.Linear(4, round(8 * width)), nn.ReLU(), nn.Linear(round(8 * width), 2))


def fixed() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 2))


@pytest.mark.parametrize(
    ("factory", "width", "expected"),
    [
        ("mlp:64-32-16-10", 1.0, [32, 16, 10]),
        ("mlp:64-32-16-10", 2.0, [64, 32, 10]),
        ("mlp:64-32-16-10", 0.01, [1, 1, 10]),
        ("convnet:8x8x1-10", 0.5, [8, 16, 64, 10]),
        (wide, 0.5, [4, 2]),
        (fixed, 1.0, [2]),
        ("linear:4-2", 1.0, [2]),
    ],
)
def test_hidden_sizes_are_multiplied(factory, width, expected) -> None:
    assert sizes(Widened(factory)(width)) == expected


@pytest.mark.parametrize(("factory", "adjustable"), [(wide, True), (fixed, False), ("linear:4-2", False), ("mlp:4-2", False)])
def test_whether_there_is_a_knob(factory, adjustable) -> None:
    assert Widened(factory).adjustable is adjustable


@pytest.mark.parametrize("width", [0.0, -1.0, float("nan"), float("inf")])
def test_a_width_is_positive(width) -> None:
    with pytest.raises(InvalidInput, match="positive"):
        Widened(wide)(width)


@pytest.mark.parametrize("factory", [fixed, "linear:4-2", "mlp:4-2"])
def test_a_factory_without_a_knob_is_told_how_to_get_one(factory) -> None:
    with pytest.raises(InvalidInput, match="def factory"):
        Widened(factory)(2.0)


@pytest.mark.parametrize("spec", ["mpl:4-2", "mlp:4", "nowhere:factory", "weights.pt"])
def test_unknown_specifications(spec) -> None:
    with pytest.raises(InvalidInput):
        Widened(spec)(1.0)


def test_what_returns_no_network() -> None:
    with pytest.raises(InvalidInput, match="not a torch"):
        Widened(lambda: 3)()

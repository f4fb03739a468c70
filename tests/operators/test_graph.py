"""What tracing sees of a model: branches, sums, concatenations, functional calls, subclasses, and what it has no word for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.operators import tracers
from nonvacuous.operators.graph import LEAVES, Graph, graph


class Block(nn.Module):
    def __init__(self, inner: int, outer: int, stride: int = 1) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(inner, outer, 3, stride, 1), nn.BatchNorm2d(outer)
        self.second = nn.Conv2d(outer, outer, 3, 1, 1)
        self.skip = nn.Conv2d(inner, outer, 1, stride) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.relu(self.norm(self.first(x))))
        y += self.skip(x)
        return F.relu(y)


class SamePadded(nn.Conv2d):
    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.static_padding = nn.ZeroPad2d((0, 1, 0, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(self.static_padding(x), self.weight, self.bias, self.stride)


class Net(nn.Module):
    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        self.stem, self.blocks = SamePadded(3, 8, 3, 2), nn.Sequential(Block(8, 8), Block(8, 16, 2))
        self.middle, self.head = middle, nn.Linear(32, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.middle(self.blocks(self.stem(x)))
        x = torch.cat([F.adaptive_avg_pool2d(x, 1), F.max_pool2d(x, 2)[:, :, :1, :1]], 1)
        return self.head(torch.flatten(x, 1))


class ByShape(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sigmoid() if x.shape[-1] > 2 else x


class ByData(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.sigmoid() if x.sum() > 1e9 else x.tanh()


X = torch.randn(2, 3, 17, 17, generator=torch.Generator().manual_seed(0))
OPERATIONS = (
    "convolution convolution batch_norm relu convolution {skip}add relu convolution batch_norm relu convolution convolution "
    "add relu {middle} adaptive_average_pool max_pool index concatenate flatten linear output"
)


def words(found: Graph) -> str:
    return " ".join(node.operation for node in found if node.operation not in {"input", "parameter", "compare", "sum"})


def is_sound(found: Graph) -> None:
    """Topological order, unique names, shapes that agree, one output at the end."""
    seen: dict[str, Any] = {}
    for node in found:
        assert node.name not in seen
        assert node.shapes_in == tuple(seen[name] for name in node.parents)
        seen[node.name] = node.shape_out
    assert found.output.operation == "output"


@pytest.mark.parametrize(
    ("middle", "traced_by", "word"),
    [(nn.Identity(), "torch.fx", "identity"), (ByShape(), "torch.export", "sigmoid"), (ByData(), "recording", "tanh")],
)
def test_the_first_tracer_that_knows_everything_is_used(middle: nn.Module, traced_by: str, word: str) -> None:
    found = graph(Net(middle), X)
    is_sound(found)
    assert found.traced_by == traced_by and not found.unknown
    expected = OPERATIONS.format(skip="identity " if traced_by != "torch.export" else "", middle=word)
    if traced_by == "torch.export":  # below modules: the stem's padding shows, an identity does not
        expected = "pad " + expected.replace("max_pool index", "max_pool index index")
    assert words(found) == expected


def test_residual_sums_and_branches_are_in_the_structure() -> None:
    found = graph(Net(nn.Identity()), X)
    first, second = (node for node in found if node.operation == "add")
    assert [found[name].module_name for name in first.parents] == ["blocks.0.second", "blocks.0.skip"]
    assert [found[name].module_name for name in second.parents] == ["blocks.1.second", "blocks.1.skip"]
    assert first.module_name == "blocks.0" and first.module is None
    assert len(found.children("stem")) == 2
    (joined,) = (node for node in found if node.operation == "concatenate")
    assert {found[name].operation for name in joined.parents} == {"adaptive_average_pool", "index"}
    assert joined.shapes_in == ((2, 16, 1, 1), (2, 16, 1, 1)) and joined.shape_out == (2, 32, 1, 1)


@pytest.mark.parametrize("tracer", [tracers.by_fx, tracers.by_recording])
def test_a_convolution_with_a_child_is_one_convolution(tracer: Callable[..., Graph]) -> None:
    model = Net(nn.Identity()).eval()
    with torch.no_grad():
        found = tracer(model, (X,), {}, LEAVES)
    is_sound(found)
    (stem,) = (node for node in found if node.module_name == "stem")
    assert stem.operation == "convolution" and stem.module is model.stem and stem.type_name == "SamePadded"


def test_export_knows_the_layer_a_call_comes_from() -> None:
    model = Net(nn.Identity()).eval()
    with torch.no_grad():
        found = tracers.by_export(model, (X,), {}, LEAVES)
    is_sound(found)
    layers = {node.module_name: node.module for node in found if node.operation == "convolution"}
    assert layers["blocks.0.first"] is model.blocks[0].first
    assert layers["stem"] is None  # the subclass pads besides, so the call is not the layer


def test_attention_is_one_node() -> None:
    found = graph(nn.Sequential(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)), torch.randn(2, 5, 16))
    is_sound(found)
    assert not found.unknown
    assert sum(node.operation == "attention" for node in found) == 1
    assert sum(node.operation == "add" for node in found) == 2

    class Functional(nn.Module):
        def forward(self, q: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q, q, q)

    (node,) = (n for n in graph(Functional(), torch.randn(1, 2, 3, 4)) if n.operation == "attention")
    assert len(node.parents) == 3


def test_writing_into_an_argument_is_followed() -> None:
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 2
            y.relu_()
            return y + x

    found = graph(InPlace(), torch.randn(2, 3))
    is_sound(found)
    (total,) = (node for node in found if node.operation == "add")
    assert found[total.parents[0]].operation == "relu"


def test_what_has_no_word_is_unknown_and_named() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.erfinv(x)

    (node,) = graph(nn.Sequential(Odd(), nn.ReLU()), torch.zeros(1, 3)).unknown
    assert node.type_name == "erfinv" and node.module_name == "0"


def test_a_leaf_of_ones_own() -> None:
    class Mine(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.relu()

    found = graph(nn.Sequential(Mine()), torch.zeros(1, 3), leaves=[Mine])
    assert [node.type_name for node in found if node.module is not None] == ["Mine"]


def test_parameters_and_keyword_inputs() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(3))

        def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
            x = x * self.scale
            return x if bias is None else x + bias

    assert words(graph(Scaled(), torch.zeros(1, 3))) == "multiply output"
    found = graph(Scaled(), {"x": torch.zeros(1, 3), "bias": torch.zeros(3)})
    is_sound(found)
    assert words(found) == "multiply add output"
    assert sum(node.operation == "input" for node in found) == 2


def test_modes_are_restored_and_bad_input_is_refused() -> None:
    model = Net(nn.Dropout()).train()
    with pytest.raises(InvalidInput):
        graph(model, torch.zeros(1, 4, 17, 17))
    graph(model, X)
    assert all(part.training for part in model.modules())


class _ChecksItsShape(nn.Module):
    """Refuses other sizes than its own, and, if asked, treats one batch size apart."""

    def __init__(self, by_batch: bool) -> None:
        super().__init__()
        self.by_batch, self.layer = by_batch, nn.Linear(6, 2)

    def forward(self, x):
        if x.shape[-2:] != (2, 3):
            raise ValueError("wrong size")
        if self.by_batch and x.shape[0] == 1:
            return x.flatten(1)[:, :2]
        return self.layer(x.flatten(1))


def test_a_forward_that_checks_its_inputs_sizes_is_traced_symbolically_one_that_reads_the_batch_is_not():
    assert graph(_ChecksItsShape(False), torch.zeros(1, 2, 3)).traced_by == "torch.fx"
    assert graph(_ChecksItsShape(True), torch.zeros(1, 2, 3)).traced_by != "torch.fx"
    with pytest.raises(InvalidInput, match="wrong size"):
        graph(_ChecksItsShape(False), torch.zeros(1, 3, 2))

"""Regions of networks made of every layer that has a rule: the cells carry the network, and grids find no pattern that is missing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nonvacuous.approximation.regions import segment_regions, slice_regions, total_regions
from nonvacuous.approximation.regions_pooling import windows
from nonvacuous.core.errors import UnsupportedModule


class Written(nn.Module):
    """A forward given as a function of the module and x."""

    def __init__(self, forward, **parts: nn.Module) -> None:
        super().__init__()
        self.written = forward
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.written(self, x)


def seeded(make) -> nn.Module:
    torch.manual_seed(0)
    return make()


def stem() -> nn.Module:
    """The head of a ResNet: a pool that reaches into its padding, before the ReLU so that zeros would be wrong."""
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.MaxPool2d(3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(3, 2),
    )  # fmt: skip
    net[1].running_mean.normal_()
    net[1].running_var.uniform_(0.5, 2.0)
    return net


FLAT = (4,)
IMAGE = (1, 5, 5)
CASES = {
    "stem": (stem, IMAGE),
    "ceil": (lambda: nn.Sequential(nn.Conv2d(1, 2, 2), nn.MaxPool2d(3, 2, ceil_mode=True), nn.Flatten(), nn.Linear(8, 1)), IMAGE),
    "dilated": (lambda: nn.Sequential(nn.Conv2d(1, 2, 1), nn.MaxPool2d(2, 1, dilation=2), nn.Flatten(), nn.Linear(18, 1)), IMAGE),
    "pool 1d": (lambda: nn.Sequential(nn.Conv1d(2, 3, 2), nn.MaxPool1d(2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(9, 1)), (2, 6)),
    "pool 3d": (lambda: nn.Sequential(nn.Conv3d(1, 2, 1), nn.MaxPool3d(2), nn.Flatten(), nn.Linear(2, 1)), (1, 2, 2, 2)),
    "pool function": (
        lambda: Written(lambda s, x: s.b(F.max_pool2d(s.a(x), 2).flatten(1)), a=nn.Conv2d(1, 2, 2), b=nn.Linear(8, 1)),
        IMAGE,
    ),
    "prelu": (lambda: nn.Sequential(nn.Linear(4, 6), nn.PReLU(), nn.Linear(6, 1)), FLAT),
    "prelu by channel": (lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.PReLU(2), nn.Flatten(), nn.Linear(18, 1)), IMAGE),
    "leaky": (lambda: nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(0.2), nn.Linear(6, 6), nn.ReLU6(), nn.Linear(6, 1)), FLAT),
    "clamp": (lambda: Written(lambda s, x: s.b(s.a(x).clamp(-0.5, 0.3)), a=nn.Linear(4, 6), b=nn.Linear(6, 1)), FLAT),
    "clamp from above": (lambda: Written(lambda s, x: s.b(torch.clamp(s.a(x), max=0.3)), a=nn.Linear(4, 6), b=nn.Linear(6, 1)), FLAT),
    "clamp_min": (lambda: Written(lambda s, x: s.b(s.a(x).clamp_min(0.1)), a=nn.Linear(4, 6), b=nn.Linear(6, 1)), FLAT),
    "hardtanh": (lambda: Written(lambda s, x: s.b(F.hardtanh(s.a(x), -0.2, 0.7)), a=nn.Linear(4, 6), b=nn.Linear(6, 1)), FLAT),
    "absolute": (lambda: Written(lambda s, x: s.b(abs(s.a(x))), a=nn.Linear(4, 6), b=nn.Linear(6, 1)), FLAT),
    "maximum": (lambda: Written(lambda s, x: torch.maximum(s.a(x), s.b(x)), a=nn.Linear(4, 3), b=nn.Linear(4, 3)), FLAT),
    "minimum": (lambda: Written(lambda s, x: torch.min(s.a(x), s.b(x)), a=nn.Linear(4, 3), b=nn.Linear(4, 3)), FLAT),
    "matrix product": (lambda: Written(lambda s, x: s.b((x @ s.a.weight.T).relu()), a=nn.Linear(4, 6), b=nn.Linear(6, 1)), FLAT),
    "mirrored pad": (lambda: nn.Sequential(nn.ReflectionPad2d(1), nn.Conv2d(1, 1, 3), nn.ReLU(), nn.Flatten(), nn.Linear(25, 1)), IMAGE),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_cells_carry_the_network_and_no_affine_piece_is_missing(name):
    make, shape = CASES[name]
    net = seeded(make).double().eval()
    g = torch.Generator().manual_seed(1)
    origin, first, second = (torch.randn(*shape, generator=g, dtype=torch.float64) for _ in range(3))
    found = slice_regions(net, origin, first, second)
    assert found.patterns > 3
    line = np.linspace(-0.999, 0.999, 41)
    points = np.array(list(itertools.product(line, line)))
    inputs = origin + torch.einsum("n,...->n...", torch.from_numpy(points[:, 0]), first)
    inputs = (inputs + torch.einsum("n,...->n...", torch.from_numpy(points[:, 1]), second)).requires_grad_()
    values = net(inputs).reshape(len(points), -1)
    gradients = torch.autograd.grad(values[:, 0].sum(), inputs)[0].flatten(1)
    seen = torch.stack([gradients @ first.flatten(), gradients @ second.flatten()], 1).numpy()
    cell = holders(found, points)
    assert (cell >= 0).all()
    predicted = np.einsum("nk,nku->nu", np.column_stack([points, np.ones(len(points))]), found.outputs[cell])
    assert predicted == pytest.approx(values.detach().numpy(), abs=1e-9)
    assert found.outputs[cell][:, :2, 0] == pytest.approx(seen, abs=1e-9)


def holders(found, points: np.ndarray) -> np.ndarray:
    """The cell that holds each point, −1 if none does."""
    cell = np.full(len(points), -1)
    for i, (corners, count) in enumerate(zip(found.corners, found.count, strict=True)):
        edge = np.roll(corners[:count], -1, axis=0) - corners[:count]
        rest = points[:, None] - corners[:count]
        turn = edge[:, 0] * rest[:, :, 1] - edge[:, 1] * rest[:, :, 0]
        cell[(turn > -1e-12).all(1) | (turn < 1e-12).all(1)] = i
    return cell


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation"), [(2, 2, 0, 1), (3, 2, 1, 1), (3, 1, 1, 2), (2, 3, 1, 1), (3, 3, 0, 1)]
)
@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("dimension", [1, 2, 3])
def test_windows_hold_what_torchs_pools_see(kernel, stride, padding, dilation, ceil_mode, dimension):
    pool = [F.max_pool1d, F.max_pool2d, F.max_pool3d][dimension - 1]
    for side in (5, 6, 7):
        x = torch.randn(2, 3, *range(side, side + dimension), generator=torch.Generator().manual_seed(side)) - 5.0
        expected = pool(x, kernel, stride, padding, dilation, ceil_mode)
        assert torch.equal(windows(x, dimension, kernel, stride, padding, dilation, ceil_mode).amax(-1), expected)


A, B = nn.Linear(4, 6), nn.Linear(6, 1)


@pytest.mark.parametrize(
    ("forward", "said"),
    [
        (lambda s, x: s.a(x).relu().mean(), "mean mixes the examples"),
        (lambda s, x: s.b(s.a(x).relu().sum(0)), "sum_1 mixes the examples"),
        (lambda s, x: s.b(s.a(x).relu()[0]), "getitem mixes the examples"),
        (lambda s, x: s.a(x).relu().view(1, -1), "view mixes the examples"),
        (lambda s, x: torch.cat([s.a(x), s.a(x)], 0).relu(), "cat mixes the examples"),
        (lambda s, x: s.b(s.a(x).unsqueeze(0).relu()).squeeze(0), "unsqueeze mixes the examples"),
        (lambda s, x: s.b(F.dropout(s.a(x).relu())), "random numbers"),
        (lambda s, x: s.a(x) * s.a(x), "mul"),
        (lambda s, x: 1 / s.a(x), "truediv"),
        (lambda s, x: s.a(x).sigmoid(), "sigmoid"),
        (lambda s, x: s.a(x).relu() if x.sum() > 0 else s.a(x), "cannot be traced"),
    ],
)
def test_what_is_no_function_of_one_example_is_refused_by_name(forward, said):
    g = torch.Generator().manual_seed(1)
    with pytest.raises(UnsupportedModule, match=said):
        slice_regions(Written(forward, a=A, b=B), *(torch.randn(4, generator=g) for _ in range(3)))


def test_a_transposition_that_happens_to_fit_is_refused():
    """Along a segment a first layer of two rows is as long as its stack of coefficients."""
    net = Written(lambda s, x: s.a(x).permute(1, 0), a=nn.Linear(4, 2))
    with pytest.raises(UnsupportedModule):
        segment_regions(net, torch.zeros(4), torch.ones(4))


@pytest.mark.parametrize("layer", [nn.AdaptiveMaxPool2d(1), nn.MaxPool2d(2, return_indices=True), nn.GELU(), nn.Softmax(-1)])
def test_layers_without_a_rule_are_named(layer):
    with pytest.raises(UnsupportedModule, match=type(layer).__name__):
        slice_regions(nn.Sequential(nn.Conv2d(1, 1, 1), layer), *(torch.randn(1, 4, 4) for _ in range(3)))


def test_prelu_counts_in_all_of_a_plane():
    """Kinks of n lines in general position: 1 + n + n(n − 1)/2, whatever the slopes."""
    net = seeded(lambda: nn.Sequential(nn.Linear(2, 5), nn.PReLU(5), nn.Linear(5, 1)))
    with torch.no_grad():
        net[1].weight.copy_(torch.tensor([-1.0, -0.3, 0.2, 0.5, 2.0]))
    assert total_regions(net, 2).patterns == 16 == total_regions(net, 2).pieces

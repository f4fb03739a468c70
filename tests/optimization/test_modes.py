"""Paths between networks and of training; the two-weight surface; mini-batch surfaces."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput, UnsupportedModule
from nonvacuous.optimization.directions import random_direction
from nonvacuous.optimization.directions_path import RANDOM_WALK_SHARES, path_plane
from nonvacuous.optimization.modes import barrier, connection
from nonvacuous.optimization.modes_alignment import aligned
from nonvacuous.optimization.modes_curve import bezier
from nonvacuous.optimization.slices_objective import Statistics, objective
from nonvacuous.optimization.surfaces import Axis, axis, surface
from nonvacuous.optimization.surfaces_stochastic import mini_batches, stochastic_surface
from nonvacuous.optimization.surfaces_two_weights import TwoWeightLoss, TwoWeights, lecture_points
from nonvacuous.runtime.models import weights_digest


def blobs(n: int = 120) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(n) % 3
    return torch.randn(n, 6, generator=generator) + 2.5 * nn.functional.one_hot(y, 6), y


def network(seed: int, width: int = 8) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 3))


def trained(seed: int, steps: int = 150) -> nn.Module:
    net, (x, y) = network(seed), blobs()
    adam = torch.optim.Adam(net.parameters(), lr=0.02)
    for _ in range(steps):
        adam.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        adam.step()
    return net


def test_the_line_between_networks_and_its_barrier() -> None:
    one, other = trained(0), trained(1)
    found = connection(objective(one, blobs()), other.state_dict(), points=11)
    x, y = blobs()
    for t, loss in zip(found.line.coordinates[0], found.line.loss, strict=True):
        middle = network(9)
        ours, theirs = one.state_dict(), other.state_dict()
        middle.load_state_dict({k: (1 - t) * ours[k] + t * theirs[k] for k in ours})
        assert loss == pytest.approx(float(nn.functional.cross_entropy(middle(x), y).detach()), rel=1e-3, abs=1e-6)
    chord = (1 - found.line.coordinates[0]) * found.line.loss[0] + found.line.coordinates[0] * found.line.loss[-1]
    assert found.loss.height == pytest.approx((found.line.loss - chord).max()) and found.loss.height > 0.1
    assert found.error is not None and found.loss.std == 0


def test_barriers_of_known_curves() -> None:
    t = np.linspace(0, 1, 101)
    assert barrier(t, t * (1 - t) + 3 * t).height == pytest.approx(0.25) and barrier(t, t * (1 - t)).at == pytest.approx(0.5)
    assert barrier(t, t**2).height == 0 and barrier(t, np.where(t == 0.5, np.nan, 0)).height == np.inf


def test_a_shuffled_network_is_aligned_to_its_original_exactly() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Sequential(nn.MaxPool2d(2), nn.Flatten()),
        nn.Linear(24, 9),
        nn.ReLU(),
        nn.Linear(9, 3),
    )
    net(torch.randn(30, 1, 6, 6))
    state, p, q = net.state_dict(), torch.randperm(6), torch.randperm(9)
    shuffled = {k: v.clone() for k, v in state.items()}
    for key in ("0.weight", "0.bias", "1.weight", "1.bias", "1.running_mean", "1.running_var"):
        shuffled[key] = state[key][p]
    shuffled["4.weight"] = state["4.weight"].reshape(9, 6, 4)[:, p].reshape(9, 24)[q]
    shuffled["4.bias"], shuffled["6.weight"] = state["4.bias"][q], state["6.weight"][:, q]
    back = aligned(net, shuffled)
    assert all(torch.equal(back[k], state[k]) for k in state)
    with pytest.raises(InvalidInput, match="fit"):
        aligned(net, {})
    with pytest.raises(UnsupportedModule, match="attention"):
        aligned(Named(), {})


class Named(nn.Sequential):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 1)


def test_alignment_keeps_the_function_and_comes_closer_and_is_never_worse_than_one_exhaustive_layer() -> None:
    one, other, (x, _) = trained(0), trained(1), blobs()
    state = aligned(one, other.state_dict())
    moved = network(5)
    moved.load_state_dict(state)
    assert torch.allclose(moved(x), other(x), atol=1e-5)

    def distance(s: dict[str, Tensor]) -> float:
        return float(sum(((one.state_dict()[k] - v) ** 2).sum() for k, v in s.items()))

    assert distance(state) < 0.9 * distance(other.state_dict())
    small = [nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)) for _ in range(2)]
    best = min(
        sum(
            float(((small[0].state_dict()[k] - v) ** 2).sum())
            for k, v in {
                "0.weight": small[1][0].weight[list(p)],
                "0.bias": small[1][0].bias[list(p)],
                "2.weight": small[1][2].weight[:, list(p)],
                "2.bias": small[1][2].bias,
            }.items()
        )
        for p in itertools.permutations(range(4))
    )
    ours = sum(float(((small[0].state_dict()[k] - v) ** 2).sum()) for k, v in aligned(small[0], small[1].state_dict()).items())
    assert ours == pytest.approx(best, rel=1e-5)  # one hidden layer: the assignment is the optimum


def test_a_trained_curve_stays_below_the_straight_lines_barrier() -> None:
    one, other = trained(0), trained(1)
    before = weights_digest(one)
    target = objective(one, blobs(), batch_size=40)
    straight = connection(target, other.state_dict(), points=15)
    bent = bezier(target, other.state_dict(), epochs=60, learning_rate=0.02, points=15)
    assert weights_digest(one) == before
    assert bent.barrier.height < 0.3 * straight.loss.height and bent.length > 1
    assert bent.loss[0] == pytest.approx(straight.line.loss[0], rel=1e-3, abs=1e-7) and bent.loss[-1] == pytest.approx(
        straight.line.loss[-1], rel=1e-2, abs=1e-6
    )
    unbent = bezier(target, other.state_dict(), epochs=0, points=15)
    assert unbent.length == pytest.approx(1) and np.allclose(unbent.loss, straight.line.loss, rtol=1e-3, atol=1e-6)
    with pytest.raises(InvalidInput, match="learning rate"):
        bezier(target, other.state_dict(), learning_rate=-1)


def test_the_plane_of_a_path_is_that_of_the_dense_decomposition(tmp_path: Path) -> None:
    net, states = network(0), []
    x, y = blobs()
    for i in range(6):
        loss = nn.functional.cross_entropy(net(x), y)
        grads = torch.autograd.grad(loss, list(net.parameters()))
        states.append({k: v.clone() for k, v in net.state_dict().items()})
        with torch.no_grad():
            for p, g in zip(net.parameters(), grads, strict=True):
                p -= (0.5 + i) * g
    files: list[Path | dict[str, Tensor]] = []
    for i, state in enumerate(states):
        save_file(state, tmp_path / f"{i}.safetensors")
        torch.save(state, tmp_path / f"{i}.pt")
        files.append([tmp_path / f"{i}.safetensors", tmp_path / f"{i}.pt", state][i % 3])
    before = weights_digest(net)
    plane = path_plane(net, files)
    assert weights_digest(net) == before
    flat = torch.stack([torch.cat([x.reshape(-1).double() for x in s.values()]) for s in states])
    flat = flat - flat[-1]
    _, s, vt = torch.linalg.svd(flat, full_matrices=False)
    assert plane.shares == pytest.approx((s[:2] ** 2 / (s**2).sum()).tolist(), rel=1e-6)
    for k, direction in enumerate(plane.directions):
        mine = torch.cat([x.reshape(-1).double() for x in direction.tensors.values()])
        assert abs(float(mine @ vt[k])) == pytest.approx(1, abs=1e-5) and direction.norm == pytest.approx(1, rel=1e-5)
        assert torch.allclose(flat @ mine, plane.coordinates[:, k], atol=1e-5)
    assert torch.allclose(plane.distances, flat.norm(dim=1))
    on_plane = surface(objective(net, (x, y)), [axis(d, -1, 1, 2) for d in plane.directions])
    assert on_plane.names == ("principal axis 1", "principal axis 2")


def test_a_random_walk_seen_from_its_end_lies_in_a_plane_to_nine_tenths() -> None:
    net = nn.Linear(100, 50)
    generator = torch.Generator().manual_seed(3)
    steps = torch.randn(200, 50, 100, generator=generator).cumsum(0)
    plane = path_plane(net, [{"weight": w, "bias": torch.zeros(50)} for w in steps])
    assert sum(RANDOM_WALK_SHARES) == pytest.approx(0.9006, abs=1e-4)
    assert plane.shares == pytest.approx(RANDOM_WALK_SHARES, abs=0.03)


@pytest.mark.parametrize(
    ("text", "make"),
    [
        ("three or more", lambda s: [s, s]),
        ("one point", lambda s: [s] * 3),
        ("one line", lambda s: [{k: v * f for k, v in s.items()} for f in (1, 2, 3)]),
        ("Name the model", lambda s: [{k: v[:1] for k, v in s.items()}] * 3),
        ("another model", lambda s: [{}] * 3),
        ("does not exist", lambda s: [Path("gone.safetensors")] * 3),
        ("NaN", lambda s: [{k: v * torch.nan for k, v in s.items()}] * 3),
    ],
)
def test_paths_that_cannot_be_used_are_refused(text: str, make: object) -> None:
    net = network(0)
    with pytest.raises(InvalidInput, match=text):
        path_plane(net, make({k: v.detach().clone() for k, v in net.state_dict().items()}))  # type: ignore[operator]


# The lecture's two weights.


def test_the_two_weight_loss_is_the_slides_sum() -> None:
    x, y = lecture_points()
    with_negative = torch.cat([x, -x[:7]]), torch.cat([y, y[:7]])
    for xs, ys in ((x, y), with_negative):
        loss = TwoWeightLoss.of(xs, ys)
        for w1, w2 in itertools.product((-2.0, 0.0, 0.5, 3.0), (-1.0, 0.0, 2.5)):
            total = sum((float(b) - w2 * max(w1 * float(a), 0.0)) ** 2 for a, b in zip(xs, ys, strict=True)) / len(xs)
            assert float(loss(torch.tensor(w1), torch.tensor(w2))) == pytest.approx(total, rel=1e-9)


def test_the_slides_code_does_not_run_as_printed() -> None:
    def sq_loss(y: float, y_hat: float) -> float:
        return (y - y_hat) ** 2

    with pytest.raises(TypeError):
        sq_loss(1.0 - 2.0)  # type: ignore[call-arg]


def test_the_minima_are_a_hyperbola_along_which_sharpness_changes_and_the_function_does_not() -> None:
    x, y = lecture_points()
    loss = TwoWeightLoss.of(x, y)
    values = []
    for w1 in (0.3, 1.0, loss.product**0.5, 5.0):
        at = torch.tensor([w1, loss.product / w1], dtype=torch.float64)
        hessian = torch.autograd.functional.hessian(lambda w: ((y - w[1] * (w[0] * x).relu()) ** 2).mean(), at)
        eigen = torch.linalg.eigvalsh(hessian)
        assert abs(float(eigen[0])) < 1e-9 and float(eigen[1]) == pytest.approx(loss.sharpness(w1))
        assert float(loss(at[0], at[1])) == pytest.approx(loss.floor)
        values.append(loss.sharpness(w1))
    assert min(values) == values[2] == pytest.approx(4 * loss.positive[0] * abs(loss.product))
    for call in (lambda: loss.sharpness(0.0), lambda: TwoWeightLoss.of(-x, y).product, lambda: TwoWeightLoss.of(x, y[:2])):
        with pytest.raises(InvalidInput):
            call()


def test_the_general_surface_of_the_two_weight_network_is_its_closed_form_and_mini_batches_average_to_it() -> None:
    x, y = lecture_points()
    model, loss = TwoWeights(0.0, 0.0), TwoWeightLoss.of(x.float(), y.float())
    from nonvacuous.optimization.directions import Direction

    one = torch.ones((), dtype=torch.float64)
    axes = [Axis(Direction(name, {name: one}), torch.linspace(-1, 3, 9).double()) for name in ("w1", "w2")]
    from nonvacuous.runtime.data import as_sample

    target = objective(model, as_sample((x[:, None], y), regression=True))
    found = surface(target, axes)
    exact = loss(axes[0].coordinates[:, None], axes[1].coordinates[None])
    assert np.allclose(found.loss, exact.numpy(), rtol=1e-5)
    noisy = stochastic_surface(target, axes, batch_size=5, draws=12, seed=1)
    assert noisy.losses.shape == (12, 9, 9) and np.allclose(noisy.mean, found.loss, rtol=1e-6)
    for batch, losses in zip(noisy.batches, noisy.losses, strict=True):
        own = TwoWeightLoss.of(x.float()[batch], y.float()[batch])
        assert np.allclose(losses, own(axes[0].coordinates[:, None], axes[1].coordinates[None]).numpy(), rtol=1e-5)
    assert (noisy.std[:, 4:] > 0).all()
    many = mini_batches(6, 2, 3000, 0)
    assert (many[:, 0] != many[:, 1]).all() and np.allclose(np.bincount(many.flatten()) / 1000, 1, atol=0.15)
    for bad in ({"batch_size": 0}, {"batch_size": 99}, {"batch_size": 2, "draws": 1}, {"batch_size": 2, "most_seconds": 0.0}):
        with pytest.raises(InvalidInput):
            stochastic_surface(target, axes, **bad)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="depends on its batch"):
        normed = nn.Sequential(nn.Linear(6, 3), nn.BatchNorm1d(3))
        stochastic_surface(
            objective(normed, blobs(), statistics=Statistics.BATCH), [axis(random_direction(normed, 0), 0, 1, 3)], batch_size=3
        )

"""Landscapes against a slow loop over copies of the model, and what they refuse."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.optimization.directions import (
    Direction,
    between,
    filter_normalized,
    from_vector,
    layer_normalized,
    orthogonalized,
    random_direction,
    trainable,
)
from nonvacuous.optimization.slices_losses import Evaluation, Way
from nonvacuous.optimization.slices_objective import Objective, Statistics, cross_entropy, objective, squared_error
from nonvacuous.optimization.slices_restored import restored
from nonvacuous.optimization.surfaces import Axis, Surface, axis, surface
from nonvacuous.optimization.surfaces_refinement import refined
from nonvacuous.runtime.models import weights_digest
from nonvacuous.runtime.samples import ArraySample

N = 90


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 12), nn.ReLU(), nn.Linear(12, 8), nn.Tanh(), nn.Linear(8, 3))


def convnet(norm: bool) -> nn.Module:
    torch.manual_seed(1)
    middle = [nn.BatchNorm2d(4)] if norm else []
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3),
        *middle,
        nn.ReLU(),
        nn.ConvTranspose2d(4, 4, 2, groups=2),
        nn.Dropout(0.5),
        nn.Flatten(),
        nn.Linear(100, 3),
    )
    if norm:
        for _ in range(3):
            net(2 + torch.randn(20, 1, 6, 6))
    return net


def data(n: int = N) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(n, 1, 6, 6, generator=generator), torch.randint(3, (n,), generator=generator)


def naive(model: nn.Module, directions: list[Direction], point: list[float], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Oracle: a copy in evaluation mode, each weight set by itself; losses and errors of the examples."""
    moved = copy.deepcopy(model).eval()
    with torch.no_grad():
        for name, p in [*moved.named_parameters(), *moved.named_buffers()]:
            for c, d in zip(point, directions, strict=True):
                if name in d.tensors:
                    p += c * d.tensors[name]
        answers = moved(x)
    return nn.functional.cross_entropy(answers, y, reduction="none").double(), answers.argmax(1) != y


def two(model: nn.Module) -> list[Direction]:
    return [filter_normalized(model, random_direction(model, seed), vectors=seed == 4) for seed in (3, 4)]


@pytest.mark.parametrize("way", list(Way))
@pytest.mark.parametrize("build", [mlp, lambda: convnet(False), lambda: convnet(True)], ids=["mlp", "conv", "batch-norm"])
def test_every_way_gives_the_losses_of_the_slow_loop(way: Way, build: object) -> None:
    model, (x, y) = build().train(), data()  # type: ignore[operator]
    before, directions = weights_digest(model), two(model)
    points = torch.tensor([[0.0, 0.0], [0.7, 0.0], [-0.3, 1.2], [5.0, -4.0]])
    with Evaluation(objective(model, (x, y), batch_size=32, statistics=Statistics.FROZEN), directions, way) as evaluation:
        found = evaluation.at(points)
    for i, point in enumerate(points.tolist()):
        losses, wrong = naive(model, directions, point, x, y)
        assert torch.allclose(found.losses[i], losses, rtol=2e-4, atol=1e-5)
        assert found.wrong is not None and torch.equal(found.wrong[i], wrong)
    assert weights_digest(model) == before and model.training and "forward" not in vars(next(iter(model.children())))


def test_a_way_is_chosen_by_timing_and_a_tied_first_layer_still_moves() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 6)
            self.last = nn.Linear(6, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x.flatten(1)[:, :6]).relu()
            return self.last(x @ self.first.weight)  # the first layer's weights once more

    torch.manual_seed(0)
    model, (x, y) = Tied(), data()
    directions = two(model)
    for way in (None, *Way):
        with Evaluation(objective(model, (x, y)), directions, way) as evaluation:
            found = evaluation.at(torch.tensor([[0.8, -0.5]]))
            assert evaluation.way in Way and evaluation.seconds_per_point > 0
        assert torch.allclose(found.losses[0], naive(model, directions, [0.8, -0.5], x, y)[0], rtol=1e-4, atol=1e-5)


def test_statistics_of_batch_norm_are_recalibrated_frozen_or_of_the_batch() -> None:
    model, (x, y) = convnet(True), data()
    d = [random_direction(model, 9)]
    found = {}
    for statistics in Statistics:
        with Evaluation(objective(model, (x, y), batch_size=N, statistics=statistics), d) as evaluation:
            found[statistics] = evaluation.at(torch.tensor([[0.1]])).losses[0]
    moved = copy.deepcopy(model).eval()
    with torch.no_grad():
        for name, p in moved.named_parameters():
            p += 0.1 * d[0].tensors[name]
        norm = moved[1]
        norm.reset_running_stats()
        norm.momentum, norm.training = None, True
        in_batch = moved(x)  # also updates the statistics
        norm.training = False
        anew = moved(x)
    loss = nn.functional.cross_entropy
    assert torch.allclose(found[Statistics.BATCH], loss(in_batch, y, reduction="none").double(), atol=1e-5)
    assert torch.allclose(found[Statistics.RECALIBRATED], loss(anew, y, reduction="none").double(), atol=1e-5)
    assert torch.allclose(found[Statistics.FROZEN], naive(model, d, [0.1], x, y)[0], atol=1e-5)
    assert not torch.allclose(found[Statistics.FROZEN], found[Statistics.RECALIBRATED], atol=1e-2)


def test_scaling_the_weights_under_batch_norm_leaves_the_recalibrated_filter_normalised_picture_as_it_was() -> None:
    # Li et al.'s reason for the normalisation: with batch-norm, k times the weights are the same function.
    torch.manual_seed(2)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(36, 10, bias=False), nn.BatchNorm1d(10, eps=1e-12), nn.ReLU(), nn.Linear(10, 3)
    )
    larger = copy.deepcopy(model)
    with torch.no_grad():
        larger[1].weight *= 7.0
    pictures = []
    for net in (model, larger):
        direction = filter_normalized(net, random_direction(net, 1))
        plain = random_direction(net, 1)
        pair = []
        for d in (direction, plain):
            with Evaluation(objective(net, data(), batch_size=N), [d]) as evaluation:
                pair.append(evaluation.at(torch.tensor([[0.5], [1.0]])).losses.mean(1))
        pictures.append(pair)
    assert torch.allclose(pictures[0][0], pictures[1][0], rtol=1e-4)
    assert not torch.allclose(pictures[0][1], pictures[1][1], rtol=1e-2)


def test_a_surface_has_mean_loss_error_and_standard_errors() -> None:
    model, (x, y) = mlp(), data()
    directions = two(model)
    axes = [axis(directions[0], -1, 1, 4), axis(directions[1], -2, 0.5, 3)]
    whole = surface(objective(model, (x, y), batch_size=40), axes)
    assert whole.loss.shape == (4, 3) == whole.error.shape and whole.evaluated.all()  # type: ignore[union-attr]
    assert (whole.loss_std == 0).all() and (whole.n, whole.population) == (N, N)
    for i, a in enumerate(axes[0].coordinates.tolist()):
        for j, b in enumerate(axes[1].coordinates.tolist()):
            losses, wrong = naive(model, directions, [a, b], x, y)
            assert whole.loss[i, j] == pytest.approx(float(losses.mean()), rel=1e-4)
            assert whole.error is not None and whole.error[i, j] == pytest.approx(float(wrong.double().mean()))
    some = surface(objective(model, (x, y), examples=40), axes)
    assert some.n == 40 and (some.loss_std > 0).all() and (some.rise_std <= 2 * some.loss_std).all()
    assert whole.lowest == tuple(
        float(a.coordinates[i]) for a, i in zip(axes, np.unravel_index(whole.loss.argmin(), (4, 3)), strict=True)
    )


def test_standard_errors_cover_the_loss_of_the_whole_sample() -> None:
    model, (x, y) = mlp(), data(400)
    line = [axis(random_direction(model, 3), 0.5, 1.0, 2)]
    whole = surface(objective(model, (x, y)), line)
    hits = np.zeros(2)
    for seed in range(60):
        some = surface(objective(model, (x, y), examples=100, seed=seed), line)
        rise = some.loss - some.origin.loss - (whole.loss - whole.origin.loss)
        hits += [abs((some.loss - whole.loss)[0]) < 2 * some.loss_std[0], abs(rise[0]) < 2 * some.rise_std[0]]
    assert (hits >= 51).all() and hits.sum() < 120  # about 95 % of 60 each; 51 or fewer has probability 0.001


def test_coarse_to_fine_evaluates_fewer_points_within_the_tolerance() -> None:
    model = mlp()
    axes = [axis(d, -1, 1, 33) for d in two(model)]
    full = surface(objective(model, data()), axes)
    quick = surface(objective(model, data()), axes, tolerance=0.01)
    assert quick.evaluated.mean() < 0.5 and full.evaluated.all()
    assert np.abs(quick.loss - full.loss).max() < 0.02 and np.isfinite(quick.rise_std).all()
    assert np.allclose(quick.loss[quick.evaluated], full.loss[quick.evaluated], rtol=1e-5)


def test_refinement_goes_where_the_function_bends_and_around_infinities() -> None:
    shape = (65, 33)

    def kinked(at: np.ndarray) -> np.ndarray:
        return np.abs(at[:, 0] - 20.3) + 0.001 * at[:, 1] ** 2

    found = refined(shape, kinked, 0.05)
    exact = kinked(np.argwhere(np.ones(shape, bool))).reshape(shape)
    assert np.abs(found.values - exact).max() < 0.15
    assert found.evaluated[16:26].mean() > 2 * found.evaluated[40:].mean()

    def walled(at: np.ndarray) -> np.ndarray:
        return np.where(at[:, 0] > 50, np.inf, at[:, 0] * 1.0)

    found = refined(shape, walled, 0.05)
    assert (np.isinf(found.values) == (np.arange(65) > 50)[:, None]).all()


class Stopped(Exception):
    pass


@pytest.mark.parametrize("kind", [Stopped, KeyboardInterrupt])
def test_the_model_is_restored_to_the_bit_and_the_work_is_gone_on_with(kind: type[BaseException], tmp_path: Path) -> None:
    model, file = convnet(True).train(), tmp_path / "grid.npz"
    model[0].weight.requires_grad_(False)
    before, momentum = weights_digest(model), model[1].momentum
    line = [axis(random_direction(model, 1), -1, 1, 9)]
    calls = {"left": 30}

    def loss(answers: Tensor, targets: Tensor) -> Tensor:
        calls["left"] -= 1
        if calls["left"] == 0:
            raise kind
        return nn.functional.cross_entropy(answers, targets, reduction="none")

    wanted = surface(objective(model, data(), loss=loss), line, way=Way.IN_TURN)
    calls["left"] = 13
    target = objective(model, data(), loss=loss)
    target_surface = lambda **more: surface(target, line, store=file, way=Way.IN_TURN, **more)  # noqa: E731
    import nonvacuous.optimization.surfaces as module

    with pytest.MonkeyPatch.context() as patch, pytest.raises(kind):
        patch.setattr(module._Writer, "chunk", 1)
        target_surface()
    assert weights_digest(model) == before and model.training and model[1].momentum == momentum
    assert not model[0].weight.requires_grad and model[0].bias.requires_grad
    done = int(np.load(file)["done"].sum())
    assert 0 < done < 9
    calls["left"] = 10**6
    again = target_surface(resume=True)
    assert np.array_equal(again.loss, wanted.loss)
    left = 9 - done
    assert 10**6 - calls["left"] in (1 + 1 + left, 9 + 1 + left)  # timing on one point or more, the origin, what was left
    for text, call in (
        ("exists", target_surface),
        ("another landscape", lambda: surface(target, [axis(random_direction(model, 1), -1, 2, 9)], store=file, resume=True)),
    ):
        with pytest.raises(InvalidInput, match=text):
            call()
    file.write_bytes(b"PK nonsense")
    with pytest.raises(InvalidInput, match="damaged"):
        target_surface(resume=True)


def test_restored_puts_back_modes_and_values_after_an_error() -> None:
    model = convnet(True)
    model[1].eval()
    before = weights_digest(model)
    with pytest.raises(Stopped), restored(model):
        assert not model.training
        with torch.no_grad():
            model[0].weight.mul_(2)
        raise Stopped
    assert weights_digest(model) == before and model.training and not model[1].training


def test_filters_are_rows_and_output_channels_in_groups_too() -> None:
    model = convnet(True)
    moved = filter_normalized(model, random_direction(model, 2)).tensors
    assert set(moved) == {"0.weight", "3.weight", "6.weight"}  # no biases, no batch-norm
    assert torch.allclose(moved["0.weight"].flatten(1).norm(dim=1), model[0].weight.flatten(1).norm(dim=1))
    w, d = model[3].weight, moved["3.weight"]  # [4 in, 2 out a group, 2, 2], 2 groups
    for group in range(2):
        for out in range(2):
            rows = slice(2 * group, 2 * group + 2)
            assert float(d[rows, out].norm()) == pytest.approx(float(w[rows, out].detach().norm()), rel=1e-5)
    everything = filter_normalized(model, random_direction(model, 2), vectors=True).tensors
    assert float(everything["0.bias"].norm()) == pytest.approx(float(model[0].bias.detach().norm()), rel=1e-5)
    layers = layer_normalized(model, random_direction(model, 2)).tensors
    assert float(layers["3.weight"].norm()) == pytest.approx(float(w.detach().norm()), rel=1e-5)


def test_directions_between_states_along_vectors_and_at_right_angles() -> None:
    model, other = convnet(True), convnet(True)
    with torch.no_grad():
        other[6].weight += 1
        other[1].running_mean += 2
    d = between(model, other.state_dict())
    assert torch.equal(d.tensors["1.running_mean"], torch.full((4,), 2.0)) and float(d.tensors["0.weight"].abs().max()) == 0
    size = sum(x.numel() for x in trainable(model).values())
    flat = from_vector(model, torch.arange(size).float())
    assert torch.equal(torch.cat([x.reshape(-1) for x in flat.tensors.values()]), torch.arange(size).float())
    a, b = random_direction(model, 0), random_direction(model, 1)
    c = orthogonalized(b, a)
    assert abs(c.dot(a)) < 1e-3 * c.norm * a.norm and c.norm == pytest.approx(b.norm, rel=1e-5)
    with pytest.raises(InvalidInput, match="parallel"):
        orthogonalized(a.scaled(-2), a)


def no_points(o: Objective, d: Direction) -> Surface:
    return surface(o, [axis(d, -1, 1, 1)])


@pytest.mark.parametrize(
    ("text", "call"),
    [
        ("2 points", no_points),
        ("lower first", lambda o, d: surface(o, [axis(d, 1, -1, 5)])),
        ("ascending", lambda o, d: surface(o, [Axis(d, torch.tensor([0.0, 0.0]))])),
        ("one or two", lambda o, d: surface(o, [])),
        ("at most", lambda o, d: surface(o, [axis(d, -1, 1, 3000)] * 2)),
        ("would take", lambda o, d: surface(o, [axis(d, -1, 1, 500)] * 2, most_seconds=1e-3)),
        ("tolerance", lambda o, d: surface(o, [axis(d, -1, 1, 5)], tolerance=-1.0)),
        ("length 0", lambda o, d: surface(o, [axis(Direction("none", {"1.weight": torch.zeros(12, 36)}), -1, 1, 5)])),
        ("the model has", lambda o, d: surface(o, [axis(Direction("odd", {"1.weight": torch.ones(2, 2)}), -1, 1, 5)])),
        ("no such tensor", lambda o, d: surface(o, [axis(Direction("odd", {"x": torch.ones(2)}), -1, 1, 5)])),
        ("leads nowhere", lambda o, d: d.scaled(0.0)),
        ("other shapes|another network", lambda o, d: between(o.model, nn.Linear(2, 2).state_dict())),
        ("another network", lambda o, d: between(o.model, {k: v[:1] for k, v in o.model.state_dict().items()})),
        ("equal", lambda o, d: between(o.model, o.model.state_dict())),
        ("nothing to resume|resume from", lambda o, d: surface(o, [axis(d, -1, 1, 5)], resume=True)),
        ("folder", lambda o, d: surface(o, [axis(d, -1, 1, 5)], store=Path("/nowhere/there/x.npz"))),
        ("shape", lambda o, d: from_vector(o.model, torch.ones(3))),
    ],
)
def test_what_cannot_be_used_is_refused_and_says_why(text: str, call: object) -> None:
    model = mlp()
    with pytest.raises(InvalidInput, match=text):
        call(objective(model, data()), random_direction(model, 0))  # type: ignore[operator]


def test_a_loss_that_is_not_finite_at_the_origin_is_refused_and_one_elsewhere_is_infinite() -> None:
    model, (x, y) = mlp(), data()
    with pytest.raises(InvalidInput, match="own weights"):
        surface(objective(model, (x, y), loss=lambda a, t: a[:, 0] / 0), [axis(random_direction(model, 0), -1, 1, 3)])
    steep = surface(
        objective(model, (x, y), loss=lambda a, t: a[:, 0].exp()), [axis(random_direction(model, 0), -1e5, 1e5, 3)]
    )
    assert np.isinf(steep.loss[[0, 2]]).any() and np.isfinite(steep.loss[1])
    with pytest.raises(InvalidInput, match="one number an example"):
        surface(objective(model, (x, y), loss=nn.CrossEntropyLoss()), [axis(random_direction(model, 0), -1, 1, 3)])
    with torch.no_grad():
        model[1].weight[0, 0] = torch.nan
    with pytest.raises(InvalidInput, match="NaN"):
        random_direction(model, 0)
    with pytest.raises(InvalidInput, match="label"):
        objective(nn.Sequential(nn.Flatten(), nn.Linear(36, 2)), (x, y))


def test_cross_entropy_by_example_is_torchs_also_at_scores_that_overflow():
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(5, (40,), generator=generator)
    for scale in (1.0, 1e3, 1e30):
        answers = scale * torch.randn(40, 5, generator=generator)
        torch.testing.assert_close(
            cross_entropy(answers, targets), nn.functional.cross_entropy(answers, targets, reduction="none")
        )
    sure = torch.eye(5)[targets] * 12
    torch.testing.assert_close(
        cross_entropy(sure, targets), nn.functional.cross_entropy(sure, targets, reduction="none"), rtol=0, atol=5e-7
    )


def test_points_evaluated_together_have_the_losses_and_errors_of_points_in_turn():
    torch.manual_seed(0)
    x, y = torch.randn(30, 6), torch.randint(4, (30,))
    net = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 4))
    cases = [
        (net, (x, y), None),
        (net, (x, y), lambda a, t: (a.gather(1, t[:, None])[:, 0] - 1).abs()),
        (nn.Linear(6, 1), ArraySample(inputs=x, targets=x[:, 0], regression=True), squared_error),
    ]
    for model, data, loss in cases:
        target = objective(model, data, loss=loss)
        axes = [axis(random_direction(model, k), -1.0, 1.0, 5) for k in range(2)]
        one, many = (surface(target, axes, way=way) for way in (Way.IN_TURN, Way.TOGETHER))
        np.testing.assert_allclose(many.loss, one.loss, rtol=1e-5)
        np.testing.assert_allclose(many.rise_std, one.rise_std, rtol=1e-4, atol=1e-6)
        if one.error is not None:
            np.testing.assert_array_equal(many.error, one.error)

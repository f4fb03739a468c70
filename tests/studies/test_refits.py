"""Refits: the plan, what is kept, and which lever they name where one part of the error dominates by construction."""

from __future__ import annotations

import dataclasses
import os
import signal
from multiprocessing import parent_process
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Measured
from nonvacuous.runtime.models import mlp
from nonvacuous.runtime.widths import Widened
from nonvacuous.studies import refitting
from nonvacuous.studies.levers import Lever, contenders, levers, paired_gain
from nonvacuous.studies.refits import Cell, Plan, Refit, plan
from nonvacuous.studies.refitting import Refitted, WorkerLost, World, refitted


def world(n: int, factory: Widened, inputs: Tensor, targets: Tensor) -> World:
    return World(factory, inputs[:n], targets[:n], inputs[n:], targets[n:], 2)


def many_directions(n: int) -> World:
    """A linear rule in 60 dimensions: the class holds it, training finds it, and the sample is too small for it."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(n + 4000, 60, generator=generator)
    return world(n, Widened("mlp:60-16-2"), x, (x.sum(1) > 0).long())


def narrow(width: float = 1.0) -> nn.Module:
    return mlp(2, max(1, round(2 * width)), 2)


def checkerboard(n: int) -> World:
    """Four quadrants in two classes: two hidden units cannot tell them apart, however many examples there are."""
    generator = torch.Generator().manual_seed(2)
    x = 2 * torch.rand(n + 4000, 2, generator=generator) - 1
    return world(n, Widened(narrow), x, (x.prod(1) > 0).long())


def test_the_plan_visits_the_sizes_then_the_widths_then_the_corners() -> None:
    made = plan(1600, epochs=4, batch_size=32, replicates=12)
    assert made.cells[:4] == tuple(Cell(n, 1.0) for n in (200, 1600, 400, 800))
    assert {c.width for c in made.cells if c.n == 1600} == {0.25, 0.5, 1.0, 2.0}
    assert made.rounds == (tuple(range(8)), tuple(range(8, 12)))
    assert [made.steps(1600, length) for length in made.lengths] == [100, 200, 400]
    assert made.steps(200, 1.0) == 200  # as many steps on a smaller sample
    assert dataclasses.replace(made, matched=False).steps(200, 1.0) == 25  # as many epochs
    assert {c.width for c in plan(1600, adjustable=False).cells} == {1.0}
    assert plan(1600, small=False).rounds[:2] == ((0,), (1,))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 199}, "below 200"),
        ({"n": 500, "epochs": 0}, "positive"),
        ({"n": 500, "learning_rate": float("nan")}, "positive"),
        ({"n": 500, "replicates": 0}, "positive"),
    ],
)
def test_bad_plans(arguments, message) -> None:
    with pytest.raises(InvalidInput, match=message):
        plan(**arguments)


def small_run(folder: Path | None = None, **arguments) -> Refitted:
    made = dataclasses.replace(plan(200, epochs=1, batch_size=50, replicates=3, seed=4), cells=(Cell(50, 1.0), Cell(200, 1.0)))
    return refitted(many_directions(200), made, seconds=1000, folder=folder, progress=False, **arguments)


def same(a: Refitted, b: Refitted) -> bool:
    key = lambda r: (r.cell, r.length, r.replicate)  # noqa: E731
    pairs = zip(sorted(a.refits, key=key), sorted(b.refits, key=key), strict=True)
    return all(key(x) == key(y) and x.train_risk == y.train_risk and np.array_equal(x.losses, y.losses) for x, y in pairs)


def test_what_is_on_disk_is_not_trained_again(tmp_path: Path, monkeypatch) -> None:
    first = small_run(tmp_path)
    assert len(first.refits) == 2 * 3 * 3
    assert first.left == 0
    monkeypatch.setattr(refitting, "unit_refits", lambda *_: pytest.fail("trained again"))
    assert same(first, small_run(tmp_path))


def test_an_interrupted_run_keeps_what_is_finished_and_goes_on_to_the_same_end(tmp_path: Path, monkeypatch) -> None:
    whole = small_run()
    plain, calls = refitting.unit_refits, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return plain(*arguments)

    monkeypatch.setattr(refitting, "unit_refits", interrupted)
    part = small_run(tmp_path)
    assert part.interrupted
    assert part.left == 1
    monkeypatch.setattr(refitting, "unit_refits", plain)
    assert same(whole, small_run(tmp_path))


@pytest.mark.slow
def test_workers_train_what_this_process_trains() -> None:
    assert same(small_run(), small_run(processes=2))


class Fatal(nn.Module):
    """Linear, and the end of the process that trains it as long as the file ``fatal`` is in the current folder."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(60, 2)

    def forward(self, x: Tensor) -> Tensor:
        if self.training and parent_process() is not None and Path("fatal").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        return self.linear(x)


@pytest.mark.slow
def test_a_killed_worker_is_said_and_a_resumed_run_ends_as_an_unbroken_one(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = dataclasses.replace(plan(200, epochs=1, batch_size=50, replicates=3, seed=4), cells=(Cell(50, 1.0), Cell(200, 1.0)))
    task = dataclasses.replace(many_directions(200), factory=Widened(Fatal))
    Path("fatal").touch()
    with pytest.raises(WorkerLost, match=r"n50-w1-r0-2.*--resume"):
        refitted(task, made, seconds=1000, folder=tmp_path / "refits", processes=2, progress=False)
    Path("fatal").unlink()
    resumed = refitted(task, made, seconds=1000, folder=tmp_path / "refits", processes=2, progress=False)
    assert resumed.left == 0 and same(resumed, refitted(task, made, seconds=1000, progress=False))


def test_a_damaged_or_foreign_file_is_refused(tmp_path: Path) -> None:
    small_run(tmp_path)
    path = next(iter(sorted(tmp_path.iterdir())))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InvalidInput, match="not a readable file"):
        small_run(tmp_path)
    path.write_bytes(whole)
    other = dataclasses.replace(
        plan(200, epochs=2, batch_size=50, replicates=3, seed=4), cells=(Cell(50, 1.0), Cell(200, 1.0))
    )
    with pytest.raises(InvalidInput, match="another run"):
        refitted(many_directions(200), other, seconds=1000, folder=tmp_path, progress=False)


def test_refits_of_another_network_or_sample_are_refused(tmp_path: Path) -> None:
    small_run(tmp_path)
    made = dataclasses.replace(plan(200, epochs=1, batch_size=50, replicates=3, seed=4), cells=(Cell(50, 1.0), Cell(200, 1.0)))
    same = many_directions(200)
    others = [
        dataclasses.replace(same, factory=Widened("mlp:60-17-2")),
        dataclasses.replace(same, targets=same.targets.flip(0)),
        dataclasses.replace(same, test_inputs=same.test_inputs.flip(0)),
    ]
    for other in others:
        with pytest.raises(InvalidInput, match="another run"):
            refitted(other, made, seconds=1000, folder=tmp_path, progress=False)
    assert refitted(same, made, seconds=1000, folder=tmp_path, progress=False).left == 0


def test_too_little_time_is_said_before_anything_is_trained() -> None:
    made = plan(3200, epochs=2000, batch_size=8)
    with pytest.raises(InvalidInput, match="two points"):
        refitted(many_directions(3200), made, seconds=1.0, progress=False)


def test_divergence_is_said() -> None:
    made = plan(200, epochs=20, batch_size=20, learning_rate=1e30, optimizer="sgd", replicates=1)
    with pytest.raises(InvalidInput, match="diverged"):
        refitted(many_directions(200), made, seconds=1000, progress=False)


def advice(task: World, made: Plan) -> Refitted:
    """Only what the levers need: the sizes at width 1, and twice the width."""
    needed = tuple(cell for cell in made.cells if cell.width == 1 or cell == Cell(made.n, 2.0))
    return refitted(task, dataclasses.replace(made, cells=needed), seconds=10_000, progress=False)


@pytest.mark.slow
def test_more_data_where_the_sample_is_small() -> None:
    run = advice(many_directions(400), plan(400, epochs=40, batch_size=32, learning_rate=0.01, replicates=4))
    best, *rest = levers(run)
    assert best.name == "data"
    assert best.verdict == "helps"
    assert all(lever.gain.midpoint < best.gain.midpoint / 3 for lever in rest)
    later = dataclasses.replace(run.plan, n=800, epochs=20, cells=(Cell(800, 1.0),), lengths=(1.0,))  # as many steps
    twice = refitted(many_directions(800), later, seconds=10_000, progress=False)
    assert np.mean([r.risk for r in run.at(run.plan.base)]) - np.mean([r.risk for r in twice.refits]) in best.gain


@pytest.mark.slow
def test_a_bigger_model_where_the_class_is_poor() -> None:
    made = plan(1600, epochs=15, batch_size=64, learning_rate=0.03, replicates=8)
    best, *rest = levers(advice(checkerboard(1600), made))
    assert best.name == "width"
    assert best.verdict == "helps"
    assert all(lever.gain.midpoint < best.gain.midpoint / 2 for lever in rest)


def test_longer_training_where_it_stopped_early() -> None:
    made = plan(3000, epochs=2, batch_size=64, learning_rate=0.05, optimizer="sgd", replicates=4)
    best, *_ = levers(advice(many_directions(3000), made))
    assert best.name == "training"
    assert best.verdict == "helps"


def lever(name: str, lower: float, upper: float) -> Lever:
    return Lever(name, "", Measured.indicator(lower, upper), 1.0, "")


def test_the_best_lever_stands_alone_only_where_no_interval_reaches_it() -> None:
    data, width, training = lever("data", 0.03, 0.05), lever("width", -0.01, 0.02), lever("training", 0.01, 0.04)
    assert contenders([data, width]) == [data]
    assert contenders([data, training, width]) == [data, training]  # a tie, although one has the larger middle
    assert contenders([data, lever("width", -0.1, 0.2)])[1].name == "width"  # undecided, and it may be the best
    assert contenders([width, lever("training", -0.5, 0.1)]) == []  # none is sure to help


def refit(replicate: int, losses: list[float]) -> Refit:
    return Refit(Cell(10, 1.0), 1.0, replicate, 0.0, np.array(losses, dtype=np.float32), 1.0, 1)


def test_a_paired_gain_covers_the_true_gain() -> None:
    generator = np.random.default_rng(0)
    hits = []
    for _ in range(300):
        hard = generator.random(200)
        before = [refit(r, (hard < generator.normal(0.3, 0.02)).astype(float).tolist()) for r in range(5)]
        after = [refit(r, (hard < generator.normal(0.25, 0.02)).astype(float).tolist()) for r in range(5)]
        hits.append(0.05 in paired_gain(before, after))
    assert np.mean(hits) > 0.85


def test_replicates_without_a_partner_do_not_count() -> None:
    gain = paired_gain([refit(0, [1, 1, 0, 0]), refit(1, [0, 0, 0, 0])], [refit(0, [0, 1, 0, 0])])
    assert gain.midpoint == pytest.approx(0.25)
    with pytest.raises(InvalidInput, match="no replicate"):
        paired_gain([refit(0, [1.0, 0.0])], [refit(1, [1.0, 0.0])])

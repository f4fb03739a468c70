"""Carrying out a plan of refits: in worker processes, within a time, kept on disk as they come."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing import get_context
from torch.nn.functional import cross_entropy, mse_loss

from nonvacuous.core.errors import InvalidInput, NonvacuousError
from nonvacuous.runtime.fingerprint import Fingerprint
from nonvacuous.runtime.models import initialise
from nonvacuous.runtime.seeds import stream_seed
from nonvacuous.runtime.stacked_training import Member, Stack, trained_stack
from nonvacuous.runtime.tasks import progress_bar
from nonvacuous.runtime.training import OPTIMIZERS
from nonvacuous.runtime.widths import Widened
from nonvacuous.studies.refits import Cell, Plan, Refit, Unit
from nonvacuous.studies.refits_on_disk import Kept

__all__ = ["Refitted", "WorkerLost", "World", "refitted"]


class WorkerLost(NonvacuousError):
    """A worker process ended before its work did."""


SMALL = 60_000
"""Parameters up to which a stack trains faster than its members one by one."""
PROBED_STEPS = 4


@dataclass(frozen=True)
class World:
    """What every refit shares: the network's factory, the examples to train on and those to test on, ``[N, …]`` and ``[N]``.

    classes: None for numbers as targets, which are fitted and judged by squared error; classes are judged by errors.
    """

    factory: Widened
    inputs: Tensor
    targets: Tensor
    test_inputs: Tensor
    test_targets: Tensor
    classes: int | None

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss on each example ``[…, n]`` of outputs ``[…, n, k]`` against targets broadcast to ``[…, n]``."""
        if self.classes is not None:
            return (outputs.argmax(-1) != targets).float()
        return (outputs.reshape(outputs.shape[:-1] if outputs.shape[-1] == 1 else outputs.shape) - targets) ** 2

    def facts(self) -> dict[str, Any]:
        """What tells one world from another: digests of both samples, the network's name and its shapes at width 1."""
        seen, held = Fingerprint(), Fingerprint()
        seen.update(self.inputs, self.targets)
        held.update(self.test_inputs, self.test_targets)
        shapes = [(name, list(x.shape)) for name, x in initialise(self.factory, 0).state_dict().items()]
        return {
            "train": seen.digest,
            "test": held.digest,
            "model": self.factory.name,
            "network": shapes,
            "classes": self.classes,
        }

    def parameters(self, width: float) -> int:
        """Parameters of the network at a width."""
        return sum(p.numel() for p in initialise(lambda: self.factory(width), 0).parameters())


@dataclass(frozen=True)
class Refitted:
    """Everything a run of a plan left. interrupted: by Ctrl-C; left: units for which there was no time."""

    plan: Plan
    refits: tuple[Refit, ...]
    test_size: int
    interrupted: bool = False
    left: int = 0

    def at(self, cell: Cell, length: float = 1.0) -> list[Refit]:
        """The refits of a cell after a length of training, by replicate."""
        found = [r for r in self.refits if r.cell == cell and r.length == length]
        return sorted(found, key=lambda r: r.replicate)


def rows(plan: Plan, n: int, replicate: int) -> Tensor:
    """The examples of a replicate: n of all, without repetition; all of them in every replicate where n is all."""
    generator = torch.Generator().manual_seed(stream_seed(plan.seed, f"examples of replicate {replicate} at {n}"))
    return torch.randperm(plan.n, generator=generator)[:n]


def unit_refits(world: World, plan: Plan, unit: Unit) -> list[Refit]:
    """Train a unit's networks and look at them after each length of training.

    :raises InvalidInput: training diverged, or the network does not fit the data.
    """
    n, width = unit.cell.n, unit.cell.width
    members = [Member(stream_seed(plan.seed, f"replicate {r} at {n}, {width}"), rows(plan, n, r)) for r in unit.replicates]
    lengths: dict[int, list[float]] = {}
    for length in plan.lengths:
        lengths.setdefault(plan.steps(n, length), []).append(length)
    found: list[Refit] = []
    begun, looking = time.perf_counter(), 0.0

    def observe(step: int, stack: Stack) -> None:
        nonlocal looking
        now = time.perf_counter()
        test = world.losses(stack.outputs(world.test_inputs), world.test_targets)
        own = [_train_risk(world, stack, i, member.rows) for i, member in enumerate(members)]
        if not (
            test.isfinite().all() and np.isfinite(own).all() and all(p.isfinite().all() for p in stack.parameters.values())
        ):
            raise InvalidInput(
                f"training diverged at n = {n}, width {width:g}, learning rate {plan.learning_rate:g}. Lower it (try"
                f" {plan.learning_rate / 10:g}), and check the scale of the inputs"
            )
        seconds = (now - begun - looking) / len(members)
        parameters = sum(p[0].numel() for p in stack.parameters.values())
        for length in lengths[step]:
            for replicate, risk, losses in zip(unit.replicates, own, test.numpy(), strict=True):
                found.append(Refit(unit.cell, length, replicate, risk, losses.copy(), seconds, parameters))
        looking += time.perf_counter() - now

    trained_stack(
        lambda: world.factory(width),
        world.inputs,
        world.targets,
        members,
        steps=max(lengths),
        batch_size=min(plan.batch_size, n),
        learning_rate=plan.learning_rate,
        optimizer=OPTIMIZERS[plan.optimizer],
        loss=cross_entropy if world.classes is not None else _squared,
        observe=observe,
        observed=tuple(lengths),
    )
    return found


def _squared(outputs: Tensor, targets: Tensor) -> Tensor:
    return mse_loss(outputs.squeeze(-1), targets)


def _train_risk(world: World, stack: Stack, index: int, own: Tensor) -> float:
    alone = stack.member(index)
    total = 0.0
    with torch.no_grad():
        for part in own.split(1000):
            total += float(world.losses(alone(world.inputs[part]), world.targets[part]).sum())
    return total / len(own)


_HERE: World | None = None


def _prepare(world: World, threads: int) -> None:
    """In a new worker: keep the world, and leave Ctrl-C to the parent."""
    global _HERE
    _HERE = world
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)


def _work(plan: Plan, unit: Unit) -> list[Refit]:
    assert _HERE is not None
    return unit_refits(_HERE, plan, unit)


def probed_seconds(world: World, plan: Plan, width: float, together: int) -> float:
    """Seconds a step of a stack takes at a width: the best of a few."""
    n = min(plan.n, max(plan.batch_size, 1))
    members = [Member(i, torch.arange(n)) for i in range(together)]
    marks: list[float] = []
    trained_stack(
        lambda: world.factory(width),
        world.inputs,
        world.targets,
        members,
        steps=PROBED_STEPS,
        batch_size=min(plan.batch_size, n),
        loss=cross_entropy if world.classes is not None else _squared,
        observe=lambda step, stack: marks.append(time.perf_counter()),
        observed=range(PROBED_STEPS + 1),
    )
    return min(b - a for a, b in pairwise(marks))


def refitted(
    world: World,
    plan: Plan,
    *,
    seconds: float,
    folder: Path | None = None,
    processes: int = 1,
    progress: bool = True,
) -> Refitted:
    """Carry out ``plan`` until its end or the time's, unit by unit; whatever is finished counts.

    Args:
        seconds: for everything; a unit that would end later is not begun.
        folder: where each finished unit is kept; units found there are not trained again.
        processes: workers with one thread each. One: in this process.

    Raises:
        InvalidInput: no time for two sample sizes, a folder of another run, or training that diverges.
        WorkerLost: a worker was ended from outside; what is finished is on disk, if there is a folder.
    """
    begun = time.perf_counter()
    kept = None if folder is None else Kept(folder, {**asdict(plan), **world.facts()})
    units = plan.units
    refits = [] if kept is None else [refit for unit in units for refit in kept.read(unit)]
    have = {(r.cell, r.replicate) for r in refits}
    pending = [unit for unit in units if any((unit.cell, r) not in have for r in unit.replicates)]
    together = len(plan.rounds[0])
    rates = {width: probed_seconds(world, plan, width, together) for width in {u.cell.width for u in pending}}
    left = len(pending)

    def predicted(unit: Unit) -> float:
        return rates[unit.cell.width] * plan.steps(unit.cell.n, max(plan.lengths)) * 1.1

    if pending and not refits:
        _check_time(pending, predicted, seconds - (time.perf_counter() - begun), seconds)
    interrupted = False
    with progress_bar(progress and bool(pending)) as bar, bar.task("refits", int(sum(map(predicted, pending))) + 1) as advance:
        try:
            for unit, found in _each(world, plan, pending, predicted, begun + seconds, processes):
                refits += found
                left -= 1
                advance(int(predicted(unit)))
                taken = sum(refit.seconds for refit in found if refit.length == max(plan.lengths))
                rates[unit.cell.width] = taken / plan.steps(unit.cell.n, max(plan.lengths))
                if kept is not None:
                    kept.write(unit, found)
        except KeyboardInterrupt:
            interrupted = True
    return Refitted(plan, tuple(refits), len(world.test_targets), interrupted, left)


def _check_time(pending: list[Unit], predicted: Callable[[Unit], float], left: float, given: float) -> None:
    sizes: dict[int, Unit] = {}
    for unit in pending:
        if unit.cell.width == 1:
            sizes.setdefault(unit.cell.n, unit)
    least = sum(predicted(unit) for _, unit in sorted(sizes.items())[:2])
    if least > left:
        raise InvalidInput(
            f"{given:.3g} s are too little for two points of a learning curve, which take about {least:.2g} s here; the whole plan"
            f" takes about {sum(map(predicted, pending)):.2g} s. Give more time (--time), fewer epochs, or fewer examples"
        )


def _each(
    world: World, plan: Plan, pending: list[Unit], predicted: Callable[[Unit], float], deadline: float, processes: int
) -> Iterator[tuple[Unit, list[Refit]]]:
    """Finished units as they come; what no longer fits into the time is passed over for what does."""
    queue = list(pending)

    def next_unit() -> Unit | None:
        now = time.perf_counter()
        for i, unit in enumerate(queue):
            if now + predicted(unit) <= deadline:
                return queue.pop(i)
        return None

    if processes == 1:
        while (unit := next_unit()) is not None:
            yield unit, unit_refits(world, plan, unit)
        return
    with ExitStack() as stack:
        pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_prepare, initargs=(world, 1))
        stack.callback(pool.shutdown, wait=False, cancel_futures=True)
        running: dict[Future[list[Refit]], Unit] = {}
        try:
            while True:
                while len(running) < processes and (unit := next_unit()) is not None:
                    running[pool.submit(_work, plan, unit)] = unit
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    found = future.result()
                    yield running.pop(future), found
        except BrokenProcessPool as error:
            raise WorkerLost(
                f"a worker process ended before its refits did ({', '.join(unit.key for unit in running.values())}): something ended it,"
                " most often a lack of memory. What is finished is kept where a folder was given: go on from it (--resume), perhaps with"
                " fewer processes"
            ) from error
        except BaseException:
            for process in list(getattr(pool, "_processes", {}).values()):
                process.terminate()
            raise

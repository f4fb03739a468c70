"""Many small networks trained at once beside the same networks trained one after another: ``python benchmarks/bench_stacked_training.py``.

One run, alternated, on two cores: a loop with one thread or with two, whichever is faster; two processes that loop over half of the
networks each, a core a process; a stack with two threads; two processes with half of the stack each. All take their steps with the fused
Adam. Steps of a network a second; the better stack is compared with the loop, and with the two processes of loops.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import torch
from torch import nn

from nonvacuous.runtime.models import convnet, initialise, mlp
from nonvacuous.runtime.stacked_training import Member, trained_stack

Case = tuple[tuple[int, ...], tuple[int, ...], int, int, int]
#: name → widths or height, width, channels, classes; input shape; members; batch; steps
CASES: dict[str, Case] = {
    "mlp 64-64-10": ((64, 64, 10), (64,), 32, 32, 80),
    "mlp 64-64-64-10": ((64, 64, 64, 10), (64,), 32, 32, 60),
    "mlp 784-32-10": ((784, 32, 10), (784,), 16, 32, 60),
    "mlp 784-256-10": ((784, 256, 10), (784,), 8, 128, 20),
    "convnet 8x8x1-10": ((8, 8, 1, 10), (1, 8, 8), 16, 32, 20),
}


def factory(sizes: tuple[int, ...], shape: tuple[int, ...]) -> Callable[[], nn.Module]:
    """The case's network."""
    return lambda: mlp(*sizes) if len(shape) == 1 else convnet(*sizes)


def stacked(case: Case, seeds: Sequence[int], threads: int) -> None:
    """Train the networks of ``seeds`` at once."""
    sizes, shape, _, batch, steps = case
    torch.set_num_threads(threads)
    x, y = data(shape)
    members = [Member(seed, torch.arange(len(x))) for seed in seeds]
    trained_stack(factory(sizes, shape), x, y, members, steps=steps, batch_size=batch)


def one_by_one(case: Case, seeds: Sequence[int], threads: int) -> None:
    """Train them one after another with a plain loop."""
    sizes, shape, _, batch, steps = case
    torch.set_num_threads(threads)
    x, y = data(shape)
    for seed in seeds:
        model = initialise(factory(sizes, shape), seed)
        stepper, order = (
            torch.optim.Adam(model.parameters(), lr=1e-3, fused=True),
            Member(seed, torch.arange(len(x))).batches(batch),
        )
        for _ in range(steps):
            rows = next(order)
            loss = nn.functional.cross_entropy(model(x[rows]), y[rows])
            stepper.zero_grad(set_to_none=True)
            loss.backward()
            stepper.step()


def data(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """2,000 examples of noise: only the time is looked at."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2000, *shape, generator=generator), torch.randint(10, (2000,), generator=generator)


def seconds(work: Callable[..., object], *arguments: object) -> float:
    """Wall time of ``work(*arguments)``."""
    begun = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - begun


def in_two_processes(pool: ProcessPoolExecutor, work: Callable[..., None], case: Case) -> None:
    """Half of the networks in each."""
    everyone = range(case[2])
    list(pool.map(work, [case] * 2, [everyone[::2], everyone[1::2]], [1, 1]))


def main() -> None:
    """A line a case, the best of three alternated rounds."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for name, case in CASES.items():
            in_two_processes(pool, stacked, case)  # both processes start and load torch
            everyone, done = range(case[2]), case[2] * case[4]
            rounds = [
                (
                    min(seconds(one_by_one, case, everyone, threads) for threads in (1, 2)),
                    seconds(in_two_processes, pool, one_by_one, case),
                    seconds(stacked, case, everyone, 2),
                    seconds(in_two_processes, pool, stacked, case),
                )
                for _ in range(3)
            ]
            loop, loops, stack, stacks = (done / min(column) for column in zip(*rounds, strict=True))
            best = max(stack, stacks)
            print(
                f"{name:<17} {case[2]:>2} networks, steps/s: loop {loop:5.0f}, two processes of loops {loops:5.0f}; stack {stack:5.0f},"
                f" two processes of stacks {stacks:5.0f}: {best / loop:.1f} × the loop, {best / loops:.1f} × two processes",
                flush=True,
            )


if __name__ == "__main__":
    main()

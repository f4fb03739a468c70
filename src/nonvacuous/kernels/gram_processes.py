"""The stripes of a Gram matrix, computed by several processes: each takes the next stripe that is left, on one thread."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.reduction import ForkingPickler

import numpy as np
import torch
from torch import Tensor
from torch.multiprocessing import get_context

from nonvacuous.core.errors import InvalidInput
from nonvacuous.kernels.block_gram import KernelFunction, Stripe, computed_stripe

_AHEAD = 2
"""Stripes a process that are computed or wait to be fetched, so that memory is bounded."""

_work: list[tuple[KernelFunction, Tensor, int]] = []


def _prepared(kernel: KernelFunction, inputs: np.ndarray, rows: int) -> None:
    torch.set_num_threads(1)
    _work[:] = [(kernel, torch.from_numpy(inputs), rows)]


def _computed(start: int) -> np.ndarray:
    kernel, inputs, rows = _work[0]
    with torch.no_grad():
        return computed_stripe(kernel, inputs, start, rows).numpy()


def stripes_by_processes(
    kernel: KernelFunction, inputs: Tensor, rows: int, starts: Iterable[int], processes: int
) -> Iterator[Stripe]:
    """The stripes that begin at ``starts``, the same numbers as one thread computes, in the order in which they are done.

    kernel: is sent to the processes, so it is a function of a module, or a ``functools.partial`` of one; a script that asks for
    processes does its work under ``if __name__ == "__main__":``. The longest stripes, those that begin last, are begun first. Beside
    the inputs, which every process holds, memory is two stripes a process.

    Raises:
        InvalidInput: processes below 1, inputs on another device than the processor, a kernel that cannot be sent or that ends its
            process; what :func:`~nonvacuous.kernels.block_gram.computed_stripe` raises.
    """
    checked_processes(processes)
    if inputs.device.type != "cpu":
        raise InvalidInput(
            f"inputs on {inputs.device}: several processes compute on the processor; move the inputs, or take processes=1"
        )
    try:
        ForkingPickler.dumps(kernel)
    except Exception as error:  # of many kinds, the kernel's own among them
        raise InvalidInput(
            f"the kernel {kernel!r} cannot be sent to other processes ({error}): give a function of a module or a functools.partial of one"
        ) from error
    left = sorted(starts, reverse=True)
    sent = (kernel, inputs.detach().numpy(), rows)
    pool = ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=_prepared, initargs=sent)
    pending: dict[Future[np.ndarray], int] = {}
    try:
        while left or pending:
            while left and len(pending) < _AHEAD * processes:
                start = left.pop(0)
                pending[pool.submit(_computed, start)] = start
            done, _ = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                yield Stripe(pending.pop(future), torch.from_numpy(future.result()))
    except BrokenProcessPool as error:
        raise InvalidInput(
            "a process that computed the Gram matrix ended: it ran out of memory (take fewer processes, or fewer rows in a stripe), or the "
            'script lacks `if __name__ == "__main__":`'
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def checked_processes(processes: int) -> int:
    """A number of processes; raises ``InvalidInput``."""
    if isinstance(processes, bool) or not isinstance(processes, int) or processes < 1:
        raise InvalidInput(f"processes={processes!r}: a whole number, 1 (this one) or more")
    return processes

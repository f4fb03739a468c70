"""Many small networks of one architecture trained at once: their weights stacked, each with its own seed and its own examples.

A small network on a CPU spends its time on starting operations, not on doing them; a stack starts each operation once for all of
its members.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.functional import cross_entropy
from torch.optim import Optimizer

from nonvacuous.core.errors import InvalidInput
from nonvacuous.runtime.models import initialise
from nonvacuous.runtime.seeds import stream_seed

__all__ = ["Member", "Stack", "trained_stack"]

Loss = Callable[[Tensor, Tensor], Tensor]
MakeOptimizer = Callable[..., Optimizer]
Perturbation = Callable[["Stack", Tensor, Tensor], Tensor]
EVALUATED_AT_ONCE = 1000
FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)
"""Optimizers that take a step of all weights in one pass over them, if asked."""


@dataclass(frozen=True)
class Member:
    """One network of a stack. seed: of its initial weights and its order; rows: the examples that it trains on, ``[n]``."""

    seed: int
    rows: Tensor

    def __post_init__(self) -> None:
        if self.rows.ndim != 1 or not len(self.rows):
            raise InvalidInput(f"rows of shape {tuple(self.rows.shape)}: a member trains on at least one example. Give [n]")

    def batches(self, size: int) -> Iterator[Tensor]:
        """Without end: batches of exactly ``size`` rows, from one shuffled pass after the other, cut where it fits."""
        pending = self.rows[:0]
        epoch = 0
        while True:
            while len(pending) < size:
                generator = torch.Generator().manual_seed(stream_seed(self.seed, f"order of epoch {epoch}"))
                pending = torch.cat([pending, self.rows[torch.randperm(len(self.rows), generator=generator)]])
                epoch += 1
            yield pending[:size]
            pending = pending[size:]


class Stack:
    """Networks of one architecture whose parameters and buffers are kept together, ``[members, …]`` each.

    :raises InvalidInput: members whose architectures differ.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        shapes = [[(name, x.shape) for name, x in module.state_dict().items()] for module in modules]
        if any(s != shapes[0] for s in shapes):
            raise InvalidInput("the networks of a stack must have one architecture: the factory gave different ones")
        self.size = len(modules)
        self.parameters = {
            name: torch.stack([dict(module.named_parameters())[name].detach() for module in modules]).requires_grad_(
                parameter.requires_grad
            )
            for name, parameter in modules[0].named_parameters()
        }
        self.buffers = {
            name: torch.stack([dict(module.named_buffers())[name] for module in modules])
            for name, _ in modules[0].named_buffers()
        }
        self._body = deepcopy(modules[0])

    def outputs(self, inputs: Tensor) -> Tensor:
        """Outputs ``[members, n, k]`` in evaluation mode on inputs ``[n, …]``, the same for all."""
        self._body.eval()
        with torch.no_grad():
            parts = [
                self._mapped(lambda p, b, x: functional_call(self._body, (p, b), (x,)), (0, 0, None), x)
                for x in inputs.split(EVALUATED_AT_ONCE)
            ]
        return torch.cat(parts, 1)

    def losses(self, inputs: Tensor, targets: Tensor, loss: Loss) -> Tensor:
        """Training losses ``[members]``, each on its own batch ``[members, b, …]``."""
        self._body.train()
        return self._mapped(
            lambda p, b, x, y: loss(functional_call(self._body, (p, b), (x,)), y), (0, 0, 0, 0), inputs, targets
        )

    def member(self, index: int) -> nn.Module:
        """A network of its own, with copies of the member's weights."""
        module = deepcopy(self._body)
        state = {name: x[index].detach().clone() for name, x in {**self.parameters, **self.buffers}.items()}
        module.load_state_dict(state, strict=False)
        return module.eval()

    def _mapped(self, function: Callable[..., Tensor], axes: tuple[int | None, ...], *given: Tensor) -> Tensor:
        if self.size > 1:
            return vmap(function, in_dims=axes, randomness="different")(self.parameters, self.buffers, *given)
        alone = [{name: x[0] for name, x in part.items()} for part in (self.parameters, self.buffers)]
        shared = [x if axis is None else x[0] for axis, x in zip(axes[2:], given, strict=True)]
        return function(*alone, *shared)[None]


def trained_stack(
    factory: Callable[[], nn.Module],
    inputs: Tensor,
    targets: Tensor,
    members: Sequence[Member],
    *,
    steps: int,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    optimizer: MakeOptimizer = torch.optim.Adam,
    loss: Loss = cross_entropy,
    perturbed: Perturbation | None = None,
    observe: Callable[[int, Stack], object] | None = None,
    observed: Sequence[int] = (),
) -> Stack:
    """Train one network a member, all at once, for ``steps`` steps of ``batch_size`` examples at a constant learning rate.

    Each member is what it would be alone, to rounding: initial weights of its seed, its own order, and an optimizer whose step is
    taken weight by weight (SGD with or without momentum, Adam, AdamW, RMSprop …, but not one that looks at a whole tensor's norm).
    A stack of one costs what a plain loop costs. A member that diverges does not disturb the others: its weights become NaN.

    Args:
        inputs, targets: ``[N, …]``, ``[N]``, from which members take their rows.
        loss: (outputs, targets) → mean over the batch.
        perturbed: (stack, inputs ``[members, b, …]``, targets ``[members, b]``) → the inputs that a step trains on in their place.
        observe: called with (steps done, stack) after each number of steps in ``observed``; 0 is before the first.

    Raises:
        InvalidInput: no member, rows out of range, steps below 0, a factory whose networks differ, or a network that cannot be
            stacked (train it in stacks of one).
    """
    if not members or steps < 0 or batch_size < 1 or not 0 < learning_rate < math.inf:
        raise InvalidInput(
            f"{len(members)} members, {steps} steps, batches of {batch_size}, learning rate {learning_rate!r}: give at least one"
            " member, 0 or more steps, batches of 1 or more and a positive learning rate"
        )
    if any(int(m.rows.min()) < 0 or int(m.rows.max()) >= len(inputs) for m in members):
        raise InvalidInput(f"a member's rows reach beyond the {len(inputs)} examples. Give indices 0 … {len(inputs) - 1}")
    stack = Stack([initialise(factory, member.seed).to(inputs.device) for member in members])
    fused: dict[str, bool] = {"fused": True} if optimizer in FUSED else {}
    stepper = optimizer([p for p in stack.parameters.values() if p.requires_grad], lr=learning_rate, **fused)
    orders = [member.batches(batch_size) for member in members]
    devices = [inputs.device] if inputs.device.type == "cuda" else []
    watched = set(observed)
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(stream_seed(members[0].seed, "noise of the stack"))
        for step in range(steps + 1):
            if observe is not None and step in watched:
                observe(step, stack)
            if step == steps:
                break
            rows = torch.stack([next(order) for order in orders]).to(inputs.device)
            x, y = inputs.index_select(0, rows.flatten()).unflatten(0, rows.shape), targets[rows]
            if perturbed is not None:
                x = perturbed(stack, x, y)
            total = _losses(stack, x, y, loss).sum()
            stepper.zero_grad(set_to_none=True)
            total.backward()
            stepper.step()
    return stack


def _losses(stack: Stack, inputs: Tensor, targets: Tensor, loss: Loss) -> Tensor:
    try:
        return stack.losses(inputs, targets, loss)
    except (RuntimeError, ValueError, NotImplementedError) as error:
        if isinstance(error, torch.cuda.OutOfMemoryError):
            raise
        reason = str(error).strip().splitlines()[0]
        raise InvalidInput(
            f"a step of {stack.size} networks at once failed with {type(error).__name__}: {reason}."
            + (
                " Train them in stacks of one, and check that the inputs fit"
                if stack.size > 1
                else " Check that the inputs fit"
            )
        ) from error

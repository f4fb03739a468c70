"""The plain, seeded training loop behind the demo and the examples."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss
from torch.optim import Optimizer

from nonvacuous.core.errors import InvalidInput
from nonvacuous.runtime.checkpoints import Checkpoint, copied
from nonvacuous.runtime.data import Sample
from nonvacuous.runtime.models import initialise, outputs
from nonvacuous.runtime.progress import Silent, epoch_display

__all__ = ["OPTIMIZERS", "TrainingRecord", "initialise", "resolved_device", "train"]

Loss = Callable[[Tensor, Tensor], Tensor]
MakeOptimizer = Callable[..., Optimizer]

#: Optimizers by name; a callable ``(parameters, lr=…) → Optimizer`` serves as well.
OPTIMIZERS: dict[str, MakeOptimizer] = {
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
    "sgd": torch.optim.SGD,
    "momentum": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9),
}
_CHECK_EVERY = 50


@dataclass(frozen=True)
class TrainingRecord:
    """What a run did, one entry for each finished epoch.

    losses: mean loss an example while the epoch went on; accuracies: fraction right likewise (empty for regression); seconds:
    wall time; interrupted: stopped by Ctrl-C, in which case the model is as it was after the last finished epoch.
    """

    losses: tuple[float, ...]
    accuracies: tuple[float, ...]
    seconds: tuple[float, ...]
    seed: int
    interrupted: bool = False

    @property
    def epochs(self) -> int:
        """Finished epochs."""
        return len(self.losses)


def resolved_device(device: str | torch.device = "auto") -> torch.device:
    """``"auto"``: the first CUDA device where there is one, else the CPU; anything else as torch reads it.

    :raises InvalidInput: a device that torch does not know or this machine does not have.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).strip().splitlines()[0]
        raise InvalidInput(f"device {str(device)!r} cannot be used: {first}. Use 'cpu' or 'auto'") from error
    return found


def train(
    model: nn.Module,
    sample: Sample,
    *,
    epochs: int,
    seed: int = 0,
    learning_rate: float = 1e-3,
    batch_size: int = 128,
    optimizer: str | MakeOptimizer = "adam",
    device: str | torch.device = "cpu",
    progress: bool | Silent = True,
    checkpoint: Path | None = None,
    resume: bool = False,
    loss: Loss | None = None,
    after_epoch: Callable[[int, float], object] | None = None,
) -> TrainingRecord:
    """Train ``model`` in place (it ends on ``device`` in its former train/eval mode): ``epochs`` passes over ``sample``.

    Epoch e shuffles with a generator of its own and runs with torch's global generators (dropout) seeded by (seed, e); they
    are put back afterwards. So a run depends on the initial weights, the sample and the arguments alone, and one that is
    resumed from its ``checkpoint`` (a file, written after each epoch) ends with the very bits of an unbroken one. Ctrl-C ends
    the run with ``interrupted``; then, as after an error, the model is as the last finished epoch left it. ``loss`` is
    cross-entropy for classes, squared error for regression, or any function (outputs, targets) → mean over the batch.
    ``after_epoch`` is called with (finished epochs, mean loss) after each, to watch the run; it must not change the model.
    ``progress`` is whether to show it, or a display of the caller's own.

    :raises InvalidInput: arguments out of range, a model that does not fit the data, a loss that becomes NaN or infinite, a
        checkpoint that exists (without ``resume``), is missing (with it), or belongs to another run.
    """
    _check_arguments(epochs, learning_rate, batch_size, resume, checkpoint)
    place = resolved_device(device)
    classes = sample.classes
    if loss is None:
        loss = mse_loss if classes is None else cross_entropy
    modes = {module: module.training for module in model.modules()}
    model.to(place)
    maker, name = _optimizer_maker(optimizer)
    if not any(p.requires_grad for p in model.parameters()):
        raise InvalidInput("the model has no parameters to train. Unfreeze some (requires_grad=True)")
    stepper = maker([p for p in model.parameters() if p.requires_grad], lr=learning_rate)
    facts = {"seed": seed, "learning_rate": learning_rate, "batch_size": batch_size, "optimizer": name, "n": sample.n}
    store = None if checkpoint is None else Checkpoint(Path(checkpoint))
    history: list[list[float]] = _resumed(store, model, stepper, facts, epochs) if store and resume else []
    steps = math.ceil(sample.n / batch_size)
    if isinstance(progress, Silent):
        display = progress
    else:
        display = epoch_display(epochs, steps, len(history)) if progress and len(history) < epochs else Silent()
    state, interrupted = copied(model), False
    devices = [place] if place.type == "cuda" else []
    try:
        with display, torch.random.fork_rng(devices=devices):
            for epoch in range(len(history), epochs):
                started = time.perf_counter()
                order = _seeded(seed, epoch, sample.n, place)
                model.train()
                batches = (batch.to(place) for batch in sample.batches(batch_size, order))
                mean, right = _epoch(model, batches, loss, stepper, classes, display)
                entry = [mean, right, time.perf_counter() - started]
                if store:
                    store.write(model, stepper, facts | {"history": [*history, entry]})
                state = copied(model)
                history.append(entry)
                display.finished(mean, None if classes is None else right)
                if after_epoch is not None:
                    after_epoch(epoch + 1, mean)
    except BaseException as error:
        model.load_state_dict(state)
        if not isinstance(error, KeyboardInterrupt):
            raise
        interrupted = True
    finally:
        for module, mode in modes.items():
            module.training = mode
    columns = list(zip(*history, strict=True)) or [(), (), ()]
    return TrainingRecord(columns[0], columns[1] if classes is not None else (), columns[2], seed, interrupted)


def _check_arguments(epochs: int, learning_rate: float, batch_size: int, resume: bool, checkpoint: Path | None) -> None:
    if epochs < 0:
        raise InvalidInput(f"epochs = {epochs}: it must be 0 or more")
    if batch_size < 1:
        raise InvalidInput(f"batch size {batch_size}: it must be at least 1")
    if not 0 < learning_rate < math.inf:
        raise InvalidInput(f"learning rate {learning_rate!r}: it must be positive and finite; 0.001 suits Adam")
    if resume and checkpoint is None:
        raise InvalidInput("resume needs the checkpoint to resume from. Pass checkpoint=PATH")
    if checkpoint is not None and not resume and Path(checkpoint).exists():
        raise InvalidInput(f"checkpoint {checkpoint} exists. Pass resume=True to go on from it, or remove it to train afresh")
    if checkpoint is not None and not Path(checkpoint).parent.is_dir():
        raise InvalidInput(f"the folder of checkpoint {checkpoint} does not exist. Create it first")


def _optimizer_maker(optimizer: str | MakeOptimizer) -> tuple[MakeOptimizer, str]:
    if callable(optimizer):
        return optimizer, getattr(optimizer, "__qualname__", type(optimizer).__name__)
    if optimizer not in OPTIMIZERS:
        raise InvalidInput(
            f"unknown optimizer {optimizer!r}. Possible: {', '.join(OPTIMIZERS)}, or a function (parameters, lr=…)"
        )
    return OPTIMIZERS[optimizer], optimizer


def _resumed(store: Checkpoint, model: nn.Module, stepper: Optimizer, facts: dict[str, Any], epochs: int) -> list[list[float]]:
    saved = store.facts()
    changed = [f"{key} was {saved.get(key)}, now {value}" for key, value in facts.items() if saved.get(key) != value]
    if changed:
        raise InvalidInput(f"{store.path} belongs to another run: {'; '.join(changed)}. Resume with the same arguments")
    history = list(saved["history"])
    if len(history) > epochs:
        raise InvalidInput(
            f"{store.path} already holds {len(history)} epochs, more than {epochs}. Ask for more, or train afresh"
        )
    store.restore(model, stepper)
    return history


def _seeded(seed: int, epoch: int, n: int, place: torch.device) -> Tensor:
    """Seed torch's global generators for one epoch and return its order [n]."""
    generator = torch.Generator().manual_seed(seed % 2**63)
    drawn = torch.randint(2**62, (2, epoch + 1), generator=generator)[:, -1].tolist()
    torch.default_generator.manual_seed(drawn[0])
    if place.type == "cuda":
        torch.cuda.manual_seed(drawn[0])
    return torch.randperm(n, generator=torch.Generator().manual_seed(drawn[1]))


def _epoch(
    model: nn.Module, batches: Iterable[Any], loss: Loss, stepper: Optimizer, classes: int | None, display: Silent
) -> tuple[float, float]:
    """One pass; (mean loss, fraction right)."""
    total, right, seen = 0.0, 0.0, 0
    pending: list[Tensor] = []  # [loss of the batch, right answers]: read every so often, since reading makes a GPU wait
    for step, (inputs, targets) in enumerate(batches):
        answers = outputs(model, inputs)
        if not step:
            _check_answers(answers, len(targets), classes, custom=loss not in (cross_entropy, mse_loss))
        if classes is None and answers.ndim == 2 and answers.shape[1] == 1:
            answers = answers.squeeze(1)
        value = loss(answers, targets)
        stepper.zero_grad(set_to_none=True)
        value.backward()
        stepper.step()
        seen += len(targets)
        hits = (
            (answers.detach().argmax(1) == targets).sum()
            if classes is not None and answers.ndim == 2
            else targets.new_zeros(())
        )
        pending.append(torch.stack([value.detach() * len(targets), hits.to(value.dtype)]))
        if step % _CHECK_EVERY == 0:
            total, right = _read(pending, total, right, stepper)
        display.advance()
    total, right = _read(pending, total, right, stepper)
    return total / seen, right / seen


def _read(pending: list[Tensor], total: float, right: float, stepper: Optimizer) -> tuple[float, float]:
    """The sums with what is ``pending`` added, which is emptied."""
    for loss, hits in torch.stack(pending).tolist() if pending else []:
        total, right = total + loss, right + hits
    pending.clear()
    _check_loss(total, stepper)
    return total, right


def _check_loss(total: float, stepper: Optimizer) -> None:
    if not math.isfinite(total):
        rate = stepper.param_groups[0]["lr"]
        raise InvalidInput(
            f"the training loss became {total}: training diverged at learning rate {rate:g}. Lower it (try {rate / 10:g}), and"
            " check the scale of the inputs"
        )


def _check_answers(answers: Tensor, size: int, classes: int | None, custom: bool) -> None:
    shape = tuple(answers.shape)
    if answers.ndim == 0 or shape[0] != size:
        raise InvalidInput(
            f"the model gave outputs of shape {shape} for {size} examples; the first number must be the examples. Fix its"
            " forward"
        )
    if custom:
        return
    if classes is None and shape not in ((size,), (size, 1)):
        raise InvalidInput(
            f"the model gave outputs of shape {shape}; regression needs [b] or [b, 1]. Give the model one output"
        )
    if classes is not None and (answers.ndim != 2 or shape[1] < max(classes, 2)):
        raise InvalidInput(
            f"the model gave outputs of shape {shape} for data with {classes} classes; expected [b, {max(classes, 2)}]. Give"
            " the model one output a class"
        )

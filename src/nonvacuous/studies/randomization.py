"""The randomization test (Zhang, Bengio, Hardt, Recht and Vinyals 2017, Understanding Deep Learning Requires Rethinking Generalization).

The same recipe is trained on true labels, on labels corrupted in part or whole, on shuffled and random pixels and on noise.  A network
that fits random labels has a training error that says nothing by itself; `Randomization.capacity` turns that into a number.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.runtime.factories import write_text
from nonvacuous.runtime.fingerprint import Fingerprint
from nonvacuous.runtime.models import initialise, outputs
from nonvacuous.runtime.samples import Sample
from nonvacuous.runtime.seeds import stream_seed
from nonvacuous.runtime.stacked_training import Member, Stack, trained_stack
from nonvacuous.runtime.tasks import Progress
from nonvacuous.studies.batch_size import draw
from nonvacuous.studies.randomization_arms import Arm, Material, Setting, changed

FORMAT = "nonvacuous-randomization-1"
CORRUPTIONS = (0.2, 0.4, 0.6, 0.8)
COLUMNS = ("arm", "corruption", "seed", "steps", "unfitted_at", "fitted_at", "train_loss", "train_error", "test_error")
SPACING = 1.12
"""Ratio of one look at the training error to the next."""


def arms(corruptions: Sequence[float] = CORRUPTIONS) -> tuple[Arm, ...]:
    """True labels, the given corruptions in order, random labels, the three changes of inputs, and random signs."""
    shares = sorted({0.0, *corruptions, 1.0})
    others = (Setting.SHUFFLED_PIXELS, Setting.RANDOM_PIXELS, Setting.GAUSSIAN, Setting.SIGNS)
    return (*(Arm(Setting.LABELS, share) for share in shares), *(Arm(setting) for setting in others))


@dataclass(frozen=True)
class Recipe:
    """How each arm is trained: until the training error of all its seeds is at most ``fitted_error``, for ``most_steps`` at most."""

    examples: int = 2000
    seeds: int = 3
    most_steps: int = 5000
    batch_size: int = 128
    learning_rate: float = 1e-3
    optimizer: str = "adam"
    fitted_error: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.examples, self.seeds, self.most_steps, self.batch_size) < 1:
            raise InvalidInput("examples, seeds, most_steps and batch_size of a randomization test are at least 1")
        if not 0 <= self.fitted_error < 1:
            raise InvalidInput(
                f"fitted_error {self.fitted_error!r}: the training error at which a run ends, from 0 to below 1"
            )
        if not 0 < self.learning_rate < math.inf:
            raise InvalidInput(f"learning_rate {self.learning_rate!r}: positive and finite")
        if self.optimizer not in OPTIMIZERS:
            raise InvalidInput(f"optimizer {self.optimizer!r}. Possible: {', '.join(OPTIMIZERS)}")


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "momentum": lambda parameters, lr: torch.optim.SGD(parameters, lr=lr, momentum=0.9),
}


@dataclass(frozen=True)
class Look:
    """Loss and error on the training data of an arm, in evaluation mode, after so many steps."""

    step: int
    loss: float
    error: float


@dataclass(frozen=True)
class Trained:
    """One network of an arm.  test_error: on the arm's test inputs with true labels, at its last look."""

    arm: Arm
    seed: int
    looks: tuple[Look, ...]
    test_error: float

    def steps_to_fit(self, fitted_error: float) -> Measured | None:
        """Between the last look before and the first at which the training error is at most ``fitted_error``; None: never."""
        first = next((i for i, look in enumerate(self.looks) if look.error <= fitted_error), None)
        if first is None:
            return None
        return Measured.indicator(self.looks[max(first - 1, 0)].step, self.looks[first].step)


@dataclass(frozen=True)
class Randomization:
    """The finished arms.  facts: what tells one study from another; interrupted: arms are missing."""

    facts: Mapping[str, Any]
    recipe: Recipe
    classes: int
    runs: tuple[Trained, ...]
    interrupted: bool = False

    @property
    def arms(self) -> tuple[Arm, ...]:
        """In the order of training."""
        return tuple(dict.fromkeys(run.arm for run in self.runs))

    def of(self, arm: Arm) -> tuple[Trained, ...]:
        """The runs of an arm, one a seed."""
        return tuple(run for run in self.runs if run.arm == arm)

    def capacity(self, delta: float = 0.05) -> Measured | None:
        """Rademacher complexity E_σ sup_h (1/n) Σ σ_i h(x_i) of h = sign(f₁ − f₀) over all weights, on the study's n inputs.

        ``lower`` holds with probability 1 − delta over the signs: the supremum is at least the correlation that training reached, and
        its mean over R sets of signs moves by at most 2/(nR) with one sign (McDiarmid 1989), so
        E sup ≥ mean correlation − √(2 ln(1/delta) / (nR)).  ``upper`` is 1, which always holds.  A statement about the architecture,
        not about the risk of a network: a bound that grows with this complexity cannot be small.  None: the arm is missing.
        """
        if not 0 < delta < 1:
            raise InvalidInput(f"delta {delta!r}: it lies strictly between 0 and 1")
        runs = self.of(Arm(Setting.SIGNS))
        if not runs:
            return None
        correlation = sum(1 - 2 * run.looks[-1].error for run in runs) / len(runs)
        reach = math.sqrt(2 * math.log(1 / delta) / (self.recipe.examples * len(runs)))
        return Measured(max(0.0, correlation - reach - 1e-12), 1.0, Kind.CONFIDENCE, delta)

    def document(self) -> dict[str, Any]:
        """All of it as JSON can hold it."""
        capacity = self.capacity()
        return {
            "format": FORMAT,
            "facts": dict(self.facts),
            "recipe": asdict(self.recipe),
            "classes": self.classes,
            "interrupted": self.interrupted,
            "capacity": None if capacity is None else {"lower": capacity.lower, "upper": 1.0, "delta": capacity.delta},
            "runs": [
                {
                    "setting": run.arm.setting.value,
                    "corruption": run.arm.corruption,
                    "seed": run.seed,
                    "test_error": run.test_error,
                    "looks": [[look.step, look.loss, look.error] for look in run.looks],
                }
                for run in self.runs
            ],
        }

    def table(self) -> str:
        """One row a network, as CSV."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for run in self.runs:
            fit, last = run.steps_to_fit(self.recipe.fitted_error), run.looks[-1]
            ends = ["", ""] if fit is None else [f"{fit.lower:.0f}", f"{fit.upper:.0f}"]
            numbers = [f"{x:.6g}" for x in (last.loss, last.error, run.test_error)]
            writer.writerow([run.arm.name, run.arm.corruption or "", run.seed, last.step, *ends, *numbers])
        return text.getvalue()


def parsed(document: Mapping[str, Any]) -> Randomization:
    """A study from its JSON.

    :raises InvalidInput: it is not one, or damaged.
    """
    try:
        if document["format"] != FORMAT:
            raise InvalidInput(f"format {document['format']!r:.60} is not {FORMAT}. It was written by another version")
        runs = tuple(
            Trained(
                Arm(Setting(run["setting"]), float(run["corruption"])),
                int(run["seed"]),
                tuple(Look(int(step), float(loss), float(error)) for step, loss, error in run["looks"]),
                float(run["test_error"]),
            )
            for run in document["runs"]
        )
        return Randomization(
            document["facts"], Recipe(**document["recipe"]), int(document["classes"]), runs, bool(document["interrupted"])
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidInput(
            f"not a randomization study ({type(error).__name__}: {error}). Remove the file and run it again"
        ) from error


def read(path: Path) -> Randomization:
    """The study in a file.

    :raises InvalidInput: no file, or not a study.
    """
    try:
        return parsed(json.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror}. Check the path") from error
    except json.JSONDecodeError as error:
        raise InvalidInput(f"{path} is not JSON ({error}). Remove it and run the study again") from error


def randomization(
    factory: Callable[[], nn.Module],
    sample: Sample,
    test: Sample,
    *,
    recipe: Recipe | None = None,
    which: Sequence[Arm] | None = None,
    kept: Path | None = None,
    progress: Progress | None = None,
    device: torch.device | str = "cpu",
) -> Randomization:
    """Train ``factory()`` on every arm; the seeds of an arm train at once, each with weights, order and corruption of its own.

    All arms and seeds share one random subset of ``recipe.examples``.  Ctrl-C returns the arms that are finished.

    Args:
        factory: gives networks for ``[b, …]`` → ``[b, k]`` with k ≥ the number of classes.
        which: arms to train; all of `arms` if None.
        kept: a JSON file rewritten after each arm, and gone on with if it exists.

    :raises InvalidInput: not a classification of plain arrays, fewer examples than asked for, ``kept`` of another study, a loss that
        becomes infinite, or a network that cannot be trained on the sample.
    """
    recipe, which, progress = recipe or Recipe(), tuple(which or arms()), progress or Progress()
    clean, classes = _material(sample, test, recipe)
    facts = _facts(factory, clean)
    runs: list[Trained] = []
    if kept is not None and kept.exists():
        before = read(kept)
        if before.facts != facts or before.recipe != recipe:
            raise InvalidInput(f"{kept} is of another study (data, network or recipe differ). Name another file or remove it")
        runs = list(before.runs)
    interrupted = False
    try:
        with progress.task("randomization", len(which)) as advance:
            for arm in which:
                if not any(run.arm == arm for run in runs):
                    runs += _Study(factory, clean, classes, recipe, torch.device(device)).trained(arm, progress)
                    if kept is not None:
                        _keep(kept, Randomization(facts, recipe, classes, tuple(runs)))
                advance(1)
    except KeyboardInterrupt:
        interrupted = True
    ordered = tuple(run for arm in which for run in runs if run.arm == arm)
    found = Randomization(facts, recipe, classes, ordered, interrupted)
    if kept is not None and ordered:
        _keep(kept, found)
    return found


def _keep(path: Path, found: Randomization) -> None:
    write_text(path, json.dumps(found.document(), ensure_ascii=False, allow_nan=False) + "\n")


def _material(sample: Sample, test: Sample, recipe: Recipe) -> tuple[Material, int]:
    if sample.n < recipe.examples:
        raise InvalidInput(f"{sample.name} has {sample.n} examples, fewer than the {recipe.examples} asked for. Ask for fewer")
    train, held = draw(sample, recipe.examples, recipe.seed), draw(test, 2000, recipe.seed)
    assert isinstance(train.inputs, Tensor) and isinstance(held.inputs, Tensor)
    classes = sample.classes or 0
    if classes < 2:
        raise InvalidInput(f"{sample.name} has {classes} class: labels can only be corrupted among at least 2")
    if train.inputs.shape[1:] != held.inputs.shape[1:] or int(held.targets.max()) >= classes:
        raise InvalidInput(f"{test.name} has inputs of another shape, or other classes, than {sample.name}")
    return Material(train.inputs, train.targets, held.inputs, held.targets), classes


def _facts(factory: Callable[[], nn.Module], clean: Material) -> dict[str, Any]:
    print_ = Fingerprint()
    print_.update(clean.inputs, clean.labels)
    print_.update(clean.test_inputs, clean.test_labels)
    model = initialise(factory, 0)
    shapes = [[name, list(x.shape)] for name, x in model.state_dict().items()]
    parameters = sum(p.numel() for p in model.parameters())
    return {"data": print_.digest, "network": shapes, "parameters": parameters}


class _Fitted(Exception):
    """All seeds have fitted."""


@dataclass
class _Study:
    factory: Callable[[], nn.Module]
    clean: Material
    classes: int
    recipe: Recipe
    device: torch.device
    looks: list[list[Look]] = field(default_factory=list)
    stack: Stack | None = None

    def trained(self, arm: Arm, progress: Progress) -> list[Trained]:
        recipe, n = self.recipe, self.recipe.examples
        seeds = [stream_seed(recipe.seed, f"randomization {i}") for i in range(recipe.seeds)]
        parts = [Material(*(x.to(self.device) for x in changed(self.clean, arm, self.classes, seed))) for seed in seeds]
        own_inputs = arm.setting not in (Setting.LABELS, Setting.SIGNS)
        inputs = (
            torch.cat([part.inputs for part in parts])
            if own_inputs
            else parts[0].inputs.repeat(len(parts), *[1] * (parts[0].inputs.ndim - 1))
        )
        labels = torch.cat([part.labels for part in parts])
        members = [Member(seed, torch.arange(i * n, (i + 1) * n)) for i, seed in enumerate(seeds)]
        steps = _schedule(recipe.most_steps)
        self.looks = [[] for _ in seeds]
        with progress.task(arm.name, len(steps)) as advance:

            def observe(step: int, stack: Stack) -> None:
                self.stack = stack
                for i, part in enumerate(parts):
                    self.looks[i].append(self._look(stack.member(i), part, arm, step))
                advance(1)
                if all(looks[-1].error <= recipe.fitted_error for looks in self.looks):
                    raise _Fitted

            with contextlib.suppress(_Fitted):
                trained_stack(
                    self.factory,
                    inputs,
                    labels,
                    members,
                    steps=recipe.most_steps,
                    batch_size=min(recipe.batch_size, n),
                    learning_rate=recipe.learning_rate,
                    optimizer=OPTIMIZERS[recipe.optimizer],
                    loss=_two_class if arm.setting is Setting.SIGNS else cross_entropy,
                    observe=observe,
                    observed=steps,
                )
        assert self.stack is not None
        errors = [self._test_error(self.stack.member(i), part, arm) for i, part in enumerate(parts)]
        return [Trained(arm, i, tuple(looks), error) for i, (looks, error) in enumerate(zip(self.looks, errors, strict=True))]

    def _look(self, model: nn.Module, part: Material, arm: Arm, step: int) -> Look:
        answers = _answers(model, part.inputs)
        if answers.shape[1] < self.classes:
            raise InvalidInput(f"the network has {answers.shape[1]} outputs for {self.classes} classes. Give it one a class")
        loss = _two_class(answers, part.labels) if arm.setting is Setting.SIGNS else cross_entropy(answers, part.labels)
        if not math.isfinite(float(loss)):
            raise InvalidInput(
                f"{arm.name}: the training loss became {float(loss)} after {step} steps. Lower the learning rate"
            )
        return Look(step, float(loss), _error(answers, part.labels, arm))

    def _test_error(self, model: nn.Module, part: Material, arm: Arm) -> float:
        return _error(_answers(model, part.test_inputs), part.test_labels, arm)


def _two_class(answers: Tensor, labels: Tensor) -> Tensor:
    return cross_entropy(answers[:, :2], labels)


def _error(answers: Tensor, labels: Tensor, arm: Arm) -> float:
    said = (answers[:, 1] > answers[:, 0]).long() if arm.setting is Setting.SIGNS else answers.argmax(1)
    return float((said != labels).double().mean())


@torch.no_grad()
def _answers(model: nn.Module, inputs: Tensor) -> Tensor:
    return torch.cat([outputs(model, x) for x in inputs.split(1000)])


def _schedule(most: int) -> list[int]:
    """0, 1, 2, … and further apart, up to ``most``."""
    steps, at = [0], 1.0
    while round(at) < most:
        steps.append(round(at))
        at = max(at + 1, at * SPACING)
    return [*steps, most]

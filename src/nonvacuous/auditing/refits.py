"""``nonvacuous.budget``: refit, and say where the error is and what would reduce it most."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nonvacuous._version import __version__
from nonvacuous.auditing.budget import Budget
from nonvacuous.auditing.refit_budget import refit_budget
from nonvacuous.auditing.result import Audit
from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.ledger import check_delta
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.learning.in_memory import held
from nonvacuous.numerics.interval import iv
from nonvacuous.numerics.tails import binomial_lower, binomial_upper
from nonvacuous.runtime.data import as_sample, check_independent, conflict_floor, hashed_split
from nonvacuous.runtime.fingerprint import Fingerprint, fingerprint
from nonvacuous.runtime.models import initialise, outputs
from nonvacuous.runtime.seeds import stream_seed
from nonvacuous.runtime.widths import HOW, Widened
from nonvacuous.studies.learning_curve import LearningCurve
from nonvacuous.studies.levers import Lever, contenders, data_curve, levers
from nonvacuous.studies.nearest_neighbour import bayes_bracket, nearest_neighbour_errors
from nonvacuous.studies.refits import FEWEST, plan
from nonvacuous.studies.refitting import SMALL, Refitted, World, refitted

HELD_OUT = 0.2
NEIGHBOURS = 2000


@dataclass(frozen=True, eq=False)
class RefitBudget:
    """Where the error is and what would reduce it.

    budget: the parts for the recipe as it stands (its first replicate, on all the training examples); levers: what doubling the data,
    the width or the training gains, best first; curve: over sample sizes, None with fewer than three; neighbour: the irreducible risk
    as the nearest neighbour sees it, None for regression; notes: what could not be said, and why.
    """

    budget: Budget
    levers: tuple[Lever, ...]
    curve: LearningCurve | None
    neighbour: Measured | None
    run: Refitted
    notes: tuple[str, ...]
    model: str
    delta: float

    def document(self) -> dict[str, Any]:
        """Everything as JSON."""
        parts = [*self.budget.parts, self.budget.risk]
        return {
            "schema": 1,
            "version": __version__,
            "model": self.model,
            "delta": self.delta,
            "parts": [{"name": p.name, "symbol": p.symbol, **_interval(p.measured), "source": p.source} for p in parts],
            "levers": [
                {
                    "name": x.name,
                    "change": x.change,
                    "gain": _interval(x.gain),
                    "verdict": x.verdict,
                    "cost": x.cost,
                    "how": x.how,
                }
                for x in self.levers
            ],
            "first": [x.name for x in contenders(self.levers)],
            "nearest_neighbour": None if self.neighbour is None else _interval(self.neighbour),
            "refits": [
                {
                    "n": r.cell.n,
                    "width": r.cell.width,
                    "epochs": r.length * self.run.plan.epochs,
                    "replicate": r.replicate,
                    "train_risk": r.train_risk,
                    "test_risk": r.risk,
                    "seconds": r.seconds,
                    "parameters": r.parameters,
                }
                for r in self.run.refits
            ],
            "notes": list(self.notes),
        }

    def save(self, directory: str | Path) -> Path:
        """``budget.html`` and ``budget.json``; returns the directory."""
        from nonvacuous.auditing.refit_report import page
        from nonvacuous.runtime.factories import write_text

        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in (("budget.html", page(self)), ("budget.json", json.dumps(self.document(), indent=2))):
            write_text(directory / name, text)
        return directory


def _interval(measured: Measured) -> dict[str, Any]:
    return {"lower": measured.lower, "upper": measured.upper, "kind": measured.kind.name.lower()}


def budget(
    factory: Callable[..., nn.Module] | str,
    train: Any,
    *,
    test: Any = None,
    seconds: float = 1200.0,
    epochs: float = 10,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    optimizer: str = "adam",
    replicates: int = 8,
    seed: int = 0,
    delta: float = 0.05,
    processes: int = 1,
    folder: Path | None = None,
    progress: bool = True,
    device: str = "cpu",
    audited: Audit | None = None,
) -> RefitBudget:
    """Refit ``factory`` at several sample sizes, widths and lengths of training within ``seconds``, and read the budget off.

    Args:
        factory: ``factory(width)`` whose ``width`` multiplies the hidden sizes (1: the model itself), a factory without one (the
            lever is then left out), or a specification such as ``"mlp:784-128-10"``.
        train, test: samples as `audit` takes them; without ``test`` a fifth of ``train`` is held out, by content.
        epochs, batch_size, learning_rate, optimizer: the recipe; it is also seen after half and after twice the epochs.
        delta: of the risk interval, the only certified number here.
        folder: where finished refits are kept; the same call goes on from them.
        audited: the audit of a network of this architecture on these two samples: the parts are then of its risk.

    Raises:
        InvalidInput: fewer than 200 examples, examples on both sides of the split, no time for two points of a curve, no time for
            the recipe itself, or an audit of other samples or another loss.
    """
    check_delta(delta)
    if not (isinstance(seconds, int | float) and 0 < seconds < math.inf):
        raise InvalidInput(f"time {seconds!r}: give a positive number of seconds")
    if processes < 1:
        raise InvalidInput(f"processes {processes}: give at least 1")
    widened = Widened(factory)
    adjustable = widened.adjustable
    network = initialise(widened, seed)  # a model that cannot be made is said first
    sample = check_independent(as_sample(train, "train"))
    notes: list[str] = []
    if test is None:
        sample, test_sample = hashed_split(sample, HELD_OUT, stream_seed(seed, "test sample of refits"))
        notes.append(f"No test sample was given: {test_sample.n:,} examples of the training sample were held out, by content.")
    else:
        test_sample = as_sample(test, "test", classes=sample.classes, regression=sample.classes is None)
    seen, held_out = fingerprint(sample), fingerprint(test_sample)
    _check_samples(seen, held_out)
    if audited is not None:
        _check_audit(audited, sample.classes, seen, held_out)
    own, other = held(sample, device), held(test_sample, device)
    classes = sample.classes
    _check_fit(network.to(device), own.inputs[:2], classes)
    if not adjustable:
        notes.append(f"Width: {widened.name} has none to change, so this lever was left out; {HOW}.")
    world = World(widened, own.inputs, own.targets, other.inputs, other.targets, classes)
    made = plan(
        sample.n,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        optimizer=optimizer,
        seed=seed,
        replicates=replicates,
        adjustable=adjustable,
        small=world.parameters(1.0) <= SMALL,
    )
    run = refitted(world, made, seconds=seconds, folder=folder, processes=processes, progress=progress)
    today = run.at(made.base)
    if not today or today[0].replicate != 0:
        raise InvalidInput(
            f"the time was over before the recipe itself ({sample.n:,} examples) was trained once; {len(run.refits)} smaller refits are"
            " done. Give more time" + ("" if folder is None else "; what is done is kept")
        )
    notes += _notes(run, order_test(own.targets, classes))
    first = today[0]
    floor = 0.0 if classes is None else conflict_floor(seen.examples, seen.targets) / seen.n
    neighbour = None
    if classes is not None and classes >= 2:
        few = slice(0, NEIGHBOURS)
        error = nearest_neighbour_errors(own.inputs, own.targets, other.inputs[few], other.targets[few]).float().mean()
        neighbour = bayes_bracket(float(error), classes)
    risk = _risk(first.losses, classes, delta) if audited is None else audited.budget.risk.measured
    train_risk = first.train_risk if audited is None else audited.facts.train.risk
    return RefitBudget(
        refit_budget(run, train_risk=train_risk, floor=floor, risk=risk),
        tuple(levers(run)),
        data_curve(run, seed=seed),
        neighbour,
        run,
        tuple(notes),
        widened.name,
        delta,
    )


def _check_audit(audited: Audit, classes: int | None, seen: Fingerprint, held_out: Fingerprint) -> None:
    facts = audited.facts
    if classes is None or facts.loss != "zero_one":
        raise InvalidInput(
            f"the audit is of the loss {facts.loss}; refits speak of errors of a classifier: audit with zero_one"
        )
    if facts.test is None or [facts.train.digest, facts.test.digest] != [seen.digest, held_out.digest]:
        raise InvalidInput(
            "the audit is of other samples: refit with the training sample and the test sample that it was given"
        )


@torch.no_grad()
def _check_fit(network: nn.Module, inputs: torch.Tensor, classes: int | None) -> None:
    given = tuple(outputs(network.eval(), inputs).shape)
    needed = 1 if classes is None else max(classes, 2)
    if given != (len(inputs), needed) and not (classes is None and given == (len(inputs),)):
        raise InvalidInput(
            f"the model gives outputs of shape {given} for {len(inputs)} examples; the data need [{len(inputs)}, {needed}]. Give the"
            " model one output a class (one in all for numbers)"
        )


def _check_samples(seen: Fingerprint, held_out: Fingerprint) -> None:
    if seen.n < FEWEST or held_out.n < 2:
        raise InvalidInput(
            f"{seen.n} examples to train on and {held_out.n} to test on: below {FEWEST} (and 2) neither the parts of the error nor the"
            " best lever can be told from luck. `nonvacuous audit` still certifies what it can; or bring more data (or a test sample of"
            " its own, where a fifth was held out)"
        )
    both = set(seen.examples.tolist()) & set(held_out.examples.tolist())
    if both:
        raise InvalidInput(
            f"{len(both)} inputs occur in the training sample and in the test sample: the risk would look too small. Remove them from"
            " one side, or leave the test sample out, and a part is held out by content"
        )


def order_test(targets: torch.Tensor, classes: int | None) -> float:
    """p-value of "the order of the targets is exchangeable": the first half against the second, by label counts or by means.

    Source: Pearson's chi-squared test of homogeneity for classes, Welch's t-test for numbers.
    """
    from scipy import stats

    first, second = targets[: len(targets) // 2].cpu(), targets[len(targets) // 2 :].cpu()
    if classes is None:
        return float(stats.ttest_ind(first.double().numpy(), second.double().numpy(), equal_var=False).pvalue)
    counts = torch.stack([torch.bincount(part, minlength=classes) for part in (first, second)]).numpy()
    counts = counts[:, counts.sum(0) > 0]
    return float(stats.chi2_contingency(counts).pvalue) if counts.shape[1] > 1 else 1.0


def _notes(run: Refitted, p_value: float) -> list[str]:
    notes = []
    if run.interrupted:
        notes.append("The run was interrupted; what had been finished counts.")
    if run.left:
        notes.append(
            f"There was no time for {run.left} of {len(run.plan.units)} groups of refits; more time narrows the intervals."
        )
    if p_value < 1e-3:
        notes.append(
            f"The first half of the sample differs from the second in its labels (p = {p_value:.1g}): the order is not random. Refits"
            " draw their examples from all of it, but if the source drifts, no extrapolation to new examples holds."
        )
    return notes


def _risk(losses: Any, classes: int | None, delta: float) -> Measured:
    """Two-sided interval for the risk of one network that the test sample did not choose."""
    n, total = len(losses), float(losses.sum())
    if classes is not None:
        low, high = (limit(int(total), n, iv.log(delta / 2)) for limit in (binomial_lower, binomial_upper))
        return Measured(low, high, Kind.CONFIDENCE, delta)
    from scipy import stats

    reach = float(stats.t.ppf(1 - delta / 2, n - 1)) * float(losses.std(ddof=1)) / math.sqrt(n)
    return Measured.indicator(max(0.0, total / n - reach), total / n + reach)

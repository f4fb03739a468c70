"""The verb ``certify``: train on all the data and hand back a model with its guarantee, a hold-out certificate beside it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.ledger import check_delta
from nonvacuous.learning.auto import finished
from nonvacuous.learning.holdout import HoldOut
from nonvacuous.learning.method import Certified, Factory, Method, Task
from nonvacuous.learning.methods import method_class
from nonvacuous.runtime.data import as_sample, check_independent, sample_digest
from nonvacuous.runtime.factories import write_text
from nonvacuous.runtime.tasks import progress_bar
from nonvacuous.runtime.training import resolved_device
from nonvacuous.runtime.weights import weights_digest

RUN = "run.json"


def certify(
    factory: Factory | None,
    train: Any,
    *,
    method: str | Method = "auto",
    delta: float = 0.05,
    seed: int = 0,
    device: str = "cpu",
    model: nn.Module | None = None,
    unlabelled: Any = None,
    source: Any = None,
    comparator: bool = True,
    folder: str | Path | None = None,
    progress: bool = False,
) -> Certified:
    """Train with a guarantee: the returned model's risk is at most ``certificate.value``, except with probability ``delta``.

    Args:
        factory: makes a fresh network (``nn.Module``); called with torch's generator seeded.
        train: a ``Dataset``, or ``(x, y)``; methods split it themselves where they need to.
        method: a word (``"auto"``, ``"holdout"``, …, see :data:`nonvacuous.learning.methods.METHODS`) or a method with its settings.
        model, unlabelled, source: an existing network, unlabelled inputs, data of another source, for methods that use them.
        comparator: certify a 20 % hold-out split as well, a statement of its own at its own δ; choosing between the two afterwards
            needs both at once, which holds with probability 1 − 2 δ only.
        folder: where unfinished work is kept and gone on with; a run that was broken off ends with the same result as a whole one.
        progress: show a bar with the time left on stderr.

    Raises :class:`~nonvacuous.core.errors.InvalidInput` and its kin, each with a remedy.
    """
    method = method_class(method)() if isinstance(method, str) else method
    task = Task(
        factory=factory,
        train=check_independent(as_sample(train, "train")),
        delta=check_delta(delta),
        seed=seed,
        device=str(resolved_device(device)),
        folder=None if folder is None else Path(folder),
        model=model,
        unlabelled=None if unlabelled is None else as_sample(unlabelled, "test", name="the unlabelled sample"),
        source=None if source is None else as_sample(source, "train", name="the source sample"),
    )
    if reason := method.unsuited(task):
        raise InvalidInput(f"the method {method.word} cannot be applied here: {reason}")
    _declare(method, task, comparator)
    with progress_bar(progress) as bar:
        task = replace(task, progress=bar)
        result = finished(method, task.part(method.word, delta)) if method.word != "auto" else method.certified(task)
        if not comparator:
            result = replace(result, comparator=None)
        elif result.comparator is None and method.word != "holdout" and factory is not None:
            beside = finished(HoldOut(), task.part("comparator", delta))
            plain = beside.record.plain_seconds
            result = replace(result, record=replace(result.record, plain_seconds=plain), comparator=beside)
    return result


def _declare(method: Method, task: Task, comparator: bool) -> None:
    """Write down what this run is before it reads a label; refuse a folder that holds another run."""
    if task.folder is None:
        return
    facts = {
        "method": method.word,
        "settings": method.settings,
        "delta": task.delta,
        "seed": task.seed,
        "comparator": comparator,
        "train": sample_digest(task.train),
        "unlabelled": None if task.unlabelled is None else sample_digest(task.unlabelled),
        "source": None if task.source is None else sample_digest(task.source),
        "weights": None if task.model is None else weights_digest(task.model),
    }
    facts = json.loads(json.dumps(facts))
    file = task.folder / RUN
    if not file.exists():
        task.folder.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(facts, indent=1))
        return
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        changed = [
            f"{name} was {before.get(name)!r:.40}, now {value!r:.40}"
            for name, value in facts.items()
            if before.get(name) != value
        ]
    except (OSError, ValueError, AttributeError) as error:
        raise InvalidInput(f"{file} is damaged ({error}). Remove the folder and start afresh") from error
    if changed:
        raise InvalidInput(
            f"{task.folder} holds another run: {'; '.join(changed)}. Go on with the same arguments, or start afresh"
        )

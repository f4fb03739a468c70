"""Several methods at once, each on its own share of δ; the best of them is reported, and all their certificates hold."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import nn

from nonvacuous.core.certificate import Certificate
from nonvacuous.core.errors import InvalidEvidence, InvalidInput, NonvacuousError
from nonvacuous.core.ledger import Ledger
from nonvacuous.learning.files import keep, kept
from nonvacuous.learning.method import Certified, Method, Number, Task
from nonvacuous.learning.methods import available, method_class


def finished(method: Method, task: Task) -> Certified:
    """What the method certifies; if an unfinished run has left this part whole in the task's folder, that very result."""
    if task.folder is None:
        return method.certified(task)
    given = task.model
    factory = task.factory if given is None else lambda: copy.deepcopy(given)
    found = None if factory is None else kept(task.folder, factory)
    if found is None:
        found = method.certified(task)
        keep(found, task.folder)
    return found


@dataclass(frozen=True)
class Auto(Method):
    """A union over methods: each candidate gets a declared share of δ before any data are read; the smallest value is reported.

    candidates: words of methods; those this task does not suit are left out beforehand, and their shares go to the others.
    weights: of the shares, one a candidate. budget_seconds: no further candidate is started once this much time has passed (its share is
    then lost, not passed on; the first candidate always runs). All issued certificates hold at once, so choosing among them is free.

    Whether a candidate suits is told from the task's shape (network, number of classes, samples given), never from a result.
    """

    candidates: tuple[str, ...] = ("holdout", "pac-bayes", "sample-compression")
    weights: tuple[float, ...] = (0.5, 0.4, 0.1)
    budget_seconds: float = 900.0

    word: ClassVar[str] = "auto"

    def __post_init__(self) -> None:
        if len(self.candidates) != len(self.weights) or not self.candidates or self.word in self.candidates:
            raise InvalidInput("auto needs one positive weight for each of its candidates, none of which is auto itself")

    def certified(self, task: Task) -> Certified:
        """The candidate with the smallest value; ``others`` has the rest."""
        begun = time.perf_counter()
        chosen, tried = self._chosen(task)
        ledger = Ledger(task.delta)
        shares = ledger.shares({method.word: weight for method, weight in chosen})
        for word, share in shares.items():
            ledger.spend(share, on=f"method {word}")
        issued: list[Certified] = []
        for method, _ in chosen:
            if issued and time.perf_counter() - begun > self.budget_seconds:
                tried.append(f"{method.word}: not started, {self.budget_seconds:g} seconds were spent")
                continue
            try:
                one = finished(method, task.part(method.word, shares[method.word]))
            except NonvacuousError as error:
                tried.append(f"{method.word}: {error}")
                continue
            issued += [_booked(each, ledger) for each in (one, *one.others)]
            tried.append(f"{method.word}: {one.certificate.value:.4f} at δ = {shares[method.word]:.4g}")
        if not issued:
            raise InvalidInput("no method could certify anything here. " + "; ".join(tried))
        best = min(issued, key=lambda one: one.certificate.value)
        plain = next((one.record.plain_seconds for one in issued if one.record.plain_seconds is not None), None)
        record = replace(
            best.record,
            seconds=sum(one.record.seconds for one in issued),
            examples=sum(one.record.examples for one in issued),
            plain_seconds=plain,
            tried=tuple(tried),
        )
        others = tuple(replace(one, others=()) for one in issued if one is not best)
        return Certified(best.model, best.certificate, record, others=others)

    def evidence(self, certificate: Certificate, model: nn.Module, task: Task) -> Mapping[str, Number]:
        """Certificates name the candidate that issued them, never auto."""
        raise InvalidEvidence("no certificate is issued by auto itself: it names the method that was chosen")

    def candidate(self, word: str) -> Method:
        """The method of that name, with its own default settings."""
        return method_class(word)()

    def _chosen(self, task: Task) -> tuple[list[tuple[Method, float]], list[str]]:
        """Methods that suit, with their weights, and why others do not."""
        chosen, left_out = [], []
        here = available()
        for word, weight in zip(self.candidates, self.weights, strict=True):
            method = self.candidate(word) if word in here else None
            reason = "this installation does not have it" if method is None else method.unsuited(task)
            if method is None or reason:
                left_out.append(f"{word}: left out, {reason}")
            else:
                chosen.append((method, weight))
        if not chosen:
            raise InvalidInput("no candidate of auto suits: " + "; ".join(left_out))
        return chosen, left_out


def _booked(one: Certified, ledger: Ledger) -> Certified:
    """The same, its certificate recording the shares of all candidates, which hold at once."""
    return replace(one, certificate=replace(one.certificate, ledger=dict(ledger.spent)), others=())

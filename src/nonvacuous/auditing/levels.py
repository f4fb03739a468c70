"""The verb ``verify``: level one (digest and arithmetic) for everybody, level two (evidence) for who has the model and the data.

Level one imports no PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from nonvacuous.core.certificate import Certificate
from nonvacuous.core.errors import InvalidEvidence, InvalidInput, MissingInput, NonvacuousError
from nonvacuous.verification import Checked, Verification, certificate_files, check, consistent

What = str | Path | Certificate


def verify(
    what: What | Iterable[What],
    *,
    model: Any = None,
    weights: str | Path | None = None,
    train: Any = None,
    test: Any = None,
    initial: Any = None,
    factory: Any = None,
    unlabelled: Any = None,
    source: Any = None,
    batch_size: int = 256,
    device: str = "cpu",
    progress: bool = False,
) -> Verification:
    """Check certificates: files, directories of them, or :class:`~nonvacuous.core.certificate.Certificate` objects.

    Without a model: is each what was issued (digest), and does its bound give its value (arithmetic)? With ``model`` and the samples
    the certificates speak of, their evidence is measured again as well. ``weights`` are read into ``model`` first; ``initial`` is
    the network before training, where a certificate measured distances from it.

    Certificates of :func:`nonvacuous.certify` need ``train`` only where their folder is given: it holds the model, whose shape
    ``certify.json`` names or ``factory`` makes. ``unlabelled`` and ``source`` are the further samples of methods that used them.

    Never raises for a bad certificate, which is refused with a message; raises
    :class:`~nonvacuous.core.errors.InvalidInput` for paths that do not exist, and where no evidence could be measured again for lack of a
    sample. Given one of two samples, the certificates that need the other stay at level one, and their messages say so.
    """
    results = _level_one(what)
    if train is not None and any(map(learned, results)):
        from nonvacuous.auditing.relearning import Relearning

        relearning = Relearning(
            train, factory=factory, model=model, unlabelled=unlabelled, source=source, device=device, progress=progress
        )
        results = [_level_two(result, relearning) if learned(result) else result for result in results]
        if all(result.level == 2 or result.certificate is None for result in results):
            return Verification(tuple(results))
    if model is None:
        data = {"weights": weights, "train": train, "test": test, "initial": initial}
        given = [name for name, value in data.items() if value is not None]
        if given:
            raise InvalidInput(f"to measure the evidence again, a model is needed besides {', '.join(given)}")
        return Verification(tuple(results))
    from nonvacuous.auditing.remeasuring import Remeasuring

    if weights is not None:
        from nonvacuous.runtime.weights import load_weights

        load_weights(model, weights)
    again = Remeasuring(
        model, train=train, test=test, initial=initial, batch_size=batch_size, device=device, progress=progress
    )
    missing: list[MissingInput] = []
    found = Verification(tuple(result if result.level == 2 else _level_two(result, again, missing) for result in results))
    if missing and len(missing) == sum(result.certificate is not None for result in results):
        raise missing[0]  # nothing at all could be measured
    return found


def learned(result: Checked) -> bool:
    """Whether a method of self-certified learning issued the certificate."""
    return result.certificate is not None and "method" in result.certificate.measurement


def _level_one(what: What | Iterable[What]) -> list[Checked]:
    items: list[What] = [what] if isinstance(what, str | Path | Certificate) else list(what)
    results: list[Checked] = []
    for item in items:
        if isinstance(item, Certificate):
            results.append(consistent(item.bound, item))
        else:
            results += [check(file) for file in certificate_files([item])]
    if not results:
        raise InvalidInput("nothing to verify: give at least one certificate, file or directory")
    return results


def _level_two(result: Checked, again: Any, missing: list[MissingInput] | None = None) -> Checked:
    """The outcome with the evidence measured again; as it was, and noted in ``missing``, where something needed was not given."""
    if result.certificate is None:
        return replace(result, level=2)
    try:
        if learned(result):
            file = Path(result.source)
            differences = again.differences(result.certificate, file if file.is_file() else None)
        else:
            differences = again.differences(result.certificate)
    except NonvacuousError as error:
        if isinstance(error, MissingInput) and missing is not None:
            missing.append(error)
            return replace(result, message=f"{result.message}; not measured again: {error}")
        if isinstance(error, InvalidInput) and not isinstance(error, InvalidEvidence):
            raise  # what the caller gave, not what the certificate states
        differences = [str(error)]
    if differences:
        return replace(result, ok=False, level=2, message="evidence: " + "; ".join(differences))
    return replace(
        result,
        level=2,
        message=f"{result.certificate.bound}: evidence measured again, risk ≤ {result.certificate.value!r} holds",
    )

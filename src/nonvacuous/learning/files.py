"""A certified model on disk, and back without unpickling: safetensors beside certificates that say how to build what they fit."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from nonvacuous._version import __version__
from nonvacuous.core.certificate import LARGEST_FILE, Certificate
from nonvacuous.core.errors import InvalidEvidence, InvalidInput
from nonvacuous.learning.method import Certified, Factory, TrainingRecord
from nonvacuous.learning.methods import method_of
from nonvacuous.runtime.factories import write_text
from nonvacuous.runtime.models import initialise
from nonvacuous.runtime.weights import load_weights, save_weights, weights_digest

SCHEMA = 1
INDEX = "certify.json"
MODEL = "model.safetensors"


@dataclass(frozen=True)
class Place:
    """Where one certified model lies: its certificate's file, its weights' file, relative to the folder, and its part in the result."""

    role: str
    certificate: str
    weights: str
    certified: Certified


def places(certified: Certified) -> Iterator[Place]:
    """The reported model, those certified beside it from the same δ, and the comparator, which is a statement of its own."""
    taken: set[str] = set()

    def name(one: Certified) -> str:
        word = str(one.certificate.measurement.get("method", one.certificate.bound))
        free = next(n for n in (word, *(f"{word}-{i}" for i in range(2, 100))) if n not in taken)
        taken.add(free)
        return free

    yield Place("reported", f"certificates/{name(certified)}.json", MODEL, certified)
    for other in certified.others:
        own = name(other)
        yield Place("beside", f"certificates/{own}.json", f"models/{own}.safetensors", other)
    if certified.comparator is not None:
        yield Place("comparator", "comparator/certificates/holdout.json", "comparator/model.safetensors", certified.comparator)


def save(certified: Certified, directory: str | Path, *, facts: Mapping[str, Any] | None = None) -> Path:
    """Write ``model.safetensors``, ``certificates/*.json``, the comparator's own folder, and, last, ``certify.json``.

    facts: what to record about the run (model's specification, method, settings); returns the directory.
    """
    directory = Path(directory)
    listed = []
    for place in places(certified):
        for file in (place.certificate, place.weights):
            (directory / file).parent.mkdir(parents=True, exist_ok=True)
        save_weights(place.certified.model, directory / place.weights)
        place.certified.certificate.save(directory / place.certificate)
        listed.append(_entry(place))
    content = {"schema": SCHEMA, "version": __version__, **(facts or {}), "certified": listed}
    _write(directory / INDEX, content)
    return directory


def _entry(place: Place) -> dict[str, Any]:
    certificate, record = place.certified.certificate, place.certified.record
    return {
        "role": place.role,
        "certificate": place.certificate,
        "weights": place.weights,
        "digest": certificate.digest,
        "value": certificate.value,
        "delta": certificate.delta,
        "predictor": certificate.predictor,
        "method": certificate.measurement.get("method"),
        "record": {**asdict(record), "multiple": record.multiple},
    }


def _write(file: Path, content: Any) -> None:
    write_text(file, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def index(directory: Path) -> dict[str, Any]:
    """The content of ``certify.json``; :class:`InvalidInput` where it is missing or damaged."""
    file = directory / INDEX
    try:
        if file.stat().st_size > LARGEST_FILE:
            raise InvalidInput(f"{file} is too large to be what `nonvacuous certify` writes")
        content = json.loads(file.read_text(encoding="utf-8"))
        entries = content["certified"]
        fine = all(isinstance(e["certificate"], str) and isinstance(e["weights"], str) for e in entries)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InvalidInput(
            f"{file} is not what `nonvacuous certify` writes ({error}). Get the original, or certify again"
        ) from error
    if not fine:
        raise InvalidInput(f"{file} does not list files. Get the original, or certify again")
    return dict(content)


def home(certificate_file: Path) -> Path | None:
    """The folder of the run that a certificate's file belongs to: the nearest one above with ``certify.json``; None if there is none."""
    return next((up for up in list(certificate_file.resolve().parents)[:4] if (up / INDEX).is_file()), None)


def weights_file(certificate_file: Path) -> Path:
    """The weights that ``certify.json`` lists beside a certificate's file; never outside its folder."""
    folder = home(certificate_file)
    if folder is None:
        raise InvalidInput(f"there is no {INDEX} above {certificate_file}: give the model that it speaks of (model=…)")
    for entry in index(folder)["certified"]:
        if (folder / entry["certificate"]).resolve() == certificate_file.resolve():
            file = (folder / entry["weights"]).resolve()
            if not file.is_relative_to(folder) or file.suffix != ".safetensors":
                raise InvalidInput(
                    f"{folder / INDEX} names weights outside its folder, or in another format: {entry['weights']!r:.80}"
                )
            return file
    raise InvalidInput(f"{folder / INDEX} does not list {certificate_file.name}: give the model that it speaks of (model=…)")


def restored(certificate: Certificate, weights: Path, factory: Factory) -> nn.Module:
    """The certified predictor: built by its method, its weights read, and their digest compared.

    :raises InvalidEvidence: the weights are not those of the certificate, or it names no method.
    """
    method = method_of(certificate)
    if method is None:
        raise InvalidEvidence("the certificate does not name the method that made its model")
    model = initialise(lambda: method.skeleton(factory, certificate), 0)
    load_weights(model, weights)
    if weights_digest(model) != certificate.digests.get("weights"):
        raise InvalidEvidence("the weights are not those the certificate speaks of (their SHA-256 differs)")
    return model.eval()


def keep(certified: Certified, folder: Path) -> None:
    """Leave a finished part of an unfinished run in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    beside = [("comparator", certified.comparator)] if certified.comparator is not None else []
    for i, (role, one) in enumerate([("reported", certified), *(("beside", other) for other in certified.others), *beside]):
        save_weights(one.model, folder / f"finished-{i}.safetensors")
        parts.append({"role": role, "certificate": one.certificate.to_json(), "record": asdict(one.record)})
    _write(folder / "finished.json", parts)


def kept(folder: Path, factory: Factory) -> Certified | None:
    """What `keep` left in ``folder``, checked again; None if that part is not finished."""
    file = folder / "finished.json"
    if not file.is_file():
        return None
    try:
        whole: dict[str, list[Certified]] = {"reported": [], "beside": [], "comparator": []}
        for i, part in enumerate(json.loads(file.read_text(encoding="utf-8"))):
            certificate = Certificate.from_json(part["certificate"])
            fields: dict[str, Any] = dict(part["record"])
            record = TrainingRecord(**fields | {"tried": tuple(fields["tried"])})
            model = restored(certificate, folder / f"finished-{i}.safetensors", factory)
            whole[part["role"]].append(Certified(model, certificate, record))
        (reported,) = whole["reported"]
        return replace(reported, comparator=next(iter(whole["comparator"]), None), others=tuple(whole["beside"]))
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InvalidInput(f"{folder} holds a damaged part of an unfinished run ({error}). Start afresh (--force)") from error

"""The ``DATA`` strings of the command line, resolved to samples."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nonvacuous.core.errors import InvalidInput
from nonvacuous.runtime import bundled, series, tables
from nonvacuous.runtime.data import Role, Sample, as_sample
from nonvacuous.runtime.factories import called, imported, is_factory_spec

NAMED: dict[str, Callable[[Role], Sample]] = {
    "digits": bundled.digits,
    "breast-cancer": bundled.breast_cancer,
    "fashion-mnist": bundled.fashion_mnist,
}
POSSIBLE = (
    "digits; breast-cancer; fashion-mnist; file.npz (arrays x, y); an image folder (FOLDER/CLASS/picture.png); table.csv or "
    "table.parquet (:label=COLUMN may follow); hf:NAME or hf:NAME:SPLIT; series:NAME:lags=L; pkg.module:factory"
)


def load(spec: str, part: Role = "train", *, classes: int | None = None, regression: bool = False) -> Sample:
    """The sample that ``spec`` names, ``part`` of it where it has parts.

    ``digits`` and ``breast-cancer`` are split 80/20 by content hash, the same on every machine; a factory is called with
    ``part=part`` if it takes that argument. ``classes`` and ``regression`` as in `as_sample`.

    :raises InvalidInput: unknown specification (with the nearest match), missing or damaged file, or what `as_sample` refuses.
    """
    if part not in ("train", "test"):
        raise InvalidInput(f"part {part!r} of {spec!r}: it must be 'train' or 'test'")
    facts: dict[str, Any] = {"classes": classes, "regression": regression}
    if spec in NAMED:
        if regression:
            raise InvalidInput(f"{spec} has classes, not numbers, as targets. Leave regression out")
        return as_sample(NAMED[spec](part), part, classes=classes)
    if spec.startswith("series:"):
        return series.load_series(spec[len("series:") :], part, regression=regression)
    if spec.startswith("hf:"):
        return tables.hugging_face(spec[3:], part, **facts)
    text, _, label = spec.partition(":label=")
    path = Path(text).expanduser()
    kind = path.suffix.lower()
    if kind in tables.TABLES or label:
        return tables.table(_file(path, kind in tables.TABLES), label or None, part, **facts)
    if kind == ".npz":
        return tables.archive(_file(path), part, **facts)
    if text and path.is_dir():
        return tables.picture_folder(path, part, **facts)
    if is_factory_spec(spec):
        return _made(spec, part, facts)
    raise InvalidInput(f"unknown data {spec!r}. {_hint(spec, path)}")


def _file(path: Path, known: bool = True) -> Path:
    if not known:
        raise InvalidInput(
            f"{path}: a label column can be named for .csv and .parquet tables only. Convert the file to one of these"
        )
    if not path.is_file():
        raise InvalidInput(f"data file {path} does not exist. Check the path; the current directory is {Path.cwd()}")
    return path


def _hint(spec: str, path: Path) -> str:
    close = difflib.get_close_matches(spec.lower().replace("_", "-"), NAMED, 1)
    if close:
        return f"Did you mean {close[0]!r}? Possible: {POSSIBLE}"
    if path.is_file():
        return f"That file's type is not read. Possible: {POSSIBLE}"
    return f"There is no such file or folder. Possible: {POSSIBLE}"


def _made(spec: str, part: Role, facts: dict[str, Any]) -> Sample:
    factory = imported(spec)
    arguments = {"part": part} if callable(factory) and _takes_part(factory) else {}
    return as_sample(called(factory, spec, **arguments), part, **facts)


def _takes_part(factory: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):
        return False
    return any((p.name == "part" and p.kind is not p.POSITIONAL_ONLY) or p.kind is p.VAR_KEYWORD for p in parameters)

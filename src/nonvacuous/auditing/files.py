"""The files of an audit, written whole or not at all.

Everything is built in a hidden directory and then moved: a new target appears in one step; in a directory that exists,
``audit.json`` goes last, so that one which holds it is complete.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any

from nonvacuous.auditing import wording
from nonvacuous.auditing.result import Audit
from nonvacuous.core.errors import InvalidInput

FOLDER = "certificates"
LAST = "audit.json"


def check_target(directory: Path, force: bool = False) -> Path:
    """The directory as an absolute path, if an audit may be written there; else :class:`InvalidInput` with the remedy.

    Call it before the work starts, so that nobody waits for an audit that cannot be saved.
    """
    target = _resolved(directory)
    try:
        if target.exists() and not target.is_dir():
            raise InvalidInput(f"{directory} is a file; name a directory for the report")
        if target.is_dir() and not force and any(target.iterdir()):
            raise InvalidInput(
                f"{directory} is not empty; name another directory, or pass --force (force=True) to replace the audit in it"
            )
        nearest = next(place for place in (target, *target.parents) if place.exists())
        if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, f"{nearest} is not a directory that you may write to")
    except OSError as error:
        raise _unwritable(directory, error) from error
    return target


def write(audit: Audit, directory: Path, force: bool = False) -> Path:
    """Write ``audit.html``, ``audit.json`` and ``certificates/*.json`` into ``directory``; returns it.

    With ``force``, files of an earlier audit in it are replaced and nothing else in it is touched. Raises
    :class:`~nonvacuous.core.errors.InvalidInput` for a directory that is not empty (without ``force``) or cannot be written.
    """
    target = check_target(directory, force)
    contents = _contents(audit)
    made: list[Path] = []
    try:
        made = _parents(target)
        existed = target.is_dir()
        with _hidden(target if existed else target.parent, target.name, "partial") as fresh:
            for name, text in contents.items():
                file = fresh / name
                file.parent.mkdir(exist_ok=True)
                file.write_text(text, encoding="utf-8")
            if existed:
                _replace(fresh, target, list(contents))
            else:
                fresh.rename(target)
    except BaseException as error:
        for parent in reversed(made):
            _remove_if_empty(parent)
        if isinstance(error, OSError):
            raise _unwritable(directory, error) from error
        raise
    return directory


def _contents(audit: Audit) -> dict[str, str]:
    """Text of every file by its relative name, ``audit.json`` last."""
    from nonvacuous.auditing.report import page

    names = wording.file_names(audit.certificates)
    contents = {f"{FOLDER}/{name}.json": c.to_json() for name, c in zip(names, audit.certificates, strict=True)}
    contents["audit.html"] = page(audit)
    contents[LAST] = json.dumps(_finite(audit.to_dict()), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return contents


def _finite(value: Any) -> Any:
    """JSON knows no infinity: written as the strings "inf", "-inf" and "nan"."""
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {str(key): _finite(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return value


def _replace(fresh: Path, target: Path, names: list[str]) -> None:
    """Move the new files over the old ones; on any failure the old ones come back."""
    old = [name for name in dict.fromkeys([LAST, "audit.html", *_listed(target), *names]) if (target / name).is_file()]
    with _hidden(target, target.name, "old") as kept:
        moved_away: list[str] = []
        moved_in: list[str] = []
        try:
            for name in old:
                (kept / name).parent.mkdir(exist_ok=True)
                (target / name).rename(kept / name)
                moved_away.append(name)
            for name in names:
                (target / name).parent.mkdir(exist_ok=True)
                (fresh / name).rename(target / name)
                moved_in.append(name)
        except BaseException:
            for name in moved_in:
                (target / name).unlink(missing_ok=True)
            for name in reversed(moved_away):
                (kept / name).rename(target / name)
            raise


def _listed(target: Path) -> Iterator[str]:
    """Certificate files of the audit that lies in the directory now, by its ``audit.json``; none if that cannot be read."""
    try:
        entries = json.loads((target / LAST).read_text(encoding="utf-8"))["certificates"]
        listed = {entry["digest"] for entry in entries}
    except (OSError, ValueError, KeyError, TypeError):
        return
    for file in sorted((target / FOLDER).glob("*.json")):
        try:
            if json.loads(file.read_text(encoding="utf-8")).get("digest") in listed:
                yield f"{FOLDER}/{file.name}"
        except (OSError, ValueError, AttributeError):
            continue


@contextmanager
def _hidden(parent: Path, name: str, purpose: str) -> Iterator[Path]:
    """A hidden directory on the target's file system, gone afterwards."""
    place = parent / f".{name}.{secrets.token_hex(4)}.{purpose}"
    try:
        place.mkdir()
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _resolved(directory: Path) -> Path:
    try:
        return Path(directory).expanduser().resolve()
    except (OSError, RuntimeError) as error:
        raise _unwritable(directory, error) from error


def _parents(target: Path) -> list[Path]:
    """Make the missing parents; returns those that were missing, outermost first."""
    missing = [parent for parent in reversed(target.parents) if not parent.exists()]
    target.parent.mkdir(parents=True, exist_ok=True)
    return missing


def _remove_if_empty(directory: Path) -> None:
    try:
        directory.rmdir()
    except OSError:
        return


def _unwritable(directory: Path, error: Exception) -> InvalidInput:
    reason = getattr(error, "strerror", None) or str(error)
    return InvalidInput(f"cannot write to {directory}: {reason}. Name a directory that you may write to, on a disk with room")

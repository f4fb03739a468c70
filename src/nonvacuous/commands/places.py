"""Whether ``--out`` can be written, asked before any long work begins."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from nonvacuous.core.errors import InvalidInput


def free_directory(path: Path, force: bool) -> Path:
    """``path``, once sure that it is empty or absent (or ``force`` is set) and that it could be written.

    Nothing is created. Raises :class:`InvalidInput` otherwise.
    """
    if path.exists() and not path.is_dir():
        raise InvalidInput(f"--out {path} is a file; name a directory")
    if path.is_dir() and not force and any(path.iterdir()):
        raise InvalidInput(f"--out {path} is not empty. Choose another directory, or pass --force to replace what is there")
    _refuse_unwritable(path)
    return path


def free_files(paths: list[Path], force: bool) -> None:
    """Raise :class:`InvalidInput` if one of the files exists (unless ``force``), is a directory, or could not be written."""
    for path in paths:
        if path.is_dir():
            raise InvalidInput(f"--out {path} is a directory; name a file")
        if path.exists() and not force:
            raise InvalidInput(f"{path} exists. Choose another --out, or pass --force to replace it")
        _refuse_unwritable(path.parent)


def _refuse_unwritable(directory: Path) -> None:
    """Try it: write a nameless file into the nearest directory that exists."""
    nearest = directory.absolute()
    try:
        while not nearest.exists():
            nearest = nearest.parent
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise InvalidInput(
            f"--out: {nearest} cannot be written to ({error.strerror or error}). Choose a directory that you may write to"
        ) from None


@contextmanager
def made_directory(directory: Path) -> Iterator[None]:
    """The directory with its parents, made for the block; those that are still empty go again if the block fails."""
    new = [d for d in (directory, *directory.parents) if not d.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    try:
        yield
    except BaseException:
        for made in new:
            with suppress(OSError):
                made.rmdir()
        raise

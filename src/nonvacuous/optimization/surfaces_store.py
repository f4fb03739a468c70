"""The points of a grid that are evaluated already: in memory, and in a file that is written whole or not at all."""

from __future__ import annotations

import zipfile
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np

from nonvacuous.core.errors import InvalidInput
from nonvacuous.runtime.factories import replacement

FORMAT = "nonvacuous-landscape-1"


class Columns(NamedTuple):
    """What is known at each point of the grid, NaN where nothing is."""

    loss: np.ndarray
    loss_std: np.ndarray
    rise_std: np.ndarray
    error: np.ndarray


class Store:
    """Values and which of them are ``done``; as a context it writes them when the block ends, however it ends."""

    def __init__(self, path: Path | None, digest: str, shape: tuple[int, ...]) -> None:
        self.path, self.digest = path, digest
        self.columns = Columns(*(np.full(shape, np.nan) for _ in Columns._fields))
        self.done = np.zeros(shape, dtype=bool)

    @classmethod
    def opened(cls, path: Path | None, digest: str, shape: tuple[int, ...], resume: bool) -> Store:
        """A new one, or with ``resume`` what ``path`` holds.

        :raises InvalidInput: a file that exists (without ``resume``), is missing (with it), damaged, or of another landscape.
        """
        store = cls(path, digest, shape)
        if path is None:
            if resume:
                raise InvalidInput("resume needs the file to resume from. Pass store=PATH")
            return store
        if not path.parent.is_dir():
            raise InvalidInput(f"the folder of {path} does not exist. Create it first")
        if not resume:
            if path.exists():
                raise InvalidInput(f"{path} exists. Pass resume to go on from it, or remove it to start afresh")
            return store
        if not path.is_file():
            raise InvalidInput(f"{path} does not exist: there is nothing to resume. Leave resume out")
        try:
            with np.load(path, allow_pickle=False) as file:
                found = {name: file[name] for name in ("format", "digest", "done", *Columns._fields)}
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
            raise InvalidInput(
                f"{path} is damaged or no landscape's file ({type(error).__name__}). Remove it and start afresh"
            ) from error
        fits = all(found[name].shape == shape for name in ("done", *Columns._fields))
        if str(found["format"]) != FORMAT or str(found["digest"]) != digest or not fits:
            raise InvalidInput(
                f"{path} holds another landscape: its weights, examples, directions or grid differ. Resume with the same arguments, or "
                "start afresh with another file"
            )
        store.done = found["done"].astype(bool)
        store.columns = Columns(*(found[name].astype(np.float64) for name in Columns._fields))
        return store

    def put(self, indices: np.ndarray, values: np.ndarray) -> None:
        """``values`` [m, 4] in the order of `Columns` at ``indices`` [m, axes]."""
        place = tuple(indices.T)
        for column, value in zip(self.columns, values.T, strict=True):
            column[place] = value
        self.done[place] = True

    def write(self) -> None:
        """Put the file in its place, if there is one."""
        if self.path is None:
            return
        with replacement(self.path) as temporary, temporary.open("wb") as file:
            np.savez(file, format=FORMAT, digest=self.digest, done=self.done, **self.columns._asdict())

    def __enter__(self) -> Store:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.done.any():
            self.write()

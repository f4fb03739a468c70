"""A fixed, ordered sample, held in memory or read example by example.

Three kinds, one interface: `ArraySample` (tensors in memory), `DatasetSample` (a map-style data set, read lazily in order) and
`LoaderSample` (a loader that can only be replayed). Use `nonvacuous.runtime.data.as_sample` to build the right one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nonvacuous.core.errors import InvalidInput
from nonvacuous.runtime import values
from nonvacuous.runtime.values import Batch, Inputs

BATCH_SIZE = 256

Shape = tuple[int, ...] | dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Windows:
    """How examples read a series: ``span`` observations in a row each, target included, each example one step after the one before.

    ``gap``: observations left out between the last that training reads and the first that the held-out stretch does.
    """

    span: int
    gap: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Sample(ABC):
    """``n`` examples in a fixed order, read in batches that are checked as they pass.

    name: how messages call it, "the training sample"; regression: targets are numbers, not classes; declared: the number of
    classes where it is known; notes: what was done to the data on the way, one plain sentence each; input_range: least and
    largest number any input can hold, known beforehand (pixels), never read off the sample; windows: how its
    examples read a series, where it is a stretch of one.
    """

    name: str = "the sample"
    regression: bool = False
    declared: int | None = None
    notes: tuple[str, ...] = ()
    input_range: tuple[float, float] | None = None
    windows: Windows | None = None
    _found: list[int] = field(default_factory=list, repr=False)

    @property
    @abstractmethod
    def n(self) -> int:
        """Number of examples."""

    def __len__(self) -> int:
        return self.n

    @property
    @abstractmethod
    def input_shape(self) -> Shape:
        """Shape of one example's input (by name, where the inputs are the model's keyword arguments)."""

    @abstractmethod
    def _raw(self, batch_size: int, order: Tensor | None) -> Iterator[tuple[Any, Any]]:
        """Batches of (inputs, targets) before conversion."""

    @abstractmethod
    def subset(self, indices: Tensor, name: str) -> Sample:
        """The examples at ``indices`` [m], in that order, under another name."""

    @property
    def classes(self) -> int | None:
        """Number of classes, None for regression. Where nothing declares it: largest label + 1, from the first full pass."""
        if self.regression:
            return None
        if self.declared is not None:
            return self.declared
        if not self._found:
            for _ in self.batches():
                pass
        return self._found[0]

    def with_classes(self, classes: int) -> Sample:
        """The same sample, whose labels must lie in ``0 … classes − 1``."""
        return replace(self, declared=classes, regression=False)

    def with_notes(self, *notes: str) -> Sample:
        """The same sample with further notes."""
        return replace(self, notes=(*self.notes, *notes))

    def batches(self, batch_size: int = BATCH_SIZE, order: Tensor | None = None) -> Iterator[Batch]:
        """All examples in their order, or those at ``order`` [m] in that order, ``batch_size`` at a time.

        :raises InvalidInput: NaN or Inf, labels that are floats or out of range (each names the example), a length
            that is not ``n``.
        """
        if batch_size < 1:
            raise InvalidInput(f"batch size {batch_size}: it must be at least 1")
        return self._checked(batch_size, order)

    def _checked(self, batch_size: int, order: Tensor | None) -> Iterator[Batch]:
        start, largest = 0, -1
        where: Sequence[int] | Tensor = range(self.n) if order is None else order
        for raw_inputs, raw_targets in self._raw(batch_size, order):
            inputs = values.model_ready(values.as_inputs(raw_inputs, f"the inputs of {self.name}"))
            targets = values.numeric_tensor(raw_targets, f"the labels of {self.name}")
            size = len(targets)
            if start + size > len(where):
                break
            here = where[start : start + size]
            for x in inputs.values() if isinstance(inputs, dict) else [inputs]:
                if len(x) != size:
                    raise InvalidInput(
                        f"{self.name}: a batch has {len(x)} inputs and {size} labels; there must be one label an input"
                    )
            values.check_finite(inputs, here, self.name)
            if self.regression:
                targets = values.real_targets(targets, here, self.name)
            else:
                targets = values.class_labels(targets, self.declared, here, self.name)
                largest = max(largest, int(targets.max()))
            start += size
            yield Batch(inputs, targets)
        else:
            if start == len(where):
                if order is None and not self.regression and not self._found:
                    self._found.append(largest + 1)
                return
        raise InvalidInput(
            f"{self.name} did not give its {len(where)} examples when it was read again. A sample must be the same on every"
            " pass: pass a map-style dataset or arrays"
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class ArraySample(Sample):
    """A sample in memory: ``inputs`` [n, …] or a dict of these, ``targets`` [n]; kept as given and converted by batch."""

    inputs: Inputs = field(repr=False)
    targets: Tensor = field(repr=False)

    def __post_init__(self) -> None:
        for x in self.inputs.values() if isinstance(self.inputs, dict) else [self.inputs]:
            if x.ndim == 0 or self.targets.ndim == 0 or len(x) != len(self.targets):
                raise InvalidInput(
                    f"{self.name}: x has shape {tuple(x.shape)} and y has shape {tuple(self.targets.shape)}; the first number"
                    " of both must be the number of examples. Pass one label for each input"
                )
        if not len(self.targets):
            raise InvalidInput(f"{self.name} is empty. Pass at least one example")
        if self.input_range is None and not isinstance(self.inputs, dict) and self.inputs.dtype == torch.uint8:
            object.__setattr__(self, "input_range", (0.0, 1.0))  # a picture's bytes, divided by 255

    @property
    def n(self) -> int:
        return len(self.targets)

    @property
    def input_shape(self) -> Shape:
        if isinstance(self.inputs, dict):
            return {k: tuple(v.shape[1:]) for k, v in self.inputs.items()}
        return tuple(self.inputs.shape[1:])

    @property
    def classes(self) -> int | None:
        """Number of classes (largest label + 1 where nothing declares it), None for regression."""
        if not (self.regression or self.declared is not None or self._found):
            labels = values.class_labels(self.targets, None, range(self.n), self.name)
            self._found.append(int(labels.max()) + 1)
        return super().classes

    def _raw(self, batch_size: int, order: Tensor | None) -> Iterator[tuple[Any, Any]]:
        for start in range(0, self.n if order is None else len(order), batch_size):
            rows = slice(start, start + batch_size) if order is None else order[start : start + batch_size]
            yield self._rows(rows)

    def _rows(self, rows: slice | Tensor) -> Batch:
        def chosen(x: Tensor) -> Tensor:
            return x[rows] if isinstance(rows, slice) else x.index_select(0, rows)

        inputs = {k: chosen(v) for k, v in self.inputs.items()} if isinstance(self.inputs, dict) else chosen(self.inputs)
        return Batch(inputs, chosen(self.targets))

    def subset(self, indices: Tensor, name: str) -> Sample:
        inputs, targets = self._rows(indices)
        return replace(self, inputs=inputs, targets=targets, name=name, windows=None, _found=[])


@dataclass(frozen=True, eq=False, kw_only=True)
class DatasetSample(Sample):
    """A map-style data set, read in order and never held as a whole.

    collate: turns a list of examples into a batch (a loader's own, where it came with one; then its batches also keep that
    loader's size, ``own_size``, because such a function may pad to the longest of a batch); workers: processes that read
    ahead.
    """

    dataset: Any = field(repr=False)
    rows: Tensor | None = field(default=None, repr=False)
    collate: Callable[[list[Any]], Any] | None = field(default=None, repr=False)
    own_size: int | None = None
    workers: int = 0

    def __post_init__(self) -> None:
        if not self.n:
            raise InvalidInput(f"{self.name} is empty. Pass at least one example")

    @property
    def n(self) -> int:
        return len(self.dataset) if self.rows is None else len(self.rows)

    @property
    def input_shape(self) -> Shape:
        inputs, _ = self.first(1)
        x = values.as_inputs(inputs, f"the inputs of {self.name}")
        return {k: tuple(v.shape[1:]) for k, v in x.items()} if isinstance(x, dict) else tuple(x.shape[1:])

    def first(self, count: int) -> tuple[Any, Any]:
        """The first ``count`` examples as one batch, read here and now."""
        rows = range(min(count, self.n)) if self.rows is None else self.rows[:count].tolist()
        return self._batch([self.dataset[i] for i in rows])

    def _batch(self, items: list[Any]) -> tuple[Any, Any]:
        return (
            values.split_pair(self.collate(items), f"a batch of {self.name}")
            if self.collate
            else values.collated(items, self.name)
        )

    def _raw(self, batch_size: int, order: Tensor | None) -> Iterator[tuple[Any, Any]]:
        rows = torch.arange(self.n) if order is None else order
        rows = rows if self.rows is None else self.rows[rows]
        parts = [part.tolist() for part in rows.split(self.own_size or batch_size)]
        loader = DataLoader(
            _Items(self.dataset),
            batch_sampler=parts,
            collate_fn=self._batch,
            num_workers=self.workers,
            generator=torch.Generator().manual_seed(0),  # so that reading leaves the global generator alone
        )
        return iter(loader)

    def subset(self, indices: Tensor, name: str) -> Sample:
        return replace(self, rows=indices if self.rows is None else self.rows[indices], name=name, windows=None, _found=[])


class _Items(Dataset[Any]):
    """Item access to anything indexable by one integer."""

    def __init__(self, source: Any) -> None:
        self.source = source

    def __getitem__(self, i: int) -> Any:
        return self.source[i]


@dataclass(frozen=True, eq=False, kw_only=True)
class LoaderSample(Sample):
    """A loader that can be replayed and nothing else: its own batches, in its own order."""

    loader: Any = field(repr=False)
    count: int

    @property
    def n(self) -> int:
        return self.count

    @property
    def input_shape(self) -> Shape:
        inputs, _ = values.split_pair(next(iter(self.loader)), f"a batch of {self.name}")
        x = values.as_inputs(inputs, f"the inputs of {self.name}")
        return {k: tuple(v.shape[1:]) for k, v in x.items()} if isinstance(x, dict) else tuple(x.shape[1:])

    def _raw(self, batch_size: int, order: Tensor | None) -> Iterator[tuple[Any, Any]]:
        if order is not None:
            raise InvalidInput(
                f"{self.name} can only be read in its own order. To shuffle or split it, pass its dataset instead of a loader"
            )
        return (values.split_pair(batch, f"a batch of {self.name}") for batch in self.loader)

    def subset(self, indices: Tensor, name: str) -> Sample:
        raise InvalidInput(f"{self.name} can only be read as a whole. To split it, pass its dataset instead of a loader")

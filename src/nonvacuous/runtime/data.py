"""From what a user has (arrays, a data set, a loader) to a fixed `Sample`; content hashes; splits by content."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
)

from nonvacuous.core.errors import InvalidInput
from nonvacuous.runtime import values
from nonvacuous.runtime.fingerprint import (
    Fingerprint,
    conflict_floor,
    example_digests,
    fingerprint,
    group_numbers,
    mixed,
    overlap,
    sample_digest,
)
from nonvacuous.runtime.samples import BATCH_SIZE, ArraySample, DatasetSample, LoaderSample, Sample, Windows
from nonvacuous.runtime.values import Batch, Inputs

__all__ = [
    "BATCH_SIZE",
    "ArraySample",
    "Batch",
    "DatasetSample",
    "Fingerprint",
    "Inputs",
    "LoaderSample",
    "Sample",
    "Split",
    "Windows",
    "as_sample",
    "check_independent",
    "conflict_floor",
    "example_digests",
    "fingerprint",
    "group_numbers",
    "hashed_split",
    "overlap",
    "sample_digest",
]

Role = Literal["train", "test"]
_NAMES = {"train": "the training sample", "test": "the test sample"}
_PROBE = 64


def as_sample(
    data: Any, role: Role = "train", *, classes: int | None = None, regression: bool = False, name: str | None = None
) -> Sample:
    """A fixed, ordered sample from arrays ``(x, y)``, a map-style data set, a ``DataLoader``, or a `Sample` (returned as is).

    ``role`` only names it in messages. A shuffling loader is read in its data set's order instead, which `Sample.notes`
    records. A source whose first examples differ between two readings (augmentation) is refused: a certificate speaks of
    fixed numbers. ``uint8`` inputs count as pictures and are divided by 255 (all types: `nonvacuous.runtime.values`).

    :raises InvalidInput: unusable type, unequal lengths, empty, text or objects, data that change between readings.
    """
    if isinstance(data, Sample):
        return data if classes is None else data.with_classes(classes)
    facts: dict[str, Any] = {"name": name or _NAMES.get(role, role), "regression": regression, "declared": classes}
    if data is None:
        raise InvalidInput(f"{facts['name']} is None. Pass (x, y) arrays, a Dataset or a DataLoader")
    if isinstance(data, str):
        raise InvalidInput(
            f"{facts['name']} is the text {data!r}. Load it first: nonvacuous.runtime.sources.load({data!r}, part={role!r})"
        )
    if isinstance(data, DataLoader):
        return _from_loader(data, facts)
    arrays = _arrays(data)
    if arrays is not None:
        return _from_arrays(*arrays, facts)
    if isinstance(data, IterableDataset):
        return _from_loader(DataLoader(data, batch_size=BATCH_SIZE), facts)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, Mapping | np.ndarray | Tensor):
        return _from_dataset(data, facts)
    raise InvalidInput(
        f"{facts['name']} is a {type(data).__name__}; a sample is made from (x, y) arrays, a Dataset with a length and items,"
        " or a DataLoader"
    )


def _arrays(data: Any) -> tuple[Any, Any] | None:
    """(x, y) where ``data`` holds them whole, else None."""
    if isinstance(data, TensorDataset):
        return (data.tensors[0], data.tensors[1]) if len(data.tensors) == 2 else None
    if isinstance(data, Subset) and (inner := _arrays(data.dataset)) is not None:
        rows = torch.as_tensor(data.indices, dtype=torch.long)
        return inner[0][rows], inner[1][rows]
    if isinstance(data, Mapping) and all(hasattr(v, "__len__") for v in data.values()):
        return values.split_pair(data, "the sample")
    if isinstance(data, tuple) and len(data) == 2:
        return data[0], data[1]
    if isinstance(data, list) and len(data) == 2 and all(isinstance(part, np.ndarray | Tensor) for part in data):
        return data[0], data[1]
    return None


def _from_arrays(x: Any, y: Any, facts: dict[str, Any]) -> Sample:
    name = facts["name"]
    if isinstance(x, Mapping):
        inputs: Inputs = {str(k): values.numeric_tensor(v, f"{k!r} of {name}") for k, v in x.items()}
    else:
        inputs = values.numeric_tensor(x, f"the inputs of {name}")
    return ArraySample(inputs=inputs, targets=values.numeric_tensor(y, f"the labels of {name}"), **facts)


def _from_dataset(dataset: Any, facts: dict[str, Any], **reading: Any) -> Sample:
    if facts["declared"] is None and not facts["regression"]:
        facts = facts | {"declared": _declared_classes(dataset)}
    sample = DatasetSample(dataset=dataset, **facts, **reading)
    try:
        readings = [_content(*sample.first(reading.get("own_size") or _PROBE), sample.name) for _ in range(2)]
    except InvalidInput:
        raise
    except Exception as error:  # the user's own __getitem__ or collate_fn
        raise InvalidInput(f"{sample.name}: reading its first examples failed with {type(error).__name__}: {error}") from error
    _refuse_change(readings, sample.name)
    return sample


def _declared_classes(dataset: Any) -> int | None:
    """What the data set itself says about its classes: torchvision's ``classes``, Hugging Face's ``features``."""
    if isinstance(dataset, Subset):
        return _declared_classes(dataset.dataset)
    classes = getattr(dataset, "classes", None)
    if isinstance(classes, list | tuple) and classes:
        return len(classes)
    features = getattr(dataset, "features", None)
    if isinstance(features, Mapping):
        for key in values.TARGET_KEYS:
            count = getattr(features.get(key), "num_classes", None)
            if isinstance(count, int) and count > 0:
                return count
    return None


def _from_loader(loader: DataLoader[Any], facts: dict[str, Any]) -> Sample:
    name, notes = facts["name"], []
    dataset, sampler = loader.dataset, getattr(loader, "sampler", None)
    plain = type(loader.batch_sampler) is BatchSampler and not isinstance(dataset, IterableDataset)
    own = None if loader.collate_fn is default_collate else loader.collate_fn
    reading: dict[str, Any] = {"collate": own, "own_size": loader.batch_size if own else None, "workers": loader.num_workers}
    if plain and isinstance(sampler, SequentialSampler | RandomSampler | SubsetRandomSampler):
        total = len(dataset)  # type: ignore[arg-type]
        if not isinstance(sampler, SequentialSampler):
            notes.append(f"The loader of {name} shuffles, which is not a fixed sample; its dataset was read in order instead.")
        elif loader.drop_last and total % (loader.batch_size or 1):
            notes.append(f"The loader of {name} drops its last, smaller batch; all {total} examples were read.")
        if isinstance(sampler, SubsetRandomSampler):
            reading["rows"] = torch.as_tensor(sorted(int(i) for i in sampler.indices), dtype=torch.long)
        elif own is None and (arrays := _arrays(dataset)) is not None and not isinstance(dataset, tuple | list | Mapping):
            return _from_arrays(*arrays, facts | {"notes": tuple(notes)})
        return _from_dataset(dataset, facts | {"notes": tuple(notes)}, **reading)
    readings, count = [], 0
    for batch in loader:
        inputs, targets = values.split_pair(batch, f"a batch of {name}")
        if not count:
            readings.append(_content(inputs, targets, name))
        count += len(targets)
    if not count:
        raise InvalidInput(f"{name} is empty: its loader gave no batch. Pass at least one example, and no one-pass iterator")
    for batch in loader:
        readings.append(_content(*values.split_pair(batch, f"a batch of {name}"), name))
        break
    _refuse_change(readings, name)
    notes.append(f"{name.capitalize()} is replayed from its loader, batch by batch, in the loader's own order.")
    return LoaderSample(loader=loader, count=count, **facts | {"notes": tuple(notes)})


def _content(inputs: Any, targets: Any, name: str) -> str:
    print_ = Fingerprint()
    print_.update(values.as_inputs(inputs, f"the inputs of {name}"), values.numeric_tensor(targets, f"the labels of {name}"))
    return print_.digest


def _refuse_change(readings: list[str], name: str) -> None:
    if len(set(readings)) > 1 or len(readings) < 2:
        raise InvalidInput(
            f"{name} changes between two readings: its first examples were not the same twice (random augmentation, or a"
            " shuffling sampler). A certificate speaks of a fixed sample: pass the dataset without random transforms and"
            " without shuffling"
        )


def check_independent(sample: Sample) -> Sample:
    """The sample, unless its examples are windows of a series: then :class:`InvalidInput`, for what needs independent examples."""
    if sample.windows is not None:
        raise InvalidInput(
            f"{sample.name} holds windows of a series, which overlap, and this needs independent examples. Split the series by time "
            "(nonvacuous.runtime.series.windows), train on the first part, and audit the model (nonvacuous audit --mixing)"
        )
    return sample


class Split(NamedTuple):
    """Two disjoint parts of a sample; equal inputs lie in the same part."""

    kept: Sample
    held_out: Sample


def hashed_split(sample: Sample, fraction: float, seed: int = 0) -> Split:
    """Hold out about ``fraction`` of a sample, by content: an example's side depends on its inputs and ``seed`` alone.

    The same on every machine and in every order of the examples; equal inputs never land on both sides. Makes one pass.

    :raises InvalidInput: fraction outside (0, 1), or a side left empty.
    """
    if not 0 < fraction < 1:
        raise InvalidInput(f"fraction {fraction!r} to hold out: it must lie strictly between 0 and 1")
    keys = example_digests(check_independent(sample))
    words = np.ascontiguousarray(keys).view("<u8").reshape(-1, 2)
    drawn = mixed(words[:, 0] ^ mixed(words[:, 1] ^ mixed(np.array([seed % 2**64], dtype=np.uint64))))
    held = torch.from_numpy(drawn < np.uint64(min(int(fraction * 2.0**64), 2**64 - 1)))
    if bool(held.all()) or not bool(held.any()):
        raise InvalidInput(
            f"{sample.name}: holding out {fraction:g} of {sample.n} examples leaves one side empty. Use another seed, a"
            " fraction nearer to one half, or more data"
        )
    rows = torch.arange(sample.n)
    if sample.classes is not None:
        sample = sample.with_classes(sample.classes)  # so that both parts agree on it
    return Split(sample.subset(rows[~held], sample.name), sample.subset(rows[held], f"the held-out part of {sample.name}"))

"""Samples from arrays, data sets and loaders: fixed order, fixed types, and every unusable input refused with a remedy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from nonvacuous.core.errors import InvalidInput
from nonvacuous.runtime.data import (
    ArraySample,
    DatasetSample,
    LoaderSample,
    Sample,
    as_sample,
    fingerprint,
    hashed_split,
    sample_digest,
)

N = 23


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(N, 2, 3)).astype(np.float32)


@pytest.fixture
def y() -> np.ndarray:
    return np.arange(N) % 4


class Pairs(Dataset[Any]):
    """A map-style data set of (x, y) pairs that notes what was read."""

    classes = ("a", "b", "c", "d")

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x, self.y, self.read = x, y, 0

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        self.read += 1
        return self.x[i], int(self.y[i])


class Augmented(Pairs):
    def __getitem__(self, i: int) -> tuple[np.ndarray, int]:
        return self.x[i] + np.random.default_rng().normal(), int(self.y[i])


class Stream(IterableDataset[Any]):
    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        self.x, self.y = x, y

    def __iter__(self) -> Any:
        return zip(self.x, self.y.tolist(), strict=True)


class Mappings(Dataset[Any]):
    def __init__(self, x: np.ndarray, y: np.ndarray, names: tuple[str, str]) -> None:
        self.x, self.y, self.names = x, y, names

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return {self.names[0]: torch.from_numpy(self.x[i]), self.names[1]: int(self.y[i])}


def together(sample: Sample, batch_size: int = 7) -> tuple[Tensor, Tensor]:
    batches = list(sample.batches(batch_size))
    assert all(isinstance(b.inputs, Tensor) for b in batches)
    return torch.cat([b.inputs for b in batches]), torch.cat([b.targets for b in batches])


def test_every_source_gives_the_same_sample(x: np.ndarray, y: np.ndarray) -> None:
    tensors = torch.from_numpy(x), torch.from_numpy(y)
    sources: dict[str, Any] = {
        "arrays": (x, y),
        "list of arrays": [x, y],
        "double precision": (x.astype(np.float64), y.astype(np.uint8)),
        "big endian, column labels": (x.astype(">f4"), y.astype(">i2")[:, None]),
        "unsigned labels": (x, y.astype(np.uint32)),
        "reversed view": (x[::-1].copy()[::-1], y),
        "lists": (x.tolist(), y.tolist()),
        "tensors": tensors,
        "mapping": {"x": x, "y": y},
        "tensor data set": TensorDataset(*tensors),
        "data set": Pairs(x, y),
        "list of pairs": [(a, b) for a, b in zip(x, y, strict=True)],
        "subset of tensors": Subset(TensorDataset(*tensors), range(N)),
        "subset of a data set": Subset(Pairs(x, y), range(N)),
        "mapping items": Mappings(x, y, ("image", "label")),
        "loader": DataLoader(Pairs(x, y), batch_size=5),
        "loader of mappings": DataLoader(Mappings(x, y, ("x", "target")), batch_size=5),
        "shuffling loader": DataLoader(TensorDataset(*tensors), batch_size=5, shuffle=True),
        "dropping loader": DataLoader(Pairs(x, y), batch_size=5, drop_last=True),
        "working loader": DataLoader(Pairs(x, y), batch_size=5, num_workers=1),
        "stream": Stream(x, y),
        "loader of a stream": DataLoader(Stream(x, y), batch_size=4),
    }
    expected = sample_digest(as_sample((x, y)))
    for name, source in sources.items():
        sample = as_sample(source)
        assert len(sample) == sample.n == N, name
        assert sample.input_shape == (2, 3), name
        assert sample.classes == 4, name
        inputs, targets = together(sample)
        assert inputs.dtype == torch.float32 and targets.dtype == torch.int64, name
        assert torch.equal(inputs, tensors[0]) and torch.equal(targets, tensors[1]), name
        assert sample_digest(sample) == expected, name


def test_a_sample_passes_through_and_can_be_told_its_classes(x: np.ndarray, y: np.ndarray) -> None:
    sample = as_sample((x, y))
    assert as_sample(sample) is sample
    assert as_sample(sample, classes=9).classes == 9
    with pytest.raises(InvalidInput, match=r"label out of range: example 3 has 3, allowed is 0 … 2 \(3 classes\)"):
        list(as_sample(sample, classes=3).batches())


def test_a_sample_cannot_be_changed(x: np.ndarray, y: np.ndarray) -> None:
    with pytest.raises(AttributeError):
        as_sample((x, y)).name = "other"  # type: ignore[misc]


def test_bytes_are_pictures_and_token_numbers_stay_integers() -> None:
    pixels = np.array([[0, 128], [255, 64]], dtype=np.uint8)
    inputs, _ = together(as_sample((pixels, [0, 1])))
    assert torch.equal(inputs, torch.from_numpy(pixels).float() / 255)
    assert sample_digest(as_sample((pixels, [0, 1]))) == sample_digest(as_sample((inputs, [0, 1])))
    tokens, _ = together(as_sample((pixels.astype(np.int64), [0, 1])))
    assert tokens.dtype == torch.int64
    flags, _ = together(as_sample((pixels > 100, [0, 1])))
    assert flags.dtype == torch.float32


def test_keyword_inputs_keep_their_names(y: np.ndarray) -> None:
    tokens = np.arange(2 * N).reshape(N, 2)
    sample = as_sample(({"input_ids": tokens, "scale": np.ones((N, 1))}, y))
    first = next(sample.batches(5))
    assert isinstance(first.inputs, dict)
    assert {k: (v.dtype, tuple(v.shape)) for k, v in first.inputs.items()} == {
        "input_ids": (torch.int64, (5, 2)),
        "scale": (torch.float32, (5, 1)),
    }
    assert sample.input_shape == {"input_ids": (2,), "scale": (1,)}
    moved = first.to("cpu")
    assert isinstance(moved.inputs, dict)
    named = as_sample(Mappings(np.ones((N, 2), dtype=np.float32), y, ("pixel_values", "labels")))
    assert isinstance(next(named.batches()).inputs, dict)
    assert sample_digest(sample) == sample_digest(sample.subset(torch.arange(N), "same"))


def test_a_data_set_is_read_lazily(x: np.ndarray, y: np.ndarray) -> None:
    source = Pairs(x, y)
    sample = as_sample(source)
    source.read = 0
    next(sample.batches(4))
    assert source.read <= 4
    assert sample.classes == 4 and source.read <= 4, "declared by the data set, no pass needed"


def test_reading_leaves_the_global_generator_alone(x: np.ndarray, y: np.ndarray) -> None:
    before = torch.random.get_rng_state()
    for source in (Pairs(x, y), (x, y), DataLoader(Pairs(x, y), shuffle=True)):
        fingerprint(as_sample(source))
    assert torch.equal(before, torch.random.get_rng_state())


def test_batches_in_a_given_order(x: np.ndarray, y: np.ndarray) -> None:
    order = torch.tensor([5, 2, 9, 2])
    for source in ((x, y), Pairs(x, y), Subset(Pairs(x, y), range(N))):
        batches = list(as_sample(source).batches(3, order))
        assert [len(b.targets) for b in batches] == [3, 1]
        assert torch.equal(torch.cat([b.inputs for b in batches]), torch.from_numpy(x)[order])  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="only be read in its own order"):
        list(as_sample(Stream(x, y)).batches(3, order))
    with pytest.raises(InvalidInput, match="only be read as a whole"):
        as_sample(Stream(x, y)).subset(order, "part")
    with pytest.raises(InvalidInput, match="batch size 0"):
        as_sample((x, y)).batches(0)


def test_a_shuffling_loader_is_read_in_order_and_says_so(x: np.ndarray, y: np.ndarray) -> None:
    assert any("shuffles" in note for note in as_sample(DataLoader(Pairs(x, y), shuffle=True)).notes)
    assert any("drops its last" in note for note in as_sample(DataLoader(Pairs(x, y), batch_size=5, drop_last=True)).notes)
    assert as_sample(DataLoader(Pairs(x, y), batch_size=5)).notes == ()
    part = as_sample(DataLoader(Pairs(x, y), batch_size=5, sampler=SubsetRandomSampler([7, 3, 11])))
    assert torch.equal(together(part)[0], torch.from_numpy(x)[[3, 7, 11]])
    assert isinstance(as_sample(DataLoader(Stream(x, y))), LoaderSample)


def test_a_loaders_own_collate_function_keeps_its_batches(y: np.ndarray) -> None:
    def padded(items: list[tuple[Tensor, int]]) -> dict[str, Tensor]:
        longest = max(len(tokens) for tokens, _ in items)
        rows = [torch.nn.functional.pad(tokens, (0, longest - len(tokens))) for tokens, _ in items]
        return {"input_ids": torch.stack(rows), "labels": torch.tensor([label for _, label in items])}

    items = [(torch.arange(1 + i % 5), int(label)) for i, label in enumerate(y)]
    sample = as_sample(DataLoader(items, batch_size=4, collate_fn=padded, shuffle=True))  # type: ignore[arg-type]
    assert isinstance(sample, DatasetSample)
    assert {len(b.targets) for b in sample.batches(100)} == {4, 3}
    assert sample_digest(sample) == sample_digest(as_sample(DataLoader(items, batch_size=4, collate_fn=padded)))  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match=r"differ in shape: \(1,\) and, 1 later, \(2,\).*collate_fn pads"):
        as_sample(items)


@pytest.mark.parametrize("kind", ["data set", "loader", "weighted", "shuffled batches"])
def test_data_that_change_are_refused(kind: str, x: np.ndarray, y: np.ndarray) -> None:
    source: Any = Augmented(x, y)
    if kind == "loader":
        source = DataLoader(source, batch_size=5)
    elif kind == "weighted":
        source = DataLoader(Pairs(x, y), batch_size=8, sampler=WeightedRandomSampler([1.0] * N, N))
    elif kind == "shuffled batches":

        class Shuffled(IterableDataset[Any]):
            def __iter__(self) -> Any:
                return iter([(x[i], int(y[i])) for i in torch.randperm(N).tolist()])

        source = DataLoader(Shuffled(), batch_size=8)
    with pytest.raises(InvalidInput, match=r"changes between two readings.*without random transforms"):
        as_sample(source, "test")


def test_a_loader_that_gives_less_on_a_later_pass_is_caught(x: np.ndarray, y: np.ndarray) -> None:
    class Shrinking(IterableDataset[Any]):
        passes = 0

        def __iter__(self) -> Any:
            self.passes += 1
            return zip(x[: N - self.passes // 3], y.tolist(), strict=False)

    sample = as_sample(Shrinking())
    with pytest.raises(InvalidInput, match="did not give its 23 examples when it was read again"):
        list(sample.batches())


NAN = float("nan")
BAD: dict[str, tuple[Any, str]] = {
    "lengths": ((np.ones((3, 2)), [0, 1]), r"x has shape \(3, 2\) and y has shape \(2,\).*Pass one label for each input"),
    "empty": ((np.ones((0, 2)), np.ones(0, dtype=int)), "the training sample is empty. Pass at least one"),
    "empty list": ([], "is empty"),
    "scalars": ((1.0, 1), "first number of both"),
    "nan": (([[0.0], [1.0], [NAN]], [0, 1, 0]), r"example 2 holds NaN.*remove those examples or fill"),
    "inf": (([[0.0], [np.inf], [NAN]], [0, 1, 0]), r"example 1 holds Inf \(2 such"),
    "float labels": ((np.ones((2, 1)), [0.0, 1.0]), r"float labels.*example 0 has 0.*\.astype\(int\)"),
    "fractions": ((np.ones((2, 1)), [0.0, 0.5]), r"not whole numbers \(example 1 has 0\.5\).*regression=True"),
    "nan labels": ((np.ones((2, 1)), [0.0, NAN]), r"not whole numbers \(example 1 has nan\)"),
    "negative": ((np.ones((2, 1)), [0, -1]), r"example 1 has -1, allowed is at least 0.*unlabelled"),
    "one-hot": ((np.ones((2, 1)), np.eye(2, dtype=int)), r"labels have shape \(2, 2\).*argmax\(1\)"),
    "text": ((np.ones((2, 1)), ["cat", "dog"]), r"labels of the training sample holds text.*numpy\.unique"),
    "objects": ((np.array([[1], [None]], dtype=object), [0, 1]), r"Python objects \(dtype object\).*astype\('float32'\)"),
    "complex": ((np.ones((2, 1), dtype=complex), [0, 1]), "complex numbers"),
    "complex tensor": ((torch.ones(2, 1, dtype=torch.complex64), [0, 1]), "complex numbers"),
    "dates": ((np.array(["2020-01-01"], dtype="datetime64[D]"), [0]), "dates"),
    "ragged": (([[1.0], [1.0, 2.0]], [0, 1]), "ragged.*Pad or crop"),
    "huge integers": ((np.array([[2**64 - 1]], dtype=np.uint64), [0]), "beyond int64"),
    "none": (None, r"is None. Pass \(x, y\)"),
    "string": ("digits", r"sources\.load\('digits', part='train'\)"),
    "number": (3, "is a int; a sample is made from"),
    "bare array": (np.ones((3, 2)), "is a ndarray; a sample is made from"),
    "triples": ([(1, 2, 3)], "tuple of 3 parts; expected"),
    "no label": ([{"x": [1.0], "z": 3}], r"keys \['x', 'z'\] and no label"),
    "only label": ([{"label": 3}], "holds a label .* and no inputs"),
    "text items": ([{"text": "hello", "label": 3}], "'text' of the training sample.*text"),
    "three tensors": (TensorDataset(torch.ones(2), torch.ones(2), torch.ones(2)), "tuple of 3 parts"),
    "empty loader": (DataLoader(Stream(np.ones((0, 1)), np.ones(0, dtype=int))), "gave no batch"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_data_are_refused_with_a_remedy(name: str) -> None:
    data, message = BAD[name]
    with pytest.raises(InvalidInput, match=message):
        list(as_sample(data).batches())


def test_the_example_named_is_the_right_one_whatever_the_batch(x: np.ndarray, y: np.ndarray) -> None:
    x[17, 1, 2] = NAN
    for source in ((x, y), Pairs(x, y)):
        with pytest.raises(InvalidInput, match="example 17 holds NaN"):
            list(as_sample(source).batches(5))
        with pytest.raises(InvalidInput, match="example 17 holds NaN"):
            list(as_sample(source).batches(2, torch.tensor([1, 2, 3, 17])))


def test_huge_finite_inputs_pass() -> None:
    assert len(list(as_sample((np.full((4, 2), 3e38), [0, 1, 0, 1])).batches())) == 1


def test_an_error_in_the_users_data_set_is_told(x: np.ndarray, y: np.ndarray) -> None:
    class Broken(Pairs):
        def __getitem__(self, i: int) -> Any:
            raise KeyError("gone")

    with pytest.raises(InvalidInput, match="reading its first examples failed with KeyError: 'gone'"):
        as_sample(Broken(x, y))


def test_regression_targets_are_numbers(x: np.ndarray) -> None:
    values = np.linspace(0, 1, N)
    sample = as_sample((x, values[:, None]), regression=True)
    assert sample.classes is None
    _, targets = together(sample)
    assert targets.dtype == torch.float32 and targets.shape == (N,)
    values[4] = NAN
    with pytest.raises(InvalidInput, match="target of example 4 is nan"):
        list(as_sample((x, values), regression=True).batches())
    with pytest.raises(InvalidInput, match=r"targets have shape \(23, 2\)"):
        list(as_sample((x, np.ones((N, 2))), regression=True).batches())


def test_hashed_split_depends_on_content_alone(x: np.ndarray, y: np.ndarray) -> None:
    rng = np.random.default_rng(1)
    x = np.repeat(rng.normal(size=(500, 3)).astype(np.float32), 2, axis=0)  # every example twice
    y = rng.integers(0, 3, len(x))
    split = hashed_split(as_sample((x, y)), 0.3, seed=4)
    assert split.kept.n + split.held_out.n == len(x)
    assert 0.24 < split.held_out.n / len(x) < 0.36
    assert split.kept.classes == split.held_out.classes == 3
    sides = [{row.tobytes() for row in together(part, 100)[0].numpy()} for part in split]
    assert not sides[0] & sides[1]
    mixed = rng.permutation(len(x))
    again = hashed_split(as_sample(Pairs(x[mixed], y[mixed])), 0.3, seed=4)
    assert {row.tobytes() for row in together(again.held_out, 100)[0].numpy()} == sides[1]
    other = hashed_split(as_sample((x, y)), 0.3, seed=5)
    assert {row.tobytes() for row in together(other.held_out, 100)[0].numpy()} != sides[1]
    assert split.held_out.name == "the held-out part of the training sample"


def test_hashed_split_is_the_same_on_every_machine() -> None:
    sample = as_sample((np.arange(40, dtype=np.float32).reshape(20, 2), np.zeros(20, dtype=int)))
    held, _ = together(hashed_split(sample, 0.5, seed=0).held_out)
    assert (held[:, 0] / 2).int().tolist() == [0, 4, 7, 10, 11, 12, 13, 14, 15, 16, 17, 18]


@pytest.mark.parametrize("fraction", [0, 1, -0.1, NAN])
def test_a_split_needs_a_fraction(fraction: float, x: np.ndarray, y: np.ndarray) -> None:
    with pytest.raises(InvalidInput, match="strictly between 0 and 1"):
        hashed_split(as_sample((x, y)), fraction)


def test_a_split_with_an_empty_side_is_refused() -> None:
    with pytest.raises(InvalidInput, match="leaves one side empty"):
        hashed_split(as_sample((np.ones((5, 1)), [0] * 5)), 0.5)


def test_kinds_and_types(x: np.ndarray, y: np.ndarray) -> None:
    assert isinstance(as_sample((x, y)), ArraySample)
    assert isinstance(as_sample(Pairs(x, y)), DatasetSample)
    assert repr(as_sample((x, y), "test")).startswith("ArraySample(name='the test sample'")

"""The DATA strings: named data sets, files, folders, tables, Hugging Face folders and factories, and what each refuses."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pooch
import pytest
import torch

from nonvacuous.core.errors import InvalidInput
from nonvacuous.runtime import bundled
from nonvacuous.runtime.data import Sample, fingerprint, overlap
from nonvacuous.runtime.sources import load

X = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
Y = np.array([0, 1, 2, 0, 1, 2])


def whole(sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
    batch = next(sample.batches(10**6))
    assert isinstance(batch.inputs, torch.Tensor)
    return batch.inputs, batch.targets


def refused(spec: Any, message: str, part: Any = "train", **facts: Any) -> None:
    with pytest.raises(InvalidInput, match=message):
        list(load(str(spec), part, **facts).batches())


# Named data sets ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "sizes", "shape", "classes", "digest"),
    [("digits", (1464, 333), (1, 8, 8), 10, "1f40d946"), ("breast-cancer", (469, 100), (30,), 2, "5888013c")],
)
def test_embedded_data(name: str, sizes: tuple[int, int], shape: tuple[int, ...], classes: int, digest: str) -> None:
    train, test = load(name, "train"), load(name, "test")
    assert (train.n, test.n) == sizes
    assert train.input_shape == shape and train.classes == test.classes == classes
    prints = fingerprint(train), fingerprint(test)
    assert prints[0].digest.startswith(digest)
    assert not len(overlap(prints[0].examples, prints[1].examples))
    assert (train.name, test.name) == ("the training sample", "the test sample")
    inputs, targets = whole(train)
    assert set(targets.tolist()) == set(range(classes))
    assert float(inputs.min()) >= 0 and float(inputs.max()) < 20
    assert float(inputs.reshape(len(inputs), -1).mean(0).max()) < 5, "no feature outweighs the others by its unit"


def test_embedded_data_have_classes() -> None:
    refused("digits", "has classes, not numbers", regression=True)


@pytest.mark.data("fashion-mnist")
def test_fashion_mnist() -> None:
    train, test = load("fashion-mnist", "train"), load("fashion-mnist", "test")
    assert (train.n, test.n, train.classes, train.input_shape) == (60_000, 10_000, 10, (1, 28, 28))
    inputs, targets = whole(train)
    assert inputs.dtype == torch.float32
    assert float(inputs.mean()) == pytest.approx(0.28604, abs=1e-5)
    assert float(inputs.std()) == pytest.approx(0.35302, abs=1e-5)
    assert targets.bincount().tolist() == [6000] * 10
    assert targets[:5].tolist() == [9, 0, 0, 3, 0]


def test_fashion_mnist_is_asked_for_and_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Any] = []

    def offline(url: str, **options: Any) -> str:
        asked.append((url, options))
        raise OSError("no network")

    monkeypatch.setattr(bundled, "_DEBIAN", tmp_path / "nowhere")
    monkeypatch.setattr(pooch, "retrieve", offline)
    monkeypatch.delenv("NONVACUOUS_DATA", raising=False)
    refused(
        "fashion-mnist",
        r"could not be downloaded from https://github.com/zalandoresearch.*dataset-fashion-mnist.*NONVACUOUS_DATA",
    )
    url, options = asked[0]
    assert url.endswith("/train-images-idx3-ubyte.gz")
    assert options["known_hash"] == "sha256:3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"

    monkeypatch.setenv("NONVACUOUS_DATA", str(tmp_path))
    (tmp_path / "fashion-mnist").mkdir()
    file = tmp_path / "fashion-mnist" / "t10k-images-idx3-ubyte.gz"
    file.write_bytes(gzip.compress(bytes(16 + 784)))
    refused("fashion-mnist", "does not hold the published Fashion-MNIST.*another SHA-256", "test")
    file.write_bytes(b"nothing")
    refused("fashion-mnist", "not a readable gzip file", "test")
    file.write_bytes(gzip.compress(bytes(16 + 784))[:20])
    refused("fashion-mnist", "not a readable gzip file", "test")


# Archives -------------------------------------------------------------------------------------------------------------------


def test_npz(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=X, y=Y)
    inputs, targets = whole(load(str(tmp_path / "a.npz"), "test"))
    assert torch.equal(inputs, torch.from_numpy(X)) and targets.tolist() == Y.tolist()
    np.savez_compressed(tmp_path / "b.npz", x_train=X, y_train=Y, x_test=X[:2], y_test=Y[:2])
    assert (load(str(tmp_path / "b.npz"), "train").n, load(str(tmp_path / "b.npz"), "test").n) == (6, 2)
    assert load(str(tmp_path / "a.npz"), classes=5).classes == 5
    assert load(str(tmp_path / "a.npz"), regression=True).classes is None


def test_bad_npz(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    refused(path, "a.npz does not exist")
    np.savez(path, inputs=X, y=Y)
    refused(path, "has no array x; it has inputs, y. Save it with")
    np.savez(path, x_train=X, y=Y)
    refused(path, "has no array y_train")
    np.savez(path, x=np.array([[1], [None]], dtype=object), y=[0, 1])
    refused(path, r"holds Python objects, which could run code.*astype\('float32'\)")
    np.savez(path, x=X, y=Y[:2])
    refused(path, r"x has shape \(6, 3\) and y has shape \(2,\)")
    path.write_bytes(b"not a zip at all")
    refused(path, "not a readable .npz file")
    np.save(tmp_path / "b.npy", X)
    (tmp_path / "b.npy").rename(path)
    refused(path, "not a readable .npz file")
    for save in (np.savez, np.savez_compressed):
        save(path, x=np.random.default_rng(0).normal(size=(100, 100)), y=np.arange(100))
        content = bytearray(path.read_bytes())
        content[2000:2100] = bytes(100)
        path.write_bytes(content)
        refused(path, "is not a readable .npz file|is damaged")
        path.write_bytes(content[:3000])
        refused(path, "is not a readable .npz file")


# Image folders --------------------------------------------------------------------------------------------------------------


def picture(path: Path, size: tuple[int, int] = (4, 3), mode: str = "RGB", value: int = 100) -> None:
    image = pytest.importorskip("PIL.Image")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.new(mode, size, value if mode == "L" else (value, 0, 255)).save(path)


def test_picture_folder(tmp_path: Path) -> None:
    for name, value in (("cat/b.png", 10), ("cat/a.png", 20), ("ant/c.png", 30), ("ant/deep/d.png", 40)):
        picture(tmp_path / name, value=value)
    (tmp_path / "cat" / "notes.txt").write_text("not a picture")
    (tmp_path / ".hidden").mkdir()
    sample = load(str(tmp_path))
    assert (sample.n, sample.classes, sample.input_shape) == (4, 2, (3, 3, 4))
    inputs, targets = whole(sample)
    assert targets.tolist() == [0, 0, 1, 1]
    assert (inputs[:, 0, 0, 0] * 255).round().int().tolist() == [30, 40, 20, 10], "sorted by class, then by path"
    assert "ant = 0, cat = 1" in sample.notes[0]


def test_grey_pictures_and_parts(tmp_path: Path) -> None:
    for part, count in (("train", 3), ("test", 1)):
        for name in ("a", "b"):
            for i in range(count):
                picture(tmp_path / part / name / f"{i}.png", mode="L")
    assert load(str(tmp_path), "train").n == 6
    assert load(str(tmp_path), "test").input_shape == (1, 3, 4)
    picture(tmp_path / "test" / "zebra" / "0.png", mode="L")
    refused(tmp_path, r"train and test have different classes \(zebra\)")


def test_bad_picture_folders(tmp_path: Path) -> None:
    refused(tmp_path, "holds no pictures in sub-folders. Expected .*CLASS/picture.png")
    picture(tmp_path / "a" / "0.png")
    (tmp_path / "b").mkdir()
    refused(tmp_path, "b holds no pictures. Remove the folder")
    picture(tmp_path / "b" / "0.png", size=(5, 5))
    refused(tmp_path, r"b/0.png is 5 x 5 with 3 channels, the first picture \(a/0.png\) is 4 x 3 with 3 channels. Resize")
    picture(tmp_path / "b" / "0.png", mode="L")
    refused(tmp_path, "b/0.png is 4 x 3 with 1 channel, the first")
    (tmp_path / "b" / "0.png").write_bytes(b"scribble")
    refused(tmp_path, "b/0.png is not a readable picture")


# Tables ---------------------------------------------------------------------------------------------------------------------


def written(path: Path, columns: dict[str, list[Any]]) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    if path.suffix == ".csv":
        rows = [
            ",".join(columns),
            *(",".join("" if v is None else str(v) for v in row) for row in zip(*columns.values(), strict=True)),
        ]
        path.write_text("\n".join(rows) + "\n")
    else:
        import pyarrow.parquet

        pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_table(suffix: str, tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {"size": [1.5, 2.5, 3.5], "kind": ["b", "c", "a"], "count": [1, 2, 3], "Target": [1, 0, 1]}
    path = written(tmp_path / f"t.{suffix}", columns)
    refused(path, "column 'kind' holds string, not numbers. Drop it or encode it")
    sample = load(f"{path}:label=kind")
    inputs, targets = whole(sample)
    assert inputs.tolist() == [[1.5, 1.0, 1.0], [2.5, 2.0, 0.0], [3.5, 3.0, 1.0]]
    assert targets.tolist() == [1, 2, 0] and sample.classes == 3
    assert "a = 0, b = 1, c = 2" in sample.notes[0]
    del columns["kind"]
    written(path, columns)
    assert whole(load(str(path)))[1].tolist() == [1, 0, 1], "the column named Target is the label"
    assert whole(load(f"{path}:label=size", regression=True))[1].tolist() == [1.5, 2.5, 3.5]
    refused(f"{path}:label=size", "float labels that are not whole numbers")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_bad_tables(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"t.{suffix}"
    refused(path, f"t.{suffix} does not exist")
    written(path, {"a": [1, 2], "b": [0, 1]})
    refused(path, "has no column named label, target, y, class; columns: a, b. Say which.*:label=COLUMN")
    refused(f"{path}:label=c", "has no column 'c'; columns: a, b")
    written(path, {"y": [1, 2], "class": [0, 1]})
    refused(path, "has several columns named y, class")
    written(path, {"y": [1, 2]})
    refused(path, "has only the label column 'y'")
    written(path, {"a": [1, None, 3], "y": [0, 1, 1]})
    refused(path, "column 'a' has 1 missing values, the first in example 1. Fill or drop")
    written(path, {"a": [1, 2, 3], "y": [0, None, 1]})
    refused(path, "label column 'y' has 1 missing values, the first in example 1")
    path.write_bytes(b'a,y\n1,2,3\n"\xff')
    refused(path, f"is not a readable {suffix} table")
    path.write_bytes(b"")
    refused(path, f"is not a readable {suffix} table")


def test_a_label_column_needs_a_table(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"")
    refused(f"{tmp_path / 'a.xlsx'}:label=y", "for .csv and .parquet tables only")


# Hugging Face ---------------------------------------------------------------------------------------------------------------


def test_hugging_face_folder(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"x": datasets.Sequence(datasets.Value("float32")), "label": datasets.ClassLabel(names=list("abcd"))}
    )
    rows = datasets.Dataset.from_dict({"x": X.tolist(), "label": Y.tolist()}, features=features)
    rows.save_to_disk(str(tmp_path / "one"))
    sample = load(f"hf:{tmp_path / 'one'}")
    inputs, targets = whole(sample)
    assert torch.equal(inputs, torch.from_numpy(X)) and targets.tolist() == Y.tolist()
    assert sample.classes == 4, "declared by the data set's features"
    datasets.DatasetDict({"train": rows, "test": rows.select(range(2)), "extra": rows.select(range(3))}).save_to_disk(
        str(tmp_path / "d")
    )
    assert load(f"hf:{tmp_path / 'd'}", "train").n == 6
    assert load(f"hf:{tmp_path / 'd'}", "test").n == 2
    assert load(f"hf:{tmp_path / 'd'}:extra", "test").n == 3
    refused(f"hf:{tmp_path / 'd'}:nope", "has no split 'nope'; it has train, test, extra")
    rows.rename_column("label", "answer").save_to_disk(str(tmp_path / "nameless"))
    refused(f"hf:{tmp_path / 'nameless'}", "has columns x, answer and no label. Rename")


def test_hugging_face_offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")

    def offline(*_: Any, **__: Any) -> None:
        raise ConnectionError("Couldn't reach the hub\nmore lines")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    refused("hf:mnist", r"hf:mnist could not be loaded \(ConnectionError: Couldn't reach the hub\). Check")
    (tmp_path / "d").mkdir()
    refused(f"hf:{tmp_path / 'd'}", "could not be loaded")


@pytest.mark.parametrize(
    ("spec", "module", "extra"), [("hf:mnist", "datasets", "hf"), ("t.csv", "pyarrow", "tables"), ("f", "PIL", "images")]
)
def test_a_missing_extra_is_named(spec: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,y\n1,2\n")
    (tmp_path / "f" / "a").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, module, None)
    refused(spec, rf"Install it: pip install 'nonvacuous\[{extra}\]'")


# Factories and the unknown --------------------------------------------------------------------------------------------------


def test_factory_in_the_current_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "my_data_factory.py").write_text(
        "import numpy as np\n"
        "def parts(part):\n    n = {'train': 5, 'test': 2}[part]\n    return np.ones((n, 2)), np.zeros(n, dtype=int)\n"
        "def plain():\n    return np.ones((3, 2)), np.zeros(3, dtype=int)\n"
        "def anything(**options):\n    return parts(options['part'])\n"
        "def broken():\n    raise OSError('disk on fire')\n"
        "def needy(path):\n    return path\n"
        "def number():\n    return 3\n"
        "value = 3\n"
    )
    monkeypatch.chdir(tmp_path)
    path_before = list(__import__("sys").path)
    assert load("my_data_factory:parts", "train").n == 5
    assert load("my_data_factory:parts", "test").n == 2
    assert load("my_data_factory:anything", "test").n == 2
    assert load("my_data_factory:plain", "test").n == 3
    refused("my_data_factory:broken", r"my_data_factory:broken\(\) failed with OSError: disk on fire")
    refused("my_data_factory:needy", "failed with TypeError.*missing 1 required positional argument: 'path'")
    refused("my_data_factory:number", "the training sample is a int")
    refused("my_data_factory:value", "is a int, which cannot be called")
    refused("my_data_factory:plan", "has no 'plan'. Did you mean 'plain'")
    assert __import__("sys").path == path_before


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("digit", "unknown data 'digit'. Did you mean 'digits'"),
        ("fashion_mnist", "Did you mean 'fashion-mnist'"),
        ("Breast-Cancer", "Did you mean 'breast-cancer'"),
        ("nothing/there", r"no such file or folder. Possible: digits; .*pkg.module:factory"),
        ("", "unknown data ''"),
        ("no_such_module_here:f", "there is no module 'no_such_module_here'"),
    ],
)
def test_unknown_data(spec: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    refused(spec, message)


def test_a_file_of_another_type(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("")
    refused(tmp_path / "a.txt", "That file's type is not read. Possible")


def test_the_part_is_train_or_test() -> None:
    refused("digits", "part 'valid' of 'digits'", "valid")

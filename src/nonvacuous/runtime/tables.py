"""Samples from files: ``.npz`` archives, image folders, CSV and Parquet tables, Hugging Face data sets."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from nonvacuous.core.errors import InvalidInput
from nonvacuous.runtime.data import Role, Sample, as_sample
from nonvacuous.runtime.values import TARGET_KEYS

LABEL_COLUMNS = ("label", "target", "y", "class")
PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm"}
TABLES = {".csv", ".parquet", ".pq"}


def archive(path: Path, part: Role, **facts: Any) -> Sample:
    """``file.npz`` with arrays ``x`` and ``y``, or ``x_train``, ``y_train``, ``x_test``, ``y_test`` chosen by ``part``."""
    if not zipfile.is_zipfile(path):
        raise InvalidInput(f"{path} is not a readable .npz file. Write it again with numpy.savez")
    try:
        with np.load(path, allow_pickle=False) as file:
            x_name, y_name = (f"x_{part}", f"y_{part}") if f"x_{part}" in file.files else ("x", "y")
            absent = [name for name in (x_name, y_name) if name not in file.files]
            if absent:
                raise InvalidInput(
                    f"{path} has no array {' and no '.join(absent)}; it has {', '.join(sorted(file.files)) or 'none'}. Save it"
                    f" with numpy.savez(path, x=…, y=…), or with x_{part}=…, y_{part}=…"
                )
            x, y = file[x_name], file[y_name]
    except InvalidInput:
        raise
    except ValueError as error:
        if "pickle" in str(error).lower():
            raise InvalidInput(
                f"{path} holds Python objects, which could run code and are not read. Save plain numbers: x.astype('float32'),"
                " y.astype('int64')"
            ) from error
        raise InvalidInput(f"{path} is damaged: {error}. Write it again with numpy.savez") from error
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, KeyError, NotImplementedError) as error:
        raise InvalidInput(f"{path} is not a readable .npz file ({error}). Write it again with numpy.savez") from error
    return as_sample((x, y), part, **facts)


class PictureFolder(Dataset[tuple[Tensor, int]]):
    """``folder/CLASS/picture``: classes are the sub-folders in sorted order, pictures in sorted order, read when asked for.

    All must have the first one's size and channels; a picture is a uint8 tensor [c, h, w].
    """

    def __init__(self, folder: Path) -> None:
        _pillow()
        self.folder = folder
        self.classes = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        self.files = [
            (path, i)
            for i, name in enumerate(self.classes)
            for path in sorted((folder / name).rglob("*"))
            if path.suffix.lower() in PICTURES and path.is_file()
        ]
        if not self.files:
            raise InvalidInput(
                f"{folder} holds no pictures in sub-folders. Expected {folder}/CLASS/picture.png, one sub-folder a class"
            )
        for i, name in enumerate(self.classes):
            if not any(label == i for _, label in self.files):
                raise InvalidInput(
                    f"{folder / name} holds no pictures. Remove the folder, or put that class's pictures into it"
                )
        self.shape = tuple(self._pixels(self.files[0][0]).shape)

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        path, label = self.files[i]
        pixels = self._pixels(path)
        if tuple(pixels.shape) != self.shape:
            raise InvalidInput(
                f"{path} is {_size(tuple(pixels.shape))}, the first picture ({self.files[0][0].relative_to(self.folder)}) is "
                f"{_size(self.shape)}. Resize all pictures to one size and mode"
            )
        return pixels, label

    @staticmethod
    def _pixels(path: Path) -> Tensor:
        image = _pillow()
        try:
            with image.open(path) as picture:
                mode = "L" if picture.mode in {"1", "L"} else "RGBA" if picture.mode in {"RGBA", "LA", "PA"} else "RGB"
                pixels = torch.from_numpy(np.array(picture.convert(mode)))
        except (OSError, ValueError, SyntaxError) as error:
            raise InvalidInput(f"{path} is not a readable picture ({error}). Remove or replace it") from error
        return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def _size(shape: tuple[int, ...]) -> str:
    return f"{shape[2]} x {shape[1]} with {shape[0]} channel{'s' * (shape[0] > 1)}"


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise InvalidInput("reading an image folder needs Pillow. Install it: pip install 'nonvacuous[images]'") from error
    return Image


def picture_folder(path: Path, part: Role, **facts: Any) -> Sample:
    """An image folder; where it holds ``train`` and ``test``, that of ``part`` is entered and both must have equal classes."""
    if (path / "train").is_dir() and (path / "test").is_dir():
        both = {name: PictureFolder(path / name) for name in ("train", "test")}
        odd = sorted(set(both["train"].classes) ^ set(both["test"].classes))
        if odd:
            raise InvalidInput(
                f"{path}: train and test have different classes ({', '.join(odd[:6])}). Make the sub-folders agree"
            )
        pictures = both[part]
    else:
        pictures = PictureFolder(path)
    names = ", ".join(f"{name} = {i}" for i, name in enumerate(pictures.classes[:12]))
    return as_sample(pictures, part, **facts).with_notes(
        f"Classes were numbered by the sorted names of their folders: {names}."
    )


def table(path: Path, label: str | None, part: Role, **facts: Any) -> Sample:
    """A CSV or Parquet table: one label column (text labels are numbered in sorted order), all others numeric features."""
    frame = _arrow_table(path)
    names = frame.column_names
    if label is None:
        found = [name for name in names if name.lower() in LABEL_COLUMNS]
        if len(found) != 1:
            raise InvalidInput(
                f"{path} has {'no column' if not found else 'several columns'} named {', '.join(found or LABEL_COLUMNS)};"
                f" columns: {', '.join(names[:12])}. Say which is the label: {path}:label=COLUMN"
            )
        label = found[0]
    if label not in names:
        raise InvalidInput(
            f"{path} has no column {label!r}; columns: {', '.join(names[:12])}. Say which is the label: {path}:label=COLUMN"
        )
    if len(set(names)) < len(names):
        raise InvalidInput(f"{path} has two columns of the same name. Rename one")
    features = [name for name in names if name != label]
    if not features:
        raise InvalidInput(f"{path} has only the label column {label!r}. Add feature columns")
    columns = [_feature(frame.column(name), name, path) for name in features]
    y, notes = _labels(frame.column(label), label, path, bool(facts.get("regression")))
    sample = as_sample((np.stack(columns, axis=1), y), part, **facts)
    return sample.with_notes(*notes)


def _arrow_table(path: Path) -> Any:
    try:
        import pyarrow
        import pyarrow.csv
        import pyarrow.parquet
    except ImportError as error:
        raise InvalidInput(f"reading {path} needs pyarrow. Install it: pip install 'nonvacuous[tables]'") from error
    try:
        return pyarrow.csv.read_csv(path) if path.suffix.lower() == ".csv" else pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InvalidInput(
            f"{path} is not a readable {path.suffix[1:]} table ({error}). Check that it has a header and equal rows"
        ) from error


def _feature(column: Any, name: str, path: Path) -> np.ndarray:
    import pyarrow.types as kinds

    kind = column.type
    if not (kinds.is_integer(kind) or kinds.is_floating(kind) or kinds.is_boolean(kind) or kinds.is_decimal(kind)):
        if kinds.is_null(kind):
            raise InvalidInput(f"{path}: column {name!r} is empty. Drop it")
        raise InvalidInput(
            f"{path}: column {name!r} holds {kind}, not numbers. Drop it or encode it as numbers (one-hot, for instance)"
        )
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise InvalidInput(
            f"{path}: column {name!r} has {column.null_count} missing values, the first in example {row}. Fill or drop them"
        )
    return np.asarray(column.to_numpy(), dtype=np.float32)


def _labels(column: Any, name: str, path: Path, regression: bool) -> tuple[np.ndarray, list[str]]:
    import pyarrow.types as kinds

    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise InvalidInput(
            f"{path}: the label column {name!r} has {column.null_count} missing values, the first in example {row}. Drop those"
        )
    if kinds.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if regression or kinds.is_integer(column.type) or kinds.is_floating(column.type) or kinds.is_boolean(column.type):
        return column.to_numpy(), []
    texts = [str(value) for value in column.to_pylist()]
    known = sorted(set(texts))
    number = {text: i for i, text in enumerate(known)}
    shown = ", ".join(f"{text} = {i}" for text, i in list(number.items())[:12])
    return np.array([number[text] for text in texts]), [f"Labels of column {name!r} were numbered in sorted order: {shown}."]


def hugging_face(name: str, part: Role, **facts: Any) -> Sample:
    """``NAME`` or ``NAME:SPLIT``: a data set of the hub or a folder from ``save_to_disk``; without SPLIT it is ``part``."""
    try:
        import datasets
    except ImportError as error:
        raise InvalidInput(f"hf:{name} needs the package datasets. Install it: pip install 'nonvacuous[hf]'") from error
    base, _, split = name.partition(":")
    try:
        loaded = datasets.load_from_disk(base) if Path(base).is_dir() else datasets.load_dataset(base, split=split or part)
    except Exception as error:  # offline, unknown name, unknown split, gated: the library lets many kinds through
        first = (str(error).strip().splitlines() or [""])[0]
        raise InvalidInput(
            f"hf:{name} could not be loaded ({type(error).__name__}: {first}). Check the name and the split, the network, or"
            " pass a folder written by save_to_disk"
        ) from error
    if isinstance(loaded, datasets.DatasetDict):
        wanted = split or part
        if wanted not in loaded:
            raise InvalidInput(
                f"hf:{base} has no split {wanted!r}; it has {', '.join(map(str, loaded))}. Say which: hf:{base}:SPLIT"
            )
        loaded = loaded[wanted]
    keys: Sequence[str] = loaded.column_names
    if not set(keys) & set(TARGET_KEYS):
        raise InvalidInput(f"hf:{name} has columns {', '.join(keys)} and no label. Rename one to 'label' (rename_column)")
    return as_sample(loaded.with_format("torch"), part, **facts)

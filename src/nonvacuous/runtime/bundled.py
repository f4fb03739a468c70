"""Data sets with a name: ``digits``, ``breast-cancer`` (inside scikit-learn), ``fashion-mnist`` (Debian's, or downloaded)."""

from __future__ import annotations

import gzip
import hashlib
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from nonvacuous.core.errors import InvalidInput
from nonvacuous.runtime.data import ArraySample, Role, Sample, as_sample, hashed_split

TEST_FRACTION = 0.2

#: Units of breast-cancer's 30 features, powers of ten near each quantity's usual size (lengths in units of 10, areas of 1000,
#: shape numbers of 0.1; their standard errors one step finer). They are constants of this file: nothing is estimated from the
#: sample, so that scaled examples remain independent of each other.
_MEAN_UNITS = (10.0, 10.0, 100.0, 1000.0, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1)
_ERROR_UNITS = (1.0, 1.0, 10.0, 100.0, 0.01, 0.1, 0.1, 0.01, 0.1, 0.01)
BREAST_CANCER_UNITS = np.array(_MEAN_UNITS + _ERROR_UNITS + _MEAN_UNITS)

_DEBIAN = Path("/usr/share/datasets/fashion-mnist")
_OFFICIAL = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"
#: File → (SHA-256 of the official gzip, length of the idx header, SHA-256 of the decoded bytes after it).
_FASHION_FILES = {
    "train-images-idx3-ubyte.gz": (
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        16,
        "2e487a6c89124f78f2d7521542223cafe96f7123c3ca13d447772ac6ecbb3012",
    ),
    "train-labels-idx1-ubyte.gz": (
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        8,
        "657fbd221bfc9f4198cc14b5619cc33ec57c58dd0e47af4d99d6650759e869a7",
    ),
    "t10k-images-idx3-ubyte.gz": (
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        16,
        "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
    ),
    "t10k-labels-idx1-ubyte.gz": (
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        8,
        "3d0e6c6ea990b53b6f8f500a41cac93881d981b315f84578b7d915342ade01e9",
    ),
}


def digits(part: Role) -> Sample:
    """scikit-learn's 1,797 digits: pixels / 16 of shape [1, 8, 8], 10 classes; 80/20 by content hash."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    return replace(_part(x.reshape(-1, 1, 8, 8).astype(np.float32) / 16, y, 10, part), input_range=(0.0, 1.0))


def breast_cancer(part: Role) -> Sample:
    """scikit-learn's 569 tumours: 30 features in fixed units (`BREAST_CANCER_UNITS`), 2 classes; 80/20 by content hash."""
    from sklearn.datasets import load_breast_cancer

    x, y = load_breast_cancer(return_X_y=True)
    return _part((x / BREAST_CANCER_UNITS).astype(np.float32), y, 2, part)


def _part(x: np.ndarray, y: np.ndarray, classes: int, part: Role) -> Sample:
    whole = as_sample((x, y), part, classes=classes)
    split = hashed_split(whole, TEST_FRACTION, seed=0)
    chosen = split.kept if part == "train" else split.held_out
    return chosen.subset(torch.arange(chosen.n), whole.name)


def fashion_mnist(part: Role) -> Sample:
    """Fashion-MNIST (60,000 / 10,000): pixels / 255 of shape [1, 28, 28], 10 classes.

    Looked for in ``$NONVACUOUS_DATA/fashion-mnist``, then where Debian's ``dataset-fashion-mnist`` puts it, then in the
    download cache, else downloaded. Wherever it comes from, the decoded bytes must have the published digest.
    """
    prefix = "train" if part == "train" else "t10k"
    images = _fashion_bytes(f"{prefix}-images-idx3-ubyte.gz")
    labels = _fashion_bytes(f"{prefix}-labels-idx1-ubyte.gz")
    x = torch.frombuffer(bytearray(images), dtype=torch.uint8).float().div_(255).reshape(-1, 1, 28, 28)
    y = torch.frombuffer(bytearray(labels), dtype=torch.uint8).long()
    name = "the training sample" if part == "train" else "the test sample"
    return ArraySample(inputs=x, targets=y, declared=10, name=name, input_range=(0.0, 1.0))


def _fashion_bytes(name: str) -> bytes:
    _, header, digest = _FASHION_FILES[name]
    path = _fashion_file(name)
    try:
        decoded = gzip.decompress(path.read_bytes())[header:]
    except (OSError, EOFError, ValueError) as error:
        raise InvalidInput(f"{path} is not a readable gzip file ({error}). Remove it, so that another copy is used") from error
    if hashlib.sha256(decoded).hexdigest() != digest:
        raise InvalidInput(
            f"{path} does not hold the published Fashion-MNIST: its content has another SHA-256. Remove or replace it"
        )
    return decoded


def _fashion_file(name: str) -> Path:
    own = os.environ.get("NONVACUOUS_DATA")
    places = [Path(own, "fashion-mnist")] if own else []
    for place in [*places, _DEBIAN]:
        if (place / name).is_file():
            return place / name
    import pooch

    try:
        found = pooch.retrieve(
            _OFFICIAL + name,
            known_hash=f"sha256:{_FASHION_FILES[name][0]}",
            fname=name,
            path=pooch.os_cache("nonvacuous") / "fashion-mnist",
        )
    except Exception as error:  # no network, refused, wrong checksum: pooch lets many kinds through
        raise InvalidInput(
            f"Fashion-MNIST is not on this machine and could not be downloaded from {_OFFICIAL} ({type(error).__name__})."
            " Install Debian's dataset-fashion-mnist, or put the four .gz files into $NONVACUOUS_DATA/fashion-mnist"
        ) from error
    return Path(found)

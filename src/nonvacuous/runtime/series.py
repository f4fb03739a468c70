"""A series as samples: windows of past values with the value to forecast, split by time; and real series by name."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nonvacuous.core.errors import InvalidInput
from nonvacuous.runtime.data import ArraySample, Role, Sample, Split, Windows

POSSIBLE = "sunspots, nile, elnino, co2 (with statsmodels), bible (verse lengths, with Debian's bible-kjv), file.npy, file.csv, file.txt"
USAGE = "series:NAME:lags=12, after which may follow :horizon=1 :gap=0 :train=0.5 :difference=D (x_t − x_{t−D})"


def windows(
    series: Any, lags: int, horizon: int = 1, *, train_fraction: float = 0.5, gap: int = 0, regression: bool = True
) -> Split:
    """Training and held-out windows of a series [t] in the order of time: the first part trains, what follows the gap is held out.

    An example's input is ``lags`` values in a row [lags], float32; its target is the value ``horizon`` steps after the last of them, or,
    without ``regression``, class 1 where that value is above the last one, else 0. All values are in units of the training stretch: less
    its mean, divided by its standard deviation. ``gap`` observations between the stretches are left out. No held-out
    window reads an observation that a training window reads.

    Raises :class:`InvalidInput` for values that are not finite, numbers out of range, a series that does not vary, and a series too short,
    saying how long it must be.
    """
    values = checked(series)
    for name, number, least in (("lags", lags, 1), ("horizon", horizon, 1), ("gap", gap, 0)):
        if isinstance(number, bool) or not isinstance(number, int) or number < least:
            raise InvalidInput(f"{name} is a whole number ≥ {least}; got {number!r:.60}")
    if not 0 < train_fraction < 1:
        raise InvalidInput(f"train_fraction lies strictly between 0 and 1; got {train_fraction!r:.60}")
    span = lags + horizon
    cut = int(train_fraction * len(values))
    parts = values[:cut], values[cut + gap :]
    short = next((name for name, part in zip(("training", "held-out"), parts, strict=True) if len(part) < span + 1), None)
    if short is not None:
        needed = max(-(-(span + 1) // train_fraction), -(-(span + 1 + gap) // (1 - train_fraction)))
        raise InvalidInput(
            f"the series has {len(values)} values, too few for two {short} windows of {span} ({lags} lags, horizon {horizon}) with "
            f"train_fraction {train_fraction:g} and a gap of {gap}: it needs about {int(needed)} values, fewer lags or a shorter gap"
        )
    centre, scale = float(parts[0].mean()), float(parts[0].std())
    if not scale > 0:
        raise InvalidInput("the training stretch of the series does not vary: there is nothing to forecast")
    note = f"Values are in units of the training stretch: (x − {centre:.6g}) / {scale:.6g}."
    stretch = Windows(span, gap)
    samples = []
    for name, part in zip(("the training sample", "the test sample"), parts, strict=True):
        rows = np.lib.stride_tricks.sliding_window_view((part - centre) / scale, span)
        future = rows[:, -1]
        targets = future.copy() if regression else (future > rows[:, lags - 1]).astype(np.int64)
        samples.append(
            ArraySample(
                inputs=torch.from_numpy(rows[:, :lags].astype(np.float32)),
                targets=torch.from_numpy(targets),
                name=name,
                regression=regression,
                declared=None if regression else 2,
                notes=(note,) if name == "the test sample" else (),
                windows=stretch,
            )
        )
    return Split(*samples)


def checked(series: Any) -> np.ndarray:
    """A series as float64 [t]; raises :class:`InvalidInput` unless it is one row of finite numbers."""
    try:
        values = np.asarray(series, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"a series is one row of numbers in the order of time ({error})") from None
    if values.ndim != 1 or not len(values):
        raise InvalidInput(f"a series is one row of numbers in the order of time; got the shape {values.shape}")
    if not np.isfinite(values).all():
        place = int(np.argmin(np.isfinite(values)))
        raise InvalidInput(f"the series holds {values[place]} at place {place}: fill the gap, or take a stretch without one")
    return values


def named(name: str) -> np.ndarray:
    """A real series [t] by its name, or the numbers of a file: ``.npy``, or text with one number a line (a header may come first).

    Raises :class:`InvalidInput` for unknown names and files that are not read.
    """
    if name in NAMED:
        return NAMED[name]()
    path = Path(name).expanduser()
    if path.suffix.lower() not in (".npy", ".csv", ".txt"):
        raise InvalidInput(f"unknown series {name!r}. Possible: {POSSIBLE}")
    if not path.is_file():
        raise InvalidInput(f"series file {path} does not exist. Check the path; the current directory is {Path.cwd()}")
    try:
        if path.suffix.lower() == ".npy":
            return checked(np.load(path, allow_pickle=False))
        lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return checked(lines[1:] if lines and not _is_number(lines[0]) else lines)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidInput(f"{path} does not hold one number a line, or one row of numbers ({error})") from error


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def load_series(spec: str, part: Role, *, regression: bool) -> Sample:
    """The sample of ``NAME:lags=L[:horizon=H][:gap=G][:train=F][:difference=D]``, see :func:`windows`.

    Raises :class:`InvalidInput` for an option that is none, and what :func:`windows` and :func:`named` refuse.
    """
    name, *options = spec.split(":")
    given: dict[str, float] = {}
    for option in options:
        key, _, number = option.partition("=")
        if key not in ("lags", "horizon", "gap", "train", "difference") or not _is_number(number):
            raise InvalidInput(f"{option!r:.60} is no option of a series. {USAGE}")
        whole = float(number).is_integer() and key != "train"
        given[key] = int(float(number)) if whole else float(number)
    if "lags" not in given:
        raise InvalidInput(f"series:{spec} does not say how many past values a forecast reads. {USAGE}")
    values = named(name)
    step = given.get("difference", 0)
    if step:
        if not isinstance(step, int) or not 0 < step < len(values):
            raise InvalidInput(f"difference is a whole number from 1 to {len(values) - 1}; got {step!r:.60}")
        values = values[step:] - values[:-step]
    split = windows(
        values,
        given["lags"],  # type: ignore[arg-type] # windows says what is wrong with a fraction
        given.get("horizon", 1),  # type: ignore[arg-type]
        train_fraction=given.get("train", 0.5),
        gap=given.get("gap", 0),  # type: ignore[arg-type]
        regression=regression,
    )
    return split.kept if part == "train" else split.held_out


def _statsmodels(name: str) -> Any:
    try:
        from statsmodels import datasets
    except ImportError as error:
        raise InvalidInput(
            f"the series {name} comes with statsmodels. Install it: pip install 'nonvacuous[series]'"
        ) from error
    return getattr(datasets, name).load_pandas().data


def sunspots() -> np.ndarray:
    """Yearly sunspot numbers, 1700 to 2008 [309]."""
    return checked(_statsmodels("sunspots")["SUNACTIVITY"])


def nile() -> np.ndarray:
    """Yearly flow of the Nile at Aswan, 10⁸ m³, 1871 to 1970 [100]."""
    return checked(_statsmodels("nile")["volume"])


def el_nino() -> np.ndarray:
    """Monthly sea surface temperature of the eastern Pacific, °C, 1950 to 2010 [732]."""
    return checked(_statsmodels("elnino").iloc[:, 1:].to_numpy().ravel())


def co2() -> np.ndarray:
    """Weekly carbon dioxide at Mauna Loa, ppm, 1958 to 2001 [2284]; 59 missing weeks are interpolated linearly."""
    return checked(_statsmodels("co2")["co2"].interpolate())


def verse_lengths() -> np.ndarray:
    """Characters in each verse of the King James Bible [31102], by Debian's ``bible``."""
    try:
        done = subprocess.run(["bible", "-f", "gen1:1-rev22:21"], capture_output=True, text=True, check=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        raise InvalidInput(f"the series bible needs the program of that name ({error}): apt-get install bible-kjv") from error
    return checked([len(line.partition(" ")[2]) for line in done.stdout.splitlines() if line])


NAMED: dict[str, Callable[[], np.ndarray]] = {
    "sunspots": sunspots,
    "nile": nile,
    "elnino": el_nino,
    "co2": co2,
    "bible": verse_lengths,
}

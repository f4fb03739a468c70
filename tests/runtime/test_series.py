"""Windows of a series: what each reads, that no two stretches share an observation, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import nonvacuous
from nonvacuous.core.errors import InvalidInput
from nonvacuous.runtime.data import Windows, hashed_split
from nonvacuous.runtime.series import named, windows
from nonvacuous.runtime.sources import load


@given(st.integers(1, 6), st.integers(1, 4), st.integers(0, 9), st.sampled_from([0.4, 0.5, 0.7]))
def test_every_window_reads_its_own_stretch(lags: int, horizon: int, gap: int, fraction: float) -> None:
    """On the series 0, 1, 2, … each value is its own place."""
    n = 100
    split = windows(np.arange(n), lags, horizon, train_fraction=fraction, gap=gap)
    cut = int(fraction * n)
    centre, scale = np.arange(cut).mean(), np.arange(cut).std()
    for sample, start, end in ((split.kept, 0, cut), (split.held_out, cut + gap, n)):
        places = np.rint(sample.inputs.double().numpy() * scale + centre).astype(int)
        targets = np.rint(sample.targets.numpy() * scale + centre).astype(int)
        assert sample.windows == Windows(lags + horizon, gap)
        assert sample.n == end - start - lags - horizon + 1
        assert (places == np.arange(start, start + sample.n)[:, None] + np.arange(lags)).all()
        assert (targets == places[:, -1] + horizon).all() and targets[-1] == end - 1
        assert sample.inputs.dtype == torch.float32


def test_direction_of_change_as_classes() -> None:
    split = windows([0.0, 1, 0, 1, 1, 2, 0, 3, 1, 1, 2, 0], 2, regression=False, train_fraction=0.5)
    assert split.kept.classes == 2 and split.kept.targets.tolist() == [0, 1, 0, 1]
    assert split.held_out.targets.tolist() == [0, 0, 1, 0]


def test_units_come_from_training_alone() -> None:
    series = np.concatenate([np.tile([0.0, 2.0], 25), np.full(50, 100.0)])
    split = windows(series, 2)
    assert split.kept.targets.unique().tolist() == [-1.0, 1.0]
    assert split.held_out.targets.unique().tolist() == [99.0]
    assert "(x − 1) / 1" in split.held_out.notes[0]


def test_a_part_of_the_windows_is_no_stretch() -> None:
    kept = windows(np.arange(50.0), 3).kept
    assert kept.subset(torch.tensor([0, 5, 2]), "some").windows is None


def test_windows_are_not_split_at_random_nor_certified_as_if_independent() -> None:
    split = windows(np.sin(np.arange(200.0)), 3, regression=False)
    for use in (
        lambda: hashed_split(split.kept, 0.2),
        lambda: nonvacuous.certify(lambda: torch.nn.Linear(3, 2), split.kept, method="holdout"),
        lambda: nonvacuous.budget("mlp:3-4-2", split.kept, seconds=1.0),
    ):
        with pytest.raises(InvalidInput, match="windows of a series, which overlap"):
            use()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"series": [1.0, np.nan, 2.0], "lags": 1}, "holds nan at place 1: fill the gap"),
        ({"series": ["a", "b"], "lags": 1}, "one row of numbers"),
        ({"series": np.zeros((5, 5)), "lags": 1}, r"got the shape \(5, 5\)"),
        ({"series": [], "lags": 1}, "one row of numbers"),
        ({"series": np.arange(20), "lags": 0}, "lags is a whole number ≥ 1"),
        ({"series": np.arange(20), "lags": 2, "horizon": 0}, "horizon is a whole number ≥ 1"),
        ({"series": np.arange(20), "lags": 2, "gap": -1}, "gap is a whole number ≥ 0"),
        ({"series": np.arange(20), "lags": 2, "train_fraction": 1.0}, "train_fraction lies strictly between"),
        ({"series": np.arange(20), "lags": 12}, "too few for two training windows of 13 .* about 28 values"),
        ({"series": np.arange(20), "lags": 3, "gap": 8}, "too few for two held-out windows of 4 .* about 26 values"),
        ({"series": np.ones(40), "lags": 3}, "does not vary"),
    ],
)
def test_what_is_refused(arguments: dict, says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        windows(**arguments)


def test_the_length_that_the_message_names_is_enough() -> None:
    assert windows(np.arange(28), 12).held_out.n >= 2
    assert windows(np.arange(26), 3, gap=8).held_out.n >= 2


def test_series_from_files_and_their_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = np.sin(np.arange(120.0)) + np.arange(120) % 7
    np.save("a.npy", values)
    Path("a.csv").write_text("value\n" + "\n".join(map(repr, values.tolist())) + "\n")
    Path("bad.txt").write_text("1\n2\nx\n")
    assert np.array_equal(named("a.npy"), named("a.csv"))
    sample = load("series:a.npy:lags=5:horizon=2:gap=3:train=0.6", "test", regression=True)
    assert (sample.n, sample.windows) == (120 - 72 - 3 - 6, Windows(7, 3))
    seasonal = load("series:a.npy:lags=5:difference=7", regression=True)
    assert seasonal.n == 56 - 5
    for spec, says in (
        ("series:a.npy", "does not say how many past values"),
        ("series:a.npy:lags=2.5", "lags is a whole number"),
        ("series:a.npy:lag=2", "is no option of a series"),
        ("series:a.npy:lags=x", "is no option of a series"),
        ("series:a.npy:lags=2:difference=0.5", "difference is a whole number"),
        ("series:none.npy:lags=2", "does not exist"),
        ("series:nothing:lags=2", "unknown series 'nothing'. Possible: sunspots"),
        ("series:bad.txt:lags=2", "does not hold one number a line"),
    ):
        with pytest.raises(InvalidInput, match=says):
            load(spec, regression=True)


def test_real_series_of_statsmodels() -> None:
    pytest.importorskip("statsmodels")
    lengths = {name: len(named(name)) for name in ("sunspots", "nile", "elnino", "co2")}
    assert lengths == {"sunspots": 309, "nile": 100, "elnino": 732, "co2": 2284}


def test_without_statsmodels_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "statsmodels", None)
    with pytest.raises(InvalidInput, match=r"pip install 'nonvacuous\[series\]'"):
        named("nile")


def test_without_the_bible_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(InvalidInput, match="apt-get install bible-kjv"):
        named("bible")

"""``nonvacuous landscape``."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from nonvacuous.auditing import landscape as pictures
from nonvacuous.optimization.modes import Barrier
from nonvacuous.optimization.slices_losses import Way
from nonvacuous.optimization.slices_objective import Statistics
from nonvacuous.optimization.surfaces import Point, Surface

Run = Any
MODEL = ["landscape", "--model", "mlp:64-16-10", "--train", "digits"]


@pytest.fixture
def checkpoints(trained: Path, tmp_path: Path) -> Path:
    """A bent path from the initial weights to the trained ones, ten files whose names sort as numbers only."""
    start, end = load_file(trained.with_name("w.initial.safetensors")), load_file(trained)
    folder = tmp_path / "run"
    folder.mkdir()
    torch.manual_seed(0)
    aside = {k: 0.02 * torch.randn(x.shape) for k, x in start.items()}
    for i in range(11):
        t = i / 10
        save_file(
            {k: (1 - t) * start[k] + t * end[k] + t * (1 - t) * aside[k] for k in start}, folder / f"epoch{i}.safetensors"
        )
    return folder


def test_a_plane_gives_a_page_numbers_arrays_and_a_picture(run: Run, trained: Path) -> None:
    result = run(*MODEL, "--weights", trained, "--out", "plane", "--points", 5, "--examples", 200, "--json")
    assert result.exit_code == 0, result.stderr
    out = Path("plane")
    assert {file.name for file in out.iterdir()} == {"landscape.html", "landscape.json", "landscape.npz", "landscape.png"}
    document = json.loads(result.stdout)
    assert document == json.loads((out / "landscape.json").read_text(encoding="utf-8"))
    assert np.array(document["loss"]).shape == (5, 5) and document["examples"] == 200 and document["kind"] == "indicator"
    arrays = np.load(out / "landscape.npz", allow_pickle=False)
    assert arrays["loss"].shape == (5, 5) and np.allclose(arrays["axis1"], [-1, -0.5, 0, 0.5, 1])
    assert arrays["loss"][2, 2] == pytest.approx(document["origin"]["loss"], rel=1e-5) and arrays["loss_std"][2, 2] > 0
    page = (out / "landscape.html").read_text(encoding="utf-8")
    outside = re.sub(
        r"<script>.*?</script>", "", page, flags=re.DOTALL
    )  # plotly's own text names addresses that it does not ask
    assert not re.search(r'(?:src|href)="https?:', outside) and page.count('class="chart"') == 3
    assert "random direction 1, filter-normalised" in page and "cost" in result.stderr
    again = run(*MODEL, "--weights", trained, "--out", "plane", "--points", 5)
    assert again.exit_code == 2 and "not empty" in again.stderr


def test_a_line_between_two_has_a_barrier_that_alignment_lowers(run: Run, trained: Path) -> None:
    state = load_file(trained)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    shuffled = {"1.weight": state["1.weight"][order], "1.bias": state["1.bias"][order]}
    save_file(
        shuffled | {"3.weight": state["3.weight"][:, order].contiguous() * 1.1, "3.bias": state["3.bias"]}, "other.safetensors"
    )
    words = [*MODEL, "--weights", trained, "--weights2", "other.safetensors", "--points", 7]
    heights = []
    for name, extra in (("plain", []), ("aligned", ["--align"])):
        result = run(*words, *extra, "--out", name, "--json", "--quiet")
        assert result.exit_code == 0, result.stderr
        heights.append(json.loads(result.stdout)["barrier"]["loss"])
    assert heights[0] > 0.5 and heights[1] < 0.01


def test_a_run_shows_its_path_and_the_share_of_it(run: Run, checkpoints: Path) -> None:
    result = run(*MODEL, "--path", checkpoints, "--out", "path", "--points", 17, "--tolerance", 0.5, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert len(document["path"]) == 11 and document["path"][-1] == pytest.approx([0, 0], abs=1e-6)
    assert document["path"][0][0] > document["path"][5][0] > 0  # in the order of the numbers: epoch10 is the last
    assert sum(document["path_shares"]) > 0.99 and not np.array(document["evaluated"]).all()
    assert "a random walk would have" in " ".join(result.stderr.split())


def test_along_eigenvectors_the_loss_bends_most(run: Run, trained: Path) -> None:
    words = [
        *MODEL,
        "--weights",
        trained,
        "--dimensions",
        1,
        "--points",
        3,
        "--range",
        0.5,
        "--examples",
        300,
        "--json",
        "--quiet",
    ]
    bends = []
    for name, extra in (("eigen", ["--eigenvectors"]), ("random", [])):
        result = run(*words, "--out", name, *extra)
        assert result.exit_code == 0, result.stderr
        loss = json.loads(result.stdout)["loss"]
        bends.append(loss[0] - 2 * loss[1] + loss[2])
    assert bends[0] > 0


def test_ctrl_c_leaves_what_is_done_and_resume_goes_on(run: Run, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import nonvacuous.optimization.surfaces as module

    words = [*MODEL, "--weights", trained, "--out", "grid", "--points", 4, "--examples", 100]
    real, calls = module.Evaluation.at, {"count": 0}

    def stopping(self: Any, points: torch.Tensor) -> Any:
        calls["count"] += 1
        if calls["count"] == 6:
            raise KeyboardInterrupt
        return real(self, points)

    with monkeypatch.context() as patch:
        patch.setattr(module.Evaluation, "at", stopping)
        patch.setattr(module._Writer, "chunk", 1)
        result = run(*words)
    assert result.exit_code == 130 and "--resume goes on" in result.stderr
    assert np.load("grid/unfinished.npz")["done"].sum() == 4
    foreign = run(*words, "--resume", "--seed", 3)
    assert foreign.exit_code == 2 and "another landscape" in foreign.stderr
    assert run(*words, "--resume", "--quiet").exit_code == 0
    assert not Path("grid/unfinished.npz").exists() and Path("grid/landscape.html").exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--weights2", "a", "--path", "b"], "Choose one"),
        (["--align"], "--weights2"),
        (["--path", "nowhere"], "no folder"),
        (["--path", "."], "three or more"),
        (["--resume"], "no unfinished"),
        (["--points", "1"], "no landscape"),
        (["--points", "2000"], "at most"),
        (["--points", "400", "--most-seconds", "0.001"], "would take about"),
        (["--range", "-1"], "positive"),
        (["--tolerance", "0"], "positive"),
    ],
)
def test_what_cannot_be_drawn_is_refused_and_nothing_is_left(run: Run, trained: Path, words: list[str], says: str) -> None:
    result = run(*MODEL, "--weights", trained, "--out", "out", *words)
    assert result.exit_code == 2 and says in result.stderr and not Path("out").exists()


def test_a_loss_that_is_not_finite_at_the_start_is_refused(run: Run, trained: Path) -> None:
    save_file({k: torch.full_like(x, 1e18) for k, x in load_file(trained).items()}, "huge.safetensors")
    result = run(*MODEL, "--weights", "huge.safetensors", "--out", "out", "--points", 3, "--examples", 50)
    assert (
        result.exit_code == 2 and "at the model's own weights" in " ".join(result.stderr.split()) and not Path("out").exists()
    )


def test_the_cost_is_told_before_the_work(run: Run, trained: Path) -> None:
    result = run(*MODEL, "--weights", trained, "--out", "out", "--points", 300, "--most-seconds", 0.0001)
    assert result.exit_code == 2 and "90,000 points, about" in result.output and "would take about" in result.stderr


def test_weights_are_asked_for_and_must_fit(run: Run, trained: Path) -> None:
    result = run(*MODEL, "--out", "out")
    assert result.exit_code == 2 and "--weights" in result.stderr
    save_file({k: x[:5] for k, x in load_file(trained).items()}, "small.safetensors")
    result = run(*MODEL, "--weights", trained, "--weights2", "small.safetensors", "--out", "out")
    assert result.exit_code == 2 and "shapes" in result.stderr


def test_an_audit_draws_it_beside_its_report_when_asked(run: Run, trained: Path) -> None:
    words = [
        "audit",
        "--model",
        "mlp:64-16-10",
        "--weights",
        trained,
        "--train",
        "digits",
        "--out",
        "audited",
        "--landscape",
        "--quiet",
    ]
    result = run(*words)
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(Path("audited/landscape.json").read_text(encoding="utf-8"))["examples"] == 1000
    assert Path("audited/landscape.html").exists()
    assert Path("audited/audit.html").read_text(encoding="utf-8").count('href="landscape.html"') == 1
    assert run("verify", "audited").exit_code == 0


def surface(loss: np.ndarray) -> Surface:
    axes = tuple(np.linspace(-1, 1, n) for n in loss.shape)
    names = ("first", "second <b>")[: loss.ndim]
    done, zero = np.ones(loss.shape, bool), np.full(loss.shape, 0.01)
    return Surface(
        names, axes, loss, None, zero, zero, done, Point(1.0, 0.1, None), 10, 20, Statistics.FROZEN, Way.IN_TURN, 1.0, "d" * 64
    )


def test_walls_and_infinities_are_cut_in_the_picture_and_told_in_the_numbers() -> None:
    loss = np.array([[1.0, 2.0, np.inf], [1.0, 1.5, 1e9], [2.0, 1.2, 1.1]])
    shown = pictures.Landscape("<script>", "data", surface(loss))
    assert np.isfinite(pictures.drawn_heights(loss)).all() and pictures.drawn_heights(loss).max() < 100
    page = pictures.page(shown)
    assert "<script>:" not in page and "&lt;script&gt;" in page
    assert pictures.document(shown)["loss"][0][2] is None and pictures.document(shown)["loss"][1][2] == 1e9
    assert ("Not finite", "at 1 points the loss overflows") in pictures.told(shown)
    line = pictures.Landscape("m", "d", surface(np.array([0.0, 1.0, 0.0])), barrier=Barrier(1.0, 0.5))
    assert [name for name, _, _ in pictures.figures(line)] == ["slice"]
    assert any(name == "Barrier of the loss" for name, _ in pictures.told(line))


def test_the_page_draws_in_a_browser(browser: Any, tmp_path: Path) -> None:
    shown = pictures.Landscape(
        "m", "d", surface(np.random.default_rng(0).random((6, 5))), pictures.Track(np.array([[0.5, 0.5], [0.0, 0.0]]))
    )
    (tmp_path / "page.html").write_text(pictures.page(shown), encoding="utf-8")
    browser.get((tmp_path / "page.html").as_uri())
    assert browser.execute_script("return document.querySelectorAll('.chart .main-svg').length") >= 2
    severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE" and "WebGL" not in entry["message"]]
    assert severe == []

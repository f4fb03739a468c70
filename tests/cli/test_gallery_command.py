"""``nonvacuous gallery``: finds shipped pages, runs them apart, saves figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nonvacuous.commands import gallery

GOOD = '''"""
Sawtooth
========

Few layers make *many* teeth:
twice as many with each.

More words.
"""
# %%
import sys
import matplotlib.pyplot as plt

plt.plot([0, 1, 0])
plt.show()
plt.figure()
plt.plot([1, 0])
open("left-over.txt", "w").write("x")
assert "pytest" not in sys.modules
'''
BAD = '"""One is two."""\nimport matplotlib.pyplot as plt\nplt.plot([1])\none = 1\nassert one == 2\n'


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path / "shipped"
    place.mkdir()
    (place / "plot_a10_sawtooth.py").write_text(GOOD)
    (place / "plot_a3_one_is_two.py").write_text(BAD)
    (place / "helper.py").write_text("raise SystemExit('not a page')")
    monkeypatch.setattr(gallery, "folder", lambda: place)
    return place


def test_pages_are_listed_in_the_order_of_their_rows(run: Any, shipped: Path) -> None:
    lines = run("gallery").stdout.splitlines()
    assert [line.split() for line in lines] == [
        ["row", "name", "what", "it", "shows"],
        ["a3", "one-is-two", "One", "is", "two."],
        ["a10", "sawtooth", "Sawtooth"],
    ]
    assert run("gallery", "--quiet").stdout.split() == ["one-is-two", "sawtooth"]
    assert json.loads(run("gallery", "--json").stdout)[1]["claim"] == "Few layers make *many* teeth: twice as many with each."


@pytest.mark.parametrize("word", ["a10", "A10", "sawtooth", "plot_a10_sawtooth", "a10-sawtooth", "plot_a10_sawtooth.py"])
def test_a_page_is_found_by_row_or_name(shipped: Path, word: str) -> None:
    assert [page.name for page in gallery.chosen(word, gallery.pages())] == ["sawtooth"]


def test_a_page_runs_in_an_empty_folder_and_its_figures_are_saved(run: Any, shipped: Path, tmp_path: Path) -> None:
    result = run("gallery", "a10", "--out", "here/figures")
    assert result.exit_code == 0, result.stderr
    assert "Few layers make" in result.stdout
    out = tmp_path / "here" / "figures"
    assert sorted(p.name for p in out.iterdir()) == ["plot_a10_sawtooth.png", "plot_a10_sawtooth_2.png"]
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in out.iterdir())
    assert not (tmp_path / "left-over.txt").exists()
    again = run("gallery", "a10", "--out", "here/figures")
    assert again.exit_code == 2
    assert "--force" in again.stderr
    forced = run("gallery", "a10", "--out", "here/figures", "--force", "--json")
    assert forced.exit_code == 0
    assert json.loads(forced.stdout)[0]["holds"] is True


def test_a_failing_assertion_is_reported_with_its_line(run: Any, shipped: Path, tmp_path: Path) -> None:
    result = run("gallery", "a3")
    assert result.exit_code == 1
    assert "a3 one-is-two: AssertionError (line 5: assert one == 2)" in result.stderr
    assert not (tmp_path / "gallery-out").exists()


def test_an_unknown_page_names_the_nearest(run: Any, shipped: Path) -> None:
    result = run("gallery", "sawtoth")
    assert result.exit_code == 2
    assert "Nearest: sawtooth" in result.stderr


@pytest.mark.parametrize("word", ["helper", "../helper", "/etc/passwd", "shipped/plot_a10_sawtooth.py", "*"])
def test_only_shipped_pages_are_run(run: Any, shipped: Path, word: str) -> None:
    assert run("gallery", word).exit_code == 2


def test_an_unwritable_out_is_said_before_the_page_runs(run: Any, shipped: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    result = run("gallery", "a10", "--out", "file/figures")
    assert result.exit_code == 2
    assert "cannot be written to" in result.stderr
    assert "Few layers" not in result.stdout


def test_an_installed_package_has_its_pages_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site-packages" / "nonvacuous"
    (package / "gallery_pages").mkdir(parents=True)
    monkeypatch.setattr(gallery, "__file__", str(package / "commands" / "gallery.py"))
    assert gallery.folder() == package / "gallery_pages"
    (package / "gallery_pages").rmdir()
    assert gallery.folder() is None
    assert gallery.pages() == []


def test_the_checkout_has_a_gallery_folder() -> None:
    place = gallery.folder()
    assert place is not None and place.is_dir()

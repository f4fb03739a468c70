"""``nonvacuous gallery``: the shipped pages, each one statement of the theory with its claim, code, figure and assertion."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from nonvacuous.commands.options import every_command
from nonvacuous.commands.output import Column, Output
from nonvacuous.commands.places import free_files
from nonvacuous.core.errors import InvalidInput, NonvacuousError

_NAME = re.compile(r"plot_(?P<row>[a-z]\d+[a-z]?)_(?P<name>[a-z0-9_]+)")


class PageFailed(NonvacuousError):
    """A page stopped: its assertion does not hold here, or it could not run."""


@dataclass(frozen=True)
class Page:
    """A page of the gallery: its file, the row of the theory it shows, its name, its title and what it claims."""

    path: Path
    row: str
    name: str
    title: str
    claim: str
    slow: bool

    @property
    def facts(self) -> dict[str, Any]:
        """For ``--json``."""
        return {"row": self.row, "name": self.name, "title": self.title, "claim": self.claim, "slow": self.slow}


def folder() -> Path | None:
    """Where the pages lie: inside the installed package, or beside ``src`` in a checkout; None if neither is there."""
    package = Path(__file__).resolve().parent.parent
    checkout = package.parent.parent
    if (package / "gallery_pages").is_dir():
        return package / "gallery_pages"
    if package.parent.name == "src" and (checkout / "pyproject.toml").is_file() and (checkout / "gallery").is_dir():
        return checkout / "gallery"
    return None


def pages() -> list[Page]:
    """All shipped pages, in the order of their rows."""
    place = folder()
    found = [_read(path, match) for path in place.glob("plot_*.py") if (match := _NAME.fullmatch(path.stem))] if place else []
    return sorted(found, key=lambda page: (page.row[0], int(re.sub(r"\D", "", page.row)), page.row, page.name))


def _read(path: Path, match: re.Match[str]) -> Page:
    text = path.read_text(encoding="utf-8")
    lines = (ast.get_docstring(ast.parse(text)) or path.stem).splitlines()
    words = [line for line in lines if not re.fullmatch(r"([=\-~*#])\1*", line.strip())]  # without heading underlines
    body = "\n".join(words[1:]).strip()
    claim = " ".join(body.split("\n\n")[0].split())
    slow = "# slow" in text.splitlines()[:5]
    return Page(path, match["row"], match["name"].replace("_", "-"), words[0].strip(), claim or words[0].strip(), slow)


def chosen(word: str, known: list[Page]) -> list[Page]:
    """The pages that ``word`` means: a row (a3), a name, or a file's stem. Raises :class:`InvalidInput` naming the nearest."""
    wanted = word.lower().removesuffix(".py").replace("_", "-")
    found = [
        page for page in known if wanted in (page.row, page.name, f"{page.row}-{page.name}", f"plot-{page.row}-{page.name}")
    ]
    if found:
        return found
    if not known:
        raise InvalidInput("this installation has no gallery pages; reinstall nonvacuous from its wheel or a full checkout")
    names = [name for page in known for name in (page.row, page.name)]
    near = get_close_matches(wanted, names, 3, cutoff=0.4)
    hint = f"Nearest: {', '.join(near)}" if near else "`nonvacuous gallery` lists all"
    raise InvalidInput(f"no gallery page is called {word!r:.60}. {hint}")


@click.command(short_help="List or run the pages that show the theory.")
@click.argument("names", nargs=-1, metavar="[PAGE]...")
@click.option(
    "--out", type=click.Path(path_type=Path), default="gallery-out", show_default=True, help="Folder for the figures (PNG)."
)
@click.option("--force", is_flag=True, help="Replace figures that exist.")
@every_command()
def gallery(names: tuple[str, ...], out: Path, force: bool, as_json: bool, quiet: bool) -> None:
    """List the pages, or run each PAGE (a row such as a3, or a name), print its claim and save its figures.

    A page ends in an assertion; if it fails the exit code is 1. Only pages that ship with nonvacuous are run.
    --quiet lists the names only.
    """
    output = Output(as_json, quiet)
    known = pages()
    if not names:
        _list(known, output)
        return
    wanted = list(dict.fromkeys(page for name in names for page in chosen(name, known)))
    for page in wanted:
        free_files([*sorted(out.glob(f"{page.path.stem}*.png")), out / f"{page.path.stem}.png"], force)
    _need_matplotlib()
    results, failures = [], []
    for page in wanted:
        output.head(f"{page.row}  {page.title}")
        output.prose(page.claim, indent=2)
        begun = time.perf_counter()
        failure, figures = _run(page, out)
        seconds = time.perf_counter() - begun
        results.append({**page.facts, "holds": failure is None, "figures": [str(f) for f in figures], "seconds": seconds})
        output.say(f"  its assertion {'fails' if failure else 'holds'} ({seconds:.1f} s)")
        for figure in figures:
            output.say(f"  {figure}")
        if failure:
            failures.append(f"{page.row} {page.name}: {failure}")
    output.document(results)
    if failures:
        raise PageFailed("; ".join(failures))


def _list(known: list[Page], output: Output) -> None:
    if output.quiet and not output.as_json:
        click.echo("\n".join(page.name for page in known), nl=bool(known))
    columns = [Column("row"), Column("name"), Column("what it shows", wraps=True)]
    output.table(columns, [[page.row, page.name, page.title + (" (slow)" if page.slow else "")] for page in known])
    if not known:
        output.say("This installation has no gallery pages.")
    elif output.stream.isatty():
        output.say()
        output.prose(f"`nonvacuous gallery {known[0].row}` runs a page and saves its figure.")
    output.document([page.facts for page in known])


def _need_matplotlib() -> None:
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise InvalidInput(
            "gallery pages draw with matplotlib, which is not installed. Install it: pip install 'nonvacuous[gallery]'"
        )


def _run(page: Page, out: Path) -> tuple[str | None, list[Path]]:
    """Run a page in an empty folder and move its figures to ``out``; (what failed or None, the figures)."""
    with tempfile.TemporaryDirectory(prefix="nonvacuous-gallery-") as temporary:
        empty, drawn = Path(temporary, "run"), Path(temporary, "figures")
        empty.mkdir()
        drawn.mkdir()
        command = [sys.executable, "-m", "nonvacuous.commands.page_runner", str(page.path), str(drawn)]
        package = str(Path(__file__).resolve().parents[2])
        path = os.pathsep.join(part for part in (package, os.environ.get("PYTHONPATH")) if part)
        environment = {**os.environ, "MPLBACKEND": "Agg", "PYTHONPATH": path}
        done = subprocess.run(
            command, cwd=empty, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            return last, []
        out.mkdir(parents=True, exist_ok=True)
        figures = []
        for figure in sorted(drawn.glob("*.png"), key=lambda f: (len(f.name), f.name)):
            target = out / figure.name
            partial = target.with_suffix(".png.partial")
            partial.write_bytes(figure.read_bytes())
            partial.replace(target)
            figures.append(target)
        return None, figures

"""What a command prints: text and tables for people, one JSON document for programs.

With ``--json`` the document is all of stdout, and text goes to stderr. Tables are coloured and fitted to the width of a
terminal; elsewhere they are plain columns, one row a line.
"""

from __future__ import annotations

import io
import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TextIO

import click

WIDEST_PROSE = 100
GAP = 2
NARROWEST = 16  # a column whose text may be broken


@dataclass(frozen=True)
class Column:
    """A column of a table: ``right`` aligns numbers; ``wraps`` lets a terminal break its text."""

    title: str
    right: bool = False
    wraps: bool = False


@dataclass(frozen=True)
class Output:
    """Where a command's words go."""

    as_json: bool = False
    quiet: bool = False

    @property
    def stream(self) -> TextIO:
        """Where people read."""
        return sys.stderr if self.as_json else sys.stdout

    @property
    def progress(self) -> bool:
        """Whether to show progress (always on stderr)."""
        return not self.quiet

    def say(self, text: str = "") -> None:
        """One line as it is."""
        if not self.quiet:
            click.echo(text, file=self.stream)

    def head(self, text: str) -> None:
        """A heading, bold on a terminal."""
        if not self.quiet:
            from nonvacuous.commands.program import no_color

            click.echo(click.style(text, bold=True), file=self.stream, color=False if no_color() else None)

    def prose(self, text: str, indent: int = 0, hang: int = 0) -> None:
        """A paragraph, broken at the width of the terminal (100 columns at most, and where there is no terminal)."""
        width = min(shutil.get_terminal_size((WIDEST_PROSE, 24)).columns, WIDEST_PROSE)
        lines = textwrap.fill(
            " ".join(text.split()),
            width=max(width, 40),
            initial_indent=" " * indent,
            subsequent_indent=" " * (indent + hang),
            break_long_words=False,
            break_on_hyphens=False,
        )
        self.say(lines)

    def table(self, columns: Sequence[Column], rows: Sequence[Sequence[str]], dim: frozenset[int] = frozenset()) -> None:
        """A table; the rows numbered in ``dim`` are greyed on a terminal."""
        if self.quiet or not rows:
            return
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        terminal = self.stream.isatty()
        table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold" if terminal else "")
        least = -GAP
        for i, column in enumerate(columns):
            longest = max(Text(cells[i]).cell_len for cells in [[c.title for c in columns], *rows])
            fewest = min(longest, NARROWEST) if column.wraps else longest
            least += GAP + fewest
            table.add_column(
                column.title,
                justify="right" if column.right else "left",
                no_wrap=not (terminal and column.wraps),
                min_width=fewest,  # a number cut short would be another number
                overflow="fold",
            )
        for i, row in enumerate(rows):
            table.add_row(*(Text(cell) for cell in row), style="dim" if i in dim else None)
        if terminal:
            console = Console(file=self.stream, highlight=False)
            console.print(table, width=max(console.width, least), crop=False)
            return
        page = io.StringIO()
        Console(file=page, width=100_000, color_system=None, force_terminal=False, highlight=False).print(table)
        for line in page.getvalue().splitlines():
            self.say(line.rstrip())

    def document(self, content: Any) -> None:
        """The JSON document, if one was asked for."""
        if self.as_json:
            click.echo(json.dumps(content, ensure_ascii=False, indent=1, allow_nan=False))

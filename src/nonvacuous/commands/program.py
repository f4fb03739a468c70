"""The group behind ``nonvacuous``: every failure becomes one clear line on stderr and an exit code.

0: done, and for ``verify`` everything holds. 1: a refusal (a certificate that does not hold). 2: input that
cannot be used. 70: a bug of this library. 130: interrupted. 141: whoever read the output closed it.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn, TextIO

import click

from nonvacuous.core.errors import NonvacuousError

BUG, INTERRUPTED, PIPE_CLOSED = 70, 130, 141


class Interrupted(Exception):
    """Ctrl-C arrived; the text says what was left and how to go on."""


class _PipeClosed(Exception):
    """The reader of our output is gone."""


def complain(kind: str, message: str, colour: str = "red") -> None:
    """Write ``kind: message`` to stderr, the kind in colour on a terminal unless NO_COLOR is set."""
    click.echo(f"{click.style(kind + ':', fg=colour, bold=True)} {message}", err=True, color=False if no_color() else None)


def no_color() -> bool:
    """Whether the environment asks for no colour (https://no-color.org)."""
    return bool(os.environ.get("NO_COLOR"))


class Program(click.Group):
    """A click group that reports errors as this project does, under the test runner as in a shell."""

    def main(self, args: Sequence[str] | None = None, prog_name: str | None = None, *rest: Any, **extra: Any) -> NoReturn:
        """Run the command line and exit."""
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="replace")  # an ASCII terminal shows ? for δ and does not crash
        extra.pop("standalone_mode", None)
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            status = self._status(args, prog_name or "nonvacuous", extra)
        sys.exit(status)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; a closed pipe and Ctrl-C are taken before click reports them in its own words."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BrokenPipeError as error:
            raise _PipeClosed from error
        except KeyboardInterrupt as error:
            raise Interrupted(str(error) or "stopped by Ctrl-C") from error

    def _status(self, args: Sequence[str] | None, prog_name: str, extra: dict[str, Any]) -> int:
        try:
            result = super().main(args, prog_name, standalone_mode=False, **extra)
            return result if isinstance(result, int) else 0
        except _PipeClosed:
            _silence()
            return PIPE_CLOSED
        except (Interrupted, click.Abort) as stop:
            complain("interrupted", str(stop) or "stopped by Ctrl-C", "yellow")
            return INTERRUPTED
        except click.UsageError as error:
            where = error.ctx.command_path if error.ctx else prog_name
            text = error.format_message()
            complain("error", f"{text if text.endswith(('.', '?')) else text + '.'} `{where} --help` lists the options")
            return error.exit_code
        except click.ClickException as error:
            complain("error", error.format_message())
            return error.exit_code
        except Exception as error:
            if os.environ.get("NONVACUOUS_DEBUG") == "1":
                traceback.print_exc()
            return _report(error)


def _report(error: Exception) -> int:
    if isinstance(error, NonvacuousError):
        complain("error", str(error))
        return error.exit_code
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        complain("error", "out of memory. Try a smaller --batch-size")
        return 1
    if isinstance(error, OSError) and error.filename is not None:
        complain("error", f"{error.filename}: {error.strerror or error}")
        return 1
    hint = "" if os.environ.get("NONVACUOUS_DEBUG") == "1" else " NONVACUOUS_DEBUG=1 shows where it happened."
    text = " ".join(str(error).split())
    complain(
        "error", f"this is a bug in nonvacuous ({type(error).__name__}: {text:.200}). Please report it with the command.{hint}"
    )
    return BUG


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    if issubclass(category, DeprecationWarning | PendingDeprecationWarning | FutureWarning):
        return  # for developers of other libraries, not for whoever runs a command
    complain("warning", " ".join(str(message).split()), "yellow")


def _silence() -> None:
    """Point stdout at nothing, so that the interpreter's last flush cannot fail."""
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115  (a stdout that is no file)

"""Options that every command takes, so that a script may pass the same ones to all.

Where an option has no effect it is accepted and left out of the command's help.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from nonvacuous._version import __version__

F = TypeVar("F", bound=Callable[..., Any])

_EVERYWHERE: dict[str, dict[str, Any]] = {
    "--seed": {
        "type": click.IntRange(0, 2**32 - 1),
        "default": 0,
        "show_default": True,
        "help": "Seed of all that is random.",
    },
    "--device": {
        "default": "cpu",
        "show_default": True,
        "metavar": "DEVICE",
        "help": "cpu, cuda, cuda:1, mps; auto takes a GPU where there is one.",
    },
    "--batch-size": {"type": click.IntRange(1), "show_default": True, "help": "Examples at a time."},
}


def every_command(*meaningful: str, batch_size: int = 256) -> Callable[[F], F]:
    """--seed, --device, --batch-size, --json, --quiet and --version.

    Of the first three only the ``meaningful`` reach the function, which also gets ``as_json`` and ``quiet``.
    """

    def decorate(function: F) -> F:
        version = click.version_option(__version__, prog_name="nonvacuous", message="%(prog)s %(version)s")
        quiet = click.option("--quiet", "-q", is_flag=True, help="No progress and no text; errors still show.")
        as_json = click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout; text goes to stderr.")
        decorated = as_json(quiet(version(function)))
        for name, settings in reversed(_EVERYWHERE.items()):
            used = name in meaningful
            settings = {"default": batch_size, **settings}
            decorated = click.option(name, **settings, expose_value=used, hidden=not used)(decorated)
        return decorated

    return decorate


trust_model_code = click.option(
    "--trust-model-code", is_flag=True, help="Open a .pt2 model; loading one can run code that lies in the file."
)

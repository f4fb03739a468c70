"""Objects named as ``pkg.module:factory`` (the current directory counts), and files written whole or not at all."""

from __future__ import annotations

import difflib
import importlib
import os
import re
import secrets
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nonvacuous.core.errors import InvalidInput

_SPEC = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


def is_factory_spec(spec: str) -> bool:
    """Whether ``spec`` has the form ``pkg.module:factory``."""
    return bool(_SPEC.fullmatch(spec))


@contextmanager
def _current_directory_first() -> Iterator[None]:
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


def imported(spec: str) -> Any:
    """The object ``pkg.module:name``.

    :raises InvalidInput: no such module or name, or an error while the module runs; the message says which.
    """
    module_name, _, attribute = spec.partition(":")
    with _current_directory_first():
        importlib.invalidate_caches()
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name and (module_name == error.name or module_name.startswith(f"{error.name}.")):
                raise InvalidInput(
                    f"{spec}: there is no module {error.name!r}, neither installed nor in the current directory"
                    f" ({os.getcwd()}). Change to the directory that holds {error.name}.py, or install its package"
                ) from error
            raise InvalidInput(f"{spec}: {module_name} imports {error.name!r}, which is not installed. Install it") from error
        except (Exception, SystemExit) as error:
            raise InvalidInput(
                f"{spec}: importing {module_name} failed with {type(error).__name__}: {error}. Fix that module"
            ) from error
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            names = [name for name in dir(found) if not name.startswith("_")]
            close = difflib.get_close_matches(part, names, 1)
            hint = f"Did you mean {close[0]!r}?" if close else f"It has: {', '.join(names[:12]) or 'nothing public'}"
            raise InvalidInput(f"{spec}: {module_name} has no {part!r}. {hint}")
        found = getattr(found, part)
    return found


def called(factory: Callable[..., Any], spec: str, **arguments: Any) -> Any:
    """What ``factory`` returns.

    :raises InvalidInput: it is not callable, or it raises.
    """
    if not callable(factory):
        raise InvalidInput(f"{spec} is a {type(factory).__name__}, which cannot be called. Name a function or a class")
    with _current_directory_first():
        try:
            return factory(**arguments)
        except InvalidInput:
            raise
        except (Exception, SystemExit) as error:
            given = ", ".join(f"{k}={v!r}" for k, v in arguments.items())
            raise InvalidInput(
                f"{spec}({given}) failed with {type(error).__name__}: {error}. It is called with just these arguments"
            ) from error


@contextmanager
def replacement(path: Path) -> Iterator[Path]:
    """A new file beside ``path`` that takes its place when the block ends well and vanishes otherwise.

    :raises InvalidInput: the folder does not exist or cannot be written to.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.partial")
    try:  # everything from the file's first moment: an interrupt leaves none behind
        try:
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        except OSError as error:
            raise InvalidInput(
                f"{path} cannot be written: {error.strerror or error}. Choose a folder that exists and is writable"
            ) from error
        yield temporary
        temporary.chmod(0o666 & ~_umask())
        os.replace(temporary, path)
    except OSError as error:
        raise InvalidInput(
            f"{path} cannot be written: {error.strerror or error}. Free some space or choose another place"
        ) from error
    finally:
        with suppress(OSError):  # it never came to be, or has taken its place
            temporary.unlink()


def write_text(path: Path, text: str) -> None:
    """The file ``path`` with this text in UTF-8, whole or not at all; raises as :func:`replacement`."""
    with replacement(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

"""What a network knows besides its parameters and buffers.

Bounds on the training sample pay for every number that training may have set, and count those in parameters and buffers. A table
kept in a plain attribute, a closure or a global variable would be free: a network that looks its training set up there has
training error 0, no parameters worth naming, and a risk as bad as it gets.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Mapping, Set
from functools import partial
from math import inf
from typing import Any

import numpy as np
from torch import Tensor, nn

from nonvacuous.core.errors import UnsupportedModule

MOST_CONSTANTS = 32
"""Plain constants an attribute may hold (sizes, names, options) before they count as knowledge."""

LONGEST_NUMBER = 64  # bits
LONGEST_TEXT = 128

_OWN = frozenset(vars(nn.Module()))
_DERIVED = ("_orig", "_g")  # a tensor that torch's pruning, spectral or weight norm makes anew from the parameter of this name


def check_registered(module: nn.Module) -> None:
    """Raise :class:`UnsupportedModule` if a tensor, an array, or many numbers lie where no parameter or buffer is.

    Looks at attributes (of modules and of their classes), and at the closures and global variables of their methods and hooks. It
    catches a table kept by habit, not one hidden on purpose (in a file, or in many small pieces): that the program was fixed before
    the data remains a hypothesis.
    """
    registered = {id(m) for m in module.modules()}
    known = registered | {id(t) for m in module.modules() for t in (*m._parameters.values(), *m._buffers.values())}
    for path, part in module.named_modules():
        for name, value in _held(part):
            if constants(value, set(known)) > MOST_CONSTANTS:
                where = f"{path}.{name}" if path else name
                raise UnsupportedModule(
                    f"{where} ({type(value).__name__}) holds numbers that are neither parameters nor buffers: training may have set them, "
                    "and a bound on the training sample would not pay for them. Register them (self.register_buffer), or use the held-out "
                    "certificates only"
                )


def _held(part: nn.Module) -> Iterator[tuple[str, Any]]:
    """Names and values of what one module and its class hold, torch's own bookkeeping left out."""
    for name, value in vars(part).items():
        derived = isinstance(value, Tensor) and any(name + end in part._parameters for end in _DERIVED)
        if name not in _OWN and not derived:
            yield name, value
    for hook in (*part._forward_pre_hooks.values(), *part._forward_hooks.values()):
        yield "a forward hook", _Captured(hook) if isinstance(hook, types.FunctionType) else hook
    for kind in type(part).__mro__:
        if kind.__module__.partition(".")[0] in ("torch", "builtins"):
            continue
        for name, value in vars(kind).items():
            plain = value.__func__ if isinstance(value, classmethod | staticmethod) else value
            if isinstance(plain, types.FunctionType):
                yield name, _Captured(plain)
            elif not name.startswith("__"):
                yield name, value


class _Captured:
    """The closure, defaults and global variables of one function."""

    def __init__(self, function: types.FunctionType) -> None:
        self.cells = [cell.cell_contents for cell in function.__closure__ or () if _filled(cell)]
        self.defaults = [*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()]
        space = function.__globals__
        self.globals = [space[name] for name in function.__code__.co_names if name in space]


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not Ellipsis
    except ValueError:
        return False


def constants(value: Any, seen: set[int], depth: int = 8) -> float:
    """Number of constants in one attribute; infinite if it holds an array, a tensor, or a number or text too long for a setting.

    ``seen`` has the identities of what is counted already, or need not be. Of an object, the fullest of its attributes counts.
    """
    if value is None or isinstance(value, bool | float | complex | type | types.ModuleType) or id(value) in seen:
        return 1.0 if isinstance(value, float | complex) else 0.0
    if isinstance(value, int):
        return 1.0 if value.bit_length() <= LONGEST_NUMBER else inf
    seen.add(id(value))
    if isinstance(value, Tensor | np.ndarray):
        return inf if np.prod(value.shape) else 0.0
    if isinstance(value, str | bytes | bytearray):
        return 1.0 if len(value) <= LONGEST_TEXT else inf
    if depth == 0:
        return 0.0
    counts = (constants(part, seen, depth - 1) for part in _parts(value))
    if not isinstance(value, Mapping | list | tuple | Set):
        return max(counts, default=0.0)
    total = 0.0
    for count in counts:
        total += count
        if total > MOST_CONSTANTS:
            return inf
    return total


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    if isinstance(value, list | tuple | Set):
        return list(value)
    if isinstance(value, _Captured):
        return [*value.cells, *value.defaults, *value.globals]
    if isinstance(value, partial):
        return [value.func, *value.args, *value.keywords.values()]
    if isinstance(value, types.FunctionType):
        if value.__module__ and value.__module__.partition(".")[0] in ("torch", "numpy", "math"):
            return []
        captured = _Captured(value)
        return [*captured.cells, *captured.defaults]
    if isinstance(value, types.MethodType):
        return [value.__self__, value.__func__]
    if isinstance(value, nn.Module):  # one that the network does not list among its own
        return [*value.parameters(), *value.buffers()]
    return list(getattr(value, "__dict__", {}).values())

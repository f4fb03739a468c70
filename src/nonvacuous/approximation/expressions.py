"""Functions as users type them: parsed against a short list of what is allowed, never evaluated as code."""

from __future__ import annotations

import ast
import difflib
import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from nonvacuous.core.errors import InvalidInput

MOST_CHARACTERS, MOST_PARTS, MOST_DEPTH, MOST_POWER = 1000, 300, 60, 64
MOST_VARIABLES = 3

CONSTANTS = {"pi": math.pi, "e": math.e}
FUNCTIONS = ("abs", "cos", "exp", "log", "max", "min", "sin", "sqrt", "tan", "tanh")
VARIABLES = ("x", *(f"x{i + 1}" for i in range(MOST_VARIABLES)))
ALLOWED = f"numbers, x (or x1, x2, x3), + - * / **, parentheses, pi, e, and {', '.join(FUNCTIONS)}"
_HINTS = {
    ast.BitXor: "a power is written **",
    ast.FloorDiv: "a quotient is written /",
    ast.Mod: "remainders jump",
    ast.MatMult: "a product is written *",
}

Value = Any  # float, Tensor, or an enclosure of many values
Part = Callable[[list[Value]], Value]


@dataclass(frozen=True)
class Expression:
    """A function of ``dimension`` variables, called with ``[n]`` (one variable) or ``[n, d]``; made by :func:`parse`.

    Takes tensors, and the enclosures by which :mod:`nonvacuous.approximation.bumps` proves Lipschitz constants.
    """

    text: str
    dimension: int
    part: Part

    def __call__(self, x: Any) -> Any:
        if isinstance(x, Tensor) and x.dim() not in (1, 2):
            raise InvalidInput(f"points are [n] or [n, {self.dimension}]; got {tuple(x.shape)}")
        variables = [x] if self.dimension == 1 and not _has_columns(x) else [x[:, i] for i in range(self.dimension)]
        value = self.part(variables)
        if isinstance(value, float):
            return variables[0] * 0.0 + value
        return value


def _has_columns(x: Any) -> bool:
    return isinstance(x, Tensor) and x.dim() == 2


def parse(text: str, dimension: int | None = None) -> Expression:
    """The function that ``text`` says; nothing else can be said.

    Allowed: decimal numbers, ``x`` (or ``x1``, ``x2``, ``x3``; ``x`` is ``x1``), ``+ - * / **``, parentheses, ``pi``, ``e``,
    and `FUNCTIONS` (``min`` and ``max`` of two or more).  The text is taken apart by Python's parser, and rebuilt from
    these parts only.  At most 1000 characters, 300 parts, 60 levels; constant exponents up to 64.

    Args:
        text: the expression.
        dimension: number of variables; the highest one named if absent.

    Raises:
        InvalidInput: anything else, with the column, counted from 1.

    >>> f = parse("max(x, 0) - 2*x**2")
    >>> f(torch.tensor([-1.0, 0.5]))
    tensor([-2., 0.])
    >>> parse("sin(pi*x1) * x3").dimension
    3
    """
    if len(text) > MOST_CHARACTERS:
        raise InvalidInput(f"the expression has {len(text):,} characters; at most {MOST_CHARACTERS:,} are read")
    if not text.strip():
        raise InvalidInput(f"the expression is empty. It may hold {ALLOWED}")
    reader = _Reader(text)
    part = reader.read()
    named = max(reader.named, default=1)
    if dimension is not None and named > dimension:
        raise InvalidInput(f"the expression {text.strip()!r} names x{named}, but the domain has {dimension} dimension(s)")
    return Expression(text.strip(), dimension or named, part)


def constant(text: str) -> float:
    """The number that an expression without variables says, such as ``2*pi``; finite."""
    expression = parse(text)
    if "x" in _names(text):
        raise InvalidInput(f"{text.strip()!r} must be a number; it holds a variable")
    value = expression.part([])
    if not (isinstance(value, float) and math.isfinite(value)):
        raise InvalidInput(f"{text.strip()!r} is {value}; a finite number is needed")
    return value


def _names(text: str) -> set[str]:
    tree = ast.parse(text.strip(), mode="eval")
    return {node.id[:1] for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id in VARIABLES}


class _Reader:
    """Walks the syntax tree and keeps where it is, for messages."""

    def __init__(self, text: str) -> None:
        self.text, self.shift = text.strip(), len(text) - len(text.lstrip())
        self.named: set[int] = set()

    def wrong(self, node: Any, says: str) -> InvalidInput:
        prefix = self.text.encode()[: getattr(node, "col_offset", 0)].decode(errors="ignore")
        return self.at(len(prefix), says)

    def at(self, column: int, says: str) -> InvalidInput:
        near = self.text[column : column + 20]
        return InvalidInput(f"expression, column {self.shift + column + 1}, at {near!r}: {says}. Allowed: {ALLOWED}")

    def read(self) -> Part:
        for column, character in enumerate(self.text):
            if not (character.isascii() and character.isprintable()):
                raise self.at(column, f"the character {character!r} has no meaning here")
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", SyntaxWarning)
                tree = ast.parse(self.text, mode="eval")
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            offset = getattr(error, "offset", None) or 0
            column = offset - 1 if offset > 0 else len(self.text)
            says = str(getattr(error, "msg", None) or "too deep")
            raise self.at(min(column, len(self.text)), f"cannot be read ({says}); a product is written 2*x") from None
        if sum(1 for _ in ast.walk(tree)) > 4 * MOST_PARTS:
            raise InvalidInput(f"the expression has more than {MOST_PARTS} parts")
        return self.part(tree.body, 0)

    def part(self, node: ast.expr, depth: int) -> Part:
        if depth > MOST_DEPTH:
            raise self.wrong(node, f"more than {MOST_DEPTH} levels deep")
        below = depth + 1
        match node:
            case ast.Constant(value=value):
                return self.number(node, value)
            case ast.Name(id=name):
                return self.name(node, name)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                inside = self.part(operand, below)
                return lambda x: -inside(x)
            case ast.UnaryOp(op=ast.UAdd(), operand=operand):
                return self.part(operand, below)
            case ast.BinOp(left=left, op=op, right=right):
                if type(op) not in _OPERATIONS:
                    raise self.wrong(node, f"this operation is unknown; {_HINTS.get(type(op), 'see below')}")
                one, two, operation = self.part(left, below), self.part(right, below), _OPERATIONS[type(op)]
                return self.guarded(node, lambda x: operation(one(x), two(x)))
            case ast.Call(func=ast.Name(id=name), args=args, keywords=[]):
                return self.call(node, name, args, below)
        raise self.wrong(node, f"{type(node).__name__} is not part of an expression")

    def guarded(self, node: ast.expr, compute: Part) -> Part:
        """Arithmetic of constants that overflows or divides by zero is the expression's fault."""

        def run(x: list[Value]) -> Value:
            try:
                return compute(x)
            except (ZeroDivisionError, OverflowError, _Refused) as error:
                raise self.wrong(node, f"this has no value ({error})") from None

        return run

    def number(self, node: ast.Constant, value: Any) -> Part:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.wrong(node, f"{value!r} is not a real number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        if not math.isfinite(number):
            raise self.wrong(node, "the number is beyond float64")
        return lambda x: number

    def name(self, node: ast.Name, name: str) -> Part:
        if name in CONSTANTS:
            number = CONSTANTS[name]
            return lambda x: number
        if name in VARIABLES:
            index = int(name[1:] or 1) - 1
            self.named.add(index + 1)
            return lambda x: x[index]
        if name in FUNCTIONS:
            raise self.wrong(node, f"{name} is a function: {name}(…)")
        close = difflib.get_close_matches(name, [*VARIABLES, *CONSTANTS, *FUNCTIONS], 1)
        raise self.wrong(node, f"{name!r} is unknown" + (f"; did you mean {close[0]}?" if close else ""))

    def call(self, node: ast.Call, name: str, args: list[ast.expr], depth: int) -> Part:
        if name not in FUNCTIONS:
            close = difflib.get_close_matches(name, FUNCTIONS, 1)
            raise self.wrong(node, f"the function {name!r} is unknown" + (f"; did you mean {close[0]}?" if close else ""))
        many = name in ("min", "max")
        if (len(args) < 2) if many else (len(args) != 1):
            raise self.wrong(node, f"{name} takes {'two or more arguments' if many else 'one argument'}, not {len(args)}")
        parts = [self.part(arg, depth) for arg in args]
        if many:
            return lambda x: _extreme(name, [part(x) for part in parts])
        return self.guarded(node, lambda x: _apply(name, parts[0](x)))


class _Refused(ValueError):
    """A value outside a function's domain, or a power out of reach."""


def _apply(name: str, value: Value) -> Value:
    if isinstance(value, float):
        if (name == "log" and value <= 0) or (name == "sqrt" and value < 0):
            raise _Refused(f"{name}({value:g})")
        return abs(value) if name == "abs" else float(getattr(math, name)(value))
    if name == "tan" and not isinstance(value, Tensor):
        return torch.sin(value) / torch.cos(value)
    return getattr(torch, name)(value)


def _power(base: Value, exponent: Value) -> Value:
    if isinstance(exponent, float):
        if abs(exponent) > MOST_POWER and not isinstance(base, float):
            raise _Refused(f"exponents go up to {MOST_POWER}")
        if isinstance(base, float):
            value = base**exponent
            if isinstance(value, complex):
                raise _Refused(f"{base:g} ** {exponent:g} is not real")
            return value
        if isinstance(base, Tensor):
            return base**exponent
        if exponent == 0:
            return 1.0
        if exponent == int(exponent):
            return base ** int(exponent) if exponent > 0 else 1.0 / base ** int(-exponent)
        if exponent == 0.5:
            return torch.sqrt(base)
        return torch.exp(torch.log(base) * exponent)
    if isinstance(base, float):
        if base <= 0:
            raise _Refused(f"a variable power of {base:g}")
        return torch.exp(exponent * math.log(base))
    return base**exponent if isinstance(base, Tensor) else torch.exp(torch.log(base) * exponent)


def _extreme(name: str, values: list[Value]) -> Value:
    result = values[0]
    for value in values[1:]:
        if isinstance(result, float) and isinstance(value, float):
            result = max(result, value) if name == "max" else min(result, value)
        elif isinstance(result, float | Tensor) and isinstance(value, float | Tensor):
            zero = torch.zeros_like(result if isinstance(result, Tensor) else torch.as_tensor(value))
            result = (
                torch.maximum(zero + result, zero + value) if name == "max" else torch.minimum(zero + result, zero + value)
            )
        else:  # enclosures: max(a, b) = (a + b + |a − b|)/2
            gap = abs(result - value)
            result = (result + value + (gap if name == "max" else -gap)) * 0.5
    return result


_OPERATIONS: dict[type, Callable[[Value, Value], Value]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.Pow: _power,
}

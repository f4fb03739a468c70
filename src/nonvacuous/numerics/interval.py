"""Interval arithmetic at a fixed 120 bits, rounded outward: the arithmetic every certificate is checked in.

``iv`` is a private mpmath interval context (not the global ``mpmath.iv``).  ``+ - * /`` and integer powers are mpmath's:
exact integer operations, each followed by a directed rounding; ``log``, ``exp`` and ``sqrt`` are
:mod:`nonvacuous.numerics.elementary`, whose error is counted.  The precision cannot be changed and no call mutates anything,
so ``iv`` may be used from any number of threads.  Comparisons are *certain*: ``x < y`` is True only if it holds for every
point of both intervals, so ``not (x < y)`` does not mean ``x >= y``.

>>> x = iv.log(iv.mpf(1) / 3)
>>> lower(x), upper(x)
(-1.0986122886681098, -1.0986122886681096)
>>> x < -1, x < -1.0986122886681098
(True, False)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Rational, Real
from typing import Any, Protocol, TypeAlias, TypeGuard

from mpmath import libmp
from mpmath.ctx_iv import MPIntervalContext

from nonvacuous.core.errors import InvalidEvidence
from nonvacuous.numerics import elementary

PRECISION = 120
"""Bits of every endpoint."""


class Interval(Protocol):
    """A closed interval ``[a, b]`` of extended reals; ``a`` and ``b`` are themselves (degenerate) intervals."""

    @property
    def a(self) -> Interval: ...
    @property
    def b(self) -> Interval: ...
    def __add__(self, other: Number, /) -> Interval: ...
    def __radd__(self, other: Number, /) -> Interval: ...
    def __sub__(self, other: Number, /) -> Interval: ...
    def __rsub__(self, other: Number, /) -> Interval: ...
    def __mul__(self, other: Number, /) -> Interval: ...
    def __rmul__(self, other: Number, /) -> Interval: ...
    def __truediv__(self, other: Number, /) -> Interval: ...
    def __rtruediv__(self, other: Number, /) -> Interval: ...
    def __pow__(self, exponent: Number, /) -> Interval: ...
    def __neg__(self) -> Interval: ...
    def __abs__(self) -> Interval: ...
    def __lt__(self, other: Number, /) -> bool: ...
    def __le__(self, other: Number, /) -> bool: ...
    def __gt__(self, other: Number, /) -> bool: ...
    def __ge__(self, other: Number, /) -> bool: ...


Number: TypeAlias = Interval | float | int
"""What a function of this package takes where a real number is meant; floats and ints stand for themselves exactly."""


class OutwardContext(MPIntervalContext):  # type: ignore[misc]
    """mpmath's interval context with a frozen precision and elementary functions whose error is proved."""

    one: Interval
    zero: Interval
    inf: Interval
    ninf: Interval
    pi: Interval
    ln2: Interval

    def __init__(self) -> None:
        super().__init__()
        operators = self.mpf
        for name in ("__lt__", "__le__", "__gt__", "__ge__"):
            setattr(operators, name, _certain(getattr(operators, name)))
        operators.__pow__ = _power
        operators.__rpow__ = lambda exponent, base: _power(self.convert(base), exponent)

    def _set_prec(self, n: int) -> None:
        """Called once by mpmath's constructor; ``prec`` itself is read-only."""
        self._prec[0] = PRECISION

    @property
    def prec(self) -> int:
        """Always 120."""
        return PRECISION

    @property
    def dps(self) -> int:
        """Decimal digits that 120 bits hold."""
        return int(libmp.prec_to_dps(PRECISION))

    def _init_builtins(self) -> None:
        self.one, self.zero = self.mpf(1), self.mpf(0)
        self.inf = self.make_mpf((libmp.finf, libmp.finf))
        self.ninf = self.make_mpf((libmp.fninf, libmp.fninf))
        self.pi, self.ln2 = self._enclose(elementary.pi()), self._enclose(elementary.ln2())

    def _enclose(self, bracket: elementary.Bracket) -> Interval:
        low, high, exponent = bracket
        a = libmp.from_man_exp(low, exponent, PRECISION, libmp.round_floor)
        unbounded = high == elementary.UNBOUNDED
        b = libmp.finf if unbounded else libmp.from_man_exp(high, exponent, PRECISION, libmp.round_ceiling)
        result: Interval = self.make_mpf((a, b))
        return result

    def convert(self, x: Any) -> Any:
        """Exactly, where 120 bits allow; NaN and anything that is not a number are refused.

        Takes intervals, int, float, Fraction, NumPy scalars, decimal strings, and pairs ``(low, high)``.
        """
        if isinstance(x, self._types):
            return x
        if isinstance(x, float):
            if math.isnan(x):
                raise InvalidEvidence("NaN is not a number a bound can use; find the computation that produced it")
            raw = libmp.from_float(float(x))
            return self.make_mpf((raw, raw))
        if isinstance(x, Rational) and not isinstance(x, int):
            return super().convert(int(x.numerator)) / int(x.denominator)
        if isinstance(x, Real) and not isinstance(x, int):
            if float(x) != x:
                raise InvalidEvidence(f"{x!r} ({type(x).__name__}) does not fit a float exactly")
            return self.convert(float(x))
        return super().convert(x)

    def _join(self, low: Any, high: Any) -> Interval:
        result: Interval = self.make_mpf((low._mpi_[0], high._mpi_[1]))
        return result

    def log(self, x: Number) -> Interval:
        """Natural logarithm; ``ln 0 = −∞``.

        Raises InvalidEvidence if the interval holds a negative number.
        """
        a, b = (x := self.convert(x))._mpi_
        if a[0]:
            raise InvalidEvidence(f"logarithm of {x}: every point must be ≥ 0")
        return self._join(self._log_point(a), self._log_point(b))

    ln = log

    def _log_point(self, raw: Any) -> Interval:
        _, mantissa, exponent, _ = raw
        if not mantissa:
            return self.inf if raw == libmp.finf else self.ninf
        return self._enclose(elementary.log(int(mantissa), exponent, PRECISION))

    def exp(self, x: Number) -> Interval:
        """The exponential; never 0 and never infinite at a finite point, whatever its size."""
        a, b = self.convert(x)._mpi_
        return self._join(self._exp_point(a), self._exp_point(b))

    def _exp_point(self, raw: Any) -> Interval:
        sign, mantissa, exponent, _ = raw
        if not mantissa and exponent:
            return self.inf if raw == libmp.finf else self.zero
        return self._enclose(elementary.exp(-int(mantissa) if sign else int(mantissa), exponent, PRECISION))

    def sqrt(self, x: Number) -> Interval:
        """Square root.

        Raises InvalidEvidence if the interval holds a negative number.
        """
        a, b = (x := self.convert(x))._mpi_
        if a[0]:
            raise InvalidEvidence(f"square root of {x}: every point must be ≥ 0")
        return self._join(self._sqrt_point(a), self._sqrt_point(b))

    def _sqrt_point(self, raw: Any) -> Interval:
        _, mantissa, exponent, _ = raw
        if not mantissa:
            return self.inf if raw == libmp.finf else self.zero
        return self._enclose(elementary.sqrt(int(mantissa), exponent, PRECISION))


def _certain(compare: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """mpmath answers None where an order is undecided; make that False."""

    def certainly(left: Any, right: Any) -> Any:
        answer = compare(left, right)
        return answer if answer is NotImplemented else answer is True

    return certainly


def _power(base: Any, exponent: Any) -> Any:
    """Integer powers by mpmath's directed multiplication, any other as exp(exponent · ln base)."""
    context = base.ctx
    if isinstance(exponent, int):
        return context.make_mpf(libmp.libmpi.mpi_pow_int(base._mpi_, exponent, PRECISION))
    return context.exp(context.log(base) * exponent)


iv = OutwardContext()
"""The context of this package."""


def enclose(x: Number) -> Interval:
    """x as an interval: exactly if 120 bits hold it.

    >>> lower(enclose(0.1)) == upper(enclose(0.1)) == 0.1
    True
    """
    result: Interval = iv.convert(x)
    return result


def is_interval(x: object) -> TypeGuard[Interval]:
    """Whether x is an interval of :data:`iv`."""
    return isinstance(x, iv.mpf)


def interval(low: Number, high: Number) -> Interval:
    """``[low, high]``: from the lower end of ``low`` to the upper end of ``high``.

    >>> upper(interval(1, 2) - interval(0, 1))
    2.0
    """
    a, b = iv.convert(low)._mpi_[0], iv.convert(high)._mpi_[1]
    if libmp.mpf_gt(a, b):
        raise InvalidEvidence(f"an interval from {low} to {high} is empty")
    result: Interval = iv.make_mpf((a, b))
    return result


def hull(*xs: Number) -> Interval:
    """The smallest interval that holds all of xs."""
    raws = [iv.convert(x)._mpi_ for x in xs]
    low, high = raws[0]
    for a, b in raws[1:]:
        low = a if libmp.mpf_lt(a, low) else low
        high = b if libmp.mpf_gt(b, high) else high
    result: Interval = iv.make_mpf((low, high))
    return result


def clip(x: Number, low: Number, high: Number) -> Interval:
    """The part of x inside ``[low, high]``; sound when the number that x brackets is known to lie there.

    >>> lower(clip(interval(-1e-40, 0.5), 0, 1))
    0.0
    """
    a, b = iv.convert(x)._mpi_
    least, most = iv.convert(low)._mpi_[0], iv.convert(high)._mpi_[1]
    if libmp.mpf_lt(b, least) or libmp.mpf_gt(a, most):
        raise InvalidEvidence(f"{x} lies outside [{low}, {high}]")
    a = least if libmp.mpf_lt(a, least) else a
    b = most if libmp.mpf_gt(b, most) else b
    result: Interval = iv.make_mpf((a, b))
    return result


def lower(x: Number) -> float:
    """The largest float that is ≤ every point of x (−∞ if there is none).

    >>> lower(iv.mpf(1) / 3) < 1 / 3 < upper(iv.mpf(1) / 3) or lower(iv.mpf(1) / 3) == 1 / 3
    True
    """
    raw = iv.convert(x)._mpi_[0]
    value: float = libmp.to_float(raw, rnd=libmp.round_nearest)
    while libmp.mpf_gt(libmp.from_float(value), raw):
        value = math.nextafter(value, -math.inf)
    return value


def upper(x: Number) -> float:
    """The smallest float that is ≥ every point of x (∞ if there is none)."""
    raw = iv.convert(x)._mpi_[1]
    value: float = libmp.to_float(raw, rnd=libmp.round_nearest)
    while libmp.mpf_lt(libmp.from_float(value), raw):
        value = math.nextafter(value, math.inf)
    return value

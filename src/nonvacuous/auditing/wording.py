"""Numbers and names as a reader sees them: certified numbers rounded up, intervals outward, confidence down."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from math import ceil, floor, isfinite, log10
from typing import Any, NamedTuple

from nonvacuous.auditing.needs import Need
from nonvacuous.core.bound import Bound, Predictor, find
from nonvacuous.core.certificate import Certificate
from nonvacuous.core.errors import InvalidInput
from nonvacuous.core.measured import Kind, Measured
from nonvacuous.core.quantities import QUANTITIES

THIN = "\u202f"
"""Narrow space that does not break, between a number and its unit."""

DUST = Decimal("1e-12")
"""Interval ends this close to a rounded number are shown as that number: outward rounding of sums, not information."""


class Look(NamedTuple):
    """How one kind of predictor is told apart in every chart and table: by a glyph, a hatching and its name."""

    name: str
    glyph: str
    pattern: str
    statement: str


LOOKS = {
    "deterministic": Look("network as given", "●", "", Predictor.DETERMINISTIC.value),
    "gibbs": Look("Gibbs (randomized)", "◆", "/", Predictor.GIBBS.value),
    "compressed": Look("compressed network", "■", "x", Predictor.COMPRESSED.value),
    "drawn": Look("one drawn network", "▲", "-", Predictor.DRAWN.value),
}

SUBJECTS = {
    "deterministic": "the network as given",
    "gibbs": "the randomized (Gibbs) classifier built around it, whose weights are drawn anew for every prediction,",
    "compressed": "the compressed network, which is what its code decodes to,",
    "drawn": "one network, drawn once from the posterior,",
}

KINDS = {
    Kind.EXACT: "exact",
    Kind.CONFIDENCE: "confidence",
    Kind.INDICATOR: "indicator",
}

KIND_MEANINGS = {
    Kind.EXACT: "true without any chance of error, given the recorded data",
    Kind.CONFIDENCE: "true except with the stated probability δ, if the assumptions hold",
    Kind.INDICATOR: "describes, promises nothing",
}


def look(predictor: str) -> Look:
    """The look of a predictor, also of one that this version does not know."""
    return LOOKS.get(predictor, Look(predictor, "○", ".", predictor))


def is_share(loss: str) -> bool:
    """Whether the risk is a share of wrong answers, to be read in per cent."""
    return loss == "zero_one"


def risk(value: float, loss: str, rounding: str = ROUND_CEILING) -> str:
    """A risk in words of its loss, per cent for 0–1 loss; by default rounded up, so that nothing certified is overstated.

    >>> risk(0.0640636, "zero_one").replace(THIN, "")
    '6.41%'
    >>> risk(0.0000123, "zero_one").replace(THIN, "")
    '0.0013%'
    >>> risk(0.99999871, "zero_one").replace(THIN, "")  # not 100%, which would promise nothing
    '99.99988%'
    """
    whole = 100 if is_share(loss) else 1
    number = Decimal(value) * whole
    shown = rounded(number, rounding)
    if number < whole <= Decimal(shown):
        digits = 1 - (whole - number).adjusted()
        shown = f"{number.quantize(Decimal(1).scaleb(-digits), rounding=rounding):f}"
    return shown + (f"{THIN}%" if is_share(loss) else "")


def certified(certificate: Certificate) -> str:
    """The certified value, rounded up; "vacuous" for 1."""
    return "vacuous" if certificate.vacuous else risk(certificate.value, certificate.loss)


def observed(value: float, loss: str) -> str:
    """A risk that was counted, rounded to the nearest."""
    number = Decimal(repr(float(value))) * (100 if is_share(loss) else 1)
    return rounded(number, ROUND_HALF_EVEN) + (f"{THIN}%" if is_share(loss) else "")


def interval(measured: Measured, loss: str) -> str:
    """An interval of risks, rounded outward; one number if it is exact."""
    unit = f"{THIN}%" if is_share(loss) else ""
    scale = 100 if is_share(loss) else 1
    if measured.lower == measured.upper:
        return observed(measured.lower, loss).replace("-", "−")
    finite = [abs(Decimal(end)) * scale for end in (measured.lower, measured.upper) if isfinite(end)]
    digits = _digits(max(finite, default=Decimal(0)))
    ends = [
        _outward(end, scale, digits, rounding)
        for end, rounding in ((measured.lower, ROUND_FLOOR), (measured.upper, ROUND_CEILING))
    ]
    return f"{ends[0]} to {ends[1]}{unit}".replace("-", "−")


def _outward(end: float, scale: int, digits: int, rounding: str) -> str:
    if not isfinite(end):
        return "∞" if end > 0 else "-∞"
    exact, step = Decimal(end) * scale, Decimal(1).scaleb(-digits)
    near = exact.quantize(step, rounding=ROUND_HALF_EVEN)
    shown = near if abs(near - exact) <= DUST * scale else exact.quantize(step, rounding=rounding)
    return "0" if shown == 0 else f"{shown:f}"


def rounded(number: Decimal, rounding: str) -> str:
    """Two decimals, or two significant digits where that is more.

    >>> rounded(Decimal("0.00123"), ROUND_CEILING), rounded(Decimal("12.341"), ROUND_CEILING)
    ('0.0013', '12.35')
    """
    if number == 0:
        return "0"
    shown = number.quantize(Decimal(1).scaleb(-_digits(number)), rounding=rounding)
    return "0" if shown == 0 else f"{shown:f}"


def _digits(number: Decimal) -> int:
    return 2 if number == 0 else min(max(2, 1 - number.adjusted()), 12)


def confidence(delta: float) -> str:
    """1 − δ in per cent, rounded down (δ as it is written in decimal).

    >>> confidence(0.05).replace(THIN, ""), confidence(0.001).replace(THIN, "")
    ('95%', '99.9%')
    """
    number = (1 - Decimal(repr(float(delta)))) * 100
    digits = min(max(0, -(100 - number).adjusted() + 1), 12)
    shown = f"{number.quantize(Decimal(1).scaleb(-digits), rounding=ROUND_FLOOR):f}"
    return (shown.rstrip("0").rstrip(".") if "." in shown else shown) + f"{THIN}%"


def odds(delta: float) -> str:
    """δ in per cent, rounded up.

    >>> odds(0.05).replace(THIN, ""), odds(0.0001).replace(THIN, "")
    ('5%', '0.01%')
    """
    number = Decimal(repr(float(delta))) * 100
    shown = rounded(number, ROUND_CEILING)
    return (shown.rstrip("0").rstrip(".") if "." in shown else shown) + f"{THIN}%"


def share(delta: float) -> str:
    """A share of δ, at most three significant digits, rounded up.

    >>> share(0.025 * (1 - 2**-40)), share(1e-7)
    ('0.025', '1.00e-7')
    """
    number = Decimal(repr(float(delta)))
    if number == 0:
        return "0"
    shown = number.quantize(Decimal(1).scaleb(number.adjusted() - 2), rounding=ROUND_CEILING)
    if number < Decimal("1e-4"):
        return f"{shown:e}"
    return f"{shown:f}".rstrip("0")


def plain(value: Any) -> str:
    """Any recorded number or setting as text; whole numbers with thousands set apart."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}".replace(",", THIN)
    if isinstance(value, float):
        return (f"{value:,.1f}" if 1e3 <= abs(value) < 1e15 else f"{value:.6g}").replace(",", THIN).replace("inf", "∞")
    if isinstance(value, list | tuple) and len(value) > 8:
        return f"{plain(len(value))} numbers"
    if isinstance(value, list | tuple):
        return ", ".join(plain(v) for v in value) or "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}: {plain(v)}" for key, v in value.items()) or "none"
    return str(value)


SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power(logarithm: float) -> str:
    """A positive number given by its decimal logarithm, three digits, rounded up; a power of ten where it is very large or small.

    >>> power(1.5), power(12.4), power(-9.0), power(float("inf")), power(float("-inf"))
    ('31.7', '2.52·10¹²', '1.00·10⁻⁹', '∞', '0')
    """
    if not isfinite(logarithm):
        return "∞" if logarithm > 0 else "0"
    whole = floor(logarithm)
    hundredths = ceil(10 ** (logarithm - whole) * 100 - 1e-9)
    if -4 <= whole < 5:
        return plain(float(f"{hundredths}e{whole - 2}"))
    whole, digits = (whole + 1, "1.00") if hundredths >= 1000 else (whole, f"{hundredths / 100:.2f}")
    return f"{digits}·10{str(whole).translate(SUPERSCRIPTS)}"


def magnitude(value: float) -> str:
    """A large number in words of its order.

    >>> magnitude(6.2e12), magnitude(367.4), magnitude(1.44)
    ('10¹²', '370', '1.4')
    """
    if value < 1e4:
        return plain(float(f"{value:.2g}"))
    return f"10{str(floor(log10(value))).translate(SUPERSCRIPTS)}"


def need(entry: Need) -> str:
    """How many times too few examples a vacuous certificate had."""
    if entry.examples is None:
        return f"not even {magnitude(2.0**53)} examples, {magnitude(entry.times)} times what there is, would do"
    about = "more than" if entry.at_least else "about"
    goal = risk(entry.value, entry.loss).replace(".00", "")
    return (
        f"needs {about} {magnitude(entry.examples)} examples to promise {goal}, {magnitude(entry.times)} times what there is"
    )


def seconds(value: float) -> str:
    """A wall time."""
    if value < 0.0005:
        return f"less than 1{THIN}ms"
    return f"{value * 1000:.0f}{THIN}ms" if value < 1 else f"{value:.1f}{THIN}s"


def short(digest: str) -> str:
    """The first twelve hexadecimal digits of a digest."""
    prefix, colon, rest = digest.rpartition(":")
    return digest if len(rest) <= 16 else f"{prefix}{colon}{rest[:12]}…"


def words(name: str) -> str:
    """A programmer's name in a reader's spelling."""
    return {"zero_one": "0–1 loss"}.get(name, name.replace("_", " "))


def theorem(certificate: Certificate) -> Bound | None:
    """The bound, or None where it is not installed."""
    try:
        return find(certificate.bound).of(dict(certificate.parameters))
    except InvalidInput:
        return None


def title(certificate: Certificate) -> str:
    """The name of the theorem in words."""
    bound = theorem(certificate)
    return certificate.bound if bound is None else bound.title


def evidence(certificate: Certificate) -> list[tuple[str, str, str]]:
    """Name, value and meaning of each number the theorem was applied to."""
    rows = []
    for name, value in certificate.evidence.items():
        entry = QUANTITIES.get(name)
        label = f"{words(name)} ({entry.symbol})" if entry and entry.symbol != name else words(name)
        rows.append((label, plain(value), "" if entry is None else entry.description))
    return rows


def file_names(certificates: Sequence[Certificate]) -> list[str]:
    """A file name without ending for each certificate: its bound and, where that repeats, predictor, loss, and a number."""
    names = [_safe(c.bound) for c in certificates]
    for detail in ("predictor", "loss"):
        repeated = {name for name in names if names.count(name) > 1}
        names = [
            f"{name}-{_safe(getattr(c, detail))}"
            if name in repeated and len(_values(certificates, names, name, detail)) > 1
            else name
            for name, c in zip(names, certificates, strict=True)
        ]
    seen: dict[str, int] = {}
    for place, name in enumerate(names):
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            names[place] = f"{name}-{seen[name]}"
            seen[names[place]] = 1
    return names


def _values(certificates: Sequence[Certificate], names: list[str], name: str, detail: str) -> set[str]:
    return {getattr(c, detail) for n, c in zip(names, certificates, strict=True) if n == name}


def _safe(name: str) -> str:
    return re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-")[:60] or "certificate"

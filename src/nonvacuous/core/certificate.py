"""Certificates and indicators: the two kinds of result, which never mix.

A certificate is a frozen record whose constructor re-checks its arithmetic: one that claims more than its bound gives cannot
exist. Its JSON form carries a digest that catches accidents; a digest is not a signature.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from math import fsum, inf, isfinite, nextafter
from pathlib import Path
from types import MappingProxyType
from typing import Any

from nonvacuous._version import __version__
from nonvacuous.core.bound import Bound, LossRange, find
from nonvacuous.core.errors import CertificateRefused, InvalidInput
from nonvacuous.core.ledger import check_delta
from nonvacuous.core.quantities import is_number

SCHEMA = 1
LARGEST_FILE = 256 * 2**20  # bytes; ten million losses fit


@dataclass(frozen=True)
class Assumption:
    """A hypothesis as one certificate rests on it: ``checked`` against recorded facts, or to be argued by a person."""

    name: str
    statement: str
    checked: bool
    note: str = ""

    def __post_init__(self) -> None:
        if not all(isinstance(text, str) for text in (self.name, self.statement, self.note)) or not isinstance(
            self.checked, bool
        ):
            raise CertificateRefused(
                "not a certificate: a hypothesis has a name, a statement and a note in words, and checked or not"
            )


@dataclass(frozen=True)
class Certificate:
    """With probability at least 1 − ``delta``, the risk of ``predictor`` is at most ``value``.

    Attributes:
        bound, parameters: name of the theorem and its constants.
        evidence: the numbers the theorem was applied to.
        delta: total failure probability; ``measurement_delta`` of it paid for measuring the evidence (Monte-Carlo draws),
            the rest for the theorem.
        value: the certified risk, in [0, 1]; 1 is vacuous.
        loss: name of the loss, with values in [0, 1].
        predictor: whose risk it is, a name of :class:`~nonvacuous.core.bound.Predictor` in lower case.
        hypotheses: what it rests on.
        digests: SHA-256 of the weights, the samples and the split it speaks of.
        measurement: how the evidence was measured (seeds, draws, batch size), enough to measure it again.
        ledger: the shares of the audit it belongs to, all of which hold at once.
        seed, version: of the run and of this library.

    Raises :class:`~nonvacuous.core.errors.CertificateRefused` if the arithmetic does not give ``value``.
    """

    bound: str
    parameters: Mapping[str, Any]
    evidence: Mapping[str, Any]
    delta: float
    value: float
    loss: str
    predictor: str
    hypotheses: tuple[Assumption, ...]
    digests: Mapping[str, str] = field(default_factory=dict)
    measurement: Mapping[str, Any] = field(default_factory=dict)
    measurement_delta: float = 0.0
    ledger: Mapping[str, float] = field(default_factory=dict)
    seed: int | None = None
    version: str = __version__

    def __post_init__(self) -> None:
        self._check_types()
        try:
            check_delta(self.delta)
            bound = self.theorem()
            evidence = self.theorem_evidence()
            bound.check(evidence, self.theorem_delta())
        except InvalidInput as error:
            raise CertificateRefused(f"arithmetic: {error}") from error
        if not is_number(self.value):
            raise CertificateRefused(f"arithmetic: value must be a number in [0, 1]; got {self.value!r:.60}")
        allowed = [predictor.name.lower() for predictor in bound.predictors]
        if self.predictor not in allowed:
            raise CertificateRefused(
                f"{bound.title} speaks of {' or '.join(allowed)} predictors, not of {self.predictor!r:.60}"
            )
        if bound.loss is LossRange.ZERO_ONE and self.loss != "zero_one":
            raise CertificateRefused(f"{bound.title} covers the 0–1 loss (zero_one) only, not {self.loss!r:.60}")
        if not bound.holds(evidence, self.theorem_delta(), self.value):
            raise CertificateRefused(
                f"arithmetic: {bound.title} does not give risk ≤ {self.value!r} from this evidence at δ = {self.delta:g}"
            )
        required = {hypothesis.name for hypothesis in bound.hypotheses}
        if missing := required - {assumption.name for assumption in self.hypotheses}:
            raise CertificateRefused(
                f"{bound.title} rests on hypotheses the certificate does not list: {', '.join(sorted(missing))}"
            )
        object.__setattr__(self, "evidence", _frozen(evidence._asdict()))
        for name in ("parameters", "digests", "measurement", "ledger"):
            object.__setattr__(self, name, _frozen(getattr(self, name)))

    def _check_types(self) -> None:
        """Refuse what is not of its field's type: a reader, a report and level two rely on it."""
        for name in ("bound", "loss", "predictor", "version"):
            if not isinstance(getattr(self, name), str):
                raise CertificateRefused(f"not a certificate: {name} must be a word; got {getattr(self, name)!r:.60}")
        for name in ("parameters", "evidence", "digests", "measurement", "ledger"):
            if not isinstance(getattr(self, name), Mapping) or not all(isinstance(key, str) for key in getattr(self, name)):
                raise CertificateRefused(f"not a certificate: {name} must be an object with named entries")
        if self.seed is not None and (isinstance(self.seed, bool) or not isinstance(self.seed, int)):
            raise CertificateRefused(f"not a certificate: seed must be a whole number or absent; got {self.seed!r:.60}")
        if not all(isinstance(digest, str) for digest in self.digests.values()):
            raise CertificateRefused("not a certificate: digests must be texts")
        object.__setattr__(self, "hypotheses", tuple(self.hypotheses))
        if not all(isinstance(assumption, Assumption) for assumption in self.hypotheses):
            raise CertificateRefused("not a certificate: hypotheses are malformed")
        shares = tuple(self.ledger.values())
        if not all(is_number(share) and 0 < share < 1 for share in shares) or fsum(shares) >= 1:
            raise CertificateRefused("ledger: the shares are probabilities that add up to less than 1")
        if self.ledger.get(self.bound, self.delta) != self.delta:
            raise CertificateRefused(
                f"ledger: it books {self.ledger[self.bound]!r:.60} for {self.bound}, not δ = {self.delta!r:.60}"
            )

    def __hash__(self) -> int:
        return hash(self.digest)

    def __reduce__(self) -> tuple[Any, ...]:
        return Certificate.from_json, (self.to_json(),)

    def theorem(self) -> Bound:
        """The bound with this certificate's parameters."""
        return find(self.bound).of(dict(self.parameters))

    def theorem_evidence(self) -> Any:
        """The evidence as the bound's own NamedTuple."""
        names = find(self.bound).Evidence._fields
        if set(self.evidence) != set(names):
            raise InvalidInput(
                f"{self.bound} takes the evidence {', '.join(names)}; the certificate has {sorted(self.evidence)}"
            )
        return find(self.bound).Evidence(**{name: _plain(self.evidence[name]) for name in names})

    def theorem_delta(self) -> float:
        """What is left of ``delta`` for the theorem once measuring is paid, rounded down."""
        if not is_number(self.measurement_delta) or not 0 <= self.measurement_delta < self.delta:
            raise InvalidInput(f"measurement_delta lies in [0, delta); got {self.measurement_delta!r:.60}")
        return self.delta if self.measurement_delta == 0 else nextafter(self.delta - self.measurement_delta, -inf)

    @property
    def vacuous(self) -> bool:
        """Whether it promises nothing."""
        return self.value >= 1.0

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON form: catches accidents, proves no authorship."""
        return "sha256:" + hashlib.sha256(_canonical(self._content()).encode()).hexdigest()

    def _content(self) -> dict[str, Any]:
        content: dict[str, Any] = {"schema": SCHEMA}
        for f in fields(self):
            content[f.name] = _jsonable(getattr(self, f.name))
        content["hypotheses"] = [vars(assumption) for assumption in self.hypotheses]
        return content

    def to_json(self) -> str:
        """The certificate as the text of a JSON file."""
        return json.dumps({**self._content(), "digest": self.digest}, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Certificate:
        """Read a certificate; raises :class:`CertificateRefused` saying whether file, schema, digest or arithmetic is at fault."""
        content = _parsed(text)
        schema = content.pop("schema", None)
        if not isinstance(schema, int) or isinstance(schema, bool) or schema < 1:
            raise CertificateRefused("not a certificate: it has no schema number")
        if schema > SCHEMA:
            raise CertificateRefused(
                f"schema: the certificate has schema {schema}, this library reads up to {SCHEMA}; install a newer nonvacuous to verify it"
            )
        stated = content.pop("digest", None)
        try:
            actual = "sha256:" + hashlib.sha256(_canonical({"schema": schema, **content}).encode()).hexdigest()
        except (ValueError, RecursionError) as error:  # a number beyond the floats, half a surrogate pair, bottomless nesting
            raise CertificateRefused(f"not a certificate: it holds something that no certificate holds ({error})") from None
        if stated != actual:
            raise CertificateRefused(
                f"digest: the content is not what was issued (stated {str(stated)[:23]}…, content has {actual[:23]}…); "
                "the file was altered or damaged, get the original"
            )
        names = {f.name for f in fields(cls)}
        if set(content) != names:
            missing, extra = sorted(names - set(content)), sorted(set(content) - names)
            raise CertificateRefused(f"not a certificate: missing {missing or 'nothing'}, unknown {extra or 'nothing'}")
        try:
            content["hypotheses"] = tuple(Assumption(**entry) for entry in content["hypotheses"])
        except TypeError as error:
            raise CertificateRefused(f"not a certificate: hypotheses are malformed ({error})") from None
        try:
            return cls(**content)
        except RecursionError:
            raise CertificateRefused("not a certificate: it is nested too deeply") from None

    def save(self, path: str | Path) -> Path:
        """Write the JSON file, whole or not at all."""
        path = Path(path)
        temporary = path.with_name(path.name + ".tmp")
        temporary.write_text(self.to_json(), encoding="utf-8")
        temporary.replace(path)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Certificate:
        """Read the JSON file; raises :class:`CertificateRefused` for anything that is not a true certificate."""
        path = Path(path)
        try:
            if path.stat().st_size > LARGEST_FILE:
                raise CertificateRefused(f"{path.name} is larger than {LARGEST_FILE // 2**20} MiB: not a certificate")
            return cls.from_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:  # ValueError: not UTF-8, or a path no file can have
            raise CertificateRefused(f"cannot read {path}: {error}") from error


@dataclass(frozen=True)
class Indicator:
    """A number that describes but promises nothing; ``reason`` says why it is no certificate.

    Attributes: ``name``, ``lower``, ``upper``, ``unit``, ``reason``, ``predictor``.
    """

    name: str
    lower: float
    upper: float
    reason: str
    unit: str = ""
    predictor: str = "deterministic"


def _plain(value: Any) -> Any:
    """JSON's picture of a number, or of a sequence of numbers, back to it."""
    if isinstance(value, list | tuple):
        return tuple(_plain(v) if isinstance(v, str) else v for v in value)
    return float(value) if isinstance(value, str) and value in ("inf", "-inf") else value


def _frozen(value: Any) -> Any:
    """The same content, which nobody can change."""
    if isinstance(value, Mapping):
        return MappingProxyType({key: _frozen(v) for key, v in value.items()})
    return tuple(_frozen(v) for v in value) if isinstance(value, list | tuple) else value


def _jsonable(value: Any) -> Any:
    if isinstance(value, float) and not isfinite(value):
        if value != value:
            raise CertificateRefused("a certificate holds a number that is NaN")
        return "inf" if value > 0 else "-inf"
    if isinstance(value, Mapping):
        return {str(key): _jsonable(v) for key, v in value.items()}
    if isinstance(value, tuple | list):
        return [_jsonable(v) for v in value]
    return value


def _canonical(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=vars)


def _parsed(text: str) -> dict[str, Any]:
    def no_constant(name: str) -> None:
        raise CertificateRefused(f"not a certificate: it holds the number {name}")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) != len(pairs):
            raise CertificateRefused("not a certificate: a key appears twice")
        return content

    try:
        content = json.loads(text, parse_constant=no_constant, object_pairs_hook=unique)
    except (ValueError, RecursionError) as error:
        if isinstance(error, CertificateRefused):
            raise
        raise CertificateRefused(f"not a certificate: the file is not JSON ({error}); it may be truncated") from None
    if not isinstance(content, dict):
        raise CertificateRefused("not a certificate: the file holds no JSON object")
    return content

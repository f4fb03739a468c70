"""What ``certify`` hands back, as one page that works without a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nonvacuous._version import __version__
from nonvacuous.auditing import assurance, wording
from nonvacuous.auditing.pages import environment
from nonvacuous.learning.files import save
from nonvacuous.learning.method import Certified
from nonvacuous.runtime.factories import write_text


@dataclass(frozen=True)
class Row:
    """One certified model in words; ``width`` its value as a share of the chart's axis; ``role`` reported, beside or comparator."""

    role: str
    method: str
    predictor: str
    value: str
    n: str
    delta: str
    width: float


def rows(result: Certified) -> list[Row]:
    """The reported model, those beside it, and the comparator."""
    listed = [("reported", result), *(("beside", other) for other in result.others)]
    if result.comparator is not None:
        listed.append(("comparator", result.comparator))
    top = max(one.certificate.value for _, one in listed) or 1.0
    return [
        Row(
            role,
            str(one.certificate.measurement.get("method", one.certificate.bound))
            + (" (comparator)" if role == "comparator" else ""),
            wording.look(one.certificate.predictor).name,
            _terminal(wording.certified(one.certificate)),
            f"{int(one.certificate.evidence.get('n', 0)):,}",
            wording.share(one.certificate.delta),
            one.certificate.value / top,
        )
        for role, one in listed
    ]


def promise(result: Certified) -> str:
    """The certificate in one sentence."""
    certificate = result.certificate
    if certificate.vacuous:
        return "This run promises nothing: its certificate is vacuous. More data, or the method holdout, may give one."
    sure = wording.confidence(sum(certificate.ledger.values()) or certificate.delta)
    return _terminal(f"With confidence at least {sure}, {assurance.claim(certificate)}.")


def _terminal(text: str) -> str:
    """Without the narrow space that a terminal may not draw."""
    return text.replace(f"{wording.THIN}%", "%").replace(wording.THIN, " ")


def page(result: Certified, facts: Mapping[str, Any]) -> str:
    """The report as HTML."""
    certificate = result.certificate
    return (
        environment()
        .get_template("certify.html.j2")
        .render(
            result=result,
            certificate=certificate,
            record=result.record,
            rows=rows(result),
            promise=promise(result),
            sheet=assurance.sheet_of(certificate),
            facts=facts,
            version=__version__,
        )
    )


def write(result: Certified, directory: Path, *, facts: Mapping[str, Any]) -> Path:
    """Model, certificates and ``certify.json``, and ``certify.html`` beside them; returns the directory."""
    save(result, directory, facts=facts)
    write_text(directory / "certify.html", page(result, facts))
    return directory

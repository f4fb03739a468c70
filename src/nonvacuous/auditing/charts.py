"""The three pictures of an audit as plotly figures: the ladder of certificates, the error budget, the margins.

Each row of a chart writes its name and number above its own bar, so nothing is clipped on a narrow screen. Colours are chosen
to stand out on white and on near-black; the page's style sheet sets the colour of text and reference marks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from html import escape
from math import isfinite
from typing import Any

import plotly.graph_objects as go

from nonvacuous.auditing import wording
from nonvacuous.auditing.result import Audit, SampleFacts
from nonvacuous.core.certificate import Certificate
from nonvacuous.core.measured import Kind

CONFIG = {"displayModeBar": False, "responsive": True, "scrollZoom": False, "doubleClick": False, "showTips": False}
FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'
ACCENT = "#3480b5"
NEUTRAL = "#788087"
TEXT = "#6b7177"
CLEAR = "rgba(0,0,0,0)"
TRACK = "rgba(128,136,144,0.16)"
ROW = 50
"""Height of a row in pixels: a line of text and a bar."""
LONGEST = 34
"""Characters of a row's name that fit a phone beside its number."""

KIND_PATTERNS = {Kind.EXACT: "", Kind.CONFIDENCE: "/", Kind.INDICATOR: "."}


@dataclass(frozen=True)
class Row:
    """One bar from ``lower`` to ``upper``, with its name at the left and its number at the right, above the bar."""

    name: str
    number: str
    lower: float
    upper: float
    colour: str
    pattern: str
    hover: str
    reference: float | None = None


def ladder(audit: Audit) -> go.Figure:
    """All certificates from tightest to vacuous, with the measured held-out risk marked on each row of its loss."""
    test, loss = audit.facts.test, audit.facts.loss
    rows = []
    for certificate in audit.certificates:
        look = wording.look(certificate.predictor)
        number = wording.certified(certificate)
        colour = ACCENT if certificate.predictor == "deterministic" else NEUTRAL
        rows.append(
            Row(
                name=f"{look.glyph} {_fitted(wording.title(certificate))}",
                number=number if certificate.vacuous else f"≤ {number}",
                lower=0.0,
                upper=min(certificate.value, 1.0),
                colour=CLEAR if certificate.vacuous else colour,
                pattern="" if certificate.vacuous else look.pattern,
                hover=f"{_text(look.name)}<br>δ share {wording.share(certificate.delta)}" + _need(audit, certificate),
                reference=test.risk if test and certificate.loss == loss else None,
            )
        )
    top = max([row.upper for row in rows] + [row.reference or 0.0 for row in rows], default=1.0)
    return _rows(rows, 0.0, 1.0 if top > 0.5 else top * 1.2 or 1.0, wording.is_share(loss))


def _need(audit: Audit, certificate: Certificate) -> str:
    found = [need for need in audit.needs if (need.bound, need.predictor) == (certificate.bound, certificate.predictor)]
    return f"<br>{_text(wording.need(found[0]))}" if found and certificate.vacuous else ""


def budget(audit: Audit) -> go.Figure:
    """Each part of the error budget as an interval, then the risk itself and the sum of the parts."""
    loss = audit.facts.loss
    parts = [(part.name, part.measured) for part in audit.budget.parts]
    parts += [(audit.budget.risk.name, audit.budget.risk.measured), ("sum of the parts", audit.budget.sum)]
    rows = [
        Row(
            name=_fitted(name),
            number=wording.interval(measured, loss),
            lower=_finite(measured.lower),
            upper=_finite(measured.upper),
            colour=ACCENT if place == len(audit.budget.parts) else NEUTRAL,
            pattern=KIND_PATTERNS[measured.kind],
            hover=wording.KINDS[measured.kind],
            reference=0.0,
        )
        for place, (name, measured) in enumerate(parts)
    ]
    low, high = min([row.lower for row in rows] + [0.0]), max([row.upper for row in rows] + [0.0])
    room = 0.03 * (high - low) or 0.05
    return _rows(rows, low - room, high + room, wording.is_share(loss))


def scaled_margins(audit: Audit) -> go.Figure | None:
    """The margins in units of the spectral complexity and the size of the inputs, by which networks can be compared; None without."""
    scale = None if audit.anatomy is None else audit.anatomy.log10_margin_scale
    return None if scale is None else margins(audit, 10**scale)


def margins(audit: Audit, unit: float = 1.0) -> go.Figure | None:
    """Histogram of the margins on training and held-out data, with the region of errors shaded; None where there are none."""
    samples = [
        _in_units(sample, unit) for sample in (audit.facts.train, audit.facts.test) if sample is not None and histogram(sample)
    ]
    if not samples:
        return None
    same = len({sample.margin_edges for sample in samples}) == 1
    figure = go.Figure()
    for sample in samples:
        bins = histogram(sample)
        total = sum(count for _, _, count in bins) or 1
        heights = [count / total if same else count / total / (high - low) for low, high, count in bins]
        centres = [(low + high) / 2 for low, high, _ in bins]
        hover = [f"margin {low:.3g} to {high:.3g}<br>{count} of {total}" for low, high, count in bins]
        if sample.digest == audit.facts.train.digest:
            figure.add_bar(
                x=centres,
                y=heights,
                width=[high - low for low, high, _ in bins],
                name=_text("training"),
                marker={
                    "color": NEUTRAL,
                    "opacity": 0.75,
                    "line": {"width": 0},
                    "pattern": {"shape": ["x" if high <= 0 else "" for _, high, _ in bins], "size": 6, "solidity": 0.4},
                },
                customdata=hover,
                hovertemplate="%{customdata}<extra>training</extra>",
            )
        else:
            edges = [low for low, _, _ in bins] + [bins[-1][1]]
            figure.add_scatter(
                x=[edges[0], *edges],
                y=[0.0, *heights, 0.0],
                mode="lines",
                line={"shape": "hv", "width": 2.5, "color": ACCENT},
                name=_text("held-out"),
                customdata=[hover[0], *hover, hover[-1]],
                hovertemplate="%{customdata}<extra>held-out</extra>",
            )
    least = min(sample_bins[0][0] for sample_bins in map(histogram, samples))
    most = max(sample_bins[-1][1] for sample_bins in map(histogram, samples))
    if least < 0:
        figure.add_shape(
            type="rect", x0=least, x1=min(0.0, most), y0=0, y1=1, yref="paper", fillcolor=TRACK, line_width=0, layer="below"
        )
        figure.add_annotation(
            x=0, xref="paper", xanchor="left", y=1, yref="paper", yanchor="bottom", text="errors", showarrow=False
        )
    if most > 0:
        figure.add_annotation(
            x=1, xref="paper", xanchor="right", y=1, yref="paper", yanchor="bottom", text="correct", showarrow=False
        )
    figure.add_vline(x=0, line={"width": 1.5, "dash": "dot", "color": TEXT})
    figure.update_layout(
        **_layout(300),
        margin={"l": 48, "r": 12, "t": 28, "b": 48},
        bargap=0,
        barmode="overlay",
        xaxis={
            "title": {"text": "margin" if unit == 1 else "margin / (R_A · x)", "font": {"size": 14}, "standoff": 8},
            "range": [least, most],
            "exponentformat": "power",
            "zeroline": False,
            "showgrid": False,
            "fixedrange": True,
        },
        yaxis={
            "tickformat": "~%" if same else "~g",
            "rangemode": "tozero",
            "nticks": 5,
            "gridcolor": TRACK,
            "zeroline": False,
            "fixedrange": True,
        },
    )
    return figure


def histogram(sample: SampleFacts) -> list[tuple[float, float, int]]:
    """Lower edge, upper edge and count of each bin of the margins; empty where there are none or they do not fit together."""
    edges, counts = sample.margin_edges, sample.margin_counts
    if len(edges) != len(counts) + 1 or not counts or not all(isfinite(edge) for edge in edges):
        return []
    return [(low, high, count) for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)]


def _in_units(sample: SampleFacts, unit: float) -> SampleFacts:
    return replace(sample, margin_edges=tuple(edge / unit for edge in sample.margin_edges))


def _rows(rows: Sequence[Row], low: float, high: float, per_cent: bool) -> go.Figure:
    """Horizontal bars from the first row at the top down; a short upright mark at each row's reference."""
    figure = go.Figure()
    places = [len(rows) - 1 - place for place in range(len(rows))]
    thin = 0.004 * (high - low)
    for place, row in zip(places, rows, strict=True):
        point = row.upper - row.lower < thin
        figure.add_shape(
            type="rect", x0=low, x1=high, y0=place - 0.17, y1=place + 0.17, fillcolor=TRACK, line_width=0, layer="below"
        )
        figure.add_bar(
            orientation="h",
            y=[place],
            base=[row.lower - thin / 2 if point and row.lower else row.lower],
            x=[thin if point else row.upper - row.lower],
            width=0.34,
            name=_text(row.name),
            marker={
                "color": row.colour,
                "line": {
                    "width": 1.5 if row.colour == CLEAR or row.pattern else 0,
                    "color": TEXT if row.colour == CLEAR else row.colour,
                },
                "pattern": {"shape": row.pattern, "bgcolor": CLEAR, "fgcolor": row.colour, "size": 7, "solidity": 0.45},
            },
            hovertemplate=f"{_text(row.name)}: {_text(row.number)}<br>{row.hover}<extra></extra>",
        )
        for text, x, anchor in ((_text(row.name), 0, "left"), (_text(row.number), 1, "right")):
            figure.add_annotation(
                text=text, x=x, xref="paper", xanchor=anchor, y=place + 0.2, yanchor="bottom", showarrow=False, name="row"
            )
    marked = [(row.reference, place) for place, row in zip(places, rows, strict=True) if row.reference is not None]
    if marked:
        figure.add_scatter(
            x=[x for x, _ in marked],
            y=[y for _, y in marked],
            mode="markers",
            marker={"symbol": "line-ns-open", "size": 15, "color": TEXT, "line": {"width": 2.5, "color": TEXT}},
            name="reference",
            cliponaxis=False,
            hoverinfo="skip",
        )
    figure.update_layout(
        **_layout(ROW * max(len(rows), 1) + 46),
        margin={"l": 16, "r": 20, "t": 8, "b": 38},
        barmode="overlay",
        xaxis={
            "range": [low, high],
            "tickformat": "~%" if per_cent else "~g",
            "nticks": 6,
            "showgrid": False,
            "zeroline": False,
            "ticks": "outside",
            "ticklabeloverflow": "allow",
            "fixedrange": True,
        },
        yaxis={"visible": False, "range": [-0.4, len(rows) - 0.35], "fixedrange": True},
    )
    return figure


def _layout(height: int) -> dict[str, Any]:
    return {
        "height": height,
        "autosize": True,
        "showlegend": False,
        "paper_bgcolor": CLEAR,
        "plot_bgcolor": CLEAR,
        "font": {"family": FONT, "size": 14, "color": TEXT},
        "hoverlabel": {
            "font": {"family": FONT, "size": 13, "color": "#ffffff"},
            "bgcolor": "#22272b",
            "bordercolor": "#22272b",
        },
        "dragmode": False,
        "template": "none",
    }


def _fitted(name: str) -> str:
    return name if len(name) <= LONGEST else name[: LONGEST - 1] + "…"


def _text(text: str) -> str:
    """Text that plotly shows as it is, though it reads a little HTML."""
    return escape(text, quote=False)


def _finite(end: float) -> float:
    """An end that can be drawn: risks lie in [−1, 1]."""
    return min(max(end, -1.0), 1.0)


def described(numbers: Sequence[tuple[str, str]]) -> str:
    """A text alternative for a chart: each row with its number."""
    return "; ".join(f"{name}: {number}" for name, number in numbers)


def nearest(value: float) -> str:
    """A margin or share in three significant digits, for the data tables."""
    return f"{Decimal(value).normalize():.3g}" if value else "0"

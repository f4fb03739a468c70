"""The page on refits: where the error is, what would reduce it, and the curves behind both."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import plotly.graph_objects as go

from nonvacuous._version import __version__
from nonvacuous.auditing import wording
from nonvacuous.auditing.pages import as_data, environment, figure_data, plotly_script
from nonvacuous.auditing.report import PARTS
from nonvacuous.core.measured import Measured
from nonvacuous.studies.levers import contenders
from nonvacuous.studies.refits import Refit

if TYPE_CHECKING:
    from nonvacuous.auditing.refits import RefitBudget

BLUE, ORANGE, GREY = "#2f6f9f", "#c7691b", "#8a8f98"
CONFIG = {"displayModeBar": False, "responsive": True}


def page(found: RefitBudget) -> str:
    """The report as HTML: works offline."""
    share = found.run.refits[0].losses.max() <= 1 and found.neighbour is not None
    first = contenders(found.levers)
    figures = {
        "gains": gains(found, share),
        "parts": parts(found),
        "curve": curve(found),
        "lengths": lengths(found),
        "plane": plane(found),
    }
    return (
        environment()
        .get_template("budget.html.j2")
        .render(
            found=found,
            rows=[
                (p, interval(p.measured, share), wording.KINDS[p.measured.kind])
                for p in (*found.budget.parts, found.budget.risk)
            ],
            levers=[(x, gained(x.gain, share), x in first) for x in found.levers],
            sentence=advice(found, share),
            alone=len(first) == 1,
            neighbour=None if found.neighbour is None else interval(found.neighbour, share),
            part_words=PARTS,
            figures={name: figure_data(f) for name, f in figures.items() if f is not None},
            plotly=plotly_script(),
            config=as_data(json.dumps(CONFIG)),
            version=__version__,
        )
    )


def interval(measured: Measured, share: bool) -> str:
    """A number or a share, [lower, upper], signs kept."""
    if share:
        return f"{100 * measured.lower:.2f} % to {100 * measured.upper:.2f} %"
    return f"{measured.lower:.4g} to {measured.upper:.4g}"


def gained(gain: Measured, share: bool) -> str:
    """How far a risk falls: in percentage points, or in its own unit."""
    if share:
        return f"{100 * gain.lower:.1f} to {100 * gain.upper:.1f} points".replace("-", "−")
    return f"{gain.lower:.3g} to {gain.upper:.3g}".replace("-", "−")


CHANGES = {"data": "more data", "width": "a wider network", "training": "longer training"}


def sentence(found: RefitBudget, share: bool = True) -> str:
    """The advice in one paragraph."""
    return " ".join(filter(None, advice(found, share)))


def advice(found: RefitBudget, share: bool = True) -> tuple[str, str]:
    """What to do next with its gain and cost; and, where the intervals overlap, what may gain as much."""
    if not found.levers:
        return "Too little was trained to compare more data, a wider network and longer training: give more time.", ""
    able = contenders(found.levers)
    if not able:
        return (
            "Neither twice the data, nor twice the width, nor twice the training is sure to lower the risk.",
            "This recipe is near what it can give, or too few refits were made to see it: give more time, or try another kind of network.",
        )
    best, rivals = able[0], able[1:]
    cost = f"{best.cost:.1f} × the cost"
    first = f"Do next: {CHANGES[best.name]} ({best.change}). It lowers the risk by {gained(best.gain, share)} at {cost}."
    if not rivals:
        return first, "It gains more than either of the others." if len(found.levers) == 3 else ""
    others = " and ".join(f"{CHANGES[x.name]} ({x.change}; {gained(x.gain, share)} at {x.cost:.1f} ×)" for x in rivals)
    return first, f"A tie: {others} may gain as much, for the intervals overlap. More time makes them narrower."


def gains(found: RefitBudget, share: bool) -> go.Figure | None:
    """What each doubling gains, as an interval."""
    if not found.levers:
        return None
    unit = 100 if share else 1
    figure = go.Figure()
    for lever in found.levers[::-1]:
        gain = lever.gain
        color = BLUE if gain.lower > 0 else ORANGE if gain.upper < 0 else GREY
        figure.add_scatter(
            x=[unit * gain.lower, unit * gain.midpoint, unit * gain.upper],
            y=[CHANGES[lever.name]] * 3,
            mode="lines+markers",
            line={"color": color, "width": 10},
            marker={"size": [0, 12, 0], "color": color, "opacity": 1},
            hovertext=f"{lever.change}: {gained(gain, share)}",
            hoverinfo="text",
            showlegend=False,
        )
    figure.add_vline(x=0, line_color=GREY, line_width=1)
    return _laid(figure, "risk falls by (percentage points)" if share else "risk falls by", "", 220)


def parts(found: RefitBudget) -> go.Figure:
    """Each part as an interval."""
    rows = [*found.budget.parts, found.budget.risk][::-1]
    figure = go.Figure(
        go.Bar(
            y=[p.name for p in rows],
            x=[max(p.measured.width, 1e-4) for p in rows],
            base=[p.measured.lower for p in rows],
            orientation="h",
            marker_color=[ORANGE if p.name == "risk" else BLUE for p in rows],
            hovertext=[f"{p.symbol}: {p.measured.lower:.4g} to {p.measured.upper:.4g}" for p in rows],
            hoverinfo="text",
        )
    )
    figure.add_vline(x=0, line_color=GREY, line_width=1)
    return _laid(figure, "part of the risk", "", 300)


def curve(found: RefitBudget) -> go.Figure | None:
    """Test risk over the sample size, the fitted law and its interval beyond."""
    run = found.run
    refits = [r for r in run.refits if r.length == 1 and r.cell.width == 1]
    figure = go.Figure()
    if found.curve is not None:
        sizes = np.geomspace(min(r.cell.n for r in refits), 8 * run.plan.n, 60)
        bands = [found.curve.at(float(n)) for n in sizes]
        both = np.concatenate([sizes, sizes[::-1]])
        ends = [b.upper for b in bands] + [b.lower for b in bands][::-1]
        figure.add_scatter(
            x=both,
            y=ends,
            fill="toself",
            line_width=0,
            fillcolor="rgba(47,111,159,.2)",
            name="90 % interval",
            hoverinfo="skip",
        )
    figure.add_scatter(
        x=[r.cell.n for r in refits],
        y=[r.risk for r in refits],
        mode="markers",
        marker_color=BLUE,
        name="test risk of a refit",
    )
    figure.add_scatter(
        x=[r.cell.n for r in refits],
        y=[r.train_risk for r in refits],
        mode="markers",
        marker={"color": ORANGE, "symbol": "x"},
        name="training risk",
    )
    figure.add_vline(x=2 * run.plan.n, line_dash="dot", line_color=GREY, annotation_text="twice the data")
    figure.update_xaxes(type="log")
    figure.update_yaxes(type="log")
    return _laid(figure, "training examples", "risk", 380)


def lengths(found: RefitBudget) -> go.Figure:
    """Risk over the epochs at each width, all examples."""
    run = found.run
    figure = go.Figure()
    for width in sorted({r.cell.width for r in run.refits if r.cell.n == run.plan.n}):
        line: list[tuple[float, list[Refit]]] = [
            (length * run.plan.epochs, at)
            for length in run.plan.lengths
            if (at := [r for r in run.refits if r.cell.n == run.plan.n and r.cell.width == width and r.length == length])
        ]
        figure.add_scatter(
            x=[x for x, _ in line],
            y=[float(np.mean([r.risk for r in at])) for _, at in line],
            error_y={"type": "data", "array": [float(np.std([r.risk for r in at])) for _, at in line]},
            mode="lines+markers",
            name=f"width {width:g} ×",
        )
    figure.update_xaxes(type="log", tickvals=[length * run.plan.epochs for length in run.plan.lengths])
    return _laid(figure, "epochs", "test risk (mean, deviation of refits)", 380)


def plane(found: RefitBudget) -> go.Figure | None:
    """Mean test risk over sample size and width."""
    run = found.run
    sizes, widths = sorted({r.cell.n for r in run.refits}), sorted({r.cell.width for r in run.refits})
    if len(widths) < 2:
        return None
    table: list[list[Any]] = [
        [
            float(np.mean(at))
            if (at := [r.risk for r in run.refits if r.cell.n == n and r.cell.width == w and r.length == 1])
            else None
            for n in sizes
        ]
        for w in widths
    ]
    figure = go.Figure(
        go.Heatmap(
            x=[f"{n:,}" for n in sizes],
            y=[f"{w:g} ×" for w in widths],
            z=table,
            colorscale="Blues",
            text=[["" if v is None else f"{v:.3f}" for v in row] for row in table],
            texttemplate="%{text}",
            hoverongaps=False,
            colorbar_title="risk",
        )
    )
    return _laid(figure, "training examples", "width", 320)


def _laid(figure: go.Figure, x: str, y: str, height: int) -> go.Figure:
    figure.update_layout(
        height=height,
        margin={"l": 60, "r": 20, "t": 20, "b": 50},
        xaxis_title=x,
        yaxis_title=y,
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"color": "#777", "size": 13},
        legend={"orientation": "h", "y": 1.1},
    )
    return figure

"""Landscapes as pictures: surfaces to turn, contours with the training path, slices with their bands; a page that works offline."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go

from nonvacuous._version import __version__
from nonvacuous.auditing import charts
from nonvacuous.auditing.pages import as_data, environment, figure_data, plotly_script
from nonvacuous.optimization.modes import Barrier
from nonvacuous.optimization.slices_objective import Statistics
from nonvacuous.optimization.surfaces import Surface

SCALE = "Viridis"
HIGHEST = 20.0
"""Losses are drawn up to this many times the spread between the lowest and the median: a landscape's walls dwarf its valleys."""

STATISTICS = {
    Statistics.RECALIBRATED: "estimated anew at every point",
    Statistics.FROZEN: "the stored ones, where the network has any",
    Statistics.BATCH: "those of each batch evaluated",
}


@dataclass(frozen=True, eq=False)
class Track:
    """Points on a plane in the order they were passed: coordinates [m, 2], and what to call them."""

    coordinates: np.ndarray
    name: str = "training path"


@dataclass(frozen=True, eq=False)
class Landscape:
    """What a page shows: the surface, and what may go with it."""

    model: str
    data: str
    surface: Surface
    track: Track | None = None
    shares: tuple[float, float] | None = None
    barrier: Barrier | None = None
    error_barrier: Barrier | None = None
    notes: tuple[str, ...] = ()


def drawn_heights(loss: np.ndarray) -> np.ndarray:
    """The losses as they are drawn: cut where a wall would dwarf the valley, infinities included; the hover text has the true ones."""
    finite = loss[np.isfinite(loss)]
    low, middle = float(finite.min()), float(np.median(finite))
    return np.minimum(loss, low + max(HIGHEST * (middle - low), 1e-12)) if len(finite) else loss


def turnable(landscape: Landscape) -> go.Figure:
    """The surface in three dimensions, to be turned by mouse or finger."""
    s = landscape.surface
    heights = drawn_heights(s.loss)
    figure = go.Figure(
        go.Surface(
            x=s.coordinates[0],
            y=s.coordinates[1],
            z=heights.T,
            colorscale=SCALE,
            customdata=_told(s).T,
            hovertemplate="%{customdata}<extra></extra>",
            colorbar={"title": {"text": "loss"}, "thickness": 12, "len": 0.7},
            contours={"z": {"show": True, "usecolormap": True, "project": {"z": True}, "width": 1}},
        )
    )
    if landscape.track is not None:
        at = landscape.track.coordinates
        figure.add_scatter3d(
            x=at[:, 0], y=at[:, 1], z=_height(s, heights, at), mode="lines+markers", name=landscape.track.name,
            marker={"size": 3, "color": "#d1495b"}, line={"width": 4, "color": "#d1495b"},
        )  # fmt: skip
    axes = {"showbackground": False, "gridcolor": charts.TRACK, "zeroline": False}
    figure.update_layout(**charts._layout(520) | {"dragmode": "turntable"}, margin={"l": 0, "r": 0, "t": 0, "b": 0})
    figure.update_layout(
        scene={
            "xaxis": {"title": {"text": s.names[0]}, **axes},
            "yaxis": {"title": {"text": s.names[1]}, **axes},
            "zaxis": {"title": {"text": "loss"}, **axes},
            "camera": {"eye": {"x": 1.4, "y": -1.4, "z": 0.9}},
            "aspectmode": "cube",
        }
    )
    return figure


def contours(landscape: Landscape, values: np.ndarray, title: str) -> go.Figure:
    """Level lines from above, the network's place, and the path."""
    s = landscape.surface
    figure = go.Figure(
        go.Contour(
            x=s.coordinates[0],
            y=s.coordinates[1],
            z=values.T,
            colorscale=SCALE,
            ncontours=24,
            customdata=_told(s).T,
            hovertemplate="%{customdata}<extra></extra>",
            colorbar={"title": {"text": title}, "thickness": 12},
            line={"width": 0.6},
        )
    )
    if landscape.track is not None:
        at = landscape.track.coordinates
        figure.add_scatter(
            x=at[:, 0], y=at[:, 1], mode="lines+markers", marker={"size": 5, "color": "#d1495b"}, line={"color": "#d1495b"},
            hovertemplate=f"{charts._text(landscape.track.name)} %{{pointNumber}}<extra></extra>",
        )  # fmt: skip
    figure.add_scatter(
        x=[0], y=[0], mode="markers", marker={"symbol": "x", "size": 10, "color": "#ffffff", "line": {"width": 1, "color": "#000"}},
        hovertemplate="the network<extra></extra>",
    )  # fmt: skip
    figure.update_layout(**charts._layout(460), margin={"l": 56, "r": 12, "t": 12, "b": 52})
    figure.update_xaxes(title={"text": s.names[0], "font": {"size": 14}}, showgrid=False, zeroline=False)
    figure.update_yaxes(title={"text": s.names[1], "font": {"size": 14}}, showgrid=False, zeroline=False)
    return figure


def slice_(landscape: Landscape) -> go.Figure:
    """Loss along a line with its two-standard-error band, and the error rate on an axis of its own."""
    s = landscape.surface
    t, loss = s.coordinates[0], drawn_heights(s.loss)
    figure = go.Figure()
    if bool((s.loss_std > 0).any()):
        upper, lower = loss + 2 * s.loss_std, np.maximum(loss - 2 * s.loss_std, 0)
        figure.add_scatter(
            x=[*t, *t[::-1]],
            y=[*upper, *lower[::-1]],
            fill="toself",
            fillcolor="rgba(52,128,181,0.2)",
            line={"width": 0},
            hoverinfo="skip",
        )
    figure.add_scatter(
        x=t, y=loss, mode="lines+markers", marker={"size": 4}, line={"color": charts.ACCENT, "width": 2.5}, customdata=_told(s),
        hovertemplate="%{customdata}<extra></extra>",
    )  # fmt: skip
    if landscape.barrier is not None:
        figure.add_scatter(
            x=[t[0], t[-1]], y=[loss[0], loss[-1]], mode="lines", line={"dash": "dot", "color": charts.TEXT}, hoverinfo="skip"
        )
    figure.update_layout(**charts._layout(380), margin={"l": 60, "r": 76, "t": 12, "b": 52})
    figure.update_xaxes(title={"text": s.names[0], "font": {"size": 14}}, gridcolor=charts.TRACK, zeroline=False)
    figure.update_yaxes(title={"text": "loss"}, gridcolor=charts.TRACK, zeroline=False)
    if s.error is not None:
        figure.add_scatter(
            x=t,
            y=s.error,
            mode="lines",
            line={"color": charts.NEUTRAL, "width": 2, "dash": "dash"},
            yaxis="y2",
            hoverinfo="skip",
        )
        side = {"text": "error (dashed)", "standoff": 6}
        figure.update_layout(
            yaxis2={
                "title": side,
                "overlaying": "y",
                "side": "right",
                "tickformat": ".0%",
                "range": [0, 1],
                "tickmode": "auto",
                "nticks": 6,
            }
        )
        figure.update_yaxes(showgrid=False, selector={"overlaying": "y"})
    return figure


def page(landscape: Landscape) -> str:
    """The landscape as one HTML document: works offline, asks for nothing from outside."""
    pictures = figures(landscape)
    return (
        environment()
        .get_template("landscape.html.j2")
        .render(
            landscape=landscape,
            s=landscape.surface,
            told=told(landscape),
            pictures=[(name, figure_data(f), f.layout.height, caption) for name, f, caption in pictures],
            config=as_data(json.dumps(charts.CONFIG)),
            plotly=plotly_script(),
            version=__version__,
        )
    )


def figures(landscape: Landscape) -> list[tuple[str, go.Figure, str]]:
    """Name, picture and caption of all that a landscape shows."""
    s = landscape.surface
    if s.loss.ndim == 1:
        return [
            (
                "slice",
                slice_(landscape),
                "The loss along the line; bands are two standard errors of the mean over the whole sample.",
            )
        ]
    found = [
        (
            "surface",
            turnable(landscape),
            "The loss over the plane. Turn it; walls are cut off where they would dwarf the valley.",
        ),
        ("contours", contours(landscape, drawn_heights(s.loss), "loss"), "The same from above; the cross is the network."),
    ]
    if s.error is not None:
        found.append(("error", contours(landscape, s.error, "error"), "The share of these examples that is misclassified."))
    return found


def told(landscape: Landscape) -> list[tuple[str, str]]:
    """The facts beside the pictures, in words."""
    s, origin = landscape.surface, landscape.surface.origin
    rows = [
        (
            "Loss at the network",
            f"{origin.loss:.5g}" + (f" ± {2 * origin.loss_std:.2g} (two standard errors)" if origin.loss_std else ""),
        ),
        ("Examples", f"{s.n:,} of {s.population:,}" + (", drawn at random" if s.n < s.population else "")),
        (
            "Points",
            f"{int(s.evaluated.sum()):,} of {s.loss.size:,} evaluated"
            + ("" if s.evaluated.all() else ", the others interpolated"),
        ),
        ("Statistics of batch-norm", STATISTICS[s.statistics]),
        ("Evaluated", f"{s.way.value}, in {s.seconds:.1f} s"),
    ]
    if origin.error is not None:
        rows.insert(1, ("Error at the network", f"{100 * origin.error:.2f} % of these examples"))
    if landscape.shares is not None:
        both = sum(landscape.shares)
        rows.append(
            (
                "The path in this plane",
                f"{100 * both:.1f} % of the squared distances to its end; a random walk would have 90.1 %",
            )
        )
    if landscape.barrier is not None:
        at = f" at {landscape.barrier.at:.2g}" if landscape.barrier.height else ""
        rows.append(("Barrier of the loss", f"{landscape.barrier.height:.4g}{at}, above the chord, on this grid"))
    if landscape.error_barrier is not None:
        rows.append(("Barrier of the error", f"{100 * landscape.error_barrier.height:.2f} percentage points"))
    infinite = int((~np.isfinite(s.loss)).sum())
    return rows + ([("Not finite", f"at {infinite:,} points the loss overflows")] if infinite else [])


def document(landscape: Landscape) -> dict[str, Any]:
    """All numbers as JSON can hold them: infinities are null."""
    s = landscape.surface
    track = None if landscape.track is None else landscape.track.coordinates.tolist()
    return {
        "model": landscape.model,
        "data": landscape.data,
        "axes": [{"name": name, "coordinates": c.tolist()} for name, c in zip(s.names, s.coordinates, strict=True)],
        "loss": _plain(s.loss),
        "error": None if s.error is None else _plain(s.error),
        "loss_std": _plain(s.loss_std),
        "rise_std": _plain(s.rise_std),
        "evaluated": s.evaluated.tolist(),
        "origin": {"loss": s.origin.loss, "loss_std": s.origin.loss_std, "error": s.origin.error},
        "examples": s.n,
        "population": s.population,
        "statistics": s.statistics.value,
        "seconds": s.seconds,
        "digest": s.digest,
        "path": track,
        "path_shares": landscape.shares,
        "barrier": None if landscape.barrier is None else {"loss": landscape.barrier.height, "at": landscape.barrier.at},
        "error_barrier": None if landscape.error_barrier is None else landscape.error_barrier.height,
        "notes": list(landscape.notes),
        "kind": "indicator",
        "version": __version__,
    }


def _plain(x: np.ndarray) -> Any:
    return [_plain(row) for row in x] if x.ndim > 1 else [float(v) if math.isfinite(v) else None for v in x]


def _told(s: Surface) -> np.ndarray:
    """What a point says when it is touched."""
    texts = np.empty(s.loss.shape, dtype=object)
    for place in np.ndindex(*s.loss.shape):
        where = ", ".join(f"{c[i]:.3g}" for c, i in zip(s.coordinates, place, strict=True))
        error = "" if s.error is None else f"<br>error {100 * s.error[place]:.2f} %"
        known = "" if s.evaluated[place] else "<br>interpolated"
        texts[place] = f"at ({where})<br>loss {s.loss[place]:.5g} ± {2 * s.loss_std[place]:.2g}{error}{known}"
    return texts


def _height(s: Surface, heights: np.ndarray, at: np.ndarray) -> Sequence[float]:
    """Interpolated heights of points of the plane; beyond the grid those of its edge."""
    from scipy.interpolate import RegularGridInterpolator

    inside = np.stack([np.clip(at[:, k], c[0], c[-1]) for k, c in enumerate(s.coordinates)], 1)
    return [float(z) for z in RegularGridInterpolator(s.coordinates, heights)(inside)]


def linked(report: str, file: str) -> str:
    """The audit's page with a link to the landscape ``file`` beside it at the end of its contents; once, and only if it has contents."""
    link, end = f'<li><a href="{file}">Loss landscape</a></li>', "</ul>\n</nav>"
    return report if link in report else report.replace(end, f"{link}\n{end}", 1)

"""Landscapes as still pictures, by matplotlib (``pip install 'nonvacuous[gallery]'``)."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from nonvacuous.auditing.landscape import Landscape, drawn_heights


def figure(landscape: Landscape) -> Figure:
    """A line with its band and error, or the surface beside its level lines."""
    if landscape.surface.loss.ndim == 1:
        made = Figure(figsize=(7, 4), layout="constrained")
        draw_slice(made.subplots(), landscape)
        return made
    made = Figure(figsize=(12, 5), layout="constrained")
    draw_surface(made.add_subplot(1, 2, 1, projection="3d"), landscape)
    draw_contours(made.add_subplot(1, 2, 2), landscape)
    return made


def draw_surface(axes: Any, landscape: Landscape) -> None:
    """The surface on three-dimensional axes."""
    s = landscape.surface
    grid = np.meshgrid(*s.coordinates, indexing="ij")
    axes.plot_surface(*grid, drawn_heights(s.loss), cmap="viridis", linewidth=0, rcount=80, ccount=80)
    axes.set(xlabel=s.names[0], ylabel=s.names[1], zlabel="loss")


def draw_contours(axes: Any, landscape: Landscape) -> None:
    """Level lines, the network (a cross), and the path."""
    s = landscape.surface
    drawn = axes.contourf(*s.coordinates, drawn_heights(s.loss).T, levels=24, cmap="viridis")
    axes.figure.colorbar(drawn, ax=axes, label="loss")
    if landscape.track is not None:
        axes.plot(*landscape.track.coordinates.T, "o-", color="tab:red", ms=3, lw=1)
    axes.plot(0, 0, "x", color="white", ms=8, mew=2)
    axes.set(xlabel=s.names[0], ylabel=s.names[1])


def draw_slice(axes: Any, landscape: Landscape) -> None:
    """The loss with two standard errors, the chord of a connection, and the error on its own axis."""
    s = landscape.surface
    t, loss = s.coordinates[0], drawn_heights(s.loss)
    axes.plot(t, loss, color="tab:blue", label="loss")
    axes.fill_between(t, loss - 2 * s.loss_std, loss + 2 * s.loss_std, color="tab:blue", alpha=0.2, lw=0)
    if landscape.barrier is not None:
        axes.plot([t[0], t[-1]], [loss[0], loss[-1]], ":", color="0.5")
    axes.set(xlabel=s.names[0], ylabel="loss")
    if s.error is not None:
        beside = axes.twinx()
        beside.plot(t, s.error, "--", color="0.5")
        beside.set(ylabel="error (dashed)", ylim=(0, 1))

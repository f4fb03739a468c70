"""The page on a randomization test: its three panels, its capacity and the numbers behind them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from nonvacuous._version import __version__
from nonvacuous.auditing.pages import as_data, environment, figure_data, plotly_script
from nonvacuous.auditing.refit_report import CONFIG, GREY, ORANGE, _laid
from nonvacuous.studies.randomization import Randomization
from nonvacuous.studies.randomization_arms import Setting

if TYPE_CHECKING:
    import plotly.graph_objects as go

COLORS = ("#2f6f9f", "#5d9ac4", "#93b9d6", "#b98bb5", "#c7691b", "#a03b2a", "#5b8c5a", "#8a6d3b", "#6b6f78", "#1f1f1f")


def page(found: Randomization, model: str, data: str) -> str:
    """The report as HTML: works offline."""
    figures = {"losses": losses(found), "fit": fit(found), "test": test(found)}
    return (
        environment()
        .get_template("randomization.html.j2")
        .render(
            found=found,
            model=model,
            data=data,
            sentence=sentence(found),
            rows=rows(found),
            figures={name: figure_data(f) for name, f in figures.items() if f is not None},
            plotly=plotly_script(),
            config=as_data(json.dumps(CONFIG)),
            version=__version__,
        )
    )


def sentence(found: Randomization) -> str:
    """What the study shows, in one sentence."""
    capacity = found.capacity()
    if capacity is None:
        return "The arm of random signs is missing, so nothing is said about capacity."
    if capacity.lower == 0:
        return "Random signs were not fitted beyond chance: this test shows no capacity to memorize."
    return (
        f"The Rademacher complexity of this architecture on these {found.recipe.examples:,} inputs is at least {capacity.lower:.3f}"
        f" of 1 (δ = {capacity.delta:g}): no bound that adds it to the training error can promise a risk below that."
    )


def rows(found: Randomization) -> list[list[str]]:
    """One row an arm: name, steps to fit, training error, test error (ranges over seeds)."""
    table = []
    for arm in found.arms:
        runs = found.of(arm)
        fits = [run.steps_to_fit(found.recipe.fitted_error) for run in runs]
        reached = [f for f in fits if f is not None]
        steps = "not fitted"
        if reached:
            steps = f"{min(f.lower for f in reached):,.0f} to {max(f.upper for f in reached):,.0f}"
            if len(reached) < len(fits):
                steps += f" ({len(reached)} of {len(fits)} seeds)"
        tested = "" if arm.setting is Setting.SIGNS else _range([run.test_error for run in runs])
        table.append([arm.name, steps, _range([run.looks[-1].error for run in runs]), tested])
    return table


def _range(shares: list[float]) -> str:
    low, high = (f"{100 * x:.1f}" for x in (min(shares), max(shares)))
    return f"{low} %" if low == high else f"{low} to {high} %"


def losses(found: Randomization) -> go.Figure:
    """(a) Training loss over steps, each arm's mean over seeds."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for arm, color in zip(found.arms, COLORS * len(found.arms), strict=False):
        runs = found.of(arm)
        steps = [look.step for look in runs[0].looks]
        means = np.mean([[look.loss for look in run.looks] for run in runs], axis=0)
        figure.add_scatter(x=steps, y=means, mode="lines", name=arm.name, line={"color": color, "width": 2})
    figure.update_xaxes(type="log")
    return _laid(figure, "steps (log)", "training loss", 460).update_layout(
        legend_y=1.02, legend_yanchor="bottom", margin_t=90
    )


def fit(found: Randomization) -> go.Figure | None:
    """(b) Steps to fit over label corruption."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for run in found.runs:
        steps = run.steps_to_fit(found.recipe.fitted_error)
        if run.arm.setting is Setting.LABELS and steps is not None:
            figure.add_scatter(
                x=[run.arm.corruption],
                y=[steps.midpoint],
                error_y={"type": "constant", "value": steps.width / 2},
                mode="markers",
                marker={"color": COLORS[0], "size": 8},
                showlegend=False,
                hovertext=f"{run.arm.name}: {steps.lower:.0f} to {steps.upper:.0f} steps",
                hoverinfo="text",
            )
    if not figure.data:
        return None
    figure.update_xaxes(tickformat=".0%")
    figure.update_yaxes(rangemode="tozero")
    return _laid(figure, "label corruption", "steps to fit", 360)


def test(found: Randomization) -> go.Figure | None:
    """(c) Test error over label corruption, beside the error of a guess."""
    import plotly.graph_objects as go

    runs = [run for run in found.runs if run.arm.setting is Setting.LABELS]
    if not runs:
        return None
    figure = go.Figure()
    figure.add_scatter(
        x=[run.arm.corruption for run in runs],
        y=[run.test_error for run in runs],
        mode="markers",
        marker={"color": ORANGE, "size": 8},
        showlegend=False,
    )
    figure.add_hline(y=1 - 1 / found.classes, line_dash="dot", line_color=GREY, annotation_text="uniform guess")
    figure.update_xaxes(tickformat=".0%")
    figure.update_yaxes(tickformat=".0%", range=[0, 1])
    return _laid(figure, "label corruption", "test error", 360)

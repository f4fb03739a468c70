"""Curvature as a page, a section of the audit, and a document: spectral density, eigenvalues, gradients by layer. Indicators."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from markupsafe import Markup
from torch.nn.functional import cross_entropy, mse_loss

from nonvacuous._version import __version__
from nonvacuous.auditing.pages import as_data, environment, figure_data, plotly_script
from nonvacuous.core.errors import NonvacuousError
from nonvacuous.core.measured import Measured
from nonvacuous.measures.curvature import SHARE, CurvatureSummary, Effort, Eigenvalue, curvature_summary

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from nonvacuous.measures.subject import Subject
    from nonvacuous.runtime.tasks import Progress

AUDITED = Effort(top=3, bottom=1, trace=0, steps=20, probes=2, tolerance=1e-2)
"""The audit's share of work."""
MOST_MACS = 1.5e11
"""Multiply-adds that the audit may spend on curvature; a product takes about six times the forward pass."""
LEAST_EXAMPLES, MOST_EXAMPLES, MOST_PARAMETERS = 64, 512, 3_000_000


def curvature_of(subject: Subject, macs: int | None, seed: int, bar: Progress) -> CurvatureSummary | None:
    """Curvature of the mean training loss (cross entropy, or squared error) over the first training examples.

    ``macs`` of one forward pass decide how many: None (unknown) or too many leave the section out, as does a network that cannot be
    differentiated twice. The command ``nonvacuous curvature`` has no such limits.
    """
    module = subject.predictor.module
    parameters = 0 if module is None else sum(p.numel() for p in module.parameters() if p.requires_grad)
    if module is None or macs is None or not 0 < parameters <= MOST_PARAMETERS:
        return None
    affordable = int(MOST_MACS / (6 * max(macs, 1) * 100))
    count = min(affordable, MOST_EXAMPLES, subject.train.n)
    if count < min(LEAST_EXAMPLES, subject.train.n):
        return None
    regression = subject.loss.regression
    try:
        batch = next(iter(subject.train_sample.batches(count)))
        batches = [(batch[0], _targets(batch[1], module, batch[0]) if regression else batch[1])]
        found = curvature_summary(
            module,
            mse_loss if regression else cross_entropy,
            batches,
            loss_name="squared error" if regression else "cross entropy",
            effort=AUDITED,
            progress=bar,
            seed=seed,
        )
        return replace(found, seconds=0.0)  # the same audit gives the same report
    except (NonvacuousError, RuntimeError, ValueError, IndexError, TypeError):  # the section is an extra: any model may pass
        return None


def _targets(targets: Any, module: Any, inputs: Any) -> Any:
    """Targets in the outputs' shape."""
    import torch

    with torch.no_grad():
        shape = (module(**inputs) if isinstance(inputs, dict) else module(inputs)).shape
    return targets.reshape(shape).to(next(module.parameters()).dtype)


def document(summary: CurvatureSummary) -> dict[str, Any]:
    """The content of ``curvature.json``."""
    found = asdict(summary)
    for name in ("trace", "ratio", "decay"):
        number: Measured | None = getattr(summary, name)
        found[name] = None if number is None else {"lower": _finite(number.lower), "upper": _finite(number.upper)}
    return {"kind": "indicator", "version": __version__, **found, "negative": summary.negative}


def _finite(end: float) -> float | None:
    return end if math.isfinite(end) else None


def told(summary: CurvatureSummary) -> list[tuple[str, str]]:
    """Names and numbers in words."""
    s = summary
    rows = [
        ("loss", f"{s.loss:.6g} ({s.loss_name}, {s.examples:,} examples)"),
        ("gradient norm", f"{s.gradient_norm:.4g}"),
        *(("largest eigenvalues" if i == 0 else "", bracket(e)) for i, e in enumerate(s.top)),
        *(("smallest eigenvalue" if i == 0 else "", bracket(e)) for i, e in enumerate(s.bottom)),
    ]
    if s.trace is not None:
        rows.append(("trace", f"{s.trace} over {s.parameters:,} parameters"))
    if s.ratio is not None:
        rows.append((f"largest eigenvalue over the {SHARE:g} quantile of |λ|", str(s.ratio)))
    if s.decay is not None:
        rows.append(("gradient's factor a layer, towards the input", str(s.decay)))
    rows += [(name, f"absent: {reason}") for name, reason in s.absent.items()]
    return [*rows, ("products", f"{s.products:,}" + (f" in {s.seconds:.3g} s" if s.seconds else ""))]


def bracket(e: Eigenvalue) -> str:
    """A bracket in as many digits as differ, and a word where it did not converge."""
    width = max(e.upper - e.lower, 1e-12 * max(abs(e.upper), 1e-300))
    digits = min(12, max(3, 1 + math.ceil(math.log10(max(abs(e.lower), abs(e.upper), 1e-300) / width))))
    text = f"{e.lower:.{digits}g} to {e.upper:.{digits}g}"
    return text if e.converged else f"{text} (did not converge)"


def density_chart(summary: CurvatureSummary) -> go.Figure | None:
    """Density of the eigenvalues on a logarithmic axis, with its band and the extreme eigenvalues as marks; None without one."""
    import plotly.graph_objects as go

    from nonvacuous.auditing import charts

    curve = summary.density
    if curve is None:
        return None
    floor = 1e-2 / max(summary.parameters, 1) / curve.width  # a hundredth of one eigenvalue's height
    clipped = [[max(v, floor) for v in values] for values in (curve.lower, curve.values, curve.upper)]
    figure = go.Figure()
    figure.add_scatter(
        x=[*curve.grid, *curve.grid[::-1]],
        y=[*clipped[2], *clipped[0][::-1]],
        fill="toself",
        fillcolor="rgba(52,128,181,0.2)",
        line={"width": 0},
        hoverinfo="skip",
    )
    figure.add_scatter(
        x=list(curve.grid),
        y=clipped[1],
        mode="lines",
        line={"color": charts.ACCENT, "width": 2},
        hovertemplate="λ = %{x:.4g}<br>density %{y:.3g}<extra></extra>",
    )
    found = [(e.lower + e.upper) / 2 for e in (*summary.top, *summary.bottom)]
    figure.add_scatter(
        x=found,
        y=[floor] * len(found),
        mode="markers",
        marker={"symbol": "triangle-up", "size": 10, "color": charts.TEXT},
        hovertemplate="eigenvalue %{x:.6g}<extra></extra>",
        cliponaxis=False,
    )
    figure.update_layout(**charts._layout(320), margin={"l": 64, "r": 12, "t": 12, "b": 48})
    figure.update_xaxes(
        title={"text": f"eigenvalue of the {summary.matrix}", "font": {"size": 14}}, zeroline=True, showgrid=False
    )
    figure.update_yaxes(type="log", title={"text": "density"}, gridcolor=charts.TRACK, exponentformat="power", nticks=6)
    return figure


def layers_chart(summary: CurvatureSummary) -> go.Figure | None:
    """Norms of the gradients by layer from the input to the output; None with fewer than two layers."""
    import plotly.graph_objects as go

    from nonvacuous.auditing import charts

    layers = [layer for layer in summary.layers if layer.signal > 0 and layer.weight > 0]
    if len(layers) < 2:
        return None
    figure = go.Figure()
    names = [layer.name for layer in layers]
    for label, values, colour in (
        ("arriving at the layer's output, mean over examples", [layer.signal for layer in layers], charts.ACCENT),
        ("by the layer's weight, mean loss", [layer.weight for layer in layers], charts.NEUTRAL),
    ):
        figure.add_scatter(
            x=[layer.depth for layer in layers],
            y=values,
            mode="lines+markers",
            name=label,
            line={"color": colour, "width": 2},
            customdata=names,
            hovertemplate="%{customdata}: %{y:.3g}<extra>" + label + "</extra>",
        )
    figure.update_layout(**(charts._layout(300) | {"showlegend": True}), margin={"l": 64, "r": 12, "t": 12, "b": 48})
    figure.update_layout(legend={"orientation": "h", "y": 1.15})
    figure.update_xaxes(title={"text": "layer, from the input", "font": {"size": 14}}, showgrid=False, zeroline=False)
    figure.update_yaxes(type="log", title={"text": "gradient norm"}, gridcolor=charts.TRACK, exponentformat="power", nticks=6)
    return figure


def pictures(summary: CurvatureSummary) -> list[tuple[str, Markup, float, str]]:
    """Name, figure, height and caption of each chart there is."""

    told = (
        (
            "density",
            density_chart(summary),
            "Density of the eigenvalues; the band is two standard errors, triangles are eigenvalues.",
        ),
        ("layers", layers_chart(summary), "Gradient norms by layer: a slope down to the left is a vanishing gradient."),
    )
    return [(name, figure_data(f), f.layout.height, caption) for name, f, caption in told if f is not None]


def page(summary: CurvatureSummary, model: str, data: str) -> str:
    """One HTML document: works offline, asks for nothing from outside."""
    from nonvacuous.auditing import charts

    return (
        environment()
        .get_template("curvature_page.html.j2")
        .render(
            summary=summary,
            model=model,
            data=data,
            told=told(summary),
            pictures=pictures(summary),
            config=as_data(json.dumps(charts.CONFIG)),
            plotly=plotly_script(),
            version=__version__,
        )
    )

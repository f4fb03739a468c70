"""What the charts show, read from the figures themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import plotly.graph_objects as go
import pytest

from nonvacuous.auditing import charts, wording
from nonvacuous.auditing.result import Audit
from tests.auditing.conftest import HOSTILE, certificates


def bars(figure: go.Figure) -> list[go.Bar]:
    return [trace for trace in figure.data if trace.type == "bar"]


def texts(figure: go.Figure) -> list[str]:
    return [annotation.text for annotation in figure.layout.annotations]


def test_the_ladder_has_a_rung_a_certificate_from_the_top_down(example_audit: Audit) -> None:
    rungs = bars(charts.ladder(example_audit))
    assert [rung.x[0] for rung in rungs] == [c.value for c in example_audit.certificates]
    assert [rung.y[0] for rung in rungs] == sorted((rung.y[0] for rung in rungs), reverse=True)


def test_each_rung_says_its_theorem_and_its_number(example_audit: Audit) -> None:
    said = texts(charts.ladder(example_audit))
    for certificate in example_audit.certificates:
        assert any(wording.title(certificate) in text for text in said)
        assert any(wording.certified(certificate) in text for text in said)
    assert said.count("vacuous") == sum(c.vacuous for c in example_audit.certificates) == 2


def test_predictors_differ_by_glyph_and_hatching(example_audit: Audit) -> None:
    rungs = bars(charts.ladder(example_audit))
    looks = {}
    for rung, certificate in zip(rungs, example_audit.certificates, strict=True):
        if not certificate.vacuous:
            looks[certificate.predictor] = (rung.name[0], rung.marker.pattern.shape)
    assert len(looks) == 3
    for place in (0, 1):
        assert len({look[place] for look in looks.values()}) == 3


def test_the_measured_risk_is_marked_on_every_rung_of_its_loss(example_audit: Audit) -> None:
    (marks,) = [trace for trace in charts.ladder(example_audit).data if trace.name == "reference"]
    assert set(marks.x) == {0.0873}
    assert len(marks.x) == len(example_audit.certificates)


def test_no_held_out_sample_no_mark(changed_audit: Callable[..., Audit]) -> None:
    assert all(trace.type == "bar" for trace in charts.ladder(changed_audit(test=None)).data)


def test_the_budget_shows_its_parts_the_risk_and_the_sum(example_audit: Audit) -> None:
    rows = bars(charts.budget(example_audit))
    assert [row.name for row in rows] == [
        "irreducible", "approximation", "sampling", "optimization", "generalization", "risk", "sum of the parts",
    ]  # fmt: skip
    for row, part in zip(rows, [*example_audit.budget.parts, example_audit.budget.risk], strict=False):
        assert row.base[0] == pytest.approx(part.measured.lower)
        assert row.base[0] + row.x[0] == pytest.approx(part.measured.upper)
        assert row.marker.pattern.shape == charts.KIND_PATTERNS[part.measured.kind]


def test_an_interval_of_one_point_is_still_seen(example_audit: Audit, changed_audit: Callable[..., Audit]) -> None:
    perfect = changed_audit(train=replace(example_audit.facts.train, risk=0.0, errors=0))
    assert perfect.budget["optimization"].width == 0
    assert all(row.x[0] > 0 for row in bars(charts.budget(perfect)))


def test_margins_of_both_samples_add_up_and_errors_are_marked(example_audit: Audit) -> None:
    figure = charts.margins(example_audit)
    assert figure is not None
    (train,) = bars(figure)
    (test,) = [trace for trace in figure.data if trace.type == "scatter"]
    assert sum(train.y) == pytest.approx(1)
    assert sum(test.y) == pytest.approx(1)
    assert [shape == "x" for shape in train.marker.pattern.shape] == [x < 0 for x in train.x]
    assert {"errors", "correct"} <= set(texts(figure))


def test_no_margins_no_figure(example_audit: Audit, changed_audit: Callable[..., Audit]) -> None:
    bare = replace(example_audit.facts.train, margin_edges=(), margin_counts=())
    assert charts.margins(changed_audit(train=bare, test=None)) is None


@pytest.mark.parametrize("chart", [charts.ladder, charts.budget, charts.margins])
def test_a_chart_is_responsive_and_carries_no_tools(chart: Callable[[Audit], go.Figure], example_audit: Audit) -> None:
    layout = chart(example_audit).layout
    assert layout.autosize
    assert layout.width is None
    assert not layout.showlegend
    assert charts.CONFIG["displayModeBar"] is False
    assert charts.CONFIG["responsive"] is True


def test_nothing_hostile_becomes_markup_in_a_chart(example_audit: Audit) -> None:
    stranger: Any = replace(certificates()[0])
    object.__setattr__(stranger, "predictor", HOSTILE)
    object.__setattr__(stranger, "bound", HOSTILE)
    figure = charts.ladder(replace(example_audit, certificates=(stranger,)))
    drawn = [*texts(figure), *(bar.name for bar in bars(figure)), *(bar.hovertemplate for bar in bars(figure))]
    assert not any("<script" in text or "<img" in text for text in drawn)

"""The page as text: what it says, in which order, and that hostile names stay names."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from html.parser import HTMLParser
from itertools import pairwise
from typing import Any

import pytest

from nonvacuous.auditing import wording
from nonvacuous.auditing.report import fragment, headline, page
from nonvacuous.auditing.result import Audit, Skipped
from nonvacuous.core.certificate import Indicator
from tests.auditing.conftest import HOSTILE, certificate, certificates


class Outline(HTMLParser):
    """Elements in order, and the text a reader sees."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._hidden = 0
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        self._hidden += tag in {"script", "style"}

    def handle_endtag(self, tag: str) -> None:
        self._hidden -= tag in {"script", "style"}

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += data

    @property
    def words(self) -> str:
        return " ".join(self.text.split())


@pytest.fixture(scope="module")
def html(example_audit: Audit) -> str:
    return page(example_audit)


@pytest.fixture(scope="module")
def outline(html: str) -> Outline:
    return Outline(html)


def test_sections_come_in_order_limits_first(outline: Outline) -> None:
    sections = [attributes["id"] for tag, attributes in outline.elements if tag == "section"]
    assert sections == ["limits", "certificates", "budget", "margins", "assumptions", "indicators", "facts", "sheets"]


def test_headings_do_not_skip_a_level(outline: Outline) -> None:
    levels = [int(tag[1]) for tag, _ in outline.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))


def test_every_reference_inside_the_page_leads_somewhere(outline: Outline) -> None:
    ids = [attributes["id"] for _, attributes in outline.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = {a["href"][1:] for tag, a in outline.elements if tag == "a" and a.get("href", "").startswith("#")}
    assert targets <= set(ids)


def test_the_page_asks_for_nothing_from_outside(outline: Outline) -> None:
    for tag, attributes in outline.elements:
        for name in ("src", "srcset", "data", "poster", "action", "background"):
            assert not re.match(r"(https?:)?//", attributes.get(name, "")), (tag, attributes)
        if tag != "a":
            assert not re.match(r"(https?:)?//", attributes.get("href", "")), (tag, attributes)
    policy = [a["content"] for tag, a in outline.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy and policy[0].startswith("default-src 'none'")


def test_every_chart_has_a_text_alternative_and_a_table(outline: Outline) -> None:
    drawn = {a["id"]: a for _, a in outline.elements if a.get("class") == "chart"}
    assert set(drawn) == {"ladder-chart", "budget-chart", "margins-chart"}
    for attributes in drawn.values():
        assert attributes["role"] == "img"
        assert len(attributes["aria-label"]) > 40
    regions = {a.get("aria-label") for _, a in outline.elements if a.get("class") == "scroll"}
    assert {"Certificates", "Error budget", "Margins"} <= regions


def test_scrolling_tables_are_reached_by_keyboard(outline: Outline) -> None:
    assert all(
        a.get("tabindex") == "0" and a.get("role") == "region" for _, a in outline.elements if a.get("class") == "scroll"
    )


def test_the_page_says_what_it_promises(outline: Outline, example_audit: Audit) -> None:
    said = headline(example_audit)
    assert said.certificate is example_audit.best
    assert " ".join(said.promise.split()) in outline.words
    assert "95" in said.promise
    assert "the network as given" in said.promise
    assert "873 wrong" in said.measured
    assert "hold at once" in outline.words


def test_every_certificate_every_assumption_and_every_digest_is_there(outline: Outline, example_audit: Audit) -> None:
    for c in example_audit.certificates:
        assert wording.certified(c) in outline.text
        assert c.digest in outline.text
        for assumption in c.hypotheses:
            assert assumption.statement in outline.words
        for digest in c.digests.values():
            assert digest in outline.text
    assert "a person must argue it" in outline.words
    assert "checked by program" in outline.words


def test_indicators_skipped_bounds_and_facts_are_there(outline: Outline, example_audit: Audit) -> None:
    for indicator in example_audit.indicators:
        assert indicator.reason in outline.words
    for skipped in example_audit.skipped:
        assert skipped.reason in outline.words
    for fact in ("mlp:784-600-600-10", "837 610", "nonvacuous verify certificates", "2.2 passes", "forward 4.2 s"):
        assert fact in outline.words, fact


def test_nothing_can_be_promised_is_said(changed_audit: Callable[..., Audit]) -> None:
    vacuous = tuple(c for c in certificates() if c.vacuous)
    for every, remedy in ((vacuous, "Every certificate is vacuous"), ((), "No certificate was issued")):
        audit = changed_audit(every, test=None)
        words = Outline(page(audit)).words
        assert "Nothing non-vacuous can be promised" in words
        assert remedy in words
        assert "pass one as test" in words
        assert "Nothing non-vacuous can be promised" in fragment(audit)


def test_a_promise_about_another_predictor_is_not_passed_off_as_one_about_the_network(
    changed_audit: Callable[..., Audit],
) -> None:
    gibbs = tuple(c for c in certificates() if c.predictor == "gibbs")
    said = headline(changed_audit(gibbs))
    assert said.promise.startswith("About the network as given, nothing non-vacuous can be promised.")
    assert "randomized (Gibbs)" in said.promise


def test_a_loss_that_is_no_share_is_not_shown_in_per_cent(example_audit: Audit, changed_audit: Callable[..., Audit]) -> None:
    bounded = certificate("chernoff", "deterministic", 0.02, {"risk": 0.0312, "n": 10_000}, loss="squared_error")
    sample = replace(example_audit.facts.test, risk=0.0312, errors=None, classes=None)  # type: ignore[type-var]
    audit = changed_audit((bounded,), loss="squared_error", test=sample)
    said = headline(audit)
    assert "%" not in said.number
    assert "mean squared error" in said.promise
    assert page(audit)


def test_warnings_come_with_the_limits(changed_audit: Callable[..., Audit]) -> None:
    assert "3 held-out examples also occur" in Outline(page(changed_audit(overlap=3))).words
    assert "No held-out sample was given" in Outline(page(changed_audit(test=None))).words


@pytest.fixture(scope="module")
def hostile(example_audit: Audit, changed_audit: Callable[..., Audit]) -> Audit:
    """Every string that a user or a file can choose is an attack."""
    facts: Any = example_audit.facts
    attacked = changed_audit(
        tuple(replace(c, measurement={HOSTILE: HOSTILE}, digests={HOSTILE: HOSTILE}) for c in certificates()),
        model=HOSTILE,
        device=HOSTILE,
        train=replace(facts.train, name=HOSTILE, notes=(HOSTILE,), digest=HOSTILE),
        seconds={HOSTILE: 1.0},
    )
    return replace(
        attacked,
        skipped=(Skipped(HOSTILE, HOSTILE),),
        indicators=(Indicator(HOSTILE, 0.0, float("inf"), HOSTILE, HOSTILE, HOSTILE),),
        ledger={HOSTILE: 0.05},
    )


@pytest.mark.parametrize("render", [page, fragment])
def test_hostile_names_stay_names(render: Callable[[Audit], str], hostile: Audit, example_audit: Audit) -> None:
    def dangerous(html: str) -> list[tuple[str, dict[str, str]]]:
        return [
            (t, a) for t, a in Outline(html).elements if t in {"script", "img", "iframe"} or any(n.startswith("on") for n in a)
        ]

    assert dangerous(render(hostile)) == dangerous(render(example_audit))
    assert HOSTILE in unescape(render(hostile))


def test_the_fragment_is_small_and_static(example_audit: Audit) -> None:
    html = fragment(example_audit)
    assert html == example_audit._repr_html_()
    assert len(html) < 20_000
    assert {tag for tag, _ in Outline(html).elements}.isdisjoint({"script", "style", "link", "img"})


class TestSheets:
    def test_one_a_certificate_limits_before_evidence(self, html: str, example_audit: Audit) -> None:
        sheets = re.findall(r'<details class="sheet[^>]*>.*?</details>', html, re.S)
        assert len(sheets) == len(example_audit.certificates)
        for sheet, c in zip(sheets, example_audit.certificates, strict=True):
            order = [
                "statement",
                "What it does not say",
                "What a person must still argue",
                "signature",
                "<h4>Evidence",
                c.digest,
            ]
            if c.vacuous:
                order = ["promises nothing", "<h4>Evidence", c.digest]
            places = [sheet.index(mark) for mark in order]
            assert places == sorted(places)

    def test_only_confirmed_objectives_are_named(self, html: str) -> None:
        assert set(re.findall(r"\b(?:LM|DM|DA|IMP|EXP|CM)-\d\d\b", Outline(html).text)) <= {
            "LM-04",
            "LM-06",
            "LM-14",
            "DM-06",
            "DM-08",
        }

    def test_held_out_certificates_verify_the_bounds(self, html: str) -> None:
        sheets = re.findall(r'id="sheet-([a-z-]+)".*?</details>', html, re.S)
        bodies = dict(zip(sheets, re.findall(r'id="sheet-[a-z-]+".*?</details>', html, re.S), strict=True))
        assert "LM-14" in bodies["binomial-tail"]
        assert "LM-14" not in bodies["seeger"]
        assert "no claim of compliance" in bodies["seeger"]

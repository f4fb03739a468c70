"""The page in a real browser: silent, complete, readable on a phone and on paper."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nonvacuous.auditing.report import page
from nonvacuous.auditing.result import Audit
from tests.auditing.conftest import HOSTILE, certificates

PHONE, DESKTOP = 375, 1280


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Callable[..., Any]:
    """``show(audit, width=…, dark=…)``: the browser with the page loaded from a file."""

    def load(audit: Audit, width: int = DESKTOP, dark: bool = False) -> Any:
        file = tmp_path / "audit.html"
        file.write_text(page(audit), encoding="utf-8")
        metrics = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
        browser.get(file.as_uri())
        return browser

    yield load  # type: ignore[misc]
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_no_complaints_and_all_charts_drawn(show: Callable[..., Any], example_audit: Audit) -> None:
    browser = show(example_audit)
    drawn = "return [...document.querySelectorAll('.chart')].map(c => c.querySelectorAll('svg.main-svg .bars .point').length)"
    assert browser.execute_script(drawn) == [7, 7, 44]
    assert browser.get_log("browser") == []
    requested = "return performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:'))"
    assert browser.execute_script(requested) == []


@pytest.mark.parametrize("which", ["full", "vacuous", "none", "hostile"])
def test_a_phone_does_not_scroll_sideways(show: Callable[..., Any], changed_audit: Callable[..., Audit], which: str) -> None:
    audit = {
        "full": lambda: changed_audit(),
        "vacuous": lambda: changed_audit(tuple(c for c in certificates() if c.vacuous), test=None),
        "none": lambda: changed_audit(()),
        "hostile": lambda: changed_audit(model=HOSTILE + "x" * 300),
    }[which]()
    browser = show(audit, PHONE)
    browser.execute_script("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= PHONE
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("width", [PHONE, DESKTOP])
def test_no_text_of_a_chart_is_cut_or_overlaps_another(show: Callable[..., Any], example_audit: Audit, width: int) -> None:
    browser = show(example_audit, width)
    boxes = browser.execute_script("""
        const box = t => { const b = t.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom, t.textContent]; };
        return [...document.querySelectorAll('.chart')].map(
            c => [...c.querySelectorAll('.annotation-text, .xtick text')].map(box))""")
    for chart in boxes:
        assert chart
        for left, _, right, _, text in chart:
            assert left >= 0 and right <= width, text
        for place, (l1, t1, r1, b1, first) in enumerate(chart):
            for l2, t2, r2, b2, second in chart[place + 1 :]:
                assert min(r1, r2) <= max(l1, l2) + 1 or min(b1, b2) <= max(t1, t2) + 2, (first, second)


def luminance(colour: str) -> float:
    channels = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_text_stands_out(show: Callable[..., Any], example_audit: Audit, dark: bool) -> None:
    browser = show(example_audit, dark=dark)
    pairs = browser.execute_script("""
        const behind = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor;
            if (c !== 'rgba(0, 0, 0, 0)') return c; } return 'rgb(255, 255, 255)'; };
        const seen = {};
        for (const e of document.querySelectorAll('body *')) {
            if (!e.closest('svg, script, style') && [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()))
                seen[getComputedStyle(e).color + '|' + behind(e)] = e.outerHTML.slice(0, 80);
            if (e.matches('.chart svg text') && e.textContent)
                seen[getComputedStyle(e).fill + '|' + behind(e)] = e.textContent;
        }
        return Object.entries(seen);""")
    assert len(pairs) > 3
    for colours, where in pairs:
        ink, paper = (luminance(colour) for colour in colours.split("|"))
        contrast = (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05)
        assert contrast >= 4.5, (contrast, colours, where)
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (luminance(background) < 0.2) == dark


def test_a_link_to_a_sheet_opens_it(show: Callable[..., Any], example_audit: Audit) -> None:
    browser = show(example_audit)
    assert not browser.execute_script("return document.getElementById('sheet-seeger').open")
    browser.execute_script("location.hash = 'sheet-seeger'")
    opened = "const done = arguments[0]; setTimeout(() => done(document.getElementById('sheet-seeger').open), 50)"
    assert browser.execute_async_script(opened)


def test_hostile_names_run_nothing(show: Callable[..., Any], changed_audit: Callable[..., Audit]) -> None:
    browser = show(changed_audit(model=HOSTILE, device=HOSTILE))  # an alert would make the next command fail
    assert browser.execute_script("return document.querySelector('h1').textContent") == HOSTILE
    assert browser.execute_script("return document.images.length") == 0
    assert browser.get_log("browser") == []


def printed_pages(browser: Any) -> int:
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"])
    return len(re.findall(rb"/Type\s*/Page\b", pdf))


def test_each_assurance_sheet_prints_on_one_page(show: Callable[..., Any], changed_audit: Callable[..., Audit]) -> None:
    sound = tuple(c for c in certificates() if not c.vacuous)
    whole = printed_pages(show(changed_audit(sound)))
    without = show(changed_audit(sound))
    without.execute_script("document.getElementById('sheets').remove()")
    rest = printed_pages(without)
    assert whole - rest in {len(sound), len(sound) + 1}  # the footer may take a page of its own


def test_printing_opens_the_sheets_and_closes_them_again(show: Callable[..., Any], example_audit: Audit) -> None:
    browser = show(example_audit)
    count = "return document.querySelectorAll('details.sheet[open]').length"
    browser.execute_script("window.dispatchEvent(new Event('beforeprint'))")
    assert browser.execute_script(count) == len(example_audit.certificates)
    browser.execute_script("window.dispatchEvent(new Event('afterprint'))")
    assert browser.execute_script(count) == 0

"""Progress of tasks where stderr is no terminal."""

from __future__ import annotations

import pytest

from nonvacuous.runtime import tasks


def test_lines_for_logs(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 4.0, 11.0, 12.0, 30.0, 31.0])
    monkeypatch.setattr(tasks.time, "perf_counter", lambda: next(clock))
    with tasks.progress_bar(True) as bar, bar.task("reading", 100) as advance:
        for steps in (10, 40, 10, 40):  # at 4, 11, 12 and 30 s
            advance(steps)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["reading", "reading: 50%, 11 s left", "reading: 100%, 0 s left", "reading: done (31 s)"]


def test_a_short_task_is_one_line_and_a_silent_one_none(capsys: pytest.CaptureFixture[str]) -> None:
    with tasks.progress_bar(True) as bar, bar.task("certifying", None) as advance:
        advance(1)
    with tasks.progress_bar(False) as bar, bar.task("certifying", 3) as advance:
        advance(3)
    assert capsys.readouterr().err == "certifying\n"

"""The same run is told in the same words by window, report, page, command and over HTTP."""

from __future__ import annotations

import io
import json
import re
from html.parser import HTMLParser

import pytest
from PySide6.QtWidgets import QLabel
from pytestqt.qtbot import QtBot

from app.api.rendering import render
from app.api.routes.runs import analysed
from app.cli.output import print_telling
from app.runs.export import ExportFormat, export_runs
from app.runs.run import Run
from app.runs.telling import COMPUTING, tell
from app.ui.runs.detail_parts import SectionView
from app.ui.runs.run_detail import RunDetail
from app.ui.runs.run_reader import Reading
from app.ui.workbench import Workbench
from tests.runs.samples import deployment_run, job_run, request_run, trace_of

TRACE = trace_of(tokens=40, took_us=10_000, stages=[(0, 4_000), (700, 3_000)])
LONG_PROMPT = trace_of(tokens=4, took_us=10_000, first_us=900_000, stages=[(0, 4_000), (700, 3_000)])
RUNS = {
    "request": request_run(TRACE),
    "request with a long prompt": request_run(LONG_PROMPT),
    "failed request": request_run(TRACE, status="failed", error="Node mini was lost.", result="The capital"),
    "request without times": request_run(None),
    "deployment": deployment_run(),
    "failed deployment": deployment_run(error="Node mini lacks 3 GB."),
    "job": job_run(),
}
MOMENTS = {"Asked", "Started", "Ended"}
"""A report tells them in UTC, the window in the user's time zone."""
Pairs = set[tuple[str, str]]


class _Page(HTMLParser):
    """The pairs of all lists of facts, and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.pairs: Pairs = set()
        self.text = ""
        self._names: list[str] = [""]
        self._value: str | None = None
        self._in_name = False
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag == "dt":
            self._names.append("")
            self._in_name = True
        elif tag == "dd":
            self._value = ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "dt":
            self._in_name = False
        elif tag == "dd" and self._value is not None:
            self.pairs.add((self._names[-1], self._value))
            self._value = None

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_name:
            self._names[-1] += data
        elif self._value is not None:
            self._value += data


def _said(pairs: Pairs) -> Pairs:
    return {(name, value) for name, value in pairs if name not in MOMENTS and value != "–"}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_window_report_page_command_and_http_tell_a_run_in_the_same_words(
    run: Run,
    quiet_workbench: Workbench,
    qtbot: QtBot,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told = tell(run)
    expected = {(name, value) for section in told.all_sections() for name, value in section.facts if value != "–"}
    facts: Pairs = {(name, value) for name, value in expected if isinstance(value, str)}
    sentences = [told.title, told.run.error or "", told.advice, told.insight]
    sentences += [part for passage in told.passages for part in passage.shown()]
    sentences += [f"{part.name}: {part.words}" for part in told.times if part.name != COMPUTING]  # by stage in a report

    detail = RunDetail(quiet_workbench)
    qtbot.addWidget(detail)
    detail.show_reading(Reading(told))
    in_window: Pairs = set()
    for view in detail.findChildren(SectionView):
        shown = [label.text() for label in view.findChildren(QLabel)][1:]  # the first is the heading
        in_window |= set(zip(shown[::2], shown[1::2], strict=True))
    assert _said(in_window) == facts
    window = told.as_text()
    assert all(part in window for part in sentences[:4])

    output = io.BytesIO()
    export_runs([run], ExportFormat.HTML, output)
    report = _Page(output.getvalue().decode())
    page = _Page(render("run.html", run=run, told=told, job=None, path="", token="", has_log_out=False))
    for rendered in (report, page):
        assert _said(rendered.pairs) == facts
        text = re.sub(r"\s+", " ", rendered.text)
        for part in sentences:
            words = re.sub(r"\s+", " ", part).split(": ") if ": " in part and part not in text else [part]
            assert all(each in text for each in words), part
        assert told.state in rendered.text

    monkeypatch.setenv("COLUMNS", "400")
    print_telling(told)
    printed = capsys.readouterr().out
    lines = {re.sub(r"\s+", " ", line.strip()) for line in printed.splitlines()}
    assert all(f"{name} {value}" in lines for name, value in facts)
    assert all(part in printed for part in sentences)
    assert f"({told.state.lower()})" in printed

    over_http = json.loads(analysed(run, with_bars=False))
    assert (over_http["bottleneck"] or {"sentence": ""})["sentence"] == told.insight
    if run.request is not None:
        assert over_http["run"]["request"]["result"] == told.passages[1].text

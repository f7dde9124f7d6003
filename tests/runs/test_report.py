"""The report: one file that shows what was recorded, in a real browser, and runs nothing of it."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as limits
from hypothesis import strategies as st
from msgspec.structs import replace

from app.runs.export import ExportFormat, export_runs
from app.runs.export.charts import columns, speed, waterfall
from app.runs.run import JobFacts, Run, RunEvent
from app.runs.trace import ChunkTime, Origin, RequestTrace, StageShare, TokenTime
from tests.runs.chromium import BROWSER, DRIVER, Browser, open_browser
from tests.runs.samples import BEGAN, deployment_run, job_run, prompt_in_chunks, request_run, trace_of

STAGES = [(0, 4_000), (700, 3_000)]
HOSTILE = (
    "</pre></title></style><script>window.hacked = 1</script><img src='http://x.invalid/i' onerror='window.hacked = 2'>"
    '"><svg onload="window.hacked = 3"> {{ 7 * 7 }} {% raw %} &lt; \u202e\x00\x1b[31m javascript:window.hacked=4'
)


def report(runs: list[Run]) -> str:
    output = io.BytesIO()
    assert export_runs(runs, ExportFormat.HTML, output) == len(runs)
    return output.getvalue().decode()


def hostile_run(id: str = "7") -> Run:
    """Every text that somebody else may have chosen is an attack."""
    trace = trace_of(tokens=40, took_us=10_000, stages=STAGES)
    assert trace.plan is not None
    assert trace.model is not None
    stages = tuple(replace(stage, node=HOSTILE) for stage in trace.plan.stages)
    nodes = tuple(replace(node, name=HOSTILE, address=HOSTILE, cpu=HOSTILE, system=HOSTILE) for node in trace.nodes)
    hurt = replace(
        trace,
        plan=replace(trace.plan, stages=stages, plan_hash=HOSTILE, dtype=HOSTILE),
        nodes=nodes,
        model=replace(trace.model, name=HOSTILE, source=HOSTILE),
        origin=Origin(via="http", user=HOSTILE, client=HOSTILE),
    )
    told = RunEvent(at=BEGAN, level=HOSTILE, source=HOSTILE, message=HOSTILE, node=HOSTILE)
    run = request_run(hurt, id=id, prompt=HOSTILE, result=HOSTILE, error=HOSTILE, status=HOSTILE, events=(told,))
    assert run.request is not None
    return replace(
        run, model=HOSTILE, request=replace(run.request, parameters={HOSTILE: HOSTILE}, finish_reason=HOSTILE)
    )


def hostile_job() -> Run:
    return replace(job_run(), job=JobFacts(kind=HOSTILE, title=HOSTILE, details={HOSTILE: HOSTILE}), error=HOSTILE)


class Elements(HTMLParser):
    """Which elements and attributes a page has."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


def test_a_report_asks_for_nothing_and_runs_nothing() -> None:
    page = Elements(report([hostile_run(), deployment_run(), hostile_job()]))
    assert not {"script", "img", "link", "iframe", "object", "embed", "form", "base"} & set(page.tags)
    assert not [name for name, _ in page.attributes if name.startswith("on") or name in ("src", "srcset", "action")]
    links = {value for name, value in page.attributes if name == "href"}
    assert all(value is not None and value.startswith("#") for value in links)
    assert page.tags.count("svg") == Elements(report([request_run(trace_of(tokens=40, took_us=10_000, stages=STAGES),
        error="x", events=(RunEvent(at=BEGAN, level="info", source="x", message="x"),)),
        deployment_run(), replace(job_run(), error="x")])).tags.count("svg")  # fmt: skip


def test_one_run_says_what_was_recorded_of_it() -> None:
    event = RunEvent(
        at=BEGAN + timedelta(seconds=0.25), level="warning", source="health", message="a late beat", node="mini"
    )
    page = report([request_run(trace_of(tokens=40, took_us=10_000, stages=STAGES), events=(event,))])
    for said in (
        "<title>Request 7 · Shardboard</title>", "What is the capital of France?", "The capital of France is Paris.",
        "Computing on studio (layers 0–11) takes 40 %", "layers 12–23", "Ryzen 9, 16 threads", "tokenizers",
        "12:00:00.250", "a late beat", "900 MB", "temperature", "100 <small>", "LlamaForCausalLM",
        "openai-python 2.1 from 10.0.0.9",
    ):  # fmt: skip
        assert said in page.replace("<small> tokens/s", " <small>"), said


def test_several_runs_have_a_table_of_contents_whose_links_lead_somewhere() -> None:
    page = Elements(report([request_run(None, id="1"), deployment_run(), job_run()]))
    ids = [value for name, value in page.attributes if name == "id"]
    links = [value for name, value in page.attributes if name == "href"]
    assert len(set(ids)) == len(ids) == 4
    assert {f"#{id}" for id in ids} == set(links)


def test_no_runs_are_a_page_too() -> None:
    assert "Nothing was selected." in report([])


def test_texts_that_were_not_kept_are_not_called_empty() -> None:
    page = report([request_run(RequestTrace(prompt_kept=False), prompt="", result="")])
    assert "The settings say that texts are not kept." in page
    assert "No answer." not in page


def test_a_long_answer_makes_no_large_file() -> None:
    short = len(report([request_run(trace_of(tokens=160, took_us=10_000, stages=STAGES), result="")]))
    long = len(report([request_run(trace_of(tokens=20_000, took_us=10_000, stages=STAGES), result="")]))
    assert long < 1.3 * short < 200_000


def test_a_very_long_text_is_cut_and_says_so() -> None:
    page = report([request_run(None, prompt="a" * 250_000)])
    assert "50,000 more characters are left out." in page
    assert len(page) < 230_000


def test_the_areas_of_the_bars_are_the_times() -> None:
    trace = trace_of(tokens=30, took_us=10_000, stages=STAGES)
    chart = columns(trace)
    assert chart is not None
    width = {shape.look: area(shape.path) for shape in chart.shapes}
    whole = sum(width.values())
    assert {look: round(each / whole, 2) for look, each in width.items()} == {
        "s0": 0.4, "s1": 0.3, "queue": 0.07, "wire": 0.23,
    }  # fmt: skip


def area(path: str) -> float:
    """Of the rectangles in a path."""
    return sum(float(width) * float(height) for width, height in re.findall(r"h([\d.]+)v([\d.]+)", path))


def test_one_slow_token_does_not_press_the_others_flat() -> None:
    trace = trace_of(tokens=30, took_us=10_000, stages=STAGES)
    late = [TokenTime(token.at_us + 2_990_000, token.took_us, 1, token.stages) for token in trace.tokens[12:]]
    late[0] = TokenTime(late[0].at_us, 3_000_000, 1, late[0].stages)
    chart = columns(replace(trace, tokens=(*trace.tokens[:12], *late)))
    assert chart is not None
    assert "3 s, more than fits here" in chart.remark
    assert [tick.label for tick in chart.up][-1] == "40 ms"


TIMES = st.integers(0, 10**8)
SHARES = st.lists(st.builds(StageShare, TIMES, TIMES), max_size=4).map(tuple)


@limits(max_examples=60)
@given(
    first=TIMES,
    chunks=st.lists(st.builds(ChunkTime, TIMES, TIMES, TIMES, SHARES), max_size=12),
    tokens=st.lists(st.builds(TokenTime, TIMES, TIMES, st.integers(1, 9), SHARES), max_size=12),
)
def test_whatever_was_recorded_can_be_drawn(first: int, chunks: list[ChunkTime], tokens: list[TokenTime]) -> None:
    tokens.sort(key=lambda token: token.at_us)
    trace = RequestTrace(first_step_us=first, chunks=tuple(chunks), tokens=tuple(tokens))
    for chart in (waterfall(trace), columns(trace), speed(trace)):
        for shape in () if chart is None else chart.shapes:
            assert not re.search(r"nan|inf|e-", shape.path)
            if shape.look not in ("area", "line", "mean"):
                assert all(
                    -1 <= float(number) <= 1001 for number in re.findall(r"-?[\d.]+", shape.path.replace("h-", "h"))
                )
    assert "nan" not in report([request_run(trace)]).lower().replace("finance", "")


# --- in a browser --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if BROWSER is None or DRIVER is None:
        pytest.skip("there is no Chromium here")
    with open_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


def test_the_browser_finds_nothing_to_complain_of_and_asks_for_nothing(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    runs = [hostile_run(), request_run(prompt_in_chunks()), deployment_run(), hostile_job()]
    file.write_text(report(runs), encoding="utf-8")
    for dark in (False, True):
        browser.open(file, dark=dark)
        assert browser.run("return document.querySelectorAll('article').length") == 4
        assert browser.console() == []
        assert browser.requests() == [file.as_uri()]


def test_hostile_texts_are_inert_even_without_the_policy(browser: Browser, tmp_path: Path) -> None:
    page = report([hostile_run("1"), hostile_run("2")])
    policy = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
    assert policy.search(page)
    file = tmp_path / "open.html"
    file.write_text(policy.sub("", page), encoding="utf-8")
    browser.open(file)
    assert browser.run("return typeof window.hacked") == "undefined"
    assert browser.run("return document.querySelectorAll('script, img, [onload], [onerror]').length") == 0
    shown = browser.run("return document.querySelector('pre').textContent")
    assert shown == HOSTILE.replace("\x00", "\ufffd").replace("\x1b", "\ufffd")
    assert browser.requests() == [file.as_uri()]


def test_the_policy_stops_a_script_that_got_in_all_the_same(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "broken.html"
    page = report([request_run(None)])
    file.write_text(page.replace("<main>", "<main><script>window.hacked = 1</script>"), encoding="utf-8")
    browser.open(file)
    assert browser.run("return typeof window.hacked") == "undefined"
    assert "Content Security Policy" in browser.console()[0]


@pytest.mark.parametrize("width", [1280, 700, 400])
def test_nothing_stands_out_of_the_page(browser: Browser, tmp_path: Path, width: int) -> None:
    file = tmp_path / "report.html"
    long = request_run(trace_of(tokens=2000, took_us=10_000, stages=[(100, 1000)] * 3), prompt="Donau" * 500)
    file.write_text(report([long, hostile_run(), deployment_run()]), encoding="utf-8")
    browser.open(file, width=width)
    assert browser.run("return document.documentElement.scrollWidth - document.documentElement.clientWidth") == 0
    # A card or a panel holds its words, too.
    wide = browser.run(
        "return [...document.querySelectorAll('.cards div, .panel:not(.scroll), .note, .title')]"
        ".filter(e => e.scrollWidth > e.clientWidth + 1).map(e => e.textContent.slice(0, 60))"
    )
    assert wide == []


def test_the_colours_follow_the_reader_and_paper_is_white(browser: Browser, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(report([request_run(trace_of(tokens=40, took_us=10_000, stages=STAGES))]), encoding="utf-8")
    ground = "return getComputedStyle(document.body).backgroundColor"
    browser.open(file)
    light = browser.run(ground)
    browser.open(file, dark=True)
    assert browser.run(ground) != light
    browser.open(file, dark=True, media="print")
    assert browser.run(ground) == "rgb(255, 255, 255)"


def test_a_trace_is_read_by_the_browsers_json(browser: Browser, tmp_path: Path) -> None:
    """Both viewers read a trace with JavaScript: its numbers are exact up to 2^53 only."""
    output = io.BytesIO()
    trace = trace_of(tokens=40, took_us=10_000, stages=STAGES)
    export_runs([request_run(trace, prompt=HOSTILE), deployment_run()], ExportFormat.CHROME, output)
    (tmp_path / "empty.html").write_text("<!doctype html><title>x</title>")
    browser.open(tmp_path / "empty.html")
    text = json.dumps(output.getvalue().decode())
    ends = browser.run(
        f"return JSON.parse({text}).traceEvents.filter(e => e.cat == 'token' && e.ph == 'X').map(e => e.ts + e.dur)"
    )
    assert ends == [1_772_366_400_000_000 + token.at_us for token in trace.tokens]

"""What is said of a run, whoever renders it. tests/ui/test_runs_told.py compares the renderings."""

from __future__ import annotations

from msgspec.structs import replace

from app.runs.telling import event_text, tell, times_told
from app.runs.trace import Origin, RequestTrace, StageWay
from tests.runs.samples import BEGAN, deployment_run, job_run, request_run, trace_of

TIMINGS = {"prepare": 1.0, "first_token": 3.0, "decode": 6.0, "total": 9.0, "tokens_per_second": 20.0}


def test_the_parts_of_a_request_add_up_to_its_time() -> None:
    parts = times_told(TIMINGS)
    assert [(part.name, part.words) for part in parts] == [
        ("Getting ready", "1 s, 11 %"), ("Reading the prompt", "2 s, 22 %"), ("Answering", "6 s, 67 %"),
    ]  # fmt: skip


def test_a_request_that_never_began_has_waited_and_one_without_timings_says_nothing_of_them() -> None:
    waited = times_told({"prepare": 1.0, "total": 4.0})
    assert [part.name for part in waited] == ["Getting ready", "Waiting for a turn"]
    assert times_told({}) == ()


def test_a_request_under_way_does_not_make_up_what_it_has_not_reached() -> None:
    told = tell(replace(request_run(None, status="processing", result=""), completed_at=None))
    assert told.passages[1].shown() == ("", "The answer is shown here when it has ended.")
    assert (told.insight, told.is_over, told.state, told.answer) == ("", False, "Running", None)
    assert dict(told.facts)["Ended"] == "–"


def test_who_asked_is_told_where_it_is_known() -> None:
    trace = trace_of(tokens=2, took_us=10_000, stages=[(0, 4_000)])
    assert dict(tell(request_run(trace)).facts)["Asked by"] == ("laptop, over HTTP: openai-python 2.1 from 10.0.0.9")
    nobody = replace(trace, origin=Origin(via="program"))
    assert dict(tell(request_run(nobody)).facts)["Asked by"] == "from a program"
    assert dict(tell(request_run(None)).facts)["Asked by"] == "–"


def test_texts_that_were_not_kept_are_not_called_empty() -> None:
    told = tell(request_run(RequestTrace(prompt_kept=False), prompt="", result=""))
    assert {passage.shown() for passage in told.passages} == {("", "The settings say that texts are not kept.")}


def test_a_stage_tells_what_it_holds_and_how_it_ran() -> None:
    trace = trace_of(tokens=2, took_us=10_000, stages=[(0, 4_000)])
    assert trace.plan is not None
    ways = (StageWay(name="packed", used=58, possible=60, why="their rows are too few"),)
    plan = replace(trace.plan, stages=(replace(trace.plan.stages[0], ways=ways),))
    (stages,) = (each for each in tell(request_run(replace(trace, plan=plan))).plan if each.title == "Stages")
    assert stages.facts == (
        ("1 · studio", "layers 0–11, 100 MB of weights, 20 MB of KV cache\n"
         "Packed weights: 2 of 60 matrices not packed: their rows are too few"),
    )  # fmt: skip


def test_nodes_of_the_same_name_are_told_apart() -> None:
    trace = trace_of(tokens=2, took_us=10_000, stages=[(0, 1)] * 4)
    titles = [section.title for section in tell(request_run(trace)).plan if section.title.startswith("Node")]
    assert titles == ["Node studio (1)", "Node mini", "Node attic", "Node studio (4)"]


def test_phases_of_deployments_and_jobs_are_told_with_what_they_moved() -> None:
    (phases,) = (section for section in tell(deployment_run()).sections if section.title == "Phases")
    assert phases.facts[0] == ("1", "studio, sending: 890 ms, 180 MB, 202 MB/s")
    assert dict(tell(deployment_run()).figures) == {
        "Time": "2.1 s", "Stages": "2", "Context": "2,048 tokens", "KV memory for": "8,192 tokens",
        "Moved": "360 MB",
    }  # fmt: skip
    result = dict(next(section for section in tell(job_run()).sections if section.title == "Result").facts)
    assert result == {"Bytes": "270 MB", "Seconds": "4.8 s"}


def test_a_telling_is_copied_as_text_with_its_events() -> None:
    run = deployment_run(error="Node mini lacks 3 GB.")
    text = tell(run).as_text()
    assert text.startswith("Deployment of smol (failed)\n\nError: Node mini lacks 3 GB.")
    assert "See what each node can hold" in text and "warning: mini is slow" in text
    assert event_text(replace(run.events[0], message="a late beat")) == "mini: a late beat"
    assert run.created_at == BEGAN


def test_only_of_jobs_that_go_on_from_where_they_were_is_that_said() -> None:
    run = replace(job_run(), status="failed", error="The disk of /data is full. Free some space.")
    assert run.job is not None
    advice = {
        kind: tell(replace(run, job=replace(run.job, kind=kind))).advice for kind in ("add", "deploy", "cut", "invite")
    }
    assert advice["add"] == advice["deploy"] and "goes on from where it was" in advice["add"]
    assert (advice["cut"], advice["invite"]) == ("It can be begun again.", "")
    assert tell(job_run()).advice == ""

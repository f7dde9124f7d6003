"""Prediction and reality of a request stand side by side, with the error, where they can be compared."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from app.runs.foreseen import (
    compared,
    corrected_text,
    error_text,
    predicted_facts,
    predicted_text,
    stage_comparisons,
)
from app.runs.telling import tell
from app.runs.trace import Foreseen, Interruption, RequestTrace, StageForeseen, TokenTime
from tests.runs.samples import request_run, trace_of

FORESEEN = Foreseen(
    tokens_per_second=80.0, first_token_us=33_000, prompt_tokens=256, assumed=("Not measured: studio to mini.",)
)


def a_trace(**changes: object) -> RequestTrace:
    made = trace_of(tokens=5, took_us=10_000, stages=[(0, 4_000), (0, 3_000)], first_us=30_000)
    return replace(made, foreseen=FORESEEN, **changes)


def test_errors_are_of_what_was_predicted_over_what_was_measured() -> None:
    found = compared(a_trace())
    assert found is not None and found.why_not == ""
    assert found.tokens_per_second == pytest.approx(100.0)
    assert found.speed_error == pytest.approx(-0.2)
    assert found.first_token_us == 30_000
    assert found.first_token_error == pytest.approx(0.1)


def test_without_a_prediction_there_is_nothing_to_say() -> None:
    assert compared(trace_of(tokens=3, took_us=1_000, stages=[(0, 500)])) is None
    assert predicted_facts(trace_of(tokens=3, took_us=1_000, stages=[(0, 500)])) == ()


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"cached_tokens": 16}, "cache"),
        ({"interruptions": (Interruption(at_us=1, lasted_us=1, tokens=1),)}, "interrupted"),
        ({"tokens": ()}, "not kept"),
        ({"tokens": (TokenTime(30_000, 28_000, 1), TokenTime(40_000, 10_000, 3))}, "shared its steps"),
    ],
)
def test_what_was_predicted_of_one_answer_alone_is_compared_with_no_other(changes: dict[str, object], why: str) -> None:
    found = compared(a_trace(**changes))
    assert found is not None and why in found.why_not
    assert (found.speed_error, found.first_token_error) == (None, None)
    facts = dict(predicted_facts(a_trace(**changes)))
    assert why in facts["Not compared"] and "measured" not in facts["Speed"]


def test_a_telling_has_both_with_the_error_and_what_was_assumed() -> None:
    (section,) = (each for each in tell(request_run(a_trace())).sections if each.title == "Predicted")
    facts = dict(section.facts)
    assert facts["Speed"] == "80 tokens/s predicted, 100 tokens/s measured (−20 %)"
    assert facts["First token of 256"] == "33 ms predicted, 30 ms measured (+10 %)"
    assert facts["Assumed"] == "Not measured: studio to mini."


STAGES = tuple(
    StageForeseen(
        node_id=node, following_id=following, token=0.005, prompt=0.02, way=way, read_bytes_per_second=1e10,
        flops_per_second=1e11, rtt=0.001,
    )
    for node, following, way in ((1, 2, 0.001), (2, 1, 0.003))
)  # fmt: skip


def with_stages(trace: RequestTrace, *stages: StageForeseen) -> RequestTrace:
    assert trace.foreseen is not None
    return replace(trace, foreseen=replace(trace.foreseen, stages=stages, dtype="float32"))


def test_each_stage_learns_what_it_computed_and_each_way_its_part_of_the_rest() -> None:
    one, two = stage_comparisons(with_stages(a_trace(), *STAGES))
    assert (one.node_id, one.following_id, one.dtype, one.rtt) == (1, 2, "float32", 0.001)
    assert (one.token_predicted, one.token_measured) == (0.005, pytest.approx(0.004))
    assert (two.token_predicted, two.token_measured) == (0.005, pytest.approx(0.003))
    assert one.prompt_measured == pytest.approx(0.004), "the step that brings the first token reads the prompt"
    # Of 10 ms a token was computed for 7 ms; the ways share the rest as it was predicted of them.
    assert (one.way_measured, two.way_measured) == (pytest.approx(0.00075), pytest.approx(0.00225))


def test_a_stage_alone_takes_all_of_the_time() -> None:
    alone = trace_of(tokens=6, took_us=10_000, stages=[(0, 8_000)], first_us=30_000)
    (one,) = stage_comparisons(
        with_stages(replace(alone, foreseen=FORESEEN), replace(STAGES[0], following_id=None, way=0.0))
    )
    assert (one.token_measured, one.prompt_measured) == (pytest.approx(0.010), pytest.approx(0.030))
    assert (one.way_predicted, one.way_measured) == (0.0, 0.0)


def test_nothing_is_learned_of_what_cannot_be_compared() -> None:
    assert stage_comparisons(with_stages(a_trace(cached_tokens=16), *STAGES)) == ()
    assert stage_comparisons(a_trace()) == (), "a run of before stages were foreseen"
    few = with_stages(a_trace(), *STAGES)
    assert stage_comparisons(replace(few, tokens=few.tokens[:4])) == ()
    assert stage_comparisons(with_stages(a_trace(), STAGES[0])) == (), "it went over other stages"


def test_a_correction_is_said_with_the_runs_that_taught_it() -> None:
    assert corrected_text(1.0, 0) == ""
    assert corrected_text(1.124, 5) == "by 12 % after 5 runs, in which a token took longer than the formulas say"
    assert corrected_text(0.9, 1) == "by 10 % after 1 run, in which a token took less than the formulas say"
    assert corrected_text(1.001, 3) == "by less than 1 % after 3 runs"
    told = replace(a_trace(), foreseen=replace(FORESEEN, correction=1.12, corrected_runs=5))
    assert dict(predicted_facts(told))["Corrected"].startswith("by 12 % after 5 runs")


def test_figures_in_words() -> None:
    assert [error_text(each) for each in (0.124, -0.03, 0.001)] == ["+12 %", "−3 %", "0 %"]
    assert predicted_text(FORESEEN) == "about 80 tokens/s, first token of 256 in 33 ms"

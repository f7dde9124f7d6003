"""Prediction and reality of a request stand side by side, with the error, where they can be compared."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from app.runs.foreseen import compared, error_text, predicted_facts, predicted_text
from app.runs.telling import tell
from app.runs.trace import Foreseen, Interruption, RequestTrace, TokenTime
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


def test_figures_in_words() -> None:
    assert [error_text(each) for each in (0.124, -0.03, 0.001)] == ["+12 %", "−3 %", "0 %"]
    assert predicted_text(FORESEEN) == "about 80 tokens/s, first token of 256 in 33 ms"

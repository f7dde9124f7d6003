"""The sentence that says why it is slow: for every shape of a request, with the right figures."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from app.inference.events import StepPassed
from app.runs.bottleneck import LiveStep, explain, explain_live
from app.runs.trace import ChunkTime, Plan, RequestTrace, StageShare, TokenTime
from tests.runs.samples import nodes_of, plan_of, prompt_in_chunks, trace_of
from worker_agent.wire.messages import StageTime


def test_a_stage_on_a_slower_node_is_named_and_told_to_give_layers_away() -> None:
    found = explain(trace_of(tokens=101, took_us=11_500, stages=[(0, 8_200), (0, 2_600)]))
    assert (found.kind, found.stage, found.node) == ("compute", 0, "studio")
    assert found.share == pytest.approx(8.2 / 11.5)
    assert found.sentence == (
        "Computing on studio (layers 0–11) takes 71 % of each token's time, 8.2 of 11.5 ms: give it fewer layers, "
        "mini is faster."
    )


def test_a_stage_that_only_has_more_layers_is_not_called_slow() -> None:
    trace = trace_of(tokens=50, took_us=11_500, stages=[(0, 8_200), (0, 2_600)])
    assert trace.plan is not None
    uneven = (
        replace(trace.plan.stages[0], end=36, weight_bytes=300_000_000),
        replace(trace.plan.stages[1], start=36, end=48),
    )
    found = explain(replace(trace, plan=replace(trace.plan, stages=uneven)))
    assert found.kind == "compute"
    assert found.sentence.startswith("Computing on studio (layers 0–35) takes 71 %")
    assert "it has the most to compute" in found.sentence


def test_stages_that_share_a_machine_are_not_told_to_move_layers_to_each_other() -> None:
    found = explain(trace_of(tokens=50, took_us=11_500, stages=[(0, 8_200), (0, 2_600)], hosts=["127.0.0.1"]))
    assert (found.kind, found.node) == ("compute", "studio")
    assert "all stages share one machine" in found.sentence


def test_a_name_with_brackets_gets_no_more_of_them() -> None:
    trace = trace_of(tokens=50, took_us=11_500, stages=[(0, 8_200), (0, 2_600)])
    assert trace.plan is not None
    stages = tuple(replace(stage, node=f"node {stage.node_id} (vm)") for stage in trace.plan.stages)
    found = explain(replace(trace, plan=replace(trace.plan, stages=stages)))
    assert found.sentence.startswith("Computing on node 1 (vm), layers 0–11, takes 71 %")


def test_waiting_is_named_where_it_happens() -> None:
    found = explain(trace_of(tokens=20, took_us=20_000, stages=[(11_000, 3_000), (0, 4_000)]))
    assert (found.kind, found.stage, found.node) == ("queue", 0, "studio")
    assert found.sentence.startswith(
        "Waiting for other requests on studio (layers 0–11) takes 55 % of each token's time, 11 of 20 ms"
    )


def test_waiting_everywhere_blames_no_stage() -> None:
    found = explain(trace_of(tokens=20, took_us=20_000, stages=[(6_000, 3_000), (6_000, 4_000)]))
    assert (found.kind, found.stage) == ("queue", None)
    assert found.share == pytest.approx(0.6)
    assert "on studio" not in found.sentence


def test_the_network_is_named() -> None:
    found = explain(trace_of(tokens=20, took_us=20_000, stages=[(0, 3_600), (0, 4_000)]))
    assert (found.kind, found.stage) == ("wire", None)
    assert found.sentence == (
        "The network between the stages takes 62 % of each token's time, 12.4 of 20 ms: put the stages on nodes that "
        "are closer, or use fewer nodes."
    )


def test_stages_on_one_machine_are_not_told_to_move_closer() -> None:
    found = explain(trace_of(tokens=20, took_us=20_000, stages=[(0, 3_600), (0, 4_000)], hosts=["127.0.0.1"]))
    assert found.kind == "wire"
    assert "all are on one machine" in found.sentence
    assert "network" not in found.sentence


def test_one_stage_has_no_network() -> None:
    found = explain(trace_of(tokens=20, took_us=2_000, stages=[(0, 700)]))
    assert (found.kind, "network" in found.sentence) == ("wire", False)
    assert "65 % of each token's time, 1.3 of 2 ms" in found.sentence


def test_one_stage_that_computes_is_not_told_to_give_layers_to_others() -> None:
    found = explain(trace_of(tokens=20, took_us=20_000, stages=[(0, 19_000)]))
    assert (found.kind, found.stage, found.share) == ("compute", 0, pytest.approx(0.95))
    assert "it has all layers" in found.sentence


def test_no_stage_stands_out_when_all_do_the_same() -> None:
    found = explain(trace_of(tokens=20, took_us=10_000, stages=[(100, 4_500), (100, 4_700)]))
    assert (found.kind, found.stage) == ("balanced", None)
    assert found.sentence == (
        "No stage stands out: computing takes 92 % of each token's time over 2 stages (45 to 47 % each), waiting 2 %, "
        "the way between the stages 6 %, 10 ms a token in all."
    )


def test_loading_the_model_is_what_the_first_request_waits_for() -> None:
    found = explain(trace_of(tokens=20, took_us=10_000, stages=[(0, 9_000)], first_step_us=5_000_000))
    assert found.kind == "prepare"
    assert found.sentence.startswith("Loading the model took 96 % of the time, 5 of 5.2 s")


def test_getting_ready_in_milliseconds_is_not_called_loading() -> None:
    found = explain(trace_of(tokens=1, took_us=0, stages=[(0, 900)], first_step_us=4_000, first_us=1_000))
    assert found.kind == "prepare"
    assert "Loading" not in found.sentence
    assert "80 % of the time, 4 of 5 ms" in found.sentence


def test_a_long_prompt_is_named_with_its_speed() -> None:
    trace = trace_of(tokens=100, took_us=20_000, stages=[(0, 9_000), (0, 9_000)], first_us=12_900_000)
    found = explain(trace, prompt_tokens=4000)
    assert found.kind == "prompt"
    assert found.sentence == "Reading the prompt took 87 % of the time, 12.9 of 14.9 s: 4,000 tokens at 310 tokens/s."


def test_the_speed_of_a_prompt_is_known_from_its_chunks() -> None:
    found = explain(prompt_in_chunks())
    assert found.kind == "prompt"
    assert "1,536 tokens at 15,360 tokens/s" in found.sentence
    assert "most of it computing on studio" in found.sentence


@pytest.mark.parametrize("trace", [RequestTrace(), RequestTrace(first_step_us=3_000)])
def test_a_request_that_failed_before_its_first_token_explains_nothing(trace: RequestTrace) -> None:
    found = explain(trace)
    assert (found.kind, found.stage, found.share) == ("none", None, 0.0)
    assert "nothing to compare" in found.sentence


def test_figures_of_fewer_stages_than_planned_are_enough() -> None:
    trace = trace_of(tokens=20, took_us=10_000, stages=[(0, 8_000), (0, 500), (0, 500)])
    short = replace(trace, tokens=tuple(replace(token, stages=token.stages[:1]) for token in trace.tokens))
    assert (explain(short).kind, explain(short).node) == ("compute", "studio")


NUMBERS = st.integers(0, 10**8)
STAGES = st.lists(st.builds(StageShare, NUMBERS, NUMBERS), max_size=4).map(tuple)


@given(
    first_step=NUMBERS,
    chunks=st.lists(st.builds(ChunkTime, NUMBERS, NUMBERS, NUMBERS, STAGES), max_size=3),
    tokens=st.lists(st.builds(TokenTime, NUMBERS, NUMBERS, st.integers(1, 9), STAGES), max_size=5),
    plan=st.sampled_from([None, plan_of(1), plan_of(3)]),
)
def test_whatever_was_recorded_gets_one_sentence(
    first_step: int, chunks: list[ChunkTime], tokens: list[TokenTime], plan: Plan | None
) -> None:
    trace = RequestTrace(first_step_us=first_step, chunks=tuple(chunks), tokens=tuple(tokens), plan=plan)
    sentence = explain(trace).sentence
    assert sentence.endswith(".")
    assert not re.search(r"nan|inf|(?<!\d)-\d", sentence)


def steps(count: int, every_us: int, stages: list[tuple[int, int]]) -> list[LiveStep]:
    shares = tuple(StageShare(queue, compute) for queue, compute in stages)
    return [LiveStep(number * every_us, 4, 0, shares) for number in range(count)]


def test_live_the_busiest_stage_is_named() -> None:
    found = explain_live(steps(30, 10_000, [(0, 7_000), (0, 2_000)]), plan_of(2))
    assert (found.kind, found.stage, found.node) == ("compute", 0, "studio")
    assert "takes 70 % of the time, 7 of 10 ms a step: give it fewer layers, mini is faster" in found.sentence


def test_live_a_pause_between_requests_is_nobodys_fault() -> None:
    early, late = steps(20, 10_000, [(0, 9_000)]), steps(20, 10_000, [(0, 9_000)])
    after_lunch = [replace(step, at_us=step.at_us + 3_600_000_000) for step in late]
    found = explain_live([*early, *after_lunch], plan_of(1))
    assert (found.kind, found.share) == ("compute", pytest.approx(0.9))


def test_live_stages_that_compute_at_the_same_time_are_more_than_all_of_the_time() -> None:
    found = explain_live(steps(30, 10_000, [(0, 9_500), (4_000, 5_000)]), plan_of(2))
    assert (found.kind, found.node, found.share) == ("compute", "studio", pytest.approx(0.95))


def test_live_the_network_is_named() -> None:
    found = explain_live(steps(30, 10_000, [(0, 2_000), (0, 2_000)]), plan_of(2), nodes_of(2))
    assert found.kind == "wire"
    assert found.sentence.startswith("The network between the stages takes 60 % of the time, 6 of 10 ms a step")


@pytest.mark.parametrize("count", [0, 1, 2])
def test_live_too_few_steps_say_nothing(count: int) -> None:
    assert explain_live(steps(count, 10_000, [(0, 7_000)])).kind == "none"


def test_live_a_step_of_the_pipeline_is_taken_as_it_comes() -> None:
    step = StepPassed("d1", 3, 1, (StageTime(1, 20, 200), StageTime(0, 10, 100)))
    assert LiveStep.of(step, 5) == LiveStep(5, 3, 1, (StageShare(10, 100), StageShare(20, 200)))

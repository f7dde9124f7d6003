"""Where a request's time went: bars to draw, and totals that add up."""

from __future__ import annotations

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from app.runs.trace import ChunkTime, Interruption, RequestTrace, StageShare, TokenTime
from app.runs.waterfall import Bar, bars, shares
from tests.runs.samples import prompt_in_chunks, trace_of


def kinds(bar: Bar) -> list[tuple[str, int | None, int]]:
    return [(segment.kind, segment.stage, segment.took_us) for segment in bar.segments]


def test_a_token_waits_is_computed_and_travels_stage_by_stage() -> None:
    trace = trace_of(tokens=3, took_us=10_000, stages=[(0, 4_000), (1_000, 3_000)])
    second = bars(trace)[1]
    assert (second.token, second.began_us, second.ended_us) == (1, 32_000, 42_000)
    assert kinds(second) == [
        ("compute", 0, 4_000),
        ("wire", None, 1_000),
        ("queue", 1, 1_000),
        ("compute", 1, 3_000),
        ("wire", None, 1_000),
    ]


def test_with_one_stage_what_is_left_is_the_handing_over_at_the_end() -> None:
    trace = trace_of(tokens=2, took_us=10_000, stages=[(500, 9_000)])
    assert kinds(bars(trace)[1]) == [("queue", 0, 500), ("compute", 0, 9_000), ("wire", None, 500)]


def test_a_token_that_seems_to_have_taken_less_than_was_measured_is_shortened_in_proportion() -> None:
    trace = trace_of(tokens=2, took_us=5_000, stages=[(0, 6_000), (0, 4_000)])
    assert kinds(bars(trace)[1]) == [("compute", 0, 3_000), ("compute", 1, 2_000)]


def test_chunks_of_a_prompt_overlap_but_none_begins_before_the_agents_had_it() -> None:
    found = bars(prompt_in_chunks())
    assert [(bar.token, bar.began_us, bar.ended_us) for bar in found] == [
        (None, 2_000, 62_000),
        (None, 32_000, 82_000),
        (None, 52_000, 102_000),
        (0, 72_000, 122_000),
    ]
    early = RequestTrace(first_step_us=2_000, chunks=(ChunkTime(9_000, 7_000, 64, (StageShare(0, 40_000),)),))
    assert [(bar.began_us, bar.ended_us) for bar in bars(early)] == [(2_000, 9_000)]


def test_a_token_without_figures_of_stages_is_all_wire() -> None:
    trace = RequestTrace(first_step_us=100, tokens=(TokenTime(1_100, 1_000, 1),))
    assert kinds(bars(trace)[0]) == [("wire", None, 1_000)]


def test_the_shares_are_of_the_answer_after_its_first_token() -> None:
    trace = trace_of(tokens=11, took_us=10_000, stages=[(0, 4_000), (1_000, 3_000)])
    found = shares(trace)
    assert (found.prepare_us, found.prompt_us, found.decode_us) == (2_000, 30_000, 100_000)
    assert found.total_us == trace.tokens[-1].at_us
    assert (found.compute_us, found.queue_us, found.wire_us) == (70_000, 10_000, 20_000)
    assert [(stage.node, stage.compute_us, stage.queue_us) for stage in found.stages] == [
        ("studio", 40_000, 0),
        ("mini", 30_000, 10_000),
    ]
    assert [stage.prompt_compute_us for stage in found.stages] == [4_000, 3_000]


def test_a_token_seen_late_and_one_seen_early_make_up_for_each_other() -> None:
    stage = (StageShare(0, 9_000),)
    tokens = (
        TokenTime(50_000, 50_000, 1, stage),
        TokenTime(65_000, 15_000, 1, stage),
        TokenTime(70_000, 5_000, 1, stage),
    )
    assert shares(RequestTrace(tokens=tokens)).wire_us == 2_000


def test_nothing_happened_is_all_zeros() -> None:
    found = shares(RequestTrace())
    assert (found.total_us, found.prompt_us, found.decode_us, found.wire_us, found.stages) == (0, 0, 0, 0, ())
    assert bars(RequestTrace()) == ()


TIMES = st.integers(0, 10**7)
STAGES = st.lists(st.builds(StageShare, TIMES, TIMES), max_size=4).map(tuple)


@given(
    first_step=TIMES,
    chunks=st.lists(st.builds(ChunkTime, TIMES, TIMES, TIMES, STAGES), max_size=3),
    tokens=st.lists(st.builds(TokenTime, TIMES, TIMES, st.integers(1, 9), STAGES), max_size=5),
)
def test_whatever_was_recorded_bars_have_no_gaps_and_totals_add_up(
    first_step: int, chunks: list[ChunkTime], tokens: list[TokenTime]
) -> None:
    tokens.sort(key=lambda token: token.at_us)
    trace = RequestTrace(first_step_us=first_step, chunks=tuple(chunks), tokens=tuple(tokens))
    for bar in bars(trace):
        assert 0 <= bar.began_us <= bar.ended_us
        edges = [bar.began_us, *(segment.ended_us for segment in bar.segments)]
        assert [segment.began_us for segment in bar.segments] == edges[:-1]
        assert edges[-1] == bar.ended_us
        assert all(segment.took_us > 0 for segment in bar.segments)
    found = shares(trace)
    assert found.prepare_us + found.prompt_us + found.decode_us == found.total_us
    assert min(found.prepare_us, found.prompt_us, found.decode_us, found.wire_us) >= 0


def test_an_interruption_is_its_own_part_of_the_time() -> None:
    """Neither the network's nor the prompt's, and the parts still add up."""
    whole = trace_of(tokens=3, took_us=10_000, stages=[(0, 4_000)])
    pause = Interruption(at_us=whole.tokens[0].at_us, lasted_us=500, tokens=1)
    found = shares(msgspec.structs.replace(whole, interruptions=(pause,)))
    before = shares(whole)
    assert found.interrupted_us == 500 and found.wire_us == before.wire_us - 500
    assert (found.total_us, found.prompt_us, found.decode_us) == (
        before.total_us,
        before.prompt_us,
        before.decode_us - 500,
    )
    early = Interruption(at_us=0, lasted_us=200, tokens=0)
    found = shares(msgspec.structs.replace(whole, interruptions=(early,)))
    assert (found.interrupted_us, found.prompt_us) == (200, before.prompt_us - 200)

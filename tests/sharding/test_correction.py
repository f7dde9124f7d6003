"""What earlier runs teach of predictions: how a factor is learned, what it is bounded by, and when it is forgotten."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from math import log

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from app.registry import ComparisonRecord
from app.serving import Serving
from app.sharding.correction import MOST, Correction, Corrections, Pair, learned
from app.sharding.foresight import foreseen, foretell
from app.sharding.planning.planner import plan
from app.sharding.prediction import LinkSpeed, NodeSpeed
from tests.models.described import invented
from tests.sharding.offered import offer
from tests.sharding.test_foresight import a_node

SPEED, NUMBERS = NodeSpeed(1e9, 1e10), ("bfloat16", "none")
SECONDS = some.floats(1e-6, 1e3)
PAIRS = some.lists(some.builds(Pair, SECONDS, SECONDS, some.floats(0.1, 1.0)), max_size=25)
KEPT = ComparisonRecord(
    node_id=1, following_id=2, model_name="invented", dtype="bfloat16", quantize="none", token_predicted=0.01,
    token_measured=0.02, prompt_predicted=0.1, prompt_measured=0.1, way_predicted=0.001, way_measured=0.003,
    read_bytes_per_second=1e9, flops_per_second=1e10, rtt=None, id=1, created_at=datetime(2026, 3, 1, tzinfo=UTC),
)  # fmt: skip


@settings(deadline=None)
@given(PAIRS)
def test_a_factor_is_bounded_and_no_farther_from_one_than_what_was_seen(pairs: list[Pair]) -> None:
    found = learned(pairs)
    ratios = [pair.measured / pair.predicted for pair in pairs]
    assert 1 / MOST <= found.factor <= MOST and found.runs == len(pairs)
    assert min([1.0, *ratios]) * (1 - 1e-9) <= found.factor <= max([1.0, *ratios]) * (1 + 1e-9)


@settings(deadline=None)
@given(some.floats(1 / MOST, MOST), some.integers(1, 20))
def test_what_all_runs_agree_on_is_believed_the_more_the_more_there_are(ratio: float, runs: int) -> None:
    fewer, more = (learned([Pair(0.01, 0.01 * ratio)] * count) for count in (runs, runs + 1))
    assert abs(log(ratio / more.factor)) <= abs(log(ratio / fewer.factor)) + 1e-12
    assert abs(log(ratio / fewer.factor)) <= abs(log(ratio)) * 0.3 + 1e-12, "one run alone is most of it"


@settings(deadline=None)
@given(PAIRS, some.floats(0.01, 100.0))
def test_neither_units_nor_pairs_that_make_no_sense_change_anything(pairs: list[Pair], unit: float) -> None:
    found = learned(pairs)
    other = learned([Pair(each.predicted * unit, each.measured * unit, each.weight) for each in pairs])
    assert other.factor == pytest.approx(found.factor, rel=1e-6)
    assert learned([Pair(0.0, 1.0), *pairs, Pair(1.0, 0.0), Pair(1.0, -1.0)]) == found


def test_newer_runs_outvote_older_ones_and_a_busy_moment_says_nothing() -> None:
    slow, fast = Pair(0.01, 0.02), Pair(0.01, 0.01)
    assert learned([slow] * 3 + [fast] * 4).factor > 1.4, "three new ones outweigh four old ones"
    assert learned([fast] * 4 + [slow] * 3).factor == pytest.approx(1.0)
    assert learned([Pair(0.01, 0.5)] + [fast] * 4).factor == pytest.approx(1.0), "one run while others were at work"
    assert learned([]) == Correction(1.0, 0)


def test_what_was_learned_is_forgotten_when_machine_or_link_are_no_longer_as_they_were() -> None:
    known = Corrections([KEPT])
    assert known.of_node(1, "invented", "bfloat16", "none", SPEED).token.runs == 1
    assert known.of_node(1, "invented", "bfloat16", "none", replace(SPEED, flops_per_second=2e10)).token.runs == 0
    assert known.of_node(1, "invented", "bfloat16", "none", replace(SPEED, read_bytes_per_second=2e9)).token.runs == 0
    # Measured at another start of the same machine.
    again = replace(SPEED, flops_per_second=0.85 * SPEED.flops_per_second, read_bytes_per_second=1.1e9)
    assert known.of_node(1, "invented", "bfloat16", "none", again).token.runs == 1
    for other in (("invented", "float32", "none"), ("invented", "bfloat16", "int4")):
        assert known.of_node(1, *other, SPEED).token.runs == 0
    assert known.of_node(2, "invented", "bfloat16", "none", SPEED).token.runs == 0
    link = LinkSpeed(0.004, 1e8)
    assert known.ways(*NUMBERS) == [(1, 2)] and known.ways("float32", "none") == []
    assert known.of_way(1, 2, *NUMBERS, None).runs == 1 and known.of_way(1, 2, *NUMBERS, link).runs == 0
    assert known.of_way(2, 1, *NUMBERS, None).runs == 0 and known.of_way(1, 2, "float32", "none", None).runs == 0
    measured = Corrections([replace(KEPT, rtt=0.004)])
    assert measured.of_way(1, 2, *NUMBERS, link).runs == 1 and measured.of_way(1, 2, *NUMBERS, None).runs == 0
    assert [measured.of_way(1, 2, *NUMBERS, LinkSpeed(rtt, 1e8)).runs for rtt in (0.003, 0.01)] == [1, 0]


def test_the_same_model_says_more_than_others() -> None:
    other = [replace(KEPT, model_name="other", token_measured=0.04)] * 4
    known = Corrections([KEPT, *other])
    assert known.of_node(1, "invented", "bfloat16", "none", SPEED).token.factor < 2.0
    assert known.of_node(1, "other", "bfloat16", "none", SPEED).token.factor > 2.5


def test_a_prediction_is_corrected_and_keeps_what_the_formulas_say_alone() -> None:
    model, serving = invented([1_000_000] * 2), Serving(dtype="bfloat16", context=1024, kv_tokens=2048)
    stages = [(0, 1, a_node(1)), (1, 2, a_node(2))]
    alone = foretell(model, serving, stages, round_trips={}, links={})
    learned_of = Corrections([replace(KEPT, model_name=model.name)] * 5)
    found = foretell(model, serving, stages, round_trips={}, links={}, corrections=learned_of)
    assert alone is not None and found is not None
    assert (alone.correction, alone.corrected_runs) == (pytest.approx(1.0), 0)
    assert [stage.token for stage in found.stages] == [stage.token for stage in alone.stages]
    assert [stage.way for stage in found.stages] == [stage.way for stage in alone.stages]
    first, way = (learned_of.of_node(1, model.name, "bfloat16", "none", SPEED).token.factor,
                  learned_of.of_way(1, 2, *NUMBERS, None).factor)  # fmt: skip
    one, two = alone.stages
    expected = one.token * first + one.way * way + two.token + two.way
    assert 1 / found.tokens_per_second == pytest.approx(expected)
    assert found.correction == pytest.approx(expected * alone.tokens_per_second)
    told = foreseen(found, [node for _, _, node in stages], serving)
    assert (told.correction, told.corrected_runs) == (found.correction, 5)
    assert [(stage.node_id, stage.following_id) for stage in told.stages] == [(1, 2), (2, 1)]
    prompts = Corrections([replace(KEPT, model_name=model.name, token_measured=0.01, prompt_measured=0.2)] * 5)
    later = foretell(model, serving, stages, round_trips={}, links={}, corrections=prompts)
    assert later is not None and later.first_token_seconds > alone.first_token_seconds + 0.5 * one.prompt


# Two nodes that can hold two thirds of a model each.
MODEL, SERVING = invented([50_000_000] * 12), Serving(dtype="bfloat16", context=128, kv_tokens=128)
OFFERS = [offer(number, sum(part.memory("bfloat16") for part in MODEL.parts) * 2 // 3) for number in (1, 2)]
USED = replace(KEPT, model_name=MODEL.name, flops_per_second=1e11, way_measured=0.001)


def layers_of(node: int, corrections: Corrections) -> int:
    placement = plan(MODEL, SERVING, OFFERS, [], corrections=corrections)
    return sum(stage.end - stage.start for stage in placement.stages if stage.node.node_id == node)


def test_the_planner_gives_less_to_a_node_that_was_slower_than_its_figures() -> None:
    assert layers_of(1, Corrections()) == 6
    as_foreseen = replace(USED, node_id=2, following_id=1, token_measured=0.01)
    assert layers_of(1, Corrections([USED, as_foreseen])) < 6


def test_a_node_is_not_preferred_for_never_having_been_used() -> None:
    assert layers_of(1, Corrections([USED] * 5)) == 6

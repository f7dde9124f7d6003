"""What a placement's speed is predicted to be: the formulas, at round figures."""

from __future__ import annotations

import pytest

from app.errors import BadInput
from app.sharding.prediction import (
    ACTIVATION_PASSES,
    LAYER_SECONDS,
    MESSAGE_SECONDS,
    PROMPT_CHUNK,
    STAGE_SECONDS,
    NodeSpeed,
    predict,
    speed_of,
)
from tests.models.described import invented

MILLION = 1_000_000
SPEED = NodeSpeed(read_bytes_per_second=1e9, flops_per_second=1e10, rtt=0.020)


def test_a_token_takes_as_long_as_the_weights_take_to_be_read() -> None:
    model = invented([50 * MILLION] * 2, first=900 * MILLION)
    one = predict(model, [(0, 2, SPEED)], dtype="bfloat16", prompt_tokens=1)
    assert 1 / one.tokens_per_second == pytest.approx(0.2 + 2 * LAYER_SECONDS + STAGE_SECONDS, rel=0.001)
    assert (one.share, one.network_share, one.slowest_stage) == ((1.0,), 0.0, 0)
    wider = predict(model, [(0, 2, SPEED)], dtype="float32", prompt_tokens=1)
    assert wider.tokens_per_second == pytest.approx(one.tokens_per_second / 2, rel=0.01)


def test_a_tied_embedding_is_read_as_the_head_alone() -> None:
    model = invented([MILLION] * 2, tied=100 * MILLION)
    split = predict(model, [(0, 1, SPEED), (1, 2, SPEED)], dtype="bfloat16", same_machine=True)
    assert split.slowest_stage == 1 and split.share[1] > 20 * split.share[0]


def test_machines_apart_pay_half_a_round_trip_for_each_hop_and_agents_of_one_machine_a_message() -> None:
    model = invented([MILLION] * 2)
    stages = [(0, 1, SPEED), (1, 2, NodeSpeed(1e9, 1e10, rtt=0.060))]
    alone = predict(model, [(0, 2, SPEED)], dtype="bfloat16")
    near, far, mixed = (
        predict(model, stages, dtype="bfloat16", same_machine=same) for same in (True, False, (True, False))
    )
    seconds = {name: 1 / each.tokens_per_second - 1 / alone.tokens_per_second - STAGE_SECONDS
               for name, each in (("near", near), ("far", far), ("mixed", mixed))}  # fmt: skip
    assert seconds["near"] == pytest.approx(2 * MESSAGE_SECONDS)
    assert seconds["far"] == pytest.approx(0.060)
    assert seconds["mixed"] == pytest.approx(0.030 + MESSAGE_SECONDS)
    assert sum(far.share) + far.network_share == pytest.approx(1.0)


def test_a_prompt_is_bound_by_arithmetic() -> None:
    model = invented([50 * MILLION] * 2)
    short, long = (predict(model, [(0, 2, SPEED)], dtype="bfloat16", prompt_tokens=count) for count in (128, 256))
    reading = 0.2
    assert long.first_token_seconds == pytest.approx(2 * 100e6 * 256 / 1e10 + reading, rel=0.01)
    assert short.first_token_seconds == pytest.approx(2 * 100e6 * 128 / 1e10 + reading, rel=0.01)
    slow = predict(model, [(0, 2, NodeSpeed(1e6, 1e15))], dtype="bfloat16", prompt_tokens=100)
    fixed = 2 * LAYER_SECONDS + STAGE_SECONDS
    moved = 200e6 + ACTIVATION_PASSES * 2 * 100 * model.hidden_size * 2
    assert slow.first_token_seconds == pytest.approx(moved / 1e6 + fixed, rel=0.001)


def test_chunks_of_a_long_prompt_overlap_on_several_machines_only() -> None:
    model = invented([50 * MILLION] * 2)
    stages = [(0, 1, SPEED), (1, 2, SPEED)]
    together, apart = (
        predict(model, stages, dtype="bfloat16", same_machine=same, prompt_tokens=10 * PROMPT_CHUNK).first_token_seconds
        for same in (True, False)
    )
    chunk = 2 * 50e6 * PROMPT_CHUNK / 1e10 + 0.1
    assert together == pytest.approx(20 * chunk, rel=0.02)
    assert apart == pytest.approx(11 * chunk, rel=0.02)


def test_what_makes_no_sense_is_refused() -> None:
    model = invented([MILLION] * 3)
    with pytest.raises(BadInput):
        predict(model, [(0, 2, SPEED)], dtype="bfloat16")
    with pytest.raises(BadInput):
        predict(model, [(0, 3, NodeSpeed(0.0, 1.0))], dtype="bfloat16")
    with pytest.raises(BadInput, match="hops"):
        predict(model, [(0, 1, SPEED), (1, 3, SPEED)], dtype="bfloat16", same_machine=(True,))


def test_a_nodes_speed_is_read_from_its_capacities() -> None:
    capacities: dict[str, object] = {
        "speeds": [{"dtype": "bfloat16", "read_bytes_per_second": 2e9, "flops_per_second": 3e10}]
    }
    assert speed_of(capacities, "bfloat16", 0.01) == NodeSpeed(2e9, 3e10, 0.01)
    assert speed_of(capacities, "bfloat16", None) == NodeSpeed(2e9, 3e10, 0.0)
    assert speed_of(capacities, "float32", None) is None
    for nothing in ({}, {"speeds": None}, {"speeds": [{"dtype": "bfloat16"}]}):
        assert speed_of(nothing, "bfloat16", None) is None

"""Which layers go to which node, the memory predicted for it, and what is said when nothing fits."""

from __future__ import annotations

import pytest
from msgspec import structs

from app.errors import BadInput, PlacementError
from app.serving import Serving
from app.sharding.capacity import NodeCapacity, relative_speeds
from app.sharding.placement import check_fits, place_ranges, whole_on_one
from app.sharding.stage_sizes import MAX_SEQUENCES, TOKENS_WITH_STATE, StageSizes, sequences_at_once
from tests.models.described import invented

PLENTY = 10**12
DEFAULTS = Serving("bfloat16", 100, 100)


def node(number: int, free: int = PLENTY, speed: float = 1.0) -> NodeCapacity:
    return NodeCapacity(number, f"machine{number}", free, speed)


def test_memory_is_weights_in_the_compute_dtype_and_kv() -> None:
    (stage,) = place_ranges(invented([5, 5], tied=7), [node(1)], [(0, 2)], Serving("float32", 10, 30)).stages
    assert stage.weight_bytes == 4 * (5 + 5 + 7)
    assert stage.kv_bytes == 30 * 4 * (10 + 10)
    assert stage.memory == stage.weight_bytes + stage.kv_bytes


def test_keys_and_values_in_int8_count_a_byte_each_and_a_scale_for_each_head() -> None:
    model = structs.replace(invented([5, 5]), kv_vectors=(2, 4))
    sizes = StageSizes(model, Serving("float32", 10, 30, kv_dtype="int8"))
    assert [sizes.kv(layer, layer + 1) for layer in (0, 1)] == [30 * (10 + 4 * 2), 30 * (10 + 4 * 4)]
    alone = structs.replace(model, batched=False)
    earlier = structs.replace(model, kv_vectors=())
    for whole in (alone, earlier):
        assert StageSizes(whole, Serving("float32", 10, 30, kv_dtype="int8")).kv(0, 2) == 30 * 4 * 20, "as computed"
    with pytest.raises(BadInput, match="cannot be kept in 'int3'"):
        place_ranges(model, [node(1)], [(0, 2)], Serving("float32", 10, 30, kv_dtype="int3"))


def test_states_are_set_aside_for_each_sequence_that_runs_at_once() -> None:
    stateful = structs.replace(invented([5, 5]), state_elements=(0, 1000), state_bytes=(0, 7))
    few, many = Serving("float32", 10, 30), Serving("float32", 10, 4 * TOKENS_WITH_STATE + 1)
    assert [sequences_at_once(stateful, serving) for serving in (few, many)] == [1, 4]
    assert [sequences_at_once(invented([5, 5]), serving) for serving in (few, many)] == [MAX_SEQUENCES] * 2
    sizes = StageSizes(stateful, many)
    assert sizes.kv(0, 1) == many.kv_tokens * 4 * 10
    assert sizes.kv(1, 2) == sizes.kv(0, 1) + 4 * (4 * 1000 + 7)


def test_a_tied_embedding_counts_on_both_ends() -> None:
    stages = place_ranges(invented([5, 5], tied=7), [node(1), node(2)], [(0, 1), (1, 2)], DEFAULTS).stages
    assert [stage.weight_bytes for stage in stages] == [2 * 12, 2 * 12]


def test_a_context_longer_than_the_models() -> None:
    with pytest.raises(PlacementError, match="reads at most 1,000 tokens, not 1,001"):
        place_ranges(invented([1]), [node(1)], [(0, 1)], Serving("float32", 1001, 1001))


def test_given_ranges_are_checked_and_measured_but_need_not_fit() -> None:
    description = invented([10] * 4)
    placement = place_ranges(description, [node(1, free=10), node(2)], [(0, 3), (3, 4)], DEFAULTS)
    assert not placement.fits
    with pytest.raises(PlacementError, match=r"machine1 \(node 1\) needs .* for layers 0-2"):
        check_fits(placement)
    with pytest.raises(BadInput, match="No range holds layer 3"):
        place_ranges(description, [node(1)], [(0, 3)], DEFAULTS)
    with pytest.raises(PlacementError, match="1 ranges of layers are given for 2 nodes"):
        place_ranges(description, [node(1), node(2)], [(0, 4)], DEFAULTS)


def test_one_node_that_can_hold_it_all_is_the_fastest() -> None:
    description = invented([10] * 4)
    nodes = [node(1, free=10, speed=9.0), node(2, speed=1.0), node(3, speed=2.0)]
    placement = whole_on_one(description, nodes, DEFAULTS)
    assert placement is not None
    assert placement.stages[0].node.node_id == 3
    assert placement.ranges == ((0, 4),)
    assert whole_on_one(description, nodes[:1], DEFAULTS) is None


def test_a_faster_machine_counts_for_more_and_small_differences_do_not() -> None:
    machines = {1: "a", 2: "b", 3: "c", 4: "d"}
    speeds = relative_speeds({1: 10e9, 2: 11e9, 3: 40e9, 4: None}, machines)
    assert speeds[1] == speeds[2] == 1.0
    assert speeds[3] == pytest.approx(40 / 10.5)
    assert speeds[4] == 1.0, "what was not measured counts as the median"
    assert relative_speeds({1: None, 2: None}, machines) == {1: 1.0, 2: 1.0}


def test_agents_of_one_machine_are_equally_fast_whatever_each_of_them_measured() -> None:
    speeds = relative_speeds({1: 10e9, 2: 20e9, 3: None, 4: 20e9}, {1: "a", 2: "a", 3: "a", 4: "b"})
    assert set(speeds.values()) == {1.0}

"""Placing by hand: whatever is done, all layers are covered in order at allowed cuts, and what is refused says why."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import BadInput, PlacementError, ShardboardError
from app.serving import Serving
from app.sharding.arrangement import Arrangement
from app.sharding.capacity import NodeCapacity
from app.sharding.placement import place_ranges
from app.sharding.plan import check_ranges
from tests.models.described import invented

SERVING = Serving("bfloat16", 100, 100)
PLENTY = 10**12


def node(number: int, free: int = PLENTY) -> NodeCapacity:
    return NodeCapacity(number, f"machine{number}", free)


def nodes(*free: int) -> dict[int, NodeCapacity]:
    return {number: node(number, each) for number, each in enumerate(free, start=1)}


def six(*pieces: tuple[int, int, int | None]) -> Arrangement:
    """Six equal layers of 20 bytes and 2,000 bytes of KV each."""
    return Arrangement.of_ranges(invented([10] * 6), SERVING, pieces or [(0, 6, None)])


def test_it_begins_as_one_shard_without_a_node() -> None:
    draft = Arrangement.empty(invented([10] * 6), SERVING)
    assert draft.ranges == ((0, 6),) and draft.nodes == (None,)
    assert draft.is_untouched and not draft.is_placed


def test_a_placement_becomes_a_draft() -> None:
    model = invented([10] * 6)
    placement = place_ranges(model, [node(2), node(1)], [(0, 4), (4, 6)], SERVING)
    draft = Arrangement.of_placement(model, placement)
    assert (draft.ranges, draft.nodes, draft.serving) == (((0, 4), (4, 6)), (2, 1), SERVING)


def test_a_shard_goes_to_a_node_and_off_it() -> None:
    draft = six((0, 3, 1), (3, 6, 2)).moved(1, 7)
    assert draft.nodes == (1, 7)
    assert draft.moved(1, None).nodes == (1, None)


def test_two_shards_change_nodes() -> None:
    assert six((0, 2, 1), (2, 4, 2), (4, 6, None)).swapped(0, 2).nodes == (None, 2, 1)


def test_a_boundary_moves_between_its_neighbours_only() -> None:
    draft = six((0, 2, 1), (2, 4, 2), (4, 6, 3))
    assert draft.allowed_cuts(0) == (1, 2, 3)
    assert draft.with_boundary(0, 3).boundaries == (3, 4)
    for layer in (0, 4, 5):
        with pytest.raises(BadInput, match="can stand before layers 1 to 3"):
            draft.with_boundary(0, layer)


def test_a_boundary_keeps_to_allowed_cuts() -> None:
    draft = Arrangement.of_ranges(invented([10] * 6, cuts=[2, 4]), SERVING, [(0, 2, 1), (2, 6, 2)])
    assert draft.allowed_cuts(0) == (2, 4)
    with pytest.raises(BadInput, match="cannot be cut between layers 2 and 3"):
        draft.with_boundary(0, 3)


def test_split_and_merge_are_each_others_undoing() -> None:
    draft = six((0, 4, 1), (4, 6, 2))
    assert draft.split(0, 2).nodes == (1, 1, 2)
    assert draft.split(0, 2).merged(0) == draft


def test_merging_keeps_a_node_if_one_of_both_has_one() -> None:
    assert six((0, 3, None), (3, 6, 2)).merged(0).nodes == (2,)
    assert six((0, 3, 1), (3, 6, 2)).merged(0).nodes == (1,)


def test_the_middle_is_by_bytes() -> None:
    heavy_first = Arrangement.empty(invented([1000, 10, 10, 10]), Serving("bfloat16", 1, 1))
    assert heavy_first.middle_of(0) == 1
    with pytest.raises(BadInput, match="cannot be cut any further"):
        six((0, 1, 1), (1, 6, 2)).middle_of(0)


def test_a_new_number_of_shards_leaves_layers_where_they_were() -> None:
    assert six((0, 3, 1), (3, 6, 2)).with_shards(3, nodes(PLENTY, PLENTY)).nodes[0::2] == (1, 2)


def test_a_new_number_of_shards_takes_no_more_than_there_is() -> None:
    draft = six((0, 6, 1)).with_shards(2, nodes(3 * 2020))
    assert draft.nodes == (1, None)


def test_neighbours_on_one_node_are_loaded_as_one_stage() -> None:
    draft = six((0, 2, 1), (2, 4, 1), (4, 6, 2))
    assert draft.ranges == ((0, 4), (4, 6))
    assert draft.to_placement(nodes(PLENTY, PLENTY)).ranges == ((0, 4), (4, 6))


def test_shards_without_a_node_are_not_joined() -> None:
    assert six((0, 2, None), (2, 6, None)).ranges == ((0, 2), (2, 6))


def test_a_placement_has_the_memory_of_the_arrangement() -> None:
    draft = six((0, 2, 2), (2, 6, 1))
    placement = draft.to_placement(nodes(PLENTY, PLENTY))
    assert [stage.node.node_id for stage in placement.stages] == [2, 1]
    assert [(s.weight_bytes, s.kv_bytes) for s in placement.stages] == [(draft.weights(k), draft.kv(k)) for k in (0, 1)]


def test_what_is_missing_counts_all_shards_of_a_node() -> None:
    draft = six((0, 2, 1), (2, 4, 2), (4, 6, 1))
    assert draft.shortages(nodes(4 * 2020, 2 * 2020)) == ()
    (short,) = draft.shortages(nodes(4 * 2020 - 5, PLENTY))
    assert (short.node.node_id, short.needed, short.missing) == (1, 4 * 2020, 5)


@pytest.mark.parametrize(
    ("draft", "says"),
    [
        (six(), "No shard has a node yet"),
        (six((0, 2, 1), (2, 6, None)), "Shard 2 has no node yet"),
        (six((0, 2, None), (2, 4, None), (4, 6, 1)), "Shards 1 and 2 have no node yet"),
        (six((0, 2, 1), (2, 6, 9)), "node of shard 2 is not available"),
        (six((0, 6, 1)), "machine1 needs 12.1 kB and has 5 kB free: 7.1 kB are missing"),
    ],
)
def test_what_cannot_be_deployed_says_why(draft: Arrangement, says: str) -> None:
    with pytest.raises(PlacementError, match=says):
        draft.to_placement(nodes(5000))


def test_another_serving_changes_the_memory_and_nothing_else() -> None:
    draft = six((0, 3, 1), (3, 6, 2))
    wide = draft.serving_as(Serving("float32", 100, 200))
    assert wide.pieces == draft.pieces
    assert (wide.weights(0), wide.kv(0)) == (2 * draft.weights(0), 4 * draft.kv(0))


def test_a_serving_that_makes_no_sense_is_refused() -> None:
    draft = six()
    with pytest.raises(BadInput, match="no dtype"):
        draft.serving_as(Serving("int4", 100, 100))
    with pytest.raises(BadInput, match="at least 1"):
        draft.serving_as(Serving("float32", 0, 100))
    with pytest.raises(PlacementError, match="reads at most"):
        draft.serving_as(Serving("float32", 10**9, 100))


def test_nodes_that_are_gone_leave_their_shards_behind() -> None:
    draft = six((0, 2, 1), (2, 4, 2), (4, 6, 1))
    assert draft.without_nodes({1}).nodes == (None, 2, None)
    assert draft.without_nodes({5}) is draft


@given(st.data())
def test_whatever_is_done_all_layers_stay_covered_in_order(data: st.DataObject) -> None:
    layers = data.draw(st.integers(1, 9))
    cuts = data.draw(st.lists(st.sampled_from(range(1, layers)), unique=True).map(sorted)) if layers > 1 else []
    description = invented([10] * layers, first=3, last=3, cuts=cuts)
    draft = Arrangement.empty(description, SERVING)
    number, layer = st.integers(-1, layers + 1), st.integers(-1, layers + 1)
    capacities = nodes(PLENTY, 8000, 3000)
    for _ in range(data.draw(st.integers(0, 12))):
        one, other = data.draw(number), data.draw(layer)
        where = data.draw(st.sampled_from([None, 1, 2, 3]))
        steps = {
            "move": lambda: draft.moved(one, where),  # noqa: B023 - called before the next round
            "swap": lambda: draft.swapped(one, other),  # noqa: B023
            "boundary": lambda: draft.with_boundary(one, other),  # noqa: B023
            "split": lambda: draft.split(one, other),  # noqa: B023
            "merge": lambda: draft.merged(one),  # noqa: B023
            "shards": lambda: draft.with_shards(one, capacities),  # noqa: B023
            "whole": lambda: draft.whole_on(1),  # noqa: B023
            "clear": lambda: draft.cleared(),  # noqa: B023
        }
        before = draft
        try:
            draft = steps[data.draw(st.sampled_from(sorted(steps)))]()
        except ShardboardError as error:
            assert error.message
            assert draft is before
        check_ranges([(piece.start, piece.end) for piece in draft.pieces], description)
        check_ranges(draft.ranges, description)
        assert len(draft.nodes) == len(draft.pieces) == len(draft.boundaries) + 1

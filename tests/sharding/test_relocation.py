"""Where the layers of lost stages go."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from app.registry import LinkRecord
from app.serving import Serving
from app.sharding.capacity import NodeCapacity
from app.sharding.foresight import link_speeds
from app.sharding.planning.problem import Offer, Problem
from app.sharding.prediction import NodeSpeed, predict
from app.sharding.relocation import LostStage, MoveCosts, relocate
from tests.models.described import invented
from tests.sharding.offered import link, offer

MODEL = invented([10_000_000] * 6)
LAYER = 20_000_000
RANGES = [(0, 2), (2, 4), (4, 6)]


def node(id: int, free: int, speed: float = 1.0) -> NodeCapacity:
    return NodeCapacity(id, f"n{id}", free, speed)


def costs_of(
    offers: Sequence[Offer], links: Sequence[LinkRecord], there: Mapping[int, int] = {0: 1, 2: 3}
) -> MoveCosts:  # fmt: skip
    return MoveCosts(Problem(MODEL, Serving("bfloat16", 100, 100), offers, links), RANGES, there)


def test_the_node_that_had_them_comes_first_however_slow_it_is() -> None:
    assert relocate([LostStage(1, 50, 7)], [node(1, 900, 9.0), node(7, 60, 0.1)]) == {1: 7}


def test_else_the_fastest_with_room() -> None:
    lost = [LostStage(1, 50, 7)]
    assert relocate(lost, [node(1, 900, 1.0), node(2, 100, 2.0), node(3, 49, 5.0)]) == {1: 2}


def test_of_equally_fast_ones_the_one_whose_disk_has_most_of_the_weights_then_the_emptiest() -> None:
    lost, nodes = [LostStage(1, 50, 7)], [node(1, 900), node(2, 100, 1.1), node(3, 800)]
    assert relocate(lost, nodes, {(2, 1): 30, (3, 1): 10}) == {1: 2}
    assert relocate(lost, nodes) == {1: 1}


def test_a_choice_that_leaves_no_room_for_another_stage_is_given_up_again() -> None:
    lost = [LostStage(0, 50, 8), LostStage(1, 50, 9)]
    assert relocate(lost, [node(1, 60, 5.0), node(2, 50, 1.0)]) == {0: 1, 1: 2}
    assert relocate(lost, [node(1, 60, 5.0), node(9, 60, 1.0)]) == {0: 1, 1: 9}
    assert relocate(lost, [node(1, 60), node(2, 49)]) is None


def test_where_links_are_known_the_whole_token_counts_not_the_node_alone() -> None:
    """The middle of three stages is lost. Node 4 reads twice as fast as node 5 and is 40 ms away from the others."""
    offers = [offer(number, read=20e9 if number == 4 else 10e9) for number in (1, 3, 4, 5)]
    near = [link(1, 5, 0.001), link(5, 3, 0.001), link(3, 1, 0.001)]
    costs = costs_of(offers, [*near, link(1, 4, 0.04), link(4, 3, 0.04)])
    nodes = [each.capacity for each in offers if each.record.id > 3]
    lost = [LostStage(1, 1, 2)]
    assert relocate(lost, nodes, cost=costs.seconds) == {1: 5}
    costs = costs_of(offers, [*near, link(1, 4, 0.001), link(4, 3, 0.001)])
    assert relocate(lost, nodes, cost=costs.seconds) == {1: 4}
    costs = costs_of(offers, [*near, link(1, 4, None), link(4, 3, 0.001)])
    assert relocate(lost, nodes, cost=costs.seconds) == {1: 5}, "a link that did not work is the last that is taken"


def test_what_a_move_costs_is_what_the_prediction_says_of_the_ring() -> None:
    offers = [offer(number, read=number * 1e9, trip=0.01) for number in (1, 3, 4, 5)]
    links = [link(one, other, 0.001 * one * other) for one in (1, 3, 4, 5) for other in (1, 3, 4, 5) if one != other]
    costs = costs_of(offers, links)
    speeds = {each.record.id: NodeSpeed(each.record.id * 1e9, 1e11) for each in offers}
    known = link_speeds(links)

    def seconds(*nodes: int) -> float:
        pairs = zip(nodes, [*nodes[1:], nodes[0]], strict=True)
        stages = [(*span, speeds[node]) for span, node in zip(RANGES, nodes, strict=True)]
        return 1 / predict(MODEL, stages, dtype="bfloat16", links=[known[pair] for pair in pairs]).tokens_per_second

    assert costs.seconds(1, 4, {}) - costs.seconds(1, 5, {}) == pytest.approx(seconds(1, 4, 3) - seconds(1, 5, 3))


def test_of_lost_neighbours_each_knows_at_last_where_the_other_goes() -> None:
    """Stages 1 and 2 of three are lost. The larger chooses first; the best node for it alone is far from all others."""
    offers = [offer(number, free=2 * LAYER) for number in (1, 4, 5, 6)]
    pairs = [(one, other) for one in (1, 4, 5, 6) for other in (1, 4, 5, 6) if one != other]
    far = {(4, 5), (5, 4), (4, 6), (6, 4), (4, 1)}
    links = [link(*pair, 0.08 if pair in far else 0.004 if 4 not in pair else 0.001) for pair in pairs]
    costs = costs_of(offers, links, there={0: 1})
    nodes = [each.capacity for each in offers if each.record.id > 1]
    lost = [LostStage(1, LAYER + 1, 2), LostStage(2, LAYER, 3)]
    assert 4 not in (relocate(lost, nodes, cost=costs.seconds) or {}).values()


def test_nothing_lost_needs_nobody() -> None:
    assert relocate([], []) == {}


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=4),
    st.lists(st.tuples(st.integers(0, 120), st.floats(0.1, 8)), min_size=1, max_size=5),
)
def test_what_is_chosen_fits_and_what_can_be_placed_is(sizes: list[int], offered: list[tuple[int, float]]) -> None:
    lost = [LostStage(stage, size, 100 + stage) for stage, size in enumerate(sizes)]
    nodes = [node(id, free, speed) for id, (free, speed) in enumerate(offered)]
    chosen = relocate(lost, nodes)
    if chosen is None:
        assert not _possible(sizes, [free for free, _ in offered])
        return
    taken: Counter[int] = Counter()
    for stage, id in chosen.items():
        taken[id] += sizes[stage]
    assert set(chosen) == set(range(len(sizes)))
    assert all(taken[id] <= offered[id][0] for id in taken)


def _possible(sizes: list[int], free: list[int]) -> bool:
    if not sizes:
        return True
    return any(
        _possible(sizes[1:], [*free[:at], room - sizes[0], *free[at + 1 :]])
        for at, room in enumerate(free)
        if room >= sizes[0]
    )


class Wandering(RuleBasedStateMachine):
    """Stages over nodes that go and come back, again and again: whoever takes a lost one has room, and its own node is
    the first choice."""

    @initialize(
        room=st.lists(st.integers(20, 150), min_size=1, max_size=5), sizes=st.lists(st.integers(1, 60), max_size=4)
    )
    def begin(self, room: list[int], sizes: list[int]) -> None:
        self.room, self.sizes, self.there = room, sizes, set(range(len(room)))
        placed = relocate([LostStage(each, size, -1) for each, size in enumerate(sizes)], self.nodes())
        self.where: dict[int, int] = placed or {}

    def nodes(self) -> list[NodeCapacity]:
        return [node(each, self.room[each] - self.used(each)) for each in sorted(self.there)]

    def used(self, node: int) -> int:
        return sum(self.sizes[stage] for stage, at in getattr(self, "where", {}).items() if at == node)

    @rule(which=st.integers(0, 4))
    def a_node_goes(self, which: int) -> None:
        self.there.discard(which)

    @rule(which=st.integers(0, 4))
    def a_node_comes_back_and_has_forgotten_nothing(self, which: int) -> None:
        if which < len(self.room):
            self.there.add(which)

    @rule(forgetful=st.sets(st.integers(0, 4)))
    def what_is_lost_goes_somewhere(self, forgetful: set[int]) -> None:
        """Lost is what is on nodes that are away, or that were started again."""
        lost = [stage for stage, at in self.where.items() if at not in self.there or at in forgetful]
        before = {stage: self.where.pop(stage) for stage in lost}
        given = [LostStage(stage, self.sizes[stage], before[stage]) for stage in lost]
        offered = {each.node_id: each.free_memory for each in self.nodes()}
        chosen = relocate(given, self.nodes())
        if chosen is None:
            assert not _possible([each.memory for each in given], list(offered.values()))
            self.where |= before
            return
        assert set(chosen) == set(lost) and set(chosen.values()) <= self.there
        self.where |= chosen
        if all(_has_room(given, at, offered) for at in before.values()):
            assert chosen == before, "where all of them can go back, they do"

    @invariant()
    def nobody_holds_more_than_he_has_room_for(self) -> None:
        assert all(self.used(each) <= room for each, room in enumerate(self.room))


def _has_room(lost: list[LostStage], node: int, offered: dict[int, int]) -> bool:
    return sum(each.memory for each in lost if each.node_id == node) <= offered.get(node, -1)


TestWandering = Wandering.TestCase
TestWandering.settings = settings(max_examples=50, stateful_step_count=20, deadline=None)

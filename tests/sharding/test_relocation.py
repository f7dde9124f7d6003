"""Where the layers of lost stages go."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from app.sharding.placement import NodeCapacity
from app.sharding.relocation import LostStage, relocate


def node(id: int, free: int, speed: float = 1.0) -> NodeCapacity:
    return NodeCapacity(id, f"n{id}", free, speed)


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

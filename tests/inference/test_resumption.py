"""Whose states go on over a Link, how far back they are cut, and in which order."""

from __future__ import annotations

from app.inference.resumption import resumption
from worker_agent.wire.messages import HeldState, Resumed


def rows(number: int, length: int, kind: str = "runs", slot: int = -1) -> HeldState:
    return HeldState(number, length, 0, kind, slot)  # type: ignore[arg-type]


def test_states_are_cut_back_to_what_came_round_and_keep_their_order_and_place() -> None:
    held = {0: [rows(2, 9, slot=1), rows(1, 7, slot=0)], 1: [rows(1, 7), rows(2, 8)]}
    assert resumption(held, {1: 7, 2: 8}) == (Resumed(2, 8, "runs", 1), Resumed(1, 7, "runs", 0))


def test_whose_turn_was_under_way_has_it_once_more_before_all_others() -> None:
    held = {0: [rows(1, 5), rows(2, 6)], 1: [rows(1, 5), rows(2, 5)]}
    assert [each.sequence for each in resumption(held, {1: 5, 2: 5})] == [2, 1]


def test_what_one_stage_lacks_or_cannot_cut_back_begins_anew() -> None:
    recurrent = HeldState(2, 9, 9, "runs")
    held = {0: [rows(1, 5), recurrent, rows(3, 4)], 1: [rows(1, 5), rows(2, 9)]}
    found = {each.sequence: each.length for each in resumption(held, {1: 5, 2: 8, 3: 4, 4: 0})}
    assert found == {1: 5, 2: 0, 3: 0, 4: 0}


def test_what_is_over_stays_for_later_prompts_only_where_all_stages_have_it() -> None:
    held = {0: [rows(1, 9, "kept"), rows(2, 9, "kept"), rows(5, 3)], 1: [rows(1, 8, "kept")]}
    assert resumption(held, {}) == (Resumed(1, 8, "kept"),)
    assert resumption(held, {}, all_left=False) == ()


def test_those_that_had_not_begun_come_first_where_the_first_stage_was_lost() -> None:
    held = {1: [rows(1, 5)], 2: [rows(1, 5)]}
    assert [each.sequence for each in resumption(held, {1: 5, 2: 0}, all_left=False)] == [2, 1]


def test_whoever_is_under_way_runs_on_though_a_stage_believes_him_over() -> None:
    """His last tokens were lost on their way to the controller, and then the ring broke."""
    held = {0: [rows(1, 9, "kept", slot=2)], 1: [rows(1, 9)]}
    assert resumption(held, {1: 8}) == (Resumed(1, 8, "runs", 2),)

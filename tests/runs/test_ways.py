"""The ways that a stage runs, in words."""

from __future__ import annotations

from typing import get_args

from app.runs.trace import StageWay
from app.runs.ways import WORDS, lost, lost_text, way_lines, way_text
from worker_agent.wire.messages import WayName


def way(name: str, used: int, possible: int, why: str = "") -> StageWay:
    return StageWay(name=name, used=used, possible=possible, why=why)


def test_every_way_that_the_wire_knows_has_words() -> None:
    assert set(WORDS) == set(get_args(WayName))
    assert all(words.title and words.explanation.endswith(".") for words in WORDS.values())


def test_a_way_that_is_taken_everywhere_says_where() -> None:
    assert way_text(way("batched", 15, 15)) == "all 15 layers"
    assert way_text(way("packed", 1, 1)) == "its one matrix"
    assert way_text(way("recorded", 1, 1)) == way_text(way("captured", 1, 1)) == "yes"


def test_a_lost_way_says_what_that_means_and_why() -> None:
    assert way_text(way("batched", 3, 4, "layer 3: off")) == "each answer has a pass of its own: layer 3: off"
    assert way_text(way("lockstep", 2, 4, "layer 3: off")) == "2 of 4 layers one answer at a time: layer 3: off"
    assert way_text(way("pieces", 0, 4, "layer 0: off")) == "every prompt is read in one go: layer 0: off"
    assert (
        way_text(way("packed", 58, 60, "a matrix of 8 x 8: off"))
        == "2 of 60 matrices not packed: a matrix of 8 x 8: off"
    )
    assert way_text(way("recorded", 0, 1)) == "not recorded"


def test_what_cannot_be_had_here_is_information_and_no_loss() -> None:
    none = way("packed", 0, 0, "there are no such kernels for float16")
    assert way_text(none) == "not here: there are no such kernels for float16"
    assert lost([none]) == [] and lost_text([none]) == ""


def test_what_a_stage_has_nothing_to_do_with_is_left_out() -> None:
    assert way_lines([way("joined", 0, 0), way("norms", 2, 2)]) == [("Fast norms", "all 2 norms")]


def test_losses_stand_in_one_line() -> None:
    ways = [way("batched", 0, 4, "so"), way("norms", 9, 9), way("recorded", 0, 1, "such")]
    assert lost_text(ways) == "each answer has a pass of its own: so; not recorded: such"


def test_a_way_of_a_newer_agent_is_shown_by_its_name() -> None:
    assert way_lines([way("folded", 1, 2, "so")]) == [("folded", "1 of 2 places not taken: so")]


def test_what_a_way_costs_stands_beside_it() -> None:
    blocks = way("blocks", 8, 8, "int4, which changed the weights by 7.4 % of their size (RMS)")
    assert way_text(blocks) == "all 8 matrices: int4, which changed the weights by 7.4 % of their size (RMS)"
    assert lost([blocks]) == []

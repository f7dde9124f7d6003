"""Which stage is to be moved when agents cannot reach each other."""

from __future__ import annotations

from typing import Any, cast

from app.inference.cut_lines import CutLines
from app.inference.stages import PipelineStage


def stage(number: int, node: int) -> PipelineStage:
    return PipelineStage(number, node, f"n{node}", "", "", "", 0, 1, cast(Any, None))


def test_a_line_that_broke_while_the_ring_was_whole_moves_nobody() -> None:
    lines = CutLines()
    lines.linked()
    lines.came_round()
    lines.said(stage(0, 10), stage(1, 11))
    assert lines.off is None


def test_where_nothing_comes_round_the_stage_that_is_not_reached_is_moved() -> None:
    lines = CutLines()
    lines.linked()
    assert lines.off is None, "nobody has said why"
    lines.said(stage(0, 10), stage(1, 11))
    assert lines.off == 1
    lines.linked()
    assert lines.off is None, "it may be well now"


def test_a_stage_that_reaches_neither_of_two_others_is_moved_itself() -> None:
    lines = CutLines()
    for other in (11, 13):
        lines.linked()
        lines.said(stage(0, 10), stage(1, other))
    assert lines.off == 0
    lines.came_round()
    lines.linked()
    lines.said(stage(0, 10), stage(1, 13))
    assert lines.off == 1, "what was before the ring was whole is forgotten"

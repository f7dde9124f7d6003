"""Which stage is to be moved when agents cannot reach each other, and what stages are told of each other."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

from app.inference.cut_lines import CutLines
from app.inference.deployer import Deployer, Seat
from app.inference.stages import PipelineStage, links
from worker_agent.wire.messages import Loaded


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


def test_the_first_stage_is_told_what_holds_for_all_and_no_other_is() -> None:
    stages = [
        replace(stage(0, 10), reuse="any"),
        replace(stage(1, 11), reuse="whole", answers_alone=True, block_tokens=96),
    ]
    told = {each.stage: message for each, message in links("d", stages, 3, ())}
    assert (told[0].reuse, told[0].answers_alone, told[0].block_tokens) == ("whole", True, 96)
    assert (told[1].reuse, told[1].answers_alone, told[1].block_tokens) == ("no", False, 32)


def test_what_an_agent_says_of_a_stage_is_what_its_pipeline_goes_by() -> None:
    record = cast(Any, SimpleNamespace(id=7, hostname="rack", address="tcp://h:1", public_key="k", machine="m"))
    loaded = Loaded(
        call=0, weight_bytes=1, kv_bytes=1, seconds=1.0, ways=(), reuse="any", answers_alone=True, block_tokens=64
    )
    (made,) = Deployer.stages(cast(Any, None), [Seat(record, cast(Any, None))], [(0, 4)], [loaded])
    assert (made.node_id, made.start, made.end) == (7, 0, 4)
    assert (made.reuse, made.answers_alone, made.block_tokens) == ("any", True, 64)

"""The stages of a pipeline, and the messages that connect them in a ring."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from msgspec.structs import replace

from app.cluster.agent_link import AgentLink
from worker_agent.wire.messages import LEAST_BLOCK_TOKENS, Link, Resumed, Reuse, Way


@dataclass(frozen=True)
class PipelineStage:
    """Stage k of a pipeline and the node that holds it."""

    stage: int
    node_id: int
    node_name: str
    address: str
    public_key: str
    machine: str
    start: int
    end: int
    link: AgentLink
    ways: tuple[Way, ...] = ()
    """How its agent says that it runs."""
    reuse: Reuse = "no"
    """What a prompt may take over there from an earlier one."""
    answers_alone: bool = False
    """Whether it computes tokens that come one by one otherwise than the same tokens in a prompt."""
    block_tokens: int = LEAST_BLOCK_TOKENS
    """In blocks of how many tokens a sequence takes memory there."""

    @property
    def takes_pieces(self) -> bool:
        """Whether a prompt may come in several steps."""
        return not any(way.name == "pieces" and way.used < way.possible for way in self.ways)


def links(
    deployment: str, stages: Sequence[PipelineStage], epoch: int, resumed: Sequence[Resumed]
) -> Iterator[tuple[PipelineStage, Link]]:
    """What each stage is told to be linked, the last one first: when the first begins to send, all others are ready."""
    last = len(stages) - 1
    for stage in reversed(stages):
        following = stages[stage.stage + 1] if stage.stage < last else None
        first = stages[0] if stage.stage == last and last > 0 else None
        message = Link(call=0, deployment=deployment, stage=stage.stage, epoch=epoch, resumed=tuple(resumed))
        if stage.stage == 0:
            message = replace(
                message,
                whole_prompts=not all(each.takes_pieces for each in stages),
                answers_alone=any(each.answers_alone for each in stages),
                block_tokens=max(each.block_tokens for each in stages),
                reuse=min((each.reuse for each in stages), key=("no", "whole", "any").index),
                # Agents on one machine share its cores. There, one larger step at a time on all cores is faster than
                # several small ones on a share of the cores each (benchmarks/decode.py).
                lanes=len({each.machine for each in stages}),
            )
        if following is not None and following.node_id != stage.node_id:
            message = replace(message, downstream=following.address, downstream_key=following.public_key)
        if first is not None and first.node_id != stage.node_id:
            message = replace(message, first=first.address, first_key=first.public_key)
        yield stage, message

"""Where the time of a request went, token by token and stage by stage. Pure: a trace in, figures out.

Measured are, of each token, the time between it and the token before as the controller saw it, and on each stage how
long its step waited and was computed. What is neither is "wire": the network, serialising, handing over. How the wire's
time divides over the hops is not measured; a bar spreads it evenly.

The step that brings the first token also computes the last chunk of the prompt, so it counts as reading the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

from msgspec import Struct

from app.runs.trace import ChunkTime, Plan, RequestTrace, StageShare, TokenTime

SegmentKind = Literal["compute", "queue", "wire"]


class Segment(Struct, frozen=True):
    """A stretch of a bar. `stage` is None for the wire, which lies between two stages."""

    kind: SegmentKind
    stage: int | None
    began_us: int
    ended_us: int

    @property
    def took_us(self) -> int:
        return self.ended_us - self.began_us


class Bar(Struct, frozen=True):
    """One trip round the ring: of token number `token` of the answer, or of a chunk of the prompt (None).

    The segments follow each other without gaps from `began_us` to `ended_us`; both count from the request's beginning.
    """

    token: int | None
    began_us: int
    ended_us: int
    segments: tuple[Segment, ...]

    @property
    def took_us(self) -> int:
        return self.ended_us - self.began_us


class StageTotals(Struct, frozen=True, kw_only=True):
    """What one stage did for the answer after its first token, and how long it computed the prompt.

    Layers [start, end); both 0 where the plan is not known.
    """

    stage: int
    node: str
    start: int = 0
    end: int = 0
    compute_us: int = 0
    queue_us: int = 0
    prompt_compute_us: int = 0


class Shares(Struct, frozen=True, kw_only=True):
    """`total_us`, from the request to its last token, is the sum of getting ready, reading the prompt, the answer and
    interruptions.

    `compute_us`, `queue_us` and `wire_us` are of the answer after its first token, over all stages. They add up to
    `decode_us`, unless clocks disagree so far that nothing is left for the wire.
    """

    total_us: int
    prepare_us: int
    """Until the sequence was handed to the agents: tokenizing, and loading the model if it was not loaded."""
    prompt_us: int
    """From there to the first token."""
    compute_us: int
    queue_us: int
    wire_us: int
    tokens: int
    """How many tokens the answer has; `compute_us`, `queue_us` and `wire_us` are of one fewer."""
    stages: tuple[StageTotals, ...]
    interrupted_us: int = 0
    """While a stage was lost, before the first token or after it; part of neither prompt nor answer."""

    @property
    def decode_us(self) -> int:
        return self.total_us - self.prepare_us - self.prompt_us - self.interrupted_us


def bars(trace: RequestTrace) -> tuple[Bar, ...]:
    """All trips of a request round the ring in the order of their ends: chunks of the prompt, then tokens.

    Chunks overlap when several are in flight: one that was computed for longer than the time since the one before it
    begins that much earlier, though never before the request was handed to the agents.
    """
    made = [_overlapping(None, chunk.at_us, chunk.took_us, chunk.stages, trace.first_step_us) for chunk in trace.chunks]
    for number, token in enumerate(trace.tokens):
        if number == 0:
            made.append(_overlapping(0, token.at_us, token.took_us, token.stages, trace.first_step_us))
        else:
            made.append(_bar(number, max(0, token.at_us - max(0, token.took_us)), token.at_us, token.stages))
    return tuple(made)


def shares(trace: RequestTrace) -> Shares:
    """Where all of the time went. Zeros for what has not happened: a request that failed, or is not that far.

    The wire's time is taken over all tokens at once: when the controller sees one token late and the next one in time,
    what the first seems to have lost is what the second seems to have gained.
    """
    last = max((part.at_us for part in _trips(trace)), default=trace.first_step_us)
    first = trace.tokens[0].at_us if trace.tokens else last
    before = sum(each.lasted_us for each in trace.interruptions if not each.tokens)
    after = sum(each.lasted_us for each in trace.interruptions if each.tokens)
    early = min(before, max(0, first - trace.first_step_us))
    prompt = max(0, first - trace.first_step_us - early)
    total = max(last, trace.first_step_us)
    answer = trace.tokens[1:]
    compute = sum(token.compute_us for token in answer)
    queue = sum(token.queue_us for token in answer)
    late = min(after, total - trace.first_step_us - prompt - early)
    decode = total - trace.first_step_us - prompt - early - late
    return Shares(
        total_us=total,
        prepare_us=trace.first_step_us,
        prompt_us=prompt,
        compute_us=compute,
        queue_us=queue,
        wire_us=max(0, decode - compute - queue),
        tokens=len(trace.tokens),
        stages=_stage_totals(trace),
        interrupted_us=early + late,
    )


def stage_count(trace: RequestTrace) -> int:
    """As many stages as the plan has or any token passed."""
    planned = 0 if trace.plan is None else len(trace.plan.stages)
    return max((len(part.stages) for part in _trips(trace)), default=0) or planned


def node_name(plan: Plan | None, stage: int) -> str:
    """The node of a stage; what it is called where nobody knows that."""
    if plan is not None and stage < len(plan.stages):
        return plan.stages[stage].node or f"node {plan.stages[stage].node_id}"
    return f"stage {stage}"


def _trips(trace: RequestTrace) -> tuple[ChunkTime | TokenTime, ...]:
    return (*trace.chunks, *trace.tokens)


def _stage_totals(trace: RequestTrace) -> tuple[StageTotals, ...]:
    plan = trace.plan
    prompt: tuple[ChunkTime | TokenTime, ...] = (*trace.chunks, *trace.tokens[:1])
    totals = []
    for stage in range(stage_count(trace)):
        answer = [token.stages[stage] for token in trace.tokens[1:] if stage < len(token.stages)]
        computed = sum(part.stages[stage].compute_us for part in prompt if stage < len(part.stages))
        totals.append(stage_totals(plan, stage, answer, computed))
    return tuple(totals)


def stage_totals(plan: Plan | None, stage: int, parts: Sequence[StageShare], prompt_compute_us: int = 0) -> StageTotals:
    """A stage's parts of several steps taken together; its layers where the plan is known."""
    planned = plan.stages[stage] if plan is not None and stage < len(plan.stages) else None
    return StageTotals(
        stage=stage,
        node=node_name(plan, stage),
        start=0 if planned is None else planned.start,
        end=0 if planned is None else planned.end,
        compute_us=sum(part.compute_us for part in parts),
        queue_us=sum(part.queue_us for part in parts),
        prompt_compute_us=prompt_compute_us,
    )


def _overlapping(token: int | None, at: int, took: int, stages: Sequence[StageShare], earliest: int) -> Bar:
    """A bar that may reach back beyond the end of the one before it."""
    length = max(took, sum(share.queue_us + share.compute_us for share in stages))
    return _bar(token, min(max(at - length, earliest, 0), at), at, stages)


def _bar(token: int | None, began: int, ended: int, stages: Sequence[StageShare]) -> Bar:
    """Queue and compute of each stage, each followed by its part of the wire: N hops, the last one back to the first.

    With one stage there is no hop; what is left is the handing over behind it. Measured times that are longer than the
    bar (the clocks are not the same) are shortened in proportion.
    """
    length = ended - began
    measured = sum(share.queue_us + share.compute_us for share in stages)
    if not stages:
        return Bar(token, began, ended, (Segment("wire", None, began, ended),) if length else ())
    scale = min(1.0, length / measured) if measured else 1.0
    hop = max(0, length - measured) / len(stages)
    parts: list[tuple[SegmentKind, int | None, float]] = []
    for number, share in enumerate(stages):
        parts.append(("queue", number, share.queue_us * scale))
        parts.append(("compute", number, share.compute_us * scale))
        parts.append(("wire", None, hop))
    # Rounded where they meet, so that nothing overlaps and nothing is lost.
    edges = [began, *(began + round(end) for end in accumulate(width for _, _, width in parts))]
    edges[-1] = ended
    segments = tuple(
        Segment(kind, stage, start, end)
        for (kind, stage, _), start, end in zip(parts, edges, edges[1:], strict=False)
        if end > start
    )
    return Bar(token, began, ended, segments)

"""Carries what a lost stage's states were computed from out of another one's journal to the stage that takes its place.

A page at a time: the next one is read when the last one has been computed, so that nothing piles up anywhere.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence

from app.errors import NodeError
from app.inference.stages import PipelineStage
from worker_agent.wire.messages import (
    DType,
    HeldState,
    JournalPage,
    JournalPiece,
    ReadJournal,
    Recompute,
    Resumed,
    TensorFrame,
)

PAGE_STEPS = 64
PAGE_SECONDS = 120.0
"""For a page to be read, or to be computed."""

TokensOf = Callable[[int], Sequence[int] | None]
"""A sequence's tokens, prompt and answer; None where they are not known any more."""


def sources(lost: Sequence[int], left: Sequence[int]) -> dict[int, int]:
    """Whose journal each lost stage is computed from, in this order.

    The one before it; of several neighbours only the first needs one that is left, since it has a journal itself when
    the next one's turn comes. For the first stage it is the next that is left, of which the shapes are enough.
    """
    return {stage: stage - 1 if stage else min(left) for stage in sorted(lost)}


def uncovered(lost: Sequence[int], held: Mapping[int, Sequence[HeldState]]) -> set[int]:
    """Sequences whose lost states cannot be computed again, since a journal that is needed does not cover them."""
    needed = set(sources(lost, list(held)).values()) & held.keys()
    return {state.sequence for stage in needed for state in held[stage] if not state.covered}


async def recompute(
    deployment: str,
    epoch: int,
    stages: Sequence[PipelineStage],
    lost: Sequence[int],
    resumed: Sequence[Resumed],
    tokens_of: TokensOf,
) -> None:
    """Have all lost stages compute their states of the resumed sequences again. After the Link, before any Start.

    Raises NodeError.
    """
    wanted = tuple(each.sequence for each in resumed if each.length)
    if not wanted:
        return
    left = [stage.stage for stage in stages if stage.stage not in lost]
    for stage, source in sources(lost, left).items():
        after, complete = 0, False
        while not complete:
            read = ReadJournal(
                call=0, deployment=deployment, stage=source, epoch=epoch, sequences=wanted, after=after,
                steps=PAGE_STEPS, shapes=stage == 0,
            )  # fmt: skip
            page, payload = await stages[source].link.read(read, JournalPage, seconds=PAGE_SECONDS)
            given = page.hidden
            if stage == 0:
                ids = [token for step in page.steps for piece in step.pieces for token in _ids(piece, tokens_of)]
                given, payload = TensorFrame(DType.INT32, (len(ids),)), (struct.pack(f"<{len(ids)}i", *ids),)
            if page.steps:
                after = page.steps[-1].number
            complete = page.complete
            message = Recompute(
                call=0, deployment=deployment, stage=stage, epoch=epoch, steps=page.steps,
                given=given if page.steps else None, complete=complete,
            )  # fmt: skip
            await stages[stage].link.call(message, payload if page.steps else (), seconds=PAGE_SECONDS)


def _ids(piece: JournalPiece, tokens_of: TokensOf) -> Sequence[int]:
    """The token ids of a piece; nobody looks at those that only fill a step up."""
    if piece.fills:
        return [0] * piece.count
    tokens = tokens_of(piece.sequence)
    if tokens is None or len(tokens) < piece.position + piece.count:
        raise NodeError("The tokens of an earlier prompt, which this one began with, are gone.", kind="position")
    return tokens[piece.position : piece.position + piece.count]

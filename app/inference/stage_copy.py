"""What a stage keeps of its sequences on its way to the stage that takes its place: states, and the journal.

Most is copied while the stage works, since both only grow; what came since, when it stands still.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from app.cluster.agent_link import AgentLink
from app.errors import Cancelled
from app.inference.pipeline import Pipeline
from worker_agent.wire.messages import (
    MAX_STATES,
    Copied,
    JournalPage,
    ReadJournal,
    ReadStates,
    Resumed,
    StatesPage,
    WriteJournal,
    WriteStates,
)

AHEAD_BYTES = 4 * 1024 * 1024
"""Copied at once while the stage works: its next step waits for that."""
LAST_BYTES = 16 * 1024 * 1024
"""Copied at once when it stands still."""
SMALL_BYTES = 1024 * 1024
"""So little is left that it can be copied while the stage stands still."""
MOST_ROUNDS = 1000
"""So often parts are copied ahead at most, where sequences grow as fast as they are copied."""
JOURNAL_STEPS = 64
"""Of the journal at once, at most."""
COPY_SECONDS = 60.0
"""For parts to be read, or to be put down."""


class StageCopy:
    """One stage's.

    Args:
        journal: whether the stage keeps one. Without it, what the next stage loses after the move could not be computed
            again from what this one had sent before.
    """

    def __init__(
        self, pipeline: Pipeline, stage: int, source: AgentLink, target: AgentLink, *, journal: bool = False
    ) -> None:
        self._deployment, self._epoch, self._stage = pipeline.deployment, pipeline.epoch, stage
        self._source, self._target, self._journal = source, target, journal
        self._have: dict[int, Copied] = {}
        self._last_step = 0
        """Of the journal's steps that were copied."""
        self.nbytes = 0

    async def ahead(self, told: Callable[[int], None], cancel: asyncio.Event) -> None:
        """Copy until little is left, while the stage works. Raises NodeError, Cancelled."""
        for _ in range(MOST_ROUNDS):
            if cancel.is_set():
                raise Cancelled("The handover was cancelled.")
            nbytes, complete = await self._states(AHEAD_BYTES, whole=False)
            complete = await self._steps() and complete
            told(self.nbytes)
            if complete and nbytes <= SMALL_BYTES:
                return

    async def rest(self) -> None:
        """Copy all that is left of a stage that stands still. Raises NodeError."""
        complete = False
        while not complete:
            _, complete = await self._states(LAST_BYTES, whole=True)
        while not await self._steps():
            pass

    async def _states(self, max_bytes: int, *, whole: bool) -> tuple[int, bool]:
        """A page of states: how many bytes it had, and whether there was no more."""
        read = ReadStates(
            call=0, deployment=self._deployment, stage=self._stage, epoch=self._epoch,
            have=tuple(self._have.values())[:MAX_STATES], max_bytes=max_bytes, whole=whole,
        )  # fmt: skip
        page, payload = await self._source.read(read, StatesPage, seconds=COPY_SECONDS)
        gone = self._have.keys() - set(page.present)
        for number in gone:
            del self._have[number]
        self._have |= {part.sequence: Copied(part.sequence, part.version, part.end) for part in page.parts}
        if page.parts or gone:
            write = WriteStates(
                call=0, deployment=self._deployment, stage=self._stage, parts=page.parts, present=page.present
            )
            await self._target.call(write, payload, seconds=COPY_SECONDS)
        nbytes = sum(map(len, payload))
        self.nbytes += nbytes
        return nbytes, page.complete

    async def _steps(self) -> bool:
        """A page of the journal; whether there was no more."""
        if not self._journal:
            return True
        read = ReadJournal(
            call=0, deployment=self._deployment, stage=self._stage, epoch=self._epoch, sequences=(),
            after=self._last_step, steps=JOURNAL_STEPS, every=True,
        )  # fmt: skip
        page, payload = await self._source.read(read, JournalPage, seconds=COPY_SECONDS)
        if page.steps:
            write = WriteJournal(
                call=0, deployment=self._deployment, stage=self._stage, steps=page.steps, hidden=page.hidden,
                needed=page.needed,
            )  # fmt: skip
            await self._target.call(write, payload, seconds=COPY_SECONDS)
            self._last_step = page.steps[-1].number
        self.nbytes += sum(map(len, payload))
        return page.complete

    def covers(self, resumed: Resumed) -> bool:
        """Whether so much of a sequence's state has been copied."""
        copied = self._have.get(resumed.sequence)
        return copied is not None and copied.tokens >= resumed.length

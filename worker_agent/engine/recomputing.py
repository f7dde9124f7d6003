"""A stage that takes the place of a lost one: its states are computed again from what the stage before it had sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import torch
from msgspec.structs import replace

from worker_agent.engine.executor import Executor
from worker_agent.engine.journal import Journal
from worker_agent.engine.runtime import Runtime
from worker_agent.engine.tensors import WIRE_DTYPES, from_frame, to_frame
from worker_agent.wire.errors import AgentError, OutOfStep, WireError
from worker_agent.wire.messages import (
    MAX_NEEDED,
    Buffer,
    JournalPage,
    JournalStep,
    ReadJournal,
    Recompute,
    Resumed,
    TensorFrame,
)

Answer = Callable[[AgentError | None], None]
"""Told when the steps of a call have run, or why they have not."""


@dataclass(frozen=True, slots=True)
class _Page:
    message: Recompute
    given: torch.Tensor
    answer: Answer


class Recomputing:
    """Runs steps of a journal one at a time, so that the thread can do other things between two of them.

    Args:
        journal: of this stage; it takes down what comes out, as it would have been sent.
        begun: told how many tokens a step holds just before it is computed.
    """

    def __init__(
        self, executor: Executor, journal: Journal | None, runtime: Runtime, begun: Callable[[int], None]
    ) -> None:
        self._executor, self._journal, self._runtime, self._begun = executor, journal, runtime, begun
        self._stage = executor.stage
        self._pages: deque[_Page] = deque()
        self._place = self._row = 0
        """The next step of the first page, and where its tokens begin."""
        self._resumed: tuple[Resumed, ...] = ()
        self._last = 0
        """The number of the last step that ran."""
        self._awaits = False

    @property
    def has_work(self) -> bool:
        return bool(self._pages)

    def read(self, message: ReadJournal) -> tuple[JournalPage, tuple[Buffer, ...]]:
        """What the next stage's states of these sequences were computed from; on the last stage the shapes alone."""
        if self._journal is None:
            return JournalPage(call=message.call, steps=(), complete=True), ()
        needed = self._journal.sequences[:MAX_NEEDED] if message.every else ()
        wanted = needed if message.every else message.sequences
        steps, hidden, complete = self._journal.page(wanted, message.after, message.steps)
        page = JournalPage(call=message.call, steps=steps, complete=complete, needed=needed)
        if message.shapes or not steps or self._stage.is_last:
            return page, ()
        count = sum(piece.count for step in steps for piece in step.pieces)
        described = TensorFrame(WIRE_DTYPES[self._stage.dtype], (count, self._stage.hidden_size))
        return replace(page, hidden=described), (b"".join(hidden),)

    def link(self, resumed: tuple[Resumed, ...]) -> None:
        """A new epoch: these states are wanted, whether they are here or not."""
        self.stop("the stage was linked anew")
        self._resumed, self._last, self._awaits = resumed, 0, any(each.length for each in resumed)

    def stop(self, why: str) -> None:
        """Nothing is to be computed any more."""
        pages, self._pages = self._pages, deque()
        self._place = self._row = 0
        self._awaits = False
        for page in pages:
            page.answer(AgentError(f"lost states are not computed any further: {why}"))

    def add(self, message: Recompute, payload: tuple[Buffer, ...], answer: Answer) -> None:
        """Run these steps soon. Raises OutOfStep when there is nothing to compute, WireError for what cannot be run."""
        if not self._awaits:
            raise OutOfStep("no state of this stage waits to be computed again; link it with resumed sequences first")
        given = torch.empty(0)
        if message.given is not None:
            given = from_frame(message.given, payload[0], self._stage.device)
        elif message.steps:
            raise WireError("steps to compute without what is given to them")
        if self._stage.is_first:
            fits = given.dim() == 1 and not given.is_floating_point()
            fits = fits and (not len(given) or 0 <= int(given.min()) <= int(given.max()) < self._stage.vocab_size)
        else:
            fits = given.shape[1:] == (self._stage.hidden_size,) and given.dtype == self._stage.dtype
        if message.steps and not fits:
            raise WireError(
                f"what is given to steps ({given.dtype} of shape {tuple(given.shape)}) does not fit the stage"
            )
        self._pages.append(_Page(message, given.long() if self._stage.is_first else given, answer))

    def work(self) -> int:
        """Run the next step; how many tokens it held, 0 when there was nothing to do."""
        if not self._pages:
            return 0
        page, count = self._pages[0], 1
        try:
            if self._place < len(page.message.steps):
                step = page.message.steps[self._place]
                count = sum(piece.count for piece in step.pieces)
                self._run(step, page.given[self._row : self._row + count])
                self._place, self._row = self._place + 1, self._row + count
            if self._place < len(page.message.steps):
                return count
            if page.message.complete:
                self._finish()
        except Exception as error:  # whatever it is, who asked is answered
            told = error if isinstance(error, AgentError) else OutOfStep(f"a lost step could not be computed: {error}")
            self._pages.popleft().answer(told)
            self.stop("an earlier step failed")
            return count
        self._pages.popleft()
        self._place = self._row = 0
        page.answer(None)
        return count

    def _run(self, step: JournalStep, given: torch.Tensor) -> None:
        if step.number <= self._last:
            return  # the page came a second time
        self._runtime.apply(alone=step.alone)
        self._begun(len(given))
        hidden = self._executor.recompute(step, given)
        self._last = step.number
        if self._journal is not None:
            self._journal.note_recomputed(step, () if self._stage.is_last else (to_frame(hidden)[1],))

    def _finish(self) -> None:
        """All steps have run: the states have to be those that are wanted."""
        lengths = {state.sequence: state.length for state in self._executor.memory.held()}
        for each in self._resumed:
            if lengths.get(each.sequence, 0) < each.length:
                raise OutOfStep(
                    f"sequence {each.sequence} was computed again to {lengths.get(each.sequence, 0)} tokens, and is to "
                    f"go on from {each.length}"
                )
        self._executor.memory.check_resumed(self._resumed)
        self._executor.memory.resume(self._resumed)
        if self._journal is not None:
            self._journal.resume(self._resumed)
        self._awaits = False

"""A ring in one process whose stages are lost and replaced, and the controller's part in going on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from msgspec.structs import replace

from tests.worker_agent.ring import RUNTIME, Ring
from worker_agent.engine.grammars import Grammars
from worker_agent.engine.runner import Runner
from worker_agent.engine.sequence import BLOCK
from worker_agent.engine.stage import Stage
from worker_agent.wire.errors import AgentError
from worker_agent.wire.messages import (
    Budget,
    Copied,
    DType,
    Halt,
    Halted,
    HeldState,
    JournalPage,
    JournalPiece,
    JournalStep,
    Link,
    ReadJournal,
    ReadStates,
    Recompute,
    Resumed,
    Sampling,
    Start,
    StatePart,
    StatesPage,
    TensorFrame,
    WriteJournal,
    WriteStates,
    check_payload,
    decode,
    encode,
)

Sent = TypeVar(
    "Sent",
    Start,
    Link,
    Halted,
    ReadJournal,
    JournalPage,
    Recompute,
    ReadStates,
    StatesPage,
    WriteStates,
    WriteJournal,
)


@dataclass(frozen=True)
class Wish:
    """A request, and when it comes: once another one (-1: none) has had so many tokens."""

    prompt: Sequence[int]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    after: tuple[int, int] = (-1, 0)
    eos: tuple[int, ...] = ()


@dataclass
class RecoveringRing(Ring):
    """Serves wishes; may halt in the middle of anything, and go on."""

    wishes: dict[int, Wish] = field(default_factory=dict)
    started: list[int] = field(default_factory=list)
    resumed: tuple[Resumed, ...] = ()
    """What the last `go_on` resumed."""
    recomputed: list[JournalStep] = field(default_factory=list)
    page_steps: int = 7
    spoil: Callable[[JournalStep], JournalStep] = lambda step: step
    """Changes a step before it is computed again."""
    grammars: Grammars = field(default_factory=Grammars)
    copied: list[StatePart] = field(default_factory=list)
    """Parts of states that went on where an earlier one had ended."""
    copies_journals: bool = True
    """Whether a stage that moves takes along what of its journal has come since it was copied ahead."""
    spoil_copy: Callable[[bytes], bytes] = lambda frame: frame
    """Changes a frame of states before it is put down."""

    @classmethod
    def of(
        cls, stages: Sequence[Stage], grammars: Grammars, *, lanes: int | None = None, **changes: object
    ) -> RecoveringRing:
        """Runners for stages that were loaded, as if they had been with these changes."""
        # Who yields when is to be the same on every machine, whatever its memory pages are.
        ring = cls([], lanes=lanes, block=BLOCK, grammars=grammars)
        for stage in stages:
            stage.load = replace(stage.load, **{"kv_tokens": 4096, "journal_bytes": 0, **changes})
            sender = ring._sender(stage.load.stage)
            ring.runners.append(Runner(stage, RUNTIME, f"boot{stage.load.stage}", sender, grammars=ring.grammars))
        ring.link()
        return ring

    def serve(self, wishes: dict[int, Wish], turns: int = 10**9) -> None:
        """Run until all is answered, or so many turns have passed."""
        self.wishes |= wishes
        for _ in range(turns):
            fresh = False
            for number, wish in self.wishes.items():
                other, count = wish.after
                if number not in self.started and (other < 0 or len(self.tokens[other]) >= count):
                    self.begin(number)
                    fresh = True
            if not self.turn() and not fresh:
                assert not self.faults, self.faults
                return

    def begin(self, number: int, held: int = 0) -> None:
        wish = self.wishes[number]
        tokens = np.asarray([*wish.prompt, *self.answer(number)], dtype=np.int32)
        message = Start(
            call=1, deployment="d1", epoch=self.epoch, sequence=number, prompt_tokens=len(wish.prompt),
            sampling=wish.sampling, budget=Budget(wish.max_tokens, wish.eos), held=held,
            tokens=TensorFrame(DType.INT32, (len(tokens),)),
        )  # fmt: skip
        if number not in self.started:
            self.started.append(number)
        self.runners[0].start(through(message), (tokens.tobytes(),), False)

    def committed(self, number: int) -> int:
        """How many tokens of a sequence are in the caches of all stages for certain."""
        if number in self.finished:
            return 2**31
        if self.tokens[number]:
            return len(self.wishes[number].prompt) + len(self.tokens[number]) - 1
        return self.prefilled.get(number, 0)

    def halt(self, lost: Sequence[int] = ()) -> dict[int, tuple[HeldState, ...]]:
        """What the surviving stages hold. What was on its way is lost."""
        held = {}
        for stage, runner in enumerate(self.runners):
            if stage not in lost:
                answer = runner.halt(Halt(call=1, deployment="d1", stage=stage, epoch=self.epoch))
                held[stage] = through(answer).states
        self.post.clear()
        return held

    def go_on(
        self, held: dict[int, tuple[HeldState, ...]], cancelled: Sequence[int] = (), wrong: int | None = None
    ) -> None:
        """Put newcomers in the places of lost stages, link all anew, and start every unfinished sequence again.

        Args:
            cancelled: sequences that are ended instead.
            wrong: a stage that is told of lengths that are too short by one.
        """
        lost = [stage for stage in range(len(self.runners)) if stage not in held]
        for stage in lost:
            old = self.runners[stage]
            self.runners[stage] = Runner(
                old.stage, RUNTIME, f"another{stage}", self._sender(stage), grammars=self.grammars
            )
        # Of several neighbours only the first needs a survivor: it has a journal itself when the next one's turn comes.
        sources = {stage - 1 if stage else min(held) for stage in lost} & held.keys()
        unfinished = [number for number in self.started if number not in self.finished]
        resumed = {}
        # What was under way comes first once more; where the first stage was lost, so does what had not begun.
        first = sorted(held[min(held)], key=lambda each: each.length <= self.committed(each.sequence))
        for state in first:
            number = state.sequence
            covered = all(each.covered for source in sources for each in held[source] if each.sequence == number)
            others = [each for states in held.values() for each in states if each.sequence == number]
            if number in unfinished:
                length = self.committed(number)
                possible = covered and all(each.least <= length for each in others)
                resumed[number] = Resumed(number, length if possible else 0, state.kind, state.slot)
            elif state.kind == "kept" and 0 in held and covered:
                resumed[number] = Resumed(number, min(each.length for each in others), "kept", state.slot)
        others = [Resumed(number, 0) for number in unfinished if number not in resumed]
        self.resumed = (*resumed.values(), *others) if 0 in held else (*others, *resumed.values())
        self.epoch += 1
        for stage in reversed(range(len(self.runners))):
            short = tuple(replace(each, length=max(0, each.length - 1)) for each in self.resumed)
            self._link_one(stage, self.runners[stage], short if stage == wrong else self.resumed)
        for stage in lost:
            self._recompute(stage, stage - 1 if stage else min(held))
        for number in unfinished:
            if number in cancelled:
                self.runners[0].cancel(number)
                continue
            self.begin(number, resumed[number].length if number in resumed else 0)

    def hand_over(self, moved: Sequence[int], *, turns: int = 2, page_bytes: int = 4000, rests: bool = True) -> None:
        """Put other runners in the places of stages, with their states, while the ring goes on for some turns.

        Args:
            turns: between two pages that are copied ahead.
            rests: whether what is under way comes round before the stages stop.
        """
        newcomers = {
            stage: Runner(
                self.runners[stage].stage, RUNTIME, f"another{stage}", self._sender(stage), grammars=self.grammars
            )
            for stage in moved
        }
        have: dict[int, dict[int, Copied]] = {stage: {} for stage in moved}
        steps = dict.fromkeys(moved, 0)
        for _ in range(3):
            for stage in moved:
                self._copy(stage, newcomers[stage], have[stage], page_bytes, whole=False)
                steps[stage], _ = self._copy_journal(stage, newcomers[stage], steps[stage])
            self.serve(self.wishes, turns)
        if rests:
            self.runners[0].halt(Halt(call=1, deployment="d1", stage=0, epoch=self.epoch, rest=True))
            while self.turn():
                pass
        held = self.halt()
        for stage in moved:
            while not self._copy(stage, newcomers[stage], have[stage], page_bytes, whole=True):
                pass
            complete = not self.copies_journals
            while not complete:
                steps[stage], complete = self._copy_journal(stage, newcomers[stage], steps[stage])
            self.runners[stage] = newcomers[stage]
        if 0 in moved:
            held = {stage: tuple(each for each in states if each.kind != "kept") for stage, states in held.items()}
        self.go_on(held)

    def _copy(self, stage: int, newcomer: Runner, have: dict[int, Copied], max_bytes: int, *, whole: bool) -> bool:
        """Copy a page of states. Whether there was no more."""
        read = ReadStates(
            call=1, deployment="d1", stage=stage, epoch=self.epoch, have=tuple(have.values()), max_bytes=max_bytes,
            whole=whole,
        )  # fmt: skip
        page, payload = self.runners[stage].copies.read(through(read))
        page = through(page)
        check_payload(page, payload)
        for number in have.keys() - set(page.present):
            del have[number]
        have |= {part.sequence: Copied(part.sequence, part.version, part.end) for part in page.parts}
        self.copied += [part for part in page.parts if part.start]
        write = WriteStates(call=1, deployment="d1", stage=stage, parts=page.parts, present=page.present)
        payload = tuple(self.spoil_copy(bytes(frame)) for frame in payload)
        newcomer.copies.write(through(write), payload)
        return page.complete

    def _copy_journal(self, stage: int, newcomer: Runner, after: int) -> tuple[int, bool]:
        """Copy a page of the journal. The last step that was copied, and whether there was no more."""
        read = ReadJournal(
            call=1, deployment="d1", stage=stage, epoch=self.epoch, sequences=(), after=after, steps=self.page_steps,
            every=True,
        )  # fmt: skip
        page, payload = self.runners[stage].read_journal(through(read))
        page = through(page)
        check_payload(page, payload)
        if not page.steps:
            return after, page.complete
        write = through(
            WriteJournal(call=1, deployment="d1", stage=stage, steps=page.steps, hidden=page.hidden, needed=page.needed)
        )
        check_payload(write, payload)
        newcomer.copies.write(write, payload)
        return page.steps[-1].number, page.complete

    def _recompute(self, stage: int, source: int) -> None:
        """Have a newcomer compute its states from another stage's journal, page by page."""
        wanted = tuple(each.sequence for each in self.resumed if each.length)
        if not wanted:
            return
        after, complete = 0, False
        while not complete:
            read = ReadJournal(
                call=1, deployment="d1", stage=source, epoch=self.epoch, sequences=wanted, after=after,
                steps=self.page_steps, shapes=not stage,
            )  # fmt: skip
            page, payload = self.runners[source].read_journal(through(read))
            page = through(page)
            check_payload(page, payload)
            pieces = [piece for step in page.steps for piece in step.pieces]
            described = page.hidden
            if not stage:
                ids = np.asarray([token for piece in pieces for token in self._tokens(piece)], dtype=np.int32)
                described, payload = TensorFrame(DType.INT32, (len(ids),)), (ids.tobytes(),)
            after, complete = page.steps[-1].number, page.complete
            steps = tuple(self.spoil(step) for step in page.steps)
            self.recomputed += steps
            message = Recompute(
                call=1, deployment="d1", stage=stage, epoch=self.epoch, steps=steps, given=described, complete=complete
            )
            check_payload(message, payload)
            answers: list[AgentError | None] = []
            self.runners[stage].recompute(through(message), payload, answers.append)
            while self.runners[stage].has_work:
                self.runners[stage].work()
            assert answers == [None], answers

    def _tokens(self, piece: JournalPiece) -> list[int]:
        if piece.fills:
            return [0] * piece.count
        tokens = [*self.wishes[piece.sequence].prompt, *self.answer(piece.sequence)]
        return tokens[piece.position : piece.position + piece.count]

    def _link_one(self, stage: int, runner: Runner, resumed: tuple[Resumed, ...]) -> None:
        runner.link(through(self.link_of(stage, resumed)))

    def rows(self) -> dict[tuple[int, int, int], bytes]:
        """The hidden states that were sent last to each stage for each token of each sequence."""
        found = {}
        for step, payload in zip(self.steps, self.payloads, strict=True):
            count = sum(piece.count for piece in step.pieces)
            width = len(payload) // count if count else 0
            at = 0
            for piece in step.pieces:
                for position in range(piece.position, piece.position + piece.count):
                    found[step.stage, piece.sequence, position] = payload[at : at + width]
                    at += width
        return found


def through(message: Sent) -> Sent:
    """What arrives of a message when it goes over a wire."""
    return decode(encode(message))  # type: ignore[return-value]

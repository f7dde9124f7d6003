"""A ring in one process whose stages are lost and replaced, and the controller's part in going on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from msgspec.structs import replace

from tests.worker_agent.ring import RUNTIME, Ring
from worker_agent.engine.runner import Runner
from worker_agent.engine.stage import Stage
from worker_agent.wire.messages import (
    Budget,
    DType,
    Halt,
    Halted,
    HeldState,
    Link,
    Resumed,
    Sampling,
    Start,
    TensorFrame,
    decode,
    encode,
)

Sent = TypeVar("Sent", Start, Link, Halted)


@dataclass(frozen=True)
class Wish:
    """A request, and when it comes: once another one (-1: none) has had so many tokens."""

    prompt: Sequence[int]
    max_tokens: int
    sampling: Sampling = field(default_factory=Sampling)
    after: tuple[int, int] = (-1, 0)


@dataclass
class RecoveringRing(Ring):
    """Serves wishes; may halt in the middle of anything, and go on."""

    wishes: dict[int, Wish] = field(default_factory=dict)
    started: list[int] = field(default_factory=list)
    resumed: tuple[Resumed, ...] = ()
    """What the last `go_on` resumed."""

    @classmethod
    def of(cls, stages: Sequence[Stage], **changes: object) -> RecoveringRing:
        """Runners for stages that were loaded, as if they had been with these changes."""
        ring = cls([])
        for stage in stages:
            stage.load = replace(stage.load, **changes)
            ring.runners.append(Runner(stage, RUNTIME, f"boot{stage.load.stage}", ring._sender(stage.load.stage)))
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
            sampling=wish.sampling, budget=Budget(max_tokens=wish.max_tokens), held=held,
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
        """Link all stages anew, with what can go on, and start every unfinished sequence again.

        Args:
            cancelled: sequences that are ended instead.
            wrong: a stage that is told of lengths that are too short by one.
        """
        unfinished = [number for number in self.started if number not in self.finished]
        resumed = {}
        # What was under way comes first once more; where the first stage was lost, so does what had not begun.
        first = sorted(held[min(held)], key=lambda each: each.length <= self.committed(each.sequence))
        for state in first:
            number = state.sequence
            others = [each for states in held.values() for each in states if each.sequence == number]
            if number in unfinished:
                length = self.committed(number)
                possible = all(each.least <= length for each in others)
                resumed[number] = Resumed(number, length if possible else 0, state.kind, state.slot)
            elif state.kind == "kept" and 0 in held:
                resumed[number] = Resumed(number, min(each.length for each in others), "kept", state.slot)
        others = [Resumed(number, 0) for number in unfinished if number not in resumed]
        self.resumed = (*resumed.values(), *others) if 0 in held else (*others, *resumed.values())
        self.epoch += 1
        for stage in reversed(range(len(self.runners))):
            short = tuple(replace(each, length=max(0, each.length - 1)) for each in self.resumed)
            self._link_one(stage, self.runners[stage], short if stage == wrong else self.resumed)
        for number in unfinished:
            if number in cancelled:
                self.runners[0].cancel(number)
                continue
            self.begin(number, resumed[number].length if number in resumed else 0)

    def _link_one(self, stage: int, runner: Runner, resumed: tuple[Resumed, ...]) -> None:
        whole = not all(runner.stage.in_pieces for runner in self.runners)
        reuse = min((runner.stage.reuse for runner in self.runners), key=("no", "whole", "any").index)
        first = {} if stage else {"whole_prompts": whole, "reuse": reuse}
        link = Link(call=1, deployment="d1", stage=stage, epoch=self.epoch, resumed=resumed, **first)  # type: ignore[arg-type]
        runner.link(through(link))

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

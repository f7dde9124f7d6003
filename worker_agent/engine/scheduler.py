"""Which sequences go into the next step: the first stage's part of the ring, as a pure state machine.

Continuous batching (a sequence joins and leaves between two steps), chunked prefill (a long prompt does
not hold up the others), admission by KV budget, and as many steps in flight as there are lanes: stages
that can compute at the same time. Events in, steps out; no clock, no sockets, no tensors.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import msgspec

from worker_agent.wire.errors import AgentError, OutOfMemory
from worker_agent.wire.messages import Admission, Budget, Sampling, Slice, Tokens

SCORED_CHUNK = 64
"""Of prompts whose tokens' log probabilities are wanted, so many tokens in one step at most: each needs the logits of
the whole vocabulary, 40 MB for 64 tokens of a large one."""
LOOKED_BACK = 150_000
"""Of sequences that one step admits, so many tokens at most go along for the last stage to look back at: they share an
envelope of 1 MiB."""


@dataclass
class Sequence:
    """A request inside the pipeline, as the first stage sees it."""

    number: int
    tokens: list[int]
    """Prompt and answer so far."""
    prompt_tokens: int
    sampling: Sampling
    budget: Budget
    sent: int = 0
    """How many of `tokens` have been put into a step."""
    in_flight: int = 0
    admitted: bool = False

    given: int = field(init=False)
    """How many tokens Start brought: the prompt, and in a recovery what was generated before."""

    def __post_init__(self) -> None:
        self.given = len(self.tokens)

    @property
    def pending(self) -> int:
        """Tokens known but not yet put into a step."""
        return len(self.tokens) - self.sent

    @property
    def is_decoding(self) -> bool:
        return self.sent >= self.given

    @property
    def capacity(self) -> int:
        """KV tokens it may come to hold: what Start brought and what may still be generated."""
        return self.prompt_tokens + self.budget.max_tokens

    @property
    def looks_back(self) -> bool:
        """Whether the last stage needs its tokens, and not only those to come."""
        # What was generated before has led some way into the grammar.
        return self.sampling.looks_back or (
            self.sampling.constraint is not None and len(self.tokens) > self.prompt_tokens
        )


def check_whole_prompt(sequence: Sequence, widest: int) -> None:
    """Whether a prompt can go through the stages in one step, of `widest` tokens at most. Raises AgentError."""
    if sequence.given > widest:
        raise OutOfMemory(
            f"this architecture takes prompts as a whole only, and one of {sequence.given:,} tokens is longer than "
            f"the {widest:,} that can go from stage to stage at once"
        )
    if sequence.sampling.prompt_logprobs >= 0 and sequence.prompt_tokens > SCORED_CHUNK:
        raise AgentError(
            "this architecture takes prompts as a whole only; log probabilities of a prompt's tokens can be had "
            f"for up to {SCORED_CHUNK} of them then"
        )


@dataclass(frozen=True)
class PlannedStep:
    """What the next step holds. `tokens` are the ids of all slices, end to end."""

    number: int
    slices: tuple[Slice, ...]
    released: tuple[int, ...]
    tokens: tuple[int, ...]
    in_flight: int
    """Steps in flight, this one included."""


class Scheduler:
    """Decides what each step holds.

    Args:
        kv_tokens: tokens that the smallest stage can keep.
        max_sequences: sequences that may run at once.
        chunk: the most tokens in one step.
        lanes: steps that may be in flight at once.
        whole_prompts: a prompt goes into one step, however long it is.
        restarts_at: a sequence that comes to more tokens than this is run anew from its first one, once.
    """

    def __init__(
        self,
        kv_tokens: int,
        max_sequences: int,
        chunk: int,
        lanes: int,
        *,
        whole_prompts: bool = False,
        restarts_at: int | None = None,
    ) -> None:
        self.kv_tokens, self.max_sequences, self.chunk, self.lanes = kv_tokens, max_sequences, chunk, lanes
        self.whole_prompts, self.restarts_at = whole_prompts, restarts_at
        self.waiting: deque[Sequence] = deque()
        self.running: dict[int, Sequence] = {}
        self._in_flight: dict[int, tuple[int, ...]] = {}
        self._released: list[int] = []
        self._next_step = 1

    @property
    def reserved(self) -> int:
        return sum(sequence.capacity for sequence in self.running.values())

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    @property
    def is_idle(self) -> bool:
        return not self.waiting and not self.running and not self._in_flight

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; it starts when the KV budget has room for it."""
        self.waiting.append(sequence)

    def holds(self, number: int) -> bool:
        return number in self.running or any(sequence.number == number for sequence in self.waiting)

    def cancel(self, number: int) -> None:
        """End a sequence now; the next step tells the other stages. Unknown numbers are no error."""
        for sequence in self.waiting:
            if sequence.number == number:
                self.waiting.remove(sequence)
                return
        self._end(number)

    def cancel_all(self) -> None:
        self.waiting.clear()
        for number in list(self.running):
            self._end(number)

    def returned(self, message: Tokens) -> bool:
        """A step has come round: take its tokens. False if it is not in flight (it came twice, or late)."""
        carried = self._in_flight.pop(message.step, None)
        if carried is None:
            return False
        for number in carried:
            if number in self.running:
                self.running[number].in_flight -= 1
        for token in message.tokens:
            sequence = self.running.get(token.sequence)
            if sequence is None or token.position != len(sequence.tokens):
                continue
            sequence.tokens.append(token.token)
            if token.finish:
                self._end(token.sequence)
            elif len(sequence.tokens) - 1 == self.restarts_at:
                self._restart(sequence)
        return True

    def _restart(self, sequence: Sequence) -> None:
        """Run a sequence anew with all its tokens, as transformers does for some models when they get that long.

        (Their rotary embedding changes for every position there, so that what is in the caches is of no use.) The
        stages free its memory and admit it again with one and the same step.
        """
        self._released.append(sequence.number)
        sequence.sent, sequence.given, sequence.admitted = 0, len(sequence.tokens), False
        sequence.sampling = msgspec.structs.replace(sequence.sampling, prompt_logprobs=-1)  # they were told already

    def next_step(self) -> PlannedStep | None:
        """The next step, if there is something to do and a lane is free.

        A step that only releases sequences needs no lane.
        """
        self._admit()
        chosen: list[tuple[Sequence, int]] = []
        if len(self._in_flight) < self.lanes:
            chosen = self._choose()
        if not chosen and not self._released:
            return None
        number, self._next_step = self._next_step, self._next_step + 1
        slices, tokens = [], []
        for sequence, count in chosen:
            first = not sequence.admitted
            sequence.admitted = True
            start, end = sequence.sent, sequence.sent + count
            slices.append(
                Slice(
                    sequence.number,
                    start,
                    count,
                    end == len(sequence.tokens),
                    self._admission(sequence) if first else None,
                )
            )
            tokens.extend(sequence.tokens[start:end])
            sequence.sent = end
            sequence.in_flight += 1
        released, self._released = tuple(self._released), []
        if slices:
            self._in_flight[number] = tuple(piece.sequence for piece in slices)
        return PlannedStep(number, tuple(slices), released, tuple(tokens), max(1, len(self._in_flight)))

    def _choose(self) -> list[tuple[Sequence, int]]:
        """Sequences for one step: decoding ones first, a fair share of them per lane, then prompts up to the chunk."""
        decoding = [sequence for sequence in self.running.values() if sequence.is_decoding]
        share = -(-len(decoding) // self.lanes)
        ready = [sequence for sequence in decoding if sequence.pending and not sequence.in_flight][:share]
        room = self.chunk
        chosen = []
        for sequence in ready[:room]:
            chosen.append((sequence, 1))
            room -= 1
        scored, looked_back = SCORED_CHUNK, 0
        for sequence in self.running.values():
            if room > 0 and not sequence.is_decoding and sequence.pending:
                count = sequence.pending if self.whole_prompts else min(sequence.pending, room)
                if sequence.sampling.prompt_logprobs >= 0 and not self.whole_prompts:
                    count = min(count, scored)
                if not sequence.admitted and sequence.looks_back:
                    if looked_back and looked_back + len(sequence.tokens) > LOOKED_BACK:
                        continue
                    looked_back += len(sequence.tokens)
                if count:
                    chosen.append((sequence, count))
                    room -= count
                    scored -= count if sequence.sampling.prompt_logprobs >= 0 else 0
        # Whoever was served goes to the back, so that a share smaller than all rotates.
        for sequence, _ in chosen:
            self.running[sequence.number] = self.running.pop(sequence.number)
        return chosen

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self.max_sequences:
            if self.reserved + self.waiting[0].capacity > self.kv_tokens:
                return
            sequence = self.waiting.popleft()
            self.running[sequence.number] = sequence

    def _end(self, number: int) -> None:
        sequence = self.running.pop(number, None)
        if sequence is not None and sequence.admitted:
            self._released.append(number)

    @staticmethod
    def _admission(sequence: Sequence) -> Admission:
        return Admission(
            tokens=tuple(sequence.tokens) if sequence.looks_back else (),
            prompt_tokens=sequence.prompt_tokens,
            total_tokens=len(sequence.tokens),
            capacity=sequence.capacity,
            sampling=sequence.sampling,
            budget=sequence.budget,
        )

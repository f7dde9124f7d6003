"""Which sequences go into the next step: the first stage's part of the ring, as a pure state machine.

Continuous batching (a sequence joins and leaves between two steps), chunked prefill (a long prompt does not hold up the
others), and as many steps in flight as there are lanes: stages that can compute at the same time. Events in, steps out;
no clock, no sockets, no tensors.

Admission is by use: a sequence counts with the tokens that it has and those that it will soon have, not with all that
it might come to. When the pool runs full all the same, first what is kept of earlier prompts goes, then the youngest
sequence yields: its state is set aside, and it goes on when there is room again. The oldest never yields, and whoever
yielded is older than whoever waits behind it, so everybody comes to an end.

A prompt that begins as an earlier one did, or as one that is under way, starts where they part (`prefixes.py`). The
scheduler alone knows and decides what is kept; the stages hear of it with the steps, in order, and so agree.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from collections.abc import Sequence as SequenceOf
from dataclasses import dataclass, field, replace

import msgspec

from worker_agent.engine.prefixes import KEPT_SEQUENCES, MIN_SHARED, Candidate, KeptSequences, longest
from worker_agent.wire.errors import AgentError, OutOfMemory
from worker_agent.wire.messages import Admission, Budget, Piece, Resumed, Reuse, Sampling, Shared, Tokens

SCORED_CHUNK = 64
"""Of prompts whose tokens' log probabilities are wanted, so many tokens in one step at most: each needs the logits of
the whole vocabulary, 40 MB for 64 tokens of a large one."""
LOOKED_BACK = 150_000
"""Of sequences that one step admits, so many tokens at most go along for the last stage to look back at: they share an
envelope of 1 MiB."""
BLOCK = 32
"""Tokens are counted in blocks of so many: rows take memory by the page, which is 16 to 64 tokens."""
SOON = 32
"""Who is admitted finds room for so many tokens more than it has, and leaves as many to each that runs already."""
TAKEN = 0.75
"""A kept state is taken over, rather than copied from, if at least this part of it is of use."""


@dataclass
class Sequence:
    """A request inside the pipeline, as the first stage sees it."""

    number: int
    tokens: list[int]
    """Prompt and answer so far."""
    prompt_tokens: int
    sampling: Sampling
    budget: Budget
    group: str = ""
    """Only sequences of one group share tokens."""
    sent: int = 0
    """How many of `tokens` have been put into a step, or came from another sequence."""
    in_flight: int = 0
    admitted: bool = False
    """Whether the stages hold something of it."""
    introduced: bool = False
    """Whether the last stage knows how to sample it."""
    held: int = 0
    """Of one that goes on after a stage was lost: how many of its first tokens the stages hold."""
    arrival: int = 0
    """Who came before whom."""
    shared: Shared | None = None

    given: int = field(init=False)
    """How many tokens Start brought: the prompt, and in a recovery what was generated before."""

    def __post_init__(self) -> None:
        self.given = len(self.tokens)
        if self.held:
            self.sent, self.admitted = self.held, True
            if self.held == len(self.tokens) - 1 and self.held >= self.prompt_tokens:
                self.given = self.held  # it was decoding, and goes on so, in the steps of those that decode

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
    def used(self) -> int:
        """KV tokens that it takes, when all that it has is computed."""
        return in_blocks(len(self.tokens))

    @property
    def soon(self) -> int:
        """KV tokens that it will take before long."""
        return in_blocks(min(len(self.tokens) + SOON, self.capacity))

    @property
    def looks_back(self) -> bool:
        """Whether the last stage needs its tokens, and not only those to come."""
        # What was generated before has led some way into the grammar.
        return self.sampling.looks_back or (
            self.sampling.constraint is not None and len(self.tokens) > self.prompt_tokens
        )


def in_blocks(tokens: int) -> int:
    return -(-tokens // BLOCK) * BLOCK


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
    """What the next step holds. `tokens` are the ids of all pieces, end to end."""

    number: int
    pieces: tuple[Piece, ...]
    released: tuple[int, ...]
    kept: tuple[int, ...]
    aside: tuple[int, ...]
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
        reuse: what of an earlier sequence's state a prompt may take over that begins in the same way.
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
        reuse: Reuse = "no",
    ) -> None:
        self.kv_tokens, self.max_sequences, self.chunk, self.lanes = kv_tokens, max_sequences, chunk, lanes
        self.whole_prompts, self.restarts_at, self.reuse = whole_prompts, restarts_at, reuse
        self.waiting: OrderedDict[int, Sequence] = OrderedDict()
        """In the order of their arrival; those that yielded among them."""
        self.running: dict[int, Sequence] = {}
        self._kept = KeptSequences()
        self._in_flight: dict[int, tuple[int, ...]] = {}
        self._released: list[int] = []
        self._newly_kept: list[int] = []
        self._aside: list[int] = []
        self._next_step = 1
        self._arrivals = 0
        self._resumed: tuple[int, ...] = ()
        """Those that were running when a stage was lost, the one whose turn came next first."""
        self._missing: set[int] = set()
        """Those that are to be started anew before the first step."""

    @property
    def used(self) -> int:
        """KV tokens that running sequences take, and those that are over."""
        return sum(sequence.used for sequence in self.running.values()) + self._kept_tokens

    @property
    def in_flight(self) -> int:
        return len(self._in_flight)

    @property
    def is_idle(self) -> bool:
        return not self.waiting and not self.running and not self._in_flight

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence; it starts when the pool has room for it."""
        self._arrivals += 1
        sequence.arrival = self._arrivals
        self.waiting[sequence.number] = sequence
        self._missing.discard(sequence.number)

    def resume(self, resumed: SequenceOf[Resumed], kept: Iterable[Candidate] = ()) -> None:
        """Wait, before the first step, until these were all started anew or cancelled: then as many sequences are in
        it as would have been, in the same order.

        Args:
            kept: sequences that were over before; what the resumed ones among them left is of use to later prompts.
        """
        self._resumed = tuple(each.sequence for each in resumed if each.kind == "runs")
        self._missing = {each.sequence for each in resumed if each.kind != "kept"}
        lengths = {each.sequence: each.length for each in resumed if each.kind == "kept"}
        for candidate in kept:
            if len(candidate.tokens) <= lengths.get(candidate.number, 0):
                self._kept.add(replace(candidate, held=lengths.pop(candidate.number)))
        self._released += lengths

    @property
    def kept(self) -> tuple[Candidate, ...]:
        """Those that are over and whose state is of use to later prompts."""
        return tuple(self._kept)

    def holds(self, number: int) -> bool:
        return number in self.running or number in self.waiting

    def cancel(self, number: int) -> None:
        """End a sequence now; the next step tells the other stages. Unknown numbers are no error."""
        if number in self._missing:
            self._missing.discard(number)
            self._released.append(number)
        self._end(number, keep=True)

    def cancel_all(self) -> None:
        """End all sequences, and forget what earlier ones have left."""
        self._released += self._missing
        self._missing.clear()
        for number in (*self.waiting, *self.running):
            self._end(number, keep=False)
        while self._kept:
            self._released.append(self._kept.pop_oldest())

    def returned(self, message: Tokens) -> bool:
        """A step has come round: take its tokens. False if it is not in flight (it came twice, or late)."""
        carried = self._in_flight.pop(message.step, None)
        if carried is None:
            return False
        for number in carried:
            if (sequence := self._sequence(number)) is not None:
                sequence.in_flight -= 1
        for token in message.tokens:
            sequence = self._sequence(token.sequence)
            if sequence is None or token.position != len(sequence.tokens):
                continue
            sequence.tokens.append(token.token)
            if token.finish:
                self._end(token.sequence, keep=token.finish != "numbers")
            elif len(sequence.tokens) - 1 == self.restarts_at:
                self._restart(sequence)
        return True

    def _sequence(self, number: int) -> Sequence | None:
        return self.running.get(number) or self.waiting.get(number)

    def _restart(self, sequence: Sequence) -> None:
        """Run a sequence anew with all its tokens, as transformers does for some models when they get that long.

        (Their rotary embedding changes for every position there, so that what is in the caches is of no use.) The
        stages free its memory and admit it again with one and the same step.
        """
        self._released.append(sequence.number)
        sequence.sent, sequence.given = 0, len(sequence.tokens)
        sequence.admitted = sequence.introduced = False
        sequence.sampling = msgspec.structs.replace(sequence.sampling, prompt_logprobs=-1)  # they were told already

    def next_step(self) -> PlannedStep | None:
        """The next step, if there is something to do and a lane is free.

        A step that only releases sequences needs no lane.
        """
        if self._missing:
            return None
        self._go_on()
        self._make_room()
        self._admit()
        chosen: list[tuple[Sequence, int]] = []
        if len(self._in_flight) < self.lanes:
            chosen = self._choose()
        if not chosen and not self._released and not self._aside and not self._newly_kept:
            return None
        number, self._next_step = self._next_step, self._next_step + 1
        pieces, tokens = [], []
        for sequence, count in chosen:
            first = not sequence.introduced
            sequence.admitted = sequence.introduced = True
            start, end = sequence.sent, sequence.sent + count
            admission = self._admission(sequence) if first else None
            pieces.append(Piece(sequence.number, start, count, end == len(sequence.tokens), admission))
            tokens.extend(sequence.tokens[start:end])
            sequence.sent = end
            sequence.in_flight += 1
        if pieces:
            self._in_flight[number] = tuple(piece.sequence for piece in pieces)
        step = PlannedStep(
            number, tuple(pieces), tuple(self._released), tuple(self._newly_kept), tuple(self._aside), tuple(tokens),
            max(1, len(self._in_flight)),
        )  # fmt: skip
        self._released, self._newly_kept, self._aside = [], [], []
        return step

    def _choose(self) -> list[tuple[Sequence, int]]:
        """Sequences for one step: decoding ones first, a fair share of them per lane, then prompts up to the chunk."""
        decoding = [sequence for sequence in self.running.values() if sequence.is_decoding]
        share = -(-len(decoding) // self.lanes)
        ready = [sequence for sequence in decoding if sequence.pending and not sequence.in_flight][:share]
        room = self.chunk
        chosen = []
        scored, looked_back = SCORED_CHUNK, 0
        for sequence in ready[:room]:
            if not sequence.introduced and sequence.looks_back:
                if looked_back and looked_back + len(sequence.tokens) > LOOKED_BACK:
                    continue
                looked_back += len(sequence.tokens)
            chosen.append((sequence, 1))
            room -= 1
        computed = {number: sequence.sent for number, sequence in self.running.items() if sequence.admitted}
        for sequence in self.running.values():
            if room > 0 and not sequence.is_decoding and sequence.pending:
                if not sequence.introduced and sequence.looks_back:
                    if looked_back and looked_back + len(sequence.tokens) > LOOKED_BACK:
                        continue
                    looked_back += len(sequence.tokens)
                if not sequence.admitted:
                    self._share(sequence, computed)
                count = sequence.pending if self.whole_prompts else min(sequence.pending, room)
                if sequence.sampling.prompt_logprobs >= 0 and not self.whole_prompts:
                    count = min(count, scored)
                if count:
                    chosen.append((sequence, count))
                    room -= count
                    scored -= count if sequence.sampling.prompt_logprobs >= 0 else 0
        # Whoever was served goes to the back, so that a share smaller than all rotates.
        for sequence, _ in chosen:
            self.running[sequence.number] = self.running.pop(sequence.number)
        return chosen

    def _go_on(self) -> None:
        """Have what ran when a stage was lost run again, in the same order. What has its memory needs no room."""
        if not self._resumed:
            return
        for number in self._resumed:
            if number in self.waiting and self.waiting[number].held:
                self.running[number] = self.waiting.pop(number)
        self._admit()
        for number in (*self._resumed, *(each for each in self.running if each not in self._resumed)):
            if number in self.running:
                self.running[number] = self.running.pop(number)
        self._resumed = ()

    # --- memory --------------------------------------------------------------------------------------

    @property
    def _kept_tokens(self) -> int:
        return sum(in_blocks(candidate.held) for candidate in self._kept)

    def _make_room(self) -> None:
        """Keep what runs within the pool: what is over goes first, then the youngest yields."""
        while self.used > self.kv_tokens:
            if self._kept:
                self._released.append(self._kept.pop_oldest())
            elif len(self.running) > 1:
                self._yield(max(self.running.values(), key=lambda sequence: sequence.arrival))
            else:
                return

    def _yield(self, sequence: Sequence) -> None:
        del self.running[sequence.number]
        if sequence.admitted:
            self._aside.append(sequence.number)
        else:
            sequence.sent, sequence.shared = 0, None
        self.waiting[sequence.number] = sequence
        # It is younger than all that run, but older than what has never run.
        ordered = sorted(self.waiting.values(), key=lambda each: each.arrival)
        self.waiting = OrderedDict((each.number, each) for each in ordered)

    def _admit(self) -> None:
        while self.waiting and len(self.running) < self.max_sequences:
            sequence = next(iter(self.waiting.values()))
            taken = sum(each.soon for each in self.running.values()) + sequence.soon
            if self.running and taken > self.kv_tokens:
                return
            if self._kept and (found := self._candidate(sequence, {})) is not None:
                self._kept.used(found[0].number)
            while self._kept and (taken + self._kept_tokens > self.kv_tokens or self._holds_all_states):
                self._released.append(self._kept.pop_oldest())
            self.running[sequence.number] = self.waiting.pop(sequence.number)

    @property
    def _holds_all_states(self) -> bool:
        """Whether one more would be too many: states that cannot be cut back take the same memory for any length."""
        return self.reuse == "whole" and len(self.running) + len(self._kept) >= self.max_sequences

    def _candidate(self, sequence: Sequence, computed: dict[int, int]) -> tuple[Candidate, int] | None:
        """Whose first tokens a sequence may begin with.

        Args:
            computed: how many tokens of those that run are in the caches before the next step.
        """
        if self.reuse == "no" or sequence.sampling.prompt_logprobs >= 0:
            return None
        running = [
            Candidate(number, self.running[number].group, self.running[number].tokens[:count], False)
            for number, count in computed.items()
        ]
        return longest(sequence.tokens, sequence.group, [*self._kept, *running], self.reuse)

    def _share(self, sequence: Sequence, computed: dict[int, int]) -> None:
        """Have a sequence begin with what an earlier one has left, if there is such a thing."""
        sequence.sent, sequence.shared = 0, None
        if (found := self._candidate(sequence, computed)) is None:
            return
        candidate, count = found
        take = candidate.is_over and (self.reuse == "whole" or count >= TAKEN * len(candidate.tokens))
        if take:
            self._kept.remove(candidate.number)
        else:
            self._kept.used(candidate.number)
        sequence.sent, sequence.shared = count, Shared(candidate.number, count, take)

    def _end(self, number: int, *, keep: bool) -> None:
        yielded = self.waiting.pop(number, None)
        sequence = self.running.pop(number, None) or yielded
        if sequence is None or not sequence.admitted:
            return
        # Only what has brought a token is known to be sound on all stages.
        count = min(sequence.sent, len(sequence.tokens) - 1) if len(sequence.tokens) > sequence.given else 0
        whole = count == sequence.sent or self.reuse == "any"
        if not keep or yielded is not None or self.reuse == "no" or count < MIN_SHARED or not whole:
            self._released.append(number)
            return
        if len(self._kept) >= KEPT_SEQUENCES:
            self._released.append(self._kept.pop_oldest())
        self._kept.add(Candidate(number, sequence.group, sequence.tokens[:count], True, sequence.sent))
        self._newly_kept.append(number)

    @staticmethod
    def _admission(sequence: Sequence) -> Admission:
        return Admission(
            tokens=tuple(sequence.tokens) if sequence.looks_back else (),
            prompt_tokens=sequence.prompt_tokens,
            total_tokens=len(sequence.tokens),
            sampling=sequence.sampling,
            budget=sequence.budget,
            shared=sequence.shared,
        )

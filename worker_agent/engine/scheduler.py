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
from dataclasses import dataclass, replace

import msgspec

from worker_agent.engine.prefixes import KEPT_SEQUENCES, MIN_SHARED, Candidate, KeptSequences, longest
from worker_agent.engine.sequence import BLOCK, SCORED_CHUNK, Sequence, in_blocks
from worker_agent.wire.messages import MAX_LOOKED_BACK, Admission, Piece, Resumed, Reuse, Shared, Tokens

TAKEN = 0.75
"""A kept state is taken over, rather than copied from, if at least this part of it is of use."""


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
        answers_alone: what was answered before a stage was lost is read token by token, as it once came.
        restarts_at: a sequence that comes to more tokens than this is run anew from its first one, once.
        reuse: what of an earlier sequence's state a prompt may take over that begins in the same way.
        block: tokens of a sequence are counted in blocks of so many.
    """

    def __init__(
        self,
        kv_tokens: int,
        max_sequences: int,
        chunk: int,
        lanes: int,
        *,
        whole_prompts: bool = False,
        answers_alone: bool = False,
        restarts_at: int | None = None,
        reuse: Reuse = "no",
        block: int = BLOCK,
    ) -> None:
        self.kv_tokens, self.max_sequences, self.chunk, self.lanes = kv_tokens, max_sequences, chunk, lanes
        self.whole_prompts, self.answers_alone = whole_prompts, answers_alone
        self.restarts_at, self.reuse, self.block = restarts_at, reuse, block
        self.waiting: OrderedDict[int, Sequence] = OrderedDict()
        """In the order of their arrival; those that yielded among them."""
        self.running: dict[int, Sequence] = {}
        self._kept = KeptSequences()
        self._in_flight: dict[int, tuple[int, ...]] = {}
        self._released: list[int] = []
        self._newly_kept: list[int] = []
        self._aside: list[int] = []
        self._promised: dict[int, Candidate] = {}
        """By the sequence that was admitted and has not begun yet: whose state it will take over, which is counted
        once, with the sequence."""
        self._next_step = 1
        self._arrivals = 0
        self._resumed: tuple[int, ...] = ()
        """Those that were running when a stage was lost, the one whose turn came next first."""
        self._missing: set[int] = set()
        """Those that are to be started anew before the first step."""

    @property
    def used(self) -> int:
        """KV tokens that running sequences take, and those that are over."""
        return sum(self._with_taken(each, each.used(self.block)) for each in self.running.values()) + self._kept_tokens

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
            self._drop_kept()

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
                if looked_back and looked_back + len(sequence.tokens) > MAX_LOOKED_BACK:
                    continue
                looked_back += len(sequence.tokens)
            chosen.append((sequence, 1))
            room -= 1
        computed = {number: sequence.sent for number, sequence in self.running.items() if sequence.admitted}
        for sequence in self.running.values():
            if room > 0 and not sequence.is_decoding and sequence.pending:
                if not sequence.introduced and sequence.looks_back:
                    if looked_back and looked_back + len(sequence.tokens) > MAX_LOOKED_BACK:
                        continue
                    looked_back += len(sequence.tokens)
                if not sequence.admitted:
                    self._share(sequence, computed)
                count = self._readable(sequence, room)
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

    def _readable(self, sequence: Sequence, room: int) -> int:
        """How many tokens of a sequence that reads what it was started with may go into one step."""
        pending = sequence.pending
        if self.answers_alone:
            pending = max(1, sequence.prompt_tokens - sequence.sent)
        return pending if self.whole_prompts else min(pending, room)

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
        """KV tokens that those take which are over, but for what was promised to somebody."""
        promised = {candidate.number for candidate in self._promised.values()}
        return sum(in_blocks(each.held, self.block) for each in self._kept if each.number not in promised)

    def _with_taken(self, sequence: Sequence, tokens: int) -> int:
        """KV tokens of a sequence, at least those of the state that it will take over: it is cut back later."""
        promised = self._promised.get(sequence.number)
        return tokens if promised is None else max(tokens, in_blocks(promised.held, self.block))

    def _drop_kept(self) -> None:
        """Let go of the state that was of no use for longest, and of one that was promised only when no other is
        left."""
        promised = {candidate.number for candidate in self._promised.values()}
        number = next((each.number for each in self._kept if each.number not in promised), None)
        if number is None:
            number = next(iter(self._kept)).number
        self._kept.remove(number)
        self._promised = {taker: each for taker, each in self._promised.items() if each.number != number}
        self._released.append(number)

    def _make_room(self) -> None:
        """Keep what runs within the pool: what is over goes first, then the youngest yields."""
        while self.used > self.kv_tokens:
            if self._kept:
                self._drop_kept()
            elif len(self.running) > 1:
                self._yield(max(self.running.values(), key=lambda sequence: sequence.arrival))
            else:
                return

    def _yield(self, sequence: Sequence) -> None:
        del self.running[sequence.number]
        self._promised.pop(sequence.number, None)
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
            others = sum(self._with_taken(each, each.soon(self.block)) for each in self.running.values())
            if self.running and others + sequence.soon(self.block) > self.kv_tokens:
                return
            if self._kept and not sequence.admitted and (found := self._candidate(sequence, {})) is not None:
                self._kept.used(found[0].number)
                self._promise(sequence, *found, others)
            wanted = others + self._with_taken(sequence, sequence.soon(self.block))
            while self._kept and (wanted + self._kept_tokens > self.kv_tokens or self._holds_all_states):
                self._drop_kept()
            self.running[sequence.number] = self.waiting.pop(sequence.number)

    def _promise(self, sequence: Sequence, candidate: Candidate, count: int, others: int) -> None:
        """Have a sequence take over what an earlier one has left, where that is as good as a copy or there is no room
        for a copy beside it.

        Args:
            others: KV tokens of those that run.
        """
        held = in_blocks(candidate.held, self.block)
        if any(candidate.number == each.number for each in self._promised.values()):
            return
        if others + max(held, sequence.soon(self.block)) > self.kv_tokens:
            return
        if self._is_to_move(candidate, count) or others + held + sequence.soon(self.block) > self.kv_tokens:
            self._promised[sequence.number] = candidate

    def _is_to_move(self, candidate: Candidate, count: int) -> bool:
        """Whether a state is better taken over than copied from."""
        return self.reuse == "whole" or count >= TAKEN * len(candidate.tokens)

    @property
    def _holds_all_states(self) -> bool:
        """Whether one more would be too many: states that cannot be cut back take the same memory for any length."""
        moving = len(self._promised)
        return self.reuse == "whole" and len(self.running) + len(self._kept) - moving >= self.max_sequences

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
        promised = self._promised.pop(sequence.number, None)
        found = self._candidate(sequence, computed)
        if promised is not None and self.used > self.kv_tokens:  # no room for it beside the sequence
            found = longest(sequence.tokens, sequence.group, [promised], self.reuse)
        if found is None:
            return
        candidate, count = found
        others = {each.number for each in self._promised.values()}
        is_mine = promised is not None and promised.number == candidate.number
        take = candidate.is_over and (
            is_mine or (candidate.number not in others and self._is_to_move(candidate, count))
        )
        if take:
            self._kept.remove(candidate.number)
        else:
            self._kept.used(candidate.number)
        sequence.sent, sequence.shared = count, Shared(candidate.number, count, take)

    def _end(self, number: int, *, keep: bool) -> None:
        self._promised.pop(number, None)
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
            self._drop_kept()
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

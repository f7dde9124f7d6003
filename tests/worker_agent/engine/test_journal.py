"""Whatever sequences do, what the journal has of one that it covers makes its state; and no more is kept."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from worker_agent.engine.journal import Journal
from worker_agent.wire.messages import Admission, Budget, JournalStep, Piece, Resumed, Sampling, Shared

ROW = 4
"""Bytes of a token's hidden states: a number that no other token has."""


class JournalMachine(RuleBasedStateMachine):
    """States are the rows that went into them."""

    @initialize(limit=st.sampled_from([3_000, 20_000, 10**9]))
    def begin(self, limit: int) -> None:
        self.journal = Journal(limit)
        self.states: dict[int, list[bytes]] = {}
        self.kept: set[int] = set()
        self.ends: dict[int, list[int]] = {}
        """Where the pieces of each sequence ended."""
        self.given: dict[int, int] = {}
        """How many of its first tokens others have taken over: steps come round in order, so these are certain."""
        self.released: list[int] = []
        self.rows = self.sequences = 0
        self.copy: Journal | None = None
        """On its way to a stage that takes this one's place."""
        self.copied = 0

    @rule()
    def begin_to_copy(self) -> None:
        self.copy, self.copied = Journal(self.journal.limit), 0

    @rule()
    def copy_some(self) -> None:
        if self.copy is not None:
            self.copy_page(self.copy)

    def copy_page(self, copy: Journal) -> bool:
        """Whether there was no more."""
        self.note([], [])
        needed = self.journal.sequences
        steps, hidden, complete = self.journal.page(needed, self.copied, 3, 40)
        for step, rows in zip(steps, hidden, strict=True):
            copy.note_recomputed(step, (rows,))
            self.copied = step.number
        copy.keep_only(needed)
        return complete

    @property
    def running(self) -> list[int]:
        return [number for number in self.states if number not in self.kept]

    def piece(self, number: int, count: int, admission: Admission | None = None) -> tuple[Piece, list[bytes]]:
        state = self.states[number]
        piece = Piece(number, len(state), count, True, admission)
        rows = [(self.rows + place).to_bytes(ROW, "big") for place in range(count)]
        self.rows += count
        state += rows
        self.ends[number].append(len(state))
        return piece, rows

    @rule(data=st.data(), fresh=st.integers(0, 2))
    def step(self, data: st.DataObject, fresh: int) -> None:
        """Some go on, some begin: with what another one has, or by themselves."""
        some = data.draw(st.lists(st.sampled_from(self.running), unique=True)) if self.running else []
        made = [self.piece(number, data.draw(st.integers(1, 3))) for number in some]
        for _ in range(fresh):
            donors = [number for number in self.states if self.states[number] and number not in some]
            donor = data.draw(st.sampled_from([None, *donors]))
            number = self.sequences = self.sequences + 1
            self.states[number], self.ends[number], shared = [], [], None
            if donor is not None:
                shared = Shared(donor, data.draw(st.integers(1, len(self.states[donor]))), donor in self.kept)
                self.states[number] = self.states[donor][: shared.tokens]
                self.given[donor] = max(self.given.get(donor, 0), shared.tokens)
                if shared.take:
                    self.forget(donor)
            admission = Admission((), 9, 9, Sampling(), Budget(1), shared)
            made.append(self.piece(number, data.draw(st.integers(1, 3)), admission))
            some.append(number)
        self.note([piece for piece, _ in made], [row for _, rows in made for row in rows])

    def note(self, pieces: list[Piece], rows: list[bytes], kept: tuple[int, ...] = ()) -> None:
        released, self.released = self.released, []
        self.journal.note(pieces, [0] * len(pieces), released, kept, (b"".join(rows),), True)

    def forget(self, number: int) -> None:
        del self.states[number], self.ends[number]
        self.given.pop(number, None)
        self.kept.discard(number)

    @precondition(lambda self: self.states)
    @rule(data=st.data(), keep=st.booleans())
    def end(self, data: st.DataObject, keep: bool) -> None:
        number = data.draw(st.sampled_from(list(self.states)))
        if keep:
            self.kept.add(number)
            self.note([], [], kept=(number,))
        else:
            self.forget(number)
            self.released.append(number)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def begin_anew(self, data: st.DataObject) -> None:
        """Released and admitted by one step."""
        number = data.draw(st.sampled_from(self.running))
        self.states[number], self.ends[number] = [], []
        self.given.pop(number, None)
        self.released.append(number)
        piece, rows = self.piece(number, data.draw(st.integers(1, 3)), Admission((), 9, 9, Sampling(), Budget(1)))
        self.note([piece], rows)

    @rule(data=st.data())
    def lose_a_stage(self, data: st.DataObject) -> None:
        """Some go on, cut back to the end of one of their last pieces; the journal may be another one's by then."""
        self.note([], [])
        copy, self.copy = self.copy, None
        while copy is not None and not self.copy_page(copy):
            pass
        staying = data.draw(st.lists(st.sampled_from(list(self.states)), unique=True)) if self.states else []
        for number in [number for number in self.states if number not in staying]:
            self.forget(number)
        for number in staying:
            ends = self.ends[number]
            length = data.draw(
                st.sampled_from([end for end in ends[-2:] if end >= self.given.get(number, 0)] or ends[-1:])
            )
            del self.states[number][length:]
            self.ends[number] = [end for end in self.ends[number] if end <= length]
        resumed = [
            Resumed(number, len(self.states[number]), "kept" if number in self.kept else "runs") for number in staying
        ]
        covered = [number for number in staying if self.journal.covers(number)]
        newcomer = Journal(self.journal.limit)
        for step, rows in self.read(covered):
            newcomer.note_recomputed(step, (rows,))
        if copy is not None:
            copy.resume(resumed)
            if self.journal.limit == 10**9:
                assert all(copy.covers(number) for number in covered)
            self.journal = copy
            return
        self.journal.resume(resumed)
        if data.draw(st.booleans()):
            newcomer.resume(resumed)
            self.journal = newcomer
        assert all(self.journal.covers(number) for number in covered)

    def read(self, sequences: list[int]) -> list[tuple[JournalStep, bytes]]:
        found: list[tuple[JournalStep, bytes]] = []
        complete = False
        while not complete:
            after = found[-1][0].number if found else 0
            steps, hidden, complete = self.journal.page(sequences, after, 3, 40)
            found += zip(steps, hidden, strict=True)
        return found

    @rule(data=st.data())
    def compute_again(self, data: st.DataObject) -> None:
        self.note([], [])
        some = data.draw(st.lists(st.sampled_from(list(self.states)), unique=True)) if self.states else []
        some = [number for number in some if self.journal.covers(number)]
        states: dict[int, list[bytes]] = {}
        for step, rows in self.read(some):
            at = 0
            for piece in step.pieces:
                mine = [rows[at + ROW * place : at + ROW * (place + 1)] for place in range(piece.count)]
                at += ROW * piece.count
                if piece.fills:
                    continue
                if piece.known is not None:
                    shared = piece.shared
                    states[piece.sequence] = [] if shared is None else states[shared.sequence][: shared.tokens]
                    if shared is not None and shared.take:
                        del states[shared.sequence]
                state = states[piece.sequence]
                assert len(state) >= piece.position, "no gaps"
                state[piece.position :] = mine
        for number in some:
            assert states[number][: len(self.states[number])] == self.states[number]

    @invariant()
    def nothing_is_kept_for_nobody(self) -> None:
        journal = getattr(self, "journal", None)
        if journal is None:
            return
        assert journal.nbytes <= journal.limit
        assert journal.nbytes == sum(entry.nbytes for entry in journal._entries.values())
        if not self.released:
            if not self.states:
                assert not len(journal) and not journal._lives
            if journal.limit == 10**9 and not self.kept:
                assert all(journal.covers(number) for number in self.states)


TestJournal = JournalMachine.TestCase
TestJournal.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_chat_of_many_turns_is_given_up_as_a_whole() -> None:
    """Each turn goes on from the state of the one before; a chain of thousands is no deeper than one of two."""
    journal, turns, length = Journal(10**9), 3000, 100
    for number in range(1, turns + 1):
        shared = Shared(number - 1, length - 20, True) if number > 1 else None
        admission = Admission((), length, length, Sampling(), Budget(max_tokens=10), shared)
        position = 0 if shared is None else shared.tokens
        released = (number - 1,) if number > 1 else ()
        journal.note([Piece(number, position, length - position, True, admission)], [0], (), released, (b"x",), True)
        length += 20
    assert len(journal) == turns and journal.covers(turns)
    journal.limit = journal.nbytes - 1
    journal.note([Piece(turns, length - 20, 1, True)], [0], (), (), (b"x",), True)
    assert not journal.covers(turns) and (len(journal), journal.nbytes) == (0, 0)

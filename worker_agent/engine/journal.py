"""What a stage sent to the next one, for as long as that one's states may have to be computed again from it. Pure.

An entry is what one step was: how many tokens of which sequences, at which positions, where in the pool, and the hidden
states themselves, by reference. A step of half precision comes out the same only in the same shape, so an entry stays
whole for as long as any sequence needs it; what sequences that are over had in it is there to fill it up.

A sequence needs its own entries from the first on, and those of another one whose first tokens it shares. A life is a
sequence from its first piece to its release: one that begins anew begins another life.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from worker_agent.wire.messages import MAX_JOURNAL_PIECES, Buffer, JournalPiece, JournalStep, Piece, Resumed, Shared

PAGE_BYTES = 8 * 1024 * 1024
"""So many bytes of hidden states at most are read at once, unless it is one step: half of what a frame may hold."""
ENTRY_BYTES, PIECE_BYTES = 300, 180
"""What an entry takes, and a piece of it, beside the hidden states: tuples and numbers."""


@dataclass(slots=True)
class _Life:
    number: int
    sequence: int
    known: int = 0
    shared: Shared | None = None
    parent: _Life | None = None
    """Whose first tokens it shares."""
    dependents: int = 0
    """How many lives share its first tokens and need its entries."""
    is_over: bool = False
    is_covered: bool = True
    """Whether all that its states were computed from is here."""
    entries: list[int] = field(default_factory=list)


@dataclass(slots=True)
class _Entry:
    shape: tuple[int, ...]
    """Life, sequence, position, count and slot of each piece, one behind the other: numbers alone, so that Python's
    collector need not look at them."""
    hidden: tuple[Buffer, ...]
    alone: bool
    nbytes: int
    needed: int
    """How many lives need it."""

    def pieces(self) -> Iterator[tuple[int, int, int, int, int]]:
        return zip(*[iter(self.shape)] * 5, strict=True)


class Journal:
    """One stage's, within one deployment.

    Args:
        limit: bytes that it may hold. Beyond them what is kept for later prompts is given up first, then the sequence
            that began first: it cannot be computed again then, only begun anew.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nbytes = 0
        self._entries: dict[int, _Entry] = {}
        self._lives: dict[int, _Life] = {}
        self._current: dict[int, _Life] = {}
        """By sequence."""
        self._kept: OrderedDict[int, None] = OrderedDict()
        self._last_entry = self._last_life = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def sequences(self) -> tuple[int, ...]:
        """All that are covered, and those that are over and whose first tokens others share."""
        return tuple(dict.fromkeys(life.sequence for life in self._needed(self._current).values()))

    def covers(self, sequence: int) -> bool:
        """Whether the state of a sequence can be computed from what is here."""
        life = self._current.get(sequence)
        return life is not None and life.is_covered

    # --- what is written down ------------------------------------------------------------------------

    def note(
        self,
        pieces: Sequence[Piece],
        slots: Sequence[int],
        released: Iterable[int],
        kept: Iterable[int],
        hidden: tuple[Buffer, ...],
        alone: bool,
    ) -> None:
        """A step went to the next stage. `slots` are those of the pieces' states."""
        for number in released:
            self._end(number)
        for number in kept:
            if number in self._current:
                self._kept[number] = None
        if not pieces:
            return
        shape: list[int] = []
        lives: list[_Life] = []
        for piece, slot in zip(pieces, slots, strict=True):
            life = self._current.get(piece.sequence)
            if life is None:
                admission = piece.admission
                if admission is None:
                    life = self._begin(piece.sequence, piece.position, 0, None)
                else:
                    life = self._begin(piece.sequence, piece.position, admission.total_tokens, admission.shared)
            shape += (life.number, piece.sequence, piece.position, piece.count, slot)
            if life.is_covered:
                lives.append(life)
        self._append(shape, lives, hidden, alone)

    def note_recomputed(self, step: JournalStep, hidden: tuple[Buffer, ...]) -> None:
        """A step that was lost with a stage was computed once more, and this came out."""
        shape: list[int] = []
        lives: list[_Life] = []
        for piece in step.pieces:
            if piece.fills:
                shape += (0, piece.sequence, piece.position, piece.count, piece.slot)
                continue
            if piece.known is not None:
                self._end(piece.sequence)
                life = self._begin(piece.sequence, piece.position, piece.known, piece.shared)
            else:
                life = self._current[piece.sequence]
            shape += (life.number, piece.sequence, piece.position, piece.count, piece.slot)
            if life.is_covered:
                lives.append(life)
        self._append(shape, lives, hidden, step.alone)

    def keep_only(self, sequences: Iterable[int]) -> None:
        """Nobody needs the others, says the journal of which this one is a copy."""
        for number in self._current.keys() - set(sequences):
            self._end(number)

    def resume(self, resumed: Iterable[Resumed]) -> None:
        """A new epoch: these sequences go on, all others are over."""
        found = {each.sequence: each for each in resumed if each.length}
        for number in [number for number in self._current if number not in found]:
            self._end(number)
        for number, life in self._current.items():
            while life.entries and self._position(life, life.entries[-1]) >= found[number].length:
                self._drop(life.entries.pop())
            if not life.entries or self._end_of(life, life.entries[-1]) < found[number].length:
                self._give_up(life)  # a copy to which its last steps have not come
        self._kept = OrderedDict((number, None) for number in self._current if found[number].kind == "kept")

    def _begin(self, sequence: int, position: int, known: int, shared: Shared | None) -> _Life:
        self._last_life += 1
        life = self._lives[self._last_life] = self._current[sequence] = _Life(self._last_life, sequence, known, shared)
        # Where it goes on with what it had before this journal began there is nothing to compute it from.
        life.is_covered = position == (0 if shared is None else shared.tokens)
        if shared is not None and life.is_covered:
            donor = self._current.get(shared.sequence)
            if donor is None or not donor.is_covered:
                life.is_covered = False
            else:
                life.parent, donor.dependents = donor, donor.dependents + 1
        if shared is not None and shared.take:
            self._end(shared.sequence)
        return life

    def _append(self, shape: list[int], lives: list[_Life], hidden: tuple[Buffer, ...], alone: bool) -> None:
        if not lives:
            return
        self._last_entry += 1
        for life in lives:
            life.entries.append(self._last_entry)
        nbytes = sum(map(len, hidden)) + ENTRY_BYTES + len(shape) // 5 * PIECE_BYTES
        self._entries[self._last_entry] = _Entry(tuple(shape), hidden, alone, nbytes, len(lives))
        self.nbytes += nbytes
        while self.nbytes > self.limit and self._entries:
            self._give_up(self._lives[self._oldest()])

    def _position(self, life: _Life, entry: int) -> int:
        """Where a life's last piece in an entry begins."""
        return max(position for number, _, position, _, _ in self._entries[entry].pieces() if number == life.number)

    def _end_of(self, life: _Life, entry: int) -> int:
        """Where a life's last piece in an entry ends."""
        return max(at + count for number, _, at, count, _ in self._entries[entry].pieces() if number == life.number)

    # --- what goes -----------------------------------------------------------------------------------

    def _end(self, sequence: int) -> None:
        self._kept.pop(sequence, None)
        life = self._current.pop(sequence, None)
        if life is not None:
            life.is_over = True
            self._forget(life)

    def _forget(self, life: _Life | None) -> None:
        """Let go of a life that is over, once no other needs it any more."""
        while life is not None and life.is_over and not life.dependents:
            parent = life.parent
            self._uncover(life)
            del self._lives[life.number]
            life = parent

    def _uncover(self, life: _Life) -> None:
        for entry in life.entries:
            self._drop(entry)
        life.entries.clear()
        life.is_covered = False
        if life.parent is not None:
            life.parent.dependents -= 1
            life.parent = None

    def _drop(self, number: int) -> None:
        entry = self._entries[number]
        entry.needed -= 1
        if not entry.needed:
            self.nbytes -= entry.nbytes
            del self._entries[number]

    def _oldest(self) -> int:
        """The life that is given up next."""
        kept = (self._current[number] for number in self._kept)
        found = next((life.number for life in kept if life.is_covered), None)
        return found if found is not None else next(life.number for life in self._lives.values() if life.is_covered)

    def _give_up(self, life: _Life) -> None:
        """A life, and all that share its first tokens, cannot be computed again any more."""
        given_up = {life.number: life}
        for other in self._lives.values():  # in the order in which they began, so a parent comes before its children
            if other.parent is not None and other.parent.number in given_up:
                given_up[other.number] = other
        for each in reversed(given_up.values()):
            if each.number in self._lives:  # else it is over, and the last that needed it was just given up
                parent = each.parent
                self._uncover(each)
                self._forget(parent)

    # --- what is read --------------------------------------------------------------------------------

    def page(
        self, sequences: Iterable[int], after: int, most_steps: int, most_bytes: int = PAGE_BYTES
    ) -> tuple[tuple[JournalStep, ...], tuple[Buffer, ...], bool]:
        """Steps behind number `after` that the states of these sequences were computed from, in order.

        Returns:
            The steps, their hidden states, and whether that was all. At least one step, whatever its size. Sequences
            that are not covered have none.
        """
        lives = self._needed(sequences)
        mine = {life.number: set(life.entries) for life in lives.values()}
        numbers = sorted({entry for entries in mine.values() for entry in entries if entry > after})
        steps: list[JournalStep] = []
        hidden: list[Buffer] = []
        pieces = nbytes = 0
        for number in numbers[:most_steps]:
            entry = self._entries[number]
            pieces, nbytes = pieces + len(entry.shape) // 5, nbytes + sum(map(len, entry.hidden))
            if steps and (pieces > MAX_JOURNAL_PIECES or nbytes > most_bytes):
                break
            shape = tuple(self._piece(number, *piece, lives, mine) for piece in entry.pieces())
            steps.append(JournalStep(number, shape, entry.alone))
            hidden += entry.hidden
        return tuple(steps), tuple(hidden), len(steps) == len(numbers)

    def _needed(self, sequences: Iterable[int]) -> dict[int, _Life]:
        found = {}
        for number in sequences:
            life = self._current.get(number)
            while life is not None and life.is_covered and life.number not in found:
                found[life.number] = life
                life = life.parent
        return found

    @staticmethod
    def _piece(
        entry: int,
        number: int,
        sequence: int,
        position: int,
        count: int,
        slot: int,
        lives: Mapping[int, _Life],
        mine: Mapping[int, set[int]],
    ) -> JournalPiece:
        if entry not in mine.get(number, ()):
            return JournalPiece(sequence, position, count, slot, fills=True)
        life = lives[number]
        if entry != life.entries[0]:
            return JournalPiece(sequence, position, count, slot)
        return JournalPiece(sequence, position, count, slot, known=life.known, shared=life.shared)

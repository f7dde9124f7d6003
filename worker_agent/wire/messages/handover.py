"""Copying the states of sequences from one stage to another one that takes its place (docs/protocol.md, "Handing a
stage over").

Parts of states travel as safetensors, cut into frames: each tensor is named by the number of its sequence, a slash and
its name in the state.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from worker_agent.wire.messages.fields import U32, U63, Call, Id, Position, SequenceNumber, TensorFrame
from worker_agent.wire.messages.recovery import MAX_STATES, JournalSteps, NeededSequences, Slot, StateKind

MAX_STATES_BYTES = 64 * 1024 * 1024
"""How much of states is asked for at once; a part that cannot be divided may be more."""


class Copied(Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """What of a state has been copied already."""

    sequence: SequenceNumber
    version: U63
    """As its part told. A state of another version has changed where it had been copied."""
    tokens: Position


class StatePart(Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """What tokens `[start, end)` of a sequence have left in a state; all of it where `start` is 0."""

    sequence: SequenceNumber
    version: U63
    start: Position
    end: Position
    kind: StateKind
    slot: Slot
    known: Position
    """How many tokens the sequence was known to come to, as `Admission.total_tokens`."""


class ReadStates(Call, tag="read_states", kw_only=True, frozen=True):
    """What of the stage's states has not been copied yet? Answered by StatesPage, between two steps."""

    deployment: Id
    stage: U32
    epoch: U63
    have: Annotated[tuple[Copied, ...], Meta(max_length=MAX_STATES)]
    max_bytes: Annotated[int, Meta(ge=1, le=MAX_STATES_BYTES)]
    whole: bool = False
    """Also states that cannot be copied in parts. It makes little sense to ask for them while they still change."""


class StatesPage(Call, tag="states_page", kw_only=True, frozen=True):
    """Parts of states, in as many frames as it takes."""

    parts: Annotated[tuple[StatePart, ...], Meta(max_length=MAX_STATES)]
    present: Annotated[tuple[SequenceNumber, ...], Meta(max_length=2 * MAX_STATES)]
    """All sequences that have a state; others that were copied are over."""
    complete: bool
    """Whether nothing else was to be told at this moment."""


class WriteStates(Call, tag="write_states", kw_only=True, frozen=True):
    """Put down parts of states, as StatesPage brought them, on a stage that was not linked yet. Answered by Done."""

    deployment: Id
    stage: U32
    parts: Annotated[tuple[StatePart, ...], Meta(max_length=MAX_STATES)]
    present: Annotated[tuple[SequenceNumber, ...], Meta(max_length=2 * MAX_STATES)]


class WriteJournal(Call, tag="write_journal", kw_only=True, frozen=True):
    """Take steps into the journal, as JournalPage brought them of the stage whose place this one takes, which was not
    linked yet. Payload as JournalPage's. A page that comes a second time is taken once. Answered by Done."""

    deployment: Id
    stage: U32
    steps: JournalSteps
    hidden: TensorFrame | None = None
    needed: NeededSequences
    """As JournalPage has it; what else the journal has is of no use to anybody any more."""

"""What a sequence keeps on a stage, whatever its layers are: one interface for all kinds of state."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod

import torch

from worker_agent.wire.errors import OutOfStep

Exported = dict[str, torch.Tensor]
"""A state as tensors by name, as safetensors writes them."""

_versions = itertools.count(1)


def next_version() -> int:
    """One that no state in this process has had."""
    return next(_versions)


class SequenceState(ABC):
    """The state of one sequence on all layers of a stage.

    A state whose layers remember only where they are (recurrent ones, and windows that have moved on) cannot be cut
    back: `truncate` raises then, and `copy` takes it at its whole length or not at all.
    """

    length: int
    """Tokens that every layer has seen."""
    slot: int = -1
    """Where in the stage's pool it lies; -1 where it has no place of its own there."""
    takes_parts = False
    """Whether it only grows at its end, so that it can be exported and imported in parts."""

    def __init__(self) -> None:
        self.version = next_version()
        """Of what it holds: as long as it is the same, what was there has stayed and only its end may be new."""

    @property
    def token_bytes(self) -> int:
        """About what one more token adds, of a state that takes parts; 0 while that is not known."""
        return 0

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of memory that it takes now."""

    @abstractmethod
    def can_be_cut(self, length: int) -> bool:
        """Whether it can be cut back to its first `length` tokens."""

    @property
    def least(self) -> int:
        """The fewest tokens that it can be cut back to for certain."""
        return 0 if self.can_be_cut(0) else self.length

    @abstractmethod
    def truncate(self, length: int) -> None:
        """Forget every token after the first `length`. Raises OutOfStep."""

    @abstractmethod
    def copy_from(self, other: SequenceState, length: int) -> None:
        """Become, while empty, what another state of the same stage was after `length` tokens. Raises OutOfStep."""

    @abstractmethod
    def exported(self, start: int = 0, end: int | None = None) -> Exported:
        """What tokens `[start, end)` left, all of them by default, as tensors, for `imported` of a state of the same
        stage, in this process or another. Only one that takes parts can be asked for a part."""

    @abstractmethod
    def imported(self, tensors: Exported, length: int) -> None:
        """Go on behind its last token with what was exported from there to `length` tokens; while empty, become what
        was exported. Raises OutOfStep if it is of another stage."""

    @abstractmethod
    def release(self) -> None:
        """Give its memory back; it is of no use afterwards."""


def check_cut(state: SequenceState, length: int) -> None:
    """Raises OutOfStep where `state` cannot be cut back to `length` tokens."""
    if length > state.length:
        raise OutOfStep(f"{length} tokens were asked of a state of {state.length}")
    if not state.can_be_cut(length):
        raise OutOfStep(f"the state of this model cannot be cut back from {state.length} tokens to {length}")

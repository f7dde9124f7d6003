"""What a sequence keeps on a stage, whatever its layers are: one interface for all kinds of state."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch

from worker_agent.wire.errors import OutOfStep

Exported = dict[str, torch.Tensor]
"""A state as tensors by name, as safetensors writes them."""


class SequenceState(ABC):
    """The state of one sequence on all layers of a stage.

    A state whose layers remember only where they are (recurrent ones, and windows that have moved on) cannot be cut
    back: `truncate` raises then, and `copy` takes it at its whole length or not at all.
    """

    length: int
    """Tokens that every layer has seen."""
    slot: int = -1
    """Where in the stage's pool it lies; -1 where it has no place of its own there."""

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
    def exported(self) -> Exported:
        """All of it as tensors, for `imported` of an empty state of the same stage, in this process or another."""

    @abstractmethod
    def imported(self, tensors: Exported, length: int) -> None:
        """Become, while empty, what was exported at `length` tokens. Raises OutOfStep if it is of another stage."""

    @abstractmethod
    def release(self) -> None:
        """Give its memory back; it is of no use afterwards."""


def check_cut(state: SequenceState, length: int) -> None:
    """Raises OutOfStep where `state` cannot be cut back to `length` tokens."""
    if length > state.length:
        raise OutOfStep(f"{length} tokens were asked of a state of {state.length}")
    if not state.can_be_cut(length):
        raise OutOfStep(f"the state of this model cannot be cut back from {state.length} tokens to {length}")

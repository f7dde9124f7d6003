"""Where the states of sequences wait that had to yield: on disk, so that what they leave is memory that is free.

A state is written as safetensors, and read again as it was, to the last bit. Where the disk does not take it, it
stays in memory, which is more than was planned for, but loses nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError

from worker_agent.engine.memory.states import Exported, SequenceState, next_version
from worker_agent.wire.errors import OutOfStep

log = logging.getLogger(__name__)


class Aside:
    """States by the number of their sequence.

    Args:
        folder: where they are written; it is made when the first one comes. None keeps them in memory.
        name: begins their files' names: one for each stage of an agent.
    """

    def __init__(self, folder: Path | None, name: str) -> None:
        self._folder, self._name = folder, name
        self._held: dict[int, tuple[int, int, Exported | Path]] = {}
        """Length, the fewest tokens that it can be cut back to, and the state itself."""
        self._versions: dict[int, int] = {}

    def __iter__(self) -> Iterator[int]:
        return iter(self._held)

    def __contains__(self, sequence: int) -> bool:
        return sequence in self._held

    def put(self, sequence: int, state: SequenceState) -> None:
        """Write a state down; it can be released then."""
        exported = state.exported()
        self._held[sequence] = (state.length, state.least, self._written(sequence, exported))
        self._versions[sequence] = next_version()

    def length(self, sequence: int) -> int:
        return self._held[sequence][0]

    def least(self, sequence: int) -> int:
        return self._held[sequence][1]

    def version(self, sequence: int) -> int:
        """Another one for each time that it was put here."""
        return self._versions[sequence]

    def take(self, sequence: int, state: SequenceState) -> None:
        """Have an empty state become what was put here, which is gone then. Raises OutOfStep."""
        state.imported(self.exported(sequence), self.length(sequence))
        self.drop(sequence)

    def exported(self, sequence: int) -> Exported:
        """What was put here. Raises OutOfStep."""
        _, _, held = self._held[sequence]
        try:
            return safetensors.torch.load_file(held) if isinstance(held, Path) else held
        except (OSError, SafetensorError) as error:
            raise OutOfStep(f"the state that was set aside cannot be read again: {error}") from error

    def drop(self, sequence: int) -> None:
        """Forget a state; nothing happens if it is not here."""
        _, _, held = self._held.pop(sequence, (0, 0, None))
        self._versions.pop(sequence, None)
        if isinstance(held, Path):
            _remove(held)

    def clear(self) -> None:
        for sequence in list(self._held):
            self.drop(sequence)

    def _written(self, sequence: int, exported: Exported) -> Exported | Path:
        if self._folder is None:
            return {name: tensor.cpu().clone() for name, tensor in exported.items()}
        path = self._folder / f"{self._name}-{sequence}.safetensors"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            safetensors.torch.save_file(exported, path)
        except (OSError, SafetensorError) as error:
            _remove(path)
            log.warning("the state of a sequence that yields stays in memory: %s", error)
            return {name: tensor.cpu().clone() for name, tensor in exported.items()}
        return path


def _remove(path: Path) -> None:
    with suppress(OSError):  # the folder may be gone
        path.unlink()

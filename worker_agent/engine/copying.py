"""The states of a stage copied to another one that takes its place, a part at a time, between the steps of the first.

What has been copied stays valid while the stage goes on: keys and values only grow at their end. So most of it is
there before the stage stops, and what is left then is what came since.
"""

from __future__ import annotations

from typing import Any

import safetensors.torch
import torch
from msgspec.structs import replace
from safetensors import SafetensorError

from worker_agent.engine.journal import Journal
from worker_agent.engine.memory.pool import StatePool
from worker_agent.engine.memory.states import Exported
from worker_agent.engine.ring import RingPlace
from worker_agent.wire.errors import OutOfStep, UnknownStage, WireError
from worker_agent.wire.messages import (
    MAX_FRAME_BYTES,
    MAX_PAYLOAD_FRAMES,
    MAX_STATES,
    Buffer,
    ReadStates,
    StatePart,
    StatesPage,
    WriteJournal,
    WriteStates,
)


class StateCopies:
    """The two ends of the copying, for one stage. Belongs to the compute thread."""

    def __init__(
        self, pool: StatePool, ring: RingPlace[Any, Any], device: torch.device, journal: Journal | None = None
    ) -> None:
        self._pool, self._ring, self._device, self._journal = pool, ring, device, journal
        self._written: dict[int, int] = {}
        """Sequences that were copied to here, and the versions of their states there."""
        self._last_step = 0
        """The number, there, of the last step that was taken into the journal."""

    @torch.inference_mode()
    def read(self, message: ReadStates) -> tuple[StatesPage, tuple[Buffer, ...]]:
        """What has not been copied yet, up to about the wanted number of bytes.

        Raises UnknownStage for another epoch, OutOfStep.
        """
        if message.epoch != self._ring.epoch:
            raise UnknownStage(f"the stage is at epoch {self._ring.epoch}, states of {message.epoch} were asked for")
        have = {each.sequence: each for each in message.have}
        every = self._pool.parts()
        parts: list[StatePart] = []
        tensors: Exported = {}
        left, complete = message.max_bytes, True
        for each in every:
            before = have.get(each.sequence)
            same = before is not None and before.version == each.version
            if not each.end or (same and before is not None and before.tokens == each.end):
                continue
            if left <= 0 or len(parts) == MAX_STATES:
                complete = False
                break
            part, size = each, self._pool.token_bytes(each.sequence)
            if size:
                start = before.tokens if same and before is not None and before.tokens < each.end else 0
                part = replace(each, start=start, end=min(each.end, start + max(1, left // size)))
                complete = complete and part.end == each.end
            elif not message.whole:
                continue
            found = self._pool.exported(part)
            size = sum(tensor.nbytes for tensor in found.values())
            if parts and size > left:
                complete = False
                break
            if size > MAX_FRAME_BYTES * (MAX_PAYLOAD_FRAMES - 1):
                continue  # no message could carry it: its sequence begins anew
            left -= size
            parts.append(part)
            tensors |= {f"{part.sequence}/{name}": tensor for name, tensor in found.items()}
        present = tuple(each.sequence for each in every)
        page = StatesPage(call=message.call, parts=tuple(parts), present=present, complete=complete)
        return page, as_frames(tensors) if parts else ()

    @torch.inference_mode()
    def write(self, message: WriteStates | WriteJournal, payload: tuple[Buffer, ...]) -> None:
        """Put parts of states down, and let go of what is over; or take steps into the journal. Raises WireError,
        OutOfStep, OutOfMemory."""
        if self._ring.is_linked:
            raise OutOfStep("states are put down before a stage is linked, not while it runs")
        if isinstance(message, WriteJournal):
            self._take_down(message, payload)
            return
        for number in self._written.keys() - set(message.present):
            self._pool.release(number)
            del self._written[number]
        if not message.parts:
            return
        try:
            read = safetensors.torch.load(b"".join(payload))
        except (SafetensorError, ValueError) as error:
            raise WireError(f"parts of states that cannot be read: {error}") from error
        tensors: dict[int, Exported] = {part.sequence: {} for part in message.parts}
        for name, tensor in read.items():
            of, _, own = name.partition("/")
            if not of.isdigit() or int(of) not in tensors:
                raise WireError(f"a tensor '{name[:100]}' of a state of which no part was announced")
            tensors[int(of)][own] = tensor.to(self._device)
        for part in message.parts:
            if part.start and self._written.get(part.sequence) != part.version:
                raise OutOfStep(f"sequence {part.sequence} goes on from a state that has not been copied")
            try:
                self._pool.put(part, tensors[part.sequence])
            except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
                raise OutOfStep(f"the state of sequence {part.sequence} does not fit this stage: {error}") from error
            self._written[part.sequence] = part.version

    def _take_down(self, message: WriteJournal, payload: tuple[Buffer, ...]) -> None:
        if self._journal is None:
            raise OutOfStep("steps came for a journal, and this stage keeps none")
        tokens = sum(piece.count for step in message.steps for piece in step.pieces)
        width, odd = divmod(sum(map(len, payload)), tokens) if tokens else (0, 0)
        if len(payload) > 1 or odd:
            raise OutOfStep("the hidden states of a journal's page are not those of its tokens")
        start = 0
        for step in message.steps:
            end = start + width * sum(piece.count for piece in step.pieces)
            # Copied, so that no step holds the whole page for as long as it lives.
            hidden = (bytes(memoryview(payload[0])[start:end]),) if payload else ()
            start = end
            if step.number <= self._last_step:
                continue
            try:
                self._journal.note_recomputed(step, hidden)
            except KeyError as error:
                raise OutOfStep(f"a journal goes on with sequence {error}, of which nothing came before") from error
            self._last_step = step.number
        self._journal.keep_only(message.needed)


def as_frames(tensors: Exported) -> tuple[Buffer, ...]:
    """Tensors as safetensors, in as many frames as it takes."""
    content = memoryview(safetensors.torch.save(tensors))
    return tuple(content[start : start + MAX_FRAME_BYTES] for start in range(0, len(content), MAX_FRAME_BYTES))

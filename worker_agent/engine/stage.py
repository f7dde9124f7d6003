"""A stage: layers `[start, end)` of a model, loaded and ready to run, with the caches of its sequences.

Running is transformers' own model class with the other stages' layers taken out (`slicing.py`). A stage is touched
by the loader thread until it is built (`loading.py`) and by the compute thread alone from then on.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from worker_agent.engine.attention import Piece, ragged_step
from worker_agent.engine.memory.caches import KvBudget, OwnCache, RaggedCache, RowCache
from worker_agent.engine.recorded import Recording
from worker_agent.model import rotary
from worker_agent.model.anatomy import Anatomy
from worker_agent.model.slicing import Slice
from worker_agent.model.ways import Ways
from worker_agent.wire.messages import Load

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, slots=True)
class Row:
    """The tokens `[position, position + count)` of a sequence in a step; whether logits are wanted after the last."""

    sequence: int
    position: int
    count: int
    sample: bool
    score: bool = False
    """Whether logits are wanted after each of them."""

    @property
    def wanted(self) -> range:
        """After which of its tokens, counted from 0."""
        return range(0 if self.score else self.count - 1, self.count if self.sample or self.score else 0)


class Stage:
    """A loaded slice of a model and the caches of the sequences that run through it."""

    def __init__(self, load: Load, cut: Slice, device: torch.device, weight_bytes: int) -> None:
        self.load = load
        self.device = device
        self.weight_bytes = weight_bytes
        self.kv_bytes = kv_bytes(cut.anatomy, load)
        self.budget = KvBudget(load.kv_tokens)
        self.slice = cut
        self.batched = False
        """Whether sequences share a step; else they run one after another, each with transformers' own cache."""
        self.in_pieces = True
        """Whether a prompt may come in several steps."""
        self.ways = Ways()
        self.recording: Recording | None = None
        """The whole pass as TorchScript, where it could be recorded (`recorded.py`)."""
        self.by_length = False
        """Whether a rotary embedding depends on how long each sequence is."""
        self._caches: dict[int, RowCache | OwnCache] = {}
        self._lengths: dict[int, int] = {}
        """How long each sequence was known to become when it was admitted: its prompt, seen from its first piece."""

    @property
    def is_first(self) -> bool:
        return self.slice.is_first

    @property
    def is_last(self) -> bool:
        return self.slice.is_last

    @property
    def hidden_size(self) -> int:
        return self.slice.anatomy.hidden_size

    @property
    def vocab_size(self) -> int:
        return self.slice.anatomy.vocab_size

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.load.dtype]

    @property
    def used_tokens(self) -> int:
        return sum(cache.length for cache in self._caches.values())

    @property
    def kv_held_bytes(self) -> int:
        """Bytes that the caches take at this moment."""
        return sum(cache.nbytes for cache in self._caches.values())

    @property
    def sequences(self) -> int:
        return len(self._caches)

    def admit(self, sequence: int, capacity: int, length: int = 0) -> None:
        """Set KV memory aside for a sequence of at most `capacity` tokens, of which `length` are known.

        Raises OutOfMemory.
        """
        self.budget.reserve(sequence, capacity)
        self._caches[sequence] = RowCache(capacity) if self.batched else self._own_cache()
        self._lengths[sequence] = length

    def release(self, sequence: int) -> None:
        """Free what a sequence holds; nothing happens if it holds nothing."""
        self.budget.release(sequence)
        self._caches.pop(sequence, None)
        self._lengths.pop(sequence, None)

    def release_all(self) -> None:
        for sequence in list(self._caches):
            self.release(sequence)

    def close(self) -> None:
        """Let go of everything: weights, caches, the recording. The stage cannot be used any more."""
        self.release_all()
        self.recording = None
        rotary.release(self.slice.model)
        self.slice.close()

    def holds(self, sequence: int) -> bool:
        return sequence in self._caches

    def length(self, sequence: int) -> int:
        """How many tokens of a sequence are in the cache."""
        return self._caches[sequence].length

    @torch.inference_mode()
    def run(self, rows: Sequence[Row], given: torch.Tensor) -> torch.Tensor:
        """Run one step.

        Args:
            rows: which tokens of which admitted sequences, in the order of `given`.
            given: on the first stage token ids [tokens] (int64), else hidden states [tokens, hidden].

        Returns:
            Hidden states [tokens, hidden], or on the last stage logits [wanted of all rows, vocabulary].
        """
        if self.batched:
            return self._run_ragged(rows, given)
        outputs, start = [], 0
        for row in rows:
            output = self._run_alone(row, given[start : start + row.count])
            start += row.count
            if output is not None:
                outputs.append(output)
        return torch.cat(outputs) if outputs else given.new_empty(0, self.vocab_size)

    def _run_ragged(self, rows: Sequence[Row], given: torch.Tensor) -> torch.Tensor:
        pieces: list[Piece] = []
        sampled: list[int] = []
        start = 0
        for row in rows:
            cache = self._caches[row.sequence]
            assert isinstance(cache, RowCache)
            pieces.append(Piece(cache, start, start + row.count))
            sampled += [start + place for place in row.wanted]
            start += row.count
        positions = [position for row in rows for position in range(row.position, row.position + row.count)]
        with self._known_lengths(rows), ragged_step(pieces):
            return self._forward(given, positions, sampled, RaggedCache())

    def _run_alone(self, row: Row, given: torch.Tensor) -> torch.Tensor | None:
        cache = self._caches[row.sequence]
        assert isinstance(cache, OwnCache)
        positions = list(range(row.position, row.position + row.count))
        with self._known_lengths([row]):
            output = self._forward(given, positions, list(row.wanted), cache)
        cache.length += row.count
        return output if row.wanted or not self.is_last else None

    def _known_lengths(self, rows: Sequence[Row]) -> AbstractContextManager[None]:
        if not self.by_length:
            return nullcontext()
        spans, start = [], 0
        for row in rows:
            spans.append((start, start + row.count, max(self._lengths[row.sequence], row.position + row.count)))
            start += row.count
        return rotary.sequence_lengths(spans)

    def _forward(
        self, given: torch.Tensor, positions: list[int], sampled: list[int], cache: RaggedCache | OwnCache
    ) -> torch.Tensor:
        """One pass of the model over `given`; hidden states [tokens, hidden] or logits [len(sampled), vocabulary]."""
        places = torch.tensor([positions], device=self.device)
        # A step of inner chunks alone wants no logits; one row is the least that the head can be given.
        rows = torch.tensor(sampled or [0], device=self.device)
        if self.recording is not None and self.batched:
            output = self.recording(given[None], places, rows)[0]
        else:
            output = self.slice.run(given[None], places, rows, cache)[0]
        return output if sampled or not self.is_last else output[:0]

    def _own_cache(self) -> OwnCache:
        return OwnCache(self.slice.model.config, range(self.slice.start, self.slice.end))


def kv_bytes(anatomy: Anatomy, load: Load) -> int:
    """Bytes that a stage sets aside for what its sequences keep.

    Keys and values of so many tokens, and of as many sequences as may run at once what does not grow with the tokens.
    """
    own, item = slice(load.start, load.end), DTYPES[load.dtype].itemsize
    state = sum(anatomy.state_elements[own]) * item + sum(anatomy.state_bytes[own])
    return sum(anatomy.kv_elements[own]) * load.kv_tokens * item + state * load.max_sequences

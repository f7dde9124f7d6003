"""A stage: layers `[start, end)` of a model, loaded and ready to run.

Running is transformers' own model class with the other stages' layers taken out (`slicing.py`). A stage is touched
by the loader thread until it is built (`loading.py`) and by the compute thread alone from then on, which runs its steps
(`executor.py`).
"""

from __future__ import annotations

import copy
import threading
from collections import Counter
from collections.abc import Iterable
from functools import cached_property

import torch

from worker_agent.engine.lockstep import Lockstep
from worker_agent.engine.memory.own import Int8Cache, OwnCache, OwnState
from worker_agent.engine.memory.region import page_bytes, reserves
from worker_agent.engine.recorded import Recording
from worker_agent.engine.sequence import BLOCK
from worker_agent.model import rotary
from worker_agent.model.anatomy import Anatomy
from worker_agent.model.slicing import Slice
from worker_agent.model.ways import Ways
from worker_agent.wire.errors import OutOfMemory
from worker_agent.wire.messages import SCALE_BYTES, KvDType, Load, Part, Reuse, int8_known, kv_token_bytes

LOOKED = 513
"""Lengths of sequences up to which what they take is looked at; of longer ones a page more or less is little."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Weights:
    """What a stage has read, and the stages that run over it: several, where a model is deployed more than once.

    They are stages of one compute thread, so no two of them run at the same time.
    """

    def __init__(self, config: bytes, parts: tuple[Part, ...], nbytes: int) -> None:
        self.config, self.parts, self.nbytes = config, parts, nbytes
        self.stages: list[Stage] = []
        self.lock = threading.Lock()
        """Stages are added by the loader's thread and taken away by the compute thread."""


class Stage:
    """A loaded slice of a model, and the ways in which it runs."""

    def __init__(self, load: Load, cut: Slice, device: torch.device, weights: Weights) -> None:
        self.load = load
        self.device = device
        self.weights = weights
        weights.stages.append(self)
        self.weights_error = 0.0
        """How far the weights are from those in the files since they were quantized, relative to their size (RMS)."""
        self.kv_dtype = kept_in(cut.anatomy, load)
        """In what keys and values are kept; other than the load wants it where the stage turns out to be unable to."""
        self.kv_error = 0.0
        """How far what comes out on the trial's texts is from what it is with keys and values as they are computed,
        relative to its size (RMS)."""
        self.slice = cut
        self.batched = False
        """Whether sequences share a pass; else each has one of its own, with transformers' own cache."""
        self.lockstep = Lockstep()
        """Where the passes of sequences that have each their own wait for each other, to go on as one."""
        self.in_pieces = True
        """Whether a prompt may come in several steps."""
        self.reuse: Reuse = "no"
        """What a prompt may take over from an earlier one that began in the same way."""
        self.answers_alone = False
        """Whether tokens that come one by one are computed otherwise than in a prompt, so that what was answered is
        read so again after a loss."""
        self.ways = Ways()
        self.recording: Recording | None = None
        """The whole pass as TorchScript, where it could be recorded (`recorded.py`)."""
        self.static = False
        """Whether steps of one token of each sequence run in fixed shapes (`static.py`), captured where that can be."""
        self.by_length = False
        """Whether a rotary embedding depends on how long each sequence is."""

    @property
    def weight_bytes(self) -> int:
        """Bytes of its weights; of those that several stages run over, the first one has all."""
        with self.weights.lock:
            return self.weights.nbytes if self.weights.stages[:1] == [self] else 0

    @property
    def kv_bytes(self) -> int:
        """Bytes set aside for what sequences keep."""
        return kv_bytes(self.slice.anatomy, self.load, self.kv_dtype)

    @cached_property
    def block_tokens(self) -> int:
        """In blocks of how many tokens sequences have to be counted here, so that none takes more memory than it counts
        for: the least multiple of BLOCK. (Of rows that lie in the system's memory each head's take pages of their own.)
        To be asked of a stage that is built."""
        if not self.batched or self.static or self.device.type != "cpu" or not reserves():
            return BLOCK
        anatomy, item, page = self.slice.anatomy, self.dtype.itemsize, page_bytes()
        token, rows = 0, Counter[int]()  # what a token takes of a row of its own, and how many such rows there are
        for index in range(self.slice.start, self.slice.end):
            vectors, elements = anatomy.kv_vectors[index], anatomy.kv_elements[index]
            token += kv_token_bytes(elements, vectors, 0, item, self.kv_dtype)
            if vectors:
                in_int8 = self.kv_dtype == "int8"
                rows[elements // vectors * (1 if in_int8 else item)] += vectors
                if in_int8:
                    rows[vectors // 2 * SCALE_BYTES] += 2
        if not token:
            return BLOCK
        held = [sum(count * -(-length * row // page) * page for row, count in rows.items()) for length in range(LOOKED)]
        block = BLOCK
        while any(-(-length // block) * block * token < held[length] for length in range(1, LOOKED)):
            block += BLOCK
        return block

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

    def own_state(self) -> OwnState:
        """An empty state for a sequence that has a pass of its own."""
        kept = Int8Cache if self.kv_dtype == "int8" else OwnCache
        return OwnState(self.slice.model.config, range(self.slice.start, self.slice.end), kept, self.device)

    def twin(self, load: Load) -> Stage | None:
        """Another stage over the same weights, with states of its own; None where they are being let go."""
        with self.weights.lock:
            if not self.weights.stages:
                return None
            other = copy.copy(self)
            other.load = load
            self.weights.stages.append(other)
            return other

    def close(self) -> None:
        """Let go of everything: weights, unless others run over them, and the recording. It cannot be used any more."""
        with self.weights.lock:
            self.weights.stages = [stage for stage in self.weights.stages if stage is not self]
            if self.weights.stages:
                return
        self.recording = None
        self.lockstep.end()
        rotary.release(self.slice.model)
        self.slice.close()


def kept_in(anatomy: Anatomy, load: Load) -> KvDType:
    """In what keys and values can be kept: as they are computed where there are none, or it is not known how many."""
    known = int8_known(anatomy.kv_elements, anatomy.kv_vectors, anatomy.kv_besides)
    return load.kv_dtype if known and any(anatomy.kv_vectors[load.start : load.end]) else "computed"


def journal_bytes(load: Load, device: torch.device) -> int:
    """What a stage's journal takes of the memory for stages: it is in main memory."""
    return load.journal_bytes if device.type == "cpu" else 0


def kv_bytes(anatomy: Anatomy, load: Load, kv_dtype: KvDType) -> int:
    """Bytes that a stage sets aside for what its sequences keep.

    Keys and values of so many tokens, and of as many sequences as may run at once what does not grow with the tokens.
    """
    own, item = slice(load.start, load.end), DTYPES[load.dtype].itemsize
    state = sum(anatomy.state_elements[own]) * item + sum(anatomy.state_bytes[own])
    numbers, vectors, besides = (
        sum(each[own]) for each in (anatomy.kv_elements, anatomy.kv_vectors, anatomy.kv_besides)
    )
    token = kv_token_bytes(numbers, vectors, besides, item, kv_dtype)
    return token * load.kv_tokens + state * load.max_sequences


def check_room(load: Load, weights: int, keys_values: int, journal: int, memory_free: int) -> int:
    """Bytes that a stage takes in all. Raises OutOfMemory where that is more than there are."""
    needed = weights + keys_values + journal
    if needed > memory_free:
        beside = f" and {gigabytes(journal)} for its journal" if journal else ""
        raise OutOfMemory(
            f"layers {load.start}-{load.end - 1} of {load.model} need {gigabytes(weights)} for weights and "
            f"{gigabytes(keys_values)} for {load.kv_tokens:,} tokens of KV cache{beside}, {gigabytes(needed)} in all; "
            f"{gigabytes(memory_free)} are free"
        ).with_figures(needed, memory_free)
    return needed


def twin_of(
    stages: Iterable[Stage], load: Load, config: bytes, parts: tuple[Part, ...], memory_free: int
) -> Stage | None:
    """A stage over weights that one of these has already, if it was loaded from the same parts, to run as this one is
    to run. Raises OutOfMemory."""
    for stage in stages:
        if stage.weights.config == config and stage.weights.parts == parts and _alike(stage.load, load):
            keys_values = kv_bytes(stage.slice.anatomy, load, stage.kv_dtype)
            check_room(load, 0, keys_values, journal_bytes(load, stage.device), memory_free)
            if (twin := stage.twin(load)) is not None:
                return twin
    return None


def _alike(one: Load, other: Load) -> bool:
    """Whether what was proven of one stage holds for the other."""
    return all(
        getattr(one, name) == getattr(other, name)
        for name in ("start", "end", "dtype", "quantize", "kv_dtype", "max_context", "prefill_chunk")
    )


def gigabytes(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB"

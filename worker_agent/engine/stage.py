"""A stage: layers `[start, end)` of a model, loaded and ready to run.

Running is transformers' own model class with the other stages' layers taken out (`slicing.py`). A stage is touched
by the loader thread until it is built (`loading.py`) and by the compute thread alone from then on, which runs its steps
(`executor.py`).
"""

from __future__ import annotations

import torch

from worker_agent.engine.lockstep import Lockstep
from worker_agent.engine.memory.own import OwnState
from worker_agent.engine.recorded import Recording
from worker_agent.model import rotary
from worker_agent.model.anatomy import Anatomy
from worker_agent.model.slicing import Slice
from worker_agent.model.ways import Ways
from worker_agent.wire.messages import KvDType, Load, Reuse, kv_token_bytes

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Stage:
    """A loaded slice of a model, and the ways in which it runs."""

    def __init__(self, load: Load, cut: Slice, device: torch.device, weight_bytes: int) -> None:
        self.load = load
        self.device = device
        self.weight_bytes = weight_bytes
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
        self.ways = Ways()
        self.recording: Recording | None = None
        """The whole pass as TorchScript, where it could be recorded (`recorded.py`)."""
        self.by_length = False
        """Whether a rotary embedding depends on how long each sequence is."""

    @property
    def kv_bytes(self) -> int:
        """Bytes set aside for what sequences keep."""
        return kv_bytes(self.slice.anatomy, self.load, self.kv_dtype)

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
        return OwnState(self.slice.model.config, range(self.slice.start, self.slice.end))

    def close(self) -> None:
        """Let go of everything: weights and the recording. The stage cannot be used any more."""
        self.recording = None
        self.lockstep.end()
        rotary.release(self.slice.model)
        self.slice.close()


def kept_in(anatomy: Anatomy, load: Load) -> KvDType:
    """In what keys and values can be kept: transformers' own caches keep them as they are computed."""
    return load.kv_dtype if anatomy.batched else "computed"


def journal_bytes(load: Load, device: torch.device) -> int:
    """What a stage's journal takes of the memory for stages: it is in main memory."""
    return load.journal_bytes if device.type == "cpu" else 0


def kv_bytes(anatomy: Anatomy, load: Load, kv_dtype: KvDType) -> int:
    """Bytes that a stage sets aside for what its sequences keep.

    Keys and values of so many tokens, and of as many sequences as may run at once what does not grow with the tokens.
    """
    own, item = slice(load.start, load.end), DTYPES[load.dtype].itemsize
    state = sum(anatomy.state_elements[own]) * item + sum(anatomy.state_bytes[own])
    token = kv_token_bytes(sum(anatomy.kv_elements[own]), sum(anatomy.kv_vectors[own]), item, kv_dtype)
    return token * load.kv_tokens + state * load.max_sequences

"""What the library knows of a model: its shape, and where every byte of every part lies.

Stored as JSON in the library, so a model is inspected once. Offsets are absolute positions in the
model's own files: cutting and sending read byte ranges and never interpret a tensor.
"""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Literal

from msgspec import Struct

from app.errors import ModelError
from worker_agent.wire.messages import Part, PartKind, PartTensor, Quantize, int8_known, kv_token_bytes, loaded_bytes

Source = Literal["folder", "hub", "gguf"]

COMPUTE_ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of one element in each dtype that a stage can compute with."""

STORED_ITEM_BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "C64": 8,
    "F32": 4, "I32": 4, "U32": 4,
    "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
    "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Bytes of one element in each of safetensors' dtypes."""


class TensorSource(Struct, frozen=True, forbid_unknown_fields=True):
    """One tensor and where it lies."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    file: str
    """Relative to the model's folder."""
    offset: int
    """Absolute position of its first byte in the file."""

    def memory(self, dtype: str, quantize: Quantize = "none") -> int:
        """Bytes it takes once loaded in the compute dtype."""
        return loaded_bytes(self.name, self.dtype, self.shape, self.nbytes, COMPUTE_ITEM_BYTES[dtype], quantize)


class PartSource(Struct, frozen=True, forbid_unknown_fields=True):
    """A part (`worker_agent.wire.messages.Part`) as it lies in the model's files."""

    kind: PartKind
    index: int
    tensors: tuple[TensorSource, ...]
    digest: str | None = None

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    def memory(self, dtype: str, quantize: str = "none") -> int:
        """Bytes it takes once loaded in the compute dtype; only a layer's matrices are quantized."""
        wanted: Quantize = quantize if self.kind == "layer" else "none"  # type: ignore[assignment]  # checked where it came in
        return sum(tensor.memory(dtype, wanted) for tensor in self.tensors)

    @property
    def parameters(self) -> int:
        """How many numbers it has."""
        return sum(prod(tensor.shape) for tensor in self.tensors)

    def part(self, digest: str) -> Part:
        """What is stored and sent under this digest."""
        tensors = tuple(PartTensor(t.name, t.dtype, t.shape, t.nbytes) for t in self.tensors)
        return Part(kind=self.kind, index=self.index, tensors=tensors, digest=digest)


class FileStamp(Struct, frozen=True, forbid_unknown_fields=True):
    """A file as it was when the model was inspected; another size or time means another content."""

    name: str
    nbytes: int
    mtime_ns: int

    @classmethod
    def of(cls, folder: Path, name: str) -> FileStamp:
        status = (folder / name).stat()
        return cls(name, status.st_size, status.st_mtime_ns)


class ModelDescription(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A model: what it is, where it may be cut, and where each part's bytes lie."""

    name: str
    folder: str
    """The Hugging Face folder that holds the weights and config.json."""
    source: Source
    origin: str = ""
    """Where it came from, as the user named it: a path or a Hub id with its revision."""
    architecture: str
    model_type: str
    num_layers: int
    parameters: int
    weight_bytes: int
    dtype: str
    """compute dtype that matches the stored weights best: float32, bfloat16 or float16."""
    max_context: int
    hidden_size: int
    vocab_size: int
    kv_elements: tuple[int, ...]
    """Per layer: elements of K and V per token."""
    kv_vectors: tuple[int, ...] = ()
    """Per layer: in how many vectors these lie, one of keys and one of values for each head; empty in descriptions of
    earlier versions."""
    kv_besides: tuple[int, ...] = ()
    """Per layer: how many of the elements are neither, but keys of an index for one, which stay as they are computed;
    empty in descriptions of earlier versions."""
    state_elements: tuple[int, ...] = ()
    """Per layer: elements that a sequence keeps however long it is; empty when none does."""
    state_bytes: tuple[int, ...] = ()
    """Per layer: bytes that it keeps besides, whatever the compute dtype; empty when none does."""
    cuts: tuple[int, ...]
    """Allowed boundaries b: a cut between layer b - 1 and layer b."""
    cut_notes: tuple[str, ...] = ()
    """Why it may not be cut elsewhere."""
    batched: bool = True
    """Whether sequences of unlike length may share a step."""
    needs_token_ids: bool = False
    """Whether every stage needs the token ids besides the hidden states."""
    has_tokenizer: bool = True
    """Without one, a model takes raw token ids only."""
    tokenizer_folder: str = ""
    """Where its tokenizer.json lies, when that had to be made of other files; empty for the model's own folder."""
    config: str = ""
    """What config.json has to say, when the weights contradict the file; empty when it is right. See `config_bytes`."""
    notes: tuple[str, ...] = ()
    """What was found out when it was added and its user should know, a sentence or two each."""
    parts: tuple[PartSource, ...]
    files: tuple[FileStamp, ...] = ()

    @property
    def path(self) -> Path:
        return Path(self.folder)

    @property
    def tokenizer_path(self) -> Path:
        """The folder with the tokenizer's files and the chat templates."""
        return Path(self.tokenizer_folder or self.folder)

    def config_bytes(self) -> bytes:
        """The config.json to load the model with: the file's own, or what it has to say where that is wrong.

        Raises:
            ModelError: the file cannot be read.
        """
        if self.config:
            return self.config.encode()
        try:
            return (self.path / "config.json").read_bytes()
        except OSError as error:
            raise ModelError(
                f"{self.path / 'config.json'} cannot be read: {error.strerror or error}.", "Add the model again."
            ) from error

    @property
    def layers(self) -> tuple[PartSource, ...]:
        """The layers' parts, in order."""
        return tuple(part for part in self.parts if part.kind == "layer")

    def end(self, kind: PartKind) -> PartSource | None:
        """The part of this kind that is no layer; None when the model has none."""
        return next((part for part in self.parts if part.kind == kind), None)

    def stage_parts(self, start: int, end: int) -> tuple[PartSource, ...]:
        """The parts that the stage [start, end) needs: first, tied, common, layers, last."""
        wanted: set[str] = {"common"}
        if start == 0:
            wanted |= {"first", "tied"}
        if end == self.num_layers:
            wanted |= {"last", "tied"}
        return tuple(
            part for part in self.parts if part.kind in wanted or (part.kind == "layer" and start <= part.index < end)
        )

    @property
    def keeps_int8(self) -> bool:
        """Whether its keys and values can be kept in int8, and what that takes is known. (A stage may be unable to all
        the same, which turns out when it is loaded.)"""
        if self.kv_besides:
            return int8_known(self.kv_elements, self.kv_vectors, self.kv_besides)
        return self.batched and bool(self.kv_vectors)  # which have nothing besides

    def kv_bytes_per_token(
        self, dtype: str, start: int = 0, end: int | None = None, *, kv_dtype: str = "computed"
    ) -> int:
        """Bytes that one token puts into the KV cache of layers [start, end)."""
        return kv_token_bytes(
            sum(self.kv_elements[start:end]), sum(self.kv_vectors[start:end]), sum(self.kv_besides[start:end]),
            COMPUTE_ITEM_BYTES[dtype], "int8" if kv_dtype == "int8" and self.keeps_int8 else "computed",
        )  # fmt: skip

    @property
    def has_states(self) -> bool:
        """Whether a sequence keeps something that does not grow with it."""
        return bool(self.state_elements or self.state_bytes)

    def state_bytes_per_sequence(self, dtype: str, start: int = 0, end: int | None = None) -> int:
        """Bytes that a sequence keeps in layers [start, end) however long it is."""
        return sum(self.state_elements[start:end]) * COMPUTE_ITEM_BYTES[dtype] + sum(self.state_bytes[start:end])

    def changed_files(self) -> tuple[str, ...]:
        """Weight files, and the config, that are gone or not what they were when the model was inspected."""
        changed = []
        for stamp in self.files:
            try:
                if FileStamp.of(self.path, stamp.name) != stamp:
                    changed.append(stamp.name)
            except OSError:
                changed.append(stamp.name)
        return tuple(changed)


def notes_of(description: ModelDescription) -> dict[str, list[str]]:
    """The notes of a model for the details of the job that added it; without any, nothing."""
    return {"notes": list(description.notes)} if description.notes else {}


def part_order(kind: PartKind, index: int) -> tuple[int, int]:
    """Sort key of parts: first, tied, common, layers, last."""
    return ("first", "tied", "common", "layer", "last").index(kind), index

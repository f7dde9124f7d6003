"""What is stored and sent: the parts that a model is made of."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from worker_agent.wire.messages.fields import (
    U63,
    Digest,
    Layer,
)


class PartTensor(Struct, frozen=True, forbid_unknown_fields=True):
    """One tensor of a part, under the name it has in the model's files."""

    name: Annotated[str, Meta(min_length=1, max_length=500)]
    dtype: Annotated[str, Meta(max_length=12)]
    """safetensors' dtype code: F32, BF16, F16, …"""
    shape: Annotated[tuple[U63, ...], Meta(max_length=8)]
    nbytes: U63


PartKind = Literal["first", "layer", "last", "tied", "common"]


class Part(Struct, frozen=True, forbid_unknown_fields=True):
    """The unit that is stored and sent: one layer, or what stands at an end of the model.

    `first` goes to the first stage (embeddings), `last` to the last (final norm, LM head), `tied` to
    both (an embedding that is also the head), `common` to every stage. The content is the tensors'
    bytes one after another, without padding; `digest` is its BLAKE3 hash in hex.
    """

    kind: PartKind
    index: Layer
    """The layer's number; 0 for the other kinds."""
    tensors: Annotated[tuple[PartTensor, ...], Meta(max_length=200_000)]
    digest: Digest

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

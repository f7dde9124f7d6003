"""Bounded scalars, tensors and limits that the messages are made of."""

from __future__ import annotations

import hashlib
from enum import IntEnum
from typing import Annotated, Literal

from msgspec import Meta, Struct

WIRE_VERSION = 11
"""The version this code writes."""
OLDEST_WIRE_VERSION = 11
"""The oldest version this code reads."""

MAX_ENVELOPE_BYTES = 1024 * 1024
MAX_FRAME_BYTES = 16 * 1024 * 1024
MAX_PAYLOAD_FRAMES = 8
CHUNK_BYTES = 4 * 1024 * 1024
"""How many bytes of a part one `Chunk` carries at most."""
MAX_GRAMMAR_CHARACTERS = 250_000
"""In an envelope each may take 4 bytes."""
MAX_LOG_BYTES = 1024 * 1024
"""How much of its log an agent sends at once."""

# --- bounded scalars ---
# Patterns end with \Z: a `$` would let a line break pass.

U32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
U63 = Annotated[int, Meta(ge=0, le=2**63 - 1)]
I64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Seconds = Annotated[float, Meta(ge=0, le=1e12)]
Name = Annotated[str, Meta(max_length=200)]
Text = Annotated[str, Meta(max_length=8000)]
Id = Annotated[str, Meta(min_length=1, max_length=40, pattern=r"^[0-9a-zA-Z_-]+\Z")]
Digest = Annotated[str, Meta(min_length=64, max_length=64, pattern=r"^[0-9a-f]+\Z")]
Z85Key = Annotated[str, Meta(min_length=40, max_length=40, pattern=r"^[0-9a-zA-Z.:+=^!/*?&<>()\[\]{}@%$#-]+\Z")]
Address = Annotated[str, Meta(min_length=1, max_length=300)]
"""`tcp://host:port`, with brackets around an IPv6 host."""
Layer = Annotated[int, Meta(ge=0, le=100_000)]
Position = Annotated[int, Meta(ge=0, le=2**31 - 1)]
SequenceNumber = Annotated[int, Meta(ge=0, le=2**63 - 1)]
TokenId = Annotated[int, Meta(ge=0, le=2**31 - 1)]


# --- tensors ---


class DType(IntEnum):
    """Element types that may cross the wire in a tensor frame."""

    FLOAT32 = 1
    BFLOAT16 = 2
    FLOAT16 = 3
    INT32 = 4
    INT64 = 5


ITEM_BYTES = {DType.FLOAT32: 4, DType.BFLOAT16: 2, DType.FLOAT16: 2, DType.INT32: 4, DType.INT64: 8}

ComputeDType = Literal["float32", "bfloat16", "float16"]


class Call(Struct, kw_only=True, forbid_unknown_fields=True, frozen=True):
    """A message that is answered: the answer repeats `call`."""

    call: U32


class TensorFrame(Struct, array_like=True, forbid_unknown_fields=True, frozen=True):
    """What the payload frame of the same index holds: a contiguous, little-endian, row-major tensor."""

    dtype: DType
    shape: Annotated[tuple[U32, ...], Meta(max_length=4)]

    @property
    def nbytes(self) -> int:
        count = 1
        for extent in self.shape:
            count *= extent
        return count * ITEM_BYTES[self.dtype]


class Constraint(Struct, forbid_unknown_fields=True, frozen=True, omit_defaults=True):
    """A grammar that an answer has to follow. `text` is a JSON schema, a regular expression, or llguidance's Lark."""

    kind: Literal["json_object", "json_schema", "regex", "lark"]
    text: Annotated[str, Meta(max_length=MAX_GRAMMAR_CHARACTERS)] = ""

    @property
    def name(self) -> str:
        """What sequences call it by: a text may be long, and many may be admitted in one step."""
        return hashlib.sha256(f"{self.kind}\n{self.text}".encode()).hexdigest()

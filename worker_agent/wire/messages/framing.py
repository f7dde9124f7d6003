"""Messages to bytes and back, and what is checked on the way."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import Any

import msgspec

from worker_agent.wire.errors import VersionMismatch, WireError
from worker_agent.wire.messages.control import (
    Chunk,
    ChunkAck,
    Constrain,
    Done,
    Drain,
    Failed,
    Have,
    Health,
    HealthReport,
    Hello,
    Join,
    Joined,
    Link,
    Load,
    Loaded,
    LoadProgress,
    LogText,
    Offer,
    ReadLog,
    Shutdown,
    Unload,
    Welcome,
)
from worker_agent.wire.messages.fetching import AdmitFetch, Fetch, Fetched, PartBytes, ReadPart
from worker_agent.wire.messages.fields import (
    CHUNK_BYTES,
    MAX_ENVELOPE_BYTES,
    MAX_FRAME_BYTES,
    MAX_LOG_BYTES,
    MAX_PAYLOAD_FRAMES,
    OLDEST_WIRE_VERSION,
    WIRE_VERSION,
    DType,
    TensorFrame,
)
from worker_agent.wire.messages.handover import ReadStates, StatesPage, WriteJournal, WriteStates
from worker_agent.wire.messages.meeting import Committed, Confirm, Meet, Met, Reveal, Revealed
from worker_agent.wire.messages.parts import Part
from worker_agent.wire.messages.probing import MAX_PING_BYTES, AdmitProbe, Ping, Pong, Probed, ProbeLink
from worker_agent.wire.messages.recovery import Halt, Halted, JournalPage, JournalStep, ReadJournal, Recompute
from worker_agent.wire.messages.ring import Cancel, CatchUp, CaughtUp, StageFault, Start, Step, Tokens

ControlMessage = (
    Hello
    | Welcome
    | Health
    | HealthReport
    | Offer
    | Have
    | Chunk
    | Constrain
    | ChunkAck
    | Load
    | LoadProgress
    | Loaded
    | Link
    | Unload
    | Done
    | Failed
    | Drain
    | Shutdown
    | Start
    | Cancel
    | CatchUp
    | CaughtUp
    | StageFault
    | Join
    | Joined
    | Meet
    | Committed
    | Reveal
    | Revealed
    | Confirm
    | Met
    | ReadLog
    | LogText
    | Halt
    | Halted
    | ReadJournal
    | JournalPage
    | Recompute
    | AdmitProbe
    | ProbeLink
    | Probed
    | Ping
    | Pong
    | ReadStates
    | StatesPage
    | WriteStates
    | WriteJournal
    | AdmitFetch
    | Fetch
    | Fetched
    | ReadPart
    | PartBytes
)
"""Messages that are not in a hurry: encoded as maps, tagged by name."""

RingMessage = Step | Tokens
"""Messages of the data plane: encoded as arrays, to be small."""

Message = ControlMessage | RingMessage

_VERSION = struct.Struct(">H")

_encoder = msgspec.msgpack.Encoder()
_control_decoder: msgspec.msgpack.Decoder[ControlMessage] = msgspec.msgpack.Decoder(ControlMessage)
_ring_decoder: msgspec.msgpack.Decoder[RingMessage] = msgspec.msgpack.Decoder(RingMessage)
_parts_decoder = msgspec.msgpack.Decoder(tuple[Part, ...])

Buffer = bytes | bytearray | memoryview


def encode(message: Message) -> bytes:
    """The envelope frame of a message."""
    return _VERSION.pack(WIRE_VERSION) + _encoder.encode(message)


def decode(envelope: Buffer) -> Message:
    """Read and validate an envelope frame.

    Raises:
        VersionMismatch: the sender's wire version is not spoken here.
        WireError: anything else that is not a well-formed message within its bounds.
    """
    if len(envelope) > MAX_ENVELOPE_BYTES:
        raise WireError(f"an envelope of {len(envelope)} bytes is over the limit of {MAX_ENVELOPE_BYTES}")
    if len(envelope) < _VERSION.size + 1:
        raise WireError("a message without an envelope")
    (version,) = _VERSION.unpack_from(envelope)
    if not OLDEST_WIRE_VERSION <= version <= WIRE_VERSION:
        raise VersionMismatch(
            f"the peer speaks wire version {version}; this side speaks {OLDEST_WIRE_VERSION} to {WIRE_VERSION}"
        )
    try:
        body = memoryview(envelope)[_VERSION.size :]
        return _ring_decoder.decode(body) if _is_array(body[0]) else _control_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"a malformed message: {error}") from error


def _is_array(first_byte: int) -> bool:
    """Whether a msgpack value that begins with this byte is an array: the data plane's encoding."""
    return first_byte & 0xF0 == 0x90 or first_byte in (0xDC, 0xDD)


def check_payload(message: Message, payload: Sequence[Buffer]) -> None:
    """Check the payload frames of a message against what its envelope says, before they are touched.

    Raises:
        WireError: too many frames, a frame over the limit, or sizes that contradict the envelope.
    """
    if len(payload) > MAX_PAYLOAD_FRAMES:
        raise WireError(f"{len(payload)} payload frames are over the limit of {MAX_PAYLOAD_FRAMES}")
    for frame in payload:
        if len(frame) > MAX_FRAME_BYTES:
            raise WireError(f"a frame of {len(frame)} bytes is over the limit of {MAX_FRAME_BYTES}")
    match message:
        case Step():
            _check_tensors(message.tensors, payload)
            count = sum(piece.count for piece in message.pieces)
            if bool(message.pieces) != bool(message.tensors) or any(
                tensor.shape[:1] != (count,) for tensor in message.tensors
            ):
                raise WireError("a step whose tensors do not hold as many tokens as its pieces")
        case Start():
            _check_tensors((message.tokens,), payload)
            if len(message.tokens.shape) != 1 or message.tokens.dtype is not DType.INT32:
                raise WireError("a start whose tokens are no row of int32")
        case Chunk():
            if len(payload) != 1 or len(payload[0]) > CHUNK_BYTES:
                raise WireError("a chunk without its one frame of bytes, or with too many")
            if message.offset + len(payload[0]) > message.total:
                raise WireError("a chunk that goes past the end of its part")
        case PartBytes():
            if len(payload) != 1 or not 0 < len(payload[0]) <= CHUNK_BYTES:
                raise WireError("bytes of a part without their one frame, or with too many")
            if message.offset + len(payload[0]) > message.total:
                raise WireError("bytes that go past the end of their part")
        case Constrain():
            pass  # the tokenizer, in as many frames as it takes
        case StatesPage() | WriteStates():
            if bool(message.parts) != bool(payload):
                raise WireError("parts of states without frames, or frames without parts")
        case LogText():
            if len(payload) != 1 or len(payload[0]) > MAX_LOG_BYTES:
                raise WireError("a piece of a log without its one frame of text, or with too much")
        case Recompute():
            _check_journal(message.steps, message.given, payload)
        case JournalPage() | WriteJournal():
            _check_journal(message.steps, message.hidden, payload)
        case Ping():
            if len(payload) > 1 or any(len(frame) > MAX_PING_BYTES for frame in payload):
                raise WireError("a ping with more than one frame, or with too long a one")
        case Load():
            if len(payload) != 2:
                raise WireError("a load without its config and parts")
        case _:
            if payload:
                raise WireError(f"a {type(message).__name__} carries no payload")
    if isinstance(message, Offer | Fetch) and len(message.digests) != len(message.sizes):
        raise WireError(f"{len(message.digests)} parts with {len(message.sizes)} sizes")


def _check_journal(steps: Sequence[JournalStep], tensor: TensorFrame | None, payload: Sequence[Buffer]) -> None:
    _check_tensors(() if tensor is None else (tensor,), payload)
    if tensor is not None and tensor.shape[:1] != (sum(piece.count for step in steps for piece in step.pieces),):
        raise WireError("a tensor that does not hold as many tokens as the steps of the journal")


def _check_tensors(tensors: Sequence[TensorFrame], payload: Sequence[Buffer]) -> None:
    if len(tensors) != len(payload):
        raise WireError(f"{len(tensors)} tensors announced, {len(payload)} frames came")
    for tensor, frame in zip(tensors, payload, strict=True):
        if tensor.nbytes != len(frame):
            raise WireError(f"a tensor of {tensor.nbytes} bytes announced, a frame of {len(frame)} came")


def encode_parts(parts: Sequence[Part]) -> bytes:
    """Payload frame 1 of Load."""
    return _encoder.encode(tuple(parts))


def decode_parts(frame: Buffer) -> tuple[Part, ...]:
    """Read payload frame 1 of Load. Raises WireError."""
    try:
        parts = _parts_decoder.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise WireError(f"a malformed list of parts: {error}") from error
    if sum(part.nbytes for part in parts) >= 2**63:  # of which no message could tell how far they are loaded
        raise WireError("a malformed list of parts: more bytes than there are anywhere")
    return parts


def plan_hash(
    parts: Sequence[Part], boundaries: Sequence[tuple[int, int]], numbers: Sequence[str], config: bytes
) -> str:
    """What makes two plans the same: model content, layer ranges, numbers and wire version. 24 hex digits.

    `numbers`: all that decides in what numbers is computed, such as the dtype.
    """
    content: Any = (
        WIRE_VERSION,
        [part.digest for part in parts],
        list(boundaries),
        list(numbers),
        hashlib.sha256(config).hexdigest(),
    )
    return hashlib.sha256(_encoder.encode(content)).hexdigest()[:24]

"""What crosses the control door: MessagePack, one message a frame.

Arguments and results are typed by the methods of the controller themselves (`methods.py`): here they are bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Raw, Struct

from app.errors import (
    BadInput,
    Cancelled,
    Conflict,
    DiskFullError,
    ModelError,
    NodeError,
    PlacementError,
    PromptTooLong,
    RegistryError,
    RequestError,
    ShardboardError,
)

VERSION = 1
"""Of this contract. Command and controller must have the same: they come from the same installation."""
MAX_BYTES = 512 * 2**20
"""Of one message either way: an incident bundle is the largest thing that passes."""

T = TypeVar("T")


class Hello(Struct, frozen=True, tag="hello"):
    version: int


class Welcome(Struct, frozen=True, tag="welcome"):
    version: int
    software: str
    pid: int


class Call(Struct, frozen=True, tag="call"):
    """Do this. `arguments` by name."""

    id: int
    method: str
    arguments: dict[str, Raw]


class Cancel(Struct, frozen=True, tag="cancel"):
    id: int


class Ping(Struct, frozen=True, tag="ping"):
    """The command is still there."""


class Pong(Struct, frozen=True, tag="pong"):
    """So is the controller."""


class Bye(Struct, frozen=True, tag="bye"):
    """The command goes; what it waits for is cancelled."""


class Lost(Struct, frozen=True, tag="lost"):
    """The controller does not know this connection any more: what was asked on it before is cancelled."""


class Told(Struct, frozen=True, tag="told"):
    """A call's progress: the callback's name and what it was called with; or a request's event, by its type's name."""

    id: int
    name: str
    value: Raw


class Result(Struct, frozen=True, tag="result"):
    id: int
    value: Raw


class Failure(Struct, frozen=True, tag="failure"):
    """A ShardboardError, by the name of its class."""

    id: int
    error: str
    message: str
    advice: str
    kind: str = ""
    node: str = ""


ToController = Hello | Call | Cancel | Ping | Bye
ToCommand = Welcome | Pong | Lost | Told | Result | Failure

_ERRORS = {
    error.__name__: error
    for error in (
        ShardboardError, BadInput, ModelError, DiskFullError, RegistryError, NodeError, PlacementError, RequestError,
        PromptTooLong, Cancelled, Conflict,
    )
}  # fmt: skip


def _encode_other(value: Any) -> Any:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Sequence):
        return list(value)
    raise NotImplementedError(f"{type(value).__name__} cannot pass the control door")


def _decode_other(type: type, value: Any) -> Any:
    if type is object:  # JSON of any shape, as in parameters and capacities
        return value
    if issubclass(type, Path):
        return type(value)
    raise NotImplementedError(f"{type.__name__} cannot pass the control door")


_encoder = msgspec.msgpack.Encoder(enc_hook=_encode_other)
_to_controller: msgspec.msgpack.Decoder[ToController] = msgspec.msgpack.Decoder(ToController)
_to_command: msgspec.msgpack.Decoder[ToCommand] = msgspec.msgpack.Decoder(ToCommand)


def encode(message: ToController | ToCommand) -> bytes:
    return _encoder.encode(message)


def read_call(data: bytes) -> ToController:
    """Raises msgspec.DecodeError."""
    return _to_controller.decode(data)


def read_answer(data: bytes) -> ToCommand:
    """Raises msgspec.DecodeError."""
    return _to_command.decode(data)


def pack(value: object) -> Raw:
    """A value of any type that the controller's methods know."""
    return Raw(_encoder.encode(value))


def unpack(value: Raw, type: Any) -> Any:
    """Raises msgspec.DecodeError when it is something else."""
    return msgspec.msgpack.decode(bytes(value), type=type, dec_hook=_decode_other)


def failure(id: int, error: BaseException) -> Failure:
    """What to send of an error. One that is no ShardboardError is a bug: the controller's log has it."""
    if not isinstance(error, ShardboardError):
        return Failure(
            id,
            "ShardboardError",
            f"The controller failed: {type(error).__name__}: {error}.",
            "Its log has the details.",
        )
    name = next(cls.__name__ for cls in type(error).__mro__ if cls.__name__ in _ERRORS)
    node = error.node if isinstance(error, NodeError) else ""
    return Failure(id, name, error.message, error.advice, error.kind, node)


def error_of(failure: Failure) -> ShardboardError:
    """The error again, where the command is."""
    if failure.error == "NodeError":
        return NodeError(failure.message, failure.advice, kind=failure.kind, node=failure.node)
    return _ERRORS.get(failure.error, ShardboardError)(failure.message, failure.advice)

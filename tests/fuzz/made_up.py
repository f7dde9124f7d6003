"""Messages with values that nobody chose, and bytes of messages that are bent here and there.

Made from the types themselves, so that a message that is new is made up, too.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any, get_args

import msgspec
from msgspec import inspect as types

from worker_agent.wire.messages import MAX_FRAME_BYTES, Message, Part, encode_parts
from worker_agent.wire.messages.fields import DType, TensorFrame
from worker_agent.wire.messages.framing import ControlMessage, RingMessage

KINDS: tuple[type[Any], ...] = (*get_args(ControlMessage), *get_args(RingMessage))
LONGEST = 4
"""Of a list that is made up; a bent one may be longer."""
WIDTHS = (1, 2, 4, 8)
MARKS = bytes([0x80, 0x90, 0xA1, 0xC0, 0xC1, 0xC6, 0xC9, 0xCB, 0xCF, 0xD3, 0xD9, 0xDB, 0xDC, 0xDD, 0xDE, 0xDF, 0xFF])
"""Bytes that mean something to MessagePack: lists, maps and texts of any length, numbers of any width."""
LETTERS = "abcdef0123456789"
_infos = {kind: types.type_info(kind) for kind in (*KINDS, Part)}


class MadeUp:
    """Draws everything from one source of chance, so that a seed has all of it again."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance

    # --- what is right ---

    def message(self, *kinds: type[Any]) -> Message:
        """One of these kinds, else of any; all within its bounds, and as often as not at one of them."""
        made: Message = self._value(_infos[self.chance.choice(kinds or KINDS)])
        return made

    def parts(self) -> bytes:
        """A list of parts, as `Load` brings it."""
        return encode_parts([self._value(_infos[Part]) for _ in range(self.chance.randrange(LONGEST))])

    def fitting(self, message: Message) -> tuple[Message, list[int]]:
        """The message, changed where it has to be, and how long its payload frames are: mostly as it says."""
        chance, frames = self.chance, list[int]()
        changes: dict[str, Any] = {}
        for field in ("tensors", "tokens", "hidden", "given"):
            value = getattr(message, field, None)
            alone = isinstance(value, TensorFrame)
            tensors = (value,) if alone else value if field == "tensors" else ()
            if not tensors:
                continue
            pieces = getattr(message, "pieces", None) or [p for s in getattr(message, "steps", ()) for p in s.pieces]
            rows = sum(piece.count for piece in pieces) if pieces else chance.randrange(100)
            fitted = tuple(TensorFrame(DType.INT32, (rows,)) for _ in tensors)
            frames += [min(tensor.nbytes, MAX_FRAME_BYTES) for tensor in fitted]
            changes[field] = fitted[0] if alone else fitted
        if changes:
            return msgspec.structs.replace(message, **changes), frames
        return message, [chance.randrange(200) for _ in range(chance.choice((0, 1, 1, 2, 3)))]

    def _value(self, info: types.Type) -> Any:
        chance = self.chance
        match info:
            case types.Metadata():
                return self._value(info.type)
            case types.StructType():
                needed = [field for field in info.fields if field.required or chance.random() < 0.5]
                return info.cls(**{field.name: self._value(field.type) for field in needed})
            case types.UnionType():
                return self._value(chance.choice(info.types))
            case types.LiteralType():
                return chance.choice(info.values)
            case types.EnumType():
                return chance.choice(list(info.cls))
            case types.IntType():
                low, high = info.ge if info.ge is not None else 0, info.le if info.le is not None else 2**63 - 1
                return chance.choice((low, high, chance.randint(low, high), min(high, low + chance.randrange(100))))
            case types.FloatType():
                return self._float(info)
            case types.StrType():
                return self._text(info)
            case types.BoolType():
                return chance.random() < 0.5
            case types.NoneType():
                return None
            case types.TupleType():
                return tuple(self._value(each) for each in info.item_types)
            case types.VarTupleType() | types.ListType():
                least, most = info.min_length or 0, info.max_length if info.max_length is not None else LONGEST
                length = chance.randint(least, max(least, min(most, LONGEST)))
                return tuple(self._value(info.item_type) for _ in range(length))
            case types.DictType():
                count = chance.randrange(LONGEST)
                return {self._value(info.key_type): self._value(info.value_type) for _ in range(count)}
        raise TypeError(f"a value of {info} cannot be made up yet")

    def _float(self, info: types.FloatType) -> float:
        low = info.ge if info.ge is not None else info.gt if info.gt is not None else -1e300
        high = info.le if info.le is not None else info.lt if info.lt is not None else 1e300
        low = math.nextafter(low, math.inf) if info.gt is not None else low
        high = math.nextafter(high, -math.inf) if info.lt is not None else high
        return float(self.chance.choice((low, high, low + self.chance.random() * min(1.0, high - low))))

    def _text(self, info: types.StrType) -> str:
        least, most = info.min_length or 0, info.max_length or 40
        length = self.chance.choice((least, min(most, 300), self.chance.randint(least, max(least, min(most, 60)))))
        letters = LETTERS if info.pattern else f"{LETTERS}é\u0000 \U0001f600"
        return "".join(self.chance.choices(letters, k=length))

    # --- what is nearly right ---

    def bent(self, content: bytes, other: bytes = b"") -> bytes:
        """These bytes with a few changes, such as a fault of a program or of a line makes them; `other` for pieces."""
        bent = bytearray(content)
        for _ in range(self.chance.choice((1, 1, 1, 2, 3, 6))):
            self.chance.choice(_BENDS)(self.chance, bent, other)
        return bytes(bent)

    def bent_envelope(self, envelope: bytes, other: bytes = b"") -> bytes:
        """The same of an envelope; half of the time value by value: well-formed, and something else."""
        if self.chance.random() < 0.5:
            return self.bent(envelope, other)
        try:
            value = msgspec.msgpack.decode(envelope[2:])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
            return self.bent(envelope, other)
        version = envelope[:2] if self.chance.random() < 0.95 else self.chance.randbytes(2)
        try:
            return version + msgspec.msgpack.encode(self._another(value))
        except (TypeError, ValueError, OverflowError, RecursionError):  # an odd key, or too deep
            return self.bent(envelope, other)

    def _another(self, value: Any) -> Any:
        """The value with one place in it changed."""
        chance = self.chance
        if isinstance(value, dict) and value and chance.random() < 0.85:
            key = chance.choice(list(value))
            kept = {name: each for name, each in value.items() if name != key or chance.random() < 0.9}
            if key in kept:
                kept[key] = self._another(value[key])
            else:
                kept[self._odd() if chance.random() < 0.5 else str(key) + "x"] = value[key]
            return kept
        if isinstance(value, list) and value and chance.random() < 0.85:
            place = chance.randrange(len(value))
            match chance.randrange(8):
                case 0:
                    return [*value[:place], *value[place + 1 :]]
                case 1:
                    return [*value[: place + 1], *value[place:]]
                case 2:
                    return value * chance.choice((2, 17, 300))
            return [*value[:place], self._another(value[place]), *value[place + 1 :]]
        if isinstance(value, bool) or value is None or chance.random() < 0.5:
            return self._odd()
        if isinstance(value, int):
            return max(-(2**63), min(2**64 - 1, value + chance.choice((-1, 1, 2**31, -(2**31), 2**62))))
        if isinstance(value, str):
            return chance.choice((value[:-1], value + "a", value * 50, value.upper(), value + "\n", value + "é"))
        return value

    def _odd(self) -> Any:
        chance = self.chance
        deep: list[Any] = []
        for _ in range(chance.choice((3, 60, 900))):
            deep = [deep]
        return chance.choice((
            None, True, False, 0, -1, 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 0.5, -0.0, math.nan,
            math.inf, -math.inf, 1e308, "", "a", "a" * 64, "\u0000", "x" * 9000, b"", b"\xff" * 70, [], {}, [[]],
            {"": None}, {1: 2}, deep, [0] * 5000, msgspec.msgpack.Ext(chance.randrange(-128, 128), b"12345678"),
        ))  # fmt: skip


def _flip(chance: random.Random, bent: bytearray, other: bytes) -> None:
    if bent:
        bent[chance.randrange(len(bent))] ^= 1 << chance.randrange(8)


def _set(chance: random.Random, bent: bytearray, other: bytes) -> None:
    if bent:
        bent[chance.randrange(len(bent))] = chance.choice((chance.randrange(256), chance.choice(MARKS)))


def _cut(chance: random.Random, bent: bytearray, other: bytes) -> None:
    del bent[chance.randrange(len(bent) + 1) :]


def _drop(chance: random.Random, bent: bytearray, other: bytes) -> None:
    place = chance.randrange(len(bent) + 1)
    del bent[place : place + chance.choice((1, 1, 2, 4, 30))]


def _insert(chance: random.Random, bent: bytearray, other: bytes) -> None:
    place = chance.randrange(len(bent) + 1)
    bent[place:place] = chance.randbytes(chance.choice((1, 1, 2, 4, 30)))


def _number(chance: random.Random, bent: bytearray, other: bytes) -> None:
    """A length or a number that is the largest, or one of the least."""
    width = chance.choice(WIDTHS)
    place = chance.randrange(len(bent) + 1)
    number = chance.choice((256**width - 1, 256**width // 2, 256**width // 2 - 1, 0, 1))
    bent[place : place + width] = number.to_bytes(width, chance.choice(("big", "little")))


def _repeat(chance: random.Random, bent: bytearray, other: bytes) -> None:
    place = chance.randrange(len(bent) + 1)
    piece = bytes(bent[place : place + chance.randrange(1, 40)])
    bent[place:place] = piece * chance.choice((1, 2, 100))


def _graft(chance: random.Random, bent: bytearray, other: bytes) -> None:
    if other:
        begin = chance.randrange(len(other))
        place = chance.randrange(len(bent) + 1)
        bent[place : place + chance.randrange(40)] = other[begin : begin + chance.randrange(1, 40)]


_BENDS: tuple[Callable[[random.Random, bytearray, bytes], None], ...] = (
    _flip, _flip, _set, _set, _cut, _drop, _insert, _number, _number, _repeat, _graft,
)  # fmt: skip

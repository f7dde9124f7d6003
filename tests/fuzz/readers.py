"""Whatever reads what a stranger may have written, and what has to become of any bytes that it is given.

Either they are understood, and what was understood says the same when it is written down again, or they are refused
with the error that is documented. Nothing else may come of them: no other error, no second of work, no memory beyond
what was sent. `benchmarks/fuzz.py` tries millions of inputs, the tests beside this file a few thousand.
"""

from __future__ import annotations

import base64
import hashlib
import random
import struct
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from app.errors import ModelError
from app.models.gguf_header import read_gguf_header
from app.models.safetensors_file import read_header
from tests.fuzz.made_up import KINDS, MadeUp
from worker_agent.wire.announcing import Announced
from worker_agent.wire.errors import WireError
from worker_agent.wire.keys import Invitation, KeyPair, KeyProblem, check_key
from worker_agent.wire.links import AddressError, Endpoint
from worker_agent.wire.messages import (
    MAX_ENVELOPE_BYTES,
    MAX_FRAME_BYTES,
    MAX_PAYLOAD_FRAMES,
    check_payload,
    decode,
    decode_parts,
    encode,
    encode_parts,
)

_ZEROS = memoryview(bytes(MAX_FRAME_BYTES + 1))
"""Of a payload only lengths are looked at, so all frames may be the same bytes."""


class Reader(ABC):
    """One of them."""

    name: str

    @abstractmethod
    def seeds(self, chance: random.Random) -> list[bytes]:
        """Inputs that are understood, to begin with."""

    def fresh(self, made: MadeUp) -> bytes:
        """One of the kind."""
        return made.chance.choice(self.seeds(made.chance))

    @abstractmethod
    def read(self, content: bytes) -> bool:
        """Whether it was understood. Raises for what must not happen."""

    def bent(self, made: MadeUp, content: bytes, other: bytes) -> bytes:
        """The input, changed in a way that suits it."""
        return made.bent(content, other)


class Messages(Reader):
    """Envelope and payload frames of any message, as agent, joining and waiting agent read them.

    An input is the number of payload frames, the length of each, and the envelope.
    """

    name = "messages"

    def seeds(self, chance: random.Random) -> list[bytes]:
        return [self.fresh(MadeUp(chance), kind) for kind in KINDS]

    def fresh(self, made: MadeUp, *kinds: type[Any]) -> bytes:
        message, frames = made.fitting(made.message(*kinds))
        return struct.pack(f">B{len(frames)}I", len(frames), *frames) + encode(message)

    def read(self, content: bytes) -> bool:
        frames, envelope = self._divide(content)
        try:
            message = decode(envelope)
        except WireError:
            return False
        again = encode(message)
        # A number may take fewer bytes in an envelope than it does when it is written down here.
        if len(again) <= MAX_ENVELOPE_BYTES:
            same = decode(again)
            assert type(same) is type(message) and encode(same) == again, f"{message!r} came back as {same!r}"
        try:
            check_payload(message, [_ZEROS[:length] for length in frames])
        except WireError:
            return False
        return True

    def bent(self, made: MadeUp, content: bytes, other: bytes) -> bytes:
        if made.chance.random() < 0.1:
            return made.bent(content, other)
        _, envelope = self._divide(content)
        head = content[: len(content) - len(envelope)]
        return head + made.bent_envelope(envelope, other)

    @staticmethod
    def _divide(content: bytes) -> tuple[list[int], bytes]:
        count = min(content[0] if content else 0, MAX_PAYLOAD_FRAMES + 1, (len(content) - 1) // 4)
        lengths = struct.unpack_from(f">{count}I", content, 1) if content else ()
        return [min(length, len(_ZEROS)) for length in lengths], content[1 + 4 * count :]


class Parts(Reader):
    """The list of parts behind a Load."""

    name = "parts"

    def seeds(self, chance: random.Random) -> list[bytes]:
        return [MadeUp(chance).parts() for _ in range(10)]

    def read(self, content: bytes) -> bool:
        try:
            parts = decode_parts(content)
        except WireError:
            return False
        again = encode_parts(parts)
        assert encode_parts(decode_parts(again)) == again
        return True


class Invitations(Reader):
    """What a person pastes behind --join."""

    name = "invitations"

    def seeds(self, chance: random.Random) -> list[bytes]:
        made = [
            Invitation.make(address, KeyPair.make().public) for address in ("tcp://192.168.1.2:7600", "tcp://[::1]:1")
        ]
        return [each.encode().encode() for each in made]

    def read(self, content: bytes) -> bool:
        text = content.decode(errors="replace")
        try:
            invitation = Invitation.decode(text)
        except KeyProblem:
            return False
        assert Invitation.decode(invitation.encode()) == invitation
        check_key(invitation.public_key)
        return True


class Contents(Reader):
    """An invitation whose checksum is right, whatever it says: anybody can make one, and have somebody paste it."""

    name = "contents"

    def seeds(self, chance: random.Random) -> list[bytes]:
        contents: list[tuple[str, bytes, str]] = [("tcp://192.168.1.2:7600", bytes(range(32)), "token"), ("", b"", "")]
        return [msgspec.msgpack.encode(each) for each in contents]

    def read(self, content: bytes) -> bool:
        return Invitations().read(sealed(content).encode())


class Announcements(Reader):
    """What an agent that waits says of itself by mDNS, or somebody in its name: texts with zeros between."""

    name = "announcements"

    def seeds(self, chance: random.Random) -> list[bytes]:
        key = KeyPair.make()
        return [b"\0".join([key.agent_id.encode(), b"attic", key.public.encode(), b"10"])]

    def read(self, content: bytes) -> bool:
        label, name, key, wire = [*content.split(b"\0"), b"", b"", b"", b""][:4]
        found = Announced.read(label.decode(errors="replace"), {b"name": name, b"key": key, b"wire": wire})
        if found is None:
            return False
        assert found.name.isprintable() and len(found.name) <= 100
        check_key(found.public_key)
        return True


class Addresses(Reader):
    """An address in a message."""

    name = "addresses"

    def seeds(self, chance: random.Random) -> list[bytes]:
        return [b"tcp://192.168.1.2:7600", b"[fe80::1%eth0]:1", b"box.local:65535"]

    def read(self, content: bytes) -> bool:
        text = content.decode(errors="replace")
        try:
            endpoint = Endpoint.parse(text)
        except AddressError:
            return False
        assert Endpoint.parse(endpoint.address) == endpoint
        if ":" not in endpoint.host:
            endpoint.host.encode("idna")  # as every look-up of a name begins
        return True


class _File(Reader):
    """Something that is read from a file."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="shardboard-fuzz-")
        self._path = Path(self._folder.name) / "content"

    def read(self, content: bytes) -> bool:
        self._path.write_bytes(content)
        try:
            self._read(self._path)
        except ModelError:
            return False
        return True

    @abstractmethod
    def _read(self, path: Path) -> object: ...


class SafetensorsHeaders(_File):
    """The header of a file of weights that somebody published."""

    name = "safetensors"

    def seeds(self, chance: random.Random) -> list[bytes]:
        headers = [
            {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}, "__metadata__": {"format": "pt"}},
            {"b": {"dtype": "U8", "shape": [1, 18], "data_offsets": [0, 18]},
             "__metadata__": {"shardboard.blocks": '{"b":"Q4_0"}'}},
        ]  # fmt: skip
        texts = [msgspec.json.encode(header) for header in headers]
        return [struct.pack("<Q", len(text)) + text + bytes(32) for text in texts]

    def bent(self, made: MadeUp, content: bytes, other: bytes) -> bytes:
        """Mostly with a length that is right: else hardly anything would be read behind it."""
        end = 8 + int.from_bytes(content[:8], "little")
        if end > len(content) or made.chance.random() < 0.2:
            return made.bent(content, other)
        header = made.bent(content[8:end], other)
        return struct.pack("<Q", len(header)) + header + content[end:]

    def _read(self, path: Path) -> object:
        return read_header(path.parent, path.name)


class GgufHeaders(_File):
    """The same, of the other format."""

    name = "gguf"

    def seeds(self, chance: random.Random) -> list[bytes]:
        def text(content: str) -> bytes:
            return struct.pack("<Q", len(content)) + content.encode()

        keys = [text("general.architecture") + struct.pack("<I", 8) + text("llama"),
                text("tokens") + struct.pack("<IIQ", 9, 8, 2) + text("a") + text("b"),
                text("numbers") + struct.pack("<IIQ", 9, 5, 2) + bytes(8),
                text("general.alignment") + struct.pack("<II", 4, 32)]  # fmt: skip
        tensor = text("a.weight") + struct.pack("<IQQIQ", 2, 32, 2, 2, 0)
        head = b"GGUF" + struct.pack("<IQQ", 3, 1, len(keys)) + b"".join(keys) + tensor
        return [head + bytes(-len(head) % 32 + 64)]

    def _read(self, path: Path) -> object:
        return read_gguf_header(path)


READERS: dict[str, type[Reader]] = {
    reader.name: reader
    for reader in (
        Messages, Parts, Invitations, Contents, Announcements, Addresses, SafetensorsHeaders, GgufHeaders,
    )
}  # fmt: skip


def sealed(content: bytes) -> str:
    """An invitation with this content, whose checksum is right."""
    return "SB1" + base64.b32encode(content + hashlib.sha256(content).digest()[:4]).decode("ascii").rstrip("=")


def inputs(reader: Reader, chance: random.Random) -> Iterator[bytes]:
    """Without end: what is understood, what is bent, and now and then what was bent before and is bent once more."""
    made = MadeUp(chance)
    while True:
        pool = reader.seeds(chance)
        yield from pool
        for _ in range(5 * len(pool)):
            bent = reader.bent(made, chance.choice(pool), chance.choice(pool))
            yield bent
            if chance.random() < 0.05:
                pool.append(bent)

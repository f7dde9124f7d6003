"""Who may talk to whom: an agent's CURVE key pair, the controllers it trusts, and invitations.

The controller keeps its own pair with the same class. Checking keys at the door is `zap.py`'s work, checking
what an admitted key may ask for is `access.py`'s.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
import struct
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import zmq
from zmq.utils import z85

from worker_agent.wire.errors import AgentError
from worker_agent.wire.files import write_private


class KeyProblem(AgentError):
    """A key file, a public key or an invitation that cannot be used. The text says what to do."""

    kind = "key"


@dataclass(frozen=True)
class KeyPair:
    """A CURVE key pair, both halves in Z85 (40 characters)."""

    public: str
    secret: str = field(repr=False)

    @classmethod
    def make(cls) -> KeyPair:
        public, secret = zmq.curve_keypair()
        return cls(public.decode("ascii"), secret.decode("ascii"))

    @classmethod
    def load_or_create(cls, folder: Path, name: str = "agent") -> KeyPair:
        """The pair in `folder/name.key`, made at the first call. `name.pub` is a copy for people to read.

        The file holds the secret half only, so that the two halves cannot contradict each other.

        Raises:
            KeyProblem: the file is there but is no key; a new one is never made over it.
        """
        path = folder / f"{name}.key"
        if path.exists():
            pair = cls._read(path)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            pair = cls.make()
            write_private(path, f"{pair.secret}\n".encode("ascii"))
        published = folder / f"{name}.pub"
        if not published.exists() or published.read_text("ascii", errors="replace").strip() != pair.public:
            write_private(published, f"{pair.public}\n".encode("ascii"))
        return pair

    @classmethod
    def _read(cls, path: Path) -> KeyPair:
        try:
            secret = path.read_text("ascii").strip()
            public = zmq.curve_public(check_key(secret).encode("ascii")).decode("ascii")
        except (OSError, ValueError, KeyProblem, zmq.ZMQError) as error:
            raise KeyProblem(
                f"The key file {path} cannot be read as a key ({error}). "
                "Restore it from a backup, or delete it to get a new key; controllers must then add this agent again."
            ) from error
        if os.name == "posix" and path.stat().st_mode & 0o077:
            path.chmod(0o600)
        return cls(public, secret)

    @property
    def agent_id(self) -> str:
        """The name that stays the same over restarts: 16 hex digits of the public key's SHA-256."""
        return key_fingerprint(self.public)


def key_fingerprint(public_key: str) -> str:
    """16 hex digits of a public key's SHA-256: a name that fits into a file name and a table."""
    return hashlib.sha256(public_key.encode("ascii")).hexdigest()[:16]


def check_key(text: str) -> str:
    """`text` if it is a CURVE key in Z85. Raises KeyProblem."""
    key = text.strip()
    if len(key) != 40:
        raise KeyProblem(f"A public key has 40 characters, this one has {len(key)}. Copy it again.")
    try:
        z85.decode(key.encode("ascii"))
    except (KeyError, ValueError, struct.error) as error:
        raise KeyProblem("This public key is mistyped: it is no Z85 text. Copy it again.") from error
    return key


class TrustedControllers:
    """The controllers that this agent obeys: one file with a public key each. Any thread may ask.

    The folder is read again for every key that knocks, so a file that is put there or taken away counts
    from the next connection on.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._vouched: frozenset[str] = frozenset()
        self._keys = self._read()

    def __contains__(self, key: str) -> bool:
        return key in self._keys or key in self._vouched

    def refresh(self) -> None:
        """Read the folder again."""
        keys = self._read()
        with self._lock:
            self._keys = keys

    @property
    def keys(self) -> frozenset[str]:
        return self._keys

    def add(self, key: str, name: str = "controller") -> None:
        """Trust a controller from now on, over restarts. Raises KeyProblem."""
        key = check_key(key)
        self._folder.mkdir(parents=True, exist_ok=True)
        write_private(self._folder / f"{key_fingerprint(key)}.pub", f"{key}\n# {name}\n".encode())
        self.refresh()

    def vouch(self, key: str) -> None:
        """Trust a controller until the process ends: the user has pasted its invitation, it has not answered yet."""
        with self._lock:
            self._vouched |= {check_key(key)}

    def disavow(self, key: str) -> None:
        """Take back `vouch`."""
        with self._lock:
            self._vouched -= {key}

    def _read(self) -> frozenset[str]:
        keys = set()
        for path in sorted(self._folder.glob("*.pub")):
            # the first line only: what follows is for people, and "#" may begin a key in Z85
            first, _, _ = path.read_text("utf-8", errors="replace").partition("\n")
            with suppress(KeyProblem):
                keys.add(check_key(first))
        return frozenset(keys)


class _InvitationContent(msgspec.Struct, array_like=True, frozen=True):
    address: str
    key: bytes
    token: str


_PREFIX = "SB1"
_CHECKSUM_BYTES = 4
_KEY_BYTES = 32


@dataclass(frozen=True)
class Invitation:
    """What an agent needs to join a controller, as one string that a person can copy.

    Base32 after a prefix with the format's version: letters and digits only, so that a double click
    selects all of it and no shell touches it.
    """

    address: str
    """Where the controller answers Join: `tcp://host:port`."""
    public_key: str
    token: str = field(repr=False)
    """Good for one Join; the controller knows until when."""

    @classmethod
    def make(cls, address: str, public_key: str) -> Invitation:
        return cls(address, check_key(public_key), secrets.token_urlsafe(18))

    def encode(self) -> str:
        content = _InvitationContent(self.address, z85.decode(self.public_key.encode("ascii")), self.token)
        body = msgspec.msgpack.encode(content)
        return _PREFIX + base64.b32encode(body + _checksum(body)).decode("ascii").rstrip("=")

    @classmethod
    def decode(cls, text: str) -> Invitation:
        """Read an invitation; white space and letter case do not matter.

        Raises:
            KeyProblem: it is none, it belongs to another version, or it was copied incompletely.
        """
        compact = "".join(text.split()).upper()
        if not compact.startswith("SB"):
            raise KeyProblem("This is no Shardboard invitation; one begins with SB1. Copy it from the controller.")
        if not compact.startswith(_PREFIX):
            raise KeyProblem("This invitation is of another version. Use the same Shardboard on both machines.")
        digits = compact[len(_PREFIX) :]
        try:
            raw = base64.b32decode(digits + "=" * (-len(digits) % 8))
            body, checksum = raw[:-_CHECKSUM_BYTES], raw[-_CHECKSUM_BYTES:]
            if len(raw) <= _CHECKSUM_BYTES or _checksum(body) != checksum:
                raise ValueError("checksum")
            content = msgspec.msgpack.decode(body, type=_InvitationContent)
        except (binascii.Error, ValueError, msgspec.DecodeError) as error:
            raise KeyProblem(
                "This invitation is incomplete or mistyped (its checksum is wrong). Copy it again from the controller."
            ) from error
        if len(content.key) != _KEY_BYTES:  # its checksum is right, so it was made like this
            raise KeyProblem("This invitation names no key of a controller. Make a new one there.")
        return cls(content.address, z85.encode(content.key).decode("ascii"), content.token)


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).digest()[:_CHECKSUM_BYTES]

"""The code by which two people, or one who walks, see that nobody stands between an agent and a controller.

Numeric comparison as Bluetooth's Secure Connections and ZRTP have it: the agent commits to its nonce before it knows
the controller's, and the controller chooses its own before it knows the agent's. So the code, which both compute from
both keys and both nonces, cannot be steered by either, nor by somebody who speaks with each of them in the other's
name: there the codes are equal by chance alone, once in a million meetings. docs/protocol.md says why that suffices.
Pure.
"""

from __future__ import annotations

import hashlib
import secrets

from zmq.utils import z85

CODE_DIGITS = 6
MEETING_SECONDS = 180.0
"""How long a meeting may take, from the first message to both confirmations."""

_COMMITMENT = b"shardboard meeting commitment 1\0"
_CODE = b"shardboard meeting code 1\0"


def fresh_nonce() -> str:
    """32 random bytes, as hex digits."""
    return secrets.token_hex(32)


def commitment_to(agent_nonce: str, agent_key: str, controller_key: str) -> str:
    """What binds the agent to its nonce without telling it; 64 hex digits. Keys are Z85, nonces hex digits."""
    return hashlib.sha256(_COMMITMENT + _raw(agent_key) + _raw(controller_key) + bytes.fromhex(agent_nonce)).hexdigest()


def meeting_code(agent_key: str, controller_key: str, agent_nonce: str, controller_nonce: str) -> str:
    """Six digits. All that is hashed has a fixed length, so no two inputs make the same bytes."""
    content = _raw(agent_key) + _raw(controller_key) + bytes.fromhex(agent_nonce) + bytes.fromhex(controller_nonce)
    number = int.from_bytes(hashlib.sha256(_CODE + content).digest()[:16], "big")
    return f"{number % 10**CODE_DIGITS:0{CODE_DIGITS}}"


def spoken(code: str) -> str:
    """As people read it: `123 456`."""
    return f"{code[:3]} {code[3:]}"


def digits_of(text: str) -> str:
    """A code as it was typed, with spaces or dashes between."""
    return "".join(character for character in text if character.isascii() and character.isdecimal())


def printable(text: str) -> str:
    """A name from somebody who is not trusted yet, as it may be shown in a terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)[:100]


def _raw(key: str) -> bytes:
    raw: bytes = z85.decode(key.encode("ascii"))
    return raw

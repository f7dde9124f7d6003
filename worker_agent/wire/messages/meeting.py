"""What an agent that waits to be found, and a controller that has found it, say until they know each other's key."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from worker_agent.wire.messages.fields import Call, Digest, Name

Nonce = Annotated[str, Meta(min_length=64, max_length=64, pattern=r"^[0-9a-f]+\Z")]
"""32 random bytes, as hex digits."""
_Version = Annotated[int, Meta(ge=1, le=65535)]


class Meet(Call, tag="meet", kw_only=True, frozen=True):
    """From a controller: somebody has chosen this agent."""

    name: Name
    oldest: _Version
    newest: _Version


class Committed(Call, tag="committed", kw_only=True, frozen=True):
    """The agent has chosen its nonce, and cannot change it any more."""

    name: Name
    commitment: Digest


class Reveal(Call, tag="reveal", kw_only=True, frozen=True):
    """The controller's nonce; it is chosen before the agent's is known."""

    nonce: Nonce


class Revealed(Call, tag="revealed", kw_only=True, frozen=True):
    """The agent's nonce. From here on both have the code, and the agent shows it."""

    nonce: Nonce


class Confirm(Call, tag="confirm", kw_only=True, frozen=True):
    """The code that the agent shows was typed at the controller, and is the controller's, too."""


class Met(Call, tag="met", kw_only=True, frozen=True):
    """It was confirmed at the agent, which trusts the controller's key from now on, and starts."""

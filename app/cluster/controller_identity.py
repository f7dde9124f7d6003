"""Who this controller is: its key pair, which agents trust, and the boot id of this process."""

from __future__ import annotations

import secrets
import socket
from dataclasses import dataclass, field

from app.paths import Home
from worker_agent.wire.keys import KeyPair


@dataclass(frozen=True)
class ControllerIdentity:
    keys: KeyPair
    name: str
    """What agents show of it: the machine's host name."""
    boot: str = field(default_factory=lambda: secrets.token_hex(8))
    """Another one means another process, that knows nothing of this one's calls."""

    @classmethod
    def of(cls, home: Home) -> ControllerIdentity:
        """The identity kept in the home's `keys` folder; the key pair is made at the first call.

        Raises worker_agent.wire.keys.KeyProblem when the key file is damaged.
        """
        return cls(KeyPair.load_or_create(home.keys, "controller"), socket.gethostname()[:200])

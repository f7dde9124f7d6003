"""The errors a user sees: what failed, where and why, and what to do about it.

Everything the controller's half raises on purpose is a `ShardboardError`; anything else is a bug of ours.
"""

from __future__ import annotations


class ShardboardError(Exception):
    """Something the user can understand and act on.

    Args:
        message: what failed, where and why, as one or two sentences.
        advice: what to do about it; empty when there is nothing to add.
    """

    kind = "error"
    exit_code = 1

    def __init__(self, message: str, advice: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice

    def __str__(self) -> str:
        return f"{self.message} {self.advice}".rstrip()


class BadInput(ShardboardError):
    """What the user gave cannot be used: a path, an option, a file."""

    kind = "bad_input"
    exit_code = 2


class Conflict(ShardboardError):
    """What is there already, is in use, or is over stands against it."""

    kind = "conflict"


class ModelError(ShardboardError):
    """A model that is missing, broken or not supported."""

    kind = "model"


class DiskFullError(ShardboardError):
    """Not enough disk space, found out before or while writing."""

    kind = "disk"


class RegistryError(ShardboardError):
    """The registry cannot be opened or does not hold what was asked for."""

    kind = "registry"


class NodeError(ShardboardError):
    """An agent that cannot be reached, refuses, or failed. The `kind` of each says how.

    Kinds: refused, timeout, wrong_key, not_allowed, version, lost, memory, disk, damaged, weights, architecture,
    numbers, copied_key, busy, internal.
    """

    kind = "node"

    def __init__(self, message: str, advice: str = "", *, kind: str = "internal", node: str = "") -> None:
        super().__init__(message, advice)
        self.kind = kind
        self.node = node


class PlacementError(ShardboardError):
    """No placement fits; the text says which node lacks how much."""

    kind = "placement"


class RequestError(ShardboardError):
    """A request that cannot be run: too long, bad parameters, no deployment."""

    kind = "request"


class PromptTooLong(RequestError):
    """The prompt leaves no room for an answer: programs shorten it and try again, so they must be able to tell."""


class Cancelled(ShardboardError):
    """The user cancelled it."""

    kind = "cancelled"
    exit_code = 130

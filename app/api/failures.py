"""Errors that only HTTP knows: what a path names is not there, who asks may not, not now."""

from __future__ import annotations

from app.errors import ShardboardError


class NotFound(ShardboardError):
    """What the path names does not exist."""

    kind = "not_found"


class Refused(ShardboardError):
    """Who asks may not. `code` says why, in a word."""

    kind = "refused"

    def __init__(self, status: int, message: str, advice: str = "", *, code: str) -> None:
        super().__init__(message, advice)
        self.status, self.code = status, code


class Overloaded(ShardboardError):
    """Not now: too much is under way, or the server is about to end."""

    kind = "overloaded"

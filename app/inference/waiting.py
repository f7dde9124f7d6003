"""What a request is begun from, as the registry keeps it until agents have it: if the controller ends without a word
before that, the next one begins the request anew."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from app.inference.prompt import Prompt
from app.registry import RequestRecord


class Waiting(Struct, frozen=True):
    """A request that no agent has yet."""

    prompt: Prompt
    deployment: str | None = None
    """The one that was asked for by name."""
    apart: bool = False
    """Whether all of the prompt is to be computed, whatever earlier ones have left in memory."""

    def to_json(self) -> dict[str, Any]:
        """For the registry, where it stands in the place of what agents know the sequence by."""
        values: dict[str, Any] = msgspec.to_builtins(self)
        return values

    @classmethod
    def of(cls, record: RequestRecord) -> Waiting:
        """What `to_json` gave, of a request that waits."""
        return msgspec.convert(record.sequence, cls)


def waits(record: RequestRecord) -> bool:
    """Whether no agent had the request yet when its controller ended."""
    return "prompt" in record.sequence

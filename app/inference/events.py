"""What a running request tells whoever follows it: frozen, in order, the last one Finished."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Protocol

from app.inference.chat_format import ChatFormat
from app.registry import RequestRecord
from worker_agent.wire.messages import StageTime


@dataclass(frozen=True, slots=True)
class Preparing:
    """Something has to be done before the prompt can run: `what` is a sentence (a model is being loaded)."""

    what: str


@dataclass(frozen=True, slots=True)
class Started:
    """The sequence is with the agents."""

    request_id: int
    prompt_tokens: int
    format: ChatFormat | None = None
    """How the answer is written, if it is a chat's."""


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A stage was lost, or a connection: the answer pauses. `what` is a sentence."""

    what: str


@dataclass(frozen=True, slots=True)
class Continued:
    """The answer goes on after an interruption. `what` tells what happened, what was done and how long it took."""

    what: str
    exact: bool
    """Whether its tokens are those that would have come anyway."""
    seconds: float
    """How long it paused."""


@dataclass(frozen=True, slots=True)
class PromptProgress:
    """So many of the prompt's tokens are in the caches of all stages."""

    done: int
    total: int


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next text to show: whole characters, and nothing that a stop string may still take back.

    Of a chat it has the marks of thinking and of calls in it, which the `format` of Started tells how to read.

    `tokens` counts the answer's tokens so far.
    """

    text: str
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class Finished:
    """The last event: the request as the registry keeps it, completed, failed or cancelled."""

    record: RequestRecord


RequestEvent = Preparing | Started | PromptProgress | Interrupted | Continued | TextDelta | Finished


@dataclass(frozen=True, slots=True)
class StepPassed:
    """A step has gone through all stages of a deployment: for those who watch the pipeline, not one request."""

    deployment: str
    tokens: int
    """How many tokens it sampled."""
    prefilled: int
    """Of how many prompts it took another chunk."""
    times: tuple[StageTime, ...]
    """Where its time went, by stage."""


class RunningRequest(Protocol):
    """A request under way, as those who show it see it."""

    def __aiter__(self) -> AsyncIterator[RequestEvent]: ...

    async def cancel(self) -> None:
        """End it. Its last event still comes."""

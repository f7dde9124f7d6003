"""The way of every generating call: begin its requests, then stream what they tell, or wait and answer once.

A client that hangs up ends its requests in either case. Until the agents have them, a failure is told by the status;
a stream that has waited `STATUS_SECONDS` for that begins, and tells it as an event.
"""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence

from fastapi import Request
from fastapi.responses import Response
from pydantic import BaseModel

from app.api.openai.answers import FinishReason
from app.api.openai.errors import NO_RETRY, ApiError
from app.api.openai.event_stream import ALIVE, DONE, EventStream, event
from app.api.openai.hangup import ClientGone, Hangup
from app.api.openai.run_group import ALIVE_SECONDS, RunGroup
from app.inference.events import Finished, TextDelta
from app.inference.request_run import RequestRun

log = logging.getLogger(__name__)

STATUS_SECONDS = 10.0
CLIENT_GONE = 499
"""nginx's number; nobody reads it but the log."""


class AnswerForm(ABC):
    """What a call's requests tell, in the form of one endpoint."""

    @abstractmethod
    async def open(self, group: RunGroup) -> Iterable[BaseModel]:
        """The agents have the requests: the first chunks."""

    @abstractmethod
    def told(self, index: int, event: TextDelta | Finished) -> Iterable[BaseModel]:
        """What request `index` tells, as chunks."""

    @abstractmethod
    def closing(self) -> Iterable[BaseModel]:
        """All requests are over: the last chunks."""

    @abstractmethod
    async def whole(self, group: RunGroup) -> BaseModel:
        """The answer in one, once all requests are over."""


async def respond(
    request: Request, starts: Sequence[Callable[[], Awaitable[RequestRun]]], form: AnswerForm, *, stream: bool
) -> Response:
    """Raises ApiError, and what the starts raise."""
    hangup = Hangup(request.receive)
    group: RunGroup | None = None
    answer: Response | None = None
    try:
        group = await RunGroup.begin(starts)
        headers = {"x-request-id": str(group.runs[0].id)}
        if stream:
            await hangup.unless(group.started(STATUS_SECONDS))
            answer = EventStream(_events(group, form), hangup, group.close, headers)
            return answer
        await hangup.unless(group.finished())
        content = (await form.whole(group)).model_dump_json(exclude_unset=True)
        return Response(content, media_type="application/json", headers=headers)
    except ClientGone:
        return Response(status_code=CLIENT_GONE)
    finally:
        if answer is None:
            hangup.close()
            if group is not None:
                await asyncio.shield(group.close())


async def _events(group: RunGroup, form: AnswerForm) -> AsyncGenerator[bytes]:
    """The body of a stream. A failure is its last event: a stream that just ended would look like a whole answer."""
    try:
        while not await group.started(ALIVE_SECONDS):
            yield ALIVE
        for chunk in await form.open(group):
            yield event(chunk)
        async for told in group.events():
            if told is None:
                yield ALIVE
                continue
            for chunk in form.told(*told):
                yield event(chunk)
        for chunk in form.closing():
            yield event(chunk)
        yield DONE
    except ApiError as error:
        yield event(error.answer)
    except Exception:  # a bug of ours: whoever reads the stream must still learn that it broke
        log.exception("a stream failed")
        sentence = "The server failed in the middle of the answer. This is a bug; see its log."
        yield event(ApiError(500, sentence, type="server_error", headers=NO_RETRY).answer)


def fingerprint(run: RequestRun) -> str | None:
    """What computed the answer: equal where model files, layer ranges and dtype are."""
    facts = run.recorder.facts
    return None if facts is None else f"fp_{facts.plan.plan_hash[:12]}"


def finish_reason(run: RequestRun) -> FinishReason:
    return "length" if run.record.finish_reason == "length" else "stop"

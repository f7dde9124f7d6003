"""Writes one response: what it is at the moment, and the events that tell how it came to be.

The events follow from the answer's tokens and from nothing else: its text is cut where its tokens end, whatever came
together, so that each has the same number whenever and by whomever it is told. That is what a client can rely on that
goes on behind the last event it had, also where another controller has finished the answer, or it was over long ago.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from app.api.openai.answers import TokenLogprobs
from app.api.openai.chat_answer import Answering, ChatAnswer
from app.api.openai.logprobs import TokenNames, token_logprobs
from app.api.openai.responses.answers import (
    Event,
    IncompleteDetails,
    InputTokensDetails,
    ItemStatus,
    OutputTokensDetails,
    ResponseError,
    ResponseEvent,
    ResponseObject,
    ResponseUsage,
    Status,
)
from app.api.openai.responses.bodies import ResponseBody
from app.api.openai.responses.item_writer import ItemWriter
from app.api.openai.responses.kept import Asked
from app.api.openai.tools import CallIds, ToolUse
from app.inference.tokenizer import Tokenizer
from app.registry import RequestStatus


class ResponseWriter:
    """Of one response; one for each who reads it.

    Args:
        asked: what the response is to.
        run: the request that answers it.
        use: the tools that it may call.
    """

    def __init__(self, asked: Asked, run: Answering, tokenizer: Tokenizer, use: ToolUse | None) -> None:
        self._asked, self._run, self._tokenizer, self._use = asked, run, tokenizer, use
        self._names = TokenNames(tokenizer)
        self._items = ItemWriter(asked.id, CallIds.of(use, asked.id))
        self._answer: ChatAnswer | None = None
        self._logprobs: list[TokenLogprobs] = []
        """Of tokens whose text is held back."""
        self._count = 0
        self.is_over = False
        """The last event was told."""

    @property
    def body(self) -> ResponseBody:
        """What was asked."""
        return self._asked.body

    def new_events(self) -> list[Event]:
        """What has happened since this was called last, numbered."""
        if self.is_over:
            return []
        events = []
        for event in self._advance():
            event.sequence_number = self._count
            self._count += 1
            events.append(event)
        return events

    def response(self) -> ResponseObject:
        """The response as it is now."""
        self.new_events()
        return self._response(self._status)

    # --- what has come ---

    def _advance(self) -> Iterator[Event]:
        if not self._count:
            yield from self._beginning()
        over = self._run.is_over  # before the text is looked at: it may grow until then
        yield from self._read(over=over)
        if over:
            self.is_over = True
            yield from self._items.end(self._last_item_status, empty=self._status in ("completed", "incomplete"))
            yield self._end_event()

    def _beginning(self) -> Iterator[Event]:
        first: Status = "queued" if self._asked.body.background else "in_progress"
        yield ResponseEvent(type="response.created", sequence_number=0, response=self._response(first))
        if self._asked.body.background:
            yield ResponseEvent(type="response.queued", sequence_number=0, response=self._response("queued"))
        yield ResponseEvent(type="response.in_progress", sequence_number=0, response=self._response("in_progress"))

    def _read(self, *, over: bool) -> Iterator[Event]:
        """The text that has come, cut where its tokens end."""
        run, format = self._run, self._run.format
        if self._answer is None and format is not None:
            skips_special = self._asked.body.skip_special_tokens is not False
            self._answer = ChatAnswer(run, format, self._tokenizer, self._use, skips_special=skips_special)
        answer = self._answer
        if answer is None:
            return
        text = run.text
        for end in answer.ends_within(len(text)):
            yield from self._take(answer, text[answer.length : end])
        if over:
            if rest := text[answer.length :]:
                yield from self._take(answer, rest)
            for part in answer.finish():
                yield from self._items.take(part, self._taken(answer) if isinstance(part, str) else ())

    def _take(self, answer: ChatAnswer, text: str) -> Iterator[Event]:
        for part in answer.feed(text):
            yield from self._items.take(part, self._taken(answer) if isinstance(part, str) else ())
        self._logprobs = self._taken(answer)
        if self._items.in_other_than_text:
            self._logprobs = []  # of thinking and of calls none are told

    def _taken(self, answer: ChatAnswer) -> list[TokenLogprobs]:
        """The log probabilities that are to be told with the next text."""
        if not self._asked.body.wants_logprobs:
            return []
        new = token_logprobs(self._names, answer.new_logprobs(), self._asked.body.top_logprobs or 0)
        taken, self._logprobs = [*self._logprobs, *new], []
        return taken

    # --- how it stands ---

    @property
    def _status(self) -> Status:
        record = self._run.record
        match record.status:
            case RequestStatus.COMPLETED:
                return "incomplete" if record.finish_reason == "length" else "completed"
            case RequestStatus.FAILED:
                return "failed"
            case RequestStatus.CANCELLED:
                return "cancelled"
            case RequestStatus.PENDING if self._asked.body.background:
                return "queued"
            case _:
                return "in_progress"

    @property
    def _last_item_status(self) -> ItemStatus:
        return "completed" if self._status == "completed" else "incomplete"

    def _end_event(self) -> Event:
        status = self._status
        response = self._response(status)
        if status == "completed":
            return ResponseEvent(type="response.completed", sequence_number=0, response=response)
        if status == "failed":
            return ResponseEvent(type="response.failed", sequence_number=0, response=response)
        # The API has no event for one that was cancelled; its status says it.
        return ResponseEvent(type="response.incomplete", sequence_number=0, response=response)

    def _response(self, status: Status) -> ResponseObject:
        """The response in this state."""
        asked, record = self._asked, self._run.record
        over = status not in ("queued", "in_progress")
        completed_at = record.completed_at if over else None
        return ResponseObject(
            id=asked.id,
            object="response",
            created_at=int(record.created_at.timestamp()),
            status=status,
            completed_at=None if completed_at is None else int(completed_at.timestamp()),
            error=ResponseError(code="server_error", message=str(record.error)) if status == "failed" else None,
            incomplete_details=IncompleteDetails(reason="max_output_tokens") if status == "incomplete" else None,
            output=[item.model_copy(deep=True) for item in self._items.items],
            temperature=_number(record.parameters.get("temperature")),
            top_p=_number(record.parameters.get("top_p")),
            usage=self._usage() if over else None,
            model=record.model_name,
            **asked.settings(),
        )

    def _usage(self) -> ResponseUsage:
        prompt, answer = self._run.record.prompt_tokens, len(self._run.token_ids)
        thought = None if self._answer is None else self._answer.reasoning_tokens()
        return ResponseUsage(
            input_tokens=prompt,
            input_tokens_details=InputTokensDetails(cached_tokens=self._run.cached_tokens),
            output_tokens=answer,
            output_tokens_details=OutputTokensDetails(reasoning_tokens=thought or 0),
            total_tokens=prompt + answer,
        )


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None

"""An answer under way: takes a request's events, keeps text and figures, and says which phase it is in."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from PySide6.QtCore import QElapsedTimer, QObject, Signal, Slot

from app.errors import ShardboardError
from app.figures import duration
from app.inference.chat_format import AnswerReader, ChatFormat, divided
from app.inference.events import (
    Continued,
    Finished,
    Interrupted,
    Preparing,
    PromptProgress,
    RequestEvent,
    Started,
    TextDelta,
)
from app.registry.records import RequestRecord, RequestStatus
from app.ui.bridge import RequestStream
from app.ui.chat.conversation import Conversation, Figures, Message, Outcome, Problem
from app.ui.notices import details_of


class Phase(StrEnum):
    WAITING = "waiting"
    PREPARING = "preparing"
    """Something has to be loaded first, or again: a stage was lost."""
    PROMPT = "prompt"
    """The prompt goes through the model."""
    STREAMING = "streaming"
    OVER = "over"


@dataclass(frozen=True)
class Progress:
    """How far an answer is, for those who show it."""

    phase: Phase
    what: str
    """What is being prepared."""
    prompt_done: int
    prompt_total: int
    figures: Figures
    elapsed: float
    """Seconds since it was asked for."""


class Answer(QObject):
    """Follows one request into one message. The message is complete before a signal tells of it."""

    moved = Signal(object)
    """Itself: the phase or the prompt's progress is another."""
    text_added = Signal(object, str)
    """Itself and the text of a batch, empty when it brought thinking alone: at most 30 times a second."""
    ended = Signal(object)
    """Itself; nothing comes after it."""

    def __init__(self, conversation: Conversation, message: Message, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.conversation, self.message = conversation, message
        self.phase = Phase.WAITING
        self.stream: RequestStream | None = None
        self.is_stopping = False
        self._interruptions: list[str] = []
        self._what = ""
        self._prompt = (0, 0)
        self._tokens = 0
        self._first_token = 0.0
        self._kept = len(message.text)
        self._format: ChatFormat | None = None
        self._reader: AnswerReader | None = None
        self._clock = QElapsedTimer()
        self._clock.start()

    def follow(self, stream: RequestStream) -> None:
        """Take this request's events."""
        self.stream = stream
        stream.submitted.connect(self._on_submitted)
        stream.events.connect(self.take)
        stream.failed.connect(self.refuse)

    def stop(self) -> None:
        """Ask it to end; `ended` comes when it has."""
        if self.stream is not None and not self.stream.is_over:
            self.is_stopping = True
            self.stream.cancel()
            self.moved.emit(self)

    @property
    def progress(self) -> Progress:
        elapsed = self._clock.elapsed() / 1000
        done, total = self._prompt
        return Progress(self.phase, self._what, done, total, self._figures(elapsed), elapsed)

    def _figures(self, elapsed: float) -> Figures:
        decoding = elapsed - self._first_token
        known = self._tokens > 1 and decoding > 0
        return Figures(
            tokens=self._tokens,
            interruptions=tuple(self._interruptions),
            tokens_per_second=(self._tokens - 1) / decoding if known else None,
            first_token=self._first_token if self._tokens else None,
            total=elapsed,
        )

    @Slot(int)
    def _on_submitted(self, request_id: int) -> None:
        self.message.request_id = request_id

    @Slot(object)
    def take(self, events: Iterable[RequestEvent]) -> None:
        """What the request told since the last time, in order."""
        before = (self.phase, self._what, self._prompt)
        added: list[str] = []
        record: RequestRecord | None = None
        for event in events:
            match event:
                case Preparing(what):
                    self.phase, self._what = Phase.PREPARING, what
                case Started(request_id, prompt_tokens, format):
                    self.phase, self._prompt = Phase.PROMPT, (0, prompt_tokens)
                    self._format, self._reader = format, None if format is None else format.reader()
                    self.message.request_id = request_id
                case PromptProgress(done, total):
                    self._prompt = (done, total)
                    if self.phase is not Phase.STREAMING:
                        self.phase = Phase.PROMPT
                case Interrupted(what):
                    self.phase, self._what = Phase.PREPARING, what
                case Continued(_, exact, seconds):  # all of it is told by the run
                    self._interruptions.append(f"interrupted {duration(seconds)}, {'' if exact else 'not bit-'}exact")
                    self.phase = Phase.STREAMING if self._tokens else Phase.PROMPT
                case TextDelta(text, tokens):
                    if not self._tokens:
                        self._first_token = self._clock.elapsed() / 1000
                    self._tokens = max(self._tokens, tokens, 1)
                    self.phase = Phase.STREAMING
                    added.append(text)
                case Finished(record):
                    pass
        text = "".join(added)
        thinking, text = ("", text) if self._reader is None else divided(self._reader.feed(text))
        self.message.text += text
        self.message.thinking += thinking
        if text or thinking:
            self.text_added.emit(self, text)
        if record is not None:
            self._finish(record)
        elif before != (self.phase, self._what, self._prompt):
            self.moved.emit(self)

    def _finish(self, record: RequestRecord) -> None:
        message = self.message
        # The record is what is true: a text that was cut by a stop string, or whose batches never came, is mended.
        result = record.result
        if self._format is not None:
            reader = self._format.reader()
            message.thinking, result = divided([*reader.feed(result), *reader.finish()])
        if result != message.text[self._kept :]:
            message.text = message.text[: self._kept] + result
        message.request_id = record.id
        message.figures = Figures(
            tokens=record.completion_tokens,
            tokens_per_second=record.timings.get("tokens_per_second"),
            first_token=record.timings.get("first_token"),
            total=record.timings.get("total"),
            interruptions=tuple(self._interruptions),
        )
        match record.status:
            case RequestStatus.COMPLETED:
                message.outcome = Outcome.COMPLETE
            case RequestStatus.CANCELLED:
                message.outcome = Outcome.STOPPED if self.is_stopping else Outcome.INTERRUPTED
            case _:
                message.outcome = Outcome.FAILED
                message.problem = Problem(message=record.error or "The request failed.", details=_details(record))
        self._end()

    @Slot(object)
    def refuse(self, error: ShardboardError) -> None:
        """The request could not even begin."""
        self.message.outcome = Outcome.FAILED
        details = details_of("The request could not begin.", error)
        self.message.problem = Problem(message=error.message, advice=error.advice, details=details)
        self._end()

    def _end(self) -> None:
        self.phase = Phase.OVER
        self.ended.emit(self)


def _details(record: RequestRecord) -> str:
    return "\n".join((
        f"request: {record.id}", f"model: {record.model_name}", f"deployment: {record.deployment_id or 'none'}",
        f"error: {record.error}", f"prompt tokens: {record.prompt_tokens}", f"tokens: {record.completion_tokens}",
        f"asked: {record.created_at.isoformat()}",
    ))  # fmt: skip

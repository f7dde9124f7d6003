"""A conversation as it is kept: its messages, its model and its parameters, as JSON in one file each.

Pure data, without Qt. What a message shows of itself (where it failed, how fast it was) is stored with it, so that a
conversation looks the same after a restart, also when the registry has forgotten the request.
"""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from app.errors import BadInput
from app.inference.parameters import GenerationParameters
from app.inference.prompt import ChatPrompt, Prompt, TextPrompt

VERSION = 1
UNTITLED = "New chat"
TITLE_LENGTH = 48

Kind = TypeVar("Kind", bound="Summary")


class Role(StrEnum):
    USER = "user"
    ASSISTANT = "assistant"


class Outcome(StrEnum):
    """What became of a message."""

    STREAMING = "streaming"
    COMPLETE = "complete"
    STOPPED = "stopped"
    """By the user."""
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    """The program ended while it was written."""


class Options(msgspec.Struct, kw_only=True):
    """How a conversation's answers are asked for: like GenerationParameters, but without a seed it stays without.

    What is unset is as the model has it.
    """

    raw: bool = False
    """Continue a text instead of answering with the model's chat template."""
    system: str = ""
    temperature: float | UnsetType = UNSET
    top_p: float | UnsetType = UNSET
    top_k: int | UnsetType = UNSET
    min_p: float | UnsetType = UNSET
    repetition_penalty: float | UnsetType = UNSET
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    max_tokens: int | UnsetType | None = UNSET
    """None: as many as the context holds."""
    seed: int | None = None
    stop: tuple[str, ...] | UnsetType = UNSET
    chat_template_kwargs: dict[str, Any] = {}

    def parameters(self) -> GenerationParameters:
        """What a request takes. Raises RequestError that names the parameter which cannot be used."""
        return GenerationParameters(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            presence_penalty=self.presence_penalty,
            frequency_penalty=self.frequency_penalty,
            max_tokens=self.max_tokens,
            seed=self.seed,
            stop=self.stop,
            chat_template_kwargs={} if self.raw else self.chat_template_kwargs,
        )


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """How an answer went. Seconds; None for what nobody measured."""

    tokens: int = 0
    tokens_per_second: float | None = None
    first_token: float | None = None
    total: float | None = None
    interruptions: tuple[str, ...] = ()
    """Each time that a stage was lost and the answer went on: for how long it paused, whether it is exact."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Why an answer failed: what and where, what to do, and all that is known, to copy."""

    message: str
    advice: str = ""
    details: str = ""


class Message(msgspec.Struct, kw_only=True):
    """What one side said."""

    role: Role
    text: str = ""
    thinking: str = ""
    """What the model thought before it answered."""
    id: str = msgspec.field(default_factory=lambda: uuid.uuid4().hex[:12])
    at: datetime = msgspec.field(default_factory=lambda: datetime.now(UTC))
    raw: bool = False
    """A text to continue, or its continuation."""
    model: str = ""
    """Who answers."""
    outcome: Outcome = Outcome.COMPLETE
    problem: Problem | None = None
    request_id: int | None = None
    figures: Figures | None = None

    @property
    def is_answer(self) -> bool:
        return self.role is Role.ASSISTANT

    @property
    def is_over(self) -> bool:
        return self.outcome is not Outcome.STREAMING


class Summary(msgspec.Struct, kw_only=True):
    """What the list of conversations shows; read from the same files, whose messages are passed over."""

    id: str
    title: str = UNTITLED
    model: str = ""
    updated_at: datetime


class Conversation(Summary, kw_only=True):
    """Questions and answers with one model at a time, oldest first."""

    id: str = msgspec.field(default_factory=lambda: uuid.uuid4().hex)
    updated_at: datetime = msgspec.field(default_factory=lambda: datetime.now(UTC))
    version: int = VERSION
    created_at: datetime = msgspec.field(default_factory=lambda: datetime.now(UTC))
    options: Options = msgspec.field(default_factory=Options)
    messages: list[Message] = msgspec.field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not self.messages

    @property
    def last_answer(self) -> Message | None:
        return next((message for message in reversed(self.messages) if message.is_answer), None)

    def question_of(self, answer: Message) -> Message | None:
        """What an answer answers."""
        position = next((n for n, message in enumerate(self.messages) if message.id == answer.id), 0)
        return next((message for message in reversed(self.messages[:position]) if not message.is_answer), None)

    def ask(self, text: str) -> Message:
        """Add a question; returns the empty answer to it. The first question names the conversation."""
        now = datetime.now(UTC)
        if self.is_empty and self.title == UNTITLED:
            self.title = title_of(text)
        self.messages.append(Message(role=Role.USER, text=text, raw=self.options.raw, at=now))
        return self.await_answer()

    def await_answer(self) -> Message:
        """Add an empty answer to the last question."""
        answer = Message(
            role=Role.ASSISTANT, model=self.model, raw=self.messages[-1].raw, outcome=Outcome.STREAMING
        )  # fmt: skip
        self.messages.append(answer)
        self.updated_at = datetime.now(UTC)
        return answer

    def prompt(self) -> Prompt:
        """What the model gets for the last answer: the text to continue, or the chat so far.

        What it thought goes along; its chat template decides what becomes of that.

        Questions that never got a word of an answer are left out, since many chat templates insist on taking turns.
        """
        if self.messages and self.messages[-1].raw:
            question = self.question_of(self.messages[-1])
            return TextPrompt((question.text if question is not None else "") + self.messages[-1].text)
        chat = [{"role": "system", "content": self.options.system}] if self.options.system.strip() else []
        spoken = [m for m in self.messages[:-1] if not m.raw]
        for message, following in zip(spoken, [*spoken[1:], None], strict=True):
            unanswered = not message.is_answer and following is not None and not following.text
            if message.text and not unanswered:
                thought = {"reasoning_content": message.thinking} if message.thinking else {}
                chat.append({"role": message.role.value, "content": message.text, **thought})
        return ChatPrompt(tuple(chat))

    def take_back(self) -> str:
        """Remove the last question with what follows it; its text."""
        while self.messages:
            message = self.messages.pop()
            if not message.is_answer:
                return message.text
        return ""


def title_of(text: str) -> str:
    """A conversation's name from its first question."""
    line = " ".join(text.split())
    return (line if len(line) <= TITLE_LENGTH else f"{line[: TITLE_LENGTH - 1].rstrip()}…") or UNTITLED


def to_json(conversation: Conversation) -> bytes:
    return msgspec.json.encode(conversation)


def from_json(content: bytes) -> Conversation:
    """Read a conversation. What was being written when the program ended is marked so. Raises BadInput."""
    conversation = _decoded(content, Conversation)
    if conversation.version > VERSION:
        raise BadInput("The conversation was written by a newer Shardboard.", "Update this one to read it.")
    for message in conversation.messages:
        if message.outcome is Outcome.STREAMING:
            message.outcome = Outcome.INTERRUPTED
    return conversation


def summary_from_json(content: bytes) -> Summary:
    """Read a conversation's title, without its messages. Raises BadInput."""
    return _decoded(content, Summary)


def _decoded(content: bytes, kind: type[Kind]) -> Kind:
    try:
        return msgspec.json.decode(content, type=kind)
    except msgspec.MsgspecError as error:
        raise BadInput(f"The conversation cannot be read: {error}.") from error
    except RecursionError as error:
        raise BadInput("The conversation cannot be read: it is nested too deeply.") from error

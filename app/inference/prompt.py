"""What a model is given to answer: a text as it is, a conversation, or token ids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

Message = Mapping[str, Any]
"""One of a conversation, as chat templates know it: its role, its content, and what else a template reads."""


class TextPrompt(Struct, frozen=True, tag="text"):
    """A text that the model goes on from, through no template."""

    text: str

    @property
    def shown(self) -> str:
        """As the registry shows it."""
        return self.text


class ChatPrompt(Struct, frozen=True, tag="chat"):
    """A conversation whose next message is wanted; the model's chat template renders it."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...] | None = None
    """JSON schemas of functions that the model may call."""

    @classmethod
    def of(cls, text: str) -> ChatPrompt:
        """A conversation that begins with this message of the user's."""
        return cls(({"role": "user", "content": text},))

    @property
    def shown(self) -> str:
        """As the registry shows it: who said what; a question alone needs no name before it."""
        if len(self.messages) == 1 and self.messages[0].get("role") == "user":
            return str(self.messages[0].get("content", ""))
        return "\n".join(f"{message.get('role', '?')}: {message.get('content', '')}" for message in self.messages)


class TokenPrompt(Struct, frozen=True, tag="tokens"):
    """Token ids that the model goes on from. Needs no tokenizer."""

    token_ids: tuple[int, ...]

    @property
    def shown(self) -> str:
        """As the registry shows it: the ids have a place of their own."""
        return ""


Prompt = TextPrompt | ChatPrompt | TokenPrompt

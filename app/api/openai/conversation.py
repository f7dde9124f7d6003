"""The messages of a chat as its template wants them: plain text, arguments of calls as objects."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

from app.api.openai.bodies import ContentPart, MadeToolCall, Message
from app.api.openai.errors import refused

_ROLES = {"developer": "system"}
"""Only the OpenAI API's newest models know the first one; templates refuse it."""


def for_template(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Raises ApiError for what is not text."""
    return [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _message(message: Message, param: str) -> dict[str, Any]:
    # Further fields stay: a template may know them (reasoning_content for one).
    values = message.model_dump(exclude_none=True, exclude={"content", "tool_calls"})
    values["role"] = _ROLES.get(message.role, message.role)
    if message.content is None and message.role != "assistant":
        raise refused(f"{param}.content is missing.", f"{param}.content", "missing_required_parameter")
    if message.content is not None:
        values["content"] = _text(message.content, f"{param}.content")
    if message.tool_calls:
        if message.role != "assistant":
            raise refused(f"{param}.tool_calls: only the assistant calls tools.", f"{param}.tool_calls")
        values["tool_calls"] = [_call(call, f"{param}.tool_calls[{i}]") for i, call in enumerate(message.tool_calls)]
    return values


def _text(content: str | list[ContentPart], param: str) -> str:
    if isinstance(content, str):
        return content
    texts = []
    for index, part in enumerate(content):
        text = part.refusal if part.type == "refusal" else part.text if part.type == "text" else None
        if text is None:
            known = part.type in ("text", "refusal")
            reason = "it has no text" if known else f"'{part.type}' cannot be read; the model reads text only"
            raise refused(f"{param}[{index}]: {reason}.", f"{param}[{index}]")
        texts.append(text)
    return "\n".join(texts)


def _call(call: MadeToolCall, param: str) -> dict[str, Any]:
    """Templates write arguments down as JSON themselves; text would become a string within it."""
    arguments = call.function.arguments
    if isinstance(arguments, str):
        # What is no JSON stays: the model wrote it so and may see it.
        with contextlib.suppress(ValueError, RecursionError):
            arguments = json.loads(arguments or "{}")
    function = {**call.function.model_dump(exclude_none=True), "arguments": arguments}
    return {"id": call.id, "type": "function", "function": function}

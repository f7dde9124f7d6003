"""The messages of a chat as its template wants them: plain text, arguments of calls as objects.

The OpenAI API's older ways, which templates do not know, become its newer ones: a `function_call` is a call of a tool,
and a message of the role `function` is that tool's.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from typing import Any

from app.api.openai.bodies import ContentPart, MadeToolCall, Message
from app.api.openai.errors import refused

_ROLES = {"developer": "system", "function": "tool"}
"""Most templates know the second ones alone."""


def for_template(messages: Sequence[Message], *, knows_developer: bool = False) -> list[dict[str, Any]]:
    """Raises ApiError for what is not text.

    Args:
        knows_developer: whether the chat template has a way to show the role `developer`, which stays then.
    """
    return [
        _message(message, f"messages[{index}]", knows_developer=knows_developer)
        for index, message in enumerate(messages)
    ]


def _message(message: Message, param: str, *, knows_developer: bool) -> dict[str, Any]:
    # Further fields stay: a template may know them (reasoning_content for one).
    values = message.model_dump(exclude_none=True, exclude={"content", "tool_calls", "function_call"})
    values["role"] = message.role if message.role == "developer" and knows_developer else _role(message)
    if message.content is None and message.role != "assistant":
        raise refused(f"{param}.content is missing.", f"{param}.content", "missing_required_parameter")
    if message.content is not None:
        values["content"] = _text(message.content, f"{param}.content")
    for field in ("tool_calls", "function_call"):
        if getattr(message, field) and message.role != "assistant":
            raise refused(f"{param}.{field}: only the assistant calls tools.", f"{param}.{field}")
    calls = [*(message.tool_calls or [])]
    if message.function_call is not None:
        calls.append(MadeToolCall(function=message.function_call))
    if calls:
        values["tool_calls"] = [_call(call) for call in calls]
    return values


def _role(message: Message) -> str:
    return _ROLES.get(message.role, message.role)


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


def _call(call: MadeToolCall) -> dict[str, Any]:
    """Templates write arguments down as JSON themselves; text would become a string within it."""
    arguments = call.function.arguments
    if isinstance(arguments, str):
        # What is no JSON stays: the model wrote it so and may see it.
        with contextlib.suppress(ValueError, RecursionError):
            arguments = json.loads(arguments or "{}")
    function = {**call.function.model_dump(exclude_none=True), "arguments": arguments}
    return {**({"id": call.id} if call.id else {}), "type": "function", "function": function}

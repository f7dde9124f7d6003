"""What a chat template does with what it is given, observed: it renders small conversations with a mark in them, and
whether the mark comes out is seen. No template is read for it, and no model known by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from app.errors import RequestError

Form = Literal["text", "parts", "nothing", "unknown"]
"""In which form a template shows a message's content: as text, as a list of parts; in neither; or it could not be
told, since the template takes none of the small conversations.
"""

Show = Callable[[Sequence[Mapping[str, Any]], Sequence[Mapping[str, Any]] | None], str]
"""Renders messages and tools; raises RequestError."""

MARK = "qzmarkedxq"
_QUESTION = {"role": "user", "content": "Hello."}
_CALL = {
    "role": "assistant",
    "tool_calls": [{"id": "abcdefghi", "type": "function", "function": {"name": "look", "arguments": {"at": "it"}}}],
}
_TOOL = {
    "type": "function",
    "function": {
        "name": MARK,
        "description": "Looks at something.",
        "parameters": {
            "type": "object",
            "properties": {"at": {"type": "string", "description": "What to look at."}},
            "required": ["at"],
        },
    },
}


def as_parts(text: str) -> list[dict[str, str]]:
    """A content as templates want it that also take pictures."""
    return [{"type": "text", "text": text}]


def content_form(show: Show, role: str) -> Form:
    """In which form the template shows what somebody of this role says."""
    rendered = False
    forms: tuple[tuple[Form, Any], ...] = (("text", MARK), ("parts", as_parts(MARK)))
    for form, content in forms:
        for conversation in _conversations(role, content):
            try:
                text = show(conversation, None)
            except RequestError:
                continue
            rendered = True
            if MARK in text.lower():
                return form
    return "nothing" if rendered else "unknown"


def shows_tools(show: Show) -> bool | None:
    """Whether the template shows the tools that there are; None where it takes none of the small conversations."""
    seen = None
    for conversation in ([_QUESTION], [{"role": "system", "content": "Be brief."}, _QUESTION]):
        try:
            text = show(conversation, [_TOOL])
        except RequestError:
            continue
        if MARK in text.lower():
            return True
        seen = False
    return seen


def _conversations(role: str, content: Any) -> list[list[dict[str, Any]]]:
    marked = {"role": role, "content": content}
    greeting = "Hi." if isinstance(content, str) else as_parts("Hi.")
    question = {"role": "user", "content": greeting}
    if role == "user":
        return [[marked], [{"role": "system", "content": greeting}, marked]]
    if role == "assistant":
        return [[question, marked, question], [question, marked]]
    if role == "tool":
        return [[question, _CALL, {**marked, "tool_call_id": "abcdefghi", "name": "look"}]]
    return [[marked, question]]

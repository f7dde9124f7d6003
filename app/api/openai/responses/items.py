"""The items of a response's input: named, told again, and made into the messages of a chat.

What one turn of the model's was made of comes as several items (thinking, text, calls); a chat has one message for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from app.api.openai.bodies import CalledFunction, ContentPart, MadeToolCall, Message
from app.api.openai.errors import refused
from app.api.openai.responses.answers import OutputItem
from app.api.openai.responses.bodies import InputItem

PREFIXES = {"message": "msg", "reasoning": "rs", "function_call": "fc", "function_call_output": "fco"}
"""How the ids of items begin, by their types."""
REFERENCE = "item_reference"
_ITEM_ID = re.compile(r"[a-z]+_([0-9a-f]{32})_\w+")


def item_id(response_id: str, type: str, place: str) -> str:
    """The id of one of a response's items, which tells whose it is."""
    return f"{PREFIXES[type]}_{response_id.removeprefix('resp_')}_{place}"


def response_of(id: str) -> str | None:
    """The response that an item is of, as its id tells; None for one that is not from here."""
    found = _ITEM_ID.fullmatch(id)
    return None if found is None else f"resp_{found[1]}"


def named(items: Iterable[InputItem], response_id: str) -> list[InputItem]:
    """The new items of a response's input, each with an id and its content in parts. Raises ApiError."""
    done = []
    for index, item in enumerate(items):
        if item.type not in PREFIXES:
            reason = f"'{item.type}' cannot be read; known are {', '.join(PREFIXES)} and {REFERENCE}"
            raise refused(f"input[{index}].type: {reason}.", f"input[{index}].type")
        content: Any = item.content
        if item.type == "message" and isinstance(content, str):
            kind = "output_text" if item.role == "assistant" else "input_text"
            content = [ContentPart(type=kind, text=content)]
        id = item.id or item_id(response_id, item.type, f"i{index}")
        done.append(item.model_copy(update={"id": id, "type": item.type, "content": content}))
    return done


def as_input(output: Iterable[OutputItem]) -> list[InputItem]:
    """What a response has answered, as the input of the next one."""
    return [InputItem.model_validate(item.model_dump(exclude_unset=True)) for item in output]


def shown(item: InputItem) -> dict[str, Any]:
    """An item as a client may read it."""
    return item.model_dump(exclude_none=True, exclude_unset=True)


@dataclass
class _Turn:
    """What the model said at once, while its items come."""

    content: str | list[ContentPart] | None = None
    thinking: str = ""
    calls: list[MadeToolCall] = field(default_factory=list)

    def message(self) -> Message:
        values: dict[str, Any] = {"role": "assistant", "content": self.content}
        if self.calls:
            values["tool_calls"] = self.calls
        elif self.content is None:
            values["content"] = ""
        if self.thinking:
            values["reasoning_content"] = self.thinking
        return Message(**values)


def as_messages(items: Sequence[InputItem], first: int = 0) -> list[Message]:
    """The conversation that these items are.

    Args:
        first: where the client's own items begin, which errors count from.

    Raises ApiError that names the item and what is wrong with it.
    """
    messages: list[Message] = []
    turn: _Turn | None = None
    called: set[str] = set()
    for index, item in enumerate(items):
        param = f"input[{index - first}]"
        if item.type == "reasoning":
            if turn is None or turn.content is not None or turn.calls:
                messages += _over(turn)
                turn = _Turn()
            turn.thinking += _thinking(item)
        elif item.type == "function_call":
            turn = turn or _Turn()
            turn.calls.append(_call(item, param))
            called.add(item.call_id or "")
        elif item.type == "message" and item.role == "assistant":
            if turn is None or turn.content is not None or turn.calls:
                messages += _over(turn)
                turn = _Turn()
            turn.content = _content(item, param)
        else:
            messages += _over(turn)
            turn = None
            messages.append(_result(item, param, called) if item.type == "function_call_output" else _said(item, param))
    return [*messages, *_over(turn)]


def _over(turn: _Turn | None) -> list[Message]:
    return [] if turn is None else [turn.message()]


def _said(item: InputItem, param: str) -> Message:
    if item.role is None:
        raise _missing(f"{param}.role")
    return Message(role=item.role, content=_content(item, param))


def _content(item: InputItem, param: str) -> list[ContentPart] | str:
    if item.content is None:
        raise _missing(f"{param}.content")
    return _texts(item.content, f"{param}.content")


def _call(item: InputItem, param: str) -> MadeToolCall:
    for name in ("call_id", "name", "arguments"):
        if getattr(item, name) is None:
            raise _missing(f"{param}.{name}")
    function = CalledFunction(name=item.name or "", arguments=item.arguments or "")
    return MadeToolCall(id=item.call_id or "", function=function)


def _result(item: InputItem, param: str, called: set[str]) -> Message:
    if item.call_id is None:
        raise _missing(f"{param}.call_id")
    if item.output is None:
        raise _missing(f"{param}.output")
    if item.call_id not in called:
        sentence = f"{param}.call_id: no function_call '{item.call_id}' comes before it; send that, too."
        raise refused(sentence, f"{param}.call_id")
    return Message(role="tool", tool_call_id=item.call_id, content=_texts(item.output, f"{param}.output"))


def _thinking(item: InputItem) -> str:
    """The thinking itself; what sums it up where there is nothing else."""
    parts = item.content if isinstance(item.content, list) and item.content else item.summary or []
    return "\n".join(part.text for part in parts if part.text)


def _texts(content: str | list[ContentPart], param: str) -> str | list[ContentPart]:
    """The same in the chat API's parts."""
    if isinstance(content, str):
        return content
    parts = []
    for index, part in enumerate(content):
        if part.type == "refusal" and part.refusal is not None:
            parts.append(ContentPart(type="refusal", refusal=part.refusal))
        elif part.type in ("input_text", "output_text", "text") and part.text is not None:
            parts.append(ContentPart(type="text", text=part.text))
        else:
            known = part.type in ("input_text", "output_text", "text", "refusal")
            reason = "it has no text" if known else f"'{part.type}' cannot be read; the model reads text only"
            raise refused(f"{param}[{index}]: {reason}.", f"{param}[{index}]")
    return parts


def _missing(param: str) -> Exception:
    return refused(f"{param} is missing.", param, "missing_required_parameter")

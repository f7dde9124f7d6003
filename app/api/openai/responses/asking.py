"""What a response asks for, as a chat: one way to build prompts, to offer tools and to choose tokens, for both APIs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app.api.openai.bodies import (
    ChatBody,
    ChosenFunction,
    ChosenTool,
    Function,
    Message,
    ResponseFormat,
    SamplingBody,
    Tool,
)
from app.api.openai.errors import ApiError, refused
from app.api.openai.responses.bodies import INCLUDABLE, ChosenFunctionTool, InputItem, ResponseBody, TextFormat
from app.api.openai.responses.items import as_messages
from app.api.openai.unknown import refuse_unknown

_OWN_WORDS = (
    ("response_format.json_schema.schema", "text.format.schema"),
    ("response_format", "text.format"),
    ("max_completion_tokens", "max_output_tokens"),
    ("reasoning_effort", "reasoning.effort"),
)
"""What a chat calls what a response calls otherwise."""


def as_chat(body: ResponseBody, items: Sequence[InputItem], first: int) -> ChatBody:
    """The chat that answers it.

    Args:
        items: all that the model is given, what was said before included.
        first: where the body's own items begin.

    Raises ApiError.
    """
    _refuse_what_is_not_there(body)
    messages = as_messages(items, first)
    if body.instructions:
        messages.insert(0, Message(role="developer", content=body.instructions))
    common = {name: getattr(body, name) for name in SamplingBody.model_fields if name in body.model_fields_set}
    return ChatBody.model_construct(
        **common,
        messages=messages,
        max_completion_tokens=body.max_output_tokens,
        tools=None if body.tools is None else [Tool(type="function", function=_function(tool)) for tool in body.tools],
        tool_choice=_choice(body.tool_choice),
        parallel_tool_calls=body.parallel_tool_calls,
        reasoning_effort=None if body.reasoning is None else body.reasoning.effort,
        response_format=None if body.text is None or body.text.format is None else _format(body.text.format),
        logprobs=body.wants_logprobs,
        top_logprobs=(body.top_logprobs or 0) if body.wants_logprobs else None,
        chat_template_kwargs=body.chat_template_kwargs,
    )


def in_own_words(error: ApiError) -> ApiError:
    """The same failure, by the names that a response has for things."""
    for theirs, own in _OWN_WORDS:
        error = error.renamed(theirs, own)
    return error


def _choice(choice: str | ChosenFunctionTool | None) -> str | ChosenTool | None:
    if not isinstance(choice, ChosenFunctionTool):
        return choice
    return ChosenTool(type="function", function=ChosenFunction(name=choice.name))


def _function(tool: Function) -> Function:
    return Function.model_validate(tool.model_dump(exclude_unset=True, exclude={"type"}))


def _format(wanted: TextFormat) -> ResponseFormat:
    values: dict[str, Any] = {"type": wanted.type}
    if wanted.type == "json_schema":
        values["json_schema"] = {"name": wanted.name or "", "schema": wanted.schema_, "strict": wanted.strict}
    return ResponseFormat.model_validate(values)


def _refuse_what_is_not_there(body: ResponseBody) -> None:
    refuse_unknown(body)
    for name, instead in (
        ("conversation", "Use previous_response_id, or send the conversation as the input."),
        ("prompt", "Prompts are not kept here; send the text as the input."),
    ):
        if getattr(body, name) is not None:
            raise refused(f"{name} is not supported. {instead}", name)
    if body.truncation == "auto":
        raise refused("truncation: nothing is cut out of a conversation here; shorten the input.", "truncation")
    for name in body.include or []:
        if name not in INCLUDABLE:
            raise refused(f"include: '{name}' is not supported; known are {', '.join(sorted(INCLUDABLE))}.", "include")
    if body.top_logprobs and not body.wants_logprobs:
        raise refused("top_logprobs needs message.output_text.logprobs in include.", "top_logprobs")
    if body.reasoning is not None:
        for name in ("summary", "generate_summary"):
            if getattr(body.reasoning, name) not in (None, "auto"):
                sentence = f"reasoning.{name}: thinking is not summed up; it is told as it is. Leave it out, or auto."
                raise refused(sentence, f"reasoning.{name}")
        _refuse_further("reasoning", body.reasoning.model_extra, {"context": "auto", "mode": "standard"})
    if body.text is not None:
        _refuse_further("text", body.text.model_extra, {"verbosity": "medium"})
        if body.text.format is not None:
            _refuse_further("text.format", body.text.format.model_extra, {})
            if body.text.format.schema_ is not None and body.text.format.type != "json_schema":
                sentence = f"text.format.schema belongs to the type json_schema, not to {body.text.format.type}."
                raise refused(sentence, "text.format.schema")


def _refuse_further(where: str, extra: dict[str, Any] | None, usual: dict[str, Any]) -> None:
    for name, value in (extra or {}).items():
        if value is not None and value != usual.get(name):
            param = f"{where}.{name[:100]}"
            raise refused(f"{param} is not supported; leave it out.", param)

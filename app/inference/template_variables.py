"""What a request may give to a chat template besides the conversation: `enable_thinking` for one."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from app.errors import RequestError
from app.models.tokenizer_reading import NAMED_TOKENS

MAX_VARIABLES = 64
MAX_NAME = 64
MAX_CHARACTERS = 200_000
"""Of all of them, written as JSON: enough for documents."""
MAX_DEPTH = 16
OUR_OWN = frozenset(
    {
        "messages", "tools", "add_generation_prompt", "continue_final_message", "chat_template", "conversation",
        "tokenize", "return_dict", "return_tensors", "return_assistant_tokens_mask", "tokenizer_kwargs", "padding",
        "truncation", "max_length", "raise_exception", "strftime_now", "namespace", "dict", "range", "cycler", "joiner",
        "self", "loop", "caller", "super", "varargs", "kwargs", *NAMED_TOKENS,
    }
)  # fmt: skip
"""What the template gets from the conversation, the model or us."""
THINKING_SWITCHES = ("enable_thinking", "thinking")
"""The names under which templates read whether the model is to think."""


def check_variables(variables: Mapping[str, Any]) -> None:
    """Raises RequestError that names the one that cannot be given."""
    if len(variables) > MAX_VARIABLES:
        raise RequestError(
            f"chat_template_kwargs holds {len(variables)} variables; allowed are at most {MAX_VARIABLES}.",
            "Leave out what the template does not read.",
        )
    for name, value in variables.items():
        if not isinstance(name, str) or not name.isidentifier() or name.startswith("_") or len(name) > MAX_NAME:
            raise RequestError(
                f"chat_template_kwargs names {str(name)[:80]!r}, which is no name of a template's variable.",
                f"Give names of up to {MAX_NAME} letters, digits and underscores that begin with a letter.",
            )
        if name in OUR_OWN:
            raise RequestError(
                f"chat_template_kwargs.{name} cannot be given: the template gets it from the request or the model.",
                "Leave it out.",
            )
        if not _is_json(value, MAX_DEPTH):
            raise RequestError(
                f"chat_template_kwargs.{name} holds something else than JSON, or is nested more than {MAX_DEPTH} deep.",
                "Give texts, finite numbers, true, false, null, lists and objects.",
            )
    if len(json.dumps(variables, ensure_ascii=False)) > MAX_CHARACTERS:
        raise RequestError(
            f"chat_template_kwargs takes more than {MAX_CHARACTERS:,} characters.", "Put long texts into a message."
        )


def refuse_unread(variables: Iterable[str], read: frozenset[str]) -> None:
    """Raises RequestError that names the first one that a template does not read: it would change nothing."""
    for name in variables:
        if name not in read:
            known = ", ".join(sorted(read - OUR_OWN))
            raise RequestError(
                f"chat_template_kwargs.{name} has no effect: the model's chat template does not read it"
                f"{f'; it reads {known}' if known else ', nor any other variable'}.",
                "Leave it out.",
            )


def with_effort(variables: Mapping[str, Any], effort: str | None, read: frozenset[str], thinks: bool) -> dict[str, Any]:
    """The variables with OpenAI's `reasoning_effort` among them, as far as a template can follow it.

    A template that knows efforts gets it as it is. One that only has a switch gets false for `none`, else true. A
    model that does not think does as `none` says.

    Raises RequestError when the template knows neither.
    """
    if effort is None or "reasoning_effort" in variables:
        return dict(variables)
    if "reasoning_effort" in read:
        return {**variables, "reasoning_effort": effort}
    switch = next((name for name in THINKING_SWITCHES if name in read), None)
    if switch is not None:
        return {switch: effort != "none", **variables}
    if effort == "none" and not thinks:
        return dict(variables)
    raise RequestError(
        f"reasoning_effort is {effort!r}, and the model's chat template knows no way to say so.", "Leave it out."
    )


def _is_json(value: Any, depth: int) -> bool:
    if value is None or isinstance(value, bool | int | str):
        return not isinstance(value, str) or _is_text(value)
    if isinstance(value, float):
        return math.isfinite(value)
    if not depth:
        return False
    if isinstance(value, Mapping):
        return all(isinstance(key, str) and _is_text(key) and _is_json(item, depth - 1) for key, item in value.items())
    return isinstance(value, list | tuple) and all(_is_json(item, depth - 1) for item in value)


def _is_text(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # half a character, which JSON can spell
        return False
    return True

"""The tools that a chat offers: which of them the model may or must call, and how it writes that."""

from __future__ import annotations

import hashlib
import json
import string
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from app.api.openai.bodies import ChatBody, ChosenTool
from app.api.openai.errors import refused
from app.api.openai.wanted_form import form_param
from app.errors import RequestError
from app.inference.chat_format import AnswerReader, ChatFormat, tools_by_name
from app.inference.chat_template import ChatTemplate
from app.inference.tool_calls import ToolDialect

if TYPE_CHECKING:
    from app.inference.constraint import Constraint

_UNCONSTRAINED = (ToolDialect.DEEPSEEK, ToolDialect.KIMI, ToolDialect.HARMONY)
_LETTERS = string.ascii_letters + string.digits
NO_PARAMETERS = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True)
class ToolUse:
    """What a chat lets its model call."""

    dialect: ToolDialect
    """How the answer writes calls. Held to them, it writes JSON where its own way has marks that no grammar makes."""
    tools: tuple[dict[str, Any], ...]
    """As the client described them, for the template."""
    most: int | None
    constraint: Constraint | None
    """Holds the model to calling, where it must."""

    @classmethod
    def of(cls, body: ChatBody, template: ChatTemplate) -> ToolUse | None:
        """None when nothing may be called. Raises ApiError."""
        choice = body.tool_choice
        if not body.tools or choice == "none":
            if choice not in (None, "none", "auto"):
                raise refused("tool_choice needs tools to choose from.", "tool_choice")
            return None
        if (param := form_param(body)) is not None:
            sentence = "Tools cannot be called in an answer that must have another form; ask for one of the two."
            raise refused(sentence, param)
        if not template.knows_tools:
            sentence = f"The chat template of {body.model} knows no tools: the model was not trained to call them."
            raise refused(sentence, "tools")
        tools = tuple(tool.model_dump(exclude_unset=True) for tool in body.tools)
        wanted = [tool["function"] for tool in tools]
        if isinstance(choice, ChosenTool):
            wanted = [function for function in wanted if function["name"] == choice.function.name]
            if not wanted:
                raise refused(f"tool_choice names '{choice.function.name}', which is not in tools.", "tool_choice")
        dialect = ToolDialect.of(template.words(with_tools=True))
        single = isinstance(choice, ChosenTool) or body.parallel_tool_calls is False
        forced = isinstance(choice, ChosenTool) or choice == "required"
        if forced and dialect in _UNCONSTRAINED:
            dialect = ToolDialect.PLAIN
        return cls(dialect, tools, 1 if single else None, calls_only(dialect, wanted, single) if forced else None)

    def reader(self, format: ChatFormat) -> AnswerReader:
        """What divides an answer that is written so."""
        return replace(format, dialect=self.dialect).reader(tools_by_name(self.tools), self.most)


@dataclass(frozen=True)
class CallIds:
    """The ids of one answer's calls: the same each time that they are told of the same answer."""

    dialect: ToolDialect
    answer: str
    """What no other answer has."""

    @classmethod
    def of(cls, use: ToolUse | None, answer: str) -> CallIds:
        return cls(ToolDialect.PLAIN if use is None else use.dialect, answer)

    def id(self, name: str, number: int) -> str:
        """Of call number `number`. Mistral's templates want nine letters or digits, Kimi's the name."""
        if self.dialect is ToolDialect.KIMI:
            return f"functions.{name}:{number}"
        digest = hashlib.sha256(f"{self.answer} {number}".encode()).digest()
        letters = "".join(_LETTERS[byte % len(_LETTERS)] for byte in digest)
        return letters[:9] if self.dialect is ToolDialect.MISTRAL else f"call_{letters[:24]}"


def calls_only(dialect: ToolDialect, functions: Sequence[dict[str, Any]], single: bool) -> Constraint:
    """Holds an answer to one or more calls of these, in the way that the model writes them. Raises ApiError."""
    from app.inference.constraint import Constraint

    key = "parameters" if dialect is ToolDialect.LLAMA else "arguments"
    # Each tool's schema has a place of its own, to which what it refers to within itself is moved along.
    definitions = {
        f"tool{index}": _moved(function.get("parameters") or NO_PARAMETERS, f"#/$defs/tool{index}")
        for index, function in enumerate(functions)
    }
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": function["name"]}, key: {"$ref": f"#/$defs/tool{index}"}},
            "required": ["name", key],
            "additionalProperties": False,
        }
        for index, function in enumerate(functions)
    ]
    call: dict[str, Any] = calls[0] if len(calls) == 1 else {"anyOf": calls}
    if dialect is ToolDialect.MISTRAL:
        call = {"type": "array", "items": call, "minItems": 1, **({"maxItems": 1} if single else {})}
    schema = json.dumps({**call, "$defs": definitions})
    try:
        if dialect is not ToolDialect.TAGGED:
            return Constraint("json_schema", schema)
        several = "call" if single else 'call ("\\n" call)*'
        return Constraint(
            "lark", f'start: {several}\ncall: "<tool_call>\\n" body "\\n</tool_call>"\nbody: %json {schema}\n'
        )
    except RequestError as error:
        raise refused(str(error), "tools") from error


def _moved(schema: Any, place: str) -> Any:
    """A schema whose references to parts of itself hold at another place."""
    if isinstance(schema, list):
        return [_moved(item, place) for item in schema]
    if not isinstance(schema, dict):
        return schema
    moved = {key: _moved(value, place) for key, value in schema.items()}
    reference = schema.get("$ref")
    if isinstance(reference, str) and reference.startswith("#"):
        moved["$ref"] = place + reference.removeprefix("#")
    return moved

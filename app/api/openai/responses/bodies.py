"""What clients send to `/v1/responses`, field by field as the OpenAI API has it, and vLLM's further ones."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from app.api.openai.bodies import (
    MAX_CHAT_LOGPROBS,
    MAX_TOOLS,
    ContentPart,
    Function,
    Further,
    Known,
    SamplingBody,
    check_text,
)
from app.inference.parameters import MAX_TOKENS

MAX_METADATA = 16
MAX_INCLUDED = 20
LOGPROBS = "message.output_text.logprobs"
INCLUDABLE = frozenset(
    {
        LOGPROBS, "reasoning.encrypted_content", "file_search_call.results", "web_search_call.results",
        "web_search_call.action.sources", "message.input_image.image_url", "computer_call_output.output.image_url",
        "code_interpreter_call.outputs",
    }
)  # fmt: skip
"""What may be asked for besides. All but the first is of what no model here makes, or comes anyway: thinking is told in
plain text, and may be sent back so."""


class InputItem(Further):
    """One of what the model is given: said, thought, called, or called back. Which, and what that needs, is looked at
    where it becomes a message."""

    type: str = Field("message", max_length=100)
    id: str | None = Field(None, max_length=200)
    role: Literal["user", "assistant", "system", "developer"] | None = None
    content: str | list[ContentPart] | None = None
    """Of a message, or of thinking."""
    summary: list[ContentPart] | None = None
    call_id: str | None = Field(None, max_length=200)
    name: str | None = None
    arguments: str | None = None
    output: str | list[ContentPart] | None = None
    status: str | None = None


class FunctionTool(Function):
    """A function, without the chat API's wrapping."""

    type: Literal["function"]

    @model_validator(mode="before")
    @classmethod
    def _check_type(cls, value: Any) -> Any:
        type = value.get("type") if isinstance(value, dict) else None
        if isinstance(type, str) and type != "function":
            raise ValueError(f"'{type[:100]}' is not supported; the model calls functions, and nothing is run here")
        return value


class ChosenFunctionTool(Known):
    type: Literal["function"]
    name: str


class TextFormat(Further):
    type: Literal["text", "json_object", "json_schema"]
    name: str | None = None
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None
    """The answer follows the schema in either case."""


class TextSettings(Further):
    format: TextFormat | None = None


class ReasoningSettings(Further):
    effort: Annotated[str, Field(max_length=32)] | None = None
    """As far as the model's chat template can follow it."""
    summary: Literal["auto", "concise", "detailed"] | None = None
    generate_summary: Literal["auto", "concise", "detailed"] | None = None


def _check_input(value: object) -> object:
    """A text or a list of items; told apart here, because pydantic would name all the ways in which it is neither."""
    if isinstance(value, str) or (isinstance(value, list) and all(isinstance(item, dict) for item in value)):
        return check_text(value)
    raise ValueError("must be a text or a list of items")


class ResponseBody(SamplingBody):
    input: Annotated[str | list[InputItem], BeforeValidator(_check_input)]
    instructions: Annotated[str | None, BeforeValidator(check_text)] = None
    previous_response_id: str | None = Field(None, max_length=200)
    store: bool | None = True
    background: bool | None = False
    max_output_tokens: int | None = Field(None, ge=1, le=MAX_TOKENS)
    """None: as many as the context holds."""
    max_tool_calls: int | None = Field(None, ge=0, le=MAX_TOKENS)
    """Of the tools that OpenAI runs itself; here there are none."""
    metadata: Annotated[
        dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None,
        BeforeValidator(check_text),
    ] = Field(None, max_length=MAX_METADATA)
    tools: Annotated[list[FunctionTool] | None, BeforeValidator(check_text)] = Field(None, max_length=MAX_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | ChosenFunctionTool | None = None
    parallel_tool_calls: bool | None = True
    text: Annotated[TextSettings | None, BeforeValidator(check_text)] = None
    reasoning: ReasoningSettings | None = None
    include: list[Annotated[str, Field(max_length=100)]] | None = Field(None, max_length=MAX_INCLUDED)
    top_logprobs: int | None = Field(None, ge=0, le=MAX_CHAT_LOGPROBS)
    truncation: Literal["auto", "disabled"] | None = None
    chat_template_kwargs: Annotated[dict[str, Any] | None, BeforeValidator(check_text)] = None
    conversation: Any = None
    prompt: Any = None

    @property
    def items(self) -> list[InputItem]:
        """The input as a list, whichever way it came."""
        if isinstance(self.input, str):
            return [InputItem.model_validate({"role": "user", "content": self.input})]
        return self.input

    @property
    def is_stored(self) -> bool:
        return self.store is not False

    @property
    def wants_logprobs(self) -> bool:
        return LOGPROBS in (self.include or [])

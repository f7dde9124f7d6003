"""What clients send to the OpenAI-compatible endpoints: the OpenAI API's fields, and vLLM's further ones.

What cannot be honoured is refused by its name (`unknown.py`): an answer to another question than the one that was asked
helps nobody. Fields within a field are checked where they would matter.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from app.inference.parameters import (
    MAX_BAD_WORD_TOKENS,
    MAX_BAD_WORDS,
    MAX_LOGIT_BIASES,
    MAX_LOGPROBS,
    MAX_SEED,
    MAX_STOP_CHARACTERS,
    MAX_STOP_STRINGS,
    MAX_STOP_TOKENS,
    MAX_SUPPRESSED,
    MAX_TOKENS,
)

MAX_CHOICES = 128
MAX_PROMPTS = 512
MAX_TOOLS = 128
MAX_CHAT_LOGPROBS = 20
TokenId = Annotated[int, Field(ge=0, le=MAX_TOKENS)]
StopText = Annotated[str, Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
StopString = Annotated[str, Field(max_length=MAX_STOP_CHARACTERS)]
StopStrings = Annotated[list[StopText], Field(max_length=MAX_STOP_STRINGS)]
TokenCount = Annotated[int, Field(ge=0, le=MAX_TOKENS)]
BadWord = Annotated[list[TokenId], Field(min_length=1, max_length=MAX_BAD_WORD_TOKENS)]


class Known(BaseModel):
    """Passes over fields that are not named here."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class Further(BaseModel):
    """Keeps fields that are not named here: a chat template may know them, or they are refused by name."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)


def check_text(value: Any) -> Any:
    """Itself, if all its texts are whole: JSON can spell half a character, which is no text to anybody else.

    Raises ValueError.
    """
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError("holds half a character (a lone surrogate)") from error
    return value


# --- what all have ---


class StreamOptions(Further):
    include_usage: bool = False
    include_obfuscation: bool | None = None
    """Of no use here: tokens come over the network with padding or without."""


class JsonSchema(Known):
    name: str = ""
    description: str | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    strict: bool | None = None
    """The answer follows the schema in either case."""


class ResponseFormat(Further):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchema | None = None
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    """With `json_object`, as llama.cpp and others have it."""


class StructuredOutputs(Further):
    """vLLM's: one of these says what the answer must look like."""

    json_: dict[str, Any] | str | None = Field(None, alias="json")
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class SamplingBody(Further):
    """How to generate. What is left out, or null, is as the model's generation_config.json has it.

    Where that says nothing of sampling, `temperature` is 1, as the OpenAI API has it; everywhere else here it is 0.
    """

    model: str = Field(min_length=1, max_length=500)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    seed: int | None = Field(None, ge=0, le=MAX_SEED)
    stop: StopString | StopStrings | None = None
    temperature: float | None = Field(None, ge=0, le=100)
    top_p: float | None = Field(None, gt=0, le=1)
    frequency_penalty: float | None = Field(0.0, ge=-100, le=100)
    presence_penalty: float | None = Field(0.0, ge=-100, le=100)
    logit_bias: dict[TokenId, Annotated[float, Field(ge=-100, le=100)]] | None = Field(
        None, max_length=MAX_LOGIT_BIASES
    )
    top_k: int | None = Field(None, ge=-1, le=MAX_TOKENS)
    """0 or -1: all. From here on they are vLLM's."""
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    min_tokens: TokenCount | None = None
    ignore_eos: bool | None = False
    stop_token_ids: Annotated[list[TokenId], Field(max_length=MAX_STOP_TOKENS)] | None = None
    include_stop_str_in_output: bool | None = False
    skip_special_tokens: bool | None = True
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    grammar: str | None = None
    """llama.cpp's, as the next one."""
    json_schema: dict[str, Any] | None = None
    typical_p: float | None = Field(None, gt=0, le=1)
    """transformers', as the rest."""
    epsilon_cutoff: float | None = Field(None, ge=0, lt=1)
    eta_cutoff: float | None = Field(None, ge=0, lt=1)
    no_repeat_ngram_size: TokenCount | None = None
    bad_words_ids: Annotated[list[BadWord], Field(max_length=MAX_BAD_WORDS)] | None = None
    suppress_tokens: Annotated[list[TokenId], Field(max_length=MAX_SUPPRESSED)] | None = None
    begin_suppress_tokens: Annotated[list[TokenId], Field(max_length=MAX_SUPPRESSED)] | None = None

    @property
    def stops(self) -> tuple[str, ...] | None:
        if isinstance(self.stop, str):
            return (self.stop,) if self.stop else ()
        return None if self.stop is None else tuple(self.stop)


class GenerationBody(SamplingBody):
    """What completions and chats have."""

    n: int | None = Field(1, ge=1, le=MAX_CHOICES)
    response_format: ResponseFormat | None = None

    @property
    def choices(self) -> int:
        return 1 if self.n is None else self.n

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with a chunk that counts its tokens."""
        return self.stream_options is not None and self.stream_options.include_usage


# --- completions ---

Prompt = str | list[str] | list[int] | list[list[int]]


def _check_prompt(value: object) -> object:
    """One of four shapes; told apart here, because pydantic would name all the ways in which it is none of them."""
    if isinstance(value, str) or (isinstance(value, list) and value and len({type(item) for item in value}) == 1):
        first = value[0] if isinstance(value, list) else ""
        lists = isinstance(first, list) and all(type(token) is int for tokens in value for token in tokens)
        if isinstance(first, str) or type(first) is int or lists:
            return check_text(value)
    raise ValueError("must be a text, a list of texts, a list of token ids or a list of lists of token ids")


class CompletionBody(GenerationBody):
    prompt: Annotated[Prompt, BeforeValidator(_check_prompt)]
    max_tokens: TokenCount | None = 16
    """16 by default, as in the OpenAI API. 0 with `echo` only looks at the prompt."""
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    echo: bool | None = False
    best_of: int | None = Field(None, ge=0)
    suffix: str | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return list(self.prompt)


# --- chat ---


class ContentPart(Further):
    type: str
    text: str | None = None
    refusal: str | None = None


class CalledFunction(Further):
    name: str
    arguments: str | dict[str, Any] = "{}"


class MadeToolCall(Further):
    id: str = ""
    type: Literal["function"] = "function"
    function: CalledFunction


class Message(Further):
    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[MadeToolCall] | None = None
    function_call: CalledFunction | None = None
    """The OpenAI API's older way, as the role `function` is; read as a call of a tool and its result."""
    tool_call_id: str | None = None


class Function(Further):
    name: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: str | None = None
    parameters: dict[str, Any] | None = None


class Tool(Further):
    type: Literal["function"]
    function: Function


class ChosenFunction(Known):
    name: str


class ChosenTool(Known):
    type: Literal["function"]
    function: ChosenFunction


class ChatBody(GenerationBody):
    messages: Annotated[list[Message], BeforeValidator(check_text)] = Field(min_length=1)
    max_tokens: TokenCount | None = None
    """None: as many as the context holds."""
    max_completion_tokens: TokenCount | None = None
    """The newer name; it wins."""
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=MAX_CHAT_LOGPROBS)
    tools: Annotated[list[Tool] | None, BeforeValidator(check_text)] = Field(None, max_length=MAX_TOOLS)
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    parallel_tool_calls: bool | None = True
    reasoning_effort: Annotated[str, Field(max_length=32)] | None = None
    """As far as the model's chat template can follow it."""
    functions: list[Any] | None = None
    function_call: Any = None
    modalities: list[str] | None = None
    audio: Any = None
    web_search_options: Any = None
    chat_template: str | None = None
    chat_template_kwargs: Annotated[dict[str, Any] | None, BeforeValidator(check_text)] = None
    add_generation_prompt: bool | None = True
    continue_final_message: bool | None = False

    @property
    def most_tokens(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

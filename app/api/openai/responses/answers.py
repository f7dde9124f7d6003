"""What `/v1/responses` answers: the response, its items, and the events of its stream, as the OpenAI API has them.

Only fields that were given are sent (`exclude_unset`).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from app.api.openai.answers import TokenLogprobs

Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]


# --- items ---


class OutputText(BaseModel):
    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    """Always empty: nothing is cited."""
    logprobs: list[TokenLogprobs]
    """Empty unless they were asked for."""


class ReasoningText(BaseModel):
    type: Literal["reasoning_text"]
    text: str


class OutputMessage(BaseModel):
    id: str
    type: Literal["message"]
    status: ItemStatus
    role: Literal["assistant"]
    content: list[OutputText]


class ReasoningItem(BaseModel):
    """What the model thought before it answered."""

    id: str
    type: Literal["reasoning"]
    status: ItemStatus
    summary: list[Any]
    """Always empty: the thinking itself is there."""
    content: list[ReasoningText]


class FunctionCallItem(BaseModel):
    id: str
    type: Literal["function_call"]
    status: ItemStatus
    call_id: str
    name: str
    arguments: str
    """JSON text."""


OutputItem = Annotated[OutputMessage | ReasoningItem | FunctionCallItem, Field(discriminator="type")]
ContentPart = OutputText | ReasoningText


# --- the response ---


class InputTokensDetails(BaseModel):
    cached_tokens: int
    """Tokens that were in memory already, from an earlier prompt that began in the same way."""


class OutputTokensDetails(BaseModel):
    reasoning_tokens: int
    """Tokens that begin within the thinking or its marks."""


class ResponseUsage(BaseModel):
    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class ResponseError(BaseModel):
    code: Literal["server_error"]
    message: str


class IncompleteDetails(BaseModel):
    reason: Literal["max_output_tokens"]


class ResponseObject(BaseModel):
    """A response, as it is now."""

    id: str
    object: Literal["response"]
    created_at: int
    status: Status
    background: bool
    completed_at: int | None
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: dict[str, Any]
    store: bool
    temperature: float | None
    text: dict[str, Any]
    tool_choice: str | dict[str, Any]
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float | None
    truncation: Literal["auto", "disabled"]
    usage: ResponseUsage | None
    user: str | None


class DeletedResponse(BaseModel):
    id: str
    object: Literal["response"]
    deleted: Literal[True]


class InputItemList(BaseModel):
    """What the model was given, all earlier responses of its conversation included."""

    object: Literal["list"]
    data: list[dict[str, Any]]
    first_id: str | None
    last_id: str | None
    has_more: bool


# --- events of its stream ---


class ResponseEvent(BaseModel):
    """The response begins, has begun, or is over."""

    type: Literal[
        "response.created", "response.queued", "response.in_progress", "response.completed", "response.incomplete",
        "response.failed",
    ]  # fmt: skip
    sequence_number: int
    response: ResponseObject


class ItemEvent(BaseModel):
    type: Literal["response.output_item.added", "response.output_item.done"]
    sequence_number: int
    output_index: int
    item: OutputItem


class PartEvent(BaseModel):
    type: Literal["response.content_part.added", "response.content_part.done"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    part: ContentPart


class TextEvent(BaseModel):
    """More of the answer's text (`delta`), or all of it (`text`)."""

    type: Literal["response.output_text.delta", "response.output_text.done"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    delta: str = ""
    text: str = ""
    logprobs: list[TokenLogprobs]


class ReasoningEvent(BaseModel):
    """More of the thinking (`delta`), or all of it (`text`)."""

    type: Literal["response.reasoning_text.delta", "response.reasoning_text.done"]
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    delta: str = ""
    text: str = ""


class ArgumentsEvent(BaseModel):
    """More of a call's arguments (`delta`), or all of them (`arguments`)."""

    type: Literal["response.function_call_arguments.delta", "response.function_call_arguments.done"]
    sequence_number: int
    item_id: str
    output_index: int
    delta: str = ""
    name: str = ""
    arguments: str = ""


class ErrorEvent(BaseModel):
    """The stream itself broke; the response may go on."""

    type: Literal["error"]
    sequence_number: int
    code: str | None
    message: str
    param: str | None


Event = ResponseEvent | ItemEvent | PartEvent | TextEvent | ReasoningEvent | ArgumentsEvent | ErrorEvent

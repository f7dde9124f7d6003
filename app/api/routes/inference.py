"""Requests to models: submit one, look at it while it runs, follow it, cancel it, list what there was."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any, Literal

import msgspec
from fastapi import Body, Depends, Header, Query, Request
from pydantic import Field
from starlette.responses import Response, StreamingResponse

from app.api.bodies import Name, Nothing, Strict, accepts, body_of, done
from app.api.security import Caller, Room
from app.api.signs_of_life import with_signs_of_life
from app.api.state import Number, TheController
from app.api.views import ALWAYS, RequestLineView, RequestList, RequestView, errors
from app.controller import Controller
from app.errors import RequestError
from app.inference.events import (
    Continued,
    Finished,
    Interrupted,
    Preparing,
    PromptProgress,
    RequestEvent,
    Started,
    TextDelta,
)
from app.inference.parameters import DEFAULT_MAX_TOKENS, GenerationParameters
from app.inference.prompt import ChatPrompt, Prompt, TextPrompt, TokenPrompt
from app.inference.request_run import RequestRun
from app.registry import RequestRecord, RequestStatus

router = Room(prefix="/shard/api/inference", tags=["inference"], responses=errors(*ALWAYS))

COMMENT_SECONDS = 10.0
"""A stream that has nothing to say says so this often, so that nobody on the way takes it for dead."""
MOST_MESSAGES = 2_000
MOST_TOKEN_IDS = 2_000_000


class ConstraintBody(Strict):
    """What the answer must look like."""

    kind: Literal["json_object", "json_schema", "regex", "lark"]
    text: str = Field(default="", description="the schema, the expression or the grammar")


class ParametersBody(Strict):
    """How tokens are chosen and when the answer ends. Names and meanings are those of OpenAI's API, vLLM, transformers.

    What is left out, or null, is as the model's own generation_config.json has it, else greedy and neutral.
    """

    def given(self) -> dict[str, Any]:
        """What was said: the parameters' own defaults are in one place only."""
        said = self.model_dump(exclude_unset=True)
        return {name: value for name, value in said.items() if value is not None or name == "max_tokens"}

    temperature: float | None = Field(default=None, description="0 always takes the likeliest token")
    top_k: int | None = Field(default=None, description="0: all")
    top_p: float | None = None
    min_p: float | None = None
    typical_p: float | None = None
    epsilon_cutoff: float | None = None
    eta_cutoff: float | None = None
    repetition_penalty: float | None = None
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram_size: int | None = Field(default=None, description="no sequence of so many tokens comes twice")
    logit_bias: dict[str, float] = Field(default_factory=dict, description="token id to what is added to its logit")
    bad_words_ids: list[list[int]] | None = Field(default=None, description="sequences of tokens that may not come")
    suppress_tokens: list[int] | None = Field(default=None, description="tokens that may not come")
    begin_suppress_tokens: list[int] | None = Field(default=None, description="tokens that may not come first")
    seed: int | None = Field(default=None, description="makes sampling repeatable; else random, and recorded")
    stop: list[str] | None = Field(default=None, description="the answer ends before the first of these")
    stop_token_ids: list[int] = Field(default_factory=list, description="the answer ends with the first of these")
    include_stop_str_in_output: bool = Field(default=False, description="what ends the answer belongs to its text")
    skip_special_tokens: bool = Field(default=True, description="the text is without special tokens")
    max_tokens: int | None = Field(
        default=DEFAULT_MAX_TOKENS, description="null: as many as the context holds; left out: as the model has it"
    )
    min_tokens: int | None = None
    ignore_eos: bool = Field(default=False, description="the model's own ends do not end the answer")
    logprobs: int | None = Field(default=None, description="0: of the chosen tokens; n: also of the n likeliest")
    prompt_logprobs: int | None = Field(default=None, description="the same for the prompt's tokens")
    constraint: ConstraintBody | None = None
    chat_template_kwargs: dict[str, Any] = Field(
        default_factory=dict, description="what the chat template gets besides the conversation"
    )


class MessageBody(Strict):
    role: str = Field(min_length=1, max_length=100)
    content: str


class Submit(Strict):
    """A request. Give exactly one of `prompt`, `messages` and `token_ids`."""

    model: str = Name
    prompt: str | None = None
    chat: bool = Field(False, description="render the prompt as a message of a chat, with the model's template")
    messages: list[MessageBody] | None = Field(default=None, min_length=1, max_length=MOST_MESSAGES)
    token_ids: list[int] | None = Field(default=None, min_length=1, max_length=MOST_TOKEN_IDS)
    parameters: ParametersBody = Field(default_factory=lambda: ParametersBody())

    def given(self) -> Prompt:
        """Raises RequestError unless it is one."""
        match self.prompt, self.messages, self.token_ids:
            case str(text), None, None:
                return ChatPrompt.of(text) if self.chat else TextPrompt(text)
            case None, list(messages), None:
                return ChatPrompt(tuple(message.model_dump() for message in messages))
            case None, None, list(token_ids):
                return TokenPrompt(tuple(token_ids))
        raise RequestError("A request needs exactly one of prompt, messages and token_ids.")


@router.post("/submit/", status_code=202, summary="Begin a request", responses=errors(400, 404, 409, 415, 422, 507))
async def submit(controller: TheController, origin: Caller, body: Annotated[Submit, Body()]) -> RequestView:
    """Returns at once, with the request's id; the answer is made in the background.

    Look at `status` for how far it is, or follow `stream`. A request goes on when its client leaves; `cancel` ends it.
    """
    parameters = GenerationParameters.from_json(body.parameters.given())
    run = await controller.generate(body.model, body.given(), parameters, origin=origin)
    await run.recorded()  # what was told to have begun is on the disk
    return RequestView.live(run)


@router.get("/status/{request_id}/", summary="One request", responses=errors(404, 422))
async def status(controller: TheController, request_id: Number) -> RequestView:
    """With the tokens so far while it runs, and as it was written down when it is over."""
    run = controller.find_request(request_id)
    if run is not None:
        return RequestView.live(run)
    return RequestView.of(await controller.registry.call(lambda known: known.requests.get(request_id)))


@router.get(
    "/stream/{request_id}/", summary="Follow a request", response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}, **errors(404, 422)},
)  # fmt: skip
async def stream(
    controller: TheController,
    request_id: Number,
    last_event_id: Annotated[int | None, Header(ge=0, le=2**53, alias="Last-Event-ID")] = None,
) -> Response:
    """Server-sent events from its beginning on: preparing, started, prompt, text, and finished as the last.
    `interrupted` and `continued` tell that a stage was lost, and that the answer goes on.

    The id of each event is how many characters of the answer have come by then; `Last-Event-ID`, as browsers send it
    when they connect again, leaves out as many, also when the controller was started again meanwhile.

    `text` carries the next piece of the answer and how many tokens there are so far; `finished` is the request as
    `status` shows it. Leaving does not cancel it.
    """
    run = controller.find_request(request_id)
    if run is None:
        record = await controller.registry.call(lambda known: known.requests.get(request_id))
        return _events(_told_again(record, last_event_id or 0))
    return _events(_followed(run, last_event_id or 0))


@router.post(
    "/cancel/{request_id}/", summary="Cancel a request",
    responses={200: {"model": RequestView}, **errors(400, 404, 415, 422)}, openapi_extra=body_of(Nothing),
)  # fmt: skip
async def cancel(
    request: Request, controller: TheController, request_id: Number, body: Annotated[Nothing, Depends(accepts(Nothing))]
) -> Response:
    """End it; what was generated stays. One that is over already stays as it is."""
    run = controller.find_request(request_id)
    if run is None:
        record = await controller.registry.call(lambda known: known.requests.get(request_id))
        return done(request, RequestView.of(record), "/inference/")
    await run.cancel()
    return done(request, RequestView.live(run), "/inference/")


@router.get("/recent/", summary="The newest requests", responses=errors(422))
async def recent(
    controller: TheController,
    limit: Annotated[int, Query(ge=1, le=1000)] = 50,
    offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    status: RequestStatus | None = None,
    model: Annotated[str | None, Query(max_length=200)] = None,
) -> RequestList:
    """Newest first, with the beginning of each prompt."""
    return RequestList(requests=await recent_requests(controller, limit, offset, status, model))


async def recent_requests(
    controller: Controller,
    limit: int,
    offset: int = 0,
    status: RequestStatus | None = None,
    model: str | None = None,
) -> list[RequestLineView]:
    lines = await controller.registry.call(
        lambda known: known.requests.lines(limit=limit, offset=offset, status=status, model_name=model)
    )
    return [RequestLineView.of(line) for line in lines]


Told = tuple[str, bytes, int]
"""An event's name and data, and how many characters of the answer have come by then."""


def _events(source: AsyncIterator[Told]) -> Response:
    # Proxies that collect answers before they pass them on are asked not to.
    return StreamingResponse(_encoded(source), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


async def _encoded(source: AsyncIterator[Told]) -> AsyncIterator[bytes]:
    """As server-sent events, with a comment whenever there was nothing to tell for a while."""
    async with aclosing(with_signs_of_life(source, COMMENT_SECONDS)) as lively:
        async for told in lively:
            if told is None:
                yield b": still at it\n\n"
                continue
            name, data, characters = told
            yield b"event: %s\nid: %d\ndata: %s\n\n" % (name.encode(), characters, data)


async def _followed(run: RequestRun, had: int) -> AsyncIterator[Told]:
    """All of a request's events, without the first `had` characters of the answer."""
    characters = 0
    async for event in run:
        if isinstance(event, TextDelta):
            skipped = max(0, had - characters)
            characters += len(event.text)
            if not (rest := event.text[skipped:]):
                continue
            event = TextDelta(rest, event.tokens)
        yield (*_event(event), characters)


async def _told_again(record: RequestRecord, had: int) -> AsyncIterator[Told]:
    yield (*_event(Started(record.id, record.prompt_tokens)), 0)
    if rest := record.result[had:]:
        yield (*_event(TextDelta(rest, record.completion_tokens)), len(record.result))
    yield (*_event(Finished(record)), len(record.result))


def _event(event: RequestEvent) -> tuple[str, bytes]:
    match event:
        case Preparing(what):
            return "preparing", msgspec.json.encode({"what": what})
        case Started(request_id, prompt_tokens):
            return "started", msgspec.json.encode({"id": request_id, "prompt_tokens": prompt_tokens})
        case PromptProgress(done, total):
            return "prompt", msgspec.json.encode({"done": done, "total": total})
        case Interrupted(what):
            return "interrupted", msgspec.json.encode({"what": what})
        case Continued(what, exact, seconds):
            return "continued", msgspec.json.encode({"what": what, "exact": exact, "seconds": round(seconds, 6)})
        case TextDelta(text, tokens):
            return "text", msgspec.json.encode({"text": text, "tokens": tokens})
        case Finished(record):
            return "finished", RequestView.of(record).model_dump_json().encode()

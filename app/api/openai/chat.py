"""`/v1/chat/completions`: the next message of a conversation, or the calls of tools that the model makes instead."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from fastapi import Request
from fastapi.responses import Response

from app.api.openai.answers import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatLogprobs,
    ChatMessage,
    FinishReason,
    FunctionCall,
    FunctionDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from app.api.openai.bodies import ChatBody
from app.api.openai.conversation import for_template
from app.api.openai.generation import chat_parameters, numbered
from app.api.openai.logprobs import TokenNames, TokenOffsets, chat_logprobs
from app.api.openai.responding import AnswerForm, fingerprint, finish_reason, respond
from app.api.openai.run_group import RunGroup
from app.api.openai.tools import ToolUse
from app.inference.events import Finished, TextDelta
from app.inference.request_run import RequestRun
from app.inference.tokenizer import Tokenizer
from app.inference.tool_calls import AnswerPart, CallArguments, CallBegan, ToolCallReader
from app.runs.trace import Origin

if TYPE_CHECKING:
    from app.controller import Controller


async def chat(controller: Controller, request: Request, body: ChatBody, origin: Origin) -> Response:
    """Raises ApiError, RequestError, ModelError."""
    messages = for_template(body.messages)
    tokenizer = await controller.tokenizer(body.model)
    await asyncio.to_thread(controller.inference.template, body.model)  # a model without one is refused here
    use = await ToolUse.of(body, controller)
    defaults = await asyncio.to_thread(controller.inference.defaults, body.model)
    parameters = chat_parameters(body, defaults, None if use is None else use.constraint)
    tools = None if use is None else use.tools
    starts = [
        partial(controller.generate, body.model, messages, numbered(parameters, index), origin=origin, tools=tools)
        for index in range(body.choices)
    ]
    return await respond(request, starts, ChatForm(body, tokenizer, use), stream=bool(body.stream))


@dataclass
class _Choice:
    """One choice while it is told."""

    run: RequestRun
    offsets: TokenOffsets
    reader: ToolCallReader | None
    length: int = 0
    """Characters of the answer that have come."""
    tokens: int = 0
    """Tokens whose log probabilities were told."""
    has_calls: bool = False

    def read(self, text: str) -> Sequence[AnswerPart]:
        return [text] if self.reader is None else self.reader.feed(text)

    def finish(self) -> Sequence[AnswerPart]:
        return [] if self.reader is None else self.reader.finish()

    @property
    def reason(self) -> FinishReason:
        reason = finish_reason(self.run)
        return "tool_calls" if self.has_calls and reason == "stop" else reason


class ChatForm(AnswerForm):
    """The form of the chat API, whole and in chunks."""

    def __init__(self, body: ChatBody, tokenizer: Tokenizer, use: ToolUse | None) -> None:
        self._body, self._tokenizer, self._use = body, tokenizer, use
        self._names = TokenNames(tokenizer)
        self._choices: list[_Choice] = []

    async def open(self, group: RunGroup) -> Iterable[ChatChunk]:
        self._choices = [
            _Choice(
                run,
                TokenOffsets(self._tokenizer, self._body.skip_special_tokens is not False),
                None if self._use is None else self._use.reader(),
            )
            for run in group.runs
        ]
        role = ChatDelta(role="assistant", content="", refusal=None)
        return [self._chunk(index, role) for index in range(len(self._choices))]

    def told(self, index: int, event: TextDelta | Finished) -> Iterable[ChatChunk]:
        choice = self._choices[index]
        over = isinstance(event, Finished)
        choice.length += 0 if isinstance(event, Finished) else len(event.text)
        parts = choice.finish() if isinstance(event, Finished) else choice.read(event.text)
        for part in parts:
            logprobs = self._logprobs(choice)
            if isinstance(part, str):
                yield self._chunk(index, ChatDelta(content=part), logprobs)
            else:
                yield self._chunk(index, ChatDelta(tool_calls=[self._call(choice, part)]), logprobs)
        if over:
            yield self._chunk(index, ChatDelta(), self._logprobs(choice), choice.reason)

    def closing(self) -> Iterable[ChatChunk]:
        if self._body.wants_usage:
            yield self._new_chunk([], self._usage())

    async def whole(self, group: RunGroup) -> ChatCompletion:
        await self.open(group)
        choices = []
        for index, choice in enumerate(self._choices):
            text = choice.run.text
            choice.length = len(text)
            message = self._message(choice, [*choice.read(text), *choice.finish()])
            logprobs = self._logprobs(choice)
            choices.append(ChatChoice(index=index, message=message, logprobs=logprobs, finish_reason=choice.reason))
        run = self._choices[0].run
        return ChatCompletion(
            id=f"chatcmpl-{run.id}",
            object="chat.completion",
            created=int(run.record.created_at.timestamp()),
            model=run.record.model_name,
            system_fingerprint=fingerprint(run),
            choices=choices,
            usage=self._usage(),
        )

    def _message(self, choice: _Choice, parts: Sequence[AnswerPart]) -> ChatMessage:
        content = "".join(part for part in parts if isinstance(part, str))
        calls: list[ToolCall] = []
        for part in parts:
            if isinstance(part, CallBegan):
                delta = self._call(choice, part)
                function = FunctionCall(name=part.name, arguments="")
                calls.append(ToolCall(id=delta.id, type="function", function=function))
            elif isinstance(part, CallArguments):
                calls[part.index].function.arguments += part.text
        if not calls:
            return ChatMessage(role="assistant", content=content, refusal=None)
        return ChatMessage(role="assistant", content=content or None, refusal=None, tool_calls=calls)

    def _call(self, choice: _Choice, part: CallBegan | CallArguments) -> ToolCallDelta:
        assert self._use is not None
        if isinstance(part, CallArguments):
            return ToolCallDelta(index=part.index, function=FunctionDelta(arguments=part.text))
        choice.has_calls = True
        function = FunctionDelta(name=part.name, arguments="")
        return ToolCallDelta(index=part.index, id=self._use.new_id(), type="function", function=function)

    def _logprobs(self, choice: _Choice) -> ChatLogprobs | None:
        """Of the tokens that the text so far has brought besides those that were told before."""
        if not self._body.logprobs:
            return None
        choice.offsets.follow(choice.run.token_ids)
        first, last = choice.tokens, choice.offsets.count_within(choice.length)
        if last <= first:
            return None
        choice.tokens = last
        return chat_logprobs(self._names, choice.run.logprobs[first:last], self._body.top_logprobs or 0)

    def _chunk(
        self,
        index: int,
        delta: ChatDelta,
        logprobs: ChatLogprobs | None = None,
        reason: FinishReason | None = None,
    ) -> ChatChunk:
        return self._new_chunk([ChatChunkChoice(index=index, delta=delta, logprobs=logprobs, finish_reason=reason)])

    def _new_chunk(self, choices: list[ChatChunkChoice], usage: Usage | None = None) -> ChatChunk:
        run = self._choices[0].run
        chunk = ChatChunk(
            id=f"chatcmpl-{run.id}",
            object="chat.completion.chunk",
            created=int(run.record.created_at.timestamp()),
            model=run.record.model_name,
            system_fingerprint=fingerprint(run),
            choices=choices,
        )
        if self._body.wants_usage:
            chunk.usage = usage
        return chunk

    def _usage(self) -> Usage:
        prompt = len(self._choices[0].run.prompt_token_ids)
        return Usage.of(prompt, sum(len(choice.run.token_ids) for choice in self._choices))

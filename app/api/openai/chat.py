"""`/v1/chat/completions`: the next message of a conversation, or the calls of tools that the model makes instead."""

from __future__ import annotations

import secrets
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
    CompletionTokensDetails,
    FinishReason,
    FunctionCall,
    FunctionDelta,
    ToolCall,
    ToolCallDelta,
    Usage,
)
from app.api.openai.bodies import ChatBody
from app.api.openai.chat_answer import ChatAnswer
from app.api.openai.chat_call import ChatCall
from app.api.openai.generation import numbered
from app.api.openai.logprobs import TokenNames, chat_logprobs
from app.api.openai.responding import AnswerForm, fingerprint, finish_reason, respond
from app.api.openai.run_group import RunGroup
from app.api.openai.tools import CallIds
from app.inference.answer_parts import AnswerPart, CallArguments, CallBegan, Reasoning
from app.inference.chat_format import divided
from app.inference.events import Finished, TextDelta
from app.inference.request_run import RequestRun
from app.runs.trace import Origin

if TYPE_CHECKING:
    from app.controller import Controller


async def chat(controller: Controller, request: Request, body: ChatBody, origin: Origin) -> Response:
    """Raises ApiError, RequestError, ModelError."""
    call = await ChatCall.of(controller, body)
    starts = [
        partial(controller.generate, body.model, call.prompt, numbered(call.parameters, index), origin=origin)
        for index in range(body.choices)
    ]
    return await respond(request, starts, ChatForm(body, call), stream=bool(body.stream))


@dataclass
class _Choice:
    """One choice while it is told."""

    run: RequestRun
    answer: ChatAnswer
    call_ids: CallIds

    @property
    def reason(self) -> FinishReason:
        reason = finish_reason(self.run)
        return "tool_calls" if self.answer.has_calls and reason == "stop" else reason


class ChatForm(AnswerForm):
    """The form of the chat API, whole and in chunks."""

    def __init__(self, body: ChatBody, call: ChatCall) -> None:
        self._body, self._call = body, call
        self._names = TokenNames(call.tokenizer)
        self._choices: list[_Choice] = []

    async def open(self, group: RunGroup) -> Iterable[ChatChunk]:
        self._choices = [self._choice(run) for run in group.runs]
        role = ChatDelta(role="assistant", content="", refusal=None)
        return [self._chunk(index, role) for index in range(len(self._choices))]

    def _choice(self, run: RequestRun) -> _Choice:
        assert run.format is not None  # the agents have it, so it is known how its answer is written
        skips_special = self._body.skip_special_tokens is not False
        call = self._call
        answer = ChatAnswer(run, run.format, call.tokenizer, call.use, skips_special=skips_special)
        return _Choice(run, answer, CallIds.of(call.use, secrets.token_hex()))

    def told(self, index: int, event: TextDelta | Finished) -> Iterable[ChatChunk]:
        choice = self._choices[index]
        over = isinstance(event, Finished)
        parts = choice.answer.finish() if isinstance(event, Finished) else choice.answer.feed(event.text)
        for part in parts:
            logprobs = self._logprobs(choice)
            if isinstance(part, str):
                yield self._chunk(index, ChatDelta(content=part), logprobs)
            elif isinstance(part, Reasoning):
                yield self._chunk(index, ChatDelta(reasoning_content=part.text), logprobs)
            else:
                yield self._chunk(index, ChatDelta(tool_calls=[_call(choice, part)]), logprobs)
        if over:
            yield self._chunk(index, ChatDelta(), self._logprobs(choice), choice.reason)

    def closing(self) -> Iterable[ChatChunk]:
        if self._body.wants_usage:
            yield self._new_chunk([], self._usage())

    async def whole(self, group: RunGroup) -> ChatCompletion:
        await self.open(group)
        choices = []
        for index, choice in enumerate(self._choices):
            message = self._message(choice, [*choice.answer.feed(choice.run.text), *choice.answer.finish()])
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
        thinking, content = divided(parts)
        calls: list[ToolCall] = []
        for part in parts:
            if isinstance(part, CallBegan):
                delta = _call(choice, part)
                function = FunctionCall(name=part.name, arguments="")
                calls.append(ToolCall(id=delta.id, type="function", function=function))
            elif isinstance(part, CallArguments):
                calls[part.index].function.arguments += part.text
        message = ChatMessage(role="assistant", content=content, refusal=None)
        if thinking:
            message.reasoning_content = thinking
        if calls:
            message.content, message.tool_calls = content or None, calls
        return message

    def _logprobs(self, choice: _Choice) -> ChatLogprobs | None:
        """Of the tokens that the text so far has brought besides those that were told before."""
        if not self._body.logprobs:
            return None
        entries = choice.answer.new_logprobs()
        return chat_logprobs(self._names, entries, self._body.top_logprobs or 0) if entries else None

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
        answers = sum(len(choice.run.token_ids) for choice in self._choices)
        usage = Usage.of(prompt, answers, self._choices[0].run.cached_tokens)
        thought = [count for choice in self._choices if (count := choice.answer.reasoning_tokens()) is not None]
        if thought:
            usage.completion_tokens_details = CompletionTokensDetails(reasoning_tokens=sum(thought))
        return usage


def _call(choice: _Choice, part: CallBegan | CallArguments) -> ToolCallDelta:
    if isinstance(part, CallArguments):
        return ToolCallDelta(index=part.index, function=FunctionDelta(arguments=part.text))
    function = FunctionDelta(name=part.name, arguments="")
    call_id = choice.call_ids.id(part.name, part.index)
    return ToolCallDelta(index=part.index, id=call_id, type="function", function=function)

"""`/v1/chat/completions`: the next message of a conversation, or the calls of tools that the model makes instead."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

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
from app.api.openai.conversation import for_template
from app.api.openai.errors import refused
from app.api.openai.generation import chat_parameters, numbered
from app.api.openai.logprobs import TokenNames, TokenOffsets, chat_logprobs
from app.api.openai.responding import AnswerForm, fingerprint, finish_reason, respond
from app.api.openai.run_group import RunGroup
from app.api.openai.tools import ToolUse
from app.errors import RequestError
from app.inference.answer_parts import AnswerPart, CallArguments, CallBegan, Reasoning
from app.inference.chat_format import AnswerReader, divided
from app.inference.chat_template import ChatTemplate
from app.inference.events import Finished, TextDelta
from app.inference.prompt import ChatPrompt
from app.inference.request_run import RequestRun
from app.inference.template_variables import check_variables, refuse_unread, with_effort
from app.inference.tokenizer import Tokenizer
from app.runs.trace import Origin

if TYPE_CHECKING:
    from app.controller import Controller


async def chat(controller: Controller, request: Request, body: ChatBody, origin: Origin) -> Response:
    """Raises ApiError, RequestError, ModelError."""
    tokenizer = await controller.tokenizer(body.model)
    template = await asyncio.to_thread(controller.inference.template, body.model)  # a model without one is refused here
    use = ToolUse.of(body, template)
    messages = for_template(body.messages, template.source(with_tools=use is not None))
    variables = await asyncio.to_thread(_variables, body, template, tokenizer, with_tools=use is not None)
    defaults = await asyncio.to_thread(controller.inference.defaults, body.model)
    parameters = chat_parameters(body, defaults, None if use is None else use.constraint, variables)
    prompt = ChatPrompt(tuple(messages), None if use is None else use.tools)
    starts = [
        partial(controller.generate, body.model, prompt, numbered(parameters, index), origin=origin)
        for index in range(body.choices)
    ]
    return await respond(request, starts, ChatForm(body, tokenizer, use), stream=bool(body.stream))


def _variables(
    body: ChatBody, template: ChatTemplate, tokenizer: Tokenizer, *, with_tools: bool
) -> dict[str, Any] | None:
    """What the template gets besides the conversation, if anything. Raises ApiError that names the field."""
    given = body.chat_template_kwargs or {}
    if not given and body.reasoning_effort is None:
        return None
    field = "chat_template_kwargs"
    try:
        read = template.variables(with_tools=with_tools)
        check_variables(given)
        refuse_unread(given, read)
        field = "reasoning_effort"
        return with_effort(given, body.reasoning_effort, read, template.format(tokenizer).thinks)
    except RequestError as error:
        raise refused(str(error), field) from error


@dataclass
class _Choice:
    """One choice while it is told."""

    run: RequestRun
    offsets: TokenOffsets
    reader: AnswerReader
    length: int = 0
    """Characters of the answer that have come."""
    tokens: int = 0
    """Tokens whose log probabilities were told."""
    has_calls: bool = False

    def reasoning_tokens(self) -> int:
        self.offsets.follow(self.run.token_ids)
        return sum(self.offsets.count_between(start, end) for start, end in self.reader.thought)

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
        self._choices = [self._choice(run) for run in group.runs]
        role = ChatDelta(role="assistant", content="", refusal=None)
        return [self._chunk(index, role) for index in range(len(self._choices))]

    def _choice(self, run: RequestRun) -> _Choice:
        assert run.format is not None  # the agents have it, so it is known how its answer is written
        shown = run.format.shown(self._tokenizer)
        offsets = TokenOffsets(self._tokenizer, self._body.skip_special_tokens is not False, shown)
        return _Choice(run, offsets, run.format.reader() if self._use is None else self._use.reader(run.format))

    def told(self, index: int, event: TextDelta | Finished) -> Iterable[ChatChunk]:
        choice = self._choices[index]
        over = isinstance(event, Finished)
        choice.length += 0 if isinstance(event, Finished) else len(event.text)
        parts = choice.reader.finish() if isinstance(event, Finished) else choice.reader.feed(event.text)
        for part in parts:
            logprobs = self._logprobs(choice)
            if isinstance(part, str):
                yield self._chunk(index, ChatDelta(content=part), logprobs)
            elif isinstance(part, Reasoning):
                yield self._chunk(index, ChatDelta(reasoning_content=part.text), logprobs)
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
            message = self._message(choice, [*choice.reader.feed(text), *choice.reader.finish()])
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
                delta = self._call(choice, part)
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

    def _call(self, choice: _Choice, part: CallBegan | CallArguments) -> ToolCallDelta:
        assert self._use is not None
        if isinstance(part, CallArguments):
            return ToolCallDelta(index=part.index, function=FunctionDelta(arguments=part.text))
        choice.has_calls = True
        function = FunctionDelta(name=part.name, arguments="")
        return ToolCallDelta(
            index=part.index, id=self._use.new_id(part.name, part.index), type="function", function=function
        )

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
        answers = sum(len(choice.run.token_ids) for choice in self._choices)
        usage = Usage.of(prompt, answers, self._choices[0].run.cached_tokens)
        format = self._choices[0].run.format
        if format is not None and format.thinks:
            thought = sum(choice.reasoning_tokens() for choice in self._choices)
            usage.completion_tokens_details = CompletionTokensDetails(reasoning_tokens=thought)
        return usage

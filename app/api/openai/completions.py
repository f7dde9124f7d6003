"""`/v1/completions`: text that goes on from a prompt, with log probabilities of both when they are asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from fastapi import Request
from fastapi.responses import Response

from app.api.openai.answers import Completion, CompletionChoice, CompletionLogprobs, FinishReason, Usage
from app.api.openai.bodies import MAX_PROMPTS, CompletionBody
from app.api.openai.errors import refused
from app.api.openai.generation import completion_parameters, numbered
from app.api.openai.logprobs import EchoedPrompt, TokenNames, TokenOffsets, completion_logprobs
from app.api.openai.responding import AnswerForm, fingerprint, finish_reason, respond
from app.api.openai.run_group import RunGroup
from app.inference.events import Finished, TextDelta
from app.inference.prompt import TextPrompt, TokenPrompt
from app.inference.request_run import RequestRun
from app.inference.tokenizer import Tokenizer
from app.runs.trace import Origin

if TYPE_CHECKING:
    from app.controller import Controller


async def complete(controller: Controller, request: Request, body: CompletionBody, origin: Origin) -> Response:
    """Raises ApiError, RequestError, ModelError."""
    parameters = completion_parameters(body, await asyncio.to_thread(controller.inference.defaults, body.model))
    prompts = body.prompts
    if len(prompts) * body.choices > MAX_PROMPTS:
        raise refused(f"These are more than {MAX_PROMPTS} answers at a time; send fewer prompts.", "prompt")
    texts = any(isinstance(prompt, str) for prompt in prompts)
    described = await asyncio.to_thread(controller.library.get, body.model)
    needs_names = described.has_tokenizer and (body.echo or body.logprobs is not None)
    tokenizer = await controller.tokenizer(body.model) if texts or needs_names else None
    starts = [
        partial(controller.generate, body.model, prompt, numbered(parameters, index), origin=origin)
        for prompt in (TextPrompt(one) if isinstance(one, str) else TokenPrompt(tuple(one)) for one in prompts)
        for index in range(body.choices)
    ]
    return await respond(request, starts, CompletionForm(body, tokenizer), stream=bool(body.stream))


@dataclass
class _Choice:
    """One choice while it streams."""

    run: RequestRun
    offsets: TokenOffsets
    echo: EchoedPrompt | None
    began: bool = False
    length: int = 0
    """Characters of the answer that were sent."""
    tokens: int = 0
    """Tokens whose log probabilities were sent."""

    @property
    def answer_offset(self) -> int:
        return 0 if self.echo is None else len(self.echo.text)


class CompletionForm(AnswerForm):
    """The form of the completions API, whole and in chunks."""

    def __init__(self, body: CompletionBody, tokenizer: Tokenizer | None) -> None:
        self._body, self._tokenizer = body, tokenizer
        self._names = TokenNames(tokenizer)
        self._wants_logprobs = body.logprobs is not None
        self._hides_answer = body.max_tokens == 0
        self._choices: list[_Choice] = []

    async def open(self, group: RunGroup) -> Iterable[Completion]:
        self._choices = [
            _Choice(run, TokenOffsets(self._tokenizer, self._body.skip_special_tokens is not False), None)
            for run in group.runs
        ]
        if self._body.echo:
            prompts = self._body.prompts
            for index, choice in enumerate(self._choices):
                prompt, ids = prompts[index // self._body.choices], choice.run.prompt_token_ids
                choice.echo = await asyncio.to_thread(EchoedPrompt.of, prompt, ids, self._tokenizer)
        return ()

    def told(self, index: int, event: TextDelta | Finished) -> Iterable[Completion]:
        choice = self._choices[index]
        if choice.echo is not None and not choice.began:
            yield self._chunk(choice, index, choice.echo.text, self._of_prompt(choice), None)
        choice.began = True
        if isinstance(event, TextDelta) and not self._hides_answer:
            choice.length += len(event.text)
            yield self._chunk(choice, index, event.text, self._of_answer(choice, over=False), None)
        elif isinstance(event, Finished):
            logprobs = self._of_answer(choice, over=True)
            yield self._chunk(choice, index, "", logprobs, finish_reason(choice.run))

    def closing(self) -> Iterable[Completion]:
        if self._body.wants_usage:
            yield self._completion([], self._usage())

    async def whole(self, group: RunGroup) -> Completion:
        await self.open(group)
        choices = []
        for index, choice in enumerate(self._choices):
            choice.length = len(choice.run.text)
            text = "" if self._hides_answer else choice.run.text
            logprobs = [self._of_answer(choice, over=True)]
            if choice.echo is not None:
                text = choice.echo.text + text
                logprobs.insert(0, self._of_prompt(choice))
            choices.append(
                CompletionChoice(
                    text=text, index=index, logprobs=_joined(logprobs), finish_reason=finish_reason(choice.run)
                )
            )
        return self._completion(choices, self._usage())

    def _of_prompt(self, choice: _Choice) -> CompletionLogprobs | None:
        if choice.echo is None or not self._wants_logprobs:
            return None
        return completion_logprobs(self._names, choice.echo.token_ids, choice.run.prompt_logprobs, choice.echo.offsets)

    def _of_answer(self, choice: _Choice, *, over: bool) -> CompletionLogprobs | None:
        """Of the tokens that the text so far has brought besides those that were told before."""
        if not self._wants_logprobs or self._hides_answer:
            return None
        run, offsets = choice.run, choice.offsets
        offsets.follow(run.token_ids)
        # What a stop string cut off is no part of the answer; an end-of-text token is its last.
        whole = over and not run.text_stopped
        first, last = choice.tokens, len(run.token_ids) if whole else offsets.count_within(choice.length)
        if last <= first:
            return None
        choice.tokens = last
        return completion_logprobs(
            self._names,
            run.token_ids[first:last],
            run.logprobs[first:last],
            offsets.offsets[first:last],
            choice.answer_offset,
        )

    def _chunk(
        self,
        choice: _Choice,
        index: int,
        text: str,
        logprobs: CompletionLogprobs | None,
        reason: FinishReason | None,
    ) -> Completion:
        told = CompletionChoice(text=text, index=index, logprobs=logprobs, finish_reason=reason)
        return self._completion([told])

    def _completion(self, choices: list[CompletionChoice], usage: Usage | None = None) -> Completion:
        run = self._choices[0].run
        completion = Completion(
            id=f"cmpl-{run.id}",
            object="text_completion",
            created=int(run.record.created_at.timestamp()),
            model=run.record.model_name,
            system_fingerprint=fingerprint(run),
            choices=choices,
        )
        if usage is not None or self._body.wants_usage:
            completion.usage = usage
        return completion

    def _usage(self) -> Usage:
        """A prompt counts once, however many answers it gets."""
        prompts = sum(len(choice.run.prompt_token_ids) for choice in self._choices[:: self._body.choices])
        answers = 0 if self._hides_answer else sum(len(choice.run.token_ids) for choice in self._choices)
        cached = sum(choice.run.cached_tokens for choice in self._choices[:: self._body.choices])
        return Usage.of(prompts, answers, cached)


def _joined(parts: Sequence[CompletionLogprobs | None]) -> CompletionLogprobs | None:
    there = [part for part in parts if part is not None]
    if not there:
        return None
    return CompletionLogprobs(
        text_offset=[offset for part in there for offset in part.text_offset],
        token_logprobs=[logprob for part in there for logprob in part.token_logprobs],
        tokens=[token for part in there for token in part.tokens],
        top_logprobs=[top for part in there for top in part.top_logprobs],
    )

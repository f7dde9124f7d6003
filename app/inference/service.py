"""Requests: submit, follow, cancel. The same for the command line, the window and HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from app.errors import ModelError, RequestError, ShardboardError
from app.inference.chat_template import ChatTemplate
from app.inference.deployments import Deployments
from app.inference.parameters import GenerationParameters
from app.inference.request_run import RequestRun
from app.inference.tokenizer import Tokenizer
from app.models.description import ModelDescription
from app.models.library import ModelLibrary
from app.registry import Registry

log = logging.getLogger(__name__)

Message = Mapping[str, Any]
MAX_PENALTY_TOKENS = 150_000
"""A prompt that penalties look back at travels in one envelope; longer ones cannot be penalized."""


class InferenceService:
    """Turns prompts into running requests. Belongs to the controller's loop."""

    def __init__(self, registry: Registry, library: ModelLibrary, deployments: Deployments) -> None:
        self._registry, self._library, self._deployments = registry, library, deployments
        self._tokenizers: dict[str, Tokenizer | None] = {}
        self._templates: dict[str, ChatTemplate | None] = {}
        self._running: dict[int, RequestRun] = {}

    def submit(
        self,
        model: str,
        *,
        prompt: str | None = None,
        messages: Sequence[Message] | None = None,
        token_ids: Sequence[int] | None = None,
        parameters: GenerationParameters | None = None,
    ) -> RequestRun:
        """Begin a request with exactly one of a raw prompt, chat messages or token ids; returns at once.

        Raises RequestError or ModelError for what can be told before anything runs; all else ends in the record.
        """
        if sum(given is not None for given in (prompt, messages, token_ids)) != 1:
            raise RequestError("A request needs one of a prompt, messages or token ids.")
        description = self._library.get(model)
        parameters = parameters or GenerationParameters()
        shown = prompt if prompt is not None else _readable(messages) if messages is not None else ""
        record = self._registry.requests.add(
            model_name=description.name, prompt=shown, parameters=parameters.to_json(), prompt_token_ids=token_ids or ()
        )
        run = RequestRun(self._registry, record)
        self._running[run.id] = run
        work = self._run(run, description, prompt, messages, token_ids, parameters)
        run.task = asyncio.get_running_loop().create_task(work, name=f"request {run.id}")
        run.task.add_done_callback(lambda task: self._running.pop(run.id, None))
        return run

    def running(self) -> list[RequestRun]:
        return list(self._running.values())

    def find(self, request_id: int) -> RequestRun | None:
        """A request that is under way."""
        return self._running.get(request_id)

    async def close(self) -> None:
        """Cancel what is under way and wait for it."""
        await asyncio.gather(*(run.cancel() for run in self.running()))

    async def _run(
        self,
        run: RequestRun,
        description: ModelDescription,
        prompt: str | None,
        messages: Sequence[Message] | None,
        token_ids: Sequence[int] | None,
        parameters: GenerationParameters,
    ) -> None:
        number, pipeline = None, None
        try:
            ids, tokenizer = await asyncio.to_thread(
                self._tokenize, description, prompt, messages, token_ids, parameters
            )
            eos = () if tokenizer is None else tokenizer.eos_ids
            # What can never run is refused before anything is loaded for it.
            parameters.budget(eos, len(ids), description.max_context)
            record, pipeline = await self._deployments.acquire(description, run.preparing)
            budget = parameters.budget(eos, len(ids), min(record.context, record.kv_tokens))
            run.begin(ids, tokenizer, parameters.stop, record.id)
            sampling = parameters.sampling(description.vocab_size)
            number = await pipeline.start(ids, len(ids), sampling, budget, run)
            run.started()
            reason = await run.finished()
            if run.text_stopped:
                await pipeline.cancel(number)
            run.complete(reason)
        except asyncio.CancelledError:
            if pipeline is not None and number is not None:
                await asyncio.shield(pipeline.cancel(number))
            run.cancelled()
        except ShardboardError as error:
            run.fail(error)
        except Exception as error:  # a bug of ours: the request must still end, and the log must have it
            log.exception("request %d failed", run.id)
            run.fail(
                ShardboardError(f"The request failed: {type(error).__name__}: {error}.", "This is a bug; see the log.")
            )

    def _tokenize(
        self,
        description: ModelDescription,
        prompt: str | None,
        messages: Sequence[Message] | None,
        token_ids: Sequence[int] | None,
        parameters: GenerationParameters,
    ) -> tuple[list[int], Tokenizer | None]:
        tokenizer = self._tokenizer(description, needed=token_ids is None)
        if token_ids is not None:
            ids = list(token_ids)
            outside = [token for token in ids if not 0 <= token < description.vocab_size]
            if outside:
                raise RequestError(
                    f"Token id {outside[0]} is outside the vocabulary of {description.name}, 0 to "
                    f"{description.vocab_size - 1}."
                )
        elif messages is not None:
            assert tokenizer is not None
            ids = tokenizer.encode(self._template(description, tokenizer).render(messages), add_special_tokens=False)
        else:
            assert tokenizer is not None and prompt is not None
            ids = tokenizer.encode(prompt)
        if not ids:
            raise RequestError("The prompt is empty.", "Write something to go on from.")
        sampling = parameters.sampling()
        if len(ids) > MAX_PENALTY_TOKENS and _looks_back(sampling):
            raise RequestError(f"Penalties can look back at {MAX_PENALTY_TOKENS} tokens at most.", "Leave them out.")
        return ids, tokenizer

    def _tokenizer(self, description: ModelDescription, *, needed: bool) -> Tokenizer | None:
        if description.name not in self._tokenizers:
            try:
                self._tokenizers[description.name] = Tokenizer.open(description.path)
            except ModelError:
                if needed:
                    raise
                return None
        return self._tokenizers[description.name]

    def _template(self, description: ModelDescription, tokenizer: Tokenizer) -> ChatTemplate:
        if description.name not in self._templates:
            self._templates[description.name] = ChatTemplate.open(description.path, tokenizer.named_tokens)
        template = self._templates[description.name]
        if template is None:
            raise RequestError(
                f"{description.name} has no chat template: it was not trained to chat.", "Send a raw prompt instead."
            )
        return template

    def forget(self, model: str) -> None:
        """The model was removed or replaced."""
        self._tokenizers.pop(model, None)
        self._templates.pop(model, None)


def _looks_back(sampling: Any) -> bool:
    return bool(sampling.repetition_penalty != 1 or sampling.presence_penalty or sampling.frequency_penalty)


def _readable(messages: Sequence[Message]) -> str:
    """A chat as the registry shows it."""
    return "\n".join(f"{message.get('role', '?')}: {message.get('content', '')}" for message in messages)


__all__ = ["InferenceService", "Message"]

"""Requests: submit, follow, cancel. The same for the command line, the window and HTTP."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec

from app.controller_settings import RecordSettings
from app.errors import ModelError, RequestError, ShardboardError
from app.inference.chat_ends import with_chat_ends
from app.inference.chat_format import ChatFormat
from app.inference.chat_template import ChatTemplate
from app.inference.deployments import Deployments
from app.inference.model_defaults import ModelDefaults
from app.inference.parameters import GenerationParameters
from app.inference.prompt import ChatPrompt, Prompt, TextPrompt, TokenPrompt
from app.inference.request_run import RequestRun
from app.inference.sequence import Sequence
from app.inference.template_variables import refuse_unread
from app.inference.text_stream import TextRules
from app.inference.tokenizer import Tokenizer, end_ids
from app.inference.waiting import Waiting, waits
from app.models.description import ModelDescription
from app.models.library import ModelLibrary
from app.registry import Registry, RequestRecord
from app.runs.trace import UNKNOWN, Origin, origin_of
from worker_agent.wire.messages import MAX_LOOKED_BACK, Budget

log = logging.getLogger(__name__)


class InferenceService:
    """Turns prompts into running requests. Belongs to the controller's loop."""

    def __init__(
        self,
        registry: Registry,
        library: ModelLibrary,
        deployments: Deployments,
        records: Callable[[], RecordSettings] = RecordSettings,
        shares_prompts: Callable[[], bool] = lambda: False,
    ) -> None:
        self._registry, self._library, self._deployments = registry, library, deployments
        self.records = records
        """What is to be kept, asked anew for each request."""
        self.shares_prompts = shares_prompts
        """Whether prompts of one API key may begin with what another one's have left in memory."""
        self._tokenizers: dict[str, Tokenizer] = {}
        self._templates: dict[str, ChatTemplate | None] = {}
        self._running: dict[int, RequestRun] = {}
        self._closed = False

    async def submit(
        self,
        model: str,
        prompt: Prompt,
        parameters: GenerationParameters | None = None,
        *,
        origin: Origin = UNKNOWN,
        deployment: str | None = None,
        apart: bool = False,
        keep_text: bool = True,
    ) -> RequestRun:
        """Begin a request, which then goes on by itself.

        Args:
            origin: who asks, for the record.
            deployment: the one to use, by its id; None takes the newest that answers.
            apart: compute all of the prompt, whatever earlier ones have left in memory.
            keep_text: write down the texts, if the settings allow that at all.

        Raises RequestError or ModelError for what can be told before anything runs; all else ends in the record.
        """
        description, defaults = await asyncio.to_thread(self._known, model)
        if self._closed:
            raise RequestError("The controller is closing.", "Send the request again when it runs.")
        parameters = (parameters or GenerationParameters()).resolved(defaults.values)
        kept = self.records()
        keep_text = keep_text and kept.keep_text
        record, recorded = self._registry.requests.begin(
            model_name=description.name,
            prompt=prompt.shown if keep_text else "",
            parameters=_recorded(parameters, keep_text),
            prompt_token_ids=prompt.token_ids if isinstance(prompt, TokenPrompt) and keep_text else (),
            origin=msgspec.to_builtins(origin),
            sequence=Waiting(prompt, deployment, apart).to_json() if keep_text else {},
        )
        run = RequestRun(
            self._registry, record, recorded,
            origin=origin, keep_text=keep_text, keep_times=kept.keep_token_times,
        )  # fmt: skip
        run.recorder.notes = defaults.notes
        run.apart = apart
        return self._begun(run, self._begin(run, description, prompt, parameters, deployment))

    def _group(self, run: RequestRun) -> str:
        """Whose prompts may begin with each other's tokens: a key's own, and the owner's, whatever way they come."""
        origin = run.recorder.origin
        if run.apart:
            return f"request {run.id}"
        return f"key {origin.user}" if origin.via == "http" and origin.user and not self.shares_prompts() else ""

    def _over(self, run: RequestRun) -> None:
        self._running.pop(run.id, None)

    def running(self) -> list[RequestRun]:
        return list(self._running.values())

    def find(self, request_id: int) -> RequestRun | None:
        """A request that is under way, or whose end is being written down."""
        return self._running.get(request_id)

    async def close(self) -> None:
        """Cancel what is under way and wait for it. Nothing begins any more."""
        self._closed = True
        await asyncio.gather(*(run.cancel() for run in self.running()))

    def _begun(self, run: RequestRun, beginning: Coroutine[Any, Any, Sequence]) -> RequestRun:
        """Have a request go on by itself from here."""
        self._running[run.id] = run
        run.on_over = lambda: self._over(run)
        run.task = asyncio.get_running_loop().create_task(self._follow(run, beginning), name=f"request {run.id}")
        # Cancelled before its first step, or once more while it ends, it does not come to say so itself.
        run.task.add_done_callback(lambda _: run.cancelled())
        run.task.add_done_callback(lambda _: beginning.close())
        return run

    async def take_back(self) -> list[RequestRun]:
        """Go on with what an earlier controller left under way, with the tokens that its agents still have or with
        those that were written down; what no agent had yet begins anew."""
        left = await self._registry.call(lambda known: known.requests.under_way())
        if left:
            log.info("going on with the requests %s of an earlier controller", ", ".join(str(each.id) for each in left))
        self._deployments.left_under_way(each.deployment_id for each in left if each.deployment_id is not None)
        runs = []
        for record in left:
            recorded: Future[None] = Future()
            recorded.set_result(None)
            origin = origin_of(record.origin)
            run = RequestRun(
                self._registry, record, recorded, origin=origin, keep_times=self.records().keep_token_times
            )
            run.left_by_another()
            runs.append(self._begun(run, self._begin_anew(run) if waits(record) else self._go_on(run)))
        return runs

    async def _begin(
        self,
        run: RequestRun,
        description: ModelDescription,
        prompt: Prompt,
        parameters: GenerationParameters,
        deployment: str | None,
    ) -> Sequence:
        await run.recorded()
        ids, tokenizer, format = await asyncio.to_thread(self._tokenize, description, prompt, parameters)
        eos = await asyncio.to_thread(end_ids, description.path) if tokenizer is None else tokenizer.eos_ids
        # What can never run is refused before anything is loaded for it.
        parameters.budget(eos, len(ids), description.max_context)
        origin = run.recorder.origin
        record, pipeline = await self._deployments.acquire(description, run.preparing, deployment, ids, origin)
        budget = parameters.budget(eos, len(ids), record.serving.longest)
        facts = await self._deployments.facts(record, pipeline, description)
        run.foretell = partial(self._deployments.foretell, record, pipeline, description, len(ids))
        rules = _rules(parameters, format, tokenizer)
        run.begin(ids, tokenizer, rules, record.id, facts, format, (*budget.eos, *budget.stops))
        sequence = self._sequence(run, ids, ids, parameters, budget, description, tokenizer)
        await pipeline.start(sequence)
        if sequence.times_started:  # else it waits for a stage that was lost
            run.started()
        return sequence

    async def _begin_anew(self, run: RequestRun) -> Sequence:
        """The earlier controller had not come to hand it to its agents."""
        waiting = Waiting.of(run.record)
        description, defaults = await asyncio.to_thread(self._known, run.record.model_name)
        run.recorder.notes, run.apart = defaults.notes, waiting.apart
        parameters = GenerationParameters.from_json(run.record.parameters)
        return await self._begin(run, description, waiting.prompt, parameters, waiting.deployment)

    async def _go_on(self, run: RequestRun) -> Sequence:
        record = run.record
        description = await asyncio.to_thread(self._library.get, record.model_name)
        parameters = GenerationParameters.from_json(record.parameters)
        tokenizer, format = await asyncio.to_thread(self._read_again, description, record)
        eos = await asyncio.to_thread(end_ids, description.path) if tokenizer is None else tokenizer.eos_ids
        deployed, pipeline = await self._deployments.take_back(
            record.deployment_id, description, run.preparing, run.recorder.origin
        )
        ids = record.prompt_token_ids
        budget = parameters.budget(eos, len(ids), deployed.serving.longest)
        facts = await self._deployments.facts(deployed, pipeline, description)
        run.foretell = partial(self._deployments.foretell, deployed, pipeline, description, len(ids))
        # Log probabilities were not written down: who asked for them has all tokens told again, or computed.
        scored = parameters.logprobs is not None or parameters.prompt_logprobs is not None
        tokens = () if scored else record.token_ids
        ends = (*budget.eos, *budget.stops)
        run.go_on(tokenizer, _rules(parameters, format, tokenizer), facts, format, ends, tokens)
        sequence = self._sequence(run, (*ids, *tokens), ids, parameters, budget, description, tokenizer)
        if run.text_stopped or (tokens and tokens[-1] in ends and not parameters.ignore_eos):
            run.ended("stop")
        elif len(tokens) >= budget.max_tokens:
            run.ended("length")
        else:
            if pipeline.deployment != record.deployment_id:
                run.moved(pipeline.deployment)
            await pipeline.go_on(sequence, **_known_by(record))
        return sequence

    def _sequence(
        self,
        run: RequestRun,
        tokens: Collection[int],
        prompt: Collection[int],
        parameters: GenerationParameters,
        budget: Budget,
        description: ModelDescription,
        tokenizer: Tokenizer | None,
    ) -> Sequence:
        return Sequence(
            list(tokens),
            len(prompt),
            parameters.sampling(description.vocab_size),
            budget,
            run,
            self._group(run),
            None if parameters.constraint is None else parameters.constraint.wire(),
            None if tokenizer is None else tokenizer.to_json,
        )

    def _read_again(
        self, description: ModelDescription, record: RequestRecord
    ) -> tuple[Tokenizer | None, ChatFormat | None]:
        """What reads the answer of a request that an earlier controller began."""
        tokenizer = self._find_tokenizer(description)
        if tokenizer is None or not record.sequence.get("chat"):
            return tokenizer, None
        return tokenizer, self._format_after(description, tokenizer, record.prompt_token_ids)

    def answer_format(self, record: RequestRecord) -> ChatFormat:
        """How a chat's answer is written that was asked for earlier: call it in a thread. Raises ModelError."""
        description = self._library.get(record.model_name)
        return self._format_after(description, self._tokenizer(description), record.prompt_token_ids)

    def _format_after(self, description: ModelDescription, tokenizer: Tokenizer, prompt: tuple[int, ...]) -> ChatFormat:
        end = tokenizer.backend.decode(list(prompt[-16:]), skip_special_tokens=False)
        return self._template(description, tokenizer).format(tokenizer).after(end)

    async def _follow(self, run: RequestRun, beginning: Coroutine[Any, Any, Sequence]) -> None:
        """See a request through to its end, whatever that is."""
        sequence = None
        try:
            sequence = await beginning
            await run.foretold()  # while its prompt is read: no first token waits for that
            reason = await run.finished()
            if run.text_stopped:
                await sequence.cancel()
            if sequence.pipeline is not None:
                run.remembers(self._deployments.memory(sequence.pipeline.stages))
            run.complete(reason)
        except asyncio.CancelledError:
            if sequence is not None:
                await asyncio.shield(sequence.cancel())
            run.cancelled()
        except ShardboardError as error:
            run.fail(error)
            if sequence is not None:
                await sequence.cancel()  # the agents may go on with it, if it alone has failed
        except Exception as error:  # a bug of ours: the request must still end, and the log must have it
            log.exception("request %d failed", run.id)
            run.fail(
                ShardboardError(f"The request failed: {type(error).__name__}: {error}.", "This is a bug; see the log.")
            )
            if sequence is not None:
                await sequence.cancel()

    def _tokenize(
        self, description: ModelDescription, prompt: Prompt, parameters: GenerationParameters
    ) -> tuple[list[int], Tokenizer | None, ChatFormat | None]:
        tokenizer, format = self._find_tokenizer(description), None
        if parameters.chat_template_kwargs and not isinstance(prompt, ChatPrompt):
            raise RequestError(
                "chat_template_kwargs has no effect: the prompt does not go through a chat template.", "Leave it out."
            )
        match prompt:
            case TokenPrompt(token_ids):
                ids = list(token_ids)
            case TextPrompt(text):
                ids = self._tokenizer(description).encode(text)
            case ChatPrompt():
                text, format = self._rendered(description, prompt, parameters)
                ids = self._tokenizer(description).encode(text, add_special_tokens=False)
        if not ids:
            raise RequestError("The prompt is empty.", "Write something to go on from.")
        outside = next((token for token in ids if not 0 <= token < description.vocab_size), None)
        if outside is not None:
            raise _outside(description, outside, prompt, tokenizer)
        if len(ids) > MAX_LOOKED_BACK and parameters.sampling().looks_back:
            raise RequestError(
                f"The prompt has {len(ids):,} tokens; penalties and log probabilities of a prompt look back at "
                f"{MAX_LOOKED_BACK:,} at most.",
                "Leave them out, or shorten the prompt.",
            )
        return ids, tokenizer, format

    def _rendered(
        self, description: ModelDescription, prompt: ChatPrompt, parameters: GenerationParameters
    ) -> tuple[str, ChatFormat]:
        """A conversation as the model's template has it, and how the answer to it is written. Raises RequestError."""
        tokenizer, variables = self._tokenizer(description), parameters.chat_template_kwargs
        template = self._template(description, tokenizer)
        if variables:
            refuse_unread(variables, template.variables(with_tools=prompt.tools is not None))
        text = template.render(prompt.messages, prompt.tools, **variables)
        format = template.format(tokenizer)
        if parameters.constraint is not None:  # it holds from the first token on, and leaves no room for thinking
            text += format.without_thinking(text)
        return text, format.after(text)

    def tokenizer(self, model: str) -> Tokenizer:
        """A model's tokenizer, read when it is first asked for: call it in a thread. Raises ModelError."""
        return self._tokenizer(self._library.get(model))

    def defaults(self, model: str) -> ModelDefaults:
        """What a model's own files ask of each generation: call it in a thread. Raises ModelError."""
        return self._known(model)[1]

    def template(self, model: str) -> ChatTemplate:
        """A model's chat template. Raises RequestError when it has none."""
        description = self._library.get(model)
        return self._template(description, self.tokenizer(model))

    def _known(self, model: str) -> tuple[ModelDescription, ModelDefaults]:
        description = self._library.get(model)
        return description, ModelDefaults.open(description.path).within(description.vocab_size)

    def _find_tokenizer(self, description: ModelDescription) -> Tokenizer | None:
        """None for a model that has none, or one that cannot be read."""
        try:
            return self._tokenizer(description)
        except ModelError:
            return None

    def _tokenizer(self, description: ModelDescription) -> Tokenizer:
        if description.name not in self._tokenizers:
            place = description.tokenizer_path
            opened = Tokenizer.open(description.path, place)
            template = ChatTemplate.open(place, opened.named_tokens)
            self._tokenizers[description.name] = with_chat_ends(opened, template)
        return self._tokenizers[description.name]

    def _template(self, description: ModelDescription, tokenizer: Tokenizer) -> ChatTemplate:
        if description.name not in self._templates:
            self._templates[description.name] = ChatTemplate.open(description.tokenizer_path, tokenizer.named_tokens)
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


def _rules(parameters: GenerationParameters, format: ChatFormat | None, tokenizer: Tokenizer | None) -> TextRules:
    rules = parameters.text_rules()
    return rules if format is None or tokenizer is None else replace(rules, shown=format.shown(tokenizer))


def _known_by(record: RequestRecord) -> dict[str, int]:
    """The number and the epoch by which agents know a request, of an epoch that never was where that is not known."""
    number, epoch = record.sequence.get("number"), record.sequence.get("epoch")
    if isinstance(number, int) and isinstance(epoch, int):
        return {"number": number, "epoch": epoch}
    return {"number": 0, "epoch": -1}


def _recorded(parameters: GenerationParameters, keep_text: bool) -> dict[str, Any]:
    """The parameters as the registry keeps them: what the template is given may be texts of the user's."""
    values = parameters.to_json()
    if not keep_text:
        values.pop("chat_template_kwargs", None)
    return values


def _outside(description: ModelDescription, token: int, prompt: Prompt, tokenizer: Tokenizer | None) -> RequestError:
    """Why a token that the model does not have cannot be sent to it, and who put it there."""
    where = f"is outside the vocabulary of {description.name}, 0 to {description.vocab_size - 1}"
    text = tokenizer.text_of(token) if tokenizer is not None and 0 <= token < tokenizer.vocab_size else None
    if isinstance(prompt, TokenPrompt) or text is None:
        return RequestError(f"Token id {token} {where}.", "Leave it out.")
    if text in prompt.shown:
        cause = f"the prompt has '{text}' in it"
        advice = "Leave that text out; the tokenizer knows more tokens than the model."
    elif isinstance(prompt, ChatPrompt):
        cause = f"the chat template writes '{text}'"
        advice = "Its template or tokenizer is another model's: get both anew, or send a raw prompt instead."
    else:
        cause = f"its tokenizer puts '{text}' into every prompt"
        advice = "Get the tokenizer anew from where the model came, or give the prompt as token ids."
    return RequestError(f"Token id {token} {where}: {cause}, which the model was not made for.", advice)

"""One request on its way: tokens in from the pipeline, text and events out, the record kept.

The controller alone commits a token: it goes into the record first, then it is shown. What is committed is
never changed, repeated or skipped.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec

from app.errors import NodeError, RequestError, ShardboardError
from app.inference.chat_format import ChatFormat
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
from app.inference.request_recorder import Facts, RequestRecorder
from app.inference.sequence import HANDOVER
from app.inference.stages import PipelineStage
from app.inference.text_stream import TextRules, TextStream
from app.inference.tokenizer import Tokenizer
from app.registry import Registry, RequestRecord, RequestStatus
from app.runs.foreseen import stage_comparisons
from app.runs.interruptions import interruption_text
from app.runs.run import Run
from app.runs.trace import (
    UNKNOWN,
    ChunkTime,
    Foreseen,
    NodeMemory,
    Origin,
    RequestTrace,
    TokenLogprob,
    TokenTime,
    pack,
)
from worker_agent.wire.messages import Scored, StageTime, Token

log = logging.getLogger(__name__)

NAMED_SECONDS = 0.5
"""For the stage whose numbers were none to say so before the last one, which only saw what came of it."""
SAVE_SECONDS = 1.0
"""How often the tokens so far are written to the registry while a request runs."""
SOON_SECONDS = 0.05
"""After which a request is written down as under way, if the agents do not have it before."""
FORETOLD_SECONDS = 0.5
"""How long what is predicted of a request waits for its first token, which comes later where it takes a core."""


class RequestRun:
    """A request that is under way or over. Iterate over it for its events; the last one is Finished.

    Everything happens on the controller's loop, which never waits for the disk here: the record is changed in memory
    and written behind. Several may iterate; each sees all events from the first on.

    Args:
        record: as it was begun.
        recorded: done when that is on the disk.
        keep_text: write down the text and the tokens of prompt and answer.
        keep_times: write down where each token's time went.
    """

    def __init__(
        self,
        registry: Registry,
        record: RequestRecord,
        recorded: Future[None],
        *,
        origin: Origin = UNKNOWN,
        keep_text: bool = True,
        keep_times: bool = True,
    ) -> None:
        self._registry = registry
        self._recorded = recorded
        self._keep_text = keep_text
        self.record = record
        self.recorder = RequestRecorder(origin, keep_times)
        self.token_ids = list(record.token_ids)
        """Of the answer so far; of what an earlier controller began, at first what it wrote down."""
        self.logprobs: list[TokenLogprob] = []
        """One for each token, when they were asked for."""
        self.prompt_logprobs: list[TokenLogprob | None] = []
        """One for each token of the prompt, when they were asked for; nothing can be said of the first."""
        self.apart = False
        """Whether it begins with its first token, whatever earlier prompts have left in memory."""
        self.format: ChatFormat | None = None
        """How the answer is written, if it is a chat's and has begun."""
        self.foretell: Callable[[], Awaitable[Foreseen | None]] | None = None
        """Says what is predicted of it, once it is known what it runs on."""
        self.error: ShardboardError | None = None
        """What it failed with; the record has its sentence."""
        self.task: asyncio.Task[None] | None = None
        self.on_over: Callable[[], None] = lambda: None
        """Called once, when it is over and written down."""
        self._saving: Future[None] | None = None
        self._loop = asyncio.get_running_loop()
        self._events: list[RequestEvent] = []
        self._changed = asyncio.Event()
        self._has_started = False
        self._text: TextStream | None = None
        self._prompt: tuple[int, ...] = ()
        self._ends = frozenset[int]()
        self._over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._answers = asyncio.Event()
        """Whether it has a token, or is over."""
        self._over.add_done_callback(lambda _: self._answers.set())
        self._soon: asyncio.TimerHandle | None = None
        """The write that is to come unless another comes before it."""
        self._submitted = time.monotonic()
        self._times: dict[str, float] = {}
        self._first_token_at = self._last_token_at = 0.0
        self._saved_at = 0.0

    @property
    def id(self) -> int:
        return self.record.id

    @property
    def is_over(self) -> bool:
        return self.record.status.is_over

    @property
    def keeps_text(self) -> bool:
        """Whether text and tokens of prompt and answer are written down, as the settings had it when it began."""
        return self._keep_text

    @property
    def prompt_token_ids(self) -> tuple[int, ...]:
        """Empty until the prompt is tokenized."""
        return self._prompt

    @property
    def cached_tokens(self) -> int:
        """How many of the prompt's tokens an earlier one had left, so far as that is known."""
        return self.recorder.cached_tokens

    @property
    def tokens(self) -> list[TokenTime]:
        """Where the time of each token so far went."""
        return self.recorder.tokens

    @property
    def chunks(self) -> list[ChunkTime]:
        return self.recorder.chunks

    def trace(self) -> RequestTrace:
        """What is known of its course until now, and may be kept."""
        return self.recorder.trace(self.logprobs, self.prompt_logprobs, keep_text=self.keeps_text)

    def as_of_now(self, run: Run) -> Run:
        """A run read from the registry with what has come since: the registry hears of it once a second, and at last.

        Where texts are not kept, its course alone.
        """
        if not self.keeps_text or run.request is None:
            return msgspec.structs.replace(run, trace=self.trace())
        facts = msgspec.structs.replace(
            run.request,
            result=self.text,
            token_ids=tuple(self.token_ids),
            prompt_token_ids=self.prompt_token_ids or run.request.prompt_token_ids,
            completion_tokens=len(self.token_ids),
        )
        return msgspec.structs.replace(run, trace=self.trace(), request=facts)

    @property
    def text(self) -> str:
        """What has been shown so far."""
        return self.record.result if self._text is None else self._text.text

    @property
    def text_stopped(self) -> bool:
        """Whether a stop string ended the answer, while the agents would go on."""
        return self._text is not None and self._text.stopped

    async def __aiter__(self) -> AsyncIterator[RequestEvent]:
        position = 0
        while True:
            while position < len(self._events):
                event = self._events[position]
                position += 1
                yield event
                if isinstance(event, Finished):
                    return
            self._changed.clear()
            await self._changed.wait()

    async def wait(self) -> RequestRecord:
        """Wait until it is over; its record."""
        async for _ in self:
            pass
        return self.record

    async def cancel(self) -> None:
        """End it and wait until it is over; what was generated so far stays in the record.

        Whoever asks for it again waits with the first: a second cancellation would break off the freeing of memory.
        """
        if self.task is not None and not self.is_over and not self.task.cancelling():
            self.task.cancel()
        await self.wait()

    # --- what the pipeline tells (a Sink) --------------------------------------------------------------

    def handed_over(self, deployment: str, number: int, epoch: int) -> None:
        self.recorder.handed_over()
        if self.record.deployment_id != deployment:
            self._change(deployment_id=deployment)
        if self._keep_text:
            sequence: dict[str, object] = {"number": number, "epoch": epoch, "chat": self.format is not None}
            self._change(sequence=sequence)
            self._saving = self._save()

    def sampled(self, token: Token, times: Sequence[StageTime] = (), batch: int = 1) -> None:
        if self._over.done() or token.position != len(self._prompt) + len(self.token_ids):
            return  # it came twice, or after the end
        self.started()
        if token.finish == "barred":  # none was chosen
            self.failed(_without_a_token(token.finish))
            return
        if token.finish == "numbers":
            self._loop.call_later(NAMED_SECONDS, self.failed, _without_a_token(token.finish))
            return
        now = time.monotonic()
        if not self.token_ids:
            self._first_token_at = now
        self._last_token_at = now
        self.token_ids.append(token.token)
        self._answers.set()
        self.recorder.token(times, batch)
        if token.logprob is not None:
            top = tuple((other.token, other.logprob) for other in token.top)
            self.logprobs.append(TokenLogprob(token.token, token.logprob, top))
        assert self._text is not None
        shown = self._text.add(token.token, ends=token.finish == "eos" and token.token in self._ends)
        if shown:
            self._tell(TextDelta(shown, len(self.token_ids)))
        if self._text.stopped:
            self._over.set_result("stop")
        elif token.finish == "constraint":
            self.failed(
                RequestError(
                    "The answer could not be held to the wanted form: its grammar became too large.",
                    "Ask for a simpler one.",
                )
            )
        elif token.finish:
            self._over.set_result("stop" if token.finish == "eos" else "length")
        elif now - self._saved_at > SAVE_SECONDS and (self._saving is None or self._saving.done()):
            self._saved_at = now
            self._change(token_ids=tuple(self.token_ids), result=self._text.text, completion_tokens=len(self.token_ids))
            self._saving = self._save()

    def cached(self, tokens: int) -> None:
        self.recorder.cached_tokens = min(tokens, len(self._prompt))

    def prefilled(self, done: int, times: Sequence[StageTime] = ()) -> None:
        self.started()
        self.recorder.chunk(min(done, len(self._prompt)), times)
        self._tell(PromptProgress(min(done, len(self._prompt)), len(self._prompt)))

    def prompt_scored(self, scored: Scored) -> None:
        if scored.position == len(self.prompt_logprobs):  # else it came twice
            for token in scored.tokens:
                top = tuple((other.token, other.logprob) for other in token.top)
                self.prompt_logprobs.append(TokenLogprob(token.token, token.logprob, top))

    def interrupted(self, error: NodeError) -> None:
        planned = error.kind == HANDOVER
        self.recorder.interrupted(error.node, error.message, planned=planned)
        goes_on = "in a moment" if planned else "as soon as its layers are there again"
        self._tell(Interrupted(f"{error.message.rstrip('.')}. The answer goes on {goes_on}."))

    def resumed(self, what: str, exact: bool, stages: Sequence[PipelineStage]) -> None:
        where = [(stage.start, stage.end, stage.node_name) for stage in stages]
        if (interruption := self.recorder.resumed(what, exact, len(self.token_ids), where)) is not None:
            self._tell(Continued(interruption_text(interruption), exact, interruption.lasted_us / 1e6))

    def failed(self, error: ShardboardError) -> None:
        if not self._over.done():
            self._over.set_exception(error)

    # --- what the service tells ------------------------------------------------------------------------

    def moved(self, deployment: str) -> None:
        """It goes on in another deployment than it began in."""
        self._change(deployment_id=deployment)
        self._saving = self._save()

    def preparing(self, what: str) -> None:
        self._tell(Preparing(what))

    async def recorded(self) -> None:
        """Wait until the request is written down as begun. Raises what the registry raises, DiskFullError for one.

        Cancelling the wait does not cancel the write.
        """
        await asyncio.shield(asyncio.wrap_future(self._recorded))

    def begin(
        self,
        prompt: Sequence[int],
        tokenizer: Tokenizer | None,
        rules: TextRules,
        deployment: str,
        facts: Facts | None = None,
        format: ChatFormat | None = None,
        ends: Collection[int] = (),
    ) -> None:
        """The prompt is tokenized and a pipeline is there.

        Args:
            ends: the tokens that end it. What ends with a grammar has another one as its last.
        """
        self._prompt, self.format, self._ends = tuple(prompt), format, frozenset(ends)
        if self.record.parameters.get("prompt_logprobs") is not None:
            self.prompt_logprobs = [None]
        self._text = TextStream(tokenizer, rules)
        self._times["prepare"] = time.monotonic() - self._submitted
        self.recorder.facts = facts
        self._change(
            status=RequestStatus.PROCESSING,
            deployment_id=deployment,
            prompt_token_ids=self._prompt,
            prompt_tokens=len(self._prompt),
            started_at=datetime.now(UTC),
        )
        # It is handed over in a moment as a rule, and is written down then: where the agents run on this machine, too,
        # each time costs their first step a core.
        self._soon = self._loop.call_later(SOON_SECONDS, self._save_begun)

    def _save_begun(self) -> None:
        self._saving = self._save()

    async def foretold(self) -> None:
        """Have its trace say what is predicted of it: when it answers, or its prompt takes long."""
        if self.foretell is not None and self.recorder.facts is not None:
            with suppress(TimeoutError):  # wait_for of Python 3.11 loses a cancellation that comes with the first token
                async with asyncio.timeout(FORETOLD_SECONDS):
                    await self._answers.wait()
            try:
                self.recorder.facts = replace(self.recorder.facts, foreseen=await self.foretell())
            except Exception:  # whatever it is, it is no reason to give up an answer
                log.exception("what is predicted of request %d is not known", self.id)
            self.foretell = None

    def left_by_another(self) -> None:
        """An earlier controller was asked for it: its times count from then."""
        self._submitted -= max(0.0, (datetime.now(UTC) - self.record.created_at).total_seconds())
        self.recorder.submitted = self._submitted

    def go_on(
        self, tokenizer: Tokenizer | None, rules: TextRules, facts: Facts, format: ChatFormat | None,
        ends: Collection[int], tokens: Sequence[int],
    ) -> None:  # fmt: skip
        """An earlier controller began it: go on behind these tokens of its answer."""
        self._prompt, self.format, self._ends = self.record.prompt_token_ids, format, frozenset(ends)
        if self.record.parameters.get("prompt_logprobs") is not None:
            self.prompt_logprobs = [None]
        self._text = TextStream(tokenizer, rules)
        self.recorder.facts = facts
        self.token_ids = list(tokens)
        self.recorder.interrupted("the controller", "It ended without a word")
        self.started()
        if shown := "".join(self._text.add(token) for token in tokens):
            self._tell(TextDelta(shown, len(self.token_ids)))

    def started(self) -> None:
        """The agents have it. Told once, before anything that comes of it."""
        if not self._has_started:
            self._has_started = True
            self._tell(Started(self.id, len(self._prompt), self.format))

    async def finished(self) -> str:
        """Wait for the pipeline's last word: the finish reason. Raises NodeError."""
        return await self._over

    def ended(self, reason: str) -> None:
        """Nothing more has to come."""
        if not self._over.done():
            self._over.set_result(reason)

    def complete(self, reason: str) -> None:
        """It ended well."""
        if self._text is not None and reason != "cancelled" and (rest := self._text.finish()):
            self._tell(TextDelta(rest, len(self.token_ids)))
        self._end(RequestStatus.COMPLETED, reason, None)

    def remembers(self, memory: tuple[NodeMemory, ...]) -> None:
        """How the nodes' memory was at the end."""
        self.recorder.memory = memory

    def cancelled(self) -> None:
        self._end(RequestStatus.CANCELLED, "cancelled", "Cancelled by the user.")

    def fail(self, error: ShardboardError) -> None:
        """It failed; the text so far stays."""
        self.error = self.error or error
        self._end(RequestStatus.FAILED, "error", str(error))

    def _end(self, status: RequestStatus, reason: str, error: str | None) -> None:
        if self.is_over:
            return
        if not self._over.done():
            self._over.cancel()
        elif not self._over.cancelled():
            self._over.exception()  # seen: it is in the record
        self._change(
            status=status,
            finish_reason=reason,
            error=error,
            result=self.text,
            token_ids=tuple(self.token_ids),
            completion_tokens=len(self.token_ids),
            timings=self._timings(),
            completed_at=datetime.now(UTC),
            sequence={},
        )
        trace = self.trace()
        if status is RequestStatus.COMPLETED and (learned := stage_comparisons(trace)):
            self._registry.comparisons.keep(learned)  # should that fail, the next prediction is none the worse
        self._save(pack(trace)).add_done_callback(self._written)

    def _written(self, written: Future[None]) -> None:
        """In the registry's thread: the end is on the disk, or cannot be written."""
        if (error := written.exception()) is not None:
            log.error("request %d could not be written down: %s", self.id, error)
        self._loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        self._tell(Finished(self.record))
        self.on_over()

    def _timings(self) -> dict[str, float]:
        now = time.monotonic()
        times = {**self._times, "total": now - self._submitted}
        if self.token_ids:
            times["first_token"] = self._first_token_at - self._submitted
            times["decode"] = self._last_token_at - self._first_token_at
            if len(self.token_ids) > 1 and times["decode"] > 0:
                times["tokens_per_second"] = (len(self.token_ids) - 1) / times["decode"]
        return {name: round(value, 6) for name, value in times.items()}

    def _change(self, **changes: Any) -> None:
        self.record = replace(self.record, **changes)

    def _save(self, trace: bytes | None = None) -> Future[None]:
        if self._soon is not None:
            self._soon.cancel()
        return self._registry.requests.save(self.record, trace=trace, keep_text=self._keep_text)

    def _tell(self, event: RequestEvent) -> None:
        self._events.append(event)
        self._changed.set()


def _without_a_token(finish: str) -> ShardboardError:
    if finish == "numbers":
        return NodeError(
            "The last stage failed: its logits are not finite numbers, so no token can be chosen.",
            "Deploy the model in bfloat16 or float32 (--dtype).",
            kind="numbers",
        )
    return RequestError(
        "The parameters leave no token to choose: biases, suppressed tokens, bad words or n-grams that may not come "
        "again rule out all of them.",
        "Change them and send the request again.",
    )

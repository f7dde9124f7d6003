"""A sequence as the controller follows it: a request inside a pipeline, with all that it takes to start it again."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from typing import Protocol

from msgspec.structs import replace

from app.errors import NodeError, ShardboardError
from app.inference.stages import PipelineStage
from worker_agent.wire.messages import Budget, Constraint, Sampling, Scored, StageTime, Token

VAIN_RECOVERIES = 5
"""A sequence that was started again so often without getting on any further is given up: it may be the very one that
brings a stage down each time, or one that no stage can run."""
HANDOVER = "handover"
"""The kind of what interrupts sequences while a stage of theirs is handed over: nothing was lost."""
NO_SCORES = 2**31 - 1
"""A position beyond every prompt."""


class Sink(Protocol):
    """Who waits for a sequence. Called on the controller's loop; must not block."""

    def handed_over(self, deployment: str, number: int, epoch: int) -> None:
        """The sequence is on its way to a deployment's first stage, which knows it by these. What it brings may come
        before the answer to that, and it may be handed over again."""

    def sampled(self, token: Token, times: Many[StageTime], batch: int) -> None:
        """A token came, by a step that took so long on each stage and brought `batch` tokens in all."""

    def cached(self, tokens: int) -> None:
        """So many of its first tokens did not have to be computed: an earlier prompt began in the same way."""

    def prefilled(self, done: int, times: Many[StageTime]) -> None:
        """So many of the prompt's tokens are in the caches now."""

    def prompt_scored(self, scored: Scored) -> None:
        """Log probabilities of some of the prompt's tokens, before the first token is sampled."""

    def interrupted(self, error: NodeError) -> None:
        """A stage was lost; it is being seen to, and the sequence will go on, or fail."""

    def resumed(self, what: str, exact: bool, stages: Many[PipelineStage]) -> None:
        """It goes on, over these stages. `what` was done, in a sentence; `exact`: the tokens are those that would have
        come anyway."""

    def failed(self, error: ShardboardError) -> None: ...


class Home(Protocol):
    """Where a sequence runs: a pipeline."""

    stages: tuple[PipelineStage, ...]

    async def cancel(self, sequence: Sequence) -> None:
        """End a sequence and free its memory on every stage."""


@dataclass(eq=False)
class Sequence:
    """One request's tokens and wishes, and where it runs. Belongs to the controller's loop.

    Args:
        tokens: prompt and answer so far, as ids.
        group: only sequences of one group may begin with each other's tokens.
        constraint: the grammar that the sampling names.
        tokenizer: gives the model's tokenizer.json when the last stage needs it to follow a grammar.
    """

    tokens: list[int]
    prompt_tokens: int
    sampling: Sampling
    budget: Budget
    sink: Sink
    group: str = ""
    constraint: Constraint | None = None
    tokenizer: Callable[[], bytes] | None = None
    number: int = 0
    pipeline: Home | None = None
    times_started: int = 0
    is_over: bool = False
    _scored: int = field(init=False)
    _prefilled: int = 0
    _vain: int = 0
    _mark: tuple[int, int, int] = (-1, -1, -1)

    def __post_init__(self) -> None:
        self._scored = 1 if self.sampling.prompt_logprobs >= 0 else NO_SCORES

    @property
    def wanted(self) -> tuple[int, int, int]:
        """Its number, the index of the token that comes next, and of the next scored one of its prompt."""
        return self.number, len(self.tokens), self._scored if self._scored < self.prompt_tokens else NO_SCORES

    @property
    def certain(self) -> int:
        """How many of its tokens every stage has computed: all that came round."""
        return len(self.tokens) - 1 if len(self.tokens) > self.prompt_tokens else self._prefilled

    def sampling_left(self) -> Sampling:
        """How it is sampled from here on: what was scored of the prompt need not be scored again."""
        if self._scored < self.prompt_tokens or self.sampling.prompt_logprobs < 0:
            return self.sampling
        return replace(self.sampling, prompt_logprobs=-1)

    def gets_on(self) -> bool:
        """Called when it is interrupted: whether it is worth starting again."""
        mark = (len(self.tokens), self._prefilled, self._scored)
        self._vain = self._vain + 1 if mark == self._mark else 0
        self._mark = mark
        return self._vain < VAIN_RECOVERIES

    async def cancel(self) -> None:
        """End it and free its memory on every stage."""
        if self.pipeline is not None:
            await self.pipeline.cancel(self)

    # --- what the pipeline brings; False where something before it is missing ---

    def sampled(self, token: Token, times: Many[StageTime], batch: int) -> bool:
        if token.position > len(self.tokens):
            return False
        if token.position == len(self.tokens) and not self.is_over:
            if token.finish not in ("numbers", "barred"):
                self.tokens.append(token.token)
            # After "numbers" the stage that they came from may still have its word, over a connection of its own.
            self.is_over = bool(token.finish) and token.finish != "numbers"
            self.sink.sampled(token, times, batch)
        return True

    def scored(self, scored: Scored) -> bool:
        if scored.position > self._scored:
            return self._scored == NO_SCORES
        fresh = scored.tokens[self._scored - scored.position :]
        if fresh:
            position, self._scored = self._scored, self._scored + len(fresh)
            self.sink.prompt_scored(Scored(self.number, position, fresh))
        return True

    def prefilled(self, done: int, times: Many[StageTime]) -> None:
        if done > self._prefilled and len(self.tokens) == self.prompt_tokens:
            self._prefilled = done
            self.sink.prefilled(done, times)

    def cached(self, tokens: int) -> None:
        if self.times_started == 1:
            self.sink.cached(tokens)

"""Takes down where a request's time goes while it runs, and makes its trace of that."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from app.runs.trace import (
    UNKNOWN,
    ChunkTime,
    Foreseen,
    Interruption,
    LayersWent,
    ModelFacts,
    NodeFacts,
    NodeMemory,
    Origin,
    Plan,
    RequestTrace,
    StageShare,
    TokenLogprob,
    TokenTime,
    Versions,
)
from worker_agent.wire.messages import StageTime

Where = tuple[int, int, str]
"""Layers [start, end) and the name of the node that has them."""


@dataclass(frozen=True)
class Facts:
    """What a request ran on."""

    versions: Versions
    model: ModelFacts
    plan: Plan
    nodes: tuple[NodeFacts, ...]
    foreseen: Foreseen | None = None


@dataclass
class RequestRecorder:
    """The times of one request. Belongs to the controller's loop; every call is short."""

    origin: Origin = UNKNOWN
    keep_times: bool = True
    facts: Facts | None = None
    tokens: list[TokenTime] = field(default_factory=list)
    chunks: list[ChunkTime] = field(default_factory=list)
    memory: tuple[NodeMemory, ...] = ()
    notes: tuple[str, ...] = ()
    """What the model's own files asked for in vain."""
    cached_tokens: int = 0
    """Tokens of the prompt that did not have to be computed."""
    interruptions: list[Interruption] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.submitted = time.monotonic()
        self._last = self.submitted
        self._first_step: float | None = None
        self._lost: tuple[float, str, str, bool] | None = None
        self._where: tuple[Where, ...] = ()

    def handed_over(self) -> None:
        """The sequence is on its way to the agents. What comes first counts from here."""
        if self._first_step is None:
            self._first_step = self._last = time.monotonic()

    def interrupted(self, node: str, reason: str, *, planned: bool = False) -> None:
        """A stage was lost, or is handed over. Told again before it has been seen to, that is the same interruption,
        and whatever was lost is what has to be told."""
        before = self._lost
        if before is None or (before[3] and not planned):
            self._lost = (time.monotonic() if before is None else before[0], node, reason, planned)

    def resumed(self, what: str, exact: bool, tokens: int, where: Sequence[Where]) -> Interruption | None:
        """The agents have it again, `tokens` of the answer having come. What they bring next counts from here."""
        before, self._where = self._where or self._planned(), tuple(where)
        if self._lost is None:
            return None
        now, (at, node, reason, planned) = time.monotonic(), self._lost
        self._lost, self._last = None, now
        interruption = Interruption(
            at_us=_us(at - self.submitted),
            lasted_us=_us(now - at),
            tokens=tokens,
            node=node,
            reason=reason,
            what=what,
            planned=planned,
            exact=exact,
            layers=_went(before, where, node),
        )
        self.interruptions.append(interruption)
        return interruption

    def _planned(self) -> tuple[Where, ...]:
        """Where the layers were when it began."""
        plan = None if self.facts is None else self.facts.plan
        return () if plan is None else tuple((stage.start, stage.end, stage.node) for stage in plan.stages)

    def token(self, times: Sequence[StageTime], batch: int) -> None:
        at, took = self._step()
        self.tokens.append(TokenTime(at, took, batch, _shares(times)))

    def chunk(self, done: int, times: Sequence[StageTime]) -> None:
        at, took = self._step()
        self.chunks.append(ChunkTime(at, took, done, _shares(times)))

    def trace(
        self,
        logprobs: Sequence[TokenLogprob],
        prompt_logprobs: Sequence[TokenLogprob | None],
        *,
        keep_text: bool = True,
    ) -> RequestTrace:
        """What is known until now."""
        facts = self.facts
        return RequestTrace(
            origin=self.origin,
            versions=None if facts is None else facts.versions,
            model=None if facts is None else facts.model,
            plan=None if facts is None else facts.plan,
            nodes=() if facts is None else facts.nodes,
            first_step_us=0 if self._first_step is None else _us(self._first_step - self.submitted),
            chunks=tuple(self.chunks) if self.keep_times else (),
            tokens=tuple(self.tokens) if self.keep_times else (),
            # They name tokens, and so tell the text.
            logprobs=tuple(logprobs) if keep_text else (),
            prompt_logprobs=tuple(prompt_logprobs) if keep_text else (),
            memory=self.memory,
            prompt_kept=keep_text,
            notes=self.notes,
            cached_tokens=self.cached_tokens,
            interruptions=tuple(self.interruptions),
            foreseen=None if facts is None else facts.foreseen,
        )

    def _step(self) -> tuple[int, int]:
        now = time.monotonic()
        took, self._last = now - self._last, now
        return _us(now - self.submitted), _us(took)


def _went(before: Sequence[Where], now: Sequence[Where], lost: str) -> tuple[LayersWent, ...]:
    found = []
    for start, end, node in before:
        went = ", ".join(dict.fromkeys(other for first, last, other in now if first < end and start < last))
        if node == lost or went != node:
            found.append(LayersWent(start=start, end=end, node=node, went=went))
    return tuple(found)


def _shares(times: Sequence[StageTime]) -> tuple[StageShare, ...]:
    return tuple(StageShare(each.queue_us, each.compute_us) for each in sorted(times, key=lambda each: each.stage))


def _us(seconds: float) -> int:
    return round(seconds * 1_000_000)

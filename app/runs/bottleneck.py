"""One plain sentence that says what takes the time, with figures, and what would help. Pure.

`explain` looks at one request that is over (or as far as it has come), `explain_live` at a deployment's last steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from statistics import median
from typing import Literal, Protocol
from urllib.parse import urlsplit

from msgspec import Struct

from app.figures import layers, micros, part_of, percent, token_rate
from app.runs.trace import NodeFacts, Plan, RequestTrace, StageShare
from app.runs.waterfall import Shares, StageTotals, shares, stage_totals

BottleneckKind = Literal["none", "prepare", "prompt", "compute", "queue", "wire", "balanced"]

MOST = 0.5
"""Getting ready, or reading the prompt, is what a request waited for when it is more than this of its time."""
STANDS_OUT = 0.4
"""So much of a token's time in one place is the bottleneck …"""
AHEAD = 1.3
"""… if it is a stage that computes, only when it does so much more than any other."""
SLOWER = 1.5
"""A stage that takes so much longer for a layer, and for a byte of weights, than another is on a slower node."""
LOADING_US = 1_000_000
"""Tokenizing takes milliseconds; whoever gets ready for longer has loaded something."""
PAUSE = 5
"""A gap so many times as long as usual between two steps is a time without requests."""


class Bottleneck(Struct, frozen=True, kw_only=True):
    """`share` is how much of the time it takes, 0 to 1; `stage` and `node` where it is in one place."""

    kind: BottleneckKind
    stage: int | None = None
    node: str = ""
    share: float = 0.0
    sentence: str


class LiveStep(Struct, frozen=True):
    """A step that has passed all stages, and when it was seen, in microseconds of any clock that goes on steadily."""

    at_us: int
    tokens: int
    prefilled: int
    stages: tuple[StageShare, ...]

    @classmethod
    def of(cls, step: StepLike, at_us: int) -> LiveStep:
        """Of what the pipeline tells (`app.inference.events.StepPassed`)."""
        times = sorted(step.times, key=lambda time: time.stage)
        return cls(at_us, step.tokens, step.prefilled, tuple(StageShare(t.queue_us, t.compute_us) for t in times))


class StageTimeLike(Protocol):
    @property
    def stage(self) -> int: ...
    @property
    def queue_us(self) -> int: ...
    @property
    def compute_us(self) -> int: ...


class StepLike(Protocol):
    @property
    def tokens(self) -> int: ...
    @property
    def prefilled(self) -> int: ...
    @property
    def times(self) -> Sequence[StageTimeLike]: ...


def explain(trace: RequestTrace, prompt_tokens: int | None = None) -> Bottleneck:
    """What a request's time went into. `prompt_tokens` is how long its prompt was, where that is known."""
    found = shares(trace)
    if found.total_us <= 0 or not (trace.tokens or trace.chunks):
        return _nothing(found)
    if found.prepare_us > MOST * found.total_us:
        return _prepare(found)
    if found.prompt_us > MOST * found.total_us:
        return _prompt(found, trace, prompt_tokens)
    if found.decode_us <= 0 or found.tokens < 2 or not found.stages:
        return Bottleneck(kind="balanced", sentence=_even_request(found))
    return _of_answer(_Answer(found.stages, found.decode_us, found.wire_us, found.tokens - 1), trace.plan, trace.nodes)


def explain_live(steps: Sequence[LiveStep], plan: Plan | None = None, nodes: Sequence[NodeFacts] = ()) -> Bottleneck:
    """What a deployment's time goes into, from its last steps, oldest first. Times without requests do not count.

    With several steps in flight stages compute at the same time; then the shares are of the time that passed and may
    come to more than 1 together, and what is left for the wire is a lower bound.
    """
    gaps = [later.at_us - earlier.at_us for earlier, later in pairwise(steps)]
    if len(gaps) < 2:
        return Bottleneck(kind="none", sentence="Nothing to compare yet: too few steps have passed.")
    longest = PAUSE * max(1, median(gaps))
    counted = [(step, gap) for step, gap in zip(steps[1:], gaps, strict=True) if gap <= longest]
    elapsed = sum(gap for _, gap in counted)
    count = max((len(step.stages) for step, _ in counted), default=0)
    if elapsed <= 0 or count == 0:
        return Bottleneck(kind="none", sentence="Nothing to compare yet: too few steps have passed.")
    totals = []
    for stage in range(count):
        parts = [step.stages[stage] for step, _ in counted if stage < len(step.stages)]
        totals.append(stage_totals(plan, stage, parts))
    wire = max(0, elapsed - sum(total.compute_us + total.queue_us for total in totals))
    return _of_answer(_Answer(tuple(totals), elapsed, wire, len(counted), live=True), plan, nodes)


class _Answer(Struct, frozen=True):
    """What is weighed: so many trips round the ring in so much time."""

    stages: tuple[StageTotals, ...]
    elapsed_us: int
    wire_us: int
    trips: int
    live: bool = False

    @property
    def queue_us(self) -> int:
        return sum(stage.queue_us for stage in self.stages)

    @property
    def compute_us(self) -> int:
        return sum(stage.compute_us for stage in self.stages)

    @property
    def whose(self) -> str:
        return "the time" if self.live else "each token's time"

    def share(self, us: int) -> float:
        return us / self.elapsed_us

    def figures(self, us: int) -> str:
        """71 % of each token's time, 8.2 of 11.5 ms"""
        shown = part_of(us / self.trips, self.elapsed_us / self.trips)
        return f"{percent(self.share(us))} of {self.whose}, {shown}{' a step' if self.live else ''}"


def _of_answer(answer: _Answer, plan: Plan | None, nodes: Sequence[NodeFacts]) -> Bottleneck:
    by_compute = sorted(answer.stages, key=lambda stage: stage.compute_us, reverse=True)
    top = by_compute[0]
    others = max((stage.compute_us for stage in by_compute[1:]), default=0)
    queue, wire, compute = answer.share(answer.queue_us), answer.share(answer.wire_us), answer.share(top.compute_us)
    if queue >= max(STANDS_OUT, wire, compute):
        return _queue(answer)
    if wire >= max(STANDS_OUT, compute):
        return _wire(answer, nodes)
    if compute >= STANDS_OUT and top.compute_us >= AHEAD * others:
        return _compute(answer, top, plan, nodes)
    return _balanced(answer, top)


def _compute(answer: _Answer, top: StageTotals, plan: Plan | None, nodes: Sequence[NodeFacts]) -> Bottleneck:
    where = _place(top)
    if len(answer.stages) == 1:
        advice = "it has all layers; a faster node or a smaller number type (bfloat16) would help"
    elif _are_one_machine(answer.stages, nodes):
        advice = "all stages share one machine; a second one or a smaller number type (bfloat16) would help"
    elif (faster := _faster_node(top, answer.stages, plan)) is not None:
        advice = f"give it fewer layers, {faster.node} is faster"
    else:
        advice = "it has the most to compute; fewer layers there help when several requests run, a faster node always"
    return Bottleneck(
        kind="compute",
        stage=top.stage,
        node=top.node,
        share=answer.share(top.compute_us),
        sentence=f"Computing on {where} takes {answer.figures(top.compute_us)}: {advice}.",
    )


def _queue(answer: _Answer) -> Bottleneck:
    top = max(answer.stages, key=lambda stage: stage.queue_us)
    # Most of the waiting is in one place, or it is everywhere; then no place is to blame.
    single = top.queue_us > 0.6 * answer.queue_us
    where = f" on {_place(top)}" if single else ""
    advice = "send fewer at a time, or give it fewer layers" if single and len(answer.stages) > 1 else ""
    return Bottleneck(
        kind="queue",
        stage=top.stage if single else None,
        node=top.node if single else "",
        share=answer.share(answer.queue_us),
        sentence=f"Waiting for other requests{where} takes {answer.figures(answer.queue_us)}: "
        f"{advice or 'send fewer at a time, or add nodes and deploy the model a second time'}.",
    )


def _wire(answer: _Answer, nodes: Sequence[NodeFacts]) -> Bottleneck:
    if len(answer.stages) == 1:
        what = "Handing tokens over, from the agent to the controller and on to the next step,"
        advice = "the model is small for this machine; more requests at once would use it better"
    elif _are_one_machine(answer.stages, nodes):
        what = "Passing from stage to stage, though all are on one machine,"
        advice = "use fewer agents on it"
    else:
        what = "The network between the stages"
        advice = "put the stages on nodes that are closer, or use fewer nodes"
    return Bottleneck(
        kind="wire",
        share=answer.share(answer.wire_us),
        sentence=f"{what} takes {answer.figures(answer.wire_us)}: {advice}.",
    )


def _balanced(answer: _Answer, top: StageTotals) -> Bottleneck:
    computes = sorted(answer.share(stage.compute_us) for stage in answer.stages)
    spread = "" if len(computes) == 1 else f" over {len(computes)} stages ({_range(computes[0], computes[-1])} each)"
    return Bottleneck(
        kind="balanced",
        stage=None,
        node="",
        share=answer.share(top.compute_us),
        sentence=f"No stage stands out: computing takes {percent(answer.share(answer.compute_us))} of "
        f"{answer.whose}{spread}, waiting {percent(answer.share(answer.queue_us))}, "
        f"the way between the stages {percent(answer.share(answer.wire_us))}, "
        f"{micros(answer.elapsed_us / answer.trips)} a {'step' if answer.live else 'token'} in all.",
    )


def _prepare(found: Shares) -> Bottleneck:
    figures = f"{percent(found.prepare_us / found.total_us)} of the time, {part_of(found.prepare_us, found.total_us)}"
    if found.prepare_us >= LOADING_US:
        sentence = f"Loading the model took {figures}: deploy it before it is asked, and leave it deployed."
    else:
        sentence = f"Getting ready (chat template, tokens, finding the deployment) took {figures}: the answer is short."
    return Bottleneck(kind="prepare", share=found.prepare_us / found.total_us, sentence=sentence)


def _prompt(found: Shares, trace: RequestTrace, prompt_tokens: int | None) -> Bottleneck:
    top = max(found.stages, key=lambda stage: stage.prompt_compute_us, default=None)
    read, us = prompt_tokens, found.prompt_us
    if read is None and trace.chunks:
        read, us = trace.chunks[-1].done, trace.chunks[-1].at_us - trace.first_step_us
    read = read and read - trace.cached_tokens
    speed = f": {read:,} tokens at {token_rate(read / us * 1e6)}" if read and us > 0 else ""
    computed = top is not None and top.prompt_compute_us > MOST * found.prompt_us
    where = f", most of it computing on {_place(top)}" if computed and top is not None and len(found.stages) > 1 else ""
    return Bottleneck(
        kind="prompt",
        stage=top.stage if where and top is not None else None,
        node=top.node if where and top is not None else "",
        share=found.prompt_us / found.total_us,
        sentence=f"Reading the prompt took {percent(found.prompt_us / found.total_us)} of the time, "
        f"{part_of(found.prompt_us, found.total_us)}{speed}{where}.",
    )


def _nothing(found: Shares) -> Bottleneck:
    ready = f"; getting ready took {micros(found.prepare_us)}" if found.prepare_us > 0 else ""
    sentence = f"No times of tokens are recorded, so there is nothing to compare{ready}."
    return Bottleneck(kind="none", sentence=sentence)


def _even_request(found: Shares) -> str:
    return (
        f"Nothing stands out: getting ready took {micros(found.prepare_us)}, reading the prompt "
        f"{micros(found.prompt_us)}, the answer {micros(found.decode_us)}."
    )


def _place(stage: StageTotals) -> str:
    """studio (layers 0-11)"""
    if stage.end <= stage.start:
        return stage.node
    which = layers(stage.start, stage.end)
    return f"{stage.node}, {which}," if stage.node.endswith(")") else f"{stage.node} ({which})"


def _are_one_machine(stages: Sequence[StageTotals], nodes: Sequence[NodeFacts]) -> bool:
    """Whether the agents of all stages have one address; False where that is not known of all."""
    hosts = {node.name: urlsplit(node.address).hostname for node in nodes if node.address}
    return len({hosts.get(stage.node) for stage in stages} - {None}) == 1 and all(s.node in hosts for s in stages)


def _faster_node(slow: StageTotals, stages: Sequence[StageTotals], plan: Plan | None) -> StageTotals | None:
    """Another stage whose node computes so much faster that layers are better off there; None without proof.

    By the layer and by the byte: by the layer alone the last stage would look slow, which has the head besides, by
    the byte alone the first would look fast, of whose embedding a step reads one row.
    """
    if plan is None or slow.end <= slow.start:
        return None

    def cost(stage: StageTotals) -> tuple[float, float] | None:
        if stage.stage >= len(plan.stages) or stage.end <= stage.start or stage.compute_us <= 0:
            return None
        nbytes = plan.stages[stage.stage].weight_bytes
        return stage.compute_us / (stage.end - stage.start), stage.compute_us / nbytes if nbytes else 0.0

    mine = cost(slow)
    found = [(theirs, stage) for stage in stages if stage is not slow and (theirs := cost(stage)) is not None]
    if mine is None or not found:
        return None
    theirs, fastest = min(found, key=lambda each: each[0])
    is_slower = mine[0] >= SLOWER * theirs[0] and mine[1] >= SLOWER * theirs[1]
    return fastest if is_slower and fastest.node != slow.node else None


def _range(least: float, most: float) -> str:
    low, high = percent(least).removesuffix(" %"), percent(most)
    return high if f"{low} %" == high else f"{low} to {high}"

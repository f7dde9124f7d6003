"""What was otherwise when a request ran again, and what may therefore be expected of it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from app.runs.trace import NodeFacts, Plan, RequestTrace, Versions

EXACT_DTYPE = "float32"
EXACT_KV_DTYPE = "computed"


class Promise(StrEnum):
    """How much a difference means."""

    EXACT = "exact"
    """The tokens have to be the same; a difference is a fault."""
    EXPECTED = "expected"
    """The same tokens are to be expected, but nobody promises them."""
    NONE = "none"
    """A difference says little."""


@dataclass(frozen=True)
class Conditions:
    """What one of the two ran on."""

    content: str
    """The hash of the weights, empty when it is not known."""
    plan: Plan | None
    versions: Versions | None
    nodes: tuple[NodeFacts, ...]
    trace: RequestTrace

    @classmethod
    def of(cls, trace: RequestTrace) -> Conditions:
        content = "" if trace.model is None else trace.model.content
        return cls(content, trace.plan, trace.versions, trace.nodes, trace)

    @property
    def largest_step(self) -> int:
        """The most tokens that one step brought for all requests together: above 1 it was in company."""
        return max((token.batch for token in self.trace.tokens), default=0)

    @property
    def prompt_parts(self) -> tuple[int, ...]:
        """Where the prompt was cut into parts; the first may have come from an earlier prompt."""
        cached = self.trace.cached_tokens
        return (*([cached] if cached else []), *(chunk.done for chunk in self.trace.chunks))


def differences(then: Conditions, now: Conditions) -> tuple[str, ...]:
    """A sentence for each condition that was recorded for both and is not the same."""
    found = [*_weights(then, now)]
    if then.plan is None or now.plan is None:
        found.append("Not recorded then: the plan." if then.plan is None else "Not recorded now: the plan.")
    else:
        found += _plans(then.plan, now.plan)
    found += _of_nodes(then.nodes, now.nodes)
    if then.versions is not None and now.versions is not None:
        found += _software(then.versions, now.versions)
    if then.trace.tokens and now.trace.tokens:
        if then.largest_step != now.largest_step:
            found.append(_changed("Tokens in one step at most, of all requests", then.largest_step, now.largest_step))
        if then.prompt_parts != now.prompt_parts:
            parts = (_list(then.prompt_parts) or "in one", _list(now.prompt_parts) or "in one")
            found.append(_changed("The prompt was read up to", *parts))
    return tuple(found)


def promise(then: Conditions, now: Conditions) -> tuple[Promise, str]:
    """What may be expected, and why, in one sentence. The text of `docs/incident.md` in short."""
    if then.content and now.content and then.content != now.content:
        return Promise.NONE, "The weights are others, so nothing is promised."
    if then.plan is None or now.plan is None:
        return Promise.NONE, "What the request ran on is not recorded, so nothing is promised."
    if _numbers(then.plan) != _numbers(now.plan):
        return Promise.NONE, (
            f"It was computed in {_numbers(then.plan)} and now in {_numbers(now.plan)}, so nothing is promised."
        )
    alike = _same_numerics(then, now)
    if then.plan.dtype == EXACT_DTYPE and then.plan.kv_dtype != EXACT_KV_DTYPE:
        if alike:
            return Promise.EXPECTED, (
                f"With keys and values in {then.plan.kv_dtype}, what differs in its last bits may be kept as the next "
                "number of the 8 bits: the same tokens are to be expected, but not promised."
            )
        return Promise.NONE, (
            f"Keys and values in {then.plan.kv_dtype} round otherwise where devices and software are others: tokens "
            "may differ where two are nearly as likely as each other, and all that follows with them."
        )
    if then.plan.dtype == EXACT_DTYPE:
        if alike:
            return Promise.EXACT, (
                "In float32, with the same software on the same kind of device, the tokens have to be the same "
                "however the layers are split."
            )
        return Promise.EXPECTED, (
            "float32 on other devices or with other software rounds the last bits otherwise: the same tokens are to be "
            "expected, unless two are nearly as likely as each other."
        )
    if not all(each.exact for each in (*then.trace.interruptions, *now.trace.interruptions)):
        return Promise.NONE, (
            f"{then.plan.dtype}, and an answer that was interrupted went on in other steps: tokens may differ from "
            "there on where two are nearly as likely as each other."
        )
    same_shapes = then.prompt_parts == now.prompt_parts and then.largest_step == now.largest_step == 1
    if alike and same_shapes:
        return Promise.EXPECTED, (
            f"{then.plan.dtype} in steps of the same shapes: the same tokens are to be expected, but not promised."
        )
    return Promise.NONE, (
        f"{then.plan.dtype} rounds otherwise when steps have other shapes, or devices and software are others: tokens "
        "may differ where two are nearly as likely as each other, and all that follows with them."
    )


def _numbers(plan: Plan) -> str:
    return plan.serving.numbers


def _same_numerics(then: Conditions, now: Conditions) -> bool:
    return all(
        bool(_each(then.nodes, read)) and _each(then.nodes, read) == _each(now.nodes, read)
        for read in (_torch, _transformers, _device, _cpu)
    )


def _weights(then: Conditions, now: Conditions) -> Iterable[str]:
    if not then.content or not now.content:
        yield "It is not known whether the weights are the same: their hash was not recorded."
    elif then.content != now.content:
        yield _changed("The weights' hash", then.content[:12], now.content[:12])


def _plans(then: Plan, now: Plan) -> Iterable[str]:
    if then.plan_hash != now.plan_hash:
        yield _changed("The plan's hash", then.plan_hash[:12], now.plan_hash[:12])
    if len(then.stages) != len(now.stages):
        yield _changed("Stages", len(then.stages), len(now.stages))
    if _layers(then) != _layers(now):
        yield _changed("Layers", _layers(then), _layers(now))
    if _numbers(then) != _numbers(now):
        yield _changed("Computed in", _numbers(then), _numbers(now))


def _layers(plan: Plan) -> str:
    return ", ".join(f"{stage.start}-{stage.end - 1} on {stage.node}" for stage in plan.stages)


def _of_nodes(then: Sequence[NodeFacts], now: Sequence[NodeFacts]) -> Iterable[str]:
    if not then or not now:
        return
    questions: tuple[tuple[str, Callable[[NodeFacts], str]], ...] = (
        ("torch on the nodes", _torch),
        ("transformers on the nodes", _transformers),
        ("The agents' software", lambda node: node.software),
        ("Devices", _device),
        ("Threads", lambda node: str(node.threads)),
        ("Processors", _cpu),
        ("The nodes' systems", lambda node: node.system),
    )
    for name, read in questions:
        before, after = _each(then, read), _each(now, read)
        if before != after:
            yield _changed(name, _list(before), _list(after))


def _software(then: Versions, now: Versions) -> Iterable[str]:
    if then.shardboard != now.shardboard:
        yield _changed("Shardboard", then.shardboard, now.shardboard)
    if then.wire != now.wire:
        yield _changed("The wire's version", then.wire, now.wire)
    for name in sorted(then.packages.keys() & now.packages.keys()):
        if then.packages[name] != now.packages[name]:
            yield _changed(f"The controller's {name}", then.packages[name], now.packages[name])


def _each(nodes: Sequence[NodeFacts], read: Callable[[NodeFacts], str]) -> tuple[str, ...]:
    """What the nodes say, each answer once: the same agents in other seats are no other condition."""
    return tuple(sorted({read(node) for node in nodes} - {""}))


def _torch(node: NodeFacts) -> str:
    return node.torch


def _transformers(node: NodeFacts) -> str:
    return node.transformers


def _device(node: NodeFacts) -> str:
    return node.device


def _cpu(node: NodeFacts) -> str:
    return node.cpu


def _list(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _changed(name: str, before: object, after: object) -> str:
    return f"{name}: {before or 'unknown'} then, {after or 'unknown'} now."

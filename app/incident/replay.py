"""Runs the request of an incident bundle again and compares it token by token.

What is run is what was recorded: the prompt's token ids, the parameters, the seed. Where it runs is said in the
comparison, with all that was otherwise then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from msgspec.structs import replace as changed

from app.children.work import JobProgress, ProgressCallback
from app.errors import Cancelled, ModelError, RequestError, ShardboardError
from app.incident.bundle import Bundle
from app.incident.comparison import (
    Comparison,
    Difference,
    TextOf,
    describe_difference,
    first_difference,
    largest_logprob_difference,
)
from app.incident.conditions import Conditions, differences, promise
from app.incident.faults import Faults
from app.incident.target import ChosenModel, choose_model, layers_text, nodes_for
from app.inference.parameters import GenerationParameters
from app.inference.prompt import TokenPrompt
from app.inference.request_run import RequestRun
from app.registry import DeploymentRecord, RequestStatus
from app.runs.interruptions import interruption_text
from app.runs.trace import UNKNOWN, Origin, Plan, RequestTrace
from app.serving import ServingWish

if TYPE_CHECKING:
    from app.controller import Controller  # slow to load, and --help does without

WATCHED_LOGPROBS = 5
"""Asked of the replay, so that it can be said how near a choice was. Choosing a token does not depend on it."""
FURTHER_TOKENS = 8
"""A replay that has gone another way is ended after so many more."""
POLL_SECONDS = 0.1


async def replay(
    controller: Controller,
    bundle: Bundle,
    *,
    model: str | None = None,
    deploy: bool = False,
    with_faults: bool = False,
    on_progress: ProgressCallback = lambda progress: None,
    origin: Origin = UNKNOWN,
) -> Comparison:
    """Run a bundle's request again.

    Args:
        model: run it on this model of the library whatever the bundle says; None finds the model with the same
            weights, or of the same name.
        deploy: when no ready deployment has the bundle's plan, deploy the model with the same layer ranges on the
            nodes at hand, and take it down afterwards. Otherwise the ready deployment that comes nearest is taken.
        with_faults: have the layers that were lost or handed over then be lost or handed over again, at the same
            tokens; agents that are ended for it are started again.
        origin: who asks, for the record of the replay.

    Raises:
        ModelError: the library lacks the model. RequestError: there is nothing to compare, no deployment, or the
        replay failed. Cancelled: somebody ended it. What deploying raises.
    """
    bundle.check_replayable()
    then = bundle.contents.run.request_trace or RequestTrace()
    faults = Faults(controller, then.interruptions) if with_faults else None
    if faults is not None:
        faults.check()
    chosen = await asyncio.to_thread(choose_model, controller.library, bundle.request, model)
    record, is_new = await _deployment(controller, bundle, chosen, deploy, with_faults, on_progress, origin)
    try:
        return await _run(controller, bundle, chosen, record, is_new, faults, on_progress, origin)
    finally:
        if faults is not None:
            await asyncio.shield(faults.restore())
        if is_new:
            with suppress(ShardboardError):  # a node that was lost meanwhile has nothing left to unload
                await asyncio.shield(controller.undeploy(record.id))


# --- where -----------------------------------------------------------------------------------------------


async def _deployment(
    controller: Controller,
    bundle: Bundle,
    chosen: ChosenModel,
    deploy: bool,
    with_faults: bool,
    on_progress: ProgressCallback,
    origin: Origin,
) -> tuple[DeploymentRecord, bool]:
    """The deployment to run on, and whether it was made for that."""
    plan = bundle.contents.plan
    needed = len(bundle.request.prompt_token_ids) + _most_tokens(bundle)
    ready = await controller.deployments.ready(chosen.name)
    roomy = [record for record in ready if record.serving.longest >= needed]
    same = [record for record in roomy if plan is not None and record.plan_hash == plan.plan_hash]
    if same and not (deploy and with_faults):  # what happened is to happen to layers that lie as they lay
        return same[0], False
    if deploy:
        if plan is None:
            raise RequestError(
                "The bundle does not say where the layers were, so they cannot be put there again.",
                f"Deploy the model as you like and replay without --deploy: deploy {chosen.name}",
            )
        return await _deploy(controller, plan, chosen, on_progress, origin), True
    if roomy:
        return max(roomy, key=lambda record: plan is not None and record.dtype == plan.dtype), False
    if ready:
        raise RequestError(
            f"{chosen.name} is deployed with room for {ready[0].serving.longest} tokens; the request needs {needed}.",
            "Replay with --deploy, or deploy the model with a longer context.",
        )
    raise RequestError(
        f"{chosen.name} is not deployed.",
        f"Replay with --deploy to put its layers where they were, or deploy it first: deploy {chosen.name}",
    )


async def _deploy(
    controller: Controller, plan: Plan, chosen: ChosenModel, on_progress: ProgressCallback, origin: Origin
) -> DeploymentRecord:
    return await controller.deploy(
        chosen.name,
        nodes=nodes_for(plan, await controller.list_nodes()),
        layers=layers_text(plan),
        serving=ServingWish.of(plan.serving),
        on_progress=on_progress,
        origin=origin,
    )


# --- running ---------------------------------------------------------------------------------------------


async def _run(
    controller: Controller,
    bundle: Bundle,
    chosen: ChosenModel,
    record: DeploymentRecord,
    is_new: bool,
    faults: Faults | None,
    on_progress: ProgressCallback,
    origin: Origin,
) -> Comparison:
    request = bundle.request
    run = await controller.inference.submit(
        chosen.name,
        TokenPrompt(request.prompt_token_ids),
        _parameters(bundle),
        origin=changed(origin, client=origin.client or f"replay of request {request.id}"),
        deployment=record.id,
        apart=True,
    )
    happening = None if faults is None else asyncio.ensure_future(faults.happen(run))
    try:
        await _follow(run, request.token_ids, on_progress, happening)
    finally:
        if happening is not None:
            happening.cancel()
            await asyncio.gather(happening, return_exceptions=True)
        await asyncio.shield(run.cancel())
    expected, got = request.token_ids, tuple(run.token_ids)
    position = first_difference(expected, got, got_is_over=True, compare_end=request.is_complete)
    if run.record.status is RequestStatus.FAILED and (position is None or position == len(got)):
        raise RequestError(
            f"The replay failed after {len(got)} tokens, all of them the same: {run.record.error}",
            f"See: request show {run.id}",
        )
    if run.record.status is RequestStatus.CANCELLED and position == len(got):
        raise Cancelled(f"The replay was cancelled after {len(got)} tokens, all of them the same.")
    trace = run.trace()
    then, now = _conditions_then(bundle), Conditions.of(trace)
    logprobs = then.trace.logprobs
    kept, why = promise(then, now)
    difference: Difference | None = None
    if position is not None:
        text_of = await _texts(controller, chosen.name)
        difference = describe_difference(position, expected, got, logprobs, trace.logprobs, text_of)
    return Comparison(
        request=request.id,
        replay_request=run.id,
        model=chosen.name,
        deployment=run.record.deployment_id or record.id,
        deployed=is_new,
        same=position is None,
        compared=len(expected) if position is None else min(position + 1, len(expected)),
        first_difference=position,
        difference=difference,
        expected=expected,
        got=got,
        largest_logprob_difference=largest_logprob_difference(
            logprobs, trace.logprobs, len(expected) if position is None else position
        ),
        finish_then=request.finish_reason,
        finish_now=run.record.finish_reason,
        differences_of_conditions=(*chosen.remarks, *differences(then, now)),
        interruptions_then=tuple(map(interruption_text, then.trace.interruptions)),
        interruptions_now=tuple(map(interruption_text, trace.interruptions)),
        promise=kept,
        promise_text=why,
    )


async def _follow(
    run: RequestRun, expected: Sequence[int], on_progress: ProgressCallback, happening: asyncio.Future[None] | None
) -> None:
    """Until it is over, or has gone another way for some tokens. Raises why a fault cannot be had again."""
    over = asyncio.ensure_future(run.wait())
    try:
        while not over.done():
            await asyncio.wait({over}, timeout=POLL_SECONDS)
            if happening is not None and happening.done():
                happening.result()
            got = run.token_ids
            on_progress(JobProgress("replaying", min(len(got), len(expected)), len(expected), unit="tokens"))
            parted = first_difference(expected, got, got_is_over=False, compare_end=False)
            if parted is not None and len(got) > parted + FURTHER_TOKENS:
                return
    finally:
        over.cancel()


def _most_tokens(bundle: Bundle) -> int:
    """As many as the bundle has; one more shows that an answer that ended by itself would go on now."""
    return len(bundle.request.token_ids) + (bundle.request.finish_reason == "stop")


def _parameters(bundle: Bundle) -> GenerationParameters:
    most = _most_tokens(bundle)
    given = bundle.parameters
    watched = max(given.logprobs or 0, WATCHED_LOGPROBS)
    least = min(given.text_rules().min_tokens, most)
    return changed(given, max_tokens=most, min_tokens=least, logprobs=watched)


def _conditions_then(bundle: Bundle) -> Conditions:
    contents = bundle.contents
    trace = contents.run.request_trace or RequestTrace()
    return Conditions(contents.request.content, contents.plan, contents.versions.run, contents.nodes, trace)


async def _texts(controller: Controller, model: str) -> TextOf:
    """Token ids to text; nothing for a model without a tokenizer."""
    try:
        tokenizer = await controller.tokenizer(model)
    except ModelError:
        return lambda ids: ""
    return lambda ids: tokenizer.decode(ids, skip_special_tokens=False) if ids else ""


__all__ = ["replay"]

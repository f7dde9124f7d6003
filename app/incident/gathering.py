"""Gathers what a bundle tells of one request: the run, what it ran on, and the logs of its time."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from app.errors import RegistryError, ShardboardError
from app.incident.contents import CONTROLLER_LOG, LOGS, BundledRequest, Contents, SoftwareThen
from app.incident.log_excerpt import excerpt, read_log, remark
from app.incident.redaction import Redaction
from app.inference.facts import versions
from app.registry import NodeRecord, Registry
from app.runs.infinities import without_infinities
from app.runs.run import Run, RunEvent
from app.runs.trace import DeploymentTrace, Origin, Plan, RequestTrace

if TYPE_CHECKING:
    from app.controller import Controller  # slow to load, and --help does without

LOG_SECONDS = 15.0
"""How long one agent may take to send its log; a bundle is most needed when one does not answer."""
LOG_BYTES = 2**20
MAX_LOGS = 64


async def gather(controller: Controller, request_id: int) -> Contents:
    """All that is known of a request, cleaned of what is nobody's business elsewhere. Raises RegistryError."""
    run = await controller.registry.call(lambda _: controller.runs.request(request_id))
    live = controller.find_request(request_id)
    if live is not None:
        run = live.as_of_now(run)
    trace = run.request_trace or RequestTrace()
    plan, nodes, software = trace.plan, trace.nodes, trace.versions
    assert run.request is not None  # the reader gives every request its facts
    if plan is None and run.request.deployment_id is not None:
        # The program died before the trace was written: its deployment's says what it ran on.
        deployment = run.request.deployment_id
        deployed = await controller.registry.call(lambda _: _deployment(controller, deployment))
        plan, nodes, software = deployed.plan, deployed.nodes, deployed.versions
    run = without_infinities(run)
    facts = run.request
    assert facts is not None
    redaction = Redaction.of(controller.home, controller.identity.keys.secret)
    clean = _clean(run, redaction)
    kept = trace.prompt_kept
    if run.trace is None:  # forgotten, or never written: what is there tells
        kept = bool(facts.prompt or facts.prompt_token_ids)
    return Contents(
        request=_request(clean, request_id, kept),
        run=clean,
        plan=plan,
        versions=SoftwareThen(run=software, bundle=versions()),
        nodes=nodes,
        events=clean.events,
        logs=await _logs(controller, run, plan, redaction),
    )


def _deployment(controller: Controller, deployment: str) -> DeploymentTrace:
    try:
        found = controller.runs.deployment(deployment).trace
    except RegistryError:
        found = None
    return found if isinstance(found, DeploymentTrace) else DeploymentTrace()


def _request(run: Run, id: int, kept: bool) -> BundledRequest:
    facts, trace = run.request, run.request_trace
    assert facts is not None
    stop = facts.parameters.get("stop") or ()
    return BundledRequest(
        id=id,
        model=run.model or "",
        content="" if trace is None or trace.model is None else trace.model.content,
        status=str(run.status),
        finish_reason=facts.finish_reason,
        kept=kept,
        parameters=facts.parameters,
        seed=facts.seed,
        stop=tuple(stop),
        prompt_token_ids=facts.prompt_token_ids,
        token_ids=facts.token_ids,
    )


# --- cleaning --------------------------------------------------------------------------------------------


def _clean(run: Run, redaction: Redaction) -> Run:
    """Without secrets, home folders and who asked: replaying needs none of them. The texts asked for stay whole."""
    trace = run.request_trace
    if trace is not None:
        model = trace.model and replace(trace.model, source=redaction.text(trace.model.source))
        trace = replace(trace, origin=Origin(via=trace.origin.via), model=model)
    return replace(
        run,
        error=None if run.error is None else redaction.text(run.error),
        trace=trace,
        events=tuple(_clean_event(event, redaction) for event in run.events),
    )


def _clean_event(event: RunEvent, redaction: Redaction) -> RunEvent:
    details: dict[str, Any] = redaction.value(event.details)
    return replace(event, message=redaction.text(event.message), details=details)


# --- logs ------------------------------------------------------------------------------------------------


async def _logs(controller: Controller, run: Run, plan: Plan | None, redaction: Redaction) -> dict[str, str]:
    ended = run.completed_at or datetime.now(UTC)
    nodes = await controller.registry.call(lambda known: _nodes(known, plan))
    names = _file_names(nodes)

    async def of_agent(node: int) -> str:
        try:
            async with asyncio.timeout(LOG_SECONDS):
                log = await controller.read_agent_log(node, LOG_BYTES)
        except TimeoutError:
            return remark(f"{nodes[node]} (node {node}) did not send its log within {LOG_SECONDS:.0f} s.")
        except ShardboardError as error:
            return remark(f"The log of {nodes[node]} (node {node}) could not be had: {error}")
        return await asyncio.to_thread(excerpt, log, run.created_at, ended)

    def of_controller() -> str:
        try:
            return excerpt(read_log(controller.home.logs / "controller.log"), run.created_at, ended)
        except OSError as error:
            return remark(f"The controller's log cannot be read: {error.strerror}.")

    texts = await asyncio.gather(*(of_agent(node) for node in names))
    logs = dict(zip(names.values(), texts, strict=True)) | {CONTROLLER_LOG: await asyncio.to_thread(of_controller)}
    return {name: redaction.text(text) for name, text in logs.items()}


def _nodes(registry: Registry, plan: Plan | None) -> dict[int, str]:
    """The nodes whose logs may tell something: the plan's; without a plan, all, for one of them may be the reason."""
    known: Mapping[int, NodeRecord] = {node.id: node for node in registry.nodes.list()}
    if plan is None:
        return {id: node.hostname for id, node in list(known.items())[:MAX_LOGS]}
    wanted = {stage.node_id: stage.node for stage in plan.stages}
    return dict(list(wanted.items())[:MAX_LOGS])


def _file_names(nodes: Mapping[int, str]) -> dict[int, str]:
    """By node a name for its log that every file system takes, each once."""
    names: dict[int, str] = {}
    taken = {CONTROLLER_LOG}
    for node, name in nodes.items():
        plain = re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-_")[:60] or "node"
        file = f"{LOGS}{plain}.log"
        if file.casefold() in taken:
            file = f"{LOGS}{plain}-{node}.log"
        taken.add(file.casefold())
        names[node] = file
    return names

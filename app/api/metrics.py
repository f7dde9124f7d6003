"""Figures for Prometheus, in a registry of their own: several servers in one process do not share them.

Requests to models are counted when somebody looks, from what the controller's registry has written down since: also
those of window and command line, each once.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from starlette.types import Scope

from app.api.gate import Gate
from app.controller import Controller
from app.errors import ShardboardError
from app.registry import DeploymentStatus, Registry, RequestLine, RequestStatus
from worker_agent import __version__

log = logging.getLogger(__name__)

LAG_SECONDS = 0.5
"""How often the loop is asked how late it is."""
PAGE = 500
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
KNOWN_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Metrics:
    """One server's figures. Belongs to the loop, except where said."""

    def __init__(self, controller: Controller, gate: Gate) -> None:
        self._controller, self._gate = controller, gate
        self._registry = registry = CollectorRegistry()
        self._http = Counter(
            "shardboard_http_requests", "Requests to this server.", ["method", "route", "status"], registry=registry
        )
        self._http_seconds = Histogram(
            "shardboard_http_request_seconds", "From a request to the end of its answer.", registry=registry,
            buckets=SECONDS,
        )  # fmt: skip
        self._requests = Counter(
            "shardboard_requests", "Requests to models that are over, by how they ended.", ["model", "status"],
            registry=registry,
        )  # fmt: skip
        self._tokens = Counter(
            "shardboard_tokens", "Tokens of requests that are over.", ["model", "kind"], registry=registry
        )
        self._seconds = Histogram(
            "shardboard_request_seconds", "From a request to its last token.", ["model"], registry=registry,
            buckets=SECONDS,
        )  # fmt: skip
        self._first_token = Histogram(
            "shardboard_first_token_seconds", "From a request to its first token.", ["model"], registry=registry,
            buckets=SECONDS,
        )  # fmt: skip
        self._running = Gauge("shardboard_requests_under_way", "Requests to models under way.", registry=registry)
        self._streams = Gauge("shardboard_http_streams", "Answers that are being streamed.", registry=registry)
        self._active = Gauge("shardboard_http_under_way", "Requests to this server under way.", registry=registry)
        self._lag = Gauge("shardboard_loop_lag_seconds", "How late the loop was lately, at worst.", registry=registry)
        self._nodes = Gauge("shardboard_nodes", "Nodes that are registered.", registry=registry)
        self._nodes_up = Gauge("shardboard_nodes_up", "Nodes whose agents answer and get on.", registry=registry)
        self._deployments = Gauge("shardboard_deployments", "Deployments by state.", ["status"], registry=registry)
        self._mended = Counter(
            "shardboard_recoveries", "Times that answers went on after a stage was lost.", registry=registry
        )
        self._lost = Counter(
            "shardboard_lost_answers", "Answers that failed because what held a stage was gone.", registry=registry
        )
        self._told = (0, 0)
        by_node = {"labelnames": ["node", "name"], "registry": registry}
        self._up = Gauge("shardboard_node_up", "Whether a node's agent answers and gets on.", **by_node)  # type: ignore[arg-type]
        self._memory = {
            name: Gauge(f"shardboard_node_memory_{name}_bytes", text, **by_node)  # type: ignore[arg-type]
            for name, text in (
                ("total", "Memory of the machine."),
                ("available", "Memory of the machine that is free."),
                ("budget", "What stages may take."),
                ("used", "What stages take of it, with all keys and values that may come."),
                ("agent", "What the agent itself takes, besides all stages."),
                ("believed", "What its process should hold: the agent, weights, and the keys and values of now."),
                ("held", "What its process really holds."),
            )
        }
        info = Gauge("shardboard_build_info", "The version of this server.", ["version"], registry=registry)
        info.labels(__version__).set(1)
        self._last_seen = 0
        self._open: set[int] = set()
        self._worst_lag = 0.0
        self._watching: asyncio.Task[None] | None = None
        self._counting = asyncio.Lock()
        gate.on_answered = self._answered

    def open(self) -> None:
        """Begin to watch. What was over before counts as seen."""
        self._watching = asyncio.create_task(self._watch(), name="loop lag")

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)

    async def text(self) -> bytes:
        """All figures in Prometheus' text format."""
        async with self._counting:
            lines, deployments, nodes = await self._controller.registry.call(
                lambda known: (self._over(known), known.deployments.list(), known.nodes.list())
            )
        for line in lines:
            self._count(line)
        mender = self._controller.deployments.mender
        mended, lost = self._told
        self._told = mender.recoveries, mender.lost_answers
        self._mended.inc(mender.recoveries - mended)
        self._lost.inc(mender.lost_answers - lost)
        self._running.set(len(self._controller.inference.running()))
        self._streams.set(self._gate.streams)
        self._active.set(self._gate.active)
        self._lag.set(self._worst_lag)
        self._worst_lag = 0.0
        for status in DeploymentStatus:
            self._deployments.labels(status).set(sum(one.status is status for one in deployments))
        self._look_at_nodes({node.id: node.hostname for node in nodes})
        return await asyncio.to_thread(generate_latest, self._registry)

    def _look_at_nodes(self, names: dict[int, str]) -> None:
        health = self._controller.nodes.health
        for gauge in (self._up, *self._memory.values()):
            gauge.clear()  # a node that was removed is not there any more
        up = 0
        for node, name in names.items():
            heard, latest = self._controller.nodes.heard(node), health.latest(node)
            up += heard.is_up
            self._up.labels(str(node), name).set(heard.is_up)
            if heard.alive and latest is not None:
                report = latest.report
                figures = (
                    report.memory_total, report.memory_available, report.memory_budget, report.memory_used,
                    report.memory_base, report.memory_held, report.process_memory,
                )  # fmt: skip
                for gauge, value in zip(self._memory.values(), figures, strict=True):
                    gauge.labels(str(node), name).set(value)
        self._nodes.set(len(names))
        self._nodes_up.set(up)

    def _over(self, registry: Registry) -> Iterable[RequestLine]:
        """The requests that ended since the last time. In a thread; one at a time."""
        requests = registry.requests
        ended = []
        first, newest, offset = min({self._last_seen + 1, *self._open}) - 1, requests.newest(), 0
        list_page = functools.partial(requests.lines, limit=PAGE, after_id=first, last_id=newest)
        still_open: set[int] = set()
        while page := list_page(offset=offset):
            offset += len(page)
            for line in page:
                if line.id <= self._last_seen and line.id not in self._open:
                    continue
                if line.status.is_over:
                    ended.append(line)
                else:
                    still_open.add(line.id)
        self._open, self._last_seen = still_open, max(newest, self._last_seen)
        return ended

    def _count(self, line: RequestLine) -> None:
        model = line.model_name
        self._requests.labels(model, line.status).inc()
        self._tokens.labels(model, "prompt").inc(line.prompt_tokens)
        self._tokens.labels(model, "completion").inc(line.completion_tokens)
        if line.status is RequestStatus.COMPLETED and "total" in line.timings:
            self._seconds.labels(model).observe(line.timings["total"])
        if "first_token" in line.timings:
            self._first_token.labels(model).observe(line.timings["first_token"])

    def _answered(self, scope: Scope, status: int, seconds: float) -> None:
        # A label for each path that somebody makes up would fill the memory.
        route = getattr(scope.get("route"), "path", None) or "none"
        method = scope["method"] if scope["method"] in KNOWN_METHODS else "other"
        self._http.labels(method, route, str(status)).inc()
        self._http_seconds.observe(seconds)

    async def _watch(self) -> None:
        try:
            newest = await self._controller.registry.call(lambda known: known.requests.newest())
            self._open = {run.id for run in self._controller.inference.running()}
            self._last_seen = max(newest, self._last_seen)
        except ShardboardError as error:
            log.warning("requests are counted from the first on: %s", error)
        while True:
            asked = time.monotonic()
            await asyncio.sleep(LAG_SECONDS)
            self._worst_lag = max(self._worst_lag, time.monotonic() - asked - LAG_SECONDS)

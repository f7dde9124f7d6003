"""Who sees to deployments that broke: one at a time each, whoever needs it, until it runs again or is given up.

What is done is `recovery.py`'s business; here are the occasions (a node is lost, comes back, has restarted; a request
needs a deployment that nobody has linked yet), those who wait, and what the event log is told.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from app.cluster.health import NodeDown, NodeEvent, NodeFrozen, NodeUp
from app.cluster.nodes import NodeDirectory
from app.errors import NodeError, RegistryError, RequestError, ShardboardError
from app.figures import duration, layers
from app.inference.deployer import OnProgress
from app.inference.deployment_notes import note
from app.inference.onlookers import Onlookers
from app.inference.pipeline import Pipeline
from app.inference.recovery import Mended, Recovery
from app.inference.sequence import HANDOVER
from app.inference.sequence import Sequence as Answer
from app.models.library import ModelLibrary
from app.registry import DeploymentRecord, DeploymentStatus, EventLevel, Registry
from worker_agent.wire.messages import Unload

log = logging.getLogger(__name__)


class StandIn(Protocol):
    """Finds a replica where the sequences of a broken pipeline can go on."""

    def __call__(self, pipeline: Pipeline, *, at_last: bool) -> Pipeline | None: ...


def _nobody(pipeline: Pipeline, *, at_last: bool) -> Pipeline | None:
    return None


@dataclass(eq=False)
class _Mending(Onlookers):
    """A deployment that is being mended, and who looks on."""

    task: asyncio.Task[Mended] = field(init=False)


class Mender:
    """Belongs to the controller's loop.

    Args:
        live: the pipelines that are linked, or were, by deployment; those that are mended are put in.
        on_loading: called for a deployment that is being mended when stages of it have to be loaded again.
    """

    def __init__(
        self,
        registry: Registry,
        nodes: NodeDirectory,
        library: ModelLibrary,
        recovery: Recovery,
        live: MutableMapping[str, Pipeline],
        on_loading: Callable[[DeploymentRecord], Awaitable[object]],
    ) -> None:
        self._registry, self._nodes, self._library = registry, nodes, library
        self._recovery, self._live, self._on_loading = recovery, live, on_loading
        self._mending: dict[str, _Mending] = {}
        self._chores: set[asyncio.Task[None]] = set()
        self.stand_in: StandIn = _nobody
        self.recoveries = 0
        """How often answers went on after an interruption, counted by deployments that were mended."""
        self.lost_answers = 0
        """Answers that failed because their deployment could not be mended."""

    def doing(self, deployment: str) -> str:
        """What is being done to mend a deployment, in a sentence; empty when nothing is."""
        mending = self._mending.get(deployment)
        return "" if mending is None else mending.what or "Looking for its nodes"

    async def mended(
        self,
        record: DeploymentRecord,
        preparing: Callable[[str], None] = lambda what: None,
        on_progress: OnProgress | None = None,
    ) -> Mended:
        """Wait for a deployment to be mended, together with all who wait for that.

        Args:
            preparing: told in a sentence what is being done.
            on_progress: told how far the stages are that are loaded again: of the job that shows it.

        Raises what `Recovery.mend` does.
        """
        mending = self._mending.get(record.id) or self._mend(record.id)
        mending.listeners.append(preparing)
        if on_progress is not None:
            mending.followers.append(on_progress)
            mending.is_shown = True
        try:
            return await asyncio.shield(mending.task)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if mending.task.cancelled() and task is not None and not task.cancelling():
                raise RequestError(f"The deployment of {record.model_name} was taken down.") from None
            raise
        finally:
            mending.listeners.remove(preparing)
            if on_progress is not None:
                mending.followers.remove(on_progress)

    def cancel(self, deployment: str) -> None:
        """Have the mending of a deployment end, if it is under way and not about to be done: what waits for it fails,
        what it has loaded is freed. Whoever needs the deployment next has it mended again."""
        if (mending := self._mending.get(deployment)) is not None:
            mending.cancel.set()
            self._recovery.look_again()

    async def joined(self, record: DeploymentRecord) -> Pipeline | None:
        """Take over a ring that runs since an earlier controller linked it; None where it does not run any more."""
        if record.id in self._mending:
            return None
        pipeline = await self._recovery.join(record)
        if pipeline is not None:
            self._live[record.id] = pipeline
        return pipeline

    def interrupted(self, pipeline: Pipeline) -> None:
        """Sequences wait for a pipeline that is broken: they go on over a replica, or when it has been mended."""
        planned = pipeline.broken is not None and pipeline.broken.kind == HANDOVER
        if not planned and (other := self.stand_in(pipeline, at_last=False)) is not None:
            self._chore(self._stood_in(pipeline, other, other.adopt(pipeline.release())))
        self.look_after(pipeline.deployment)

    def look_after(self, deployment: str) -> None:
        """Have a deployment mended, though nobody waits for it."""
        if deployment not in self._mending:
            self._mend(deployment)

    async def hand_over(self, deployment: str, work: Coroutine[Any, Any, Mended]) -> Mended:
        """Have something else done to a linked pipeline while its sequences wait, and go on with them.

        Where that fails it is mended as if a stage had been lost, and what it failed with is raised.

        Raises NodeError, or whatever else `work` raises.
        """
        mending = self._begun(deployment)
        failures: list[ShardboardError] = []

        async def done() -> Mended:
            try:
                mended = await work
                self._live[deployment] = mended.pipeline
                await mended.pipeline.resume(mended.what, alike=mended.alike)
            except ShardboardError as error:
                log.warning("deployment %s could not be handed over: %s", deployment, error)
                failures.append(error)
                return await self._see_to(deployment, mending)
            for node, stage in mended.left:
                self._chore(self._free(node, deployment, stage))
            return mended

        mending.task = asyncio.get_running_loop().create_task(done())
        mending.task.add_done_callback(lambda task: self._seen_to(deployment, mending))
        try:
            mended = await asyncio.shield(mending.task)
        except asyncio.CancelledError:
            await asyncio.wait({mending.task})  # whoever cleans up now finds it done, or given up
            raise
        if failures:
            raise failures[0]
        return mended

    def is_mending(self, deployment: str) -> bool:
        return deployment in self._mending

    async def stop(self, deployment: str) -> None:
        """It is taken down: nobody mends it any more."""
        if (mending := self._mending.pop(deployment, None)) is not None:
            mending.task.cancel()
            await asyncio.gather(mending.task, return_exceptions=True)

    def close(self) -> None:
        for mending in self._mending.values():
            mending.task.cancel()
        for chore in self._chores:
            chore.cancel()

    def _mend(self, deployment: str) -> _Mending:
        mending = self._begun(deployment)
        mending.task = asyncio.get_running_loop().create_task(self._see_to(deployment, mending))
        mending.task.add_done_callback(lambda task: self._seen_to(deployment, mending))
        return mending

    def _begun(self, deployment: str) -> _Mending:
        mending = self._mending[deployment] = _Mending(lambda: self._chore(self._tell_loading(deployment)))
        return mending

    def _seen_to(self, deployment: str, mending: _Mending) -> None:
        if self._mending.get(deployment) is mending:
            del self._mending[deployment]
        error = None if mending.task.cancelled() else mending.task.exception()
        pipeline = self._live.get(deployment)
        if error is not None and pipeline is not None:
            if not isinstance(error, ShardboardError):  # a bug of ours: nobody must wait for ever
                log.error("deployment %s could not be mended", deployment, exc_info=error)
            pipeline.fail(
                error if isinstance(error, ShardboardError) else NodeError(f"A bug: {error}.", "See the log.")
            )
        elif pipeline is not None and pipeline.broken is not None and pipeline.active:  # it broke at the last moment
            self.interrupted(pipeline)

    async def _see_to(self, deployment: str, mending: _Mending) -> Mended:
        """Mend a deployment and have its sequences go on, as often as it takes."""
        record = await self._registry.call(lambda known: known.deployments.get(deployment))
        description = await asyncio.to_thread(self._library.get, record.model_name)
        pipeline = self._live.get(record.id)
        began, waiting = time.monotonic(), 0 if pipeline is None else pipeline.active
        reason = None if pipeline is None else pipeline.broken
        if waiting and reason is not None:
            sentence = f"{reason.message.rstrip('.')}: {answers(waiting)} of {record.model_name} paused."
            await self._tell(EventLevel.WARNING, sentence, record)
        while True:
            try:
                mended = await self._recovery.mend(record, description, pipeline, mending)
            except ShardboardError as error:
                await self._given_up(record, pipeline, error, waiting)
                raise
            record, pipeline = mended.record, mended.pipeline
            self._live[record.id] = pipeline
            try:
                await pipeline.resume(mended.what, alike=mended.alike)
            except NodeError as error:
                log.info("deployment %s was lost again while its answers were started: %s", record.id, error)
            else:
                break
        self.recoveries += bool(waiting)
        for node, stage in mended.left:
            self._chore(self._free(node, record.id, stage))
        if waiting:
            took = time.monotonic() - began
            went_on = f"{answers(waiting)} went on after {duration(took)}"
            await self._tell(EventLevel.INFO, f"{record.model_name}: {mended.what}; {went_on}.", record)
        elif mended.left:
            await self._tell(EventLevel.INFO, f"{record.model_name}: {mended.what}.", record)
        return mended

    async def _stood_in(self, pipeline: Pipeline, other: Pipeline, sequences: Sequence[Answer]) -> None:
        """Have the sequences of a broken pipeline, which its replica has adopted, go on there."""
        reason, began = pipeline.broken, time.monotonic()
        there = {(stage.start, stage.node_id) for stage in pipeline.stages}
        where = ", ".join(
            f"{layers(stage.start, stage.end)} on {stage.node_name}"
            for stage in other.stages
            if (stage.start, stage.node_id) not in there
        )
        await other.start_adopted(sequences, f"its replica took over: {where}")
        self.recoveries += 1
        why = "" if reason is None else f"{reason.message.rstrip('.')}: "
        took = duration(time.monotonic() - began)
        try:
            record = await self._registry.call(lambda known: known.deployments.get(pipeline.deployment))
        except ShardboardError as error:
            log.error("%s%s went on over a replica (which could not be written down: %s)", why, where, error)
            return
        sentence = f"{why}{answers(len(sequences))} of {record.model_name} went on after {took}, {where}."
        await self._tell(EventLevel.WARNING, sentence, record)

    async def _given_up(
        self, record: DeploymentRecord, pipeline: Pipeline | None, error: ShardboardError, waiting: int
    ) -> None:
        if pipeline is not None and pipeline.active and (other := self.stand_in(pipeline, at_last=True)):
            await self._stood_in(pipeline, other, other.adopt(pipeline.release()))
            return
        self.lost_answers += waiting
        if pipeline is not None:
            pipeline.fail(error)
        if waiting:
            sentence = f"{answers(waiting)} of {record.model_name} failed: {error.message}"
            await self._tell(EventLevel.ERROR, sentence, record)

    async def _tell_loading(self, deployment: str) -> None:
        try:
            record = await self._registry.call(lambda known: known.deployments.get(deployment))
            await self._on_loading(record)
        except ShardboardError as error:  # it is loaded all the same
            log.warning("that stages of deployment %s are loaded again is in no list: %s", deployment, error)

    async def _free(self, node: int, deployment: str, stage: int) -> None:
        """Free a stage that another node has now."""
        try:
            await self._nodes.link(node).call(Unload(call=0, deployment=deployment, stage=stage))
        except ShardboardError as error:
            log.info("stage %d of %s stays on node %d until it is heard of again: %s", stage, deployment, node, error)

    async def _tell(self, level: EventLevel, message: str, record: DeploymentRecord) -> None:
        """An event that must not get in the way of what it tells of."""
        try:
            await self._registry.call(lambda known: note(known, level, message, record))
        except ShardboardError as error:
            log.error("%s (which could not be written down: %s)", message, error)

    def on_node_event(self, event: NodeEvent) -> None:
        """A node was lost: what runs there is seen to. One came back: it may have what is waited for, or what nobody
        wants."""
        if isinstance(event, NodeDown | NodeFrozen):
            name = self._nodes.link(event.node).node
            verb = "was lost" if isinstance(event, NodeDown) else "hangs"
            kind = event.kind if isinstance(event, NodeDown) else "lost"
            error = NodeError(f"{name} {verb}: {event.reason}", "What it had answered is kept.", kind=kind, node=name)
            for pipeline in self._holding(event.node):
                # A refused connection means that the process is gone; all else may be the controller's line alone.
                if kind == "refused" or isinstance(event, NodeFrozen):
                    pipeline.interrupt(error)
                else:
                    pipeline.doubt(error)
        elif isinstance(event, NodeUp):
            self._recovery.look_again()
            self._chore(self._tidy(event))
            for pipeline in self._holding(event.node):
                if event.restarted:
                    name = self._nodes.link(event.node).node
                    why = f"{name} was restarted and has forgotten what it held."
                    pipeline.interrupt(NodeError(why, "What it had answered is kept.", kind="lost", node=name))
                else:
                    pipeline.catch_up()  # what was under way when the link broke may be lost

    def _holding(self, node: int) -> list[Pipeline]:
        return [each for each in self._live.values() if each.holds_node(node) and each.broken is None]

    def _chore(self, work: Coroutine[Any, Any, None]) -> None:
        chore = asyncio.get_running_loop().create_task(work)
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)

    async def _tidy(self, event: NodeUp) -> None:
        """Free stages of deployments that ended, and those that went elsewhere, while the node was away."""
        wanted = await self._registry.call(lambda known: _unwanted(known, event))
        for deployment, stage in wanted:
            if deployment not in self._mending:
                await self._free(event.node, deployment, stage)


def answers(count: int) -> str:
    return "1 answer" if count == 1 else f"{count} answers"


def _unwanted(registry: Registry, event: NodeUp) -> list[tuple[str, int]]:
    """Stages that a node holds and nobody wants there: deployment and number."""
    found = []
    for held in event.welcome.stages:
        try:
            record = registry.deployments.get(held.deployment)
        except RegistryError:
            continue  # another controller's
        shards = registry.shards.list(deployment_id=held.deployment)
        here = any(shard.shard_id == held.stage and shard.node_id == event.node for shard in shards)
        over = record.status in (DeploymentStatus.FAILED, DeploymentStatus.UNLOADED)
        if over or (record.status is DeploymentStatus.READY and not here):
            found.append((held.deployment, held.stage))
    return found

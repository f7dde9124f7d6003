"""What jobs do: add a model, fetch the demo's, cut one, deploy one."""

from __future__ import annotations

import asyncio
import functools
from dataclasses import dataclass, field, replace
from pathlib import Path

from app.children.work import JobChain, JobProgress, NodeProgress, ProgressCallback
from app.figures import size_text
from app.inference.deployer import Deployed, OnProgress
from app.inference.handover import HandedOver
from app.jobs.job import Job, Means, Outcome
from app.models.demo import ensure_demo_model
from app.models.description import ModelDescription, notes_of
from app.registry import DeploymentRecord, EventLevel, Registry
from app.sharding.cut import CutResult, cut_model, register_shards
from app.sharding.placement import Placement
from app.sharding.plan import ranges_text


@dataclass(frozen=True)
class AddWork:
    """Add a model to the library. What a download has brought is kept when it breaks off."""

    source: str
    """A folder, a Hub id or a GGUF file."""
    name: str | None = None
    revision: str | None = None
    dequantize: bool = False
    """Of a GGUF file: whether its matrices become floats, instead of staying in their blocks."""
    kind: str = "add"
    queue: str = "add"

    @property
    def model(self) -> str:
        return self.name or ""

    @property
    def title(self) -> str:
        last = self.source.replace("\\", "/").rstrip("/").rpartition("/")[2]
        return f"Add {self.name or last or self.source}"

    async def do(self, job: Job, means: Means) -> Outcome[ModelDescription]:
        library = means.library

        def add(report: ProgressCallback, chain: JobChain) -> ModelDescription:
            adding = library.add_job(
                self.source, name=self.name, revision=self.revision, dequantize=self.dequantize, on_progress=report
            )
            chain.run(adding)
            return library.get(adding.name)

        return await _added(job, means.registry, await job.in_thread(add), self.source)


@dataclass(frozen=True)
class DemoWork:
    """Fetch the demo's model unless the library has it."""

    kind: str = "demo"
    queue: str = "add"
    title: str = "Fetch the demo model"
    model: str = ""

    async def do(self, job: Job, means: Means) -> Outcome[ModelDescription]:
        fetch = functools.partial(ensure_demo_model, means.library)
        return await _added(job, means.registry, await job.in_thread(fetch), "")


async def _added(job: Job, registry: Registry, description: ModelDescription, source: str) -> Outcome[ModelDescription]:
    job.past_return()  # it is in the library, and the registry must know of it too
    await registry.call(lambda known: register_model(known, description))
    name, nbytes = description.name, description.weight_bytes
    text = f"{name}: {description.num_layers} layers, {size_text(nbytes)}, is in the library"
    text += "".join(f". {note.removesuffix('.')}" for note in description.notes)
    job.details.update(source=description.origin or source, bytes=nbytes, **notes_of(description))
    return Outcome(description, name, text)


def register_model(registry: Registry, description: ModelDescription) -> None:
    """Note a model of the library in the registry, unless it is known there. Reads and writes it."""
    if registry.models.find(description.name) is not None:
        return
    registry.models.add(
        name=description.name,
        folder=description.folder,
        source=description.origin or description.source,
        architecture=description.architecture,
        layers=description.num_layers,
        parameters=description.parameters,
        weight_bytes=description.weight_bytes,
        dtype=description.dtype,
        context=description.max_context,
    )
    registry.events.add(EventLevel.INFO, "models", f"{description.name} was added.")
    for note in description.notes:
        registry.events.add(EventLevel.WARNING, "models", f"{description.name}: {note}")


@dataclass(frozen=True)
class CutWork:
    """Write a model's shards to a folder; see `app.sharding.cut.cut_model`."""

    name_or_path: str
    output_dir: Path
    num_shards: int | None = None
    layers: str | None = None
    """Ranges as the user writes them: 0-9,10-20."""
    register: bool = False
    """Whether the shards are entered in the registry."""
    node_id: int | None = None
    """The node that they are entered for."""
    device: str = "cpu"
    kind: str = "cut"
    queue: str = "cut"
    """One at a time: two would make each other's disk seek."""

    @property
    def model(self) -> str:
        return Path(self.name_or_path).name

    @property
    def title(self) -> str:
        count = self.num_shards if self.layers is None else len(self.layers.split(","))
        if count is None:
            return f"Cut {self.model}"
        return f"Cut {self.model} into {_shards(count)}"

    async def do(self, job: Job, means: Means) -> Outcome[CutResult]:
        library, registry = means.library, means.registry
        if self.register and self.node_id is not None:
            node = self.node_id
            await registry.call(lambda known: known.nodes.get(node))  # before minutes are spent

        # No registry in there: its connections belong to Python's threads, and one that is closed while a QThread
        # ends takes the process with it.
        def cut(report: ProgressCallback, chain: JobChain) -> CutResult:
            return cut_model(
                library, self.name_or_path, num_shards=self.num_shards, layers=self.layers,
                output_dir=self.output_dir, device=self.device, on_progress=report, chain=chain,
            )  # fmt: skip

        result = await job.in_thread(cut)
        job.past_return()
        nbytes = sum(shard.nbytes for shard in result.shards)
        ranges = ranges_text([(shard.start_layer, shard.end_layer) for shard in result.shards])
        job.details.update(output_dir=str(result.output_dir), layers=ranges, bytes=nbytes)
        text = f"{_shards(len(result.shards))}, {size_text(nbytes)}, in {result.output_dir}"
        if self.register:
            model, shards = result.model_name, result.shards
            ids = await registry.call(lambda known: register_shards(known, model, shards, self.node_id))
            result = replace(result, registered=ids)
            job.details.update(registered=list(result.registered))
            text += ", entered in the registry"
        return Outcome(result, result.model_name, text, result.output_dir)


def _shards(count: int) -> str:
    return f"{count} {'shard' if count == 1 else 'shards'}"


@dataclass(frozen=True)
class _PlacementWork:
    """Something that is done with a placement; one at a time for each model."""

    placement: Placement
    kind: str = field(default="deploy", init=False)

    @property
    def queue(self) -> str:
        return f"deploy {self.model}"

    @property
    def model(self) -> str:
        return self.placement.model_name


@dataclass(frozen=True)
class DeployWork(_PlacementWork):
    """Carry out a placement: send each node what it lacks, load it there, link the nodes."""

    replaces: bool = False
    """Whether what the model has deployed is taken down before; `replaced` in the job's details says what was."""

    @property
    def title(self) -> str:
        count = len({stage.node.node_id for stage in self.placement.stages})
        nodes = f"{count} {'node' if count == 1 else 'nodes'}"
        return (
            f"Add a replica of {self.model} on {nodes}"
            if self.placement.replica_of
            else f"Deploy {self.model} on {nodes}"
        )

    async def do(self, job: Job, means: Means) -> Outcome[Deployed]:
        deployments, cancelled = means.deployments, asyncio.Event()
        description = await asyncio.to_thread(means.library.get, self.model)
        if self.replaces:
            standing = await deployments.ready(self.model)
            for record in standing:
                await job.ended(asyncio.ensure_future(deployments.undeploy(record)))
                job.details["replaced"] = [record.id for record in standing]
            if job.is_ending:
                raise asyncio.CancelledError

        told = Course(self.placement).followed(job)
        deploying = deployments.deploy(description, self.placement, told, cancelled, job.origin)
        deployed = await job.ended(asyncio.ensure_future(deploying), cancelled.set)
        job.details.update(deployment=deployed.record.id, sent_bytes=deployed.sent_bytes)
        return Outcome(deployed, self.model, f"{self.model} is deployed.")


@dataclass(frozen=True)
class HandOverWork(_PlacementWork):
    """Move the stages of what a model has deployed to where a placement has them, while it answers."""

    @property
    def title(self) -> str:
        return f"Move stages of {self.model}"

    async def do(self, job: Job, means: Means) -> Outcome[HandedOver]:
        description, cancelled = await asyncio.to_thread(means.library.get, self.model), asyncio.Event()
        told = Course(self.placement).followed(job)
        moving = means.deployments.hand_over(description, self.placement, told, cancelled)
        handed = await job.ended(asyncio.ensure_future(moving), cancelled.set)
        job.details.update(
            deployment=handed.record.id, pause_seconds=round(handed.pause_seconds, 4), answers=handed.answers,
            copied_bytes=handed.copied_bytes,
        )  # fmt: skip
        return Outcome(handed, self.model, handed.sentence[:1].upper() + handed.sentence[1:])


@dataclass(frozen=True)
class DeployForRequestsWork(_PlacementWork):
    """Carry out a placement that a request asks for because nothing answers, unless something does by then."""

    @property
    def title(self) -> str:
        return f"Deploy {self.model} on {self.placement.stages[0].node.name} for a request"

    async def do(self, job: Job, means: Means) -> Outcome[None]:
        if await means.deployments.ready(self.model):
            return Outcome(None, self.model, f"{self.model} was deployed meanwhile.")
        deployed = await DeployWork(self.placement).do(job, means)
        return Outcome(None, deployed.model, deployed.text)


@dataclass(frozen=True)
class BringBackWork:
    """Follow the mending of a deployment whose stages are loaded again; begun once more, have it mended."""

    deployment: str
    model: str
    kind: str = "deploy"

    @property
    def queue(self) -> str:
        return f"bring back {self.deployment}"

    @property
    def title(self) -> str:
        return f"Load stages of {self.model} again"

    async def do(self, job: Job, means: Means) -> Outcome[DeploymentRecord]:
        deployments, mender = means.deployments, means.deployments.mender
        bringing = asyncio.ensure_future(deployments.bring_back(self.deployment, Course().followed(job)))
        record = await job.ended(bringing, lambda: mender.cancel(self.deployment))
        job.details.update(deployment=record.id)
        return Outcome(record, self.model, f"{self.model} answers again.")


class Course:
    """Makes one progress of those of the nodes: of a placement's, or of those that are told of."""

    def __init__(self, placement: Placement | None = None) -> None:
        self._nodes = {
            stage.node.node_id: NodeProgress("waiting", stage.node.node_id, stage.node.name, 0, 0)
            for stage in (placement.stages if placement is not None else ())
        }

    def followed(self, job: Job) -> OnProgress:
        """Tells a job how far its nodes are."""
        return lambda progress: job.report(self.told(progress))

    def told(self, progress: NodeProgress) -> JobProgress:
        """How far all of it is, now that one of the nodes is so far, or the controller for all of them."""
        phase, node = progress.phase, progress.node_id
        if node is None:
            parts, whole = [progress], [progress]
        else:
            self._nodes[node] = progress
            parts = [each for each in self._nodes.values() if each.phase == phase]
            whole = [each for each in self._nodes.values() if each.unit == progress.unit]
        left = [each.seconds_left for each in parts if each.seconds_left is not None]
        return JobProgress(
            phase,
            sum(each.done_bytes for each in whole),
            sum(each.total_bytes for each in whole),
            sum(each.bytes_per_second for each in parts),
            max(left) if left else None,
            tuple(self._nodes.values()),
            progress.unit,
        )

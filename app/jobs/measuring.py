"""The job that measures what a model's numbers cost: deployed in floats, then as asked for, and asked the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace

from msgspec.structs import replace as changed

from app.children.work import JobProgress
from app.errors import BadInput, NodeError, PlacementError, ShardboardError
from app.inference.measuring import TEXT, Measuring, Passages, cut_up, read_text
from app.jobs.job import Job, Means, Outcome
from app.jobs.works import Course
from app.models.description import ModelDescription
from app.registry import DeploymentRecord, MeasurementRecord, Registry
from app.runs.measured import measured_text
from app.serving import Serving, ServingWish
from app.sharding.stage_sizes import check_serving
from worker_agent.wire.messages import BLOCK_FORMATS

ANY = ServingWish()
AT_ONCE = 2048
"""Tokens that there is room for: all answers side by side."""


@dataclass(frozen=True)
class MeasureWork:
    """Measure a model as `wish` says against the same model in floats, or against another one.

    A deployment that answers already and is what is needed is used, and stays. Otherwise one is made for this alone,
    and taken down again; the reference's first, so that there is never more than one of them.
    """

    model: str
    wish: ServingWish = ANY
    """Context and KV tokens in it have no effect."""
    nodes: tuple[int, ...] | None = None
    layers: str | None = None
    """Ranges as the user writes them: 0-9,10-20."""
    against: str | None = None
    """Another model of the library, whose floats are the reference."""
    kind: str = "measure"
    queue: str = "measure"
    """One at a time: two would take memory from each other."""

    @property
    def title(self) -> str:
        pieces = [f" in {self.wish.quantize}" if self.wish.quantize else ""]
        pieces.append(f" with keys and values in {self.wish.kv_dtype}" if self.wish.kv_dtype else "")
        return f"Measure {self.model}{''.join(pieces)}"

    async def do(self, job: Job, means: Means) -> Outcome[MeasurementRecord]:
        description = await asyncio.to_thread(means.library.get, self.model)
        passages = await asyncio.to_thread(_passages, means, description)
        serving = self._serving(description, passages)
        check_serving(description, serving)  # before minutes are spent on the reference
        reference = await self._reference(means, description, passages, serving)
        told, remark, answers, reference_perplexity = None, "", None, None
        if isinstance(reference, str):
            remark = reference
        else:
            whose, floats = reference
            told = floats.numbers if whose is description else f"{whose.name} in {floats.numbers}"
            if in_blocks(whose):
                told += " and blocks as stored"
            try:
                async with self._deployed(job, means, whose, floats) as deployment:
                    measuring = self._measuring(job, means, deployment, passages)
                    reference_perplexity = (await measuring.surprise()).perplexity
                    answers = await measuring.answers()
            except (PlacementError, NodeError) as error:
                if isinstance(error, NodeError) and error.kind != "memory":
                    raise
                told, remark = None, f"There is no room for {told} to compare with: {error.message}"
        async with self._deployed(job, means, description, serving) as deployment:
            measuring = self._measuring(job, means, deployment, passages)
            surprise = await measuring.surprise()
            same = None if answers is None else await measuring.agreements(answers)
            nodes = await means.registry.call(lambda known: _names(known, deployment))
        job.past_return()
        record = await means.registry.call(
            lambda known: known.measurements.add(
                description.name, deployment.serving, nodes=nodes, text=TEXT,
                tokens=surprise.tokens, perplexity=surprise.perplexity,
                reference=told, reference_perplexity=reference_perplexity,
                greedy_tokens=None if answers is None else passages.greedy_tokens, same_tokens=same, remark=remark,
            )
        )  # fmt: skip
        job.details.update(measurement=record.id, perplexity=record.perplexity, same_share=record.same_share)
        text = f"{description.name} in {record.serving.numbers}: {measured_text(record)}."
        return Outcome(record, description.name, f"{text} {remark}".rstrip())

    # --- what is compared with what ---

    def _serving(self, description: ModelDescription, passages: Passages) -> Serving:
        room = max(AT_ONCE, passages.context)
        wish = replace(self.wish, context=passages.context, kv_tokens=room)
        return wish.completed(description.dtype, description.max_context)

    async def _reference(
        self, means: Means, description: ModelDescription, passages: Passages, serving: Serving
    ) -> tuple[ModelDescription, Serving] | str:
        """What it is compared with, or why there is nothing. Raises BadInput for what cannot be compared."""
        floats = serving.in_floats
        if self.against is not None and self.against != description.name:
            other = await asyncio.to_thread(means.library.get, self.against)
            if await asyncio.to_thread(_passages, means, other) != passages:
                raise BadInput(
                    f"{other.name} and {description.name} do not read a text as the same tokens, so they cannot be "
                    "compared.",
                    "Name the same model in other numbers.",
                )
            return other, floats
        if floats != serving:
            return description, floats
        if in_blocks(description):
            told = "It is measured as it is stored, in few bits; the floats that these were made of are not here."
            if description.source != "gguf":
                return told
            return (
                f"{told} To compare, add the file once more with --dequantize under another name, and measure against "
                "that."
            )
        return "It is in its floats: there is nothing to compare it with."

    # --- where ---

    @asynccontextmanager
    async def _deployed(
        self, job: Job, means: Means, description: ModelDescription, serving: Serving
    ) -> AsyncIterator[DeploymentRecord]:
        """A deployment of this kind: one that answers already, else one that ends with the block."""
        deployments = means.deployments
        for record in await deployments.ready(description.name):
            if await means.registry.call(lambda known, found=record: self._suits(known, found, serving)):  # type: ignore[misc]
                yield record
                return
        placement = await deployments.placing.plan(description, serving, node_ids=self.nodes, layers=self.layers)
        told, cancelled = Course(placement).followed(job), asyncio.Event()
        deploying = deployments.deploy(description, placement, told, cancelled, job.origin, apart=True)
        deployed = await job.ended(asyncio.ensure_future(deploying), cancelled.set)
        try:
            if job.is_ending:
                raise asyncio.CancelledError
            yield deployed.record
        finally:
            with suppress(ShardboardError):  # a node that was lost meanwhile has nothing left to unload
                await job.ended(asyncio.ensure_future(deployments.undeploy(deployed.record)))
        if job.is_ending:
            raise asyncio.CancelledError

    def _suits(self, registry: Registry, record: DeploymentRecord, serving: Serving) -> bool:
        """Whether a deployment is as it is wanted, but for how much it has room for."""
        held = record.serving
        if held.longest < serving.context or replace(serving, context=held.context, kv_tokens=held.kv_tokens) != held:
            return False
        shards = registry.shards.list(deployment_id=record.id)
        shards.sort(key=lambda shard: shard.start_layer)
        ranges = ",".join(f"{shard.start_layer}-{shard.end_layer - 1}" for shard in shards)
        where = tuple(shard.node_id for shard in shards)
        return self.nodes in (None, where) and self.layers in (None, ranges)

    def _measuring(
        self, job: Job, means: Means, deployment: DeploymentRecord, passages: Passages
    ) -> Measuring:  # fmt: skip
        phase = f"measuring {deployment.model_name} in {deployment.serving.numbers}"

        def told(done: int, total: int) -> None:
            job.report(JobProgress(phase, done, total, unit="tokens"))

        told(0, passages.window_tokens + passages.greedy_tokens)
        origin = changed(job.origin, client=job.origin.client or f"measuring, job {job.id}")
        return Measuring(means.inference, deployment, passages, origin, told)


def in_blocks(description: ModelDescription) -> bool:
    """Whether some of a model's matrices came in blocks of few bits."""
    return any(tensor.dtype in BLOCK_FORMATS for part in description.parts for tensor in part.tensors)


def _passages(means: Means, description: ModelDescription) -> Passages:
    return cut_up(read_text(), means.inference.tokenizer(description.name), description.max_context)


def _names(registry: Registry, deployment: DeploymentRecord) -> tuple[str, ...]:
    names = {node.id: node.hostname for node in registry.nodes.list()}
    shards = sorted(registry.shards.list(deployment_id=deployment.id), key=lambda shard: shard.start_layer)
    return tuple(names.get(shard.node_id or 0, "a node that is gone") for shard in shards)

"""What a job does in its thread: cut a model, add one, fetch the demo's. Blocking; nothing here knows Qt.

A work is a recipe: it can be begun again, and each beginning has a chain of its own that cancels it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from app.models.description import ModelDescription, notes_of
from app.ui.formats import size_text
from app.ui.jobs.job import JobResult

if TYPE_CHECKING:
    from app.children.work import JobChain, ProgressCallback
    from app.controller import Controller
    from app.models.library import ModelLibrary


class Work(Protocol):
    """Something that blocks its thread until it is done."""

    @property
    def kind(self) -> str: ...

    @property
    def lane(self) -> str:
        """Works of one lane run one after another."""
        ...

    @property
    def title(self) -> str: ...

    @property
    def model(self) -> str:
        """The model it is about; empty while that is not known."""
        ...

    @property
    def registers(self) -> bool:
        """Whether `register` has anything to do."""
        ...

    def run(self, library: ModelLibrary, report: ProgressCallback, chain: JobChain) -> JobResult:
        """In the job's thread. Raises ShardboardError; Cancelled by the chain.

        No registry here: its connections belong to Python's threads, and one that is closed while a QThread ends
        takes the process with it.
        """
        ...

    async def register(self, controller: Controller, result: JobResult) -> JobResult:
        """On the controller's loop: enter what came of it in the registry."""
        ...


@dataclass(frozen=True)
class CutWork:
    """Write a model's shards to a folder."""

    name_or_path: str
    ranges: int | str | tuple[tuple[int, int], ...]
    """A number of shards, layers as the user writes them, or layers [start, end)."""
    output_dir: Path
    registers: bool = False
    """Whether the shards are entered in the registry."""
    kind: str = "cut"
    lane: str = "cut"
    """One at a time: two would make each other's disk seek."""

    @property
    def model(self) -> str:
        return Path(self.name_or_path).name

    @property
    def title(self) -> str:
        if isinstance(self.ranges, str):
            count = len(self.ranges.split(","))
        else:
            count = self.ranges if isinstance(self.ranges, int) else len(self.ranges)
        return f"Cut {self.model} into {count} {'shard' if count == 1 else 'shards'}"

    def run(self, library: ModelLibrary, report: ProgressCallback, chain: JobChain) -> JobResult:
        from app.sharding.cut import cut_model
        from app.sharding.plan import ranges_text

        layers = self.ranges if isinstance(self.ranges, str) else None
        if isinstance(self.ranges, Sequence) and not isinstance(self.ranges, str):
            layers = ranges_text(self.ranges)
        result = cut_model(
            library,
            None,
            self.name_or_path,
            num_shards=self.ranges if isinstance(self.ranges, int) else None,
            layers=layers,
            output_dir=self.output_dir,
            on_progress=report,
            chain=chain,
        )
        count, nbytes = len(result.shards), sum(shard.nbytes for shard in result.shards)
        noun = "shard" if count == 1 else "shards"
        return JobResult(
            f"{count} {noun}, {size_text(nbytes)}, in {result.output_dir}",
            result.model_name,
            result.output_dir,
            (
                ("output_dir", str(result.output_dir)),
                ("layers", ranges_text([(shard.start_layer, shard.end_layer) for shard in result.shards])),
                ("bytes", nbytes),
            ),
            result.shards,
        )

    async def register(self, controller: Controller, result: JobResult) -> JobResult:
        from app.sharding.cut import register_shards

        ids = await asyncio.to_thread(register_shards, controller.registry, result.model, result.shards)
        noted = "entered in the registry"
        return replace(result, text=f"{result.text}, {noted}", details=(*result.details, ("registered", list(ids))))


@dataclass(frozen=True)
class AddWork:
    """Add a model to the library. What a download has brought is kept when it breaks off."""

    source: str
    name: str | None = None
    revision: str | None = None
    kind: str = "add"
    lane: str = "add"
    registers: bool = True

    @property
    def model(self) -> str:
        return self.name or ""

    @property
    def title(self) -> str:
        source = self.source.rstrip("/\\")
        return f"Add {self.name or Path(source).name or source}"

    def run(self, library: ModelLibrary, report: ProgressCallback, chain: JobChain) -> JobResult:
        job = library.add_job(self.source, name=self.name, revision=self.revision, on_progress=report)
        description = chain.run(job)
        return _added(description, self.source)

    async def register(self, controller: Controller, result: JobResult) -> JobResult:
        return await _register_model(controller, result)


@dataclass(frozen=True)
class DemoWork:
    """Fetch the demo's model unless the library has it."""

    kind: str = "demo"
    lane: str = "add"
    title: str = "Fetch the demo model"
    model: str = ""
    registers: bool = True

    def run(self, library: ModelLibrary, report: ProgressCallback, chain: JobChain) -> JobResult:
        from app.models.demo import ensure_demo_model

        description = ensure_demo_model(library, report, chain)
        return _added(description, description.origin)

    async def register(self, controller: Controller, result: JobResult) -> JobResult:
        return await _register_model(controller, result)


def _added(description: ModelDescription, source: str) -> JobResult:
    name, nbytes = description.name, description.weight_bytes
    text = f"{name}: {description.num_layers} layers, {size_text(nbytes)}, is in the library"
    notes = "".join(f". {note.removesuffix('.')}" for note in description.notes)
    details = (("source", source), ("bytes", nbytes), *notes_of(description).items())
    return JobResult(text + notes, name, None, details)


async def _register_model(controller: Controller, result: JobResult) -> JobResult:
    controller.register_model(await asyncio.to_thread(controller.library.get, result.model))
    return result

"""Cut a model by name or path into shard folders: what every job that cuts does."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from app.children.work import JobChain, ProgressCallback
from app.errors import BadInput
from app.models.description import ModelDescription
from app.models.library import ModelLibrary
from app.registry import Registry
from app.sharding.cut_process import Shard
from app.sharding.cutting import CuttingJob
from app.sharding.plan import Range, divide, parse_layers

DEVICE = re.compile(r"cpu|mps|cuda(:\d{1,3})?")
CPU_NOTE = "Cutting moves bytes and computes nothing, so it runs on the CPU whatever the device."


@dataclass(frozen=True)
class CutResult:
    """What a cutting brought."""

    model_name: str
    output_dir: Path
    shards: tuple[Shard, ...]
    registered: tuple[int, ...] = ()
    """Ids of the shards in the registry; empty when they are not entered there."""
    note: str = ""
    """Something the user should know."""


def choose_ranges(description: ModelDescription, num_shards: int | None, layers: str | None) -> tuple[Range, ...]:
    """The shards' layers from `--num_shards` or `--layers`. Raises BadInput when they do not fit or contradict."""
    if layers is None:
        if num_shards is None:
            raise BadInput(
                "Neither a number of shards nor ranges of layers are given.", "Give --num_shards or --layers."
            )
        return divide(description, num_shards)
    ranges = parse_layers(layers, description)
    if num_shards is not None and num_shards != len(ranges):
        raise BadInput(f"--num_shards says {num_shards}, and --layers gives {len(ranges)} ranges.", "Give one of them.")
    return ranges


def cut_model(
    library: ModelLibrary,
    model_name: str,
    *,
    num_shards: int | None = None,
    layers: str | None = None,
    output_dir: Path,
    device: str = "cpu",
    on_progress: ProgressCallback | None = None,
    chain: JobChain | None = None,
) -> CutResult:
    """Cut a model into shard folders.

    Args:
        library: where the model is looked up.
        model_name: a model of the library, or the path of a Hugging Face folder.
        num_shards: into how many shards, divided by bytes; or
        layers: the ranges themselves, inclusive: 0-9,10-20.
        output_dir: where shard_0, shard_1, … are written.
        device: cpu, cuda, cuda:N or mps; checked for its form only, see `CPU_NOTE`.
        on_progress: told how far it is.
        chain: ends the work when another thread cancels it.

    Raises:
        Cancelled: by `chain`.
        BadInput: an option that cannot be used.
        ModelError, DiskFullError: see `CuttingJob.run`.
    """
    if not DEVICE.fullmatch(device):
        raise BadInput(f"'{device}' is no device.", "Give cpu, cuda, cuda:N or mps.")
    output_dir = output_dir.expanduser().resolve()
    chain = chain or JobChain()
    description = library.describe(model_name, on_progress, chain)
    ranges = choose_ranges(description, num_shards, layers)
    outcome = chain.run(CuttingJob(description, ranges, output_dir, on_progress=on_progress))
    return CutResult(
        model_name=description.name,
        output_dir=output_dir,
        shards=outcome.shards,
        note="" if device == "cpu" else CPU_NOTE,
    )


def register_shards(
    registry: Registry, model_name: str, shards: tuple[Shard, ...], node_id: int | None = None
) -> tuple[int, ...]:
    """Note shards that were cut, and return their ids; records of folders that they replaced go."""
    folders = {shard.folder for shard in shards}
    root = Path(shards[0].folder).parent
    for record in registry.shards.list(model_name=model_name):
        if record.deployment_id is None and record.path is not None:
            path = Path(record.path)
            if record.path in folders or (path.parent == root and not path.exists()):
                registry.shards.remove(record.id)
    return tuple(
        registry.shards.add(
            model_name=model_name,
            shard_id=shard.shard_id,
            start_layer=shard.start_layer,
            end_layer=shard.end_layer,
            node_id=node_id,
            path=shard.folder,
        ).id
        for shard in shards
    )

"""A shard folder as `shard_model` writes it: reading it back, checking it, using it as a source of parts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from blake3 import blake3
from msgspec import Meta

from app.children.work import Meter, ProgressCallback
from app.errors import BadInput, ModelError
from app.models.checkpoint import weight_files
from app.models.description import PartSource, TensorSource, part_order
from app.models.part_bytes import part_bytes
from app.models.safetensors_file import read_header
from worker_agent.wire.messages import PartKind

METADATA = "metadata.json"

Count = Annotated[int, Meta(ge=0, le=100_000)]


class ShardTensor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One tensor of a shard, under the name it has in the model's own files."""

    name: str
    dtype: str
    shape: tuple[Annotated[int, Meta(ge=0)], ...]
    nbytes: Annotated[int, Meta(ge=0)]
    file: str
    part: PartKind
    layer: Count
    """The layer's number; 0 for parts that are no layer."""
    blake3: Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class ShardMetadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What metadata.json says. A shard holds the layers [start_layer, end_layer): the end is exclusive."""

    format: Literal[1] = 1
    model_name: str
    shard_id: Count
    total_shards: Count
    start_layer: Count
    """First layer."""
    end_layer: Count
    """One past the last layer."""
    end_layer_is: Literal["exclusive"] = "exclusive"
    total_layers: Count
    architecture: str
    model_type: str
    dtype: str
    tensors: tuple[ShardTensor, ...]


def read_metadata(folder: Path) -> ShardMetadata:
    """The metadata of a shard folder.

    Raises:
        BadInput: the folder holds none.
        ModelError: it cannot be read or contradicts itself.
    """
    path = folder / METADATA
    if not path.is_file():
        raise BadInput(f"{folder} has no {METADATA}, so it is no shard.", "Give a folder that shard_model has written.")
    try:
        metadata = msgspec.json.decode(path.read_bytes(), type=ShardMetadata)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"{path} cannot be used: {error}.", "Cut the model again.") from error
    if not (
        metadata.shard_id < metadata.total_shards and metadata.start_layer < metadata.end_layer <= metadata.total_layers
    ):
        raise ModelError(
            f"{path} contradicts itself: its shard number or layers are out of range.", "Cut the model again."
        )
    return metadata


def shard_parts(folder: Path, root: Path | None = None) -> tuple[PartSource, ...]:
    """The parts that a shard folder holds, with file names relative to `root` (the folder itself when None).

    Raises:
        BadInput: no shard folder.
        ModelError: files are missing, or do not hold what the metadata says.
    """
    metadata = read_metadata(folder)
    prefix = "" if root is None else f"{folder.relative_to(root).as_posix()}/"
    found = {tensor.name: tensor for name in weight_files(folder) for tensor in read_header(folder, name)}
    groups: dict[tuple[PartKind, int], list[TensorSource]] = {}
    for said in metadata.tensors:
        tensor = found.get(said.name)
        if tensor is None or (tensor.dtype, tensor.shape, tensor.file) != (said.dtype, said.shape, said.file):
            raise ModelError(f"The shard {folder} does not hold the tensor '{said.name}' as its {METADATA} says.")
        source = msgspec.structs.replace(tensor, file=prefix + tensor.file)
        groups.setdefault((said.part, said.layer), []).append(source)
    ordered = sorted(groups, key=lambda key: part_order(*key))
    return tuple(PartSource(kind, index, tuple(groups[kind, index])) for kind, index in ordered)


def verify_shard(folder: Path, on_progress: ProgressCallback | None = None) -> ShardMetadata:
    """Read every tensor of a shard and compare its hash with the metadata.

    Raises:
        ModelError: a tensor is not what it was when the shard was written.
    """
    metadata = read_metadata(folder)
    hashes = {tensor.name: tensor.blake3 for tensor in metadata.tensors}
    parts = shard_parts(folder)
    meter = Meter(on_progress, "verifying", sum(part.nbytes for part in parts))
    for part in parts:
        for tensor in part.tensors:
            hasher = blake3()
            for piece in part_bytes(folder, PartSource(part.kind, part.index, (tensor,))):
                hasher.update(piece)
                meter.advance(len(piece))
            if hasher.hexdigest() != hashes[tensor.name]:
                raise ModelError(
                    f"The shard {folder} is damaged: the tensor '{tensor.name}' does not match its hash.",
                    "Cut the model again, or copy the shard again.",
                )
    return metadata


def shard_folders(output_dir: Path) -> tuple[Path, ...]:
    """Folders named shard_N in `output_dir`, by number."""
    if not output_dir.is_dir():
        return ()
    numbered = [
        (int(path.name.removeprefix("shard_")), path)
        for path in output_dir.iterdir()
        if path.name.startswith("shard_") and path.name.removeprefix("shard_").isdecimal()
    ]
    return tuple(path for _, path in sorted(numbered))


def assembled_parts(output_dir: Path) -> tuple[PartSource, ...]:
    """All parts of the model whose shards lie in `output_dir`, file names relative to it; nothing is copied.

    Raises:
        BadInput: there are no shards.
        ModelError: shards are missing, or not all of one cutting.
    """
    folders = shard_folders(output_dir)
    if not folders:
        raise BadInput(f"{output_dir} holds no shards.", "Give the folder that shard_model wrote to.")
    _check_complete(output_dir, [read_metadata(folder) for folder in folders])
    parts: dict[tuple[PartKind, int], PartSource] = {}
    for folder in folders:
        for part in shard_parts(folder, root=output_dir):
            parts.setdefault((part.kind, part.index), part)  # tied and common parts are in several shards
    return tuple(parts[key] for key in sorted(parts, key=lambda key: part_order(*key)))


def _check_complete(output_dir: Path, shards: Iterable[ShardMetadata]) -> None:
    expected = 0
    first: ShardMetadata | None = None
    for number, shard in enumerate(shards):
        first = first or shard
        same = (shard.model_name, shard.total_shards, shard.total_layers) == (
            first.model_name,
            first.total_shards,
            first.total_layers,
        )
        if not same or shard.shard_id != number or shard.start_layer != expected:
            raise ModelError(
                f"The shards in {output_dir} do not belong together: shard_{number} does not follow the one before it.",
                "Cut the model again into an empty folder.",
            )
        expected = shard.end_layer
    if first is None or expected != first.total_layers:
        raise ModelError(
            f"The shards in {output_dir} end at layer {expected}; some are missing.", "Cut the model again."
        )

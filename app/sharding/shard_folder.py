"""A shard folder as `shard_model` writes it: what its metadata says, read back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from app.errors import BadInput, ModelError
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
    blake3: Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]


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

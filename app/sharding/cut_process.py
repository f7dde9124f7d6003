"""Child process: writes the shards of a model. Without torch: it moves byte ranges, so its memory stays small.

Run only as a child; `CuttingJob` is its parent's half.
"""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import msgspec
from msgspec import Struct

from app.atomic_file import sync_folder, write_atomically
from app.children.work import Meter, ProgressCallback, past_return, serve_job
from app.errors import DiskFullError
from app.models.checkpoint import CONFIG, GENERATION_CONFIG, TOKENIZER_FILES
from app.models.description import ModelDescription, PartSource
from app.sharding.output_folder import discard, publish
from app.sharding.plan import Range
from app.sharding.shard_files import Finisher, write_shard_files
from app.sharding.shard_folder import METADATA, ShardMetadata

MAX_FILE_BYTES = 5_000_000_000
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)


class CutRequest(Struct, frozen=True, kw_only=True):
    description: ModelDescription
    ranges: tuple[Range, ...]
    workplace: str
    """The hidden folder in the output folder where shards grow; see `output_folder`."""
    max_file_bytes: int = MAX_FILE_BYTES


class Shard(Struct, frozen=True):
    """One shard as it was written."""

    shard_id: int
    start_layer: int
    end_layer: int
    """Exclusive."""
    folder: str
    nbytes: int


class CutOutcome(Struct, frozen=True):
    shards: tuple[Shard, ...]


def cut(request: CutRequest, report: ProgressCallback) -> CutOutcome:
    """Write, verify and publish all shards. Whoever calls undoes it (`undo`) when this raises.

    Raises:
        DiskFullError: the disk filled up meanwhile.
        ModelError: the model's files changed, or what was written reads back wrong.
    """
    description = request.description
    workplace = Path(request.workplace)
    total = sum(_nbytes(description.stage_parts(*layers)) for layers in request.ranges)
    meter = Meter(report, "cutting", total, passes=2)
    try:
        with Finisher(meter) as finisher:
            for number, layers in enumerate(request.ranges):
                _write_shard(request, number, layers, finisher, meter)
        past_return()
        folders = publish(workplace, len(request.ranges))
    except OSError as error:
        if error.errno in DISK_FULL:
            raise DiskFullError(
                f"The disk of {workplace.parent} filled up while the model was cut; nothing of it was left there.",
                "Free some space or give another --output_dir.",
            ) from error
        raise
    return CutOutcome(
        tuple(
            Shard(number, start, end, str(folder), _nbytes(description.stage_parts(start, end)))
            for number, ((start, end), folder) in enumerate(zip(request.ranges, folders, strict=True))
        )
    )


def undo(request: CutRequest) -> None:
    """Remove what a cutting that did not come to its end has written."""
    discard(Path(request.workplace))


def _write_shard(request: CutRequest, number: int, layers: Range, finisher: Finisher, meter: Meter) -> None:
    target = Path(request.workplace) / f"shard_{number}"
    description = request.description
    target.mkdir(parents=True)
    parts = description.stage_parts(*layers)
    written = write_shard_files(description.path, target, parts, request.max_file_bytes, finisher, meter)
    metadata = ShardMetadata(
        model_name=description.name,
        shard_id=number,
        total_shards=len(request.ranges),
        start_layer=layers[0],
        end_layer=layers[1],
        total_layers=description.num_layers,
        architecture=description.architecture,
        model_type=description.model_type,
        dtype=description.dtype,
        tensors=tuple(tensor for file in written for tensor in file.tensors),
    )
    for name, source in _companions(description, number, len(request.ranges)).items():
        shutil.copyfile(source, target / name)
    (target / CONFIG).write_bytes(description.config_bytes())
    write_atomically(target / METADATA, msgspec.json.format(msgspec.json.encode(metadata)))
    sync_folder(target)


def _companions(description: ModelDescription, number: int, count: int) -> dict[str, Path]:
    """Files that go with a shard: the first turns text into tokens; the last ends a text and needs to know how."""
    files: dict[str, Path] = {}
    if number == 0:
        # What was made of older files when the model was added stands for those.
        files |= {name: description.path / name for name in TOKENIZER_FILES}
        if description.tokenizer_folder:
            files |= {name: path for name in TOKENIZER_FILES if (path := description.tokenizer_path / name).is_file()}
    if number in (0, count - 1):
        files[GENERATION_CONFIG] = description.path / GENERATION_CONFIG
    return {name: path for name, path in files.items() if path.is_file()}


def _nbytes(parts: tuple[PartSource, ...]) -> int:
    return sum(part.nbytes for part in parts)


if __name__ == "__main__":
    serve_job(CutRequest, cut, undo)

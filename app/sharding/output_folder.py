"""The folder that shards are written to: nothing in it is touched until all shards are written and verified.

Shards grow in a hidden folder inside of it (so on the same file system) and are renamed into place at the
end; older shards of the same model make room then, and come back if that fails.
"""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

from app.atomic_file import sync_folder
from app.children.starting import is_abandoned
from app.errors import BadInput, ShardboardError
from app.sharding.shard_folder import read_metadata, shard_folders

PREFIX = ".cutting-"
REPLACED = "replaced"
COUNT = "count"
DONE = "done"


def check_output(output_dir: Path, model_name: str) -> None:
    """Raise BadInput when `output_dir` holds something that shards must not overwrite."""
    if output_dir.exists() and not output_dir.is_dir():
        raise BadInput(f"{output_dir} is a file; shards are written to a folder.", "Give another --output_dir.")
    for folder in shard_folders(output_dir):
        try:
            owner = read_metadata(folder).model_name
        except ShardboardError:
            raise BadInput(
                f"{folder} exists and is no shard that Shardboard has written, so it is not overwritten.",
                "Give another --output_dir, or move that folder away.",
            ) from None
        if owner != model_name:
            raise BadInput(
                f"{folder} is a shard of '{owner}', so it is not overwritten by one of '{model_name}'.",
                "Give another --output_dir, or remove the older shards.",
            )


def new_workplace(output_dir: Path) -> Path:
    """A name for the hidden folder of one cutting; it tells which process to ask whether it still runs."""
    return output_dir / f"{PREFIX}{os.getpid()}-{uuid.uuid4().hex[:8]}"


def clear_abandoned(output_dir: Path) -> None:
    """Remove what a cutting left behind whose process and child were both killed."""
    if not output_dir.is_dir():
        return
    for path in output_dir.glob(f"{PREFIX}*"):
        if is_abandoned(path, PREFIX):
            discard(path)


def publish(workplace: Path, count: int) -> tuple[Path, ...]:
    """Rename the finished shards into place, those that they replace away. Returns where they are."""
    output_dir = workplace.parent
    replaced = workplace / REPLACED
    (workplace / COUNT).write_text(str(count))
    replaced.mkdir()
    for folder in shard_folders(output_dir):
        folder.rename(replaced / folder.name)
    placed = []
    for number in range(count):
        target = output_dir / f"shard_{number}"
        (workplace / target.name).rename(target)
        placed.append(target)
    sync_folder(output_dir)
    (workplace / DONE).touch()
    discard(workplace)
    return tuple(placed)


def discard(workplace: Path) -> None:
    """Remove a cutting's hidden folder; a cutting that ended while it renamed is undone first."""
    if not workplace.exists():
        return
    output_dir = workplace.parent
    replaced = workplace / REPLACED
    if replaced.is_dir() and not (workplace / DONE).exists():
        for number in range(int((workplace / COUNT).read_text())):
            name = f"shard_{number}"
            if not (workplace / name).exists() and (output_dir / name).exists():  # a new one, already in place
                (output_dir / name).rename(workplace / name)
        for path in sorted(replaced.iterdir()):
            path.rename(output_dir / path.name)
    shutil.rmtree(workplace, ignore_errors=True)

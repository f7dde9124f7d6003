"""What a cut would bring: the shards and their bytes, the space it needs, and what speaks against it.

Reads the disk and may compute for a while, so it runs in a thread; pure otherwise.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app.errors import BadInput, DiskFullError, ShardboardError
from app.figures import size_text

if TYPE_CHECKING:
    from app.models.description import ModelDescription


@dataclass(frozen=True)
class CutWish:
    """What the user has entered."""

    description: ModelDescription
    shards: int | str
    """How many, or layers like 0-9,10-20."""
    output_dir: str


@dataclass(frozen=True)
class ShardPreview:
    number: int
    start: int
    end: int
    """Exclusive."""
    nbytes: int


@dataclass(frozen=True)
class CutPreview:
    """What came of a wish. It can be carried out when there is no error."""

    wish: CutWish
    shards: tuple[ShardPreview, ...] = ()
    needed: int = 0
    free: int | None = None
    """Bytes; None when nobody can tell."""
    shards_error: ShardboardError | None = None
    folder_error: ShardboardError | None = None

    @property
    def is_possible(self) -> bool:
        return bool(self.shards) and self.shards_error is None and self.folder_error is None


def preview_cut(wish: CutWish) -> CutPreview:
    """Blocks for as long as the disk takes."""
    from app.sharding.cut import choose_ranges
    from app.sharding.cutting import SPARE_BYTES
    from app.sharding.plan import stage_bytes

    shards: tuple[ShardPreview, ...] = ()
    shards_error: ShardboardError | None = None
    try:
        count, layers = (wish.shards, None) if isinstance(wish.shards, int) else (None, wish.shards)
        size = stage_bytes(wish.description)
        shards = tuple(
            ShardPreview(number, start, end, size(start, end))
            for number, (start, end) in enumerate(choose_ranges(wish.description, count, layers))
        )
    except ShardboardError as error:
        shards_error = error
    needed = sum(shard.nbytes for shard in shards) + SPARE_BYTES if shards else 0
    free, folder_error = _look_at(wish, needed)
    return CutPreview(wish, shards, needed, free, shards_error, folder_error)


def _look_at(wish: CutWish, needed: int) -> tuple[int | None, ShardboardError | None]:
    """Free bytes where the output folder is or will be, and what speaks against it."""
    from app.sharding.output_folder import check_output

    if not wish.output_dir.strip():
        return None, BadInput("No folder is given.", "Choose where the shards go.")
    path = Path(wish.output_dir).expanduser()
    if not path.is_absolute():
        return None, BadInput("This is no full path.", "Begin it with a drive or a slash, or choose a folder.")
    try:
        path = path.resolve()
        check_output(path, wish.description.name)
        existing = next(each for each in (path, *path.parents) if each.exists())
        if not existing.is_dir():
            raise BadInput(f"{existing} is a file, so there is no folder in it.", "Choose another folder.")
        free = shutil.disk_usage(existing).free
    except ShardboardError as error:
        # The command line's word for the folder means nothing here.
        return None, BadInput(error.message, error.advice.replace("another --output_dir", "another folder"))
    except (OSError, StopIteration) as error:
        return None, BadInput(f"{path} cannot be looked at: {error}.", "Choose another folder.")
    if free < needed:
        return free, DiskFullError(
            f"The shards need {size_text(needed)}, and {size_text(free)} are free there.",
            "Free some space or choose another folder.",
        )
    return free, None

"""The job that cuts a model: checks what can be checked, starts the child, cleans up behind it."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from app.children.work import ChildJob, ProgressCallback
from app.errors import BadInput, DiskFullError, ModelError, ShardboardError
from app.figures import size_text
from app.models.checkpoint import TOKENIZER_FILES
from app.models.description import ModelDescription
from app.sharding.cut_process import DISK_FULL, MAX_FILE_BYTES, CutOutcome, CutRequest
from app.sharding.output_folder import check_output, clear_abandoned, discard, new_workplace
from app.sharding.plan import Range, check_ranges, stage_bytes

SPARE_BYTES = 16 * 1024 * 1024
"""Kept free besides the weights: metadata, folders, and what the file system itself takes."""


class CuttingJob:
    """Cuts a model into shard folders. `run` blocks its thread; `cancel` may be called from any thread.

    Args:
        description: the model.
        ranges: the shards' layers, as `plan.divide` or `plan.parse_layers` gives them.
        output_dir: where shard_0, shard_1, … are written; made when it is missing.
        on_progress: called in the thread that called `run`.
        max_file_bytes: a shard with more weights than that gets several files and an index.
    """

    def __init__(
        self,
        description: ModelDescription,
        ranges: Sequence[Range],
        output_dir: Path,
        *,
        on_progress: ProgressCallback | None = None,
        max_file_bytes: int = MAX_FILE_BYTES,
    ) -> None:
        self.description = description
        self.ranges = tuple(ranges)
        self.output_dir = output_dir.expanduser().resolve()
        self._workplace = new_workplace(self.output_dir)
        request = CutRequest(
            description=description,
            ranges=self.ranges,
            workplace=str(self._workplace),
            max_file_bytes=max_file_bytes,
        )
        self._child: ChildJob[CutOutcome] = ChildJob(
            "app.sharding.cut_process", request, CutOutcome, what="cutting the model", on_progress=on_progress
        )

    @property
    def pid(self) -> int | None:
        """The child's process id, once it runs."""
        return self._child.pid

    def cancel(self) -> None:
        """End the child; `run` then removes what is half-written and raises Cancelled."""
        self._child.cancel()

    def run(self) -> CutOutcome:
        """Cut. When it raises, the output folder is as it was before.

        Raises:
            BadInput: the ranges do not fit the model, or the output folder holds something else.
            DiskFullError: the disk is too small, found out before or while writing.
            ModelError: the model's files have changed or cannot be read.
            Cancelled: `cancel` was called.
        """
        check_ranges(self.ranges, self.description)
        check_output(self.output_dir, self.description.name)
        if changed := self.description.changed_files():
            raise ModelError(
                f"The files of '{self.description.name}' have changed since it was added: {', '.join(changed[:3])}.",
                "Remove the model and add it again.",
            )
        clear_abandoned(self.output_dir)
        self._check_space()
        made = self._make_output()
        try:
            return self._child.run()
        except BaseException:
            discard(self._workplace)
            for folder in made:
                with suppress(OSError):  # somebody else has put something there meanwhile
                    folder.rmdir()
            raise

    def _check_space(self) -> None:
        size = stage_bytes(self.description)
        folders = {self.description.path, self.description.tokenizer_path}
        files = (folder / name for folder in folders for name in TOKENIZER_FILES)
        tokenizer = sum(path.stat().st_size for path in files if path.is_file())
        needed = sum(size(start, end) for start, end in self.ranges) + tokenizer + SPARE_BYTES
        existing = next(path for path in (self.output_dir, *self.output_dir.parents) if path.exists())
        free = shutil.disk_usage(existing).free
        if free < needed:
            raise DiskFullError(
                f"Cutting '{self.description.name}' needs {size_text(needed)} at {self.output_dir}, "
                f"and {size_text(free)} are free there.",
                "Free some space or give another --output_dir.",
            )

    def _make_output(self) -> list[Path]:
        """Make the output folder and what is missing above it; returns what was made, innermost first."""
        missing = [path for path in (self.output_dir, *self.output_dir.parents) if not path.exists()]
        try:
            self._workplace.mkdir(parents=True)
        except OSError as error:
            for folder in missing:
                with suppress(OSError):
                    folder.rmdir()
            if error.errno in DISK_FULL:
                raise DiskFullError(f"The disk of {self.output_dir} is full.", "Free some space.") from error
            if isinstance(error, (PermissionError, NotADirectoryError)):
                raise BadInput(f"{self.output_dir} cannot be written to: {error.strerror}.") from error
            raise ShardboardError(f"{self.output_dir} cannot be made: {error}.") from error
        return missing

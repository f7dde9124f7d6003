"""Adding a model to the library: fetch or convert where that is needed, inspect, then put it in place at once."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TypeVar

import msgspec
from filelock import FileLock, Timeout

from app.atomic_file import sync_folder, write_atomically
from app.children.work import ChildJob, JobChain, ProgressCallback
from app.errors import BadInput, DiskFullError, ModelError
from app.models.description import ModelDescription, Source
from app.models.gguf import convert_job
from app.models.hub import download_job
from app.models.inspect import inspect_job
from app.models.prequantized import read_prequantized, repack_job
from app.models.sources import FolderSource, GgufSource, HubSource, ModelSource

DESCRIPTION = "model.json"
FILES = "files"
"""Folder of the weights inside of a model's folder, for models that the library holds itself."""
TOKENIZER_FOLDER = "tokenizer"
"""Folder of a tokenizer that was made of other files when the model was added."""
INCOMING = ".incoming"

Result = TypeVar("Result")


class AddingJob:
    """Adds one model. `run` blocks its thread; `cancel` may be called from any thread.

    What a download has brought stays in the library's `.incoming` folder when it breaks off, for the next try.
    """

    def __init__(
        self, library: Path, source: ModelSource, name: str, on_progress: ProgressCallback | None = None
    ) -> None:
        self.name = name
        self._library = library
        self._source = source
        self._on_progress = on_progress
        self._incoming = library / INCOMING / name
        self._chain = JobChain()
        self.cancel = self._chain.cancel
        """End what is under way; `run` raises Cancelled."""

    def run(self) -> ModelDescription:
        """Add the model and return its description.

        Raises:
            BadInput: the name is taken, or another process is adding a model of this name.
            ModelError: the model cannot be used or had, and why.
            DiskFullError: not enough space.
            Cancelled: `cancel` was called.
        """
        (self._library / INCOMING).mkdir(parents=True, exist_ok=True)
        lock = FileLock(self._library / INCOMING / f"{self.name}.lock")
        try:
            with lock.acquire(timeout=0):
                return self._add()
        except Timeout:
            raise BadInput(f"A model named '{self.name}' is being added right now.", "Wait for it to end.") from None

    def _add(self) -> ModelDescription:
        if (self._library / self.name).exists():
            raise BadInput(f"There is a model named '{self.name}' already.", "Remove it first, or give another name.")
        if isinstance(self._source, HubSource):
            description = self._from_hub(self._source)
        elif isinstance(self._source, GgufSource):
            description = self._from_gguf(self._source)
        else:
            description = self._from_folder(self._source)
        self._publish(description)
        return description

    def _from_folder(self, source: FolderSource) -> ModelDescription:
        shutil.rmtree(self._incoming, ignore_errors=True)
        if source.folder.is_dir() and read_prequantized(source.folder) is not None:
            return self._repacked(source.folder, "folder", str(source.folder))
        self._incoming.mkdir(parents=True)
        return self._inspect(source.folder)

    def _from_hub(self, source: HubSource) -> ModelDescription:
        downloads = self._incoming / source.repository.replace("/", "--")
        downloads.mkdir(parents=True, exist_ok=True)
        outcome = self._do(download_job(source.repository, source.revision, downloads, self._on_progress))
        origin = f"{source.repository}@{outcome.commit}"
        folder = Path(outcome.folder)
        if read_prequantized(folder) is not None:
            description = self._repacked(folder, "hub", origin)
            shutil.rmtree(downloads)
            return description
        description = self._inspect(folder, "hub", origin)
        shutil.rmtree(folder / ".partial", ignore_errors=True)
        folder.rename(self._incoming / FILES)
        shutil.rmtree(downloads)
        return description

    def _repacked(self, folder: Path, source: Source, origin: str) -> ModelDescription:
        """Put the matrices of a quantized model into blocks, in files that the library holds, and describe these."""
        target = self._incoming / FILES
        try:
            done = self._do(repack_job(folder, target, self._on_progress))
            description = self._inspect(target, source, origin)
        except BaseException:
            shutil.rmtree(target, ignore_errors=True)
            if source == "folder":  # what was downloaded stays for the next try
                shutil.rmtree(self._incoming, ignore_errors=True)
            raise
        return msgspec.structs.replace(description, notes=(*description.notes, *done.notes))

    def _from_gguf(self, source: GgufSource) -> ModelDescription:
        shutil.rmtree(self._incoming, ignore_errors=True)
        target = self._incoming / FILES
        target.mkdir(parents=True)
        try:
            done = self._do(convert_job(source.file, target, self._on_progress, dequantize=source.dequantize))
            description = self._inspect(target, "gguf", str(source.file))
            return msgspec.structs.replace(description, notes=(*description.notes, *done.notes))
        except BaseException:
            shutil.rmtree(self._incoming, ignore_errors=True)
            raise

    def _inspect(self, folder: Path, source: Source = "folder", origin: str = "") -> ModelDescription:
        target = self._incoming / TOKENIZER_FOLDER
        shutil.rmtree(target, ignore_errors=True)
        job = inspect_job(
            folder,
            name=self.name,
            source=source,
            origin=origin,
            tokenizer_target=target,
            on_progress=self._on_progress,
        )
        return self._do(job)

    def _do(self, job: ChildJob[Result]) -> Result:
        result = self._chain.run(job)
        self._chain.check()  # cancelled too late for this step; but the model is not there yet
        return result

    def _publish(self, description: ModelDescription) -> None:
        """Rename the finished folder into place; from then on the model exists."""
        try:
            for held in (self._incoming / FILES, self._incoming / TOKENIZER_FOLDER):
                if held.is_dir():
                    _make_durable(held)
            write_atomically(self._incoming / DESCRIPTION, msgspec.json.encode(description))
            self._incoming.rename(self._library / self.name)
            sync_folder(self._library)
        except OSError as error:
            if error.errno == 28:
                raise DiskFullError(f"The disk of {self._library} is full.", "Free some space.") from error
            raise ModelError(f"'{self.name}' cannot be put into the library: {error}.") from error


def _make_durable(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb+") as file:
                os.fsync(file.fileno())
        else:
            sync_folder(path)
    sync_folder(folder)

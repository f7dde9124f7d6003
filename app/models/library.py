"""The model library: a folder of models, each a folder with its description. Nothing else knows its layout.

MODELS/NAME/model.json      the description
MODELS/NAME/digests.json    hashes of its parts, as far as they were asked for
MODELS/NAME/files/          weights of models from the Hub, of GGUF files and quantized models; of other folders not
MODELS/NAME/tokenizer/      a tokenizer that was made of older files, such as vocab.json with merges.txt
MODELS/.incoming/NAME/      what is being added
"""

from __future__ import annotations

import logging
import shutil
import uuid
from dataclasses import replace
from pathlib import Path

import msgspec

from app.children.work import JobChain, ProgressCallback
from app.errors import BadInput, ModelError
from app.models.adding import DESCRIPTION, FILES, INCOMING, TOKENIZER_FOLDER, AddingJob
from app.models.description import ModelDescription
from app.models.digests import PartDigests
from app.models.inspect import inspect_job
from app.models.sources import FolderSource, GgufSource, check_name, default_name, recognise

DIGESTS = "digests.json"

log = logging.getLogger(__name__)


class ModelLibrary:
    """All models this controller knows. Safe to use from several threads and processes.

    Args:
        folder: where it lives (`Home.models`); made when it is first written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._digests: dict[str, PartDigests] = {}
        self._descriptions: dict[Path, tuple[tuple[int, int], ModelDescription]] = {}

    def list(self) -> tuple[ModelDescription, ...]:
        """All models by name. One whose description is damaged is left out and logged."""
        models = []
        for name in self._names():
            try:
                models.append(self.get(name))
            except ModelError as error:
                log.warning("%s", error)
        return tuple(models)

    def find(self, name: str) -> ModelDescription | None:
        """The model of this name, upper and lower case being the same, or None. Raises ModelError when damaged."""
        match = next((known for known in self._names() if known.casefold() == name.casefold()), None)
        if match is None:
            return None
        path = self.folder / match / DESCRIPTION
        try:
            description = self._read(path)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ModelError(
                f"The description of '{match}' at {path} cannot be read: {error}.", "Remove the model and add it again."
            ) from error
        # The library may have been moved since.
        for name, field in ((FILES, "folder"), (TOKENIZER_FOLDER, "tokenizer_folder")):
            if (held := self.folder / match / name).is_dir():
                description = msgspec.structs.replace(description, **{field: str(held)})
        return description

    def _read(self, path: Path) -> ModelDescription:
        """A description, kept as long as its file is the same: that of a model with many experts takes a while."""
        status = path.stat()
        stamp = (status.st_mtime_ns, status.st_size)
        known = self._descriptions.get(path)
        if known is None or known[0] != stamp:
            known = self._descriptions[path] = (
                stamp,
                msgspec.json.decode(path.read_bytes(), type=ModelDescription),
            )
        return known[1]

    def get(self, name: str) -> ModelDescription:
        """The model of this name. Raises ModelError."""
        description = self.find(name)
        if description is None:
            known = ", ".join(self._names()[:5])
            raise ModelError(
                f"There is no model named '{name}'.",
                f"Known are: {known}." if known else "Add one with: model add PATH_OR_HUB_ID",
            )
        return description

    def describe(
        self, name_or_path: str, on_progress: ProgressCallback | None = None, chain: JobChain | None = None
    ) -> ModelDescription:
        """The model of this name, or the one in this Hugging Face folder, which is then inspected but not added.

        Raises:
            BadInput: neither a known name nor a path.
            ModelError: the model cannot be used.
        """
        found = self.find(name_or_path)
        if found is not None:
            return found
        path = Path(name_or_path).expanduser()
        if path.is_dir() and isinstance(source := recognise(name_or_path), FolderSource):
            name = default_name(source)
            return (chain or JobChain()).run(inspect_job(path.resolve(), name=name, on_progress=on_progress))
        if path.exists():
            raise BadInput(f"{path} is not a model's folder.", "Add a GGUF file to the library first: model add FILE")
        known = ", ".join(self._names()[:5])
        raise BadInput(
            f"'{name_or_path}' is neither a model of the library nor a path.",
            f"Known are: {known}." if known else "Add a model first: model add PATH_OR_HUB_ID",
        )

    def add_job(
        self,
        source: str,
        *,
        name: str | None = None,
        revision: str | None = None,
        dequantize: bool = False,
        on_progress: ProgressCallback | None = None,
    ) -> AddingJob:
        """The job that adds a model from a folder, a Hub id or a GGUF file.

        Args:
            dequantize: have the matrices of a GGUF file become floats; else they stay in their blocks.

        Raises:
            BadInput: the source is none of these, or the name cannot be used or is taken.
        """
        recognised = recognise(source, revision)
        if isinstance(recognised, GgufSource):
            recognised = replace(recognised, dequantize=dequantize)
        elif dequantize:
            raise BadInput("Only the matrices of GGUF files are dequantized when a model is added.")
        chosen = check_name(name if name is not None else default_name(recognised))
        if any(chosen.casefold() == known.casefold() for known in self._names()):
            raise BadInput(f"There is a model named '{chosen}' already.", "Remove it first, or give another name.")
        return AddingJob(self.folder, recognised, chosen, on_progress)

    def add(
        self,
        source: str,
        *,
        name: str | None = None,
        revision: str | None = None,
        dequantize: bool = False,
        on_progress: ProgressCallback | None = None,
    ) -> ModelDescription:
        """Add a model and return its description. Takes its time; see `AddingJob.run` for what it raises."""
        job = self.add_job(source, name=name, revision=revision, dequantize=dequantize, on_progress=on_progress)
        job.run()
        return self.get(job.name)

    def remove(self, name: str) -> ModelDescription:
        """Forget a model and delete what the library holds of it; a folder that was added stays. Raises ModelError."""
        match = next((known for known in self._names() if known.casefold() == name.casefold()), None)
        if match is None:
            raise ModelError(f"There is no model named '{name}'.")
        try:
            description = self.get(match)
        finally:
            self._digests.pop(match, None)
            (self.folder / INCOMING).mkdir(exist_ok=True)
            doomed = self.folder / INCOMING / f".removed-{uuid.uuid4().hex[:8]}"
            (self.folder / match).rename(doomed)  # in one step: it is there or it is not
            shutil.rmtree(doomed, ignore_errors=True)
        return description

    def digests(self, description: ModelDescription) -> PartDigests:
        """The digests of a model's parts; kept in the library when the model is in it."""
        home = self.folder / description.name
        if not (home / DESCRIPTION).is_file() or self.get(description.name).files != description.files:
            return PartDigests(description)
        known = self._digests.get(description.name)
        if known is None or known.description != description:
            known = self._digests[description.name] = PartDigests(description, home / DIGESTS)
        return known

    def _names(self) -> tuple[str, ...]:
        if not self.folder.is_dir():
            return ()
        return tuple(
            sorted(
                path.parent.name
                for path in self.folder.glob(f"*/{DESCRIPTION}")
                if not path.parent.name.startswith(".")
            )
        )

"""Describes the model in a folder: a quick look here, then a thorough one with transformers in a child process."""

from __future__ import annotations

from pathlib import Path

from app.children.work import ChildJob, ProgressCallback
from app.errors import BadInput
from app.models.checkpoint import read_checkpoint
from app.models.description import ModelDescription, Source
from app.models.inspect_process import InspectRequest
from app.models.prequantized import read_prequantized


def inspect_job(
    folder: Path,
    *,
    name: str,
    source: Source = "folder",
    origin: str = "",
    tokenizer_target: Path | None = None,
    on_progress: ProgressCallback | None = None,
) -> ChildJob[ModelDescription]:
    """The job that describes the model in a Hugging Face folder; what is plainly wrong is raised at once.

    Args:
        tokenizer_target: the folder for a tokenizer.json that has to be made of other files; made when it is needed.

    Raises:
        BadInput: there is no such folder, or its weights are quantized and have to be put into blocks first.
        ModelError: its files cannot be used, and why.
    """
    read_checkpoint(folder)
    if (how := read_prequantized(folder)) is not None:
        raise BadInput(
            f"The weights in {folder} are quantized ({how.words}), and are put into blocks when they are added.",
            f"Add the model to the library first: model add {folder}",
        )
    return ChildJob(
        "app.models.inspect_process",
        InspectRequest(name, str(folder), source, origin or str(folder), str(tokenizer_target or "")),
        ModelDescription,
        what="inspecting the model",
        on_progress=on_progress,
    )

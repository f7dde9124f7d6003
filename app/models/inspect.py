"""Describes the model in a folder: a quick look here, then a thorough one with transformers in a child process."""

from __future__ import annotations

from pathlib import Path

from app.children.work import ChildJob, ProgressCallback
from app.models.checkpoint import read_checkpoint
from app.models.description import ModelDescription, Source
from app.models.inspect_process import InspectRequest


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
        BadInput: there is no such folder.
        ModelError: its files cannot be used, and why.
    """
    read_checkpoint(folder)
    return ChildJob(
        "app.models.inspect_process",
        InspectRequest(name, str(folder), source, origin or str(folder), str(tokenizer_target or "")),
        ModelDescription,
        what="inspecting the model",
        on_progress=on_progress,
    )

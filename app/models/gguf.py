"""GGUF files: the job that turns one into a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from app.errors import ModelError
from app.jobs import ChildJob, ProgressCallback


class ConvertRequest(Struct, frozen=True):
    file: str
    target: str
    """An empty folder for the result."""


class ConvertOutcome(Struct, frozen=True):
    architecture: str
    files: int
    tokenizer_note: str = ""
    """Why there is no tokenizer; empty when there is one."""


def convert_job(file: Path, target: Path, on_progress: ProgressCallback | None = None) -> ChildJob[ConvertOutcome]:
    """The job that converts a GGUF file. Raises ModelError at once when it is none."""
    try:
        with file.open("rb") as opened:
            magic = opened.read(4)
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror or error}.") from error
    if magic != b"GGUF":
        raise ModelError(f"{file} is no GGUF file: it does not begin with the letters GGUF.")
    return ChildJob(
        "app.models.gguf_process",
        ConvertRequest(str(file), str(target)),
        ConvertOutcome,
        what="converting the GGUF file",
        on_progress=on_progress,
    )

"""Models of the Hugging Face Hub: what is asked of the child process that downloads them."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from app.children.work import ChildJob, ProgressCallback


class DownloadRequest(Struct, frozen=True):
    repository: str
    revision: str | None
    target: str
    """Folder for downloads under way; a folder for each commit is made in it, and taken up again after a break."""


class DownloadOutcome(Struct, frozen=True):
    folder: str
    """Where the complete model lies, inside of the request's target."""
    commit: str


def download_job(
    repository: str, revision: str | None, target: Path, on_progress: ProgressCallback | None = None
) -> ChildJob[DownloadOutcome]:
    """The job that downloads a repository's config, safetensors and tokenizer. What is there already is kept.

    `HF_ENDPOINT` and `HF_TOKEN` work as with huggingface_hub itself.
    """
    return ChildJob(
        "app.models.hub_process",
        DownloadRequest(repository, revision, str(target)),
        DownloadOutcome,
        what="downloading the model",
        on_progress=on_progress,
    )

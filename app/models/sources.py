"""What a user's words for a model mean: a folder, a GGUF file or a repository of the Hub."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from app.errors import BadInput
from app.models.checkpoint import CONFIG
from app.models.gguf import model_in, model_name

HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9 ._+-]{0,99}")
RESERVED = {"con", "prn", "aux", "nul", *(f"{device}{number}" for device in ("com", "lpt") for number in range(10))}
"""Names that Windows keeps for devices."""


@dataclass(frozen=True)
class FolderSource:
    """A Hugging Face folder on this machine; used in place."""

    folder: Path


@dataclass(frozen=True)
class GgufSource:
    """A GGUF file on this machine, or one of those that a model was split into; converted into the library."""

    file: Path
    dequantize: bool = False
    """Whether its matrices become floats; else they stay in their blocks."""


@dataclass(frozen=True)
class HubSource:
    """A repository of the Hub; downloaded into the library."""

    repository: str
    revision: str | None = None


ModelSource = FolderSource | GgufSource | HubSource


def recognise(text: str, revision: str | None = None) -> ModelSource:
    """What `text` means: an existing path is a path; else `org/name` is a repository of the Hub.

    A folder without config.json that holds a GGUF model is that model.

    Raises:
        BadInput: neither, or a folder with several GGUF models.
    """
    path = Path(text).expanduser()
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise BadInput(
                f"{path} is a file, but no GGUF file.", "Give a folder with config.json, a .gguf file, or a Hub id."
            )
        return GgufSource(path.resolve())
    if path.is_dir():
        gguf = None
        with suppress(OSError):  # whoever reads the folder will say why it cannot
            gguf = None if (path / CONFIG).is_file() else model_in(path)
        return FolderSource(path.resolve()) if gguf is None else GgufSource(gguf.resolve())
    if HUB_ID.fullmatch(text) and not text.startswith(("./", "../")):
        return HubSource(text, revision)
    raise BadInput(f"There is no such path: {text}.", "Check the spelling, or give a Hub id like org/name.")


def default_name(source: ModelSource) -> str:
    """The name a model gets when the user gives none."""
    if isinstance(source, HubSource):
        words = source.repository.split("/")[1]
    elif isinstance(source, GgufSource):
        words = model_name(source.file)
    else:
        words = source.folder.name
    return re.sub(r"[^A-Za-z0-9 ._+-]", "-", words)[:100].strip(" .-_+") or "model"


def check_name(name: str) -> str:
    """Return the name when it can also be a folder's name on every system. Raises BadInput."""
    plain = NAME.fullmatch(name) and not name.endswith((" ", "."))
    if not plain or name.split(".")[0].lower() in RESERVED:
        raise BadInput(
            f"'{name}' cannot be a model's name.",
            "Use up to 100 letters, digits, spaces and . _ + -, beginning with a letter or digit.",
        )
    return name

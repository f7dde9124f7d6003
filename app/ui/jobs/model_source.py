"""What the user's words for a model mean, and under which name it would be added. Reads the disk: for a thread."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from app.errors import BadInput, ShardboardError
from app.figures import size_text

if TYPE_CHECKING:
    from app.models.library import ModelLibrary


@dataclass(frozen=True)
class SourceWish:
    """What the user has entered; name and revision may be empty."""

    source: str
    name: str = ""
    revision: str = ""


@dataclass(frozen=True)
class SourceLook:
    """What came of a wish. It can be added when there is no error."""

    wish: SourceWish
    kind: str = ""
    """folder, gguf, hub; empty when it is none of them."""
    text: str = ""
    """What will happen, in a sentence."""
    suggested: str = ""
    source_error: ShardboardError | None = None
    name_error: ShardboardError | None = None

    @property
    def is_possible(self) -> bool:
        return bool(self.kind) and self.source_error is None and self.name_error is None


def look_at_source(wish: SourceWish, library: ModelLibrary) -> SourceLook:
    """Blocks for as long as the disk takes."""
    from app.models.gguf import model_files
    from app.models.sources import FolderSource, GgufSource, check_name, default_name, recognise

    if not wish.source.strip():
        return SourceLook(wish)
    try:
        source = recognise(wish.source.strip(), wish.revision.strip() or None)
        if isinstance(source, FolderSource):
            kind, text = "folder", _folder_text(source.folder)
        elif isinstance(source, GgufSource):
            files = model_files(source.file)
            size = size_text(sum(file.stat().st_size for file in files))
            what = "A GGUF file" if len(files) == 1 else f"{len(files)} GGUF files"
            kind, text = "gguf", f"{what} of {size}. The library gets a copy, which runs as it is stored."
        else:
            kind, text = "hub", "A repository of the Hugging Face Hub. It is downloaded into the library."
        suggested = default_name(source)
    except ShardboardError as error:
        return SourceLook(wish, source_error=error)
    except OSError as error:
        return SourceLook(wish, source_error=BadInput(f"{wish.source} cannot be looked at: {error}."))
    try:
        chosen = check_name(wish.name.strip() or suggested)
        if library.find(chosen) is not None:
            raise BadInput(f"There is a model named '{chosen}' already.", "Give another name.")
    except ShardboardError as error:
        return SourceLook(wish, kind, text, suggested, name_error=error)
    return SourceLook(wish, kind, text, suggested)


def _folder_text(folder: Path) -> str:
    if not (folder / "config.json").is_file():
        raise BadInput(
            f"{folder} holds no config.json, so it is no model.",
            "Choose the folder with config.json and the .safetensors files.",
        )
    from app.models.prequantized import read_prequantized

    if (how := read_prequantized(folder)) is not None:
        return f"A folder with a model in {how.words}. The library gets a copy, which runs as it is stored."
    return "A folder with a model. Its weights stay where they are."

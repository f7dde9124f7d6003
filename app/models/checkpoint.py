"""A Hugging Face folder looked at without torch: is it complete, safe and readable, and which tensors has it?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from app.errors import BadInput, ModelError
from app.models.description import FileStamp, TensorSource
from app.models.safetensors_file import read_header

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
CHAT_TEMPLATES = ("chat_template.jinja", "chat_template.json")
MORE_CHAT_TEMPLATES = "additional_chat_templates"
"""Folder of chat templates besides the usual one, each a `.jinja` file by its name: for tools, for one."""
TOKENIZER_FILES = (
    TOKENIZER,
    TOKENIZER_CONFIG,
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "spm.model",
    "tiktoken.model",
    *CHAT_TEMPLATES,
)
GENERATION_CONFIG = "generation_config.json"
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
MAX_JSON_BYTES = 100_000_000

INCOMPLETE = "The download is not complete; get the missing files."

REFUSE_PICKLE = "Pickled weights can run any code when they are opened, so they are refused."
REFUSE_REMOTE_CODE = (
    "transformers does not know it, and the Python code that it brings (auto_map in config.json) is not run for safety"
)


@dataclass(frozen=True)
class Checkpoint:
    """A folder whose weights can be read."""

    folder: Path
    config: bytes
    tensors: tuple[TensorSource, ...]
    files: tuple[FileStamp, ...]
    notes: tuple[str, ...] = ()
    """What a user should know of the files."""


def read_checkpoint(folder: Path) -> Checkpoint:
    """Check a Hugging Face folder and list its tensors; no weights are read.

    Raises:
        BadInput: there is no such folder.
        ModelError: no config, no safetensors, pickled weights only, or broken files.
    """
    folder = folder.expanduser()
    if not folder.exists():
        raise BadInput(f"There is no such path: {folder}.", "Check the spelling, or give a Hub id like org/name.")
    if not folder.is_dir():
        raise BadInput(f"{folder} is a file, not the folder of a model.", "Give the folder that holds config.json.")
    config = read_config(folder)
    for name in (GENERATION_CONFIG, TOKENIZER_CONFIG):
        if (folder / name).is_file():
            read_json(folder / name)  # who answers with this model will need it
    names = weight_files(folder)
    tensors: dict[str, TensorSource] = {}
    for name in names:
        for tensor in read_header(folder, name):
            other = tensors.setdefault(tensor.name, tensor)
            if other is not tensor:
                raise ModelError(
                    f"The tensor '{tensor.name}' stands in two files of {folder}: {other.file} and {name}."
                )
    return Checkpoint(
        folder=folder,
        config=config,
        tensors=tuple(tensors.values()),
        files=tuple(FileStamp.of(folder, name) for name in (*names, CONFIG)),
        notes=_notes(folder, names),
    )


def _notes(folder: Path, names: tuple[str, ...]) -> tuple[str, ...]:
    notes = []
    if names == (WEIGHTS,) and (folder / INDEX).is_file():
        notes.append(f"{INDEX} belongs to other files than these; {WEIGHTS} is used, which holds the whole model.")
    if read_json(folder / CONFIG).get("auto_map"):
        notes.append(
            "The model brings Python code (auto_map in config.json). It is not used: transformers knows the type."
        )
    return tuple(notes)


def read_config(folder: Path) -> bytes:
    """The bytes of config.json, once it is known to be a JSON object. Raises ModelError."""
    path = folder / CONFIG
    if not path.is_file():
        raise ModelError(f"{folder} has no {CONFIG}, so it is no Hugging Face model.", "Give the folder that has one.")
    read_json(path)
    return path.read_bytes()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of the model. Raises ModelError."""
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise ModelError(f"{path} is too large to be what it should be ({path.stat().st_size} bytes).")
        fields = msgspec.json.decode(path.read_bytes())
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"{path} is no valid JSON: {error}.", "The file is damaged; get it again.") from error
    if not isinstance(fields, dict):
        raise ModelError(f"{path} holds no JSON object.", "The file is damaged; get it again.")
    return fields


def read_weight_map(path: Path) -> dict[str, str]:
    """Which tensor an index says is in which file. Raises ModelError when it is none, or leads out of its folder."""
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(n, str) for n in weight_map.values()):
        raise ModelError(f"{path} has no usable weight_map.", "The file is damaged; get it again.")
    for name in weight_map.values():
        if Path(name).name != name or "\\" in name:
            raise ModelError(f"{path} names a file outside of the model's folder: '{name}'.")
    return weight_map


def weight_files(folder: Path) -> tuple[str, ...]:
    """Names of the safetensors files that make up the model: one whole file where there is one, as transformers
    takes it, else those of the index. Raises ModelError.
    """
    if (folder / INDEX).is_file():
        weight_map = read_weight_map(folder / INDEX)
        names = tuple(sorted(set(weight_map.values())))
        missing = [name for name in names if not (folder / name).is_file()]
        if (folder / WEIGHTS).is_file() and WEIGHTS not in names:
            lacking = weight_map.keys() - {tensor.name for tensor in read_header(folder, WEIGHTS)}
            if not lacking:
                return (WEIGHTS,)
            if missing:
                raise ModelError(
                    f"{folder / INDEX} names {len(missing)} weight files that are not there, such as {missing[0]}, and "
                    f"{WEIGHTS} is not the whole model: it lacks {len(lacking)} of its tensors, such as "
                    f"'{min(lacking)}'.",
                    INCOMPLETE,
                )
        if missing:
            raise ModelError(
                f"{folder / INDEX} names {len(missing)} weight files that are not there: {', '.join(missing[:3])}.",
                INCOMPLETE,
            )
        return names
    if (folder / WEIGHTS).is_file():
        return (WEIGHTS,)
    if any(path.suffix in PICKLED for path in folder.iterdir()):
        raise ModelError(
            f"{folder} holds pickled weights only. {REFUSE_PICKLE}", "Use or make a version in safetensors format."
        )
    ggufs = sorted(path.name for path in folder.glob("*.gguf"))
    if ggufs:
        raise ModelError(
            f"{folder} holds no safetensors, but a GGUF file.", f"Add the file itself: {folder / ggufs[0]}"
        )
    raise ModelError(f"{folder} holds no weights: neither {WEIGHTS} nor {INDEX} is there.")

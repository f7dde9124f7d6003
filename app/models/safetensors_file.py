"""Reads the header of a safetensors file and trusts nothing in it; never touches a tensor's bytes.

The format: u64 little-endian length of the header, the header as JSON, then the data. Every offset is
checked against the file's real size, so that later code may read the ranges without looking again.

Matrices in blocks stand there as bytes, U8 [rows, bytes of a row]; the file's metadata say of which format each is
(`BLOCKS`), and here they have that format as their dtype and the shape of what they mean.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from app.errors import ModelError
from app.models.description import STORED_ITEM_BYTES, TensorSource
from worker_agent.wire.messages import BLOCK_FORMATS

MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library itself."""

BLOCKS = "shardboard.blocks"
"""The key in a file's metadata under which the formats of its tensors in blocks stand, as JSON: name to format."""

BROKEN = "The file is damaged or was not downloaded to its end; get it again."


class _Entry(msgspec.Struct, frozen=True):
    dtype: str
    shape: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(max_length=16)]
    data_offsets: tuple[Annotated[int, Meta(ge=0)], Annotated[int, Meta(ge=0)]]


_entries = msgspec.json.Decoder(dict[str, msgspec.Raw])
_entry = msgspec.json.Decoder(_Entry)


def read_header(folder: Path, name: str) -> tuple[TensorSource, ...]:
    """The tensors of one safetensors file, in the order of their bytes.

    Args:
        folder: the model's folder.
        name: the file's name in it.

    Raises:
        ModelError: the header cannot be read, names a tensor twice, or its offsets do not fit the file.
    """
    path = folder / name
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or length > MAX_HEADER_BYTES or length + 8 > size:
                raise ModelError(
                    f"{path} is no complete safetensors file: its header is said to be {length} bytes long, "
                    f"and the file has {size}.",
                    BROKEN,
                )
            header = file.read(length)
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.") from error
    return _check(path, name, header, data_start=8 + length, size=size)


def _check(path: Path, name: str, header: bytes, data_start: int, size: int) -> tuple[TensorSource, ...]:
    try:
        entries = _entries.decode(header)
        parsed = {key: _entry.decode(raw) for key, raw in entries.items() if key != "__metadata__"}
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ModelError(f"The safetensors header of {path} is corrupted: {error}.", BROKEN) from error
    _refuse_duplicates(path, header, len(entries))
    formats = _formats(path, entries)
    tensors = []
    for key, entry in parsed.items():
        begin, end = entry.data_offsets
        item = STORED_ITEM_BYTES.get(entry.dtype)
        if item is None:
            raise ModelError(f"The tensor '{key}' in {path} has the unknown dtype '{entry.dtype}'.")
        count = 1
        for extent in entry.shape:
            count *= extent
        if end < begin or end - begin != count * item:
            raise ModelError(
                f"The safetensors header of {path} is corrupted: '{key}' of shape {entry.shape} and dtype "
                f"{entry.dtype} cannot take {end - begin} bytes.",
                BROKEN,
            )
        if data_start + end > size:
            raise ModelError(
                f"{path} is too short: the tensor '{key}' ends at byte {data_start + end}, the file at {size}.",
                BROKEN,
            )
        dtype, shape = entry.dtype, tuple(entry.shape)
        if key in formats:
            dtype, shape = formats[key], _meant(path, key, entry, formats[key])
        tensors.append(TensorSource(key, dtype, shape, end - begin, name, data_start + begin))
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.nbytes))
    for before, after in pairwise(tensors):
        if before.offset + before.nbytes > after.offset:
            raise ModelError(
                f"The safetensors header of {path} is corrupted: '{before.name}' and '{after.name}' overlap.", BROKEN
            )
    return tuple(tensors)


def _formats(path: Path, entries: dict[str, msgspec.Raw]) -> dict[str, str]:
    """Which tensors are in blocks, and in which. Raises ModelError."""
    try:
        metadata = msgspec.json.decode(entries.get("__metadata__", b"{}"), type=dict[str, str])
        formats = msgspec.json.decode(metadata.get(BLOCKS, "{}"), type=dict[str, str])
    except msgspec.DecodeError as error:
        raise ModelError(f"The metadata of {path} are corrupted: {error}.", BROKEN) from error
    for name, format_ in formats.items():
        if name not in entries or format_ not in BLOCK_FORMATS:
            raise ModelError(f"The metadata of {path} are corrupted: '{name}' in blocks of '{format_}'.", BROKEN)
    return formats


def _meant(path: Path, name: str, entry: _Entry, format_: str) -> tuple[int, ...]:
    """The shape of what blocks mean. Raises ModelError."""
    weights, size = BLOCK_FORMATS[format_]
    if entry.dtype != "U8" or len(entry.shape) < 2 or entry.shape[-1] % size:
        raise ModelError(
            f"The tensor '{name}' in {path} is said to be in blocks of {format_}, and its rows of "
            f"{entry.shape[-1] if entry.shape else 0} bytes are not.",
            BROKEN,
        )
    return (*entry.shape[:-1], entry.shape[-1] // size * weights)


def _refuse_duplicates(path: Path, header: bytes, distinct: int) -> None:
    """JSON keeps the last of two equal keys; a file with two tensors of one name is ambiguous."""
    import json

    def count(pairs: list[tuple[str, Any]]) -> int:
        return len(pairs)

    try:
        # The hook sees the innermost objects first; what it returns for the outermost is the number of its keys.
        found = json.loads(header, object_pairs_hook=count)
    except (ValueError, RecursionError) as error:  # in what was skipped so far: no UTF-8, a number without end
        raise ModelError(f"The safetensors header of {path} is corrupted: {error}.", BROKEN) from error
    if found != distinct:
        raise ModelError(f"The safetensors header of {path} is corrupted: it names a tensor twice.", BROKEN)


def write_header(tensors: tuple[TensorSource, ...]) -> bytes:
    """The length and the header of a file that holds these tensors one after another from its data's start."""
    formats = {tensor.name: tensor.dtype for tensor in tensors if tensor.dtype in BLOCK_FORMATS}
    entries: dict[str, object] = {"__metadata__": {"format": "pt", **blocks_metadata(formats)}}
    position = 0
    for tensor in tensors:
        dtype, shape = tensor.dtype, list(tensor.shape)
        if dtype in BLOCK_FORMATS:
            weights, size = BLOCK_FORMATS[dtype]
            dtype, shape = "U8", [*shape[:-1], shape[-1] // weights * size]
        entries[tensor.name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [position, position + tensor.nbytes],
        }
        position += tensor.nbytes
    header = msgspec.json.encode(entries)
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header


def blocks_metadata(formats: dict[str, str]) -> dict[str, str]:
    """What a file's metadata have to say of its tensors in blocks: name to format."""
    return {BLOCKS: msgspec.json.encode(formats).decode()} if formats else {}


def aligned_order(tensors: tuple[TensorSource, ...]) -> tuple[TensorSource, ...]:
    """Larger elements first, so that every tensor begins at a multiple of its element's size."""
    return tuple(sorted(tensors, key=lambda tensor: -STORED_ITEM_BYTES.get(tensor.dtype, 1)))

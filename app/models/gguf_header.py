"""Reads the header of a GGUF file, or of all files of one that was split, and trusts nothing in it: whatever
follows may rely on every offset.

The format is described in llama.cpp's `docs/gguf.md`: magic, version, counts, metadata, tensor table, data.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from app.errors import ModelError

VERSIONS = (2, 3)
MAX_TENSORS = 1_000_000
MAX_KEYS = 100_000
MAX_DIMENSIONS = 4
_SCALAR = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9

BROKEN = "The file is damaged or was not downloaded to its end; get it again."


@dataclass(frozen=True)
class GgufTensor:
    name: str
    nbytes: int
    file: Path
    start: int
    """Position of its first byte in the file."""
    entry: bytes
    """Its dimensions and its kind, as the tensor table has them."""


@dataclass(frozen=True)
class GgufHeader:
    """What has to be known before a file is converted."""

    architecture: str
    """Empty in a later file of a model that was split."""
    tensors: tuple[GgufTensor, ...]
    keys: tuple[bytes, ...]
    """The metadata as they stand in the file, without those about splitting."""
    number: int = 0
    """Which one it is of the files of a model, from 0."""
    count: int = 1
    """How many files the model has."""


class _Truncated(Exception):
    """The file ends inside of its header."""


class _Reader:
    """Reads little-endian values and never past the end of the file."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size

    def take(self, count: int) -> bytes:
        if count > self._size - self._file.tell():
            raise _Truncated
        return self._file.read(count)

    def skip(self, count: int) -> None:
        if count > self._size - self._file.tell():
            raise _Truncated
        self._file.seek(count, 1)

    def number(self, code: str) -> int:
        value: int = struct.unpack(f"<{code}", self.take(struct.calcsize(f"<{code}")))[0]
        return value

    def string(self) -> str:
        return self.take(self.number("Q")).decode()

    def value(self, kind: int) -> object:
        """A metadata value; arrays are only walked over."""
        if kind in _SCALAR:
            return self.number(_SCALAR[kind])
        if kind == _STRING:
            return self.string()
        if kind != _ARRAY:
            raise ValueError(f"unknown type of value {kind}")
        element, count = self.number("I"), self.number("Q")
        if element in _SCALAR:
            self.skip(count * struct.calcsize(f"<{_SCALAR[element]}"))
        elif element == _STRING:
            for _ in range(count):
                self.skip(self.number("Q"))
        else:
            raise ValueError(f"an array of values of type {element}")
        return None


def read_gguf(files: Sequence[Path]) -> GgufHeader:
    """Read and check the headers of all files of a model, in order, and put them together.

    Raises:
        ModelError: see `read_gguf_header`; or the files do not belong together.
    """
    headers = [read_gguf_header(file) for file in files]
    for number, (file, header) in enumerate(zip(files, headers, strict=True)):
        if (header.number, header.count) != (number, len(files)):
            raise ModelError(
                f"{file} says that it is file {header.number + 1} of {header.count}, and it stands as {number + 1} of "
                f"{len(files)}.",
                "Give the files the names that they were published under: NAME-00001-of-00003.gguf and so on.",
            )
    tensors = tuple(tensor for header in headers for tensor in header.tensors)
    if len({tensor.name for tensor in tensors}) != len(tensors):
        raise ModelError(f"The files of {files[0]} name a tensor twice, so they are not of one model.", BROKEN)
    return GgufHeader(headers[0].architecture, tensors, headers[0].keys)


def write_outline(header: GgufHeader, path: Path) -> None:
    """Write a GGUF file with this header, whose tensors have no content of their own: all lie in one place.

    For readers that know nothing of split files and look at metadata, names and shapes only.
    """
    table = b"".join(_text(tensor.name) + tensor.entry + bytes(8) for tensor in header.tensors)
    head = b"GGUF" + struct.pack("<IQQ", VERSIONS[-1], len(header.tensors), len(header.keys))
    with path.open("wb") as file:
        size = file.write(head + b"".join(header.keys) + table)
        # The alignment may be any; a page is a multiple of all that are used.
        file.truncate(size + 4096 + max((tensor.nbytes for tensor in header.tensors), default=0))


def _text(text: str) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def read_gguf_header(path: Path) -> GgufHeader:
    """Read and check the header of one GGUF file; every tensor is known to lie inside the file afterwards.

    Raises:
        ModelError: no GGUF file, an unknown version, damaged, or cut short.
    """
    try:
        with path.open("rb") as file:
            return _read(path, file, path.stat().st_size)
    except _Truncated:
        raise ModelError(f"{path} is truncated: it ends inside of its header.", BROKEN) from None
    except (ValueError, UnicodeDecodeError, OverflowError) as error:
        raise ModelError(f"The GGUF header of {path} is damaged: {error}.", BROKEN) from error
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror or error}.") from error


def _read(path: Path, file: BinaryIO, size: int) -> GgufHeader:
    reader = _Reader(file, size)
    if reader.take(4) != b"GGUF":
        raise ModelError(f"{path} is no GGUF file: it does not begin with the letters GGUF.")
    version = reader.number("I")
    if version not in VERSIONS:
        raise ModelError(f"{path} has the GGUF version {version}; versions 2 and 3 can be read.")
    tensor_count, key_count = reader.number("Q"), reader.number("Q")
    if tensor_count > MAX_TENSORS or key_count > MAX_KEYS:
        raise ValueError(f"{tensor_count} tensors and {key_count} keys are announced")
    metadata: dict[str, object] = {}
    keys: list[bytes] = []
    for _ in range(key_count):
        begin = file.tell()
        key = reader.string()
        metadata[key] = reader.value(reader.number("I"))
        if not key.startswith("split."):
            keys.append(_again(file, begin))
    number, count = (metadata.get(key, least) for key, least in (("split.no", 0), ("split.count", 1)))
    if not isinstance(number, int) or not isinstance(count, int) or not 0 <= number < max(count, 1):
        raise ValueError("it does not say which one of how many files it is")
    architecture = metadata.get("general.architecture", "" if number else None)
    if not isinstance(architecture, str):
        raise ValueError("it names no architecture")
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 1 <= alignment <= 2**20:
        raise ValueError("its alignment is out of range")
    entries = [_tensor(reader, file) for _ in range(tensor_count)]
    data_start = -(-file.tell() // alignment) * alignment
    if len({name for name, _, _, _ in entries}) != len(entries):
        raise ValueError("it names a tensor twice")
    tensors = tuple(
        GgufTensor(name, nbytes, path, data_start + offset, entry) for name, nbytes, offset, entry in entries
    )
    for tensor in tensors:
        if tensor.start + tensor.nbytes > size:
            raise ModelError(
                f"{path} is truncated: the tensor '{tensor.name}' ends at byte {tensor.start + tensor.nbytes}, "
                f"the file at {size}.",
                BROKEN,
            )
    return GgufHeader(architecture, tensors, tuple(keys), number, max(count, 1))


def _again(file: BinaryIO, begin: int) -> bytes:
    """What was read since `begin`."""
    end = file.tell()
    file.seek(begin)
    return file.read(end - begin)


def _tensor(reader: _Reader, file: BinaryIO) -> tuple[str, int, int, bytes]:
    """(name, bytes, offset in the data, dimensions and kind as they stand there)"""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    name = reader.string()
    begin = file.tell()
    dimensions = reader.number("I")
    if dimensions > MAX_DIMENSIONS:
        raise ValueError(f"'{name}' has {dimensions} dimensions")
    count = 1
    for _ in range(dimensions):
        count *= reader.number("Q")
    kind = reader.number("I")
    entry = _again(file, begin)
    offset = reader.number("Q")
    try:
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (ValueError, KeyError):
        raise ValueError(f"'{name}' is stored in an unknown way ({kind})") from None
    if count % block:
        raise ValueError(f"'{name}' has {count} elements, which is no whole number of blocks of {block}")
    return name, count // block * block_bytes, offset, entry

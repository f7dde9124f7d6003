"""Reads the header of a GGUF file and trusts nothing in it: whatever follows may rely on every offset.

The format is described in llama.cpp's `docs/gguf.md`: magic, version, counts, metadata, tensor table, data.
"""

from __future__ import annotations

import struct
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


@dataclass(frozen=True)
class GgufHeader:
    """What has to be known before a file is converted."""

    architecture: str
    tensors: tuple[GgufTensor, ...]


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


def read_gguf_header(path: Path) -> GgufHeader:
    """Read and check a GGUF header; every tensor is known to lie inside the file afterwards.

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
    for _ in range(key_count):
        key = reader.string()
        metadata[key] = reader.value(reader.number("I"))
    if isinstance(parts := metadata.get("split.count"), int) and parts > 1:
        raise ModelError(
            f"{path} is one of {parts} pieces of a model.",
            "Merge them with llama.cpp's gguf-split --merge, and add that.",
        )
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise ValueError("it names no architecture")
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 1 <= alignment <= 2**20:
        raise ValueError("its alignment is out of range")
    entries = [_tensor(reader) for _ in range(tensor_count)]
    data_start = -(-file.tell() // alignment) * alignment
    if len({tensor.name for tensor, _ in entries}) != len(entries):
        raise ValueError("it names a tensor twice")
    for tensor, offset in entries:
        if data_start + offset + tensor.nbytes > size:
            raise ModelError(
                f"{path} is truncated: the tensor '{tensor.name}' ends at byte {data_start + offset + tensor.nbytes}, "
                f"the file at {size}.",
                BROKEN,
            )
    return GgufHeader(architecture, tuple(tensor for tensor, _ in entries))


def _tensor(reader: _Reader) -> tuple[GgufTensor, int]:
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    name = reader.string()
    dimensions = reader.number("I")
    if dimensions > MAX_DIMENSIONS:
        raise ValueError(f"'{name}' has {dimensions} dimensions")
    count = 1
    for _ in range(dimensions):
        count *= reader.number("Q")
    kind, offset = reader.number("I"), reader.number("Q")
    try:
        block, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    except (ValueError, KeyError):
        raise ValueError(f"'{name}' is stored in an unknown way ({kind})") from None
    if count % block:
        raise ValueError(f"'{name}' has {count} elements, which is no whole number of blocks of {block}")
    return GgufTensor(name, count // block * block_bytes), offset

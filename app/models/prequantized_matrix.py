"""The quantized matrices of a model's files, whatever method they are of: their tensors, what these have to be, and the
codes, scales and zeros that all of them are read to. Imports numpy: child processes only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from app.errors import ModelError
from app.models.description import TensorSource
from app.models.prequantized import Prequantized
from worker_agent.wire.messages import CODE_TABLES

Array = NDArray[Any]
Kind = Literal["INT4", "INT8", "FP8", "NF4", "FP4", "AFFINE4"]
"""As the formats of blocks are called, without their width."""

DTYPES = {
    "F32": "<f4", "F16": "<f2", "BF16": "<u2", "I64": "<i8", "I32": "<i4", "I8": "i1", "U8": "u1",
    "F8_E4M3": "u1", "F8_E8M0": "u1",
}  # fmt: skip
"""What numpy reads safetensors' dtypes as; those that it does not know as their bits."""


def _e4m3() -> NDArray[np.float32]:
    """What each of the 256 numbers of float8 e4m3 means."""
    bits = np.arange(256, dtype=np.uint32)
    placed = ((bits & 128) << 24) | ((bits & 127) << 20)
    found = placed.view(np.float32) * np.float32(2.0**120)
    found[[127, 255]] = np.nan
    return found


E4M3 = _e4m3()

FLOATS = ("F32", "F16", "BF16", "F8_E8M0")
"""What scales may be; F8_E8M0 has an exponent alone."""


@dataclass(frozen=True)
class Codes:
    """Some rows of a matrix: weight = (code - zero) * scale; of NF4 and FP4 CODE_TABLES[kind][code] * scale."""

    codes: Array
    """[rows, columns]: INT8 int8, FP8 uint8, the bits of float8 e4m3; the others uint8 from 0 to 15."""
    scales: Array
    """float32 [rows, groups]"""
    zeros: Array | None
    """[rows, groups], int16, or float32 where they need not be whole; None where all are 0."""


@dataclass(frozen=True)
class Matrix:
    """A quantized matrix [rows, columns] of a model's files."""

    name: str
    """What it is called where nothing is quantized: X.weight."""
    kind: Kind
    rows: int
    columns: int
    group: int
    """Columns that share a scale."""
    sources: tuple[TensorSource, ...]
    """The tensors that it is made of, the codes first."""
    scale_dtype: str
    read: Callable[[int, int], Codes]
    """Rows [start, stop); both are multiples of 8 unless they are the last."""
    places: Array | None = None
    """The group of each column, where columns of a group do not stand together."""

    def floats(self, found: Codes) -> Array:
        """What some of its rows mean: float32 [rows, columns], rounded once."""
        places = np.arange(self.columns) // self.group if self.places is None else self.places
        if self.kind in CODE_TABLES:
            codes = np.asarray(CODE_TABLES[self.kind], np.float32)[found.codes]
        else:
            codes = E4M3[found.codes] if self.kind == "FP8" else found.codes.astype(np.float32)
        if found.zeros is not None:
            codes -= found.zeros[:, places]
        codes *= found.scales[:, places]
        return codes


@dataclass(frozen=True)
class Stack:
    """The matrices of a layer's experts [experts, rows, columns] in one tensor, in MXFP4 as gpt-oss has them."""

    name: str
    shape: tuple[int, int, int]
    sources: tuple[TensorSource, ...]
    read: Callable[[int], tuple[Array, Array]]
    """Of one expert: exponents uint8 [rows, groups], codes uint8 [rows, columns]."""


class Contents:
    """The tensors of a model's files, mapped into memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, Array] = {}

    def array(self, tensor: TensorSource) -> Array:
        """A tensor as it is stored (`DTYPES`)."""
        return self.bytes(tensor).view(DTYPES[tensor.dtype]).reshape(tensor.shape)

    def floats(self, tensor: TensorSource) -> Array:
        """A tensor of floats as float32."""
        found = self.array(tensor)
        if tensor.dtype == "BF16":
            return (found.astype(np.uint32) << 16).view(np.float32)
        if tensor.dtype == "F8_E8M0":
            return np.ldexp(np.float32(1), found.astype(np.int32) - 127)
        return found.astype(np.float32)

    def bytes(self, tensor: TensorSource) -> Array:
        """A tensor's bytes: uint8 [n]."""
        whole = self._files.get(tensor.file)
        if whole is None:
            whole = self._files[tensor.file] = np.memmap(self._folder / tensor.file, np.uint8, "r")
        # A copy where it does not begin as numpy wants it.
        found = whole[tensor.offset : tensor.offset + tensor.nbytes]
        return found if tensor.offset % 8 == 0 else found.copy()


@dataclass(frozen=True)
class Found:
    """What the tensors of a quantized model are."""

    matrices: tuple[Matrix, ...]
    stacks: tuple[Stack, ...]
    plain: tuple[TensorSource, ...]
    """Those that are no part of a quantized matrix."""


def nothing_quantized(how: Prequantized) -> ModelError:
    return ModelError(
        f"config.json says that the matrices are quantized ({how.words}), and none of the files is.",
        "config.json and weights are not of the same model: get both from one place.",
    )


def wrong(path: str, how: Prequantized, why: str) -> ModelError:
    return ModelError(
        f"The tensors of '{path}' are not those of a matrix in {how.words}: {why}.",
        "config.json and weights are not of the same model, or the files are damaged: get both from one place.",
    )


def need(parts: Mapping[str, TensorSource], path: str, how: Prequantized, leaf: str, *dtypes: str) -> TensorSource:
    """A tensor of a matrix, of one of these dtypes. Raises ModelError."""
    found = parts.get(leaf)
    if found is None:
        raise wrong(path, how, f"{path}.{leaf} is missing")
    if found.dtype not in dtypes:
        raise wrong(path, how, f"{found.name} is of the dtype {found.dtype}")
    return found


def check_shape(tensor: TensorSource, path: str, how: Prequantized, *shape: int) -> None:
    """Raises ModelError unless the tensor has this shape."""
    if tensor.shape != shape:
        had, wanted = (" × ".join(map(str, each)) or "a single number" for each in (tensor.shape, shape))
        raise wrong(path, how, f"{tensor.name} is {had}, and {wanted} is what goes with the others")


def split(packed: Array, bits: int) -> Array:
    """Whole numbers of 32 bits [..., n] as the codes in them, the lowest bits first: uint8 [..., n * 32 / bits]."""
    data = np.ascontiguousarray(packed).view(np.uint8)
    if bits == 8:
        return data
    codes = np.empty((*data.shape[:-1], 2 * data.shape[-1]), np.uint8)
    codes[..., 0::2] = data & 15
    codes[..., 1::2] = data >> 4
    return codes


def signed(codes: Array, bits: int) -> Array:
    """Codes from 0 to 255 as int8, 128 less; those of 4 bits as they are."""
    return (codes ^ 128).view(np.int8) if bits == 8 else codes


def extents(path: str, how: Prequantized, shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) != 2 or not all(shape):
        raise wrong(path, how, f"codes of the shape {shape} are no matrix")
    return shape[0], shape[1]


def places_of(
    contents: Contents,
    path: str,
    parts: Mapping[str, TensorSource],
    how: Prequantized,
    leaf: str,
    columns: int,
    group: int,
) -> Array | None:
    """The group of each column as a tensor says it; None where all stand together. Raises ModelError."""
    if leaf not in parts:
        return None
    index = need(parts, path, how, leaf, "I32", "I64")
    check_shape(index, path, how, columns)
    places = contents.array(index).astype(np.int64)
    if (places == -1).all() or np.array_equal(places, np.arange(columns) // group):
        return None
    if places.min() < 0 or places.max() >= -(-columns // group):
        raise wrong(path, how, f"{index.name} names groups that are not there")
    return places


def of_rows(numbers: Array, rows: int, start: int, stop: int) -> Array:
    """Rows [start, stop) of [rows, n], or of [1, n] which all rows share."""
    if len(numbers) == rows:
        return numbers[start:stop]
    return np.broadcast_to(numbers, (stop - start, numbers.shape[1]))


def of_groups(numbers: Array, group: int, columns: int, start: int, stop: int) -> Array:
    """Of numbers [n], one for each `group` weights of a matrix counted row by row, those of rows [start, stop).

    Returns [rows, columns / g], where g is the largest number that divides both `group` and `columns`: no g weights
    have more than one of the numbers, though rows may end within a group.
    """
    width = gcd(group, columns)
    first = np.arange(start * columns, stop * columns, width) // group
    return numbers[first].reshape(stop - start, -1)

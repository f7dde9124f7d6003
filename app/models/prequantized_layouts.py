"""How the files of quantized models have their matrices, read without torch: GPTQ, AWQ, compressed-tensors, FP8.

A matrix is several tensors there: codes (those of few bits in whole numbers of 32), scales, and the codes that mean
nothing (zeros). Each layout is read to the same: codes row by row, and the scale and the zero of each group of columns.
Imports numpy: child processes only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from app.errors import ModelError
from app.models.description import TensorSource
from app.models.prequantized import Prequantized

Array = NDArray[Any]
Kind = Literal["INT4", "INT8", "FP8"]

AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Which of the eight codes of a whole number is that of each column, in AWQ's matrices."""

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
    """Some rows of a matrix: weight = (code - zero) * scale."""

    codes: Array
    """[rows, columns]: INT4 uint8 from 0 to 15, INT8 int8, FP8 uint8, the bits of float8 e4m3."""
    scales: Array
    """float32 [rows, groups]"""
    zeros: Array | None
    """int16 [rows, groups]; None where all are 0."""


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
        codes = E4M3[found.codes] if self.kind == "FP8" else found.codes.astype(np.float32)
        if found.zeros is not None:
            codes -= found.zeros[:, places]
        codes *= found.scales[:, places]
        return codes


@dataclass(frozen=True)
class Stack:
    """The matrices of a layer's experts in one tensor [experts, columns, rows], in MXFP4 as gpt-oss has them."""

    name: str
    shape: tuple[int, int, int]
    sources: tuple[TensorSource, ...]
    floats: Callable[[int], Array]
    """The matrix of one expert: float32 [columns, rows]."""


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


_LEAVES = {
    "gptq": ("qweight", "qzeros", "scales", "g_idx"),
    "awq": ("qweight", "qzeros", "scales"),
    "compressed-tensors": ("weight_packed", "weight_scale", "weight_zero_point", "weight_shape", "weight_g_idx"),
    "fp8": ("weight", "weight_scale_inv", "weight_scale", "qscale_weight"),
}
"""What the tensors are called that a quantized matrix is made of, by method; the codes first."""

_ACTIVATIONS = (
    "input_scale", "input_zero_point", "output_scale", "output_zero_point", "input_global_scale", "k_scale", "v_scale",
    "q_scale", "k_zero_point", "v_zero_point", "activation_scale", "qscale_act",
)  # fmt: skip
"""Tensors that say how to round what goes into and comes out of matrices, which is not done here."""


def find(contents: Contents, tensors: Iterable[TensorSource], how: Prequantized) -> Found:
    """Tell a model's quantized matrices from its other tensors.

    Raises:
        ModelError: the tensors of a matrix do not go together, or there is no quantized matrix.
    """
    known = {tensor.name: tensor for tensor in tensors}
    if how.method == "mxfp4":
        return _mxfp4(contents, known, how)
    first, *others = _LEAVES[how.method]
    modules: dict[str, dict[str, TensorSource]] = {}
    for name, tensor in known.items():
        path, _, leaf = name.rpartition(".")
        if leaf in others or (leaf == first and (leaf != "weight" or tensor.dtype.startswith("F8_"))):
            modules.setdefault(path, {})[leaf] = tensor
    matrices, used = [], set()
    for path, parts in modules.items():
        if first not in parts and how.method == "compressed-tensors" and f"{path}.weight" in known:
            parts["weight"] = known[f"{path}.weight"]  # not packed: a code a byte
        codes = parts.get(first) or parts.get("weight")
        if codes is None:
            raise _wrong(path, how, f"there is {next(iter(parts.values())).name} and no {path}.{first}")
        matrix = _READERS[how.method](contents, path, parts, how)
        if matrix.name in known and known[matrix.name] is not codes:
            raise _wrong(path, how, f"there is {matrix.name} besides {codes.name}")
        matrices.append(matrix)
        used |= {part.name for part in parts.values()}
    if not matrices:
        raise _nothing(how)
    plain = [
        tensor for name, tensor in known.items() if name not in used and name.rpartition(".")[2] not in _ACTIVATIONS
    ]
    for tensor in plain:
        if tensor.dtype.startswith("F8_"):
            raise _wrong(tensor.name, how, f"it is of the dtype {tensor.dtype}, and no scales belong to it")
    return Found(tuple(matrices), (), tuple(plain))


def _nothing(how: Prequantized) -> ModelError:
    return ModelError(
        f"config.json says that the matrices are quantized ({how.words}), and none of the files is.",
        "config.json and weights are not of the same model: get both from one place.",
    )


def _wrong(path: str, how: Prequantized, why: str) -> ModelError:
    return ModelError(
        f"The tensors of '{path}' are not those of a matrix in {how.words}: {why}.",
        "config.json and weights are not of the same model, or the files are damaged: get both from one place.",
    )


def _need(parts: Mapping[str, TensorSource], path: str, how: Prequantized, leaf: str, *dtypes: str) -> TensorSource:
    """A tensor of a matrix, of one of these dtypes. Raises ModelError."""
    found = parts.get(leaf)
    if found is None:
        raise _wrong(path, how, f"{path}.{leaf} is missing")
    if found.dtype not in dtypes:
        raise _wrong(path, how, f"{found.name} is of the dtype {found.dtype}")
    return found


def _check(tensor: TensorSource, path: str, how: Prequantized, *shape: int) -> None:
    """Raises ModelError unless the tensor has this shape."""
    if tensor.shape != shape:
        had, wanted = (" × ".join(map(str, each)) or "a single number" for each in (tensor.shape, shape))
        raise _wrong(path, how, f"{tensor.name} is {had}, and {wanted} is what goes with the others")


def _split(packed: Array, bits: int) -> Array:
    """Whole numbers of 32 bits [..., n] as the codes in them, the lowest bits first: uint8 [..., n * 32 / bits]."""
    data = np.ascontiguousarray(packed).view(np.uint8)
    if bits == 8:
        return data
    codes = np.empty((*data.shape[:-1], 2 * data.shape[-1]), np.uint8)
    codes[..., 0::2] = data & 15
    codes[..., 1::2] = data >> 4
    return codes


def _signed(codes: Array, bits: int) -> Array:
    """Codes from 0 to 255 as int8, 128 less; those of 4 bits as they are."""
    return (codes ^ 128).view(np.int8) if bits == 8 else codes


def _extents(path: str, how: Prequantized, shape: tuple[int, ...]) -> tuple[int, int]:
    if len(shape) != 2 or not all(shape):
        raise _wrong(path, how, f"codes of the shape {shape} are no matrix")
    return shape[0], shape[1]


def _places(
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
    index = _need(parts, path, how, leaf, "I32", "I64")
    _check(index, path, how, columns)
    places = contents.array(index).astype(np.int64)
    if (places == -1).all() or np.array_equal(places, np.arange(columns) // group):
        return None
    if places.min() < 0 or places.max() >= -(-columns // group):
        raise _wrong(path, how, f"{index.name} names groups that are not there")
    return places


def _gptq(contents: Contents, path: str, parts: Mapping[str, TensorSource], how: Prequantized) -> Matrix:
    bits = how.bits
    codes = _need(parts, path, how, "qweight", "I32")
    zeros, scales = _need(parts, path, how, "qzeros", "I32"), _need(parts, path, how, "scales", *FLOATS)
    words, rows = _extents(path, how, codes.shape)
    columns = words * 32 // bits
    group = columns if how.group == -1 else min(how.group, columns)
    groups = -(-columns // group)
    _check(scales, path, how, groups, rows)
    _check(zeros, path, how, groups, rows * bits // 32)
    places = _places(contents, path, parts, how, "g_idx", columns, group)

    def read(start: int, stop: int) -> Codes:
        found = _split(contents.array(codes)[:, start:stop].T, bits)
        nothing = _split(contents.array(zeros), bits)[:, start:stop].T.astype(np.int16) + how.zero_offset
        if bits == 8:
            nothing -= 128
        return Codes(_signed(found, bits), contents.floats(scales)[:, start:stop].T, nothing)

    kind: Kind = "INT4" if bits == 4 else "INT8"
    sources = (codes, *(part for part in parts.values() if part is not codes))
    return Matrix(f"{path}.weight", kind, rows, columns, group, sources, scales.dtype, read, places)


def _awq(contents: Contents, path: str, parts: Mapping[str, TensorSource], how: Prequantized) -> Matrix:
    codes = _need(parts, path, how, "qweight", "I32")
    zeros, scales = _need(parts, path, how, "qzeros", "I32"), _need(parts, path, how, "scales", *FLOATS)
    columns, words = _extents(path, how, codes.shape)
    rows = words * 8
    group = columns if how.group == -1 else min(how.group, columns)
    groups = -(-columns // group)
    _check(scales, path, how, groups, rows)
    _check(zeros, path, how, groups, words)

    def columnwise(tensor: TensorSource, start: int, stop: int) -> Array:
        part = _split(contents.array(tensor)[:, start // 8 : -(-stop // 8)], 4)
        return part.reshape(len(part), -1, 8)[:, :, AWQ_ORDER].reshape(len(part), -1).T

    def read(start: int, stop: int) -> Codes:
        nothing = columnwise(zeros, start, stop).astype(np.int16)
        return Codes(columnwise(codes, start, stop), contents.floats(scales)[:, start:stop].T, nothing)

    return Matrix(f"{path}.weight", "INT4", rows, columns, group, (codes, zeros, scales), scales.dtype, read)


def _compressed(contents: Contents, path: str, parts: Mapping[str, TensorSource], how: Prequantized) -> Matrix:
    scales = _need(parts, path, how, "weight_scale", *FLOATS)
    if "weight" in parts and parts["weight"].dtype == "F8_E4M3":
        return _fp8(contents, path, parts, how)
    if "weight" in parts:
        codes, bits = _need(parts, path, how, "weight", "I8"), 8
        rows, columns = _extents(path, how, codes.shape)
    else:
        codes = _need(parts, path, how, "weight_packed", "I32")
        shape = _need(parts, path, how, "weight_shape", "I64", "I32")
        _check(shape, path, how, 2)
        rows, columns = (int(extent) for extent in contents.array(shape))
        if columns < 1 or len(codes.shape) != 2 or codes.shape[0] != rows:
            raise _wrong(path, how, f"{codes.name} is of shape {codes.shape}, and the matrix is {rows} × {columns}")
        fitting = [each for each in (4, 8) if codes.shape[1] == -(-columns * each // 32)]
        if not fitting:
            raise _wrong(path, how, f"{codes.name} is of shape {codes.shape}, and the matrix is {rows} × {columns}")
        bits = fitting[0]
    groups = 1 if len(scales.shape) < 2 else scales.shape[1]
    if columns % groups:
        raise _wrong(path, how, f"{groups} scales a row do not divide its {columns} columns")
    if scales.shape not in ((), (1,), (rows,), (1, 1)):
        _check(scales, path, how, rows, groups)
    places = _places(contents, path, parts, how, "weight_g_idx", columns, columns // groups)
    nothing: Array | None = None
    if "weight_zero_point" in parts:
        zeros = _need(parts, path, how, "weight_zero_point", "I32", "I8")
        stored = contents.array(zeros)
        if zeros.dtype == "I32" and "weight_packed" in parts:
            _check(zeros, path, how, -(-rows * bits // 32), groups)
            nothing = _split(stored.T, bits)[:, :rows].T.astype(np.int16) - (128 if bits == 8 else 0)
        else:
            if scales.shape != zeros.shape:
                _check(zeros, path, how, *scales.shape)
            nothing = stored.astype(np.int16).reshape(-1, groups) + (8 if bits == 4 else 0)
        if bits == 8 and not nothing.any():
            nothing = None
    elif bits == 4:
        nothing = np.full((1, groups), 8, np.int16)

    def read(start: int, stop: int) -> Codes:
        if "weight" in parts:
            found = contents.array(codes)[start:stop]
        else:
            found = _signed(_split(contents.array(codes)[start:stop], bits)[:, :columns], bits)
        return Codes(
            found,
            _of_rows(contents.floats(scales).reshape(-1, groups), rows, start, stop),
            None if nothing is None else _of_rows(nothing, rows, start, stop),
        )

    kind: Kind = "INT4" if bits == 4 else "INT8"
    sources = (codes, *(part for part in parts.values() if part is not codes))
    return Matrix(f"{path}.weight", kind, rows, columns, columns // groups, sources, scales.dtype, read, places)


def _fp8(contents: Contents, path: str, parts: Mapping[str, TensorSource], how: Prequantized) -> Matrix:
    codes = _need(parts, path, how, "weight", "F8_E4M3")
    leaf = next((name for name in _LEAVES["fp8"][1:] if name in parts), "weight_scale_inv")
    scales = _need(parts, path, how, leaf, *FLOATS)
    rows, columns = _extents(path, how, codes.shape)
    height, group = how.block or (1, columns)
    if scales.shape in ((), (1,), (1, 1)):
        height, group = rows, columns
    elif how.block is None and len(scales.shape) == 2 and scales.shape[1] and columns % scales.shape[1] == 0:
        group = columns // scales.shape[1]
    high, wide = -(-rows // height), -(-columns // group)
    if scales.shape != (high,) or wide != 1:
        _check(scales, path, how, *(scales.shape if high * wide == 1 else (high, wide)))

    def read(start: int, stop: int) -> Codes:
        found = contents.floats(scales).reshape(high, wide)[np.arange(start, stop) // height]
        return Codes(contents.array(codes)[start:stop], found, None)

    sources = (codes, *(part for part in parts.values() if part is not codes))
    return Matrix(f"{path}.weight", "FP8", rows, columns, group, sources, scales.dtype, read)


MXFP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
"""What each of the 16 codes of MXFP4 means."""


def _mxfp4(contents: Contents, known: Mapping[str, TensorSource], how: Prequantized) -> Found:
    """gpt-oss: X_blocks [experts, rows, groups, 16] and X_scales [experts, rows, groups] for each stack X."""
    stacks, used = [], set()
    for name in [name.removesuffix("_blocks") for name in known if name.endswith("_blocks")]:
        parts = {leaf: known[found] for leaf in ("blocks", "scales") if (found := f"{name}_{leaf}") in known}
        if "scales" not in parts:
            raise _wrong(name, how, f"{name}_scales is missing")
        blocks, scales = (_need(parts, name, how, leaf, "U8") for leaf in parts)
        if len(blocks.shape) != 4:
            raise _wrong(name, how, f"codes of the shape {blocks.shape} are no stack of matrices")
        experts, rows, groups, _ = blocks.shape
        _check(blocks, name, how, experts, rows, groups, 16)
        _check(scales, name, how, experts, rows, groups)

        def floats(expert: int, blocks: TensorSource = blocks, scales: TensorSource = scales) -> Array:
            codes = _split(contents.array(blocks)[expert], 4)
            exponents = contents.array(scales)[expert].astype(np.int32) - 127
            found: Array = np.ldexp(MXFP4[codes], exponents[..., None])
            return found.reshape(len(found), -1).T

        stacks.append(Stack(name, (experts, groups * 32, rows), (blocks, scales), floats))
        used |= {blocks.name, scales.name}
    if not stacks:
        raise _nothing(how)
    return Found((), tuple(stacks), tuple(tensor for name, tensor in known.items() if name not in used))


def _of_rows(numbers: Array, rows: int, start: int, stop: int) -> Array:
    """Rows [start, stop) of [rows, n], or of [1, n] which all rows share."""
    if len(numbers) == rows:
        return numbers[start:stop]
    return np.broadcast_to(numbers, (stop - start, numbers.shape[1]))


_READERS: dict[str, Callable[[Contents, str, Mapping[str, TensorSource], Prequantized], Matrix]] = {
    "gptq": _gptq,
    "awq": _awq,
    "compressed-tensors": _compressed,
    "fp8": _fp8,
}

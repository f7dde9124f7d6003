"""How the files of quantized models have their matrices, read without torch: GPTQ, AWQ, compressed-tensors, FP8. Those
of bitsandbytes and HQQ are read in `prequantized_flat.py`.

A matrix is several tensors there: codes (those of few bits in whole numbers of 32), scales, and the codes that mean
nothing (zeros). Each layout is read to the same: codes row by row, and the scale and the zero of each group of columns.
Imports numpy: child processes only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import numpy as np

from app.models.description import TensorSource
from app.models.prequantized import Prequantized
from app.models.prequantized_flat import find_bitsandbytes, find_hqq
from app.models.prequantized_matrix import (
    FLOATS,
    Array,
    Codes,
    Contents,
    Found,
    Kind,
    Matrix,
    Stack,
    check_shape,
    extents,
    need,
    nothing_quantized,
    of_rows,
    places_of,
    signed,
    split,
    wrong,
)

AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Which of the eight codes of a whole number is that of each column, in AWQ's matrices."""

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
    if how.method in _FINDERS:
        return _FINDERS[how.method](contents, known, how)
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
            raise wrong(path, how, f"there is {next(iter(parts.values())).name} and no {path}.{first}")
        matrix = _READERS[how.method](contents, path, parts, how)
        if matrix.name in known and known[matrix.name] is not codes:
            raise wrong(path, how, f"there is {matrix.name} besides {codes.name}")
        matrices.append(matrix)
        used |= {part.name for part in parts.values()}
    if not matrices:
        raise nothing_quantized(how)
    plain = [
        tensor for name, tensor in known.items() if name not in used and name.rpartition(".")[2] not in _ACTIVATIONS
    ]
    for tensor in plain:
        if tensor.dtype.startswith("F8_"):
            raise wrong(tensor.name, how, f"it is of the dtype {tensor.dtype}, and no scales belong to it")
    return Found(tuple(matrices), (), tuple(plain))


def _gptq(contents: Contents, path: str, parts: Mapping[str, TensorSource], how: Prequantized) -> Matrix:
    bits = how.bits
    codes = need(parts, path, how, "qweight", "I32")
    zeros, scales = need(parts, path, how, "qzeros", "I32"), need(parts, path, how, "scales", *FLOATS)
    words, rows = extents(path, how, codes.shape)
    columns = words * 32 // bits
    group = columns if how.group == -1 else min(how.group, columns)
    groups = -(-columns // group)
    check_shape(scales, path, how, groups, rows)
    check_shape(zeros, path, how, groups, rows * bits // 32)
    places = places_of(contents, path, parts, how, "g_idx", columns, group)

    def read(start: int, stop: int) -> Codes:
        found = split(contents.array(codes)[:, start:stop].T, bits)
        nothing = split(contents.array(zeros), bits)[:, start:stop].T.astype(np.int16) + how.zero_offset
        if bits == 8:
            nothing -= 128
        return Codes(signed(found, bits), contents.floats(scales)[:, start:stop].T, nothing)

    kind: Kind = "INT4" if bits == 4 else "INT8"
    sources = (codes, *(part for part in parts.values() if part is not codes))
    return Matrix(f"{path}.weight", kind, rows, columns, group, sources, scales.dtype, read, places)


def _awq(contents: Contents, path: str, parts: Mapping[str, TensorSource], how: Prequantized) -> Matrix:
    codes = need(parts, path, how, "qweight", "I32")
    zeros, scales = need(parts, path, how, "qzeros", "I32"), need(parts, path, how, "scales", *FLOATS)
    columns, words = extents(path, how, codes.shape)
    rows = words * 8
    group = columns if how.group == -1 else min(how.group, columns)
    groups = -(-columns // group)
    check_shape(scales, path, how, groups, rows)
    check_shape(zeros, path, how, groups, words)

    def columnwise(tensor: TensorSource, start: int, stop: int) -> Array:
        part = split(contents.array(tensor)[:, start // 8 : -(-stop // 8)], 4)
        return part.reshape(len(part), -1, 8)[:, :, AWQ_ORDER].reshape(len(part), -1).T

    def read(start: int, stop: int) -> Codes:
        nothing = columnwise(zeros, start, stop).astype(np.int16)
        return Codes(columnwise(codes, start, stop), contents.floats(scales)[:, start:stop].T, nothing)

    return Matrix(f"{path}.weight", "INT4", rows, columns, group, (codes, zeros, scales), scales.dtype, read)


def _compressed(contents: Contents, path: str, parts: Mapping[str, TensorSource], how: Prequantized) -> Matrix:
    scales = need(parts, path, how, "weight_scale", *FLOATS)
    if "weight" in parts and parts["weight"].dtype == "F8_E4M3":
        return _fp8(contents, path, parts, how)
    if "weight" in parts:
        codes, bits = need(parts, path, how, "weight", "I8"), 8
        rows, columns = extents(path, how, codes.shape)
    else:
        codes = need(parts, path, how, "weight_packed", "I32")
        shape = need(parts, path, how, "weight_shape", "I64", "I32")
        check_shape(shape, path, how, 2)
        rows, columns = (int(extent) for extent in contents.array(shape))
        if columns < 1 or len(codes.shape) != 2 or codes.shape[0] != rows:
            raise wrong(path, how, f"{codes.name} is of shape {codes.shape}, and the matrix is {rows} × {columns}")
        fitting = [each for each in (4, 8) if codes.shape[1] == -(-columns * each // 32)]
        if not fitting:
            raise wrong(path, how, f"{codes.name} is of shape {codes.shape}, and the matrix is {rows} × {columns}")
        bits = fitting[0]
    groups = 1 if len(scales.shape) < 2 else scales.shape[1]
    if columns % groups:
        raise wrong(path, how, f"{groups} scales a row do not divide its {columns} columns")
    if scales.shape not in ((), (1,), (rows,), (1, 1)):
        check_shape(scales, path, how, rows, groups)
    places = places_of(contents, path, parts, how, "weight_g_idx", columns, columns // groups)
    nothing: Array | None = None
    if "weight_zero_point" in parts:
        zeros = need(parts, path, how, "weight_zero_point", "I32", "I8")
        stored = contents.array(zeros)
        if zeros.dtype == "I32" and "weight_packed" in parts:
            check_shape(zeros, path, how, -(-rows * bits // 32), groups)
            nothing = split(stored.T, bits)[:, :rows].T.astype(np.int16) - (128 if bits == 8 else 0)
        else:
            if scales.shape != zeros.shape:
                check_shape(zeros, path, how, *scales.shape)
            nothing = stored.astype(np.int16).reshape(-1, groups) + (8 if bits == 4 else 0)
        if bits == 8 and not nothing.any():
            nothing = None
    elif bits == 4:
        nothing = np.full((1, groups), 8, np.int16)

    def read(start: int, stop: int) -> Codes:
        if "weight" in parts:
            found = contents.array(codes)[start:stop]
        else:
            found = signed(split(contents.array(codes)[start:stop], bits)[:, :columns], bits)
        return Codes(
            found,
            of_rows(contents.floats(scales).reshape(-1, groups), rows, start, stop),
            None if nothing is None else of_rows(nothing, rows, start, stop),
        )

    kind: Kind = "INT4" if bits == 4 else "INT8"
    sources = (codes, *(part for part in parts.values() if part is not codes))
    return Matrix(f"{path}.weight", kind, rows, columns, columns // groups, sources, scales.dtype, read, places)


def _fp8(contents: Contents, path: str, parts: Mapping[str, TensorSource], how: Prequantized) -> Matrix:
    codes = need(parts, path, how, "weight", "F8_E4M3")
    leaf = next((name for name in _LEAVES["fp8"][1:] if name in parts), "weight_scale_inv")
    scales = need(parts, path, how, leaf, *FLOATS)
    rows, columns = extents(path, how, codes.shape)
    height, group = how.block or (1, columns)
    if scales.shape in ((), (1,), (1, 1)):
        height, group = rows, columns
    elif how.block is None and len(scales.shape) == 2 and scales.shape[1] and columns % scales.shape[1] == 0:
        group = columns // scales.shape[1]
    high, wide = -(-rows // height), -(-columns // group)
    if scales.shape != (high,) or wide != 1:
        check_shape(scales, path, how, *(scales.shape if high * wide == 1 else (high, wide)))

    def read(start: int, stop: int) -> Codes:
        found = contents.floats(scales).reshape(high, wide)[np.arange(start, stop) // height]
        return Codes(contents.array(codes)[start:stop], found, None)

    sources = (codes, *(part for part in parts.values() if part is not codes))
    return Matrix(f"{path}.weight", "FP8", rows, columns, group, sources, scales.dtype, read)


def _mxfp4(contents: Contents, known: Mapping[str, TensorSource], how: Prequantized) -> Found:
    """gpt-oss: X_blocks [experts, rows, groups, 16] and X_scales [experts, rows, groups] for each stack X."""
    stacks, used = [], set()
    for name in [name.removesuffix("_blocks") for name in known if name.endswith("_blocks")]:
        parts = {leaf: known[found] for leaf in ("blocks", "scales") if (found := f"{name}_{leaf}") in known}
        if "scales" not in parts:
            raise wrong(name, how, f"{name}_scales is missing")
        blocks, scales = (need(parts, name, how, leaf, "U8") for leaf in parts)
        if len(blocks.shape) != 4:
            raise wrong(name, how, f"codes of the shape {blocks.shape} are no stack of matrices")
        experts, rows, groups, _ = blocks.shape
        check_shape(blocks, name, how, experts, rows, groups, 16)
        check_shape(scales, name, how, experts, rows, groups)

        def read(expert: int, blocks: TensorSource = blocks, scales: TensorSource = scales) -> tuple[Array, Array]:
            codes = split(contents.array(blocks)[expert], 4)
            return contents.array(scales)[expert], codes.reshape(len(codes), -1)

        stacks.append(Stack(name, (experts, rows, groups * 32), (blocks, scales), read))
        used |= {blocks.name, scales.name}
    if not stacks:
        raise nothing_quantized(how)
    return Found((), tuple(stacks), tuple(tensor for name, tensor in known.items() if name not in used))


_READERS: dict[str, Callable[[Contents, str, Mapping[str, TensorSource], Prequantized], Matrix]] = {
    "gptq": _gptq,
    "awq": _awq,
    "compressed-tensors": _compressed,
    "fp8": _fp8,
}
_FINDERS: dict[str, Callable[[Contents, Mapping[str, TensorSource], Prequantized], Found]] = {
    "mxfp4": _mxfp4,
    "bitsandbytes": find_bitsandbytes,
    "hqq": find_hqq,
}
"""Methods whose tensors are found in ways of their own."""

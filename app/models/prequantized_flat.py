"""Quantized matrices whose codes are counted through the whole matrix, row after row, and not by rows: those of
bitsandbytes (NF4, FP4, 8 bits) as transformers saves them, and of HQQ. Read without either, in a
child process, since numpy is imported.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd, prod
from typing import Any

import msgspec
import numpy as np

from app.errors import ModelError
from app.models.description import TensorSource
from app.models.prequantized import HQQ_AXIS, Prequantized
from app.models.prequantized_matrix import (
    FLOATS,
    Array,
    Codes,
    Contents,
    Found,
    Kind,
    Matrix,
    check_shape,
    extents,
    need,
    nothing_quantized,
    of_groups,
    signed,
    wrong,
)
from worker_agent.wire.messages import CODE_TABLES

_STATE = ".quant_state.bitsandbytes__"
"""Between the name of a matrix and its kind, in the name of the tensor that says how bitsandbytes quantized it."""
_PARTS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
_MEANT = 1e-6
"""By how much the numbers that codes mean may differ from those that we know: bitsandbytes' versions write them with
more or fewer digits."""


class _State(msgspec.Struct, frozen=True):
    """What bitsandbytes says of a matrix, as JSON in a tensor of bytes."""

    blocksize: int
    shape: tuple[int, ...]
    nested_blocksize: int = 0
    nested_offset: float = 0.0


def find_bitsandbytes(contents: Contents, known: Mapping[str, TensorSource], how: Prequantized) -> Found:
    """The matrices X of a model: X itself (codes), X.absmax and others (4 bits); or X and SCB beside it (8 bits).

    Raises:
        ModelError: the tensors of a matrix do not go together, or there is no quantized matrix.
    """
    matrices, used = [], set()
    for name, tensor in known.items():
        if _STATE in name:
            path, _, kind = name.partition(_STATE)
            parts = {leaf: known[found] for leaf in _PARTS if (found := f"{path}.{leaf}") in known}
            parts |= {"codes": known[path]} if path in known else {}
            matrices.append(_in_four_bits(contents, path, kind, tensor, parts, how))
            used |= {part.name for part in parts.values()} | {name}
        elif name.endswith(".SCB"):
            path = name.removesuffix(".SCB")
            parts = {leaf: known[found] for leaf in ("weight", "SCB") if (found := f"{path}.{leaf}") in known}
            matrices.append(_in_eight_bits(contents, path, parts, how))
            used |= {*(part.name for part in parts.values()), f"{path}.weight_format"}
    if not matrices:
        raise nothing_quantized(how)
    return Found(tuple(matrices), (), tuple(tensor for name, tensor in known.items() if name not in used))


def _in_four_bits(
    contents: Contents, path: str, kind: str, said: TensorSource, parts: Mapping[str, TensorSource], how: Prequantized
) -> Matrix:
    kinds: dict[str, Kind] = {"nf4": "NF4", "fp4": "FP4"}
    if kind not in kinds:
        raise wrong(path, how, f"it is of the kind '{kind}'")
    try:
        state = msgspec.json.decode(contents.bytes(said).tobytes(), type=_State)
    except msgspec.MsgspecError as error:
        raise wrong(path, how, f"what {said.name} says cannot be read ({error})") from error
    rows, columns = extents(path, how, state.shape)
    codes, scales = parts.get("codes"), need(parts, path, how, "absmax", "U8", "F32")
    if codes is None:
        raise wrong(path, how, f"{path} is missing")
    # The bytes may be called floats, so that other programs shard them with those (bnb_4bit_quant_storage).
    if codes.nbytes != -(-rows * columns // 2):
        raise wrong(path, how, f"{codes.name} has {codes.nbytes} bytes, and its matrix is {rows} × {columns}")
    block = state.blocksize
    if block < 1:
        raise wrong(path, how, f"blocks of {block} weights")
    check_shape(scales, path, how, -(-rows * columns // block))
    table = need(parts, path, how, "quant_map", "F32")
    check_shape(table, path, how, 16)
    if not np.allclose(contents.array(table), CODE_TABLES[kinds[kind]], rtol=0, atol=_MEANT):
        raise wrong(path, how, f"the numbers in {table.name} are not those of {kinds[kind]}")
    absmax = _absmax(contents, path, state, scales, parts, how)

    def read(start: int, stop: int) -> Codes:
        first, last = start * columns, stop * columns
        packed = contents.bytes(codes)[first // 2 : -(-last // 2)]
        found = np.stack([packed >> 4, packed & 15], axis=1).reshape(-1)[first % 2 :][: last - first]
        return Codes(found.reshape(-1, columns), of_groups(absmax, block, columns, start, stop), None)

    sources = (codes, said, *(part for part in parts.values() if part is not codes))
    return Matrix(path, kinds[kind], rows, columns, gcd(block, columns), sources, "F32", read)


def _absmax(
    contents: Contents,
    path: str,
    state: _State,
    scales: TensorSource,
    parts: Mapping[str, TensorSource],
    how: Prequantized,
) -> Array:
    """The scale of each block, float32 [blocks]; they may be quantized in turn, in blocks of their own."""
    if scales.dtype == "F32":
        return contents.array(scales)
    if state.nested_blocksize < 1:
        raise wrong(path, how, f"{scales.name} is quantized in blocks of {state.nested_blocksize}")
    outer, meant = (need(parts, path, how, leaf, "F32") for leaf in ("nested_absmax", "nested_quant_map"))
    check_shape(meant, path, how, 256)
    check_shape(outer, path, how, -(-scales.shape[0] // state.nested_blocksize))
    factors = np.repeat(contents.array(outer), state.nested_blocksize)[: scales.shape[0]]
    found: Array = contents.array(meant)[contents.array(scales)] * factors + np.float32(state.nested_offset)
    return found


def _in_eight_bits(contents: Contents, path: str, parts: Mapping[str, TensorSource], how: Prequantized) -> Matrix:
    codes, largest = need(parts, path, how, "weight", "I8"), need(parts, path, how, "SCB", "F32")
    rows, columns = extents(path, how, codes.shape)
    check_shape(largest, path, how, rows)

    def read(start: int, stop: int) -> Codes:
        scales = contents.array(largest)[start:stop, None] / np.float32(127)
        return Codes(contents.array(codes)[start:stop], scales, None)

    return Matrix(f"{path}.weight", "INT8", rows, columns, columns, (codes, largest), "F32", read)


_HQQ_LEAVES = frozenset(
    (
        "W_q", "scale", "zero", "shape", "nbits", "group_size", "axis", "packing", "unpack_view_dtype", "view_as_float",
        "quant_scale", "quant_zero", "compute_dtype", "offload_meta", "encoded_state_dict", "stores_quant_config",
        "channel_wise", "optimize", "round_zero",
    )
)  # fmt: skip
"""What the tensors of a matrix are called in HQQ's files."""


def find_hqq(contents: Contents, known: Mapping[str, TensorSource], how: Prequantized) -> Found:
    """The matrices of a model in HQQ: X.W_q, X.scale, X.zero, and what says how they are laid out.

    Raises:
        ModelError: the tensors of a matrix do not go together, or cannot be run, or there is no quantized matrix.
    """
    matrices, used = [], set()
    for path in [name.removesuffix(".W_q") for name in known if name.endswith(".W_q")]:
        parts = {leaf: known[found] for leaf in _HQQ_LEAVES if (found := f"{path}.{leaf}") in known}
        matrices.append(_hqq(contents, path, parts, how))
        used |= {part.name for part in parts.values()}
    if not matrices:
        raise nothing_quantized(how)
    return Found(tuple(matrices), (), tuple(tensor for name, tensor in known.items() if name not in used))


def _hqq(contents: Contents, path: str, parts: Mapping[str, TensorSource], how: Prequantized) -> Matrix:
    codes, shape = parts["W_q"], need(parts, path, how, "shape", "I64", "I32")
    check_shape(shape, path, how, 2)
    rows, columns = extents(path, how, tuple(int(extent) for extent in contents.array(shape)))
    bits = _number(contents, path, parts, how, "nbits", how.bits)
    if bits not in (4, 8):
        raise ModelError(f"'{path}' is in HQQ with {bits} bits; 4 and 8 can be run.", "Quantize it with 4 or 8 bits.")
    if _number(contents, path, parts, how, "axis", 1) != 1:
        raise ModelError(f"'{path}' cannot be run: {HQQ_AXIS}.", "Quantize the model with axis=1.")
    if any(_number(contents, path, parts, how, leaf, 0) for leaf in ("quant_scale", "quant_zero")):
        raise ModelError(
            f"'{path}' is in HQQ with scales or zeros that are quantized in turn, which cannot be run.",
            "Quantize the model without quant_scale and quant_zero.",
        )
    packing = contents.bytes(parts["packing"]).tobytes().decode("ascii", "replace") if "packing" in parts else ""
    if packing not in ("", f"{bits}bit_u8"):
        raise ModelError(f"'{path}' is in HQQ, packed as '{packing}'; {bits}bit_u8 can be run.")
    elements = rows * columns
    if codes.nbytes * 8 != elements * bits:
        raise wrong(path, how, f"{codes.name} has {codes.nbytes} bytes, and its matrix is {rows} × {columns}")
    scales, zeros = (need(parts, path, how, leaf, *FLOATS) for leaf in ("scale", "zero"))
    groups = prod(scales.shape)
    if not groups or elements % groups:
        raise wrong(path, how, f"{groups} scales do not divide {elements} weights")
    check_shape(zeros, path, how, *scales.shape)
    group = elements // groups

    def read(start: int, stop: int) -> Codes:
        found = _hqq_codes(contents.bytes(codes), bits, start * columns, stop * columns).reshape(-1, columns)
        scale, zero = (
            of_groups(contents.floats(each).reshape(-1), group, columns, start, stop) for each in (scales, zeros)
        )
        return Codes(signed(found, bits), scale, zero if bits == 4 else zero - np.float32(128))

    kind: Kind = "AFFINE4" if bits == 4 else "INT8"
    sources = (codes, *(part for part in parts.values() if part is not codes))
    return Matrix(f"{path}.weight", kind, rows, columns, gcd(group, columns), sources, scales.dtype, read)


def _hqq_codes(packed: Array, bits: int, first: int, last: int) -> Array:
    """Codes [first, last) of a matrix. Of 4 bits the first half of them stands high in the bytes, the second low."""
    if bits == 8:
        return packed[first:last]
    half = len(packed)
    high = packed[first : min(last, half)] >> 4
    low = packed[max(first - half, 0) : max(last - half, 0)] & 15
    return np.concatenate([high, low])


def _number(
    contents: Contents, path: str, parts: Mapping[str, TensorSource], how: Prequantized, leaf: str, usual: int
) -> int:
    """What a tensor of one whole number says; `usual` where there is none."""
    if leaf not in parts:
        return usual
    found: Any = contents.array(need(parts, path, how, leaf, "I32", "I64", "U8", "I8")).reshape(-1)
    if len(found) != 1:
        raise wrong(path, how, f"{parts[leaf].name} is {len(found)} numbers")
    return int(found[0])

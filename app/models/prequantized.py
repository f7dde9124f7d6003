"""Models whose files are quantized already, as `quantization_config` in config.json says: what of them can be taken,
and the job that puts their matrices into blocks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NoReturn

import msgspec
from msgspec import Struct

from app.children.work import ChildJob, ProgressCallback
from app.errors import ModelError
from app.models.checkpoint import CONFIG, read_config, read_json

FIELDS = ("quantization_config", "compression_config")
"""Fields of config.json, the model's own or its text model's, that say how it is quantized."""

ADVICE = (
    "Take the model's GPTQ, AWQ, compressed-tensors, FP8, bitsandbytes or GGUF version, or the one that is not "
    "quantized, with --quantize int4 or int8."
)

_UNKNOWN = {
    "aqlm": "AQLM",
    "auto-round": "AutoRound's own packing",
    "torchao": "torchao",
    "quark": "Quark",
    "eetq": "EETQ",
    "nvfp4": "NVFP4",
    "mxfp8": "MXFP8",
    "fbgemm_fp8": "FBGEMM's FP8",
    "bitnet": "BitNet",
}
"""Methods that are refused, as people know them."""


HQQ_AXIS = (
    "HQQ with groups along the matrices' columns (axis=0); those along their rows (axis=1) can be run, since a row is "
    "what a matrix is multiplied by"
)


class Prequantized(Struct, frozen=True):
    """How the matrices of a model's files are quantized."""

    method: str
    """gptq, awq, compressed-tensors, fp8, mxfp4, bitsandbytes or hqq."""
    words: str
    """The method as people know it, with bits and groups."""
    bits: int = 0
    """Of a weight; 0 where each matrix tells by its shape."""
    group: int = 0
    """Columns that share a scale; -1 for a whole row, 0 where each matrix tells by its shape."""
    block: tuple[int, int] | None = None
    """Rows and columns that share a scale, where it is not rows alone."""
    zero_offset: int = 0
    """What is added to the zeros that are stored."""
    activations: bool = False
    """Whether the format has what goes into its matrices rounded, too."""


class RepackRequest(Struct, frozen=True):
    folder: str
    target: str
    """An empty folder for the result."""


class RepackOutcome(Struct, frozen=True):
    notes: tuple[str, ...] = ()
    """What a user should know of the result."""


def read_prequantized(folder: Path) -> Prequantized | None:
    """How the model in a folder is quantized; None when it is not.

    Raises:
        ModelError: in a way that cannot be run here, or config.json cannot be read.
    """
    read_config(folder)
    return prequantized(read_json(folder / CONFIG))


def prequantized(config: dict[str, Any]) -> Prequantized | None:
    """`read_prequantized` of the fields of a config.json."""
    fields = _fields(config)
    if fields is None:
        return None
    method = str(fields.get("quant_method") or ("bitsandbytes" if "load_in_4bit" in fields else "")).lower()
    known = {
        "gptq": _gptq, "awq": _awq, "compressed-tensors": _compressed, "fp8": _fp8, "mxfp4": _mxfp4,
        "bitsandbytes": _bitsandbytes, "hqq": _hqq,
    }  # fmt: skip
    if method in known:
        return known[method](fields)
    if not method:
        _refuse("config.json does not say by which method (quant_method)")
    _refuse(f"the method is {_UNKNOWN.get(method, method)}")


def plain_config(config: bytes) -> bytes:
    """config.json without what it says of quantizing."""
    fields = msgspec.json.decode(config)
    for holder in _holders(fields):
        for name in FIELDS:
            holder.pop(name, None)
    return msgspec.json.format(msgspec.json.encode(fields))


def repack_job(folder: Path, target: Path, on_progress: ProgressCallback | None = None) -> ChildJob[RepackOutcome]:
    """The job that writes a quantized model to the folder `target`, its matrices in blocks."""
    return ChildJob(
        "app.models.prequantized_process",
        RepackRequest(str(folder), str(target)),
        RepackOutcome,
        what="putting the model's matrices into blocks",
        on_progress=on_progress,
    )


def _fields(config: dict[str, Any]) -> dict[str, Any] | None:
    """What a config says of quantizing: of the model, or of the text model in it."""
    for holder in _holders(config):
        for name in FIELDS:
            if holder.get(name):
                if not isinstance(holder[name], dict):
                    _refuse(f"{name} in config.json is no object")
                return dict(holder[name])
    return None


def _holders(config: dict[str, Any]) -> list[dict[str, Any]]:
    text = config.get("text_config")
    return [config, text] if isinstance(text, dict) else [config]


def _refuse(why: str) -> NoReturn:
    raise ModelError(f"The model's weights are quantized in a way that cannot be run: {why}.", ADVICE)


def _number(fields: dict[str, Any], *names: str) -> int:
    """The first of these fields that is there. Raises ModelError when it is no whole number."""
    for name in names:
        if name in fields:
            value = fields[name]
            if isinstance(value, bool) or not isinstance(value, int):
                _refuse(f"{name} is {value!r}")
            return value
    _refuse(f"config.json does not say {names[0]}")


def _group(fields: dict[str, Any], *names: str) -> int:
    group = _number(fields, *names)
    if group < 1 and group != -1:
        _refuse(f"groups of {group} weights")
    return group


def _said(name: str, bits: int, group: int) -> str:
    return f"{name}, {bits} bits, {'a scale a row' if group == -1 else f'groups of {group}'}"


def _gptq(fields: dict[str, Any]) -> Prequantized:
    bits, group = _number(fields, "bits"), _group(fields, "group_size")
    if bits not in (4, 8):
        _refuse(f"GPTQ with {bits} bits; 4 and 8 can be")
    layout = str(fields.get("checkpoint_format") or fields.get("format") or "gptq").lower()
    if fields.get("is_marlin_format"):
        layout = "marlin"
    if layout not in ("gptq", "gptq_v2"):
        _refuse(f"GPTQ laid out for {layout} kernels")
    # The first version of the layout has its zeros one too small.
    return Prequantized("gptq", _said("GPTQ", bits, group), bits, group, zero_offset=int(layout == "gptq"))


def _awq(fields: dict[str, Any]) -> Prequantized:
    bits, group = _number(fields, "bits", "w_bit"), _group(fields, "group_size", "q_group_size")
    if bits != 4:
        _refuse(f"AWQ with {bits} bits; 4 can be")
    layout = str(fields.get("checkpoint_format") or fields.get("format") or fields.get("version") or "gemm").lower()
    if layout != "gemm":
        _refuse(f"AWQ laid out for {layout} kernels; 'gemm' can be")
    if fields.get("zero_point") is False:
        _refuse("AWQ without zero points")
    return Prequantized("awq", _said("AWQ", bits, group), bits, group)


_COMPRESSED = ("pack-quantized", "int-quantized", "float-quantized", "naive-quantized", "mixed-precision")


def _compressed(fields: dict[str, Any]) -> Prequantized:
    groups = fields.get("config_groups")
    if not isinstance(groups, dict) or not groups:
        _refuse("compressed-tensors without config_groups")
    sparse = fields.get("sparsity_config")
    if isinstance(sparse, dict) and sparse.get("format", "dense") != "dense":
        _refuse(f"compressed-tensors with sparse matrices ({sparse['format']})")
    if fields.get("transform_config"):
        _refuse("compressed-tensors with transforms of what goes into the matrices (transform_config)")
    said: list[str] = []
    blocks: set[tuple[int, int]] = set()
    activations = False
    for group in groups.values():
        weights = group.get("weights") if isinstance(group, dict) else None
        if not isinstance(weights, dict):
            _refuse("compressed-tensors without a scheme for the weights")
        layout = str(group.get("format") or fields.get("format") or "")
        bits, kind = _number(weights, "num_bits"), str(weights.get("type", "int"))
        if layout not in _COMPRESSED:
            _refuse(f"compressed-tensors in the format '{layout}'")
        if (kind, bits) not in (("int", 4), ("int", 8), ("float", 8)):
            _refuse(f"compressed-tensors with {kind} weights of {bits} bits")
        number = "FP8" if kind == "float" else f"{bits} bits"
        width = weights.get("group_size")
        if weights.get("strategy") == "block":
            block = _block(weights.get("block_structure"))
            blocks.add(block)
            said.append(f"{number}, blocks of {block[0]} × {block[1]}")
        elif isinstance(width, int) and width > 0:
            said.append(f"{number}, groups of {width}")
        else:
            said.append(f"{number}, {'a scale' if weights.get('strategy') == 'tensor' else 'a scale a row'}")
        activations |= bool(group.get("input_activations"))
    if len(blocks) > 1:
        _refuse("compressed-tensors with blocks of several sizes")
    words = f"compressed-tensors, {' and '.join(dict.fromkeys(said))}"
    return Prequantized("compressed-tensors", words, block=next(iter(blocks), None), activations=activations)


def _block(stated: Any) -> tuple[int, int]:
    """Rows and columns of a block. Raises ModelError."""
    if not isinstance(stated, list) or len(stated) != 2 or not all(isinstance(n, int) and n > 0 for n in stated):
        _refuse(f"blocks of {stated!r} rows and columns")
    return stated[0], stated[1]


def _fp8(fields: dict[str, Any]) -> Prequantized:
    kind = str(fields.get("fmt") or "e4m3").lower()
    if kind not in ("e4m3", "float8_e4m3fn"):
        _refuse(f"FP8 as {kind}; e4m3 can be")
    # With scales that were found beforehand (static) what goes into a matrix is rounded by them, else by its own.
    stated = fields.get("weight_block_size")
    if stated is None:
        return Prequantized("fp8", "FP8, a scale a matrix", activations=True)
    block = _block(stated)
    return Prequantized("fp8", f"FP8, blocks of {block[0]} × {block[1]}", block=block, activations=True)


def _mxfp4(fields: dict[str, Any]) -> Prequantized:
    return Prequantized("mxfp4", "MXFP4, 4 bits, groups of 32")


def _bitsandbytes(fields: dict[str, Any]) -> Prequantized:
    if fields.get("load_in_4bit"):
        kind = str(fields.get("bnb_4bit_quant_type") or "fp4").lower()
        if kind not in ("nf4", "fp4"):
            _refuse(f"bitsandbytes with 4 bits of the kind '{kind}'")
        return Prequantized("bitsandbytes", f"bitsandbytes, {kind.upper()}", 4)
    if fields.get("load_in_8bit"):
        return Prequantized("bitsandbytes", "bitsandbytes, 8 bits, a scale a row", 8, -1, activations=True)
    _refuse("bitsandbytes with neither load_in_4bit nor load_in_8bit")


def _hqq(fields: dict[str, Any]) -> Prequantized:
    said = fields.get("quant_config")
    weights = said.get("weight_quant_params") if isinstance(said, dict) else None
    if not isinstance(weights, dict):
        return Prequantized("hqq", "HQQ")  # layers differ, and each matrix tells by itself
    bits = _number(weights, "nbits")
    if bits not in (4, 8):
        _refuse(f"HQQ with {bits} bits; 4 and 8 can be")
    if weights.get("axis", 1) != 1:
        _refuse(HQQ_AXIS)
    for name in ("scale_quant_params", "zero_quant_params"):
        if isinstance(said, dict) and said.get(name):
            _refuse(f"HQQ with scales or zeros that are quantized in turn ({name})")
    group = _group(weights, "group_size") if weights.get("group_size") is not None else -1
    return Prequantized("hqq", _said("HQQ", bits, group), bits, group)

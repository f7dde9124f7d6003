"""Tiny quantized models as other programs write them, packed here number by number, and what their matrices mean."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.worker_agent.tiny_models import make_model

WIDE = {"hidden_size": 256, "head_dim": 64, "intermediate_size": 384, "num_hidden_layers": 3, "vocab_size": 120}

Tensors = dict[str, torch.Tensor]
Packer = Callable[[tuple[int, int], torch.Generator], tuple[Tensors, torch.Tensor]]
"""Of a matrix's shape: random tensors as the format has them, by their last names, and the matrix that they mean."""

AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
"""Which of eight columns stands at each place of a word."""


def numbers(low: int, high: int, shape: tuple[int, ...], chance: torch.Generator) -> torch.Tensor:
    """Whole numbers from `low` to `high`."""
    return torch.randint(low, high + 1, shape, generator=chance)


def some_scales(shape: tuple[int, ...], spread: float, columns: int, chance: torch.Generator) -> torch.Tensor:
    """Scales by which codes that spread so far become weights of the usual size."""
    return (0.5 + torch.rand(shape, generator=chance)) * 1.6 / columns**0.5 / spread


def words(codes: torch.Tensor, bits: int, order: list[int] | None = None) -> torch.Tensor:
    """Codes [n, m] in whole numbers of 32 bits [n, m * bits / 32], the first in the lowest bits."""
    each = 32 // bits
    packed = torch.zeros(codes.shape[0], codes.shape[1] // each, dtype=torch.int64)
    for place, column in enumerate(order or range(each)):
        packed |= codes[:, column::each].long() << (bits * place)
    return torch.where(packed >= 2**31, packed - 2**32, packed).to(torch.int32)


def gptq(
    bits: int,
    group: int,
    *,
    sym: bool = True,
    v2: bool = False,
    desc_act: bool = False,
    dtype: torch.dtype = torch.half,
) -> Packer:
    def pack(shape: tuple[int, int], chance: torch.Generator) -> tuple[Tensors, torch.Tensor]:
        rows, columns = shape
        width = columns if group == -1 else group
        groups = -(-columns // width)
        codes = numbers(0, 2**bits - 1, (columns, rows), chance)
        least = 0 if v2 else 1  # the first version of the format cannot say 0
        zeros = numbers(least, 2**bits - 1, (groups, rows), chance)
        if sym:
            zeros = torch.full((groups, rows), 2 ** (bits - 1))
        scales = some_scales((groups, rows), 2**bits / 3.5, columns, chance).to(dtype)
        index = torch.arange(columns) // width
        if desc_act:
            index = index[torch.randperm(columns, generator=chance)]
        tensors = {
            "qweight": words(codes.T, bits).T.contiguous(),
            "qzeros": words(zeros - (0 if v2 else 1), bits),
            "scales": scales,
            "g_idx": index.int(),
        }
        return tensors, ((codes - zeros[index]).float() * scales.float()[index]).T

    return pack


def awq(group: int) -> Packer:
    def pack(shape: tuple[int, int], chance: torch.Generator) -> tuple[Tensors, torch.Tensor]:
        rows, columns = shape
        groups = columns // group
        codes, zeros = numbers(0, 15, (columns, rows), chance), numbers(0, 15, (groups, rows), chance)
        scales = some_scales((groups, rows), 4.6, columns, chance).half()
        tensors = {"qweight": words(codes, 4, AWQ_ORDER), "qzeros": words(zeros, 4, AWQ_ORDER), "scales": scales}
        index = torch.arange(columns) // group
        return tensors, ((codes - zeros[index]).float() * scales.float()[index]).T

    return pack


def packed(bits: int, group: int, *, sym: bool = True, dtype: torch.dtype = torch.bfloat16) -> Packer:
    """compressed-tensors' pack-quantized; `group` 0: a scale a row."""

    def pack(shape: tuple[int, int], chance: torch.Generator) -> tuple[Tensors, torch.Tensor]:
        rows, columns = shape
        groups, half = columns // (group or columns), 2 ** (bits - 1)
        codes = numbers(-half, half - 1, shape, chance)
        scales = some_scales((rows, groups), 2**bits / 3.5, columns, chance).to(dtype)
        tensors = {
            "weight_packed": words(codes + half, bits),
            "weight_scale": scales,
            "weight_shape": torch.tensor(shape),
        }
        zeros = torch.zeros(rows, groups, dtype=torch.long)
        if not sym:
            zeros = numbers(-half, half - 1, (rows, groups), chance)
            tensors["weight_zero_point"] = words((zeros + half).T, bits).T.contiguous()
        index = torch.arange(columns) * groups // columns
        return tensors, (codes - zeros[:, index]).float() * scales.float()[:, index]

    return pack


def bytewise(*, sym: bool = True) -> Packer:
    """compressed-tensors' int-quantized: int8 as it is, a scale a row."""

    def pack(shape: tuple[int, int], chance: torch.Generator) -> tuple[Tensors, torch.Tensor]:
        codes = numbers(-128, 127, shape, chance)
        scales = some_scales((shape[0], 1), 73, shape[1], chance).bfloat16()
        tensors, zeros = {"weight": codes.to(torch.int8), "weight_scale": scales}, torch.zeros(shape[0], 1).long()
        if not sym:
            zeros = numbers(-128, 127, (shape[0], 1), chance)
            tensors["weight_zero_point"] = zeros.to(torch.int8)
        return tensors, (codes - zeros).float() * scales.float()

    return pack


def fp8(block: tuple[int, int] | None, name: str = "weight_scale_inv", dtype: torch.dtype = torch.float32) -> Packer:
    """FP8 with a scale for each block; None: for each row."""

    def pack(shape: tuple[int, int], chance: torch.Generator) -> tuple[Tensors, torch.Tensor]:
        rows, columns = shape
        high, wide = block or (1, columns)
        weight = (torch.randn(shape, generator=chance) * 60).to(torch.float8_e4m3fn)
        scales = some_scales((-(-rows // high), -(-columns // wide)), 60, columns, chance).to(dtype)
        spread = scales.float().repeat_interleave(high, 0).repeat_interleave(wide, 1)[:rows, :columns]
        return {"weight": weight, name: scales}, weight.float() * spread

    return pack


NF4 = [
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
]  # fmt: skip
"""As bitsandbytes 0.50 writes it beside a matrix."""
FP4 = [n * sign for sign in (1, -1) for n in (0, 0.0052083334885537624, 2 / 3, 1, 1 / 3, 0.5, 1 / 6, 0.25)]


def bitsandbytes(kind: str, block: int, *, nested: bool = False, storage: torch.dtype = torch.uint8) -> Packer:
    """Codes of 4 bits counted row after row, the first high in its byte; a scale for each `block` of them.

    What they mean is what `bitsandbytes.functional.dequantize_4bit` (0.50, CPU) gives of such tensors in float32, to
    the bit; it was compared with it.
    """
    table = torch.tensor(NF4 if kind == "nf4" else FP4)

    def pack(shape: tuple[int, int], chance: torch.Generator) -> tuple[Tensors, torch.Tensor]:
        rows, columns = shape
        blocks = -(-rows * columns // block)
        codes = numbers(0, 15, (rows * columns,), chance)
        said: dict[str, Any] = {"quant_type": kind, "blocksize": block, "dtype": "float16", "shape": [rows, columns]}
        tensors = {"weight": (codes[0::2] << 4 | codes[1::2]).to(torch.uint8).view(storage).view(-1, 1)}
        scales = some_scales((blocks,), 0.6, columns, chance)
        if nested:
            meant, inner = torch.linspace(-1, 1, 256), numbers(0, 255, (blocks,), chance)
            outer = some_scales((-(-blocks // 256),), 2, columns, chance)
            said |= {"nested_blocksize": 256, "nested_dtype": "float32", "nested_offset": 0.0534803606569767}
            tensors |= {"weight.nested_absmax": outer, "weight.nested_quant_map": meant}
            scales = meant[inner] * outer.repeat_interleave(256)[:blocks] + torch.tensor(0.0534803606569767)
        tensors["weight.absmax"] = inner.to(torch.uint8) if nested else scales
        tensors["weight.quant_map"] = table.clone()
        written = torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)
        tensors[f"weight.quant_state.bitsandbytes__{kind}"] = written
        return tensors, (table[codes] * scales.repeat_interleave(block)[: rows * columns]).view(shape)

    return pack


def llm_int8(shape: tuple[int, int], chance: torch.Generator) -> tuple[Tensors, torch.Tensor]:
    """bitsandbytes' 8 bits: the largest number of each row, and 127ths of it."""
    codes, largest = numbers(-127, 127, shape, chance), some_scales((shape[0],), 0.6, shape[1], chance)
    tensors = {"weight": codes.to(torch.int8), "SCB": largest, "weight_format": torch.tensor(0, dtype=torch.uint8)}
    return tensors, codes.float() * (largest / 127)[:, None]


def hqq(bits: int, group: int, *, axis: int = 1, dtype: torch.dtype = torch.half) -> Packer:
    """HQQ as `HQQLinear.state_dict` has it (0.2.8): zeros need not be whole; of 4 bits the first half of all groups
    stands high in the bytes, the second low. What they mean is what its `dequantize` gives in float32, to the bit.
    """

    def pack(shape: tuple[int, int], chance: torch.Generator) -> tuple[Tensors, torch.Tensor]:
        groups = shape[0] * shape[1] // group
        codes = numbers(0, 2**bits - 1, (groups, group), chance)
        zeros = (2 ** (bits - 1) + torch.randn(groups, 1, generator=chance)).to(dtype)
        scales = some_scales((groups, 1), 2**bits / 3.5, shape[1], chance).to(dtype)
        half = groups // 2
        stored = codes if bits == 8 else codes[:half] << 4 | codes[half:]
        tensors = {
            "W_q": stored.to(torch.uint8), "scale": scales, "zero": zeros, "shape": torch.tensor(shape),
            "nbits": torch.tensor(bits, dtype=torch.int32), "axis": torch.tensor(axis, dtype=torch.int32),
            "group_size": torch.tensor(group, dtype=torch.int32), "view_as_float": torch.tensor(0, dtype=torch.uint8),
            "packing": torch.tensor(list(f"{bits}bit_u8".encode()), dtype=torch.uint8),
            "quant_zero": torch.tensor(0, dtype=torch.uint8),
        }  # fmt: skip
        return tensors, ((codes.float() - zeros.float()) * scales.float()).view(shape)

    return pack


def said_by_hqq(bits: int, group: int, axis: int = 1) -> dict[str, Any]:
    """What config.json says of a model in HQQ."""
    weights = {"nbits": bits, "channel_wise": True, "group_size": group, "axis": axis}
    return {
        "quant_method": "hqq",
        "quant_config": {"weight_quant_params": weights, "scale_quant_params": None, "zero_quant_params": None},
    }


def compressed(layout: str, **weights: Any) -> dict[str, Any]:
    """What config.json says of a model in compressed-tensors."""
    scheme = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    return {"quant_method": "compressed-tensors", "format": layout, "config_groups": {"group_0": scheme}}


FORMATS: dict[str, tuple[Packer, dict[str, Any], str]] = {
    "GPTQ, 4 bits, symmetric": (gptq(4, 128), {"quant_method": "gptq", "bits": 4, "group_size": 128}, "INT4_128"),
    "GPTQ, 4 bits, groups of 32": (
        gptq(4, 32, sym=False), {"quant_method": "gptq", "bits": 4, "group_size": 32, "sym": False}, "INT4_32",
    ),
    "GPTQ, 4 bits, groups of 64, v2": (
        gptq(4, 64, sym=False, v2=True),
        {"quant_method": "gptq", "bits": 4, "group_size": 64, "checkpoint_format": "gptq_v2"}, "INT4_32",
    ),
    "GPTQ, 4 bits, a scale a row": (
        gptq(4, -1, dtype=torch.bfloat16), {"quant_method": "gptq", "bits": 4, "group_size": -1}, "INT4_128",
    ),
    "GPTQ, 8 bits": (gptq(8, 128), {"quant_method": "gptq", "bits": 8, "group_size": 128}, "INT8_128"),
    "GPTQ, 8 bits, asymmetric": (
        gptq(8, 32, sym=False), {"quant_method": "gptq", "bits": 8, "group_size": 32}, "INT8_32",
    ),
    "AWQ": (awq(128), {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm"}, "INT4_128"),
    "AWQ, groups of 64": (awq(64), {"quant_method": "awq", "w_bit": 4, "q_group_size": 64}, "INT4_32"),
    "compressed-tensors, 4 bits": (
        packed(4, 128), compressed("pack-quantized", num_bits=4, type="int", strategy="group", group_size=128),
        "INT4_128",
    ),
    "compressed-tensors, 4 bits, asymmetric": (
        packed(4, 32, sym=False), compressed("pack-quantized", num_bits=4, type="int", group_size=32), "INT4_32",
    ),
    "compressed-tensors, 4 bits, a float32 scale a row": (
        packed(4, 0, dtype=torch.float32), compressed("pack-quantized", num_bits=4, type="int", strategy="channel"),
        "INT4_128",
    ),
    "compressed-tensors, 8 bits": (
        packed(8, 0), compressed("pack-quantized", num_bits=8, type="int", strategy="channel"), "INT8_128",
    ),
    "compressed-tensors, 8 bits, asymmetric": (
        packed(8, 64, sym=False), compressed("pack-quantized", num_bits=8, type="int", group_size=64), "INT8_32",
    ),
    "compressed-tensors, int8": (
        bytewise(), compressed("int-quantized", num_bits=8, type="int", strategy="channel"), "INT8_128",
    ),
    "compressed-tensors, int8, asymmetric": (
        bytewise(sym=False), compressed("int-quantized", num_bits=8, type="int", strategy="channel"), "INT8_128",
    ),
    "compressed-tensors, FP8": (
        fp8(None, "weight_scale", torch.bfloat16),
        compressed("float-quantized", num_bits=8, type="float", strategy="channel"), "FP8_128",
    ),
    "compressed-tensors, FP8 in blocks": (
        fp8((128, 128), "weight_scale", torch.bfloat16),
        compressed("float-quantized", num_bits=8, type="float", strategy="block", block_structure=[128, 128]),
        "FP8_128",
    ),
    "FP8 in blocks": (fp8((128, 128)), {"quant_method": "fp8", "weight_block_size": [128, 128]}, "FP8_128"),
    "FP8, small blocks": (fp8((64, 32)), {"quant_method": "fp8", "weight_block_size": [64, 32]}, "FP8_32"),
    "bitsandbytes, NF4, nested": (
        bitsandbytes("nf4", 64, nested=True),
        {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, "NF4_64",
    ),
    "bitsandbytes, FP4 called bfloat16": (
        bitsandbytes("fp4", 32, storage=torch.bfloat16),
        {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4"}, "FP4_32",
    ),
    "bitsandbytes, 8 bits": (llm_int8, {"quant_method": "bitsandbytes", "load_in_8bit": True}, "INT8_128"),
    "HQQ, 4 bits": (hqq(4, 64), said_by_hqq(4, 64), "AFFINE4_64"),
    "HQQ, 8 bits": (hqq(8, 32, dtype=torch.bfloat16), said_by_hqq(8, 32), "INT8_32"),
}  # fmt: skip
"""By name: how a matrix is packed, what config.json says of it, and in which blocks it is kept."""


def write_quantized(
    folder: Path,
    pack: Packer,
    said: dict[str, Any],
    *,
    kind: str = "llama",
    names: tuple[str, ...] = ("proj.weight",),
    **changes: object,
) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
    """A tiny model whose layers' matrices are quantized, in two files; and it with the weights that these mean.

    Args:
        names: endings of the names of those that are.
    """
    make_model(kind, folder, **{**WIDE, "tie_word_embeddings": False, **changes})
    tensors, meant = load_file(folder / "model.safetensors"), {}
    (folder / "model.safetensors").unlink()
    chance = torch.Generator().manual_seed(3)
    files: list[Tensors] = [{}, {}]
    for number, (name, tensor) in enumerate(tensors.items()):
        if name.endswith(names):
            made, meant[name] = pack((tensor.shape[0], tensor.shape[1]), chance)
            path = name.removesuffix(".weight")
            # A matrix's tensors may lie in two files.
            for at, (leaf, part) in enumerate(made.items()):
                files[(number + (at == 1)) % 2][f"{path}.{leaf}"] = part
        else:
            files[number % 2][name] = tensor.half()
            meant[name] = tensor.half().float()
    weight_map = {}
    for number, held in enumerate(files, start=1):
        file = f"model-{number:05d}-of-00002.safetensors"
        save_file(held, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(held, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float16", "quantization_config": said}))
    plain = folder.with_name(f"{folder.name}-meant")
    plain.mkdir(exist_ok=True)
    save_file({name: weight.contiguous() for name, weight in meant.items()}, plain / "model.safetensors")
    (plain / "config.json").write_text(json.dumps(config))
    return AutoModelForCausalLM.from_pretrained(plain, dtype=torch.float32).eval(), meant

"""The formats of blocks: how many weights a block has, in how many bytes, and what numbers they mean.

A block holds 32, 64, 128 or 256 consecutive weights of one row: small whole numbers, and scales and minima by which
they become the weights. What the numbers of GGUF's formats mean is the `gguf` package's word. Our own formats hold what
other quantized models have (GPTQ, AWQ, compressed-tensors, FP8, bitsandbytes, HQQ), whose scales are no float16:

    INT4_n   float32 scale, uint8 zero, n / 2 bytes of codes    (code - zero) * scale; codes to 15, zeros to 16
    INT8_n   float32 scale, float32 minimum, n int8 codes       code * scale + minimum
    FP8_n    float32 scale, n codes of float8 e4m3              code * scale
    NF4_n    float32 scale, n / 2 bytes of codes                CODE_TABLES["NF4"][code] * scale; FP4_n likewise
    AFFINE4_n   float32 scale, float32 minimum, n / 2 bytes of codes    code * scale + minimum

Codes of 4 bits stand as in GGUF's: of each 32 the first half in the low bits, the second in the high ones. `kernels.c`
repeats all of it bit for bit, and a test compares all formats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from worker_agent.model.linears.blocks import building
from worker_agent.wire.messages import BLOCK_FORMATS, CODE_TABLES

NUMBERS = {
    "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14,
    "IQ4_NL": 20, "IQ4_XS": 23, "BF16": 30, "MXFP4": 39, "INT4_32": 1000, "INT4_128": 1001, "INT8_32": 1002,
    "INT8_128": 1003, "FP8_32": 1004, "FP8_128": 1005, "NF4_32": 1006, "NF4_64": 1007, "FP4_32": 1008,
    "FP4_64": 1009, "AFFINE4_32": 1010, "AFFINE4_64": 1011,
}  # fmt: skip
"""The formats' numbers, by which the kernels know them: those of GGUF files, and from 1000 on our own. BF16 is no
format of stored blocks: plain matrices of that type are multiplied so where the processor cannot (`halves.py`)."""
OWN = 1000
"""The first number of a format that GGUF files do not have."""


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class Blocks:
    """A matrix [rows, columns] in blocks."""

    format: str
    data: torch.Tensor
    """uint8 [rows, bytes of a row], contiguous, on the CPU."""
    columns: int

    @property
    def rows(self) -> int:
        return self.data.shape[0]

    @property
    def nbytes(self) -> int:
        return self.data.numel()

    def unfolded(self, start: int = 0, stop: int | None = None) -> torch.Tensor:
        """Rows [start, stop) as float32 [rows, columns]."""
        data = self.data[start:stop]
        into = torch.empty(data.shape[0], self.columns, dtype=torch.float32)
        if (kernels := building.kernels()) is not None:
            kernels.unfold(NUMBERS[self.format], data, None, into)
            return into
        return _meaning(self.format, data)

    def chosen(self, index: torch.Tensor) -> torch.Tensor:
        """The rows of these numbers, int64 [n], as float32 [n, columns]. Numbers have to be within the matrix."""
        if (kernels := building.kernels()) is None:
            return _meaning(self.format, self.data[index])
        into = torch.empty(index.shape[0], self.columns, dtype=torch.float32)
        kernels.unfold(NUMBERS[self.format], self.data, index.contiguous(), into)
        return into


def joined(members: Sequence[Blocks]) -> Blocks:
    """One matrix that has the rows of all; they are of one format and width."""
    return Blocks(members[0].format, torch.cat([member.data for member in members]), members[0].columns)


def _meaning(format_: str, data: torch.Tensor) -> torch.Tensor:
    """uint8 [rows, bytes of a row] as float32 [rows, columns], without kernels: right, and slow."""
    if NUMBERS[format_] >= OWN:
        return _own_meaning(format_, data)
    import gguf  # its own arithmetic

    kind = gguf.GGMLQuantizationType(NUMBERS[format_])
    return torch.from_numpy(gguf.dequantize(data.numpy(), kind))


def _own_meaning(format_: str, data: torch.Tensor) -> torch.Tensor:
    weights, size = BLOCK_FORMATS[format_]
    blocks = data.reshape(-1, size)
    scale = blocks[:, :4].contiguous().view(torch.float32)
    kind = format_.partition("_")[0]
    if kind in CODE_TABLES or kind == "AFFINE4":
        codes = _codes(blocks[:, 4 if kind in CODE_TABLES else 8 :], weights)
        if kind in CODE_TABLES:
            found = torch.tensor(CODE_TABLES[kind])[codes.int()] * scale
        else:
            found = codes.float() * scale + blocks[:, 4:8].contiguous().view(torch.float32)
    elif format_.startswith("INT4"):
        found = (_codes(blocks[:, 5:], weights).float() - blocks[:, 4:5].float()) * scale
    elif format_.startswith("FP8"):
        found = blocks[:, 4:].contiguous().view(torch.float8_e4m3fn).float() * scale
    else:
        found = blocks[:, 8:].contiguous().view(torch.int8).float() * scale
        found += blocks[:, 4:8].contiguous().view(torch.float32)
    return found.view(data.shape[0], -1)


def _codes(packed: torch.Tensor, weights: int) -> torch.Tensor:
    """Codes of 4 bits, uint8 [blocks, weights], of uint8 [blocks, weights / 2]."""
    halves = packed.view(-1, weights // 32, 16)
    return torch.cat([halves & 15, halves >> 4], dim=2).view(-1, weights)

"""The formats of blocks: how many weights a block has, in how many bytes, and what numbers they mean.

A block holds 32 or 256 consecutive weights of one row: small whole numbers, and scales and minima by which they become
the weights. What the numbers mean is the `gguf` package's word; `kernels.c` repeats it bit for bit, and a test compares
all formats.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from worker_agent.model.linears.blocks import building

GGML_NUMBERS = {
    "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11, "Q4_K": 12, "Q5_K": 13, "Q6_K": 14,
    "IQ4_NL": 20, "IQ4_XS": 23, "MXFP4": 39,
}  # fmt: skip
"""The formats' numbers in GGUF files, by which the kernels know them too."""


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
        into = torch.empty(data.shape[0], self.columns)
        if (kernels := building.kernels()) is not None:
            kernels.unfold(GGML_NUMBERS[self.format], data, None, into)
            return into
        return _meaning(self.format, data)

    def chosen(self, index: torch.Tensor) -> torch.Tensor:
        """The rows of these numbers, int64 [n], as float32 [n, columns]. Numbers have to be within the matrix."""
        if (kernels := building.kernels()) is None:
            return _meaning(self.format, self.data[index])
        into = torch.empty(index.shape[0], self.columns)
        kernels.unfold(GGML_NUMBERS[self.format], self.data, index.contiguous(), into)
        return into


def joined(members: Sequence[Blocks]) -> Blocks:
    """One matrix that has the rows of all; they are of one format and width."""
    return Blocks(members[0].format, torch.cat([member.data for member in members]), members[0].columns)


def _meaning(format_: str, data: torch.Tensor) -> torch.Tensor:
    """The gguf package's own arithmetic: right, and slow."""
    import gguf

    kind = gguf.GGMLQuantizationType(GGML_NUMBERS[format_])
    return torch.from_numpy(gguf.dequantize(data.numpy(), kind))

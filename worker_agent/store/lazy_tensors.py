"""Tensors that lie on disk until transformers' loading code asks for them, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from worker_agent.wire.errors import BadWeights
from worker_agent.wire.messages import Part, PartTensor
from worker_agent.wire.messages.parts import BLOCK_FORMATS

SAFETENSORS_DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}


@dataclass(frozen=True)
class LazyTensor:
    """One tensor of a part's file; `tensor[...]` reads it, the way safetensors' slices are read.

    One in blocks is read as the bytes of its rows: uint8 [..., bytes of a row].
    """

    path: Path
    offset: int
    described: PartTensor
    on_read: Callable[[int], None]

    def get_shape(self) -> list[int]:
        return list(self.described.shape)

    def get_dtype(self) -> str:
        return self.described.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.described.shape)

    @property
    def dtype(self) -> torch.dtype:
        return SAFETENSORS_DTYPES.get(self.described.dtype, torch.uint8)

    def __getitem__(self, index: Any) -> torch.Tensor:
        # Read into memory of torch's own, which is aligned as its kernels like it.
        flat, filled = torch.empty(self.described.nbytes, dtype=torch.uint8), 0
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.offset)
            view = memoryview(flat.numpy().data)
            while filled < len(view):
                count = file.readinto(view[filled:])
                if not count:
                    raise BadWeights(f"{self.path.name} ends before tensor {self.described.name}")
                filled += count
        self.on_read(filled)
        shape = self.shape
        if self.described.dtype in BLOCK_FORMATS:
            weights, size = BLOCK_FORMATS[self.described.dtype]
            shape = (*shape[:-1], shape[-1] // weights * size)
        whole = flat.view(self.dtype).view(shape) if self.described.nbytes else torch.empty(shape, dtype=self.dtype)
        return whole[index]


def tensors_of(
    parts: tuple[Part, ...], part_path: Callable[[str], Path], on_read: Callable[[int], None]
) -> Iterator[tuple[str, LazyTensor]]:
    """Every tensor of the parts under its checkpoint name; `on_read(bytes)` is called from any thread.

    Raises:
        BadWeights: a dtype that cannot be loaded.
    """
    for part in parts:
        offset, path = 0, part_path(part.digest)
        for tensor in part.tensors:
            if tensor.dtype not in SAFETENSORS_DTYPES and tensor.dtype not in BLOCK_FORMATS:
                raise BadWeights(f"tensor {tensor.name} has the dtype {tensor.dtype}, which cannot be loaded")
            yield tensor.name, LazyTensor(path, offset, tensor, on_read)
            offset += tensor.nbytes

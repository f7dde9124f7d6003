"""Weights of linear layers laid out once at load as the CPU's matrix kernels read them fastest.

A decode step reads every weight once, so it is as fast as memory is read. bfloat16 weights and large float32
ones are packed for oneDNN: up to 1.7 times as fast, and eight rows cost hardly more than one. Smaller float32
matrices are read faster plain; those that are wider than long (gate and up, query, key and value) faster still
when they are stored transposed, by a seventh. Switched off by `SHARDBOARD_PACKED=0`; benchmarks/decode.py has
the figures.
"""

from __future__ import annotations

import os
from collections.abc import Collection

import torch
from torch import nn

LEAST_ELEMENTS = {torch.bfloat16: 64 * 1024, torch.float32: 4 * 1024 * 1024}
"""Smaller matrices stay as they are. For float32 the plain kernels read small matrices faster than packed ones."""

WIDE = 1.5
"""From this ratio of outputs to inputs on, a float32 matrix is stored transposed."""

ROWS = 8
"""How many rows of tokens the packed layout is made for; measured best also for one row."""


class PackedLinear(nn.Module):
    """`nn.Linear` over a weight in oneDNN's blocked layout."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)
        self.bias = linear.bias

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]"""
        result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, self.packed, self.bias, "none", [], "")
        return result


class TransposedLinear(nn.Module):
    """`nn.Linear` whose weight is stored as [in, out]."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.transposed = nn.Parameter(linear.weight.detach().t().contiguous(), requires_grad=False)
        self.bias = linear.bias

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]"""
        result = torch.matmul(rows, self.transposed)
        return result if self.bias is None else result + self.bias


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this machine has kernels for packed weights of this type."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available() or os.environ.get("SHARDBOARD_PACKED") == "0":
        return False
    if dtype == torch.float32:
        return True
    return dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def pack(module: nn.Module, dtype: torch.dtype, keep: Collection[nn.Module] = ()) -> int:
    """Replace the linear layers below `module` by packed ones, except those in `keep`; how many were replaced."""
    count = 0
    for name, child in module.named_children():
        if type(child) is nn.Linear and child not in keep:
            if child.weight.dtype != dtype:
                continue
            if child.weight.numel() >= LEAST_ELEMENTS[dtype]:
                setattr(module, name, PackedLinear(child))
            elif dtype == torch.float32 and child.out_features >= WIDE * child.in_features:
                setattr(module, name, TransposedLinear(child))
            else:
                continue
            count += 1
        else:
            count += pack(child, dtype, keep)
    return count

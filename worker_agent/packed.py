"""Weights of linear layers packed once at load, in the layout that the CPU's matrix kernels want.

A decode step reads every weight once; packed, oneDNN reads memory about 1.7 times as fast, and eight rows
cost hardly more than one (benchmarks/decode.py has the figures). Switched off by `SHARDBOARD_PACKED=0`.
"""

from __future__ import annotations

import os
from collections.abc import Collection

import torch
from torch import nn

LEAST_ELEMENTS = {torch.bfloat16: 64 * 1024, torch.float32: 4 * 1024 * 1024}
"""Smaller matrices stay as they are. For float32 the plain kernels read small matrices faster than packed ones."""

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
            if child.weight.dtype == dtype and child.weight.numel() >= LEAST_ELEMENTS[dtype]:
                packed = PackedLinear(child)
                packed._forward_pre_hooks = child._forward_pre_hooks  # what was hung on it goes along
                packed._forward_pre_hooks_with_kwargs = child._forward_pre_hooks_with_kwargs
                setattr(module, name, packed)
                count += 1
        else:
            count += pack(child, dtype, keep)
    return count

"""Weights of linear layers laid out once at load as the CPU's matrix kernels read them fastest.

A decode step reads every weight once, so it is as fast as memory is read. bfloat16 weights and large float32
ones are packed for oneDNN: up to 1.7 times as fast, and eight rows cost hardly more than one. Smaller float32
matrices are read faster plain and stay as they are. Switched off by `SHARDBOARD_PACKED=0`;
benchmarks/decode.py has the figures.
"""

from __future__ import annotations

import itertools
import os
import weakref
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
        self._handle = next(_handles)
        _packed[self._handle] = self.packed
        weakref.finalize(self, _packed.pop, self._handle, None)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]"""
        if torch._C._get_tracing_state() is not None:
            recorded: torch.Tensor = torch.ops.shardboard.packed_linear(rows, self._handle, self.bias)
            return recorded
        return _packed_linear(rows, self._handle, self.bias)


_packed: dict[int, torch.Tensor] = {}
"""Packed weights by handle: TorchScript cannot hold tensors of this layout, so a recording holds the handle."""
_handles = itertools.count()


def _packed_linear(rows: torch.Tensor, handle: int, bias: torch.Tensor | None) -> torch.Tensor:
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, _packed[handle], bias, "none", [], "")
    return result


_library = torch.library.Library("shardboard", "FRAGMENT")
_library.define("packed_linear(Tensor rows, int handle, Tensor? bias) -> Tensor")
_library.impl("packed_linear", _packed_linear, "CompositeExplicitAutograd")


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
                count += 1
        else:
            count += pack(child, dtype, keep)
    return count

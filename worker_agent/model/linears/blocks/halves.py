"""Matrices of bfloat16 on a processor without instructions for it.

torch's own kernels there read such a matrix once for each row of input: eight rows take eight times as long as one,
a prompt three times as long as in float32. The kernels for blocks unfold a panel of it into float32 once for all rows.
The weights stay where they are: a row of bfloat16 is a row of blocks as it is.
"""

from __future__ import annotations

import os

import torch
from torch import nn

from worker_agent.model.linears.blocks import building
from worker_agent.model.linears.blocks.formats import Blocks
from worker_agent.model.linears.blocks.layers import BlockLinear
from worker_agent.model.linears.blocks.reading import judged


def can(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether matrices of this type are faster so on this machine."""
    return (
        device.type == "cpu"
        and dtype == torch.bfloat16
        and os.environ.get("SHARDBOARD_PACKED") != "0"
        and not (torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported())
        and building.kernels() is not None
    )


def laid_out(plain: nn.Linear) -> nn.Module | str:
    """A layer over the same weights that gives the same; else why there is none."""
    if plain.in_features % 32 or not plain.weight.is_contiguous():
        return "its rows are no whole 32 numbers"
    blocks = Blocks("BF16", plain.weight.detach().view(torch.uint8), plain.in_features)
    why, _ = judged(blocks, torch.bfloat16)
    return why or BlockLinear(blocks, plain.bias, torch.bfloat16, exactly=True)

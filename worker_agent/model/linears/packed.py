"""Weights of linear layers laid out once at load as the CPU's matrix kernels read them fastest.

A decode step reads every weight once, so it is as fast as memory is read. bfloat16 weights and large float32
ones are packed for oneDNN: up to 1.7 times as fast, and eight rows cost hardly more than one. Smaller float32
matrices are read faster plain and stay as they are. What is larger than `PIECE_BYTES`, a head as a rule, is packed
in pieces, so that it never lies twice in memory. Switched off by `SHARDBOARD_PACKED=0`; benchmarks/decode.py has the
figures.
"""

from __future__ import annotations

import itertools
import os
import weakref
from collections import Counter
from collections.abc import Callable, Collection, Sequence

import torch
from torch import nn
from torch.nn.functional import linear

from worker_agent.model.heap import let_go
from worker_agent.model.proof import difference
from worker_agent.model.ways import Tally

LEAST_ELEMENTS = {torch.bfloat16: 64 * 1024, torch.float32: 4 * 1024 * 1024}
"""Smaller matrices stay as they are. For float32 the plain kernels read small matrices faster than packed ones."""

ROWS = 8
"""How many rows of tokens the packed layout is made for; measured best also for one row."""


PIECE_BYTES = 128 * 1024 * 1024
"""How much of a matrix is packed at a time. In pieces of half of it a head of 400 MB was read a tenth slower."""
FILLED_UP_BYTES = 250_000_000
"""Up to so many bytes of weights the rows in vain, 8 or 16 on average, take less than the programs that they save, as
reckoned from SmolLM2's times (two stages of 160 MB: 0.35 ms a row, 8 to 20 ms for the programs of a new length)."""
BLOCK = 64
"""Outputs that the packed layout may have side by side: pieces do not end within them."""


def being_recorded() -> bool:
    """Whether what this thread computes is being recorded as TorchScript; never where torch has none any more."""
    state = getattr(torch._C, "_get_tracing_state", None)
    return state is not None and state() is not None


class PackedLinear(nn.Module):
    """`nn.Linear` over a weight in oneDNN's blocked layout."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)
        self.bias = linear.bias
        self._handle = next(_handles)
        _packed[self._handle] = self.packed

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]"""
        if being_recorded():
            recorded: torch.Tensor = torch.ops.shardboard.packed_linear(rows, self._handle, self.bias)
            return recorded
        return _packed_linear(rows, self._handle, self.bias)


class PackedPieces(nn.Module):
    """`nn.Linear` over a weight in oneDNN's blocked layout, in pieces of its outputs."""

    def __init__(self, pieces: Sequence[PackedLinear]) -> None:
        super().__init__()
        self.pieces = nn.ModuleList(pieces)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """[..., in] -> [..., out]"""
        return torch.cat([piece(rows) for piece in self.pieces], dim=-1)


_packed: weakref.WeakValueDictionary[int, torch.Tensor] = weakref.WeakValueDictionary()
"""Packed weights by handle: TorchScript cannot hold tensors of this layout, so a recording holds the handle."""
_handles = itertools.count()


def _packed_linear(rows: torch.Tensor, handle: int, bias: torch.Tensor | None) -> torch.Tensor:
    result: torch.Tensor = torch.ops.mkldnn._linear_pointwise(rows, _packed[handle], bias, "none", [], "")
    return result


_library = torch.library.Library("shardboard", "FRAGMENT")
_library.define("packed_linear(Tensor rows, int handle, Tensor? bias) -> Tensor")
_library.impl("packed_linear", _packed_linear, "CompositeExplicitAutograd")


def why_not(device: torch.device, dtype: torch.dtype) -> str:
    """Why weights of this type are not packed on this machine; empty where they are."""
    if device.type != "cpu":
        return "only the CPU's kernels read packed weights"
    if not torch.backends.mkldnn.is_available():
        return "the build of torch on this node comes without oneDNN"
    if os.environ.get("SHARDBOARD_PACKED") == "0":
        return "switched off where this agent runs (SHARDBOARD_PACKED=0)"
    if dtype == torch.bfloat16 and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "the processor of this node has no instructions for bfloat16"
    if dtype not in LEAST_ELEMENTS:
        return f"there are no such kernels for {str(dtype).removeprefix('torch.')}"
    return ""


def fills_up(device: torch.device, dtype: torch.dtype, nbytes: int) -> bool:
    """Whether passes over prompts come in few numbers of rows (`rounded`), so that a program serves many of them.

    Args:
        nbytes: of the weights of the stage.

    For bfloat16 oneDNN writes one for each shape of matrix and each count of rows, which takes ten times as long as
    the multiplication (SmolLM2's matrices, 100 rows: 2 ms and 0.2): every prompt of a new length waits for as many as
    a layer has matrices, on each node. Rows in vain take longer than that where there are many weights.
    """
    return dtype == torch.bfloat16 and nbytes <= FILLED_UP_BYTES and can_pack(device, dtype)


def rounded(count: int) -> int:
    """How many rows a pass over so many tokens has, where it is filled up."""
    if count <= ROWS:
        return count
    step = 4 if count <= 32 else 16 if count <= 128 else 32
    return -(-count // step) * step


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this machine has kernels for packed weights of this type."""
    return not why_not(device, dtype)


def pack(
    module: nn.Module,
    dtype: torch.dtype,
    tally: Tally,
    keep: Collection[nn.Module] = (),
    laid_out: Callable[[nn.Linear], nn.Module | str] | None = None,
) -> None:
    """Replace the linear layers below `module` by packed ones, one after another, except those in `keep`.

    Each is compared with the plain one first; the plain weight is let go before the next one's turn.

    Args:
        laid_out: makes another layer that reads the same weights faster, or says why there is none.
    """  # fmt: skip
    holders = Counter(id(weight) for _, weight in module.named_parameters(remove_duplicate=False))
    for name, plain in list(module.named_modules()):
        if type(plain) is not nn.Linear or plain in keep or vars(plain).get("blocks") is not None:
            continue
        if plain.weight.dtype != dtype or plain.weight.numel() < LEAST_ELEMENTS[dtype]:
            continue
        alone = holders[id(plain.weight)] == 1
        packed = _pack(plain, alone=alone) if laid_out is None else laid_out(plain)
        if isinstance(packed, str):
            tally.lost(f"a matrix of {plain.out_features} x {plain.in_features}: {packed}")
            continue
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, packed)
        if alone:
            plain.weight = plain.bias = None  # type: ignore[assignment]  # whoever still holds the layer
        tally.used()


def _pack(plain: nn.Linear, *, alone: bool) -> nn.Module | str:
    """A packed layer that gives the same; else in which way it does not, and the plain one is as it was.

    Args:
        alone: nobody else has its weight, so that what of it is packed can be let go.
    """
    made: list[PackedLinear] = []
    pieces = _pieces(plain)
    for piece in pieces:
        packed = PackedLinear(piece)
        if why := _differs(piece, packed):
            for earlier, done in zip(pieces, made, strict=False):
                earlier.weight.copy_(done.packed.to_dense())
            return why
        made.append(packed)
        if alone:
            let_go(piece.weight)
    return made[0] if len(made) == 1 else PackedPieces(made)


def _pieces(plain: nn.Linear) -> list[nn.Linear]:
    """The layer as layers of some of its outputs each, over the same memory."""
    weight, bias, count = plain.weight.detach(), plain.bias, -(-plain.weight.nbytes // PIECE_BYTES)
    if count == 1:
        return [plain]
    pieces = []
    height = -(-plain.out_features // (count * BLOCK)) * BLOCK
    for start in range(0, plain.out_features, height):
        end = min(start + height, plain.out_features)
        piece = nn.Linear(plain.in_features, end - start, bias=bias is not None, device="meta")
        piece.weight = nn.Parameter(weight[start:end], requires_grad=False)
        piece.bias = None if bias is None else nn.Parameter(bias.detach()[start:end], requires_grad=False)
        pieces.append(piece)
    return pieces


@torch.inference_mode()
def _differs(plain: nn.Linear, packed: PackedLinear) -> str:
    generator = torch.Generator().manual_seed(5)
    for rows in (1, ROWS + 3):
        given = torch.randn(rows, plain.in_features, generator=generator).to(plain.weight.dtype)
        try:
            if why := difference(linear(given, plain.weight, plain.bias), packed(given), plain.weight.dtype):
                return why
        except RuntimeError as error:
            return str(error).splitlines()[0]
    return ""

"""Tensors that are stored in blocks, as transformers' loading code sees them: float32, unfolded when it asks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from worker_agent.model.linears.blocks import experts, layers
from worker_agent.model.linears.blocks.formats import Blocks
from worker_agent.model.linears.blocks.layers import BlockEmbedding, BlockLinear
from worker_agent.model.linears.blocks.making import made, put_meaning
from worker_agent.model.linears.packed import PackedLinear
from worker_agent.model.proof import TOLERANCES, difference
from worker_agent.model.ways import Tally
from worker_agent.store.lazy_tensors import LazyTensor
from worker_agent.wire.errors import BadWeights
from worker_agent.wire.messages import Quantize
from worker_agent.wire.messages.parts import BLOCK_FORMATS, LEAST_QUANTIZED

TILE_ELEMENTS = 1024 * 1024
JUDGED_ROWS = (1, 3, 11)
"""Rows of input with which a way is tried: one by one, in pairs, many."""
MATRICES_IN_A_ROW = 3
"""That a layer's input passes at most on its way to what the layer adds to it, as a rule."""
UNFOLDED_ROWS = 37
"""Those with which a matrix that is unfolded is tried: more than fill two tiles, and no whole number of them."""


class LazyBlocks:
    """A tensor in blocks that lies on disk, with the face of a float32 one."""

    dtype = torch.float32

    def __init__(self, stored: LazyTensor) -> None:
        self._stored, self.described = stored, stored.described
        self.shape, self._turned = stored.shape, False
        self.blocks: Blocks | None = None
        """The matrix, once it has been read; that of all experts has their rows one after another."""

    def turn(self) -> None:
        """Show the matrices of experts [experts, outputs, inputs] as [experts, inputs, outputs]."""
        *outer, rows, columns = self._stored.shape
        self.shape, self._turned = (*outer, columns, rows), True

    def get_shape(self) -> list[int]:
        return list(self.shape)

    def get_dtype(self) -> str:
        return "F32"

    def __getitem__(self, index: Any) -> torch.Tensor:
        *outer, columns = self._stored.shape
        data = self._stored[...]
        found = Blocks(self._stored.get_dtype(), data.view(-1, data.shape[-1]), columns)
        if outer:
            self.blocks = found
        whole = found.unfolded().view(*outer, columns)
        return (whole.transpose(-1, -2) if self._turned else whole)[index]


def attach(module: nn.Module, blocks: Blocks) -> bool:
    """Note at a linear layer or embedding that its weights are these; False where it is no such thing, or differs."""
    weight = getattr(module, "weight", None)
    if type(module) not in (nn.Linear, nn.Embedding) or not isinstance(weight, torch.Tensor):
        return False
    if weight.shape != (blocks.rows, blocks.columns) or weight.device.type != "cpu":
        return False
    step = max(1, TILE_ELEMENTS // blocks.columns)
    for start in range(0, blocks.rows, step):
        if not torch.equal(weight[start : start + step], blocks.unfolded(start, start + step).to(weight.dtype)):
            return False
    module.blocks = blocks  # type: ignore[assignment]  # an attribute of ours, which is no module
    return True


def blocks_of(module: nn.Module) -> Blocks | None:
    """The blocks that a layer's weights were attached to."""
    found = vars(module).get("blocks")
    return found if isinstance(found, Blocks) else None


def in_blocks(module: nn.Module) -> dict[str, list[Blocks]]:
    """Those of a module's own parameters whose weights are in blocks, a matrix or one for each expert."""
    blocks = blocks_of(module)
    return experts.stacked_of(module) if blocks is None else {"weight": [blocks]}


@contextmanager
def as_meant(module: nn.Module) -> Iterator[None]:
    """Within this block the linear layers below `module` multiply with the very numbers that their blocks mean.

    In bfloat16 and float16 their own weights are these numbers rounded once more. Where a matrix has few different
    numbers (one scale for all of it), the roundings do not cancel out: they lean to one side, by up to 0.2 %, and
    three such matrices one behind the other by more than what counts as the same.
    """
    changed = [each for each in module.modules() if type(each) is nn.Linear and blocks_of(each) is not None]
    for each in changed:
        vars(each)["forward"] = partial(_meant, each)
    try:
        yield
    finally:
        for each in changed:
            vars(each).pop("forward", None)


def _meant(linear: nn.Linear, rows: torch.Tensor) -> torch.Tensor:
    blocks = blocks_of(linear)
    assert blocks is not None
    found = layers.times_meant(blocks, rows.reshape(-1, blocks.columns)).view(*rows.shape[:-1], blocks.rows)
    return found if linear.bias is None else found + linear.bias


def let_go(module: nn.Module) -> None:
    """Forget the blocks of everything below `module` that has its floats still, which is what it computes with then."""
    for each in module.modules():
        vars(each).pop("blocks" if type(each) in (nn.Linear, nn.Embedding) else "stacked_blocks", None)


def held_bytes(module: nn.Module) -> int:
    """Bytes of the weights below `module`: what is in blocks, or will be, counts as blocks, all else as it stands."""
    held: dict[int, int] = {}
    for each in module.modules():
        known = in_blocks(each)
        matrices = [blocks for found in known.values() for blocks in found]
        if isinstance(each, (BlockLinear, BlockEmbedding)):
            matrices.append(each.blocks)
        if isinstance(forward := vars(each).get("forward"), experts.BlockExperts):
            matrices += [blocks for found in forward.stacked.values() for blocks in found]
        held |= {blocks.data.data_ptr(): blocks.nbytes for blocks in matrices}
        tensors = [weight for name, weight in each.named_parameters(recurse=False) if name not in known]
        held |= {tensor.data_ptr(): tensor.numel() * tensor.itemsize for tensor in tensors}
        if isinstance(each, PackedLinear):
            held[id(each.packed)] = each.packed.numel() * each.packed.itemsize
    return sum(held.values())


class Quantizer:
    """Puts the float matrices of layers into blocks, and adds up what that costs."""

    def __init__(self, quantize: Quantize, routers: Iterable[int]) -> None:
        """`routers`: how many rows the matrix has that chooses among a layer's experts; such a matrix stays."""
        self.wanted, self._routers = quantize, frozenset(routers)
        self._apart = self._size = 0.0

    @property
    def error(self) -> float:
        """How far the weights are from those that came, relative to their size (root mean square)."""
        return (self._apart / self._size) ** 0.5 if self._size else 0.0

    def quantize(self, layer: nn.Module) -> None:
        """Attach blocks to the layer's matrices, and give these the values that the blocks mean."""
        if self.wanted == "none":
            return
        for module in layer.modules():
            if experts.has_experts(module):
                self._quantize_experts(module)
            if type(module) is not nn.Linear or module.weight.numel() < LEAST_QUANTIZED or blocks_of(module):
                continue
            weight = module.weight
            if weight.shape[0] in self._routers or weight.device.type != "cpu":
                continue
            if (blocks := self._quantized(weight)) is not None:
                module.blocks = blocks  # type: ignore[assignment]

    def _quantize_experts(self, module: nn.Module) -> None:
        for name, stacked in experts.tensors(module):
            if name in experts.stacked_of(module) or stacked[0].numel() < LEAST_QUANTIZED:
                continue
            matrices = [self._quantized(weight) for weight in stacked]
            if kept := [blocks for blocks in matrices if blocks is not None]:  # all have the same shape
                experts.note(module, name, kept)

    def _quantized(self, weight: torch.Tensor) -> Blocks | None:
        """A matrix in blocks, whose meaning the weight itself gets."""
        blocks = made(weight, self.wanted)
        if blocks is None:
            return None
        changed, size = put_meaning(blocks, weight)
        self._apart += changed
        self._size += size
        return blocks


def lay_out(module: nn.Module, dtype: torch.dtype, tally: Tally, kind: type[nn.Module] = nn.Module) -> None:
    """Replace the linear layers and embeddings below `module` that have blocks by such as compute with them.

    The plain weights go. Each product is compared with the plain one first. `kind`: one of the two alone.
    """
    for name, child in list(module.named_children()):
        if experts.stacked_of(child) and kind is not nn.Embedding:
            if why := experts.lay_out(child, dtype):
                tally.lost(f"a layer's experts: {why}")
            else:
                tally.used()
            continue
        blocks = blocks_of(child)
        if isinstance(child, (BlockLinear, BlockEmbedding)):
            continue
        if blocks is None or not isinstance(child, kind):
            lay_out(child, dtype, tally, kind)
            continue
        if isinstance(child, nn.Linear):
            why, exactly = judged(blocks, dtype)
            if why:
                tally.lost(f"a matrix of {blocks.rows} x {blocks.columns} in {blocks.format}: {why}")
                vars(child).pop("blocks")
                continue
            setattr(module, name, BlockLinear(blocks, child.bias, dtype, exactly=exactly))
            child.bias = None  # type: ignore[assignment]
        else:
            setattr(module, name, BlockEmbedding(blocks, dtype))
        child.weight = None  # type: ignore[assignment]  # whoever still holds the layer
        vars(child).pop("blocks")
        tally.used()


@torch.inference_mode()
def judged(blocks: Blocks, dtype: torch.dtype) -> tuple[str, bool]:
    """Why `times` gives something else than what the blocks mean, empty if it does not; and whether a matrix that is
    unfolded into `dtype` does."""
    generator = torch.Generator().manual_seed(5)
    given = torch.randn(UNFOLDED_ROWS, blocks.columns, generator=generator).to(dtype)
    meant = layers.times_meant(blocks, given)
    parts = (*JUDGED_ROWS, UNFOLDED_ROWS - sum(JUDGED_ROWS))
    for rows, wanted in zip(given.split(parts)[:-1], meant.split(parts)[:-1], strict=True):
        if why := difference(wanted, layers.times(blocks, rows), dtype):
            return why, True
    unfolded = layers.times_unfolded(blocks, given)
    each = zip(meant.split(parts), unfolded.split(parts), strict=True)
    return "", _leans(meant, unfolded, dtype) or any(difference(*pair, dtype) for pair in each)


def _leans(meant: torch.Tensor, found: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether what is found leans to one side by so much that a layer, whose matrices lie one behind another, would by
    more than it may: so it is where few different numbers are rounded."""
    wanted = meant.double()
    along = float(((found.double() - wanted) * wanted).sum()) / max(float(wanted.square().sum()), 1e-300)
    return abs(along) > TOLERANCES[dtype].lean / MATRICES_IN_A_ROW


def loadable(lazy: LazyTensor) -> LazyTensor | LazyBlocks:
    """A stored tensor as transformers' loading code takes it. Raises BadWeights where its blocks do not add up."""
    kind = lazy.get_dtype()
    if kind not in BLOCK_FORMATS:
        return lazy
    weights, size = BLOCK_FORMATS[kind]
    shape, described = lazy.shape, lazy.described
    elements = torch.Size(shape).numel()
    if not shape or shape[-1] % weights or elements // weights * size != described.nbytes:
        raise BadWeights(
            f"tensor {described.name} of shape {shape} in blocks of {kind} cannot take {described.nbytes} bytes"
        )
    return LazyBlocks(lazy)

"""Mixtures of experts over weights in blocks: of each matrix the chosen experts' blocks are multiplied, and no others.

transformers keeps a layer's experts in one module, with stacked tensors [experts, rows, columns]; what its decorator
`use_experts_implementation` says of a module (whether there is a gate, a bias, a transposed layout) is all that is
known of it here. Which stored matrices a stacked tensor was made of is observed: an expert's matrices are those whose
numbers stand in it.
"""

from __future__ import annotations

import itertools
import re
import weakref
from collections.abc import Iterator, Sequence

import torch
from torch import nn

from worker_agent.model.linears.blocks import layers
from worker_agent.model.linears.blocks.formats import Blocks, joined
from worker_agent.model.linears.blocks.racing import first_of_many
from worker_agent.model.linears.packed import being_recorded
from worker_agent.model.proof import difference

NAMES = ("gate_up_proj", "up_proj", "down_proj")
"""What transformers' own experts functions call the stacked tensors."""
NUMBER = re.compile(r"\.(\d+)\.")
TILE_ELEMENTS = 1024 * 1024

Stacked = dict[str, list[Blocks]]
"""For each stacked tensor the matrix [outputs, inputs] of each expert."""


def has_experts(module: nn.Module) -> bool:
    """Whether it is a layer's experts in the form that transformers' experts functions compute with."""
    return all(hasattr(module, name) for name in ("is_transposed", "has_gate", "has_bias", "_apply_gate"))


def stacked_of(module: nn.Module) -> Stacked:
    """The experts' matrices that are known to be in blocks."""
    found: Stacked = vars(module).get("stacked_blocks") or {}
    return found


def tensors(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """The stacked tensors of a layer's experts, each expert's as [outputs, inputs]."""
    for name in NAMES:
        stacked = getattr(module, name, None)
        if isinstance(stacked, torch.Tensor) and stacked.ndim == 3 and stacked.device.type == "cpu":
            yield name, stacked.transpose(1, 2) if module.is_transposed else stacked


def turned(model: nn.Module) -> set[str]:
    """Names of stacked tensors that are [experts, inputs, outputs]; blocks always lie along the inputs."""
    return {
        f"{path}.{name}"
        for path, module in model.named_modules()
        if has_experts(module) and module.is_transposed
        for name in NAMES
    }


def note(module: nn.Module, name: str, matrices: list[Blocks]) -> None:
    """Keep what one of the stacked tensors is in blocks, until the module is laid out."""
    vars(module).setdefault("stacked_blocks", {})[name] = matrices


def attach(module: nn.Module, stored: dict[str, Blocks]) -> set[str]:
    """Note which of the stored matrices a layer's experts were made of, as far as they hold the numbers of these.

    Args:
        stored: by the name that a matrix has in the model; one that holds all experts has their rows one after another.

    Returns:
        the names of those that were found.
    """
    done: set[str] = set()
    for name, stacked in tensors(module):
        experts, rows, columns = stacked.shape
        whole = next((each for each in stored if each.endswith(f".{name}") and stored[each].columns == columns), "")
        if whole and stored[whole].rows == experts * rows:
            matrices = [_rows(stored[whole], index * rows, rows) for index in range(experts)]
            if all(_is(stacked[index], matrix) for index, matrix in enumerate(matrices)):
                note(module, name, matrices)
                done.add(whole)
            continue
        by_expert: dict[int, dict[str, Blocks]] = {}
        for each, blocks in stored.items():
            numbers = NUMBER.findall(each)
            if numbers and each not in done and blocks.columns == columns:
                by_expert.setdefault(int(numbers[-1]), {})[each] = blocks
        found = [_made_of(stacked[index], by_expert.get(index, {})) for index in range(experts)]
        if all(found):
            note(module, name, [joined([blocks for _, blocks in members]) for members in found])
            done.update(each for members in found for each, _ in members)
    return done


def _rows(blocks: Blocks, start: int, count: int) -> Blocks:
    return Blocks(blocks.format, blocks.data[start : start + count], blocks.columns)


def _is(weight: torch.Tensor, blocks: Blocks) -> bool:
    """Whether a matrix of floats has the numbers that the blocks mean. Most that differ do in their first row."""
    if weight.shape != (blocks.rows, blocks.columns):
        return False
    step = max(1, TILE_ELEMENTS // blocks.columns)
    for start, stop in itertools.pairwise(sorted({0, 1, *range(0, blocks.rows, step), blocks.rows})):
        if not torch.equal(weight[start:stop], blocks.unfolded(start, stop).to(weight.dtype)):
            return False
    return True


def _made_of(weight: torch.Tensor, members: dict[str, Blocks]) -> list[tuple[str, Blocks]]:
    """The members that make up an expert's matrix, from its first row on; empty where they do not, or are unlike."""
    found: list[tuple[str, Blocks]] = []
    at = 0
    while at < weight.shape[0]:
        here = next(
            ((name, each) for name, each in members.items() if _is(weight[at : at + each.rows], each)), None
        )  # fmt: skip
        if here is None or (found and found[0][1].format != here[1].format):
            return []
        found.append(here)
        members = {name: each for name, each in members.items() if name != here[0]}
        at += here[1].rows
    return found


class BlockExperts:
    """The forward of a layer's experts over matrices in blocks; stands in the module instead of its own."""

    def __init__(self, module: nn.Module, stacked: Stacked, dtype: torch.dtype) -> None:
        self._module = weakref.ref(module)  # which holds this
        self._out = {name: _Matrices(matrices, dtype) for name, matrices in stacked.items()}
        self._first = "gate_up_proj" if module.has_gate else "up_proj"
        self._handle = next(_handles)
        _experts[self._handle] = self

    @property
    def stacked(self) -> Stacked:
        return {name: matrices.blocks for name, matrices in self._out.items()}

    def __call__(self, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """hidden [tokens, width], chosen and weights [tokens, experts of each] -> [tokens, width]"""
        if being_recorded():
            recorded: torch.Tensor = torch.ops.shardboard.block_experts(hidden, chosen, weights, self._handle)
            return recorded
        return self.run(hidden, chosen, weights)

    def run(self, hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """The same. Experts are gone through by number, as transformers' own loop does."""
        module = self._module()
        assert module is not None
        flat = chosen.reshape(-1)
        numbers, order = flat.sort(stable=True)
        counts = torch.bincount(numbers, minlength=1).tolist()
        tokens, factors = order // chosen.shape[-1], weights.reshape(-1)[order]
        first, last = self._out[self._first], self._out["down_proj"]
        bias: Sequence[torch.Tensor | None] = (None, None)
        into = torch.zeros_like(hidden)
        start = 0
        for number, count in enumerate(counts):
            if not count or number >= len(first.blocks):  # one beyond the last is nobody's (experts elsewhere)
                start += count
                continue
            here = slice(start, start + count)
            start += count
            if module.has_bias:
                bias = getattr(module, f"{self._first}_bias")[number], module.down_proj_bias[number]  # type: ignore[index]
            inner = first.times(number, hidden[tokens[here]], bias[0])
            inner = module._apply_gate(inner) if module.has_gate else module.act_fn(inner)  # type: ignore[operator]
            outer = last.times(number, inner, bias[1])
            if getattr(module, "has_post_expert_norm", False):
                outer = module.post_expert_norm(outer)  # type: ignore[operator]
            into.index_add_(0, tokens[here], (outer * factors[here, None]).to(into.dtype))
        return into


def let_go(module: nn.Module) -> None:
    """Take a layer's experts in blocks out of their module: those that were noted, and those it computes with."""
    held = vars(module)
    held.pop("stacked_blocks", None)
    if isinstance(held.get("forward"), BlockExperts):
        del held["forward"]


class _Matrices:
    """One matrix of each expert."""

    def __init__(self, blocks: list[Blocks], dtype: torch.dtype) -> None:
        self.blocks = blocks
        self._many = first_of_many(blocks[0], dtype, layers.times, layers.times_unfolded)

    def times(self, number: int, rows: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        way = layers.times if rows.shape[0] < self._many else layers.times_unfolded
        found = way(self.blocks[number], rows)
        return found if bias is None else found + bias


def lay_out(module: nn.Module, dtype: torch.dtype) -> str:
    """Have a layer's experts compute with their blocks, where that gives the same; else say why not.

    Both stacked tensors have to be in blocks; their floats go then.
    """
    stacked = stacked_of(module)
    vars(module).pop("stacked_blocks", None)
    wanted = {name for name, _ in tensors(module)}
    if missing := sorted(wanted - set(stacked)):
        return f"the experts' {missing[0]} is not in blocks of one format"
    try:
        blocked = BlockExperts(module, stacked, dtype)
        if why := _differs(module, blocked, dtype):
            return why
    except (RuntimeError, TypeError, AttributeError, KeyError) as error:
        return f"these experts are computed otherwise ({error})"
    vars(module)["forward"] = blocked
    for name in stacked:
        setattr(module, name, None)
    return ""


@torch.inference_mode()
def _differs(module: nn.Module, blocked: BlockExperts, dtype: torch.dtype) -> str:
    """Why the blocks' result is not that of the module's own forward; empty if it is."""
    generator = torch.Generator().manual_seed(5)
    matrices = next(iter(blocked.stacked.values()))
    experts, width = len(matrices), matrices[0].columns
    for tokens in (1, 11):
        given = torch.randn(tokens, width, generator=generator).to(dtype)
        chosen = torch.rand(tokens, experts, generator=generator).topk(min(2, experts), dim=-1).indices
        weights = torch.rand(chosen.shape, generator=generator).to(dtype)
        wanted = type(module).forward(module, given, chosen, weights)
        if why := difference(wanted, blocked(given, chosen, weights), dtype):
            return why
    return ""


_experts: weakref.WeakValueDictionary[int, BlockExperts] = weakref.WeakValueDictionary()
_handles = itertools.count()


def _block_experts(hidden: torch.Tensor, chosen: torch.Tensor, weights: torch.Tensor, handle: int) -> torch.Tensor:
    return _experts[handle].run(hidden, chosen, weights)


_library = torch.library.Library("shardboard", "FRAGMENT")
_library.define("block_experts(Tensor hidden, Tensor chosen, Tensor weights, int handle) -> Tensor")
_library.impl("block_experts", _block_experts, "CompositeExplicitAutograd")

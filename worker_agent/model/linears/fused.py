"""Fewer, larger kernels in a decode step, found by watching a layer rather than by knowing it.

`join_siblings`: linear layers that are given the very same tensor one after another (query, key and value; gate
and up) become one matrix, computed when the first of them is called. `fuse_norms`: RMS norms whose arithmetic
torch's own kernel repeats bit for bit are computed by it. Each is compared with what it replaces, and the layer as a
whole is tried afterwards (`loading.py`). Switched off by `SHARDBOARD_FUSED=0`; benchmarks/decode.py has the figures.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import accumulate

import torch
from torch import nn
from torch.nn.functional import linear, rms_norm

from worker_agent.model.linears.blocks.formats import joined
from worker_agent.model.linears.blocks.reading import blocks_of
from worker_agent.model.proof import difference
from worker_agent.model.ways import Tally

MAX_SIBLINGS = 8
MAX_FLOAT32_ELEMENTS = 1024 * 1024
"""Larger float32 matrices stay apart: for several rows MKL is slower on the joint one (628 against 440 µs for
eight rows of gate and up, 2 x 1536 x 576)."""


def why_not() -> str:
    """Why nothing is joined or fused on this machine; empty where it is."""
    return (
        "switched off where this agent runs (SHARDBOARD_FUSED=0)" if os.environ.get("SHARDBOARD_FUSED") == "0" else ""
    )


class SiblingGroup:
    """Linear layers with one input as one joint matrix, and what it gave for the input at hand."""

    def __init__(self, sizes: list[int]) -> None:
        self.ends = list(accumulate(sizes))
        self._input: torch.Tensor | None = None
        self._outputs: tuple[torch.Tensor, ...] = ()

    def output(self, index: int, rows: torch.Tensor, joint: nn.Module) -> torch.Tensor:
        """What member `index` gives for `rows` [..., in]; all members are computed at once for the first one."""
        if self._input is not rows:
            self._input = rows
            starts = [0, *self.ends[:-1]]
            whole = joint(rows)
            self._outputs = tuple(whole[..., start:end] for start, end in zip(starts, self.ends, strict=True))
        output = self._outputs[index]
        if index == len(self.ends) - 1:
            self._input, self._outputs = None, ()  # the last one was served: let the tensors go
        return output


def _joint(members: list[nn.Linear]) -> nn.Linear:
    """One linear layer that computes all of them. The members' weights are parts of its own from then on."""
    first, height = members[0], sum(member.out_features for member in members)
    joint = nn.Linear(first.in_features, height, bias=first.bias is not None, device="meta")
    for name in ("weight",) if first.bias is None else ("weight", "bias"):
        whole, start = getattr(first, name).new_empty(getattr(joint, name).shape), 0
        for member in members:  # one after another: only one of them lies twice in memory
            part = whole[start : start + member.out_features]
            part.copy_(getattr(member, name).detach())
            setattr(member, name, nn.Parameter(part, requires_grad=False))
            start += member.out_features
        setattr(joint, name, nn.Parameter(whole, requires_grad=False))
    if all(found := [blocks_of(member) for member in members]):
        joint.blocks = joined([each for each in found if each is not None])  # type: ignore[assignment]
    return joint


class Sibling(nn.Module):
    """Stands where a linear layer was whose matrix is part of a joint one.

    The joint layer is a submodule of the first sibling alone, so that it is packed and moved once.
    """

    def __init__(self, group: SiblingGroup, index: int, first: Sibling | None, joint: nn.Module) -> None:
        super().__init__()
        self.group, self.index = group, index
        if first is None:
            self.joint = joint
        self._first: list[Sibling] = [] if first is None else [first]  # a list, so that it is no submodule

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        first = self._first[0] if self._first else self
        return self.group.output(self.index, rows, first.joint)


class FusedNorm(nn.Module):
    """An RMS norm computed by torch's own kernel."""

    def __init__(self, weight: nn.Parameter, epsilon: float) -> None:
        super().__init__()
        self.weight, self.epsilon = weight, epsilon

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return rms_norm(rows, self.weight.shape, self.weight, self.epsilon)


def watched(module: nn.Module, run: Callable[[], object]) -> list[list[nn.Linear]]:
    """Run something, and see which linear layers below `module` could be joined."""
    names: dict[nn.Module, str] = {each: name for name, each in module.named_modules() if type(each) is nn.Linear}
    return _observe(names, run)


def join_siblings(module: nn.Module, groups: list[list[nn.Linear]], tally: Tally) -> None:
    """Join groups of linear layers below `module`, each only if it gives what its members give.

    The members' own weights are let go.
    """
    names: dict[nn.Module, str] = {each: name for name, each in module.named_modules() if type(each) is nn.Linear}
    for members in groups:
        apart = _apart(members)
        joint = _joint(members)
        if why := _differ(apart, joint):
            tally.lost(f"{len(members)} matrices, {names[members[0]]} for one: {why}", len(members))
            continue
        group = SiblingGroup([member.out_features for member in members])
        first: Sibling | None = None
        for index, member in enumerate(members):
            sibling = Sibling(group, index, first, joint)
            first = first or sibling
            parent, _, child = names[member].rpartition(".")
            setattr(module.get_submodule(parent), child, sibling)
            member.weight = member.bias = None  # type: ignore[assignment]  # whoever still holds the member
            vars(member).pop("blocks", None)
        tally.used(len(members))


@torch.inference_mode()
def _apart(members: list[nn.Linear]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Random rows, and what the members give for them."""
    generator, like = torch.Generator().manual_seed(6), members[0].weight
    given = [torch.randn(rows, like.shape[1], generator=generator).to(like.device, like.dtype) for rows in (1, 11)]
    return [
        (rows, torch.cat([linear(rows, member.weight, member.bias) for member in members], dim=-1)) for rows in given
    ]


@torch.inference_mode()
def _differ(apart: list[tuple[torch.Tensor, torch.Tensor]], joint: nn.Linear) -> str:
    for given, expected in apart:
        if why := difference(expected, joint(given), expected.dtype):
            return why
    return ""


def _observe(names: dict[nn.Module, str], run: Callable[[], object]) -> list[list[nn.Linear]]:
    """Runs of linear layers under one parent that are called one after another with the same tensor."""
    calls: dict[nn.Linear, torch.Tensor] = {}

    def note(module: nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        assert isinstance(module, nn.Linear)
        calls.setdefault(module, arguments[0])  # its first call; kept alive, so that identity means something

    handles = [module.register_forward_pre_hook(note) for module in names]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    groups: list[list[nn.Linear]] = []
    last: torch.Tensor | None = None
    for module, given in calls.items():
        if given is last and _alike(groups[-1][0], module, names):
            groups[-1].append(module)
        else:
            groups.append([module])
        last = given
    return [members for members in groups if 1 < len(members) <= MAX_SIBLINGS and _is_worthwhile(members)]


def _is_worthwhile(members: list[nn.Linear]) -> bool:
    if blocks_of(members[0]) is not None:
        return True
    elements = sum(member.weight.numel() for member in members)
    return members[0].weight.dtype != torch.float32 or elements <= MAX_FLOAT32_ELEMENTS


def _alike(one: nn.Linear, other: nn.Linear, names: dict[nn.Module, str]) -> bool:
    """Whether two layers may be one matrix: same parent, same type, both with or without a bias."""
    return (
        names[one].rpartition(".")[0] == names[other].rpartition(".")[0]
        and one.weight.dtype == other.weight.dtype
        and (one.bias is None) == (other.bias is None)
        and _format(one) == _format(other)
        and not other._forward_pre_hooks
        and not other._forward_hooks
    )


def _format(linear: nn.Linear) -> str:
    """In which blocks its weights are; empty for floats."""
    blocks = blocks_of(linear)
    return "" if blocks is None else blocks.format


def fuse_norms(module: nn.Module, dtype: torch.dtype, tally: Tally) -> None:
    """Replace the RMS norms below `module` that torch's kernel repeats bit for bit on random numbers."""
    for name, norm, weight, epsilon in list(norms(module)):
        fused = FusedNorm(weight, epsilon)
        if not _same(norm, fused, weight, dtype):
            tally.lost(f"{type(norm).__name__} computes in another way than torch's own norm")
            continue
        parent, _, child = name.rpartition(".")
        setattr(module.get_submodule(parent), child, fused)
        tally.used()


def norms(module: nn.Module) -> Iterator[tuple[str, nn.Module, nn.Parameter, float]]:
    """RMS norms below `module` that torch's kernel might compute: name, norm, weight, epsilon."""
    for name, norm in module.named_modules():
        epsilon = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
        weight = getattr(norm, "weight", None)
        if not type(norm).__name__.endswith("RMSNorm") or not isinstance(epsilon, float) or not name:
            continue
        if isinstance(weight, nn.Parameter) and weight.dim() == 1 and len(list(norm.parameters())) == 1:
            yield name, norm, weight, epsilon


@torch.inference_mode()
def _same(norm: nn.Module, fused: FusedNorm, weight: torch.Tensor, dtype: torch.dtype) -> bool:
    generator = torch.Generator().manual_seed(3)
    for rows, scale in ((1, 1.0), (5, 30.0), (33, 1e-3)):
        given = (torch.randn(1, rows, weight.shape[0], generator=generator) * scale).to(weight.device, dtype)
        try:
            if not torch.equal(norm(given), fused(given)):
                return False
        except (RuntimeError, TypeError):
            return False
    return True

"""Turning a whole empty model into one stage of it: what other stages own is replaced, not copied.

Layers of other stages become pass-throughs (global layer indices stay), what stands before the layers
becomes a weightless stand-in on every stage but the first, and what stands after them goes on every stage
but the last. Hidden states are put in at the first owned layer and taken out after the last.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from types import NoneType
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import Cache, PreTrainedModel

from worker_agent.model.anatomy import Anatomy
from worker_agent.model.linears.blocks import experts
from worker_agent.model.linears.blocks.formats import Blocks

FAULTS = (
    RuntimeError, TypeError, ValueError, AttributeError, IndexError, KeyError, AssertionError, NotImplementedError,
)  # fmt: skip
"""What transformers' code may raise when it is run in a way that it was not written for."""


@dataclass(frozen=True, slots=True)
class _Pass:
    """What a pass that is under way was given."""

    hidden: torch.Tensor | None
    sampled_rows: torch.Tensor | None


_under_way: ContextVar[_Pass | None] = ContextVar("pass", default=None)
"""Passes may be under way side by side (`engine/lockstep.py`), each in a context of its own."""


class PassThrough(nn.Module):
    """Stands where a layer of another stage was, with the plain attributes by which models tell their layers apart."""

    def __init__(self, layer: nn.Module, values: int) -> None:
        """`values` are returned as a tuple, or the hidden states alone if there are 0."""
        super().__init__()
        self.values = values
        classes = [kind for kind in type(layer).__mro__ if not issubclass(nn.Module, kind)]
        for named in (vars(layer), *map(vars, classes)):
            for name, value in named.items():
                if not name.startswith("_") and isinstance(value, (str, int, float, NoneType)):
                    vars(self).setdefault(name, value)

    def forward(self, hidden_states: torch.Tensor, *_args: Any, **_kwargs: Any) -> Any:
        return (hidden_states, *[None] * (self.values - 1)) if self.values else hidden_states


class Layers(nn.ModuleList):
    """The decoder layers; a part of them is a plain list, since models take one anew in every pass."""

    def __getitem__(self, index: Any) -> Any:
        return list(self)[index] if isinstance(index, slice) else super().__getitem__(index)


class StandIn(nn.Module):
    """Stands where an embedding (or another module before the layers) was: zeros of its output's shape."""

    def __init__(self, shape: tuple[int, ...], dtype: torch.dtype, passing: Slice) -> None:
        super().__init__()
        self.shape, self.dtype = shape, dtype
        self._passing = weakref.ref(passing)
        self.weight = torch.empty(0, dtype=dtype)  # some models look at the embedding's dtype

    def forward(self, *_args: Any, **_kwargs: Any) -> torch.Tensor:
        # Not every module gets the tokens: one may get a mask, as long as the whole sequence.
        passing = self._passing()
        assert passing is not None and passing.hidden is not None
        hidden = passing.hidden
        return torch.zeros(*hidden.shape[:2], *self.shape, dtype=self.dtype, device=hidden.device)


class Taken(Exception):
    """Carries the last owned layer's output out of the model."""

    def __init__(self, hidden: torch.Tensor) -> None:
        super().__init__()
        self.hidden = hidden


class Slice:
    """One stage's share of a model: layers `[start, end)`, and the ends that go with them.

    A layer is taken out when the slice is made (`own`) and put into the model with `place`, so that a stage can be
    built, and each of its layers be run, one at a time.
    """

    def __init__(self, model: PreTrainedModel, anatomy: Anatomy, start: int, end: int) -> None:
        self.model, self.anatomy, self.start, self.end = model, anatomy, start, end
        self.own: dict[int, nn.Module] = {}
        """The slice's layers by their number in the model, whether they stand in it now or not."""
        self.embedding = model.get_input_embeddings()
        """The model's input embedding, without weights where another stage has it."""
        self.fills_up = False
        """Whether passes over prompts are filled up with rows in vain (`linears/packed.py`)."""
        self.parents_of_gone: list[nn.Module] = []
        """Modules of what stands behind the layers whose children another stage has."""
        self._hooks: list[RemovableHandle] = []
        self._puts_in = False
        self._prune()

    @property
    def hidden(self) -> torch.Tensor | None:
        """The hidden states that the pass under way began with, if it did."""
        passing = _under_way.get()
        return None if passing is None else passing.hidden

    @property
    def layers(self) -> nn.ModuleList:
        """All decoder layers; pass-throughs where a layer is another stage's or does not stand there now."""
        layers = self.model.get_submodule(self.anatomy.layers_path)
        assert isinstance(layers, nn.ModuleList)
        return layers

    @property
    def is_first(self) -> bool:
        return self.start == 0

    @property
    def is_last(self) -> bool:
        return self.end == self.anatomy.num_layers

    def _prune(self) -> None:
        self.own = {index: self.layers[index] for index in range(self.start, self.end)}
        self.replace(self.anatomy.layers_path, Layers(self.layers))
        self.place()
        if not self.is_first:
            dtype = self.model.dtype
            for name, shape in self.anatomy.before:
                self.replace(name, StandIn(shape, dtype, self))
        if not self.is_last:
            for name in self.anatomy.after:
                if not any(name.startswith(other + ".") for other in self.anatomy.after):
                    self.parents_of_gone.append(self.model.get_submodule(name.rpartition(".")[0]))
                    self.replace(name, nn.Identity())
        if not (self.is_first and self.is_last):
            # With one end only there is nothing left to tie; the loading code must not try.
            gone = {name for pair in self.anatomy.tied for name in pair}
            ends = {name for name, _ in self.model.named_parameters(remove_duplicate=False)}
            self.model.all_tied_weights_keys = {
                target: source
                for target, source in self.model.all_tied_weights_keys.items()
                if target not in gone and all(self._is_held(name, ends) for name in (target, source))
            }

    def _is_held(self, parameter: str, ends: Collection[str]) -> bool:
        """Whether the slice holds a parameter, in one of its layers or among `ends`, what it has beside them."""
        kind, index = self.anatomy.owner(parameter)
        return self.start <= index < self.end if kind == "layer" else parameter in ends

    def replace(self, name: str, module: nn.Module) -> None:
        """Put another module where the one of this name stands."""
        parent, _, child = name.rpartition(".")
        owner = self.model.get_submodule(parent) if parent else self.model
        if child.isdigit() and isinstance(owner, nn.ModuleList):
            owner[int(child)] = module
        else:
            setattr(owner, child, module)

    def place(self, *wanted: int) -> None:
        """Put these of the slice's layers into the model, and pass-throughs everywhere else."""
        layers = self.layers
        for index in range(len(layers)):
            if index in wanted:
                layers[index] = self.own[index]
            elif not isinstance(layers[index], PassThrough):
                layers[index] = PassThrough(layers[index], self.anatomy.tuple_output)

    @contextmanager
    def standing_alone(self, *wanted: int) -> Iterator[None]:
        """Within this block the model has these of the slice's layers and no other, not even pass-throughs.

        For code of the model's that does something to each of its layers, whose insides pass-throughs have not.
        """
        layers = self.layers
        self.replace(self.anatomy.layers_path, Layers(self.own[index] for index in wanted))
        try:
            yield
        finally:
            self.replace(self.anatomy.layers_path, layers)

    def connect(
        self, first: int | None = None, last: int | None = None, *, head: bool | None = None, inside: bool = False
    ) -> None:
        """Hang the hooks of a pass through layers `[first, last)`; again whenever one of these modules was replaced.

        Hidden states are put in at `first`, except where the model itself begins there (but with `inside`
        there, too), and taken out behind `last - 1`, except where logits are wanted (`head`). Without arguments it is
        the whole slice.
        """
        first = self.start if first is None else first
        last = self.end if last is None else last
        head = self.is_last and last == self.end if head is None else head
        self.disconnect()
        self._puts_in = inside or not (self.is_first and first == 0)
        if self._puts_in:
            self._hooks.append(self.layers[first].register_forward_pre_hook(self._put_in, with_kwargs=True))
        if not head:
            self._hooks.append(self.layers[last - 1].register_forward_hook(self._take_out))
        else:
            output = self.model.get_output_embeddings()
            assert output is not None
            self._hooks.append(output.register_forward_pre_hook(self._pick_rows))

    def disconnect(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def run(
        self, given: torch.Tensor, positions: torch.Tensor, sampled_rows: torch.Tensor, cache: Cache | None
    ) -> torch.Tensor:
        """One pass of the model, through the layers it was last connected for.

        Args:
            given: token ids [1, tokens] where the pass begins with the model itself, else hidden states
                [1, tokens, hidden].
            positions: [1, tokens].
            sampled_rows: [n], which tokens need logits; only looked at where there is a head.
            cache: what keeps keys and values; None for a prompt that nothing follows.

        Returns:
            Hidden states [1, tokens, hidden], or logits [1, n, vocabulary].
        """
        tokens = given
        if self._puts_in:
            tokens = torch.zeros_like(positions)
        before = _under_way.set(_Pass(given if self._puts_in else None, sampled_rows))
        try:
            output = self.model(
                input_ids=tokens,
                position_ids=positions,
                use_cache=cache is not None,
                **{self.anatomy.cache_argument: cache},
            )
        except Taken as taken:
            return taken.hidden
        finally:
            _under_way.reset(before)
        logits: torch.Tensor = output.logits
        return logits

    def close(self) -> None:
        """Let go of every weight now, whoever still holds the model or a part of it."""
        self.disconnect()
        for module in (self.model, *self.own.values()):
            dismantle(module)
        self.own, self.parents_of_gone = {}, []

    def _put_in(self, _layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        if args:
            return (self.hidden, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": self.hidden}

    def _take_out(self, _layer: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        raise Taken(output[0] if isinstance(output, tuple) else output)

    def _pick_rows(self, _head: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        passing = _under_way.get()
        if passing is None or passing.sampled_rows is None:
            return None
        # Some heads are given several streams, [1, streams, tokens, hidden].
        return (args[0].index_select(-2, passing.sampled_rows), *args[1:])


def dismantle(module: nn.Module) -> None:
    """Take weights, buffers and hooks out of a module and all below it.

    A model is full of cycles (hooks, bound methods), which a collection would free some time or other. Its weights are
    most of what an agent holds, so they are let go at once.
    """
    for each in module.modules():
        each._parameters.clear()
        each._buffers.clear()
        each._forward_hooks.clear()
        each._forward_pre_hooks.clear()
        for name in [name for name, value in vars(each).items() if isinstance(value, (torch.Tensor, Blocks))]:
            delattr(each, name)
        experts.let_go(each)


def describe(error: Exception) -> str:
    """An error of transformers' code in a line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__

"""One watched run of an empty model on torch's meta device: no weights, no arithmetic, only shapes.

Tells what runs before and after the decoder layers and in which order they do, what a layer returns, what it puts
into the KV cache and under which name the model takes that, which mask each attention works with, and whether
anything but the hidden states passes from one layer to another (`provenance.py`).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from worker_agent.model.outlined_attention import (
    FAR,
    MASKED_OUTLINE,
    OUTLINE,
    TROUBLE,
    SeenAttention,
    sees,
    watch_attention,
)
from worker_agent.model.provenance import HIDDEN, IDS, Provenance, mark, marks_of, tensors_in
from worker_agent.wire.errors import CannotSplit

TOKENS = 11
"""How many tokens the probe runs; no dimension of a real model is that small, and no convolution that wide."""

CACHE_ARGUMENTS = ("cache", "past_key_values", "cache_params")
"""Names under which models are known to take their cache, the newest first. Which one a model heeds is observed."""
CACHE_TYPE = re.compile(r"\b\w*Cache\b")
"""What the type of an argument says that takes a cache under a name that is not known yet."""


@dataclass
class Observation:
    """What was seen."""

    num_layers: int
    before: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Modules with weights of their own that ran before the first layer -> their output's shape after [1, tokens]."""
    after: dict[str, None] = field(default_factory=dict)
    """Modules with weights of their own that ran after the last layer, in order."""
    tuple_output: int = 0
    """How many values a layer returns as a tuple; 0: the hidden states alone."""
    cache_argument: str = ""
    """The name under which the model takes its cache."""
    kept: dict[int, int] = field(default_factory=dict)
    """Layer -> elements that one token puts into the cache, keys and values together, each time that it runs."""
    vectors: dict[int, int] = field(default_factory=dict)
    """Layer -> in how many vectors these lie, one of keys and one of values for each head."""
    guessed_rows: dict[int, int] = field(default_factory=dict)
    """The same where a layer could not run in outline, by what the config says of heads."""
    rows: dict[int, int] = field(default_factory=dict)
    """The same by the layers of the cache."""
    states: set[int] = field(default_factory=set)
    """Layers of the cache that hold something else besides, states of a fixed size for one."""
    besides: dict[int, int] = field(default_factory=dict)
    """Layer -> elements that one token puts into the cache besides keys and values, keys of an index for one."""
    state_elements: dict[int, int] = field(default_factory=dict)
    """Layer -> elements of a fixed size that a sequence keeps there, in the dtype that the model computes in."""
    state_bytes: dict[int, int] = field(default_factory=dict)
    """Layer -> bytes of a fixed size that a sequence keeps there, in whatever dtype."""
    attended: dict[int, int] = field(default_factory=dict)
    """Layer -> elements that one token brings to the attention function, for models that let it be replaced."""
    flows: set[tuple[int, int]] = field(default_factory=set)
    """(i, j): something that layer i made, besides the hidden states it gave to the next, went into layer j."""
    token_readers: set[int] = field(default_factory=set)
    """Layers that compute with something made from the token ids, besides the hidden states."""
    joints: set[int] = field(default_factory=set)
    """Layers whose hidden states are not as the layer before gave them: something is done in between."""
    lengths: dict[int, int] = field(default_factory=dict)
    """Layer -> how many vectors it is given where that is another number than that of the tokens."""
    forgotten: dict[int, int] = field(default_factory=dict)
    """Layer -> how many tokens its cache keeps, where its mask lets it see earlier ones."""
    wide: set[int] = field(default_factory=set)
    """Layers that are given something else than one vector of the hidden size for each token."""
    order: list[int] = field(default_factory=list)
    """Which layers ran, one after the other."""
    keepers: dict[str, str] = field(default_factory=dict)
    """Modules of layers that kept something of the tokens in an attribute of their own -> which attribute."""
    masks: dict[int, bool] = field(default_factory=dict)
    """Layer -> whether its attention sees what causality and the window that it is told of say; unknown: absent."""
    looks_ahead: bool = False
    """Whether some attention sees tokens that come later."""
    guessed: bool = False
    """Whether a layer could not run in outline, so that what it would do besides is not known."""

    @property
    def kv_elements(self) -> tuple[int, ...]:
        rows = {**self.guessed_rows, **self.kept}
        return tuple(rows.get(layer, 0) + self.besides.get(layer, 0) for layer in range(self.num_layers))

    @property
    def kv_besides(self) -> tuple[int, ...]:
        return tuple(self.besides.get(layer, 0) for layer in range(self.num_layers))

    @property
    def kv_vectors(self) -> tuple[int, ...]:
        return tuple(self.vectors.get(layer, 0) for layer in range(self.num_layers))


class _WatchedCache(DynamicCache):
    """Notes the size of what one token puts into the cache, by its layers and by the model's."""

    def __init__(self, config: Any, seen: Observation, provenance: Provenance) -> None:
        super().__init__(config=config)
        self._seen, self._provenance = seen, provenance
        self._owners: dict[int, int] = {}
        """Layer of the cache -> the model's layer that puts something there."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        size = (key_states.numel() + value_states.numel()) // TOKENS
        self._seen.rows[layer_idx] = size
        running = self._provenance.layer
        if running is not None:
            self._owners[layer_idx] = running
            self._seen.kept[running] = self._seen.kept.get(running, 0) + size
            vectors = sum(each.numel() // each.shape[-1] // TOKENS for each in (key_states, value_states))
            self._seen.vectors[running] = self._seen.vectors.get(running, 0) + vectors
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)

    def update_conv_state(self, conv_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> torch.Tensor:
        self._put_by(layer_idx)
        return super().update_conv_state(conv_states, layer_idx, *args, **kwargs)

    def update_recurrent_state(
        self, recurrent_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        self._put_by(layer_idx)
        return super().update_recurrent_state(recurrent_states, layer_idx, *args, **kwargs)

    def _put_by(self, index: int) -> None:
        if self._provenance.layer is not None:
            self._owners[index] = self._provenance.layer

    def note_besides(self, dtype: torch.dtype) -> None:
        """Note what the layers hold besides keys and values: what grows with the tokens, and what does not.

        Args:
            dtype: what the model computes in.
        """
        seen = self._seen
        for index, layer in enumerate(self.layers):
            besides = [value for name, value in vars(layer).items() if name not in ("keys", "values")]
            tensors = {id(each): each for each in tensors_in(besides)}
            if any(HIDDEN in marks_of(each) for each in tensors.values()):
                seen.states.add(index)
            owner = self._owners.get(index, min(index, seen.num_layers - 1))
            for each in tensors.values():
                if each.numel() < 2:
                    continue  # a length, not a state
                if TOKENS in each.shape:
                    seen.besides[owner] = seen.besides.get(owner, 0) + each.numel() // TOKENS
                elif each.dtype == dtype:
                    seen.state_elements[owner] = seen.state_elements.get(owner, 0) + each.numel()
                else:
                    seen.state_bytes[owner] = seen.state_bytes.get(owner, 0) + each.nbytes

    def guess_rows(self, config: Any) -> None:
        """Take keys and values of the config's heads for layers of attention that could not run in outline."""
        heads = getattr(config, "num_attention_heads", None) or 1
        groups = getattr(config, "num_key_value_heads", None) or heads
        width = getattr(config, "head_dim", None) or config.hidden_size // heads
        for index, layer in enumerate(self.layers[: self._seen.num_layers]):
            if isinstance(layer, DynamicLayer) and index not in self._seen.rows:
                self._seen.guessed_rows[index] = 2 * groups * width

    def window(self, layer: int) -> int | None:
        """How many tokens a layer keeps, if not all."""
        window = getattr(self.layers[layer], "sliding_window", None) if layer < len(self.layers) else None
        return window if isinstance(window, int) else None


def observe(model: PreTrainedModel, layers_path: str) -> Observation:
    """Run the model on meta tensors and watch.

    Raises:
        CannotSplit: the model cannot even be run in outline, or takes no cache.
    """
    layers = model.get_submodule(layers_path)
    assert isinstance(layers, nn.ModuleList)
    failures: list[str] = []
    unheeded: list[Observation] = []
    for cache_argument in _cache_arguments(model):
        seen = _observe(model, layers, layers_path, cache_argument, failures)
        if seen is not None and (seen.rows or seen.states):
            return seen
        unheeded += [seen] if seen is not None else []
    if unheeded:
        return unheeded[0]
    raise CannotSplit(f"'{model.config.model_type}' cannot be run in outline ({failures[0][:300]})")


def _observe(
    model: PreTrainedModel, layers: nn.ModuleList, layers_path: str, cache_argument: str, failures: list[str]
) -> Observation | None:
    """What is seen when the model is handed its cache under this name; None if it cannot run, and why in `failures`."""
    replaceable = bool(model._supports_attention_backend)
    for implementation in (OUTLINE, MASKED_OUTLINE) if replaceable else (None,):
        if implementation is not None:
            model.set_attn_implementation(implementation)
        # Most models take a mask of ones; some look into it, which an empty tensor does not allow.
        for masked, tuple_output in product((not replaceable, replaceable), (0, 1, 2, 3)):
            seen = Observation(len(layers), tuple_output=tuple_output, cache_argument=cache_argument)
            try:
                attention = _run(model, layers, layers_path, seen, masked)
            except TROUBLE as error:
                failures.append(f"{type(error).__name__}: {error}")
                continue
            if implementation == OUTLINE:
                seen.attended = attention.attended
                _look_at_masks(model, layers, layers_path, seen)
            return seen
    return None


def _cache_arguments(model: PreTrainedModel) -> list[str]:
    """Names under which a model may take its cache, the likeliest first. Raises CannotSplit if there is none."""
    known: list[str] = []
    typed: list[str] = []
    for module in (model, model.base_model):
        parameters = inspect.signature(module.forward).parameters
        known += [name for name in CACHE_ARGUMENTS if name in parameters]
        typed += [name for name, each in parameters.items() if CACHE_TYPE.search(str(each.annotation))]
    if names := list(dict.fromkeys(known + typed)):
        return names
    raise CannotSplit(
        f"'{model.config.model_type}' keeps nothing of earlier tokens in a cache that could be handed to it, so "
        "sequences cannot be continued token by token; choose another architecture"
    )


def _run(
    model: PreTrainedModel,
    layers: nn.ModuleList,
    layers_path: str,
    seen: Observation,
    masked: bool,
    *,
    every_operation: bool = True,
) -> SeenAttention:
    attention = watch_attention()
    tokens = torch.zeros(1, TOKENS, dtype=torch.long, device="meta")
    positions = torch.zeros_like(tokens)
    mark(tokens, {IDS})
    watching = _watching(model, layers, layers_path, seen)
    with torch.no_grad(), _steady_rotations(model), watching as provenance, ExitStack() as stack:
        if every_operation:
            stack.enter_context(provenance)
        cache = _WatchedCache(model.config, seen, provenance)
        model(
            input_ids=tokens,
            attention_mask=torch.ones_like(positions) if masked else None,
            position_ids=positions,
            use_cache=True,
            **{seen.cache_argument: cache},
        )
    cache.note_besides(model.dtype)
    if seen.guessed:
        cache.guess_rows(model.config.get_text_config(decoder=True))
    for layer, window in attention.windows.items():
        kept = cache.window(layer)
        if kept is not None and kept != window:
            attention.masks[layer] = False  # it looks at what is no longer kept
            if layer in attention.visible and sees(attention.visible[layer], FAR, FAR - kept):
                seen.forgotten[layer] = kept
    return attention


def _look_at_masks(model: PreTrainedModel, layers: nn.ModuleList, layers_path: str, seen: Observation) -> None:
    """Run once more with masks, which the first run goes without, as the ragged batch does."""
    other = Observation(seen.num_layers, tuple_output=seen.tuple_output, cache_argument=seen.cache_argument)
    model.set_attn_implementation(MASKED_OUTLINE)
    try:
        # Watching every operation once more takes long; only where a layer failed without a mask is there more to see.
        attention = _run(model, layers, layers_path, other, False, every_operation=seen.guessed)
    except TROUBLE:
        return  # it looks into its masks; the trial when a stage is loaded decides
    finally:
        model.set_attn_implementation(OUTLINE)
    seen.masks, seen.looks_ahead, seen.forgotten = attention.masks, attention.looks_ahead, other.forgotten
    # What a layer does with a mask that it cannot do without one is seen only now.
    seen.tuple_output, seen.kept = other.tuple_output, {**other.kept, **seen.kept}
    seen.vectors = {**other.vectors, **seen.vectors}
    seen.states |= other.states
    seen.besides = {**other.besides, **seen.besides}
    seen.state_elements = {**other.state_elements, **seen.state_elements}
    seen.state_bytes = {**other.state_bytes, **seen.state_bytes}
    seen.flows |= other.flows
    seen.token_readers |= other.token_readers
    seen.keepers.update(other.keepers)


@contextmanager
def _steady_rotations(model: PreTrainedModel) -> Iterator[None]:
    """Keep rotary embeddings from looking at how long the sequence is: positions on meta have no values.

    Those of the types dynamic and longrope do (`transformers.modeling_rope_utils.dynamic_rope_update`), and keep
    what they have made of it.
    """
    changed = [(module, module.rope_type) for module in model.modules() if hasattr(module, "rope_type")]
    for module, kind in changed:
        fixed = dict.fromkeys(kind, "default") if isinstance(kind, dict) else "default"
        module.rope_type = fixed  # type: ignore[assignment]  # a module's attributes are typed as tensors
    try:
        yield
    finally:
        for module, kind in changed:
            module.rope_type = kind


@contextmanager
def _watching(
    model: PreTrainedModel, layers: nn.ModuleList, layers_path: str, seen: Observation
) -> Iterator[Provenance]:
    handles: list[RemovableHandle] = []
    started = finished = False
    provenance = Provenance()
    given: torch.Tensor | None = None  # the hidden states that the last layer gave
    width = model.config.get_text_config(decoder=True).hidden_size

    def watch(name: str, module: nn.Module) -> None:
        def ran(_module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            if not started and isinstance(tensor, torch.Tensor):
                seen.before[name] = tuple(tensor.shape[2:]) if tensor.dim() > 2 else tuple(tensor.shape[-1:])
                for each in tensors_in(output):
                    # What an embedding gives is not there on later stages, even if no token id went in.
                    mark(each, marks_of(each) | {IDS})
            elif finished:
                seen.after[name] = None

        handles.append(module.register_forward_hook(ran))

    for name, module in model.named_modules():
        inside = name.startswith(layers_path + ".")
        if not inside and any(True for _ in module.parameters(recurse=False)):
            watch(name, module)

    states = _states(layers)
    outlined = [(module, module.forward) for layer in layers for module in layer.modules() if module is not layer]
    originals = [layer.forward for layer in layers]

    def outline(index: int) -> Any:
        def forward(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            nonlocal started, finished, given
            if started and hidden_states is not given:
                seen.joints.add(index)
                seen.flows |= {(other, index) for kind, other in marks_of(hidden_states) if kind in ("layer", "after")}
            if tuple(hidden_states.shape) != (1, TOKENS, width):
                seen.wide.add(index)
            if TOKENS not in hidden_states.shape:
                seen.lengths[index] = hidden_states.shape[-2]
            started = True
            seen.order.append(index)
            with provenance.inside(index, hidden_states):
                try:
                    output = originals[index](hidden_states, *args, **kwargs)
                    seen.tuple_output = len(output) if isinstance(output, tuple) else 0
                except TROUBLE:
                    # On meta a data-dependent step cannot run; what it would return is known all the same.
                    seen.guessed = True
                    output = torch.empty_like(hidden_states)
                    if seen.tuple_output:
                        output = (output, *[None] * (seen.tuple_output - 1))
            given = output[0] if isinstance(output, tuple) else output
            mark(given, {("after", index)})
            finished = index == len(layers) - 1
            provenance.ended = index if finished else None
            return output

        return forward

    for module, original in outlined:
        module.forward = _or_its_shape(original)
    for index, layer in enumerate(layers):
        layer.forward = outline(index)
    try:
        yield provenance
    finally:
        for module in {id(each): each for each in [*layers, *(module for module, _ in outlined)]}.values():
            del module.forward  # the instance attribute; the class's own method shows again
        for handle in handles:
            handle.remove()
        seen.flows |= provenance.flows
        seen.token_readers |= provenance.token_readers
        _put_back(layers, states, seen)


def _or_its_shape(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A module's forward; where it depends on numbers, as a choice of experts does, something of its input's shape."""

    def outlined(*args: Any, **kwargs: Any) -> Any:
        try:
            return forward(*args, **kwargs)
        except (RuntimeError, NotImplementedError):
            first = next(tensors_in((args, kwargs)), None)
            if first is None or not first.is_floating_point():
                raise
            return torch.empty_like(first)

    return outlined


_States = dict[str, dict[str, Any]]


def _states(layers: nn.ModuleList) -> _States:
    """What the layers' modules hold besides weights and submodules."""
    return {name: dict(vars(module)) for name, module in layers.named_modules()}


def _put_back(layers: nn.ModuleList, states: _States, seen: Observation) -> None:
    """Undo what the run left in attributes of modules, and note it where it was made from the tokens."""
    for name, module in layers.named_modules():
        before = states[name]
        for attribute, value in list(vars(module).items()):
            changed = [
                each for each in tensors_in(value) if all(each is not old for old in tensors_in(before.get(attribute)))
            ]
            if any(HIDDEN in marks_of(each) for each in changed):
                seen.keepers[name] = attribute
            if value is not before.get(attribute) and list(tensors_in(value)):
                if attribute in before:
                    vars(module)[attribute] = before[attribute]
                else:
                    del vars(module)[attribute]

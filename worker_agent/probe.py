"""One watched run of an empty model on torch's meta device: no weights, no arithmetic, only shapes.

Tells what runs before and after the decoder layers, what a layer returns, what it puts into the KV cache
and whether tensors other than the hidden states pass from one layer to another.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformers import AttentionInterface, DynamicCache, PreTrainedModel

from worker_agent.errors import CannotSplit

TOKENS = 3
"""How many tokens the probe runs; no dimension of a real model is that small."""


@dataclass
class Observation:
    """What was seen."""

    num_layers: int
    before: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Modules with weights of their own that ran before the first layer -> their output's shape after [1, tokens]."""
    after: dict[str, None] = field(default_factory=dict)
    """Modules with weights of their own that ran after the last layer, in order."""
    tuple_output: bool = False
    kv: dict[int, int] = field(default_factory=dict)
    """Layer -> elements that one token puts into the cache, keys and values together."""
    attended: dict[int, int] = field(default_factory=dict)
    """Layer -> elements that one token brings to the attention function, for models that let it be replaced."""
    flows: set[tuple[int, int]] = field(default_factory=set)
    """(i, j): a tensor that layer i made, besides its hidden states, went into layer j."""

    @property
    def kv_elements(self) -> tuple[int, ...]:
        return tuple(self.kv.get(layer, 0) for layer in range(self.num_layers))


class _WatchedCache(DynamicCache):
    """Notes the size of what one token puts into each layer's cache."""

    def __init__(self, config: Any, seen: dict[int, int]) -> None:
        super().__init__(config=config)
        self._seen = seen

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        self._seen[layer_idx] = (key_states.numel() + value_states.numel()) // TOKENS
        return super().update(key_states, value_states, layer_idx, *args, **kwargs)


_attended: dict[int, int] = {}


def _outline_attention(
    module: nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_args: Any, **_kwargs: Any
) -> tuple[torch.Tensor, None]:
    """Stands in for attention: notes what it was given and returns the right shape, [1, tokens, heads, width]."""
    layer = getattr(module, "layer_idx", None)
    if layer is not None:
        _attended[layer] = (key.numel() + value.numel()) // key.shape[2]
    return query.new_empty(query.shape[0], query.shape[2], query.shape[1], value.shape[-1]), None


AttentionInterface.register("shardboard_outline", _outline_attention)


def observe(model: PreTrainedModel, layers_path: str) -> Observation:
    """Run the model once on meta tensors and watch.

    Raises:
        CannotSplit: the model cannot even be run in outline.
    """
    layers = model.get_submodule(layers_path)
    assert isinstance(layers, nn.ModuleList)
    replaceable = bool(model._supports_attention_backend)
    if replaceable:
        model.set_attn_implementation("shardboard_outline")
    failures: list[str] = []
    # Most models take a mask of ones; some look into it, which an empty tensor does not allow.
    for masked, tuple_output in (
        (not replaceable, False),
        (not replaceable, True),
        (replaceable, False),
        (replaceable, True),
    ):
        seen = Observation(num_layers=len(layers), tuple_output=tuple_output)
        _attended.clear()
        try:
            with _steady_rotations(model), _watching(model, layers, layers_path, seen), torch.no_grad():
                tokens = torch.zeros(1, TOKENS, dtype=torch.long, device="meta")
                model(
                    input_ids=tokens,
                    attention_mask=torch.ones_like(tokens) if masked else None,
                    position_ids=torch.zeros_like(tokens),
                    past_key_values=_WatchedCache(model.config, seen.kv),
                    use_cache=True,
                )
            seen.attended = dict(_attended)
            return seen
        except (
            RuntimeError,
            TypeError,
            ValueError,
            AttributeError,
            IndexError,
            KeyError,
            NotImplementedError,
        ) as error:
            failures.append(f"{type(error).__name__}: {error}")
    raise CannotSplit(f"'{model.config.model_type}' cannot be run in outline ({failures[0][:300]})")


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
def _watching(model: PreTrainedModel, layers: nn.ModuleList, layers_path: str, seen: Observation) -> Iterator[None]:
    handles: list[RemovableHandle] = []
    started = finished = False
    made_by: dict[int, int] = {}
    kept: list[torch.Tensor] = []  # keeps ids unique while the probe runs

    def watch(name: str, module: nn.Module) -> None:
        def ran(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
            tensor = output[0] if isinstance(output, tuple) else output
            if not started and isinstance(tensor, torch.Tensor):
                seen.before[name] = tuple(tensor.shape[2:]) if tensor.dim() > 2 else tuple(tensor.shape[-1:])
            elif finished:
                seen.after[name] = None

        handles.append(module.register_forward_hook(ran))

    for name, module in model.named_modules():
        inside = name.startswith(layers_path + ".")
        if not inside and any(True for _ in module.parameters(recurse=False)):
            watch(name, module)

    originals = [layer.forward for layer in layers]

    def outline(index: int) -> Any:
        def forward(hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            nonlocal started, finished
            started = True
            for tensor in _tensors((args, kwargs)):
                if id(tensor) in made_by:
                    seen.flows.add((made_by[id(tensor)], index))
            try:
                output = originals[index](hidden_states, *args, **kwargs)
                seen.tuple_output = isinstance(output, tuple)
            except (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError):
                # On meta a data-dependent step cannot run; what it would return is known all the same.
                output = (hidden_states,) if seen.tuple_output else hidden_states
            for tensor in _tensors(output):
                kept.append(tensor)
                if tensor is not (output[0] if isinstance(output, tuple) else output):
                    made_by[id(tensor)] = index
            finished = index == len(layers) - 1
            return output

        return forward

    for index, layer in enumerate(layers):
        layer.forward = outline(index)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward  # the instance attribute; the class's own method shows again
        for handle in handles:
            handle.remove()


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from _tensors(item)
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)

"""The state of a sequence that has a pass of its own: transformers' own cache, whatever its layers keep in it."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Iterator
from typing import Any, cast

import torch
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from worker_agent.engine.memory.rows import from_int8, in_int8
from worker_agent.engine.memory.states import Exported, SequenceState, check_cut
from worker_agent.wire.errors import OutOfStep

_PLAIN = "plain"
"""The name under which everything that is no tensor is exported, as JSON."""
_SAME = "same"
"""There: the name of the tensor that this one is (some layers keep one for keys and values)."""


class OwnCache(DynamicCache):
    """transformers' own cache for one sequence, told how long the sequence is.

    Layers of other stages never fill here; asked for their length, the cache answers as if they had.
    """

    def __init__(self, config: PreTrainedConfig, owned: Collection[int]) -> None:
        super().__init__(config=config)
        self.owned = sorted(owned)
        self.length = 0
        """Tokens that every owned layer has seen."""

    def _stand_in(self, layer: int) -> int | None:
        """An owned layer of the same kind (sliding or full) as `layer`, if there is one."""
        if layer in self.owned:
            return layer
        if layer < len(self.layers):
            for other in self.owned:
                if other < len(self.layers) and type(self.layers[other]) is type(self.layers[layer]):
                    return other
        return None

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        stand_in = self._stand_in(layer_idx)
        if stand_in is None or stand_in >= len(self.layers):
            return self.length + query_length, 0
        return super().get_mask_sizes(query_length, stand_in)

    def crop(self, tokens: int) -> None:
        """Forget the last `-tokens` tokens, of which a layer must still have all that came before."""
        for layer in self.kept():
            layer.crop(tokens)

    def kept(self) -> list[Any]:
        """What owned layers keep."""
        return [self.layers[index] for index in self.indices()]

    def indices(self) -> list[int]:
        """The owned layers that have something to keep."""
        return [index for index in self.owned if index < len(self.layers)]


NAMES = {"keys": "keys_scales", "values": "values_scales"}
"""What a layer of transformers' caches calls keys and values, and what their scales are called beside them."""


class Int8Cache(OwnCache):
    """The same with keys and values in int8 between their uses; a token sees its own as they are kept, too.

    The layers are transformers' own. Between passes they have the codes where they keep keys and values, in the same
    shape, [1, heads, tokens, width], so that they know how long they are and are cut back as ever; the scales lie
    beside them, as attributes of the layer. While a layer works it has floats, of this layer alone. What they keep
    besides keys and values stays as it is.
    """

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        while self.layer_class_to_replicate is not None and len(self.layers) <= layer_idx:
            self.layers.append(self.layer_class_to_replicate())
        layer = self.layers[layer_idx]
        given, kept = [], {}
        for (name, scaled), states in zip(NAMES.items(), (key_states, value_states), strict=True):
            codes, scales = in_int8(_vectors(states))
            given.append(from_int8(codes, scales, states.dtype).view_as(states))
            codes = codes.view_as(states)
            if (held := getattr(layer, name)) is not None:
                held_scales = getattr(layer, scaled)
                setattr(layer, name, from_int8(_vectors(held), held_scales, states.dtype).view_as(held))
                codes, scales = torch.cat((held, codes), dim=-2), torch.cat((held_scales, scales), dim=1)
            kept[name] = codes, scales
        keys, values = given
        found = super().update(keys, values, layer_idx, *args, **kwargs)
        for name, (codes, scales) in kept.items():
            stored = getattr(layer, name)
            length = stored.shape[-2]
            if stored.shape != codes.shape:  # a window keeps the last ones
                codes, scales = codes[..., -length:, :].clone(), scales[:, -length:].clone()
            if stored.shape != codes.shape:
                raise OutOfStep(f"layer {layer_idx} keeps something else than the {name} that it is given")
            setattr(layer, name, codes)
            setattr(layer, NAMES[name], scales)
        return found

    def crop(self, tokens: int) -> None:
        super().crop(tokens)
        for layer in self.kept():
            for name, scaled in NAMES.items():
                if (scales := getattr(layer, scaled, None)) is not None:
                    setattr(layer, scaled, scales[:, : getattr(layer, name).shape[-2]])

    def check(self) -> None:
        """Raises OutOfStep where a layer has got keys or values without being given them by `update`."""
        for index in self.indices():
            for name in NAMES:
                kept = getattr(self.layers[index], name, None)
                if isinstance(kept, torch.Tensor) and kept.dtype != torch.int8:
                    raise OutOfStep(f"layer {index} fills its {name} by itself")


class RoundedCache(OwnCache):
    """Keys and values as they are computed, rounded to what they mean in int8: what `Int8Cache` is compared with."""

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = (
            from_int8(*in_int8(_vectors(each)), each.dtype).view_as(each) for each in (key_states, value_states)
        )
        return super().update(keys, values, layer_idx, *args, **kwargs)


def _vectors(states: torch.Tensor) -> torch.Tensor:
    """Keys or values of a sequence, [1, heads, tokens, width] or without heads, as [heads, tokens, width]."""
    return states.flatten(0, -3)


class OwnState(SequenceState):
    """What each layer keeps: keys and values, a window of them, a recurrent state.

    Args:
        kept: how the cache keeps keys and values.
        device: where what is imported belongs; it may have been written down on another one.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        owned: Collection[int],
        kept: type[OwnCache] = OwnCache,
        device: torch.device | None = None,
    ) -> None:
        super().__init__()
        self.cache = kept(config, owned)
        self._device = device or torch.device("cpu")

    @property
    def length(self) -> int:  # the cache must know it, too
        return self.cache.length

    @length.setter
    def length(self, length: int) -> None:
        self.cache.length = length

    @property
    def nbytes(self) -> int:
        kept = (value for layer in self.cache.layers for _, value in _walk("", vars(layer)))
        tensors = (each for each in kept if isinstance(each, torch.Tensor) and each.device.type != "meta")
        return sum({_place(each): each.nbytes for each in tensors}.values())

    def can_be_cut(self, length: int) -> bool:
        return length == self.length or all(self._remembers_all(layer) for layer in self.cache.kept())

    def _remembers_all(self, layer: Any) -> bool:
        """Whether a layer can show again what it showed before: it is no window that has moved on, has no recurrence
        or convolution, and is cut back by the class that fills it, which knows all that it keeps."""
        if isinstance(layer, LinearAttentionCacheLayerMixin) or not getattr(layer, "is_croppable", False):
            return False
        kinds = type(layer).__mro__
        fills, cuts = (next(at for at, kind in enumerate(kinds) if name in vars(kind)) for name in ("update", "crop"))
        if cuts > fills:
            return False
        return not getattr(layer, "is_sliding", False) or self.length < layer.sliding_window

    def truncate(self, length: int) -> None:
        check_cut(self, length)
        if length == self.length:
            return
        self.cache.crop(length - self.length)
        self.length = length

    def copy_from(self, other: SequenceState, length: int) -> None:
        check_cut(other, length)
        other = cast(OwnState, other)
        self.cache.layers = copy.deepcopy(other.cache.layers)
        self.length = other.length
        self.truncate(length)

    def exported(self, start: int = 0, end: int | None = None) -> Exported:
        found: Exported = {}
        plain: dict[str, Any] = {}
        named: dict[tuple[Any, ...], str] = {}
        storages: set[int] = set()
        for index in self.cache.indices():
            for name, value in _walk(f"{index}", vars(self.cache.layers[index])):
                if not isinstance(value, torch.Tensor):
                    plain[name] = _named(value)
                elif value.numel() and (other := named.setdefault(_place(value), name)) != name:
                    plain[name] = {_SAME: other}
                else:
                    kept = value.contiguous()
                    storage = kept.untyped_storage().data_ptr()
                    # No two of what is written down may lie in the same memory.
                    found[name] = kept.clone() if storage in storages else kept
                    storages.add(storage)
        found[_PLAIN] = torch.frombuffer(bytearray(json.dumps(plain).encode()), dtype=torch.uint8)
        return found

    def imported(self, tensors: Exported, length: int) -> None:
        try:
            plain = json.loads(tensors[_PLAIN].cpu().numpy().tobytes())
            copied = {name: each.to(self._device, copy=True) for name, each in tensors.items() if name != _PLAIN}
            values = {name: self._value(value, copied) for name, value in plain.items()} | copied
        except (KeyError, ValueError) as error:
            raise OutOfStep("what was exported is no state of this kind") from error
        in_int8 = any(name.partition("/")[2] in NAMES.values() for name in tensors)
        if any(name.partition("/")[2] in NAMES for name in tensors) and in_int8 != isinstance(self.cache, Int8Cache):
            raise OutOfStep("what was exported has keys and values in other numbers than this stage keeps")
        for name, value in values.items():
            index, attribute, *key = name.split("/")
            while len(self.cache.layers) <= int(index):
                assert self.cache.layer_class_to_replicate is not None
                self.cache.layers.append(self.cache.layer_class_to_replicate())
            layer = self.cache.layers[int(index)]
            if not key:
                setattr(layer, attribute, value)
            else:
                holder = getattr(layer, attribute)
                holder[int(key[0]) if isinstance(holder, list) or key[0].lstrip("-").isdigit() else key[0]] = value
        self.length = length

    def _value(self, value: Any, tensors: Exported) -> Any:
        """What was written down as JSON; a device is the one that this state is on."""
        if not isinstance(value, dict):
            return value
        if _SAME in value:
            return tensors[value[_SAME]]
        return getattr(torch, value["dtype"]) if "dtype" in value else self._device

    def release(self) -> None:
        self.cache.layers.clear()


def _walk(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Everything below, by its path; `/` parts its steps. Raises OutOfStep for what nobody could write down."""
    if isinstance(value, dict):
        for key, each in value.items():
            yield from _walk(f"{path}/{key}" if path else f"{key}", each)
    elif isinstance(value, (list, tuple)):
        for place, each in enumerate(value):
            yield from _walk(f"{path}/{place}", each)
    else:
        yield path, value


def _named(value: Any) -> Any:
    if isinstance(value, (torch.dtype, torch.device)):
        return {type(value).__name__: str(value).removeprefix("torch.")}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise OutOfStep(f"a {type(value).__name__} in the state of a layer cannot be written down")


def _place(tensor: torch.Tensor) -> tuple[Any, ...]:
    """Where its numbers are: two tensors with the same are one."""
    return tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()

"""The state of a sequence that has a pass of its own: transformers' own cache, whatever its layers keep in it."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Iterator
from typing import Any, cast

import torch
from transformers import DynamicCache, PreTrainedConfig

from worker_agent.engine.memory.states import Exported, SequenceState, check_cut
from worker_agent.wire.errors import OutOfStep

_PLAIN = "plain"
"""The name under which everything that is no tensor is exported, as JSON."""


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


class OwnState(SequenceState):
    """What each layer keeps: keys and values, a window of them, a recurrent state."""

    def __init__(self, config: PreTrainedConfig, owned: Collection[int]) -> None:
        super().__init__()
        self.cache = OwnCache(config, owned)

    @property
    def length(self) -> int:  # the cache must know it, too
        return self.cache.length

    @length.setter
    def length(self, length: int) -> None:
        self.cache.length = length

    @property
    def nbytes(self) -> int:
        return sum(
            tensor.nbytes
            for layer in self.cache.layers
            for _, tensor in _walk("", vars(layer))
            if isinstance(tensor, torch.Tensor) and tensor.device.type != "meta"
        )

    def can_be_cut(self, length: int) -> bool:
        return length == self.length or all(self._remembers_all(layer) for layer in self._layers())

    def _remembers_all(self, layer: Any) -> bool:
        """Whether a layer can show again what it showed before: it is no window that has moved on, nor a recurrence."""
        if getattr(layer, "is_sliding", False):
            return self.length < layer.sliding_window  # type: ignore[no-any-return]
        return getattr(layer, "is_croppable", False) and not hasattr(layer, "record_past")

    def truncate(self, length: int) -> None:
        check_cut(self, length)
        if length == self.length:
            return
        for layer in self._layers():
            layer.crop(length - self.length)
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
        for index in self._indices():
            for name, value in _walk(f"{index}", vars(self.cache.layers[index])):
                if isinstance(value, torch.Tensor):
                    found[name] = value.contiguous()
                else:
                    plain[name] = _named(value)
        found[_PLAIN] = torch.frombuffer(bytearray(json.dumps(plain).encode()), dtype=torch.uint8)
        return found

    def imported(self, tensors: Exported, length: int) -> None:
        try:
            plain = json.loads(tensors[_PLAIN].numpy().tobytes())
            values = {name: _value(value) for name, value in plain.items()}
        except (KeyError, ValueError) as error:
            raise OutOfStep("what was exported is no state of this kind") from error
        values |= {name: tensor for name, tensor in tensors.items() if name != _PLAIN}
        for name, value in values.items():
            index, attribute, *key = name.split("/")
            while len(self.cache.layers) <= int(index):
                assert self.cache.layer_class_to_replicate is not None
                self.cache.layers.append(self.cache.layer_class_to_replicate())
            layer = self.cache.layers[int(index)]
            if isinstance(value, torch.Tensor):
                value = value.clone()
            if not key:
                setattr(layer, attribute, value)
            else:
                holder = getattr(layer, attribute)
                holder[int(key[0]) if isinstance(holder, list) or key[0].lstrip("-").isdigit() else key[0]] = value
        self.length = length

    def release(self) -> None:
        self.cache.layers.clear()

    def _indices(self) -> list[int]:
        return [index for index in self.cache.owned if index < len(self.cache.layers)]

    def _layers(self) -> list[Any]:
        return [self.cache.layers[index] for index in self._indices()]


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


def _value(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return getattr(torch, value["dtype"]) if "dtype" in value else torch.device(value["device"])

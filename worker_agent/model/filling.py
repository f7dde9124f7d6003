"""Putting a stage's tensors into its model: transformers' own conversion, a layer at a time, or the ends.

Checkpoint names, fused experts and split matrices are transformers' matter; what is not stored but computed
(masks, frequencies) is initialised by the model's own code.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightRenaming,
    convert_and_load_state_dict_in_model,
    rename_source_key,
)
from transformers.initialization import guard_torch_init_functions
from transformers.modeling_utils import LoadStateDictConfig
from transformers.utils.loading_report import LoadStateDictInfo
from transformers.utils.logging import disable_progress_bar

from worker_agent.model.linears.blocks import building, experts, reading
from worker_agent.model.linears.blocks.formats import Blocks
from worker_agent.model.linears.blocks.reading import LazyBlocks, Quantizer
from worker_agent.model.slicing import FAULTS, Slice, describe
from worker_agent.model.ways import Tally
from worker_agent.store.lazy_tensors import LazyTensor, tensors_of
from worker_agent.wire.errors import AgentError, BadWeights, CannotSplit
from worker_agent.wire.messages import Part, Quantize

disable_progress_bar()  # one bar for each layer, on the standard error of a process without a terminal


def weight_bytes(parts: Sequence[Part], dtype: torch.dtype, quantize: Quantize = "none") -> int:
    """Bytes that the parts take once loaded in `dtype`."""
    return sum(
        tensor.loaded_bytes(dtype.itemsize, quantize, in_layer=part.kind == "layer")
        for part in parts
        for tensor in part.tensors
    )


Lazy = LazyTensor | LazyBlocks


class ByteCounter:
    """Adds up bytes read, from any thread, and reports them."""

    def __init__(self, parts: Sequence[Part], progress: Callable[[int, int], None]) -> None:
        self._total, self._done = sum(part.nbytes for part in parts), 0
        self._lock, self._progress = threading.Lock(), progress

    def __call__(self, count: int) -> None:
        with self._lock:
            self._done = min(self._total, self._done + count)  # a layer may be read twice
            done = self._done
        self._progress(done, self._total)


class Source:
    """The stage's tensors on disk: those of each layer, and those of its ends."""

    def __init__(
        self,
        model: PreTrainedModel,
        parts: tuple[Part, ...],
        part_path: Callable[[str], Path],
        on_read: Callable[[int], None],
    ) -> None:
        self._parts, self._part_path, self._on_read = parts, part_path, on_read
        self.conversions = get_model_conversion_mapping(model)

    def name_in_model(self, stored: str) -> str:
        """What a tensor of this name in the files is called in the model."""
        renamings = [entry for entry in self.conversions if isinstance(entry, WeightRenaming)]
        return rename_source_key(stored, renamings, [])[0]

    def ends(self) -> dict[str, Lazy]:
        return self._of(part for part in self._parts if part.kind != "layer")

    def layer(self, index: int) -> dict[str, Lazy]:
        return self._of(part for part in self._parts if part.kind == "layer" and part.index == index)

    def _of(self, parts: Iterable[Part]) -> dict[str, Lazy]:
        stored = tensors_of(tuple(parts), self._part_path, self._on_read)
        return {name: reading.loadable(tensor) for name, tensor in stored}


class Filler:
    """Fills one slice of a model from a source."""

    def __init__(
        self, cut: Slice, source: Source, device: torch.device, dtype: torch.dtype, quantize: Quantize = "none"
    ) -> None:
        self._cut, self._source, self._device, self._dtype = cut, source, device, dtype
        self._model, self._anatomy = cut.model, cut.anatomy
        self.quantizer = Quantizer(quantize, _experts(cut.model))
        self.unfolded: dict[str, str] = {}
        """Tensors that came in blocks and stand as floats in the model, by their names in the files, and why."""
        self._reckoned: dict[int, int] = {}
        self._extra: dict[int | None, int] = {}
        """Of each layer, and of the ends (None), how much more they take than `weight_bytes` says."""

    @property
    def extra_bytes(self) -> int:
        """By how much what was counted is more than `weight_bytes` says: what cannot stay in blocks."""
        return sum(self._extra.values())

    def ends(self) -> None:
        """Everything but the layers, which do not stand in the model now. Raises BadWeights."""
        model, cut = self._model, self._cut
        state, wanted = self._source.ends(), model.state_dict()
        renamed = {self._source.name_in_model(stored): stored for stored in state}
        for target, source in self._anatomy.tied:
            # A tied tensor is stored once, under either name; the stage may have only the other end.
            for other, standing in ((target, source), (source, target)):
                if other in renamed and other not in wanted and standing in wanted:
                    state[standing] = state.pop(renamed[other])
        info, settings = self._convert(state)
        # Of two tied ends the files may hold either; transformers then ties the other one to it.
        pairs = [set(pair) for pair in model.all_tied_weights_keys.items()]
        filled = {name for pair in pairs if not pair <= info.missing_keys for name in pair}
        missing = self._really_missing(info.missing_keys - filled)
        if missing:
            raise BadWeights(f"{len(missing)} tensors are missing, {sorted(missing)[0]} for one")
        for parent in cut.parents_of_gone:
            # transformers would initialise children that are not there; what has tensors of its own it must see.
            if not [*parent.parameters(recurse=False), *parent.buffers(recurse=False)]:
                parent._is_hf_initialized = True  # type: ignore[assignment]  # a flag of transformers' own
        try:
            with cut.standing_alone():
                model._finalize_model_loading(model, settings, info)
        except FAULTS as error:
            kind = self._anatomy.model_type
            raise CannotSplit(f"'{kind}' cannot be prepared without its layers ({describe(error)})") from error
        if cut.is_last and not cut.is_first:
            self._as_the_embedding()
        model.eval()
        self._check_whole(model, "")
        self._attach(model, "", state)

    def _as_the_embedding(self) -> None:
        """Do to a tied head alone what transformers does to the embedding that it would be (Youtu clears a row)."""
        embedding, head = self._cut.embedding, self._model.get_output_embeddings()
        if not self._cut.anatomy.tied or type(head) is not nn.Linear or embedding.weight.shape != head.weight.shape:
            return
        head.weight._is_hf_initialized = True  # type: ignore[attr-defined]  # loaded: not to be made anew
        embedding.weight = head.weight
        with torch.no_grad(), guard_torch_init_functions():
            self._owner()._initialize_weights(embedding)
        embedding.weight = nn.Parameter(torch.empty(0), requires_grad=False)

    def layer(self, index: int) -> nn.Module:
        """One layer, which alone stands in the model then. Raises BadWeights."""
        layer, prefix = self._cut.own[index], f"{self._anatomy.layers_path}.{index}."
        self._cut.place(index)
        state = self._source.layer(index)
        turned = experts.turned(layer)
        for stored, lazy in state.items():
            if isinstance(lazy, LazyBlocks) and self._source.name_in_model(stored).removeprefix(prefix) in turned:
                lazy.turn()
        info, _ = self._convert(state)
        missing = self._really_missing(name for name in info.missing_keys if name.startswith(prefix))
        if missing:
            raise BadWeights(f"{len(missing)} tensors are missing, {sorted(missing)[0]} for one")
        for module in layer.modules():
            for name, buffer in module.named_buffers(recurse=False):
                if buffer.is_meta:
                    # What is not computed below must not pass for numbers.
                    unknown = torch.nan if buffer.is_floating_point() else 0
                    module._buffers[name] = torch.full_like(buffer, unknown, device=self._device)
        with torch.no_grad(), guard_torch_init_functions():
            # What is computed rather than stored (masks, frequencies); weights that were loaded are left alone.
            owner = self._owner()
            layer.smart_apply(owner._initialize_weights, False)  # type: ignore[operator]
            if any(bool(buffer.isnan().any()) for buffer in layer.buffers() if buffer.is_floating_point()):
                # What no module of the layer has made itself, the model that holds it may make (Falcon-H1).
                with self._cut.standing_alone(index):
                    owner._init_weights(owner)
        layer.eval()
        self._check_whole(layer, prefix)
        self._attach(layer, prefix, state)
        self.quantizer.quantize(layer)
        item, quantize = self._dtype.itemsize, self.quantizer.wanted
        self._reckoned[index] = sum(
            lazy.described.loaded_bytes(item, quantize, in_layer=True) for lazy in state.values()
        )
        return layer

    def count(self, index: int) -> None:
        """Take down by how much a layer, as it was laid out, is more than what was reckoned with."""
        self._extra[index] = reading.held_bytes(self._cut.own[index]) - self._reckoned[index]

    def count_ends(self, more: int) -> None:
        """Take down by how much what stands at the ends is more than the blocks that it came in."""
        self._extra[None] = more

    def _attach(self, module: nn.Module, prefix: str, state: dict[str, Lazy]) -> None:
        """Note which matrices below `module` are stored in blocks; what became of others by conversion stays floats."""
        tied = dict(self._model.all_tied_weights_keys)
        tied |= {source: target for target, source in tied.items()}
        left: dict[str, Blocks] = {}
        for stored, lazy in state.items():
            if not isinstance(lazy, LazyBlocks):
                continue
            name, blocks = self._source.name_in_model(stored), lazy.blocks
            wanted = [each for each in (name, tied.get(name, "")) if each.startswith(prefix) and each]
            done = False
            for each in wanted:
                path, _, leaf = each.removeprefix(prefix).rpartition(".")
                try:
                    owner = module.get_submodule(path)
                except AttributeError:
                    continue
                done |= blocks is not None and leaf == "weight" and reading.attach(owner, blocks)
            lazy.blocks = None
            if not done and blocks is not None:
                left[stored] = blocks
        for each in [owner for owner in module.modules() if left and experts.has_experts(owner)]:
            for stored in experts.attach(each, left):
                del left[stored]
        for stored in left:
            self.unfolded[stored] = f"{stored} became another tensor of the model than the file has"

    def tell(self, tally: Tally) -> None:
        """Add to the tally of matrices in blocks those that could not stay so and how much more they take, what
        quantizing cost, and why they are slow if they are.
        """
        for why in self.unfolded.values():
            tally.lost(why)
        costs = [tally.why] if tally.why else []
        if tally.taken < tally.possible and (more := self.extra_bytes) > 0:
            costs.insert(0, f"{more / 1e6:,.0f} MB more" if more >= 1e6 else f"{more / 1e3:,.0f} kB more")
        if error := self.quantizer.error:
            costs.append(
                f"{self.quantizer.wanted}, which changed the weights by {100 * error:.2g} % of their size (RMS)"
            )
        if tally.taken and (slow := building.why_not()):
            costs.append(f"multiplied without compiled kernels, much slower: {slow}")
        tally.why = "; ".join(costs)

    def _owner(self) -> PreTrainedModel:
        """The innermost of transformers' models that holds the layers: it knows how to initialise them."""
        found, path = self._model, self._anatomy.layers_path.split(".")
        for depth in range(1, len(path)):
            module = self._model.get_submodule(".".join(path[:depth]))
            found = module if isinstance(module, PreTrainedModel) else found
        return found

    def _convert(self, state: dict[str, Lazy]) -> tuple[LoadStateDictInfo, LoadStateDictConfig]:
        settings = LoadStateDictConfig(
            dtype=self._dtype,
            dtype_plan=self._model._get_dtype_plan(self._dtype),
            device_map={"": self._device},
            weight_mapping=self._source.conversions,  # type: ignore[arg-type]  # its two kinds, loosely typed
        )
        try:
            info, _ = convert_and_load_state_dict_in_model(self._model, state, settings)
        except AgentError:
            raise
        except (RuntimeError, ValueError, KeyError) as error:
            raise BadWeights(f"the weights cannot be put into the model: {error}") from error
        if info.conversion_errors or info.mismatched_keys:
            faults = [*info.conversion_errors, *info.mismatched_keys][:3]
            raise BadWeights(f"the weights do not fit the model: {faults}")
        return info, settings

    def _really_missing(self, names: Iterable[str]) -> list[str]:
        ignored = tuple(self._model._keys_to_ignore_on_load_missing or ())
        return [name for name in names if not any(re.search(pattern, name) for pattern in ignored)]

    def _check_whole(self, module: nn.Module, prefix: str) -> None:
        tensors = [*module.named_parameters(), *module.named_buffers()]
        left = [f"{prefix}{name}" for name, tensor in tensors if tensor.is_meta]
        if left:
            raise BadWeights(f"{len(left)} tensors were left without content, {left[0]} for one")


def _experts(model: PreTrainedModel) -> set[int]:
    """How many experts a layer may have, by the config: a matrix with so many rows chooses among them."""
    fields = model.config.get_text_config().to_dict()
    return {value for name, value in fields.items() if "experts" in name and isinstance(value, int) and value > 1}

"""A stage: layers `[start, end)` of a model, loaded and ready to run, with the caches of its sequences.

Loading goes through transformers' own conversion code (renamed and fused weights included); running is
transformers' own model class with the other stages' layers taken out (`slicing.py`). A stage is touched by
the loader thread until it is built and by the compute thread alone from then on.
"""

from __future__ import annotations

import gc
import logging
import re
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import convert_and_load_state_dict_in_model
from transformers.modeling_utils import LoadStateDictConfig

from worker_agent import fused, packed, traced
from worker_agent.anatomy import Anatomy, build_empty, examine
from worker_agent.attention import RAGGED, Piece, ragged_step
from worker_agent.errors import AgentError, BadWeights, CannotSplit, OutOfMemory
from worker_agent.kv_cache import KvBudget, OwnCache, RaggedCache, RowCache
from worker_agent.lazy_tensors import LazyTensor, tensors_of
from worker_agent.messages import Load, Part
from worker_agent.runtime import Runtime, keep_single
from worker_agent.slicing import Slice

log = logging.getLogger(__name__)

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
FLOATING = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}


@dataclass(frozen=True, slots=True)
class Row:
    """The tokens `[position, position + count)` of a sequence in a step; whether logits are wanted after the last."""

    sequence: int
    position: int
    count: int
    sample: bool
    score: bool = False
    """Whether logits are wanted after each of them."""

    @property
    def wanted(self) -> range:
        """After which of its tokens, counted from 0."""
        return range(0 if self.score else self.count - 1, self.count if self.sample or self.score else 0)


class Stage:
    """A loaded slice of a model and the caches of the sequences that run through it."""

    def __init__(self, load: Load, cut: Slice, batched: bool, device: torch.device, weight_bytes: int) -> None:
        self.load = load
        self.batched = batched
        self.device = device
        self.weight_bytes = weight_bytes
        self.kv_bytes = kv_bytes(cut.anatomy, load)
        self.budget = KvBudget(load.kv_tokens)
        self.slice = cut
        self.recording: Callable[..., torch.Tensor] | None = None
        """The whole pass as TorchScript, where it could be recorded (`traced.py`)."""
        self._caches: dict[int, RowCache | OwnCache] = {}

    @property
    def is_first(self) -> bool:
        return self.slice.is_first

    @property
    def is_last(self) -> bool:
        return self.slice.is_last

    @property
    def hidden_size(self) -> int:
        return self.slice.anatomy.hidden_size

    @property
    def vocab_size(self) -> int:
        return self.slice.anatomy.vocab_size

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.load.dtype]

    @property
    def used_tokens(self) -> int:
        return sum(cache.length for cache in self._caches.values())

    @property
    def sequences(self) -> int:
        return len(self._caches)

    def admit(self, sequence: int, capacity: int) -> None:
        """Set KV memory aside for a sequence of at most `capacity` tokens. Raises OutOfMemory."""
        self.budget.reserve(sequence, capacity)
        self._caches[sequence] = RowCache(capacity) if self.batched else self._own_cache()

    def release(self, sequence: int) -> None:
        """Free what a sequence holds; nothing happens if it holds nothing."""
        self.budget.release(sequence)
        self._caches.pop(sequence, None)

    def release_all(self) -> None:
        for sequence in list(self._caches):
            self.release(sequence)

    def holds(self, sequence: int) -> bool:
        return sequence in self._caches

    def length(self, sequence: int) -> int:
        """How many tokens of a sequence are in the cache."""
        return self._caches[sequence].length

    @torch.inference_mode()
    def run(self, rows: Sequence[Row], given: torch.Tensor) -> torch.Tensor:
        """Run one step.

        Args:
            rows: which tokens of which admitted sequences, in the order of `given`.
            given: on the first stage token ids [tokens] (int64), else hidden states [tokens, hidden].

        Returns:
            Hidden states [tokens, hidden], or on the last stage logits [wanted of all rows, vocabulary].
        """
        if self.batched:
            return self._run_ragged(rows, given)
        outputs, start = [], 0
        for row in rows:
            output = self._run_alone(row, given[start : start + row.count])
            start += row.count
            if output is not None:
                outputs.append(output)
        return torch.cat(outputs) if outputs else given.new_empty(0, self.vocab_size)

    def _run_ragged(self, rows: Sequence[Row], given: torch.Tensor) -> torch.Tensor:
        pieces: list[Piece] = []
        sampled: list[int] = []
        start = 0
        for row in rows:
            cache = self._caches[row.sequence]
            assert isinstance(cache, RowCache)
            pieces.append(Piece(cache, start, start + row.count))
            sampled += [start + place for place in row.wanted]
            start += row.count
        positions = [position for row in rows for position in range(row.position, row.position + row.count)]
        with ragged_step(pieces):
            return self._forward(given, positions, sampled, RaggedCache())

    def _run_alone(self, row: Row, given: torch.Tensor) -> torch.Tensor | None:
        cache = self._caches[row.sequence]
        assert isinstance(cache, OwnCache)
        positions = list(range(row.position, row.position + row.count))
        output = self._forward(given, positions, list(row.wanted), cache)
        cache.length += row.count
        return output if row.wanted or not self.is_last else None

    def _forward(
        self, given: torch.Tensor, positions: list[int], sampled: list[int], cache: RaggedCache | OwnCache
    ) -> torch.Tensor:
        """One pass of the model over `given`; hidden states [tokens, hidden] or logits [len(sampled), vocabulary]."""
        places = torch.tensor([positions], device=self.device)
        # A step of inner chunks alone wants no logits; one row is the least that the head can be given.
        rows = torch.tensor(sampled or [0], device=self.device)
        if self.recording is not None and self.batched:
            output = self.recording(given[None], places, rows)[0]
        else:
            output = self.slice.run(given[None], places, rows, cache)[0]
        return output if sampled or not self.is_last else output[:0]

    def _own_cache(self) -> OwnCache:
        return OwnCache(self.slice.model.config, range(self.slice.start, self.slice.end))


def kv_bytes(anatomy: Anatomy, load: Load) -> int:
    """Bytes of keys and values that a stage sets aside."""
    elements = sum(anatomy.kv_elements[load.start : load.end])
    return elements * load.kv_tokens * DTYPES[load.dtype].itemsize


def weight_bytes(parts: Sequence[Part], dtype: torch.dtype) -> int:
    """Bytes that the parts take once loaded in `dtype`."""
    total = 0
    for part in parts:
        for tensor in part.tensors:
            elements = 1
            for extent in tensor.shape:
                elements *= extent
            total += elements * dtype.itemsize if tensor.dtype in FLOATING else tensor.nbytes
    return total


def load_stage(
    load: Load,
    config: bytes,
    parts: tuple[Part, ...],
    part_path: Callable[[str], Path],
    runtime: Runtime,
    memory_free: int,
    progress: Callable[[int, int], None],
) -> Stage:
    """Build and load a stage from parts on disk.

    Args:
        part_path: where a complete, verified part of a digest lies.
        memory_free: bytes that the stage may take, weights and KV together; checked before anything is allocated.
        progress: called with (bytes read, bytes in all), from any thread.

    Raises:
        OutOfMemory: it does not fit. CannotSplit: the architecture. BadWeights: tensors are missing or broken.
    """
    keep_single()
    began, device, dtype = time.monotonic(), torch.device(runtime.device), DTYPES[load.dtype]
    model = build_empty(config, dtype)
    anatomy = examine(model)
    _check_range(load, anatomy)
    weights = weight_bytes(parts, dtype)
    keys_values = kv_bytes(anatomy, load)
    if weights + keys_values > memory_free:
        raise OutOfMemory(
            f"layers {load.start}-{load.end - 1} of {load.model} need {_gb(weights)} for weights and "
            f"{_gb(keys_values)} for {load.kv_tokens:,} tokens of KV cache, {_gb(weights + keys_values)} in all; "
            f"{_gb(memory_free)} are free"
        ).with_figures(weights + keys_values, memory_free)
    cut = Slice(model, anatomy, load.start, load.end)
    _load_weights(model, anatomy, tensors_of(parts, part_path, _Counter(parts, progress)), dtype, device)
    cut.connect()
    stage = Stage(load, cut, anatomy.batched, device, weights)
    _tune(stage, model, anatomy)
    gc.collect()
    gc.freeze()  # a model is a hundred thousand objects that no collection needs to look at again
    log.info(
        "loaded layers %d-%d of %s in %.1f s (%s, %s)",
        load.start, load.end - 1, load.model, time.monotonic() - began, load.dtype,
        "batched" if stage.batched else "one sequence at a time",
    )  # fmt: skip
    return stage


def _check_range(load: Load, anatomy: Anatomy) -> None:
    if not 0 <= load.start < load.end <= anatomy.num_layers:
        raise CannotSplit(f"layers {load.start}-{load.end - 1} are not within the model's {anatomy.num_layers} layers")
    for boundary in {load.start, load.end} - {0, anatomy.num_layers}:
        if boundary not in anatomy.cuts:
            raise CannotSplit(f"the model cannot be cut before layer {boundary}: {'; '.join(anatomy.cut_notes)}")


def _load_weights(
    model: PreTrainedModel, anatomy: Anatomy, tensors: object, dtype: torch.dtype, device: torch.device
) -> None:
    """Fill the model through transformers' own loading conversion. Raises BadWeights."""
    state: dict[str, LazyTensor] = dict(tensors)  # type: ignore[call-overload]
    wanted = model.state_dict()
    for target, source in anatomy.tied:
        # A tied tensor is stored once, under either name; the stage may have only the other end.
        for stored, standing in ((target, source), (source, target)):
            if stored in state and stored not in wanted and standing in wanted:
                state[standing] = state.pop(stored)
    settings = LoadStateDictConfig(
        dtype=dtype,
        dtype_plan=model._get_dtype_plan(dtype),
        device_map={"": device},
        weight_mapping=get_model_conversion_mapping(model),  # type: ignore[arg-type]  # its two kinds, loosely typed
    )
    try:
        info, _ = convert_and_load_state_dict_in_model(model, state, settings)
    except AgentError:
        raise
    except (RuntimeError, ValueError, KeyError) as error:
        raise BadWeights(f"the weights cannot be put into the model: {error}") from error
    if info.conversion_errors or info.mismatched_keys:
        raise BadWeights(f"the weights do not fit the model: {[*info.conversion_errors, *info.mismatched_keys][:3]}")
    tied = set(model.all_tied_weights_keys)
    ignored = tuple(model._keys_to_ignore_on_load_missing or ())
    missing = [name for name in info.missing_keys - tied if not any(re.search(pattern, name) for pattern in ignored)]
    if missing:
        raise BadWeights(f"{len(missing)} tensors are missing, {sorted(missing)[0]} for one")
    model._finalize_model_loading(model, settings, info)
    model.eval()
    left = [name for name, tensor in [*model.named_parameters(), *model.named_buffers()] if tensor.is_meta]
    if left:
        raise BadWeights(f"{len(left)} tensors were left without content, {left[0]} for one")


class _Counter:
    """Adds up bytes read, from any thread, and reports them."""

    def __init__(self, parts: Sequence[Part], progress: Callable[[int, int], None]) -> None:
        self._total, self._done = sum(part.nbytes for part in parts), 0
        self._lock, self._progress = threading.Lock(), progress

    def __call__(self, count: int) -> None:
        with self._lock:
            self._done += count
            done = self._done
        self._progress(done, self._total)


def _tune(stage: Stage, model: PreTrainedModel, anatomy: Anatomy) -> None:
    """Take the faster ways to compute the same, each only where a trial on this very stage shows that it is the same.

    The measure is the stage as transformers runs it. Weights are fused and packed for good, so a stage that they
    change cannot be used at all; ragged attention falls back to one sequence at a time.

    Raises:
        BadWeights: packed weights give something else, which is a fault of this machine's kernels.
    """
    own = "sdpa" if model._supports_sdpa else "eager"
    model.set_attn_implementation(own)
    stage.batched = False
    plain = _trial(stage)
    if fused.is_wanted():
        fused.fuse_siblings(model, lambda: _trial(stage, steps=1))
        fused.fuse_norms(model, stage.dtype)
    if packed.can_pack(stage.device, stage.dtype):
        tied = bool(anatomy.tied) and stage.is_first and stage.is_last
        head = model.get_output_embeddings()
        packed.pack(model, stage.dtype, keep=[head] if tied and head is not None else [])
        stage.slice.connect()
    if not _agree(plain, _trial(stage)):
        raise BadWeights("packed weights give other results on this machine; set SHARDBOARD_PACKED=0 and load again")
    if not anatomy.batched:
        return
    model.set_attn_implementation(RAGGED)
    stage.batched = True
    try:
        agree = _agree(plain, _trial(stage))
    except (CannotSplit, RuntimeError, TypeError, ValueError, AttributeError) as error:
        log.warning("sequences will run one at a time: %s", error)
        agree = False
    if not agree:
        stage.batched = False
        model.set_attn_implementation(own)
    elif stage.device.type == "cpu" and traced.is_wanted():
        _record(stage, plain)


def _record(stage: Stage, plain: Sequence[torch.Tensor]) -> None:
    """Run the stage from a recording, where one can be made and gives the same for two sets of numbers."""
    other = _trial(stage, seed=8)
    count = 5
    if stage.is_first:
        given = torch.arange(3, 3 + count)
    else:
        given = torch.randn(count, stage.hidden_size, generator=torch.Generator().manual_seed(9)).to(stage.dtype)
    cache = RowCache(count)
    with torch.inference_mode(), ragged_step([Piece(cache, 0, count)]):
        places, rows = torch.arange(count)[None], torch.tensor([1, count - 1])
        stage.recording = traced.record(stage.slice, given[None], places, rows)
    try:
        agree = _agree(plain, _trial(stage)) and _agree(other, _trial(stage, seed=8))
    except RuntimeError as error:
        log.warning("the stage runs unrecorded: %s", error)
        agree = False
    if not agree:
        stage.recording = None


def _agree(expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> bool:
    """Whether two trials differ by no more than rounding does in the coarsest dtype."""
    return all(
        torch.allclose(a.float(), b.float(), rtol=2e-2, atol=2e-2 * max(1.0, float(a.float().abs().max())))
        for a, b in zip(expected, found, strict=True)
    )


def _trial(stage: Stage, steps: int = 2, seed: int = 7) -> list[torch.Tensor]:
    """Two short sequences, the first with a second step: the stage's outputs. Also warms up its kernels."""
    plan = ([Row(0, 0, 3, True), Row(1, 0, 2, True)], [Row(0, 3, 1, True)])
    generator = torch.Generator().manual_seed(seed)
    outputs = []
    try:
        for sequence in (0, 1):
            stage._caches[sequence] = RowCache(4) if stage.batched else stage._own_cache()
        for rows in plan[:steps]:
            count = sum(row.count for row in rows)
            if stage.is_first:
                given = torch.randint(0, stage.vocab_size, (count,), generator=generator)
            else:
                given = torch.randn(count, stage.hidden_size, generator=generator).to(stage.dtype)
            outputs.append(stage.run(rows, given.to(stage.device)))
    finally:
        stage.release_all()
        stage._caches.clear()
    return outputs


def _gb(count: int) -> str:
    return f"{count / 1e9:.2f} GB"

"""Building a stage from parts on disk, a layer at a time: read, lay out, compare, keep, let go of the source.

Each layer is put through transformers' own conversion code (renamed and fused weights included), run as transformers
runs it, laid out for speed, and run again in the way in which it will run from then on (`trial.py`). Only what gives
the same (`proof.py`) is kept, so that neither the peak nor the end of loading takes more than the weights and one
matrix besides. What was tried and what came of it is in the stage's `ways`.
"""

from __future__ import annotations

import copy
import gc
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from worker_agent.engine import passes, trial
from worker_agent.engine.alone import Alone
from worker_agent.engine.attention import RAGGED
from worker_agent.engine.runtime import Runtime, keep_single
from worker_agent.engine.stage import DTYPES, Stage, Weights, check_room, gigabytes, journal_bytes, kept_in, kv_bytes
from worker_agent.model import rotary
from worker_agent.model.anatomy import Anatomy, build_empty, examine_once
from worker_agent.model.filling import ByteCounter, Filler, Source, weight_bytes
from worker_agent.model.heap import give_back, keep_out_of_collections, large_blocks_apart
from worker_agent.model.linears import fused, packed
from worker_agent.model.linears.blocks import halves
from worker_agent.model.linears.blocks import reading as blocks
from worker_agent.model.slicing import Slice, dismantle
from worker_agent.model.ways import Ways
from worker_agent.wire.errors import CannotSplit, OutOfMemory
from worker_agent.wire.messages import Load, Part, Reuse, WayName

log = logging.getLogger(__name__)

LAYOUTS: tuple[WayName, ...] = ("norms", "joined", "blocks", "packed")
"""The ways that change a layer's modules, in the order in which they are taken."""

END_LAYOUTS: tuple[WayName, ...] = ("norms", "blocks", "packed")
"""Those that what stands behind the layers takes."""


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
        NotFinite: its numbers overflow in the wanted type.
    """
    keep_single()
    keep_out_of_collections(again=False)
    device, dtype = torch.device(runtime.device), DTYPES[load.dtype]
    model = build_empty(config, dtype)
    anatomy = examine_once(model, config, dtype)
    _check_range(load, anatomy)
    weights = weight_bytes(parts, dtype, load.quantize)
    keys_values = kv_bytes(anatomy, load, kept_in(anatomy, load))
    journal = journal_bytes(load, device)
    needed = check_room(load, weights, keys_values, journal, memory_free)
    cut = Slice(model, anatomy, load.start, load.end)
    stage = Stage(load, cut, device, Weights(config, parts, weights))
    cut.fills_up = load.quantize == "none" and packed.fills_up(device, dtype, weights)
    try:
        with large_blocks_apart():
            source = Source(model, parts, part_path, ByteCounter(parts, progress))
            fill = Filler(stage.slice, source, device, dtype, load.quantize)
            _Builder(stage, fill, memory_free - needed).build()
        # Kernels for blocks write no programs. (What was proven with rows in vain holds without them.)
        cut.fills_up = cut.fills_up and not (stage.by_length or stage.ways["blocks"].taken)
        stage.weights.nbytes += fill.extra_bytes
        stage.weights_error = fill.quantizer.error
    except BaseException:
        stage.close()
        give_back()
        raise
    gc.collect()
    return stage


def drop_stage(stage: Stage) -> None:
    """Free a stage, and return its memory to the system."""
    stage.close()
    gc.collect()
    give_back()
    if stage.device.type == "cuda":
        torch.cuda.empty_cache()


def _check_range(load: Load, anatomy: Anatomy) -> None:
    if not 0 <= load.start < load.end <= anatomy.num_layers:
        raise CannotSplit(f"layers {load.start}-{load.end - 1} are not within the model's {anatomy.num_layers} layers")
    for boundary in {load.start, load.end} - {0, anatomy.num_layers}:
        if boundary not in anatomy.cuts:
            raise CannotSplit(f"the model cannot be cut before layer {boundary}: {'; '.join(anatomy.cut_notes)}")


class _Builder:
    """Fills a stage, layer by layer, and proves what it does."""

    def __init__(self, stage: Stage, filler: Filler, spare: int) -> None:
        """`spare`: bytes that the stage may take besides what was reckoned with."""
        self._stage, self._fill, self._spare = stage, filler, spare
        self._cut, self._model, self._anatomy = stage.slice, stage.slice.model, stage.slice.anatomy
        self._device, self._dtype = stage.device, stage.dtype
        self._own_attention = "sdpa" if self._model._supports_sdpa else "eager"
        self._batched = self._anatomy.batched
        self._off = _switched_off(stage.device, stage.dtype)
        edges = [
            self._cut.start,
            *(c for c in self._anatomy.cuts if self._cut.start < c < self._cut.end),
            self._cut.end,
        ]
        self._blocks = [range(start, end) for start, end in pairwise(edges)]
        """What is proven at a time: single layers, but where more than hidden states passes between some of them."""
        self._with_head = self._blocks[-1] if self._cut.is_last and len(self._blocks[-1]) > 1 else None
        """The block that is proven together with what stands behind it: more may pass to that, too."""

    def build(self) -> None:
        stage, cut, model = self._stage, self._cut, self._model
        blank_ends = {name: _copied(model.get_submodule(name)) for name in self._anatomy.after if cut.is_last}
        self._fill.ends()
        rotary.make_length_aware(model, self._anatomy.max_context - 1)
        if cut.is_first and not self._off["blocks"]:
            blocks.lay_out(model, self._dtype, stage.ways["blocks"], nn.Embedding)
        model.set_attn_implementation(self._own_attention)
        layers = cut.end - cut.start
        if not self._batched:
            stage.ways["batched"].lost(f"{self._anatomy.model_type} has layers that mind more than positions", layers)
        with trial.trial_of(cut):
            if self._with_head is not None:
                why = f"what passes to the model's end from {trial.named(self._with_head)} is more than hidden states"
                stage.ways["packed"].lost(why)
                if norms := sum(1 for name, *_ in fused.norms(model) if name.startswith(tuple(self._anatomy.after))):
                    stage.ways["norms"].lost(self._off["norms"] or why, norms)
                self._end_in_floats(why)
            elif cut.is_last:
                # Before the layers: laying out takes the head twice for a moment, and it is the largest matrix of all.
                self._head(blank_ends)
            texts = beginning = trial.make_texts(cut, self._device, self._dtype)
            for block in self._blocks:
                texts = trial.Texts(self._block(block, texts))
                give_back()
                self._check_room(block)
            self._fill.tell(stage.ways["blocks"])
            if cut.is_last and self._with_head is None:
                self._connect_head()
                texts = trial.Texts(trial.expected(self._stage, texts, "what stands behind the layers"))
        cut.place(*cut.own)
        cut.connect()
        stage.by_length = rotary.is_length_aware(model)
        if self._batched:
            model.set_attn_implementation(RAGGED)
            stage.batched = True
            every: Counter[Reuse] = Counter({"any": layers})
            self._reuse(every)
            with trial.trial_of(cut) as narrowed:
                found = self._whole(beginning, texts.rows)
                if stage.kv_dtype == "int8":
                    trial.measure_int8(stage, beginning)
            passes.record(stage, None if narrowed else (beginning, found))
            passes.fix_shapes(stage)
        else:
            alone = Alone(stage, self._blocks, self._with_head)
            with trial.trial_of(cut):
                alone.prove(beginning)
                self._own_int8(alone.int8_lost, beginning)
            self._reuse(alone.reusable)
            passes.not_apart(stage)

    def _check_room(self, block: range) -> None:
        """Raises OutOfMemory when what could not stay in blocks, or could not be quantized, takes too much."""
        more, load = self._fill.extra_bytes, self._stage.load
        if more > max(0, self._spare):
            said = [*self._fill.unfolded.values(), self._stage.ways["blocks"].why]
            why = next(filter(None, said), "not all of its matrices can be quantized")
            raise OutOfMemory(
                f"layers {load.start}-{load.end - 1} of {load.model} take {gigabytes(more)} more than was reckoned "
                f"with, up to {trial.named(block)}: {why}"
            ).with_figures(self._stage.weight_bytes + more, self._stage.weight_bytes)

    # --- a block of layers ---------------------------------------------------------------------------

    def _block(self, block: range, texts: trial.Texts) -> trial.Outputs:
        """Load, lay out and prove a block; what it gives for the texts, as transformers runs it."""
        cut, ways, where = self._cut, self._stage.ways, trial.named(block)
        blanks = {index: _copied(cut.own[index]) for index in block}
        self._stand(block)
        outputs: list[trial.Outputs] = []
        groups = self._watched(block, lambda: outputs.append(self._expected(block, texts)))
        expected = outputs[0]
        found = self._laid_out(block, groups, LAYOUTS)
        apart = self._ragged(expected, texts) if self._batched else ""
        if (apart or not self._batched) and (why := self._whole_differs(expected, texts)):
            log.warning("%s: something else comes out once it is laid out (%s); one way after the other", where, why)
            found, expected = self._one_by_one(block, blanks, texts, expected)
            apart = self._ragged(expected, texts) if self._batched else ""
        ways.add(found)
        for index in block:
            self._fill.count(index)
        if self._batched:
            if apart:
                ways["batched"].lost(f"{where}: {apart}")
                self._batched = False
                log.warning("each sequence will have a pass of its own: %s, %s", where, apart)
            else:
                ways["batched"].used(len(block))
                self._int8(block, texts)
        cut.disconnect()
        return expected

    def _expected(self, block: range, texts: trial.Texts) -> trial.Outputs:
        """What a block that stands as transformers has it gives, with the numbers that its blocks mean."""
        with blocks.as_meant(self._model):
            return trial.expected(self._stage, texts, trial.named(block))

    def _stand(self, block: range) -> None:
        """Fill the layers of a block and have them alone stand in the model, ready to run."""
        for index in block:
            layer = self._fill.layer(index)
            rotary.make_length_aware(layer, self._anatomy.max_context - 1)
        self._cut.place(*block)
        self._connect(block)

    def _connect(self, block: range) -> None:
        trial.connect(self._cut, block, self._with_head)

    def _watched(self, block: range, run: Callable[[], object]) -> dict[int, list[list[nn.Linear]]]:
        """Run something; for each layer of the block, which of its matrices could be joined."""
        layers = nn.ModuleDict({str(index): self._cut.own[index] for index in block})
        groups: dict[int, list[list[nn.Linear]]] = {index: [] for index in block}
        owner = {module: index for index in block for module in self._cut.own[index].modules()}
        for members in fused.watched(layers, run):
            groups[owner[members[0]]].append(members)
        return groups

    def _laid_out(self, block: range, groups: dict[int, list[list[nn.Linear]]], wanted: Sequence[WayName]) -> Ways:
        found = Ways()
        for index in block:
            self._lay_out(self._cut.own[index], groups[index], wanted, found)
        return found

    def _whole_differs(self, expected: trial.Outputs, texts: trial.Texts) -> str:
        return trial.differs(self._stage, expected, lambda: trial.run_whole(self._cut, texts), texts.joined)

    def _ragged(self, expected: trial.Outputs, texts: trial.Texts) -> str:
        """Why something else comes out when sequences share the steps; empty if it does not."""
        self._model.set_attn_implementation(RAGGED)
        try:
            return trial.differs(self._stage, expected, lambda: trial.run_ragged(self._cut, texts), texts.joined)
        finally:
            self._model.set_attn_implementation(self._own_attention)

    def _int8(self, block: range, texts: trial.Texts) -> None:
        """Whether keys and values of a block can be kept in int8, where that is wanted."""
        if self._stage.kv_dtype != "int8":
            return
        self._model.set_attn_implementation(RAGGED)
        try:
            why = trial.int8_differs(self._stage, texts)
        finally:
            self._model.set_attn_implementation(self._own_attention)
        if why:
            self._lose_int8(f"{trial.named(block)} gives something else than what the 8 bits mean ({why})")
        else:
            self._stage.ways["kv_int8"].used(len(block))

    def _own_int8(self, lost: str, beginning: trial.Texts) -> None:
        """The same where each sequence has a pass of its own, whose layers were tried; `lost` says why they cannot."""
        stage, anatomy, load = self._stage, self._anatomy, self._stage.load
        if load.kv_dtype != "int8" or stage.ways["kv_int8"].why:
            return
        if stage.kv_dtype == "int8":
            if lost:
                self._lose_int8(lost)
            else:
                trial.measure_int8(stage, beginning)
        elif any(anatomy.kv_elements[load.start : load.end]):
            self._lose_int8("how many keys and values a token has could not be seen in outline")
        else:
            stage.ways["kv_int8"].why = "its layers keep no keys and values"

    def _lose_int8(self, why: str) -> None:
        """Keep keys and values as they are computed though int8 was wanted. Raises OutOfMemory: they do not fit so."""
        stage, load = self._stage, self._stage.load
        if load.kv_dtype != "int8" or stage.ways["kv_int8"].why:
            return
        layers, before = load.end - load.start, stage.kv_bytes
        stage.kv_dtype, tally = "computed", stage.ways["kv_int8"]
        tally.taken, tally.possible, tally.why = 0, layers, why
        more = stage.kv_bytes - before
        self._spare -= more
        if self._spare < self._fill.extra_bytes:
            raise OutOfMemory(
                f"keys and values of layers {load.start}-{load.end - 1} of {load.model} cannot be kept in int8 "
                f"({why}), and as they are computed take {gigabytes(more)} more than was reckoned with; set aside "
                "fewer KV tokens"
            ).with_figures(stage.weight_bytes + stage.kv_bytes, stage.weight_bytes + before)

    def _one_by_one(
        self, block: range, blanks: dict[int, nn.Module], texts: trial.Texts, expected: trial.Outputs
    ) -> tuple[Ways, trial.Outputs]:
        """Take each way that keeps the results, and no other; and what is expected of the block then."""
        kept: list[WayName] = []
        lost = Ways()
        in_floats = False

        def again(wanted: Sequence[WayName]) -> Ways:
            """The block loaded again, as it was before anything was done to it, and laid out so."""
            for index in block:
                dismantle(self._cut.own[index])
                self._cut.own[index] = _copied(blanks[index])
            self._cut.place()
            self._stand(block)
            for index in block if in_floats else ():
                blocks.let_go(self._cut.own[index])
            groups = self._watched(block, lambda: trial.run_whole(self._cut, texts))
            return self._laid_out(block, groups, [way for way in LAYOUTS if way in wanted])

        # What is expected hangs on whether blocks stay or become floats, whose numbers are rounded once more.
        for way in sorted(LAYOUTS, key=lambda each: each != "blocks"):
            found = again((*kept, way))
            if not (why := self._whole_differs(expected, texts)):
                kept.append(way)
                continue
            lost[way].lost(f"{trial.named(block)}: {why}", found[way].possible)
            if way == "blocks":
                in_floats = True
                again(())
                expected = trial.expected(self._stage, texts, trial.named(block))
        result = again(kept)
        result.add(lost)
        return result, expected

    def _lay_out(
        self, module: nn.Module, groups: list[list[nn.Linear]], wanted: Iterable[WayName], ways: Ways,
        keep: Sequence[nn.Module] = (),
    ) -> None:  # fmt: skip
        for way in wanted:
            if self._off[way]:
                ways[way].why = self._off[way]
            elif way == "norms":
                fused.fuse_norms(module, self._dtype, ways[way])
            elif way == "joined":
                fused.join_siblings(module, groups, ways[way])
            elif way == "blocks":
                blocks.lay_out(module, self._dtype, ways[way])
            elif halves.can(self._device, self._dtype):
                packed.pack(module, self._dtype, ways[way], laid_out=halves.laid_out)
            else:
                packed.pack(module, self._dtype, ways[way], keep)

    # --- the ends, and the whole ---------------------------------------------------------------------

    def _connect_head(self) -> None:
        """Have passes begin behind the layers."""
        trial.connect_head(self._cut)

    def _head(self, blank_ends: dict[str, nn.Module]) -> None:
        """Lay out and prove what stands behind the layers."""
        cut, model = self._cut, self._model
        self._connect_head()
        texts = trial.make_texts(cut, self._device, self._dtype, hidden=True)
        with blocks.as_meant(model):
            expected = trial.expected(self._stage, texts, "what stands behind the layers")
        reckoned = blocks.held_bytes(model)
        tied = model.get_output_embeddings() if cut.is_first and self._is_tied() else None
        found = Ways()
        keep = [] if tied is None else [tied]
        self._lay_out(model, [], END_LAYOUTS, found, keep)
        self._connect_head()
        why = trial.differs(self._stage, expected, lambda: trial.run_whole(cut, texts), None)
        if why:
            log.warning("the model's end stays as transformers has it: %s", why)
            buffers = {name: buffer for name, buffer in model.named_buffers() if not buffer.is_meta}
            for name, blank in blank_ends.items():
                cut.replace(name, blank)
            self._fill.ends()
            blocks.let_go(model)
            for name, buffer in buffers.items():
                # What was computed once (rotary frequencies) is not computed again.
                owner, _, own = name.rpartition(".")
                model.get_submodule(owner)._buffers[own] = buffer
            plain = Ways()
            for way in END_LAYOUTS:
                plain[way].lost(f"the model's end: {why}", found[way].possible)
            found = plain
        self._fill.count_ends(blocks.held_bytes(model) - reckoned)
        self._stage.ways.add(found)
        cut.disconnect()

    def _end_in_floats(self, why: str) -> None:
        """Forget that what stands behind the layers is in blocks: it is not laid out, so it would be held twice."""
        reckoned = blocks.held_bytes(self._model)
        blocks.let_go(self._model)
        self._fill.count_ends(blocks.held_bytes(self._model) - reckoned)
        if self._fill.extra_bytes:
            self._stage.ways["blocks"].lost(why)

    def _is_tied(self) -> bool:
        """Whether the embedding and the head are one tensor here."""
        first, last = self._model.get_input_embeddings(), self._model.get_output_embeddings()
        return last is not None and getattr(first, "weight", None) is getattr(last, "weight", last)

    def _whole(self, beginning: trial.Texts, expected: trial.Outputs) -> trial.Outputs:
        """What all layers give one behind the other, as steps will come. Raises CannotSplit."""
        cut, stage = self._cut, self._stage
        found: list[trial.Outputs] = []

        def run() -> trial.Outputs:
            found.append(trial.run_ragged(cut, beginning))
            return found[0]

        why = trial.differs(stage, expected, run, None, trial.whole_factor(stage))
        if why:
            raise CannotSplit(
                f"layers {cut.start}-{cut.end - 1} together give something else than one after another ({why})"
            )
        return found[0]

    def _reuse(self, reusable: Counter[Reuse]) -> None:
        """Whether prompts may start where an earlier one was that began alike; a way, since it is a speed-up.

        Args:
            reusable: of how many layers what may be taken over.
        """
        stage, tally, layers = self._stage, self._stage.ways["reused"], self._cut.end - self._cut.start
        if stage.by_length or self._anatomy.restarts_at is not None:
            tally.lost("its rotary embedding depends on how long each sequence is", layers)
        elif not stage.in_pieces:
            tally.lost("a prompt cannot come in several steps", layers)
        elif reusable["any"] == layers:
            stage.reuse = "any"
            tally.used(layers)
        elif reusable["no"]:
            tally.lost("", layers)
        else:
            stage.reuse = "whole"
            tally.used(reusable["any"])
            tally.lost("", reusable["whole"])


def _copied(module: nn.Module) -> nn.Module:
    """A copy that shares its configs with the model, which tells its modules through them how to compute."""
    configs = {id(each.config): each.config for each in module.modules() if hasattr(each, "config")}
    return copy.deepcopy(module, dict(configs))


def _switched_off(device: torch.device, dtype: torch.dtype) -> dict[WayName, str]:
    """For each layout, why it is not taken on this machine; empty where it is."""
    apart = fused.why_not()
    kept = "" if device.type == "cpu" else "only the CPU's kernels read blocks"
    plain = "" if halves.can(device, dtype) else packed.why_not(device, dtype)
    return {"norms": apart, "joined": apart, "blocks": kept, "packed": plain}

"""Proving a stage whose sequences have each a pass of their own, with transformers' own cache.

Layer by layer: whether prompts may come in pieces or only as a whole, whether one may start where an earlier one was,
and whether the passes of several sequences may go in lockstep (`lockstep.py`). What cannot be taken is lost in that
layer alone, but for pieces and prompts from memory, which are a matter of the whole stage.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial

from torch import nn

from worker_agent.engine import lockstep, trial
from worker_agent.engine.stage import Stage
from worker_agent.model import rowwise
from worker_agent.wire.errors import CannotSplit
from worker_agent.wire.messages import Reuse

log = logging.getLogger(__name__)

MOST = 0.9
"""Where less than this part of the weights of layers in lockstep is read once for all sequences, it is said."""


class Alone:
    """The proof of a stage.

    Args:
        blocks: what is proven at a time.
        with_head: the block that is proven together with what stands behind the layers, if any is.
    """

    def __init__(self, stage: Stage, blocks: Sequence[range], with_head: range | None) -> None:
        self._stage, self._cut, self._blocks, self._with_head = stage, stage.slice, blocks, with_head
        self.reusable: Counter[Reuse] = Counter()
        """Of how many layers what may be taken over from an earlier prompt."""
        self.int8_lost = ""
        """Why keys and values cannot be kept in int8, where that is wanted; empty if they can."""
        self._weights = self._met = 0
        """Numbers in the layers that go in lockstep, and how many of them are read once for all sequences."""

    def prove(self, beginning: trial.Texts) -> None:
        """Run texts through all blocks, within `trial_of`; the slice stands there as a whole afterwards.

        Raises:
            CannotSplit: it cannot even go on with a text token by token.
        """
        cut, stage, texts = self._cut, self._stage, beginning
        if stage.kv_dtype == "int8":  # which layers may have been tried for that share a pass
            stage.ways["kv_int8"].taken = stage.ways["kv_int8"].possible = 0
        for block in self._blocks:
            cut.place(*block)
            trial.connect(cut, block, self._with_head)
            expected = trial.expected(stage, texts, trial.named(block))
            reuse: Reuse = "no"
            if trial.bounds_time_steps(cut, block):
                stage.answers_alone, why = True, "time steps of a prompt are bounded there, and not those of an answer"
            else:
                why = self._differs(expected, texts, block, in_pieces=True)
            if in_pieces := not why:
                stage.ways["pieces"].used(len(block))
                reuse = self._reused(expected, texts, block)
            else:
                if whole := self._prompts_whole(expected, texts, block):
                    raise CannotSplit(
                        f"'{cut.anatomy.model_type}' cannot be run here: {trial.named(block)} gives something else "
                        f"when it goes on with a text than for the text as a whole ({whole})"
                    )
                stage.in_pieces = False
                stage.ways["pieces"].lost(f"{trial.named(block)}: {why}", len(block))
            self._int8(texts, block, reuse, in_pieces)
            self._in_lockstep(texts, block, in_pieces)
            texts = trial.Texts(expected)
        if cut.is_last and self._with_head is None and len(stage.lockstep):
            self._head_in_lockstep()
        cut.place(*cut.own)
        cut.connect()
        self._whole_in_lockstep(beginning)

    def _prompts_whole(self, expected: trial.Outputs, texts: trial.Texts, block: range) -> str:
        """Why not even prompts that come as a whole can be gone on with; empty if they can."""
        if not (why := self._differs(expected, texts, block, in_pieces=False)):
            return ""
        with trial.time_steps_unbounded(self._cut) as bounded:
            if not bounded:
                return why
            again = trial.expected(self._stage, texts, trial.named(block))
            return self._differs(again, texts, block, in_pieces=False)

    def _differs(
        self, expected: trial.Outputs, texts: trial.Texts, block: range, *, in_pieces: bool, reuse: Reuse = "no"
    ) -> str:
        run = partial(trial.run_alone, self._cut, texts, block, in_pieces=in_pieces, reuse=reuse)
        return trial.differs(self._stage, expected, run, texts.joined)

    def _reused(self, expected: trial.Outputs, texts: trial.Texts, block: range) -> Reuse:
        """What a prompt may take over of an earlier one's state in these layers."""
        tally, where = self._stage.ways["reused"], trial.named(block)
        found: Reuse = "any"
        if not (why := self._differs(expected, texts, block, in_pieces=True, reuse="any")):
            pass
        elif not (none := self._differs(expected, texts, block, in_pieces=True, reuse="whole")):
            found = "whole"
            tally.why = f"{where} can only go on from a whole earlier prompt: {why}"
        else:
            found = "no"
            tally.why = f"{where} cannot go on from an earlier prompt: {none}"
        self.reusable[found] += len(block)
        return found

    def _int8(self, texts: trial.Texts, block: range, reuse: Reuse, in_pieces: bool) -> None:
        """Whether keys and values of these layers can be kept in int8, where that is wanted."""
        stage = self._stage
        layers = sum(map(bool, self._cut.anatomy.kv_vectors[block.start : block.stop]))
        if stage.kv_dtype != "int8" or self.int8_lost or not layers:
            return
        if why := trial.own_int8_differs(stage, texts, block, reuse, in_pieces=in_pieces):
            self.int8_lost = f"{trial.named(block)} gives something else than what the 8 bits mean ({why})"
        else:
            stage.ways["kv_int8"].used(layers)

    # --- several sequences side by side ---------------------------------------------------------------

    def _in_lockstep(self, texts: trial.Texts, block: range, in_pieces: bool) -> None:
        """Have the passes of several sequences meet in these layers, if that gives what each of them gives alone."""
        cut, stage, tally = self._cut, self._stage, self._stage.ways["lockstep"]
        if why := lockstep.why_not():
            tally.lost(why, len(block))
            return
        roots = [child for index in block for child in cut.own[index].children()]
        if block.start == 0:
            roots += self._ends(name for name, _ in cut.anatomy.before)
        if block is self._with_head:
            roots += self._ends(cut.anatomy.after)
        found = self._found(roots, texts)
        meetings = stage.lockstep.add(found)
        run = partial(trial.run_alone, cut, texts, block, in_pieces=in_pieces)
        if why := trial.differs(stage, run(), partial(run, lockstep=stage.lockstep), texts.joined):
            stage.lockstep.end(meetings)
            tally.lost(f"{trial.named(block)}: {why}", len(block))
            log.warning("%s will run for one sequence at a time: %s", trial.named(block), why)
            return
        taken = {module for each in found for module in each.module.modules()}
        for index in block:
            modules = set(cut.own[index].modules())
            if met := taken & modules:
                tally.used()
                self._weights += _weights(modules)
                self._met += _weights(met)
            else:
                tally.lost(f"nothing with weights in layer {index} treats each token by itself")

    def _head_in_lockstep(self) -> None:
        """The same for what stands behind the layers; it counts as none."""
        cut, stage = self._cut, self._stage
        trial.connect_head(cut)
        device, dtype = stage.device, stage.dtype
        texts = trial.make_texts(cut, device, dtype, hidden=True)
        stage.lockstep.add(self._found(self._ends(cut.anatomy.after), texts))

    def _whole_in_lockstep(self, beginning: trial.Texts) -> None:
        """All layers one behind the other, as steps will come."""
        cut, stage, tally = self._cut, self._stage, self._stage.ways["lockstep"]
        if not tally.taken:
            stage.lockstep.end()
            return
        run = partial(
            trial.run_alone, cut, beginning, range(cut.start, cut.end), in_pieces=stage.in_pieces, last_alone=True
        )
        together = partial(run, lockstep=stage.lockstep)
        if self._met < MOST * self._weights and not tally.why:
            share = 1 - self._met / self._weights
            tally.why = f"but {share:.0%} of their weights, which are read for each answer by itself"
        if why := trial.differs(stage, run(), together, None, trial.whole_factor(stage)):
            stage.lockstep.end()
            tally.taken = 0
            tally.why = f"layers {cut.start}-{cut.end - 1} together: {why}"
            log.warning("passes of several sequences will go one after another: %s", tally.why)

    def _ends(self, names: Iterable[str]) -> list[nn.Module]:
        return [self._cut.model.get_submodule(name) for name in names]

    def _found(self, roots: Sequence[nn.Module], texts: trial.Texts) -> list[rowwise.RowWise]:
        runs = [(len(row), partial(trial.run_whole, self._cut, trial.Texts((row,)))) for row in texts.rows]
        return rowwise.find(roots, runs, self._stage.dtype)


def _weights(modules: Iterable[nn.Module]) -> int:
    """How many numbers these modules have themselves."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters(recurse=False))

"""Faster ways to run the whole pass of a stage whose sequences share it: recorded, and in fixed shapes.

They are tried when all layers have been proven, one behind the other, and are taken only where the same comes out.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch

from worker_agent.engine import capture, recorded, trial
from worker_agent.engine.attention import Segment, ragged_step
from worker_agent.engine.memory.pages import PagePool
from worker_agent.engine.memory.rows import RowPool
from worker_agent.engine.stage import Stage
from worker_agent.engine.static import StaticSteps

SEEDS = (7, 8)
"""Of the two sets of numbers that every way of running has to give the same for."""
APART = "each sequence has a pass of its own"
BY_LENGTH = "its rotary embedding depends on how long each sequence is"


def record(stage: Stage, known: tuple[trial.Texts, trial.Outputs] | None = None) -> None:
    """Run the stage from a recording, where one can be made and gives the same for two sets of numbers.

    Args:
        known: what the stage gives, run so, for the texts of one set, if that has been seen.
    """
    tally, cut = stage.ways["recorded"], stage.slice
    if stage.device.type != "cpu":
        return
    if why := BY_LENGTH if stage.by_length else recorded.why_not():
        tally.lost(why)
        return
    seeds = SEEDS if known is None else SEEDS[1:]
    sets = [trial.make_texts(cut, stage.device, stage.dtype, seed) for seed in seeds]
    plain = [trial.run_ragged(cut, texts) for texts in sets]
    if known is not None:
        sets, plain = [known[0], *sets], [known[1], *plain]
    count = 5
    given = sets[0].rows[0][:count]
    state = RowPool(1, count).state()
    with torch.inference_mode(), ragged_step([Segment(state, 0, count)]):
        places, rows = torch.arange(count)[None], torch.tensor([1, count - 1])
        recording = recorded.record(cut, given[None], places, rows)
    if isinstance(recording, str):
        tally.lost(recording)
        return
    for texts, expected in zip(sets, plain, strict=True):
        run = partial(trial.run_ragged, cut, texts, recording)
        if why := trial.differs(stage, expected, run, texts.joined):
            tally.lost(f"the recording gives something else: {why}")
            return
    stage.recording = recording
    tally.used()


def fix_shapes(stage: Stage) -> None:
    """Run steps of one token of each sequence in fixed shapes, where that can be captured and gives the same."""
    cut, device = stage.slice, stage.device
    if device.type != "cuda" and capture.why_not(device):
        return
    tally = stage.ways["captured"]
    if why := BY_LENGTH if stage.by_length else capture.why_not(device):
        tally.lost(why)
        return
    int8 = stage.kv_dtype == "int8"
    with trial.trial_of(cut):
        for seed in SEEDS:
            texts = trial.make_texts(cut, device, stage.dtype, seed)
            expected = trial.run_ragged(cut, texts, pool=trial.pool_for(texts, int8=int8))
            if why := trial.differs(stage, expected, _in_fixed_shapes(stage, texts, int8), texts.joined):
                tally.lost(f"steps of fixed shapes give something else: {why}")
                return
    stage.static = True
    tally.used()
    tally.why = capture.cost(device)


def not_apart(stage: Stage) -> None:
    """Say why neither is taken where each sequence has a pass of its own."""
    if stage.device.type == "cpu":
        stage.ways["recorded"].lost(APART)
    if not (why := capture.why_not(stage.device)) or stage.device.type == "cuda":
        stage.ways["captured"].lost(why or APART)


def _in_fixed_shapes(stage: Stage, texts: trial.Texts, int8: bool) -> Callable[[], trial.Outputs]:
    slots, longest = 2 * len(texts.rows), max(texts.lengths)

    def run() -> trial.Outputs:
        pool = PagePool(slots, longest, 2 * slots * longest, int8=int8, page_tokens=trial.GROWTH)
        steps = StaticSteps(stage.slice, pool, 2 * slots, capture.capture_for(stage.device), stage.device)
        return trial.run_ragged(stage.slice, texts, pool=pool, static=steps)

    return run

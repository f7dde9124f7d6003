"""Matrices in blocks are proven against the numbers that these mean; what cannot stay so is told and counted."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.worker_agent.model.test_blocks import WIDE, in_blocks, random_blocks
from tests.worker_agent.ring import CutModel, Ring, cut_model, random_prompt
from tests.worker_agent.tiny_models import VOCABULARY, make_model
from worker_agent.engine import loading
from worker_agent.engine.stage import Stage
from worker_agent.model import filling
from worker_agent.model.linears.blocks import layers, racing
from worker_agent.model.linears.blocks.formats import Blocks
from worker_agent.wire.errors import OutOfMemory
from worker_agent.wire.messages import Way, WayName

SCALE = 0.0066
"""Times the numbers from -8 to 7, it gives weights that bfloat16 rounds upwards by 0.04 % in all."""


def of_one_scale(format_: str, weight: torch.Tensor) -> Blocks:
    """Random numbers whose scale is the same in the whole matrix, as that of FP8 with a scale a matrix is."""
    blocks = random_blocks(format_, *weight.shape, seed=weight.shape[0])
    halves = blocks.data.view(blocks.rows, -1, 18)
    halves[:, :, :2] = torch.tensor([SCALE], dtype=torch.float16).view(torch.uint8)
    return blocks


def ways_of(stage: Stage) -> dict[WayName, Way]:
    return {way.name: way for way in stage.ways.report()}


@pytest.fixture
def stored(tmp_path: Path) -> CutModel:
    make_model("llama", tmp_path / "model", **WIDE, tie_word_embeddings=False)
    cut = cut_model(tmp_path / "model", tmp_path / "parts")
    return in_blocks(cut, tmp_path / "blocks", {"proj.weight": "Q4_0", "lm_head.weight": "Q4_0"}, of_one_scale)[0]


def test_a_matrix_of_one_scale_stays_in_blocks_though_bfloat16_rounds_its_numbers_to_one_side(stored: CutModel) -> None:
    ring = Ring.build(stored, [1], dtype="bfloat16")
    for runner in ring.runners:
        ways = ways_of(runner.stage)
        assert ways["blocks"].used == ways["blocks"].possible > 0, ways["blocks"]
        parts = stored.parts_for(runner.stage.slice.start, runner.stage.slice.end)
        assert runner.stage.weight_bytes == filling.weight_bytes(parts, torch.bfloat16)
    ring.start(1, random_prompt(9, VOCABULARY, 8), 8)
    ring.finish()
    assert len(ring.answer(1)) == 8


def test_blocks_that_come_out_otherwise_become_floats_which_are_counted_and_lose_no_other_way(
    stored: CutModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = layers.BlockLinear.run
    whole = Ring.build(stored, []).runners[0].stage
    monkeypatch.setattr(layers.BlockLinear, "run", lambda *given: right(*given) * 1.01)
    stage = Ring.build(stored, []).runners[0].stage
    ways = ways_of(stage)
    assert (ways["blocks"].used, ways["blocks"].possible) == (0, 3 * 7 + 1) and "differs" in ways["blocks"].why
    assert ways["joined"].used == ways["joined"].possible and ways["recorded"].used == 1
    tensors = {name: each for name, each in stage.slice.model.named_parameters() if each.numel()}
    assert stage.weight_bytes == sum(each.numel() * each.itemsize for each in tensors.values()) > whole.weight_bytes
    more = round((stage.weight_bytes - whole.weight_bytes) / 1e6)
    assert ways["blocks"].why.startswith(f"{more} MB more; the model's end: "), "what a warning to the user begins with"
    assert not any("blocks" in vars(module) for module in stage.slice.model.modules())


def test_blocks_that_become_floats_which_do_not_fit_are_refused_with_the_reason(
    stored: CutModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Ring.build(stored, [], kv_tokens=64).runners[0].stage
    real, budget = loading.load_stage, whole.weight_bytes + whole.kv_bytes
    monkeypatch.setattr(
        "tests.worker_agent.ring.load_stage", lambda load, config, parts, path, runtime, _free, progress:
        real(load, config, parts, path, runtime, budget, progress),
    )  # fmt: skip
    assert Ring.build(stored, [], kv_tokens=64).runners
    right = layers.times
    monkeypatch.setattr(layers, "times", lambda blocks, rows: right(blocks, rows) * 1.01)
    with pytest.raises(OutOfMemory, match=r"more than was reckoned with, up to layer 0: .* in Q4_0: .* differs"):
        Ring.build(stored, [], kv_tokens=64)


def test_a_matrix_that_would_change_too_much_is_never_unfolded_into_halves(
    stored: CutModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layers, "first_of_many", lambda *_: 4)
    right = layers.times_unfolded
    skewed = lambda blocks, rows: right(blocks, rows) * (1.01 if rows.dtype == torch.bfloat16 else 1)  # noqa: E731
    monkeypatch.setattr(layers, "times_unfolded", skewed)
    stage = Ring.build(stored, [], dtype="bfloat16").runners[0].stage
    found = [module for module in stage.slice.model.modules() if isinstance(module, layers.BlockLinear)]
    assert len(found) == 3 * 4 + 1 and all(module.many == racing.NEVER for module in found)

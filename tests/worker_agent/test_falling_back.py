"""A way that changes a layer's numbers is not taken there, and all else stays as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.worker_agent.causal_types import WINDOW, make_model
from tests.worker_agent.ring import Ring, cut_model
from tests.worker_agent.verdicts import PROMPTS, reference
from worker_agent.model.linears import fused
from worker_agent.model.ways import Tally


def skew(module: nn.Module, _groups: list[list[nn.Linear]], tally: Tally) -> None:
    """Stands in for joining matrices, and gets one wrong by a percent."""
    broken = next(each for each in module.modules() if type(each) is nn.Linear)
    with torch.no_grad():
        broken.weight.mul_(1.01)
    tally.used()


def test_a_layer_that_is_loaded_again_keeps_its_window_and_its_batching(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("mistral", tmp_path / "model")
    expected = [reference(model, prompt).tokens for prompt in PROMPTS]
    monkeypatch.setattr(fused, "join_siblings", skew)
    ring = Ring.build(cut_model(tmp_path / "model", tmp_path / "parts"), [3], prefill_chunk=16)
    for runner in ring.runners:
        ways = {way.name: way for way in runner.stage.ways.report()}
        assert ways["joined"].used == 0 and "differs" in ways["joined"].why
        assert runner.stage.batched
        windows = {each.config.sliding_window for each in runner.stage.slice.model.modules() if hasattr(each, "config")}
        assert windows == {WINDOW}, "not the trial's, which is smaller"
    for number, prompt in enumerate(PROMPTS):
        ring.start(number, prompt, 12)
    ring.finish()
    assert not ring.faults
    assert [ring.answer(number) for number in range(len(PROMPTS))] == expected

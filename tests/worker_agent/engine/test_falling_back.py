"""A way that changes a layer's numbers is not taken there, and all else stays as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.worker_agent.causal_types import WINDOW, make_model
from tests.worker_agent.engine.verdicts import PROMPTS, reference
from tests.worker_agent.ring import Ring, cut_model
from worker_agent.engine import recorded
from worker_agent.model.linears import fused
from worker_agent.model.linears.packed import being_recorded
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


@pytest.mark.parametrize("name", recorded.NEEDED)
def test_a_torch_without_torchscript_runs_the_model_as_it_is_and_says_so(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("llama", tmp_path / "model")
    expected = [reference(model, prompt).tokens for prompt in PROMPTS]
    monkeypatch.delattr(torch._C, name)
    ring = Ring.build(cut_model(tmp_path / "model", tmp_path / "parts"), [3])
    for runner in ring.runners:
        ways = {way.name: way for way in runner.stage.ways.report()}
        assert (ways["recorded"].used, ways["recorded"].possible) == (0, 1)
        assert ways["recorded"].why == f"torch {torch.__version__} has no TorchScript any more"
        assert runner.stage.batched, "all else is as before"
    for number, prompt in enumerate(PROMPTS):
        ring.start(number, prompt, 12)
    ring.finish()
    assert not ring.faults
    assert [ring.answer(number) for number in range(len(PROMPTS))] == expected


def test_an_end_that_is_proven_with_the_last_layers_tells_what_it_loses(tmp_path: Path) -> None:
    """More than hidden states passes to it, so it is never alone: neither its matrix nor its norm is laid out."""
    make_model("inkling2_text", tmp_path / "model")
    stage = Ring.build(cut_model(tmp_path / "model", tmp_path / "parts"), []).runners[0].stage
    ways = {way.name: way for way in stage.ways.report()}
    for name in ("packed", "norms"):
        assert ways[name].used == ways[name].possible - 1, ways[name]
        assert ways[name].why == "what passes to the model's end from layers 0-6 is more than hidden states"


def test_nothing_is_being_recorded_where_torch_cannot_say_whether_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as without:
        without.delattr(torch._C, "_get_tracing_state")
        recording = being_recorded()
    assert not recording

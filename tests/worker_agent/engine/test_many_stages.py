"""A pipeline of a hundred stages: each on a runner of its own, every message through its bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.worker_agent.ring import CutModel, Ring, cut_model, random_prompt
from tests.worker_agent.tiny_models import VOCABULARY, make_model

LAYERS = 100
PROMPTS = [random_prompt(length, VOCABULARY, seed) for seed, length in enumerate((3, 40, 17))]
NEW_TOKENS = 6


@pytest.fixture
def deep(tmp_path: Path) -> CutModel:
    make_model("llama", tmp_path / "model", num_hidden_layers=LAYERS, hidden_size=32, intermediate_size=48, head_dim=8)
    return cut_model(tmp_path / "model", tmp_path / "parts")


def answers(cut: CutModel, boundaries: Sequence[int]) -> tuple[Ring, list[list[int]]]:
    ring = Ring.build(cut, boundaries, kv_tokens=256, max_context=256, max_sequences=8)
    for number, prompt in enumerate(PROMPTS):
        ring.start(number, prompt, NEW_TOKENS)
    ring.finish()
    assert not ring.faults
    return ring, [ring.answer(number) for number in range(len(PROMPTS))]


@pytest.mark.long
def test_a_hundred_stages_of_a_layer_each_answer_as_one_stage_does(deep: CutModel) -> None:
    ring, found = answers(deep, range(1, LAYERS))
    assert len(ring.runners) == LAYERS
    assert found == answers(deep, ())[1]
    assert [len(each) for each in found] == [NEW_TOKENS] * len(PROMPTS)
    # Each step passes every boundary between two stages once.
    numbers = {step.step for step in ring.steps}
    assert len(ring.steps) == len(numbers) * (LAYERS - 1)

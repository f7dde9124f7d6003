"""Any architecture, cut anywhere, answers token for token as transformers' generate does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.worker_agent.ring import Ring, cut_model, random_prompt
from tests.worker_agent.tiny_models import CONFIGS, VOCABULARY, greedy, make_model
from worker_agent.wire.errors import NotFinite

PROMPTS = [random_prompt(length, VOCABULARY, seed) for seed, length in enumerate((1, 5, 23, 60))]
ANSWER = 12


@pytest.mark.parametrize("model_type", CONFIGS)
def test_one_two_and_three_uneven_stages_answer_as_transformers(model_type: str, tmp_path: Path) -> None:
    model = make_model(model_type, tmp_path / "model")
    expected = [greedy(model, prompt, ANSWER) for prompt in PROMPTS]
    variety = [len(set(answer)) for answer in expected]
    assert sum(variety) > 3 * len(variety), "answers that repeat themselves prove little"
    cut = cut_model(tmp_path / "model", tmp_path / "parts")
    for boundaries in ([], [2], [1, 5]):
        # A chunk of 16 tokens cuts the longer prompts into several steps.
        ring = Ring.build(cut, boundaries, prefill_chunk=16)
        for number, prompt in enumerate(PROMPTS):
            ring.start(number, prompt, ANSWER)
        ring.finish()
        assert not ring.faults
        assert [ring.answer(number) for number in range(len(PROMPTS))] == expected, f"all at once, cut at {boundaries}"
        ring.start(99, PROMPTS[2], ANSWER)
        ring.finish()
        assert ring.answer(99) == expected[2], f"alone, cut at {boundaries}"
        assert all(runner.info().sequences == 0 for runner in ring.runners), "KV memory is left behind"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_begins_every_answer_as_transformers_does(dtype: str, tmp_path: Path) -> None:
    """Low bits depend on a step's shape there, so a later token may differ; the first one's margin is wide."""
    model = make_model("llama", tmp_path / "model").to(getattr(torch, dtype))
    expected = [greedy(model, prompt, 1) for prompt in PROMPTS]
    ring = Ring.build(cut_model(tmp_path / "model", tmp_path / "parts"), [3], dtype=dtype, prefill_chunk=16)
    for number, prompt in enumerate(PROMPTS):
        ring.start(number, prompt, 3)
    ring.finish()
    assert not ring.faults
    assert [ring.answer(number)[:1] for number in range(len(PROMPTS))] == expected


def test_a_head_of_its_own_is_used_whatever_the_config_says(tmp_path: Path) -> None:
    model = make_model("llama", tmp_path / "model", tie_word_embeddings=False)
    expected = [greedy(model, prompt, ANSWER) for prompt in PROMPTS]
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"tie_word_embeddings": True}))
    cut = cut_model(tmp_path / "model", tmp_path / "parts")
    for boundaries in ([], [3]):
        ring = Ring.build(cut, boundaries, prefill_chunk=16)
        for number, prompt in enumerate(PROMPTS):
            ring.start(number, prompt, ANSWER)
        ring.finish()
        assert [ring.answer(number) for number in range(len(PROMPTS))] == expected, f"cut at {boundaries}"


def test_a_model_that_overflows_in_float16_is_refused_with_the_types_to_take(tmp_path: Path) -> None:
    make_model("llama", tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    scaled = {name: tensor * (3000 if "down_proj" in name else 60 if "up_proj" in name else 1)
              for name, tensor in weights.items()}  # fmt: skip
    save_file(scaled, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    cut = cut_model(tmp_path / "model", tmp_path / "parts")
    with pytest.raises(NotFinite, match=r"stop being finite in layer \d, computed in float16.*bfloat16 or float32"):
        Ring.build(cut, [3], dtype="float16")
    assert not Ring.build(cut, [3], dtype="float32").faults

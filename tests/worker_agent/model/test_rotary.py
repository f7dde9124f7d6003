"""Rotary embeddings of every type answer as transformers' generate, also where they mind how long a sequence is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from tests.worker_agent.references import identity, kept
from tests.worker_agent.ring import Ring, cut_model, random_prompt
from tests.worker_agent.tiny_models import VOCABULARY, greedy, make_model
from worker_agent.model import rotary

THRESHOLD = 64
"""Tokens of the context that the models were made for; longer ones are stretched to."""
PROMPTS = [random_prompt(length, VOCABULARY, length) for length in (20, 58, 63, 64, 65, 100, 200)]
"""Below the threshold, over it in the answer, at it, and past it from the first token on."""
ANSWER = 16
FACTORS = {"short_factor": [1.0] * 8, "long_factor": [1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0]}
STRETCHED: dict[str, Any] = {"original_max_position_embeddings": THRESHOLD}

TYPES: dict[str, tuple[str, dict[str, Any]]] = {
    "linear": ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}),
    "dynamic": (
        "llama",
        {"max_position_embeddings": THRESHOLD, "rope_scaling": {"rope_type": "dynamic", "factor": 8.0}},
    ),
    "yarn": (
        "llama",
        {"max_position_embeddings": THRESHOLD, "rope_scaling": {"rope_type": "yarn", "factor": 4.0, **STRETCHED}},
    ),
    "llama3": (
        "llama",
        {
            "rope_scaling": {
                "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, **STRETCHED,
            }
        },
    ),
    "longrope": (
        "phi3",
        {"max_position_embeddings": 1024, **STRETCHED, "rope_scaling": {"type": "longrope", **FACTORS}},
    ),
    "longrope, going on": (
        "llama",
        {
            "max_position_embeddings": 1024,
            "rope_scaling": {"rope_type": "longrope", "factor": 16.0, **STRETCHED, **FACTORS},
        },
    ),
    "proportional": (
        "llama", {"rope_scaling": {"rope_type": "proportional", "factor": 2.0, "partial_rotary_factor": 0.5}},
    ),
}  # fmt: skip


def reference(folder: Path) -> list[list[int]]:
    """Each prompt by a model that has seen no other: some embeddings remember the longest text of all."""

    def fresh() -> PreTrainedModel:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder).eval()
        return model

    of = ["each by a fresh model", identity(fresh()), PROMPTS, ANSWER]
    return kept(of, lambda: [greedy(fresh(), prompt, ANSWER) for prompt in PROMPTS])


def answers(ring: Ring, *, together: bool) -> list[list[int]]:
    first = 0 if together else 100
    for number, prompt in enumerate(PROMPTS, first):
        ring.start(number, prompt, ANSWER)
        if not together:
            ring.finish()
    ring.finish()
    assert not ring.faults
    return [ring.answer(number) for number in range(first, first + len(PROMPTS))]


def test_every_type_that_transformers_has_is_tried() -> None:
    assert {name.partition(",")[0] for name in TYPES} == set(ROPE_INIT_FUNCTIONS)


@pytest.mark.parametrize("name", TYPES)
def test_answers_are_those_of_generate_on_both_sides_of_the_threshold(name: str, tmp_path: Path) -> None:
    kind, changes = TYPES[name]
    make_model(kind, tmp_path / "model", num_hidden_layers=4, **changes)
    expected = reference(tmp_path / "model")
    ring = Ring.build(cut_model(tmp_path / "model", tmp_path / "parts"), [1, 3], prefill_chunk=32)
    assert all(runner.stage.batched for runner in ring.runners)
    assert answers(ring, together=True) == expected
    assert answers(ring, together=False) == expected


@pytest.mark.parametrize("name", ["dynamic", "longrope", "longrope, going on"])
def test_without_their_lengths_sequences_get_each_others_frequencies(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The fault that the tests above would show."""
    kind, changes = TYPES[name]
    make_model(kind, tmp_path / "model", num_hidden_layers=4, **changes)
    monkeypatch.setattr(rotary, "make_length_aware", lambda module, far: 0)
    ring = Ring.build(cut_model(tmp_path / "model", tmp_path / "parts"), [2], prefill_chunk=32)
    assert answers(ring, together=True) != reference(tmp_path / "model")


def test_a_sequence_begins_anew_where_generate_does_and_nowhere_else(tmp_path: Path) -> None:
    for name, expected in (("longrope", THRESHOLD), ("longrope, going on", None), ("dynamic", None), ("yarn", None)):
        kind, changes = TYPES[name]
        folder = tmp_path / name
        make_model(kind, folder / "model", num_hidden_layers=2, **changes)
        assert cut_model(folder / "model", folder / "parts").anatomy.restarts_at == expected

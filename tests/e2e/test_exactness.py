"""The promise: what is split over agents answers token for token as transformers on one machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from app.registry import RequestRecord
from app.serving import ServingWish
from tests.e2e.conftest import System
from tests.worker_agent.references import kept

PROMPTS = [
    "Hi",
    "What is the capital of France?",
    "Write a haiku about the sea.",
    "List three prime numbers and say why each of them is prime.",
    "Translate to German: The weather is fine today, so we will walk to the lake.",
    "Explain to a child, in two sentences, why the sky is blue and the sunset red.",
    "def fibonacci(n):\n    # returns the n-th Fibonacci number\n",
    "Here is a story. " + "The old man walked along the shore and counted the boats that came home. " * 45,
]
ANSWER = 16


Reference = list[tuple[list[int], list[int]]]
"""For each prompt its token ids, and those of its answer."""


@pytest.fixture(scope="module")
def reference(smollm: Path) -> Reference:
    """What transformers' generate answers in float32: kept for these versions, this model and these prompts."""
    files = [smollm / name for name in ("config.json", "model.safetensors.index.json", "tokenizer.json")]
    of = ["exactness", ANSWER, *PROMPTS, *(path.read_text("utf-8") for path in files)]
    answers = [(ids, answer) for ids, answer in kept(of, lambda: generated(smollm))]
    assert max(len(ids) for ids, _ in answers) > 600, "one prompt has to be cut into chunks"
    return answers


def generated(smollm: Path) -> Reference:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(smollm)
    model = AutoModelForCausalLM.from_pretrained(smollm, dtype=torch.float32)
    answers = []
    for prompt in PROMPTS:
        rendered = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], add_generation_prompt=True, tokenize=False
        )
        tokens = tokenizer(rendered, add_special_tokens=False, return_tensors="pt")
        output = model.generate(**tokens, max_new_tokens=ANSWER, do_sample=False)
        length = tokens.input_ids.shape[1]
        answers.append((tokens.input_ids[0].tolist(), output[0, length:].tolist()))
    return answers


def tokens(record: RequestRecord) -> list[int]:
    assert record.error is None
    return list(record.token_ids)


def compare(system: System, name: str, reference: Reference, alone: Sequence[int]) -> None:
    """All prompts at once, then some alone, by their numbers."""
    chats = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    together = system.answers(name, chats, max_tokens=ANSWER)
    assert [list(record.prompt_token_ids) for record in together] == [ids for ids, _ in reference]
    assert [tokens(record) for record in together] == [answer for _, answer in reference], "all at once"
    by_itself = [system.answer(name, chats[number], max_tokens=ANSWER) for number in alone]
    assert [tokens(record) for record in by_itself] == [reference[number][1] for number in alone], "alone"


@pytest.mark.timeout(400)
def test_smollm_over_two_agents_equals_transformers_alone_and_all_at_once(
    shared: System, sensible: str, reference: Reference
) -> None:
    compare(shared, sensible, reference, range(len(PROMPTS)))


@pytest.mark.timeout(400)
def test_smollm_over_three_agents_equals_transformers_alone_and_all_at_once(
    shared: System, smollm: Path, reference: Reference
) -> None:
    """Cut as the controller itself would."""
    shared.run(shared.controller.add_model(str(smollm), name="over-three"))
    nodes = [node.id for node in shared.nodes]
    shared.run(shared.controller.deploy("over-three", nodes=nodes, serving=ServingWish(dtype="float32")))
    try:
        compare(shared, "over-three", reference, (0, 5, 7))
    finally:
        shared.run(shared.controller.undeploy("over-three"))
        shared.run(shared.controller.remove_model("over-three"))


def test_a_seed_gives_the_same_answer_again_alone_and_in_company(shared: System, tiny: Path) -> None:
    shared.run(shared.controller.add_model(str(tiny), name="seeded"))
    shared.run(shared.controller.deploy("seeded", nodes=[node.id for node in shared.nodes[:2]]))
    try:
        prompt = [5, 6, 7, 8]
        settings = {"temperature": 0.9, "top_k": 50, "top_p": 0.95, "seed": 42, "max_tokens": 30}
        first = shared.answer("seeded", prompt, **settings)
        company = shared.answers("seeded", [[9, 10], prompt, [11, 12, 13]], **settings)
        assert first.token_ids == company[1].token_ids
        other = shared.answer("seeded", prompt, **{**settings, "seed": 43})
        assert other.token_ids != first.token_ids
    finally:
        shared.run(shared.controller.undeploy("seeded"))

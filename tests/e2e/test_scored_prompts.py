"""Log probabilities of prompts over real agents are those that transformers computes for the whole model."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from app.serving import ServingWish
from tests.e2e.conftest import System

PROMPT = [(7 * number) % 90 + 3 for number in range(300)]


@pytest.fixture(scope="module", params=["llama", "bloom"])
def deployed(request: pytest.FixtureRequest, shared: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[
    tuple[System, str, Path]
]:  # fmt: skip
    """A model whose sequences run together, and one whose sequences run alone; over three agents."""
    from tests.worker_agent.tiny_models import make_model

    folder = tmp_path_factory.mktemp("scored") / request.param
    make_model(request.param, folder, max_position_embeddings=4096)
    shared.run(shared.controller.add_model(str(folder), name=request.param))
    shared.run(shared.controller.deploy(request.param, serving=ServingWish(context=1024, kv_tokens=4096)))
    yield shared, request.param, folder
    shared.run(shared.controller.undeploy(request.param))
    shared.run(shared.controller.remove_model(request.param))


@torch.inference_mode()
def reference(folder: Path, prompt: list[int]) -> torch.Tensor:
    """Log probabilities [tokens, vocabulary] by transformers."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return torch.log_softmax(model(torch.tensor([prompt])).logits[0].float(), dim=-1)


@pytest.mark.parametrize("length", [1, 2, 64, 65, 300])
def test_each_token_of_a_prompt_is_scored_as_transformers_scores_it(
    deployed: tuple[System, str, Path], length: int
) -> None:
    system, name, folder = deployed
    prompt = PROMPT[:length]
    run = system.begin(name, prompt, max_tokens=2, ignore_eos=True, prompt_logprobs=2, logprobs=1)
    plain = system.answer(name, prompt, max_tokens=2, ignore_eos=True)
    record = system.finish(run)
    assert record.token_ids == plain.token_ids
    assert len(run.prompt_logprobs) == length and run.prompt_logprobs[0] is None
    expected = reference(folder, prompt)
    for position in range(1, length):
        scored = run.prompt_logprobs[position]
        assert scored is not None and scored.token == prompt[position]
        assert scored.logprob == pytest.approx(float(expected[position - 1, scored.token]), abs=1e-4)
        best = expected[position - 1].topk(2)
        assert [value for _, value in scored.top] == pytest.approx(best.values.tolist(), abs=1e-4)
        for token, logprob in scored.top:
            if token == scored.token:
                assert logprob == scored.logprob
    trace = system.controller.runs.request(record.id).request_trace
    assert trace is not None and list(trace.prompt_logprobs) == run.prompt_logprobs


def test_scored_and_plain_prompts_share_steps_and_keep_their_answers(deployed: tuple[System, str, Path]) -> None:
    system, name, _ = deployed
    prompts = [PROMPT[start : start + 150] for start in range(0, 60, 10)]
    alone = [system.answer(name, prompt, max_tokens=6, ignore_eos=True).token_ids for prompt in prompts]
    runs = [
        system.begin(name, prompt, max_tokens=6, ignore_eos=True, prompt_logprobs=0 if index % 2 else None)
        for index, prompt in enumerate(prompts)
    ]
    assert [system.finish(run).token_ids for run in runs] == alone
    assert [len(run.prompt_logprobs) for run in runs] == [0, 150] * 3

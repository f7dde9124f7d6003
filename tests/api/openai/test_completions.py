"""Completions through OpenAI's client: prompts in every shape, log probabilities as transformers computes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.api.openai.conftest import Served

PROMPT = "The quick brown fox jumps over the lazy"
CLOSE = 1e-4


@pytest.fixture(scope="module")
def reference(smollm: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(smollm, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer(smollm: Path) -> Any:
    return AutoTokenizer.from_pretrained(smollm)


def logprobs_of(reference: Any, ids: list[int]) -> torch.Tensor:
    """Row i: the log probabilities of what comes after token i."""
    with torch.no_grad():
        logits: torch.Tensor = reference(torch.tensor([ids])).logits[0]
    return torch.log_softmax(logits, dim=-1)


def test_an_answer_equals_the_controllers(served: Served, client: openai.OpenAI) -> None:
    record = served.system.answer("smollm", PROMPT, max_tokens=8)
    answer = client.completions.create(model="smollm", prompt=PROMPT, temperature=0, max_tokens=8)
    assert answer.choices[0].text == record.result
    assert answer.choices[0].finish_reason == "length"
    assert answer.choices[0].logprobs is None
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (record.prompt_tokens, 8)


def test_sixteen_tokens_are_the_default(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="smollm", prompt=PROMPT, temperature=0, extra_body={"ignore_eos": True})
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 16


def test_prompts_come_as_texts_and_as_token_ids(client: openai.OpenAI, tokenizer: Any) -> None:
    texts = [PROMPT, "One, two, three,"]
    ids = [tokenizer.encode(text) for text in texts]
    shapes: list[Any] = [texts, ids, texts[0], ids[0]]
    options: dict[str, Any] = {"model": "smollm", "temperature": 0, "max_tokens": 4}
    both, by_ids, one, one_by_ids = (client.completions.create(prompt=shape, **options) for shape in shapes)
    assert [choice.index for choice in both.choices] == [0, 1]
    assert [choice.text for choice in by_ids.choices] == [choice.text for choice in both.choices]
    assert one.choices[0].text == one_by_ids.choices[0].text == both.choices[0].text
    assert both.choices[1].text.startswith(" four")
    assert both.usage is not None
    assert both.usage.prompt_tokens == sum(map(len, ids))


def test_choices_of_several_prompts_are_numbered_prompt_by_prompt(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="smollm", prompt=["One, two,", PROMPT], n=2, temperature=0, max_tokens=3, stream=True
    )
    texts = ["", "", "", ""]
    for chunk in answer:
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts[0] == texts[1] != texts[2] == texts[3]
    assert all(texts)


def test_logprobs_equal_transformers(client: openai.OpenAI, reference: Any, tokenizer: Any) -> None:
    answer = client.completions.create(model="smollm", prompt=PROMPT, temperature=0, max_tokens=5, logprobs=3)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.tokens and logprobs.token_logprobs and logprobs.top_logprobs
    assert "".join(logprobs.tokens) == answer.choices[0].text
    assert logprobs.text_offset == [sum(map(len, logprobs.tokens[:i])) for i in range(5)]
    prompt = tokenizer.encode(PROMPT)
    ids = prompt + tokenizer.encode(answer.choices[0].text)
    expected = logprobs_of(reference, ids)[len(prompt) - 1 : -1]
    for row, token, logprob, top in zip(
        expected, ids[len(prompt) :], logprobs.token_logprobs, logprobs.top_logprobs, strict=True
    ):
        assert logprob == pytest.approx(float(row[token]), abs=CLOSE)
        values, likeliest = row.topk(3)
        assert list(top) == [tokenizer.decode([int(each)]) for each in likeliest]
        assert list(top.values()) == pytest.approx(values.tolist(), abs=CLOSE)


@pytest.mark.parametrize("as_ids", [False, True])
@pytest.mark.parametrize("max_tokens", [0, 1])
def test_echo_has_the_prompts_logprobs(
    client: openai.OpenAI, reference: Any, tokenizer: Any, max_tokens: int, as_ids: bool
) -> None:
    ids = tokenizer.encode(PROMPT)
    prompt = ids if as_ids else PROMPT
    answer = client.completions.create(
        model="smollm", prompt=prompt, echo=True, logprobs=1, max_tokens=max_tokens, temperature=0
    )
    (choice,) = answer.choices
    logprobs = choice.logprobs
    assert logprobs is not None and logprobs.tokens and logprobs.token_logprobs and logprobs.text_offset
    assert choice.text.startswith(PROMPT)
    assert choice.text == "".join(logprobs.tokens)
    assert len(logprobs.tokens) == len(ids) + max_tokens
    assert choice.text[logprobs.text_offset[3] :].startswith(logprobs.tokens[3])
    assert logprobs.token_logprobs[0] is None
    assert logprobs.top_logprobs is not None and logprobs.top_logprobs[0] is None
    expected = [float(row[token]) for row, token in zip(logprobs_of(reference, ids), ids[1:], strict=False)]
    assert logprobs.token_logprobs[1 : len(ids)] == pytest.approx(expected, abs=CLOSE)
    assert answer.usage is not None
    assert answer.usage.completion_tokens == max_tokens


def test_a_stream_echoes_first(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": "smollm", "prompt": PROMPT, "temperature": 0, "max_tokens": 4, "logprobs": 0}
    whole = client.completions.create(**options, echo=True).choices[0]
    chunks = [chunk.choices[0] for chunk in client.completions.create(**options, echo=True, stream=True)]
    assert chunks[0].text == PROMPT
    assert "".join(chunk.text for chunk in chunks) == whole.text
    assert [chunk.finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + ["length"]
    told = [chunk.logprobs for chunk in chunks if chunk.logprobs is not None]
    assert whole.logprobs is not None
    assert [token for part in told for token in part.tokens or []] == whole.logprobs.tokens
    assert [offset for part in told for offset in part.text_offset or []] == whole.logprobs.text_offset


def test_a_token_that_is_no_whole_character_is_spelt_in_bytes(client: openai.OpenAI, tokenizer: Any) -> None:
    text = "Dragon: 🐉🐉🐉"
    answer = client.completions.create(model="smollm", prompt=text, echo=True, logprobs=0, max_tokens=0, temperature=0)
    assert answer.choices[0].text == text
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.tokens
    assert any(token.startswith("bytes:\\x") for token in logprobs.tokens)


def test_a_stop_string_cuts_the_logprobs_as_it_cuts_the_text(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model="smollm", prompt="1, 2, 3, 4,", temperature=0, max_tokens=20, logprobs=0, stop="7"
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.tokens
    assert answer.choices[0].text == "".join(logprobs.tokens) == " 5, 6, "

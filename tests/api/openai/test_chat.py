"""Chat through OpenAI's client against two agents: the same answers as the controller gives, in OpenAI's form."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from app.inference.parameters import DEFAULT_MAX_TOKENS
from tests.api.openai.conftest import Served
from tests.api.serving import CONTEXT

CAPITAL: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
ANSWER = "The capital of France is Paris."


def test_an_answer_equals_the_controllers(served: Served, client: openai.OpenAI) -> None:
    record = served.system.answer("smollm", CAPITAL)
    answer = client.chat.completions.create(model="smollm", messages=CAPITAL, temperature=0)
    (choice,) = answer.choices
    assert choice.message.content == record.result == ANSWER
    assert (choice.message.role, choice.finish_reason, choice.index) == ("assistant", "stop", 0)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == record.prompt_tokens
    assert answer.usage.completion_tokens == record.completion_tokens
    assert answer.usage.total_tokens == record.prompt_tokens + record.completion_tokens
    (deployment,) = served.system.run(served.system.controller.deployments.ready("smollm"))
    assert answer.system_fingerprint == f"fp_{deployment.plan_hash[:12]}"
    run = served.system.controller.registry.requests.get(int(answer.id.removeprefix("chatcmpl-")))
    assert (run.result, answer.created) == (ANSWER, int(run.created_at.timestamp()))
    assert run.origin["via"] == "http"


def test_a_stream_has_the_role_first_the_reason_last_and_then_its_usage(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="smollm", messages=CAPITAL, temperature=0, stream=True, stream_options={"include_usage": True}
        )
    )
    first, *middle, last, usage = chunks
    assert first.choices[0].delta.role == "assistant"
    assert first.choices[0].delta.content == ""
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None] * (len(chunks) - 2) + ["stop"]
    assert last.choices[0].delta.to_dict() == {}
    assert "".join(chunk.choices[0].delta.content or "" for chunk in middle) == ANSWER
    assert len(middle) >= 5
    assert all(chunk.choices[0].delta.role is None for chunk in middle)
    assert usage.choices == []
    assert usage.usage is not None
    assert usage.usage.completion_tokens == 8
    assert all(chunk.to_dict()["usage"] is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


def test_a_stream_without_usage_does_not_speak_of_it(client: openai.OpenAI) -> None:
    chunks = client.chat.completions.create(model="smollm", messages=CAPITAL, max_tokens=2, stream=True)
    assert all("usage" not in chunk.to_dict() for chunk in chunks)


def test_async_streams_at_the_same_time_do_not_mix(served: Served) -> None:
    async def ask(client: openai.AsyncOpenAI, country: str) -> str:
        text = ""
        messages: list[Any] = [{"role": "user", "content": f"What is the capital of {country}?"}]
        async for chunk in await client.chat.completions.create(
            model="smollm", messages=messages, temperature=0, stream=True, max_tokens=12
        ):
            text += chunk.choices[0].delta.content or ""
        return text

    async def ask_all() -> list[str]:
        async with openai.AsyncOpenAI(base_url=served.url, api_key="unused", max_retries=0) as client:
            return await asyncio.gather(*(ask(client, country) for country in ("France", "Italy", "Japan")))

    assert [name for name, text in zip(("Paris", "Rome", "Tokyo"), asyncio.run(ask_all()), strict=True) if name in text]


def test_a_stop_string_ends_the_answer_before_itself(client: openai.OpenAI) -> None:
    for stop in (" Paris", [" Berlin", " Paris"]):
        answer = client.chat.completions.create(model="smollm", messages=CAPITAL, temperature=0, stop=stop)
        assert answer.choices[0].message.content == "The capital of France is"
        assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
def test_an_answer_is_cut_at_its_limit(client: openai.OpenAI, name: str) -> None:
    limit: Any = {name: 3}
    answer = client.chat.completions.create(model="smollm", messages=CAPITAL, temperature=0, **limit)
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 3


def test_an_answer_without_a_limit_may_fill_the_context(served: Served, client: openai.OpenAI, toolsmith: str) -> None:
    """Not as many as commands and pages stop at: the API has no such limit."""
    tokenizer = served.system.run(served.system.controller.tokenizer(toolsmith))
    words = (CONTEXT - DEFAULT_MAX_TOKENS - 120) // len(tokenizer.encode(" Hello" * 100)) * 100
    answer = client.chat.completions.create(
        model=toolsmith,
        messages=[{"role": "user", "content": " Hello" * words}],
        temperature=0,
        extra_body={"ignore_eos": True},
    )
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None and answer.usage.total_tokens == CONTEXT
    assert answer.usage.completion_tokens > DEFAULT_MAX_TOKENS


def test_a_seed_repeats_an_answer_and_choices_differ(client: openai.OpenAI) -> None:
    story: list[Any] = [{"role": "user", "content": "Name a colour."}]

    def ask() -> list[str | None]:
        answer = client.chat.completions.create(model="smollm", messages=story, seed=7, n=3, max_tokens=4)
        assert [choice.index for choice in answer.choices] == [0, 1, 2]
        return [choice.message.content for choice in answer.choices]

    first = ask()
    assert len(set(first)) == 3
    assert ask() == first
    single = client.chat.completions.create(model="smollm", messages=story, seed=8, max_tokens=4)
    assert single.choices[0].message.content == first[1]


def test_content_may_come_in_parts(client: openai.OpenAI) -> None:
    parts: list[Any] = [{"role": "user", "content": [{"type": "text", "text": "What is the capital of France?"}]}]
    answer = client.chat.completions.create(
        model="smollm", messages=parts, temperature=0, user="me", metadata={"a": "b"}
    )
    assert answer.choices[0].message.content == ANSWER


def test_a_biased_token_is_chosen(served: Served, client: openai.OpenAI) -> None:
    tokenizer = served.system.run(served.system.controller.tokenizer("smollm"))
    (token,) = tokenizer.encode(" Berlin", add_special_tokens=False)
    answer = client.chat.completions.create(
        model="smollm", messages=CAPITAL, temperature=0, logit_bias={str(token): 100}, max_tokens=2
    )
    assert answer.choices[0].message.content == " Berlin Berlin"


def test_further_parameters_of_vllm_are_taken(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="smollm",
        messages=CAPITAL,
        max_tokens=12,
        seed=1,
        extra_body={"top_k": 1, "min_tokens": 12, "min_p": 0.1, "repetition_penalty": 1.1},
    )
    assert (answer.choices[0].message.content or "").startswith("The capital of France is Paris")
    assert answer.choices[0].finish_reason == "length"


def test_chat_logprobs_join_to_the_text_and_have_the_likeliest(client: openai.OpenAI) -> None:
    options: Any = {"logprobs": True, "top_logprobs": 3, "temperature": 0, "model": "smollm", "messages": CAPITAL}
    answer = client.chat.completions.create(**options)
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    assert "".join(entry.token for entry in logprobs.content) == ANSWER
    assert b"".join(bytes(entry.bytes or []) for entry in logprobs.content) == ANSWER.encode()
    for entry in logprobs.content:
        assert len(entry.top_logprobs) == 3
        assert (entry.top_logprobs[0].token, entry.top_logprobs[0].logprob) == (entry.token, entry.logprob)
        assert entry.logprob <= 0
    streamed = [
        entry
        for chunk in client.chat.completions.create(**options, stream=True)
        if (told := chunk.choices[0].logprobs) is not None
        for entry in told.content or []
    ]
    assert [entry.token for entry in streamed] == [entry.token for entry in logprobs.content]

"""Prompts that begin as an earlier one did: faster, told in the usage and in the run, and never across keys."""

from __future__ import annotations

import asyncio
from typing import Any

import openai
import pytest

from app.api.keys import make_key
from app.inference.parameters import GenerationParameters
from app.inference.prompt import TokenPrompt
from app.runs.reader import RunReader
from app.runs.telling import tell
from tests.api.openai.conftest import Served

STORY = "A fox who lived by the river wanted to know where the water went at night. " * 12


def talk(*said: str) -> list[Any]:
    roles = ("user", "assistant")
    return [{"role": roles[place % 2], "content": text} for place, text in enumerate(said)]


def test_the_second_turn_of_a_chat_reads_what_is_new_alone(served: Served, client: openai.OpenAI) -> None:
    asked = f"{STORY} Who is this about?"
    first = client.chat.completions.create(model="smollm", messages=talk(asked), temperature=0, max_tokens=8)
    answer = first.choices[0].message.content
    assert first.usage is not None and first.usage.prompt_tokens > 150 and answer
    second = client.chat.completions.create(
        model="smollm", messages=talk(asked, answer, "And what did it want?"), temperature=0, max_tokens=8
    )
    assert second.usage is not None and second.usage.prompt_tokens_details is not None
    cached = second.usage.prompt_tokens_details.cached_tokens
    assert cached is not None and first.usage.prompt_tokens <= cached < second.usage.prompt_tokens
    told = tell(RunReader(served.system.controller.registry).request(int(second.id.removeprefix("chatcmpl-"))))
    assert ("Prompt", f"{cached} of {second.usage.prompt_tokens} tokens from cache") in told.figures


def test_what_came_from_memory_changes_no_token(served: Served) -> None:
    """In float32, against the same prompt that was computed whole."""

    async def ask(prompt: tuple[int, ...], *, apart: bool) -> tuple[tuple[int, ...], int]:
        inference = served.system.controller.inference
        run = await inference.submit(
            "smollm", TokenPrompt(prompt), GenerationParameters(max_tokens=16, ignore_eos=True), apart=apart
        )
        record = await run.wait()
        assert record.error is None, record.error
        return record.token_ids, run.cached_tokens

    prompt = tuple(1000 + 7 * place for place in range(120))
    expected, none = served.system.run(ask(prompt, apart=True))
    assert none == 0
    served.system.run(ask(prompt[:90], apart=False))
    found, cached = served.system.run(ask(prompt, apart=False))
    assert cached == 90
    assert found == expected


def test_a_short_chat_does_not_wait_for_one_that_may_fill_the_memory(served: Served) -> None:
    """The long one names no limit, so it might come to all that the context holds."""

    async def both() -> bool:
        controller = served.system.controller
        endless = GenerationParameters(max_tokens=None, ignore_eos=True)
        long = await controller.generate("smollm", TokenPrompt((504, 3575, 282)), endless)
        while not long.token_ids:
            await asyncio.sleep(0.01)
        short = await controller.generate("smollm", TokenPrompt((1132, 30, 1820)), GenerationParameters(max_tokens=3))
        await short.wait()
        beside = not long.is_over
        await long.cancel()
        return beside

    assert served.system.run(both()), "it came beside the long one, not after it"


def test_keys_do_not_share_what_their_prompts_left_unless_the_owner_allows_it(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, inference = served.system.controller.registry, served.system.controller.inference
    keys = {name: make_key(registry, name) for name in ("anna", "bert")}

    def cached(name: str) -> int | None:
        with served.client(api_key=keys[name]) as client:
            answer = client.completions.create(model="smollm", prompt=f"Secrets. {STORY}", temperature=0, max_tokens=4)
        assert answer.usage is not None and answer.usage.prompt_tokens_details is not None
        return answer.usage.prompt_tokens_details.cached_tokens

    try:
        assert [cached("anna"), cached("bert")] == [0, 0]
        assert cached("anna") and cached("bert"), "each has its own"
        monkeypatch.setattr(inference, "shares_prompts", lambda: True)
        assert cached("anna") == 0, "the owner's prompts are a group of their own"
        assert cached("bert")
    finally:
        for name in keys:
            registry.api_keys.remove(name)

"""Thinking and calls of tools in real answers: a model whose tokens are known, served, asked by OpenAI's own client."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from app.serving import ServingWish
from tests.api.openai.conftest import Served
from tests.api.openai.scripted_models import make_scripted_model
from tests.api.openai.scripted_ways import PARIS, TOOLS, WAYS


@pytest.fixture(scope="module")
def models(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    root, system = tmp_path_factory.mktemp("ways"), served.system
    names = {}
    for name, way in WAYS.items():
        folder = make_scripted_model(root / name, way.template, way.scripts, way.special, way.added)
        system.run(system.controller.add_model(str(folder), name=name))
        system.run(
            system.controller.deploy(name, nodes=[system.nodes[0].id], serving=ServingWish(context=512, kv_tokens=512))
        )
        names[name] = name
    yield names
    for name in names:
        system.run(system.controller.undeploy(name))
        system.run(system.controller.remove_model(name))


def ask(client: openai.OpenAI, model: str, number: int, **options: Any) -> Any:
    messages: list[Any] = [{"role": "user", "content": str(number)}]
    return client.chat.completions.create(
        **{"model": model, "messages": messages, "temperature": 0, "max_tokens": 300, **options}
    )


def streamed(client: openai.OpenAI, model: str, number: int, **options: Any) -> tuple[str, str, list[list[str]], str]:
    """The thinking, the text, each call's id, name and arguments, and why it ended."""
    calls: list[list[str]] = []
    thinking, content, reason = "", "", ""
    for chunk in ask(client, model, number, stream=True, **options):
        (choice,) = chunk.choices
        thinking += getattr(choice.delta, "reasoning_content", None) or ""
        content += choice.delta.content or ""
        reason = choice.finish_reason or reason
        for call in choice.delta.tool_calls or []:
            if call.id:
                assert call.index == len(calls) and call.type == "function"
                calls.append([call.id, call.function.name, ""])
            calls[call.index][2] += call.function.arguments or ""
    return thinking, content, calls, reason


@pytest.mark.parametrize("way", WAYS)
def test_calls_come_as_such_streamed_and_whole(client: openai.OpenAI, models: dict[str, str], way: str) -> None:
    wanted, thought = [["get_weather", PARIS], ["clock", "{}"]], ""
    if way == "gpt-oss":
        wanted, thought = wanted[:1], "so"
    message = ask(client, models[way], 0, tools=TOOLS).choices[0].message
    assert [[call.function.name, call.function.arguments] for call in message.tool_calls] == wanted
    assert (message.content, getattr(message, "reasoning_content", "")) == ("Hm.", thought)
    thinking, content, told, reason = streamed(client, models[way], 0, tools=TOOLS)
    assert ([call[1:] for call in told], content, thinking, reason) == (wanted, "Hm.", thought, "tool_calls")
    assert len({call[0] for call in told}) == len(told)


@pytest.mark.parametrize("way", WAYS)
def test_without_tools_a_call_is_text(client: openai.OpenAI, models: dict[str, str], way: str) -> None:
    message = ask(client, models[way], 0).choices[0].message
    assert message.tool_calls is None
    assert message.content.removeprefix("Hm.").strip() in WAYS[way].scripts[0]
    assert "get_weather" in message.content


@pytest.mark.parametrize("way", WAYS)
def test_thinking_comes_apart_from_the_answer(client: openai.OpenAI, models: dict[str, str], way: str) -> None:
    extra = {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}} if way == "qwen3-coder" else {}}
    answer = ask(client, models[way], 1, **extra)
    message = answer.choices[0].message
    assert (message.reasoning_content, message.content) == ("so", "Yes.")
    assert streamed(client, models[way], 1, **extra) == ("so", "Yes.", [], "stop")
    # so, a line break and </think>; or <|channel|>, analysis, <|message|>, so
    thought = {"qwen3-coder": 4, "gpt-oss": 12}[way]
    assert answer.usage.completion_tokens_details.reasoning_tokens == thought


def test_the_model_may_begin_its_thinking_itself(client: openai.OpenAI, models: dict[str, str]) -> None:
    assert streamed(client, "qwen3-coder", 2) == ("well", "No.", [], "stop")


def test_thinking_that_never_ends_is_no_answer(client: openai.OpenAI, models: dict[str, str]) -> None:
    extra = {"extra_body": {"chat_template_kwargs": {"enable_thinking": True}}}
    assert streamed(client, "qwen3-coder", 3, **extra) == ("endless", "", [], "stop")


@pytest.mark.parametrize("effort", [None, "none"])
def test_without_thinking_the_answer_comes_at_once(
    client: openai.OpenAI, models: dict[str, str], effort: str | None
) -> None:
    off = {"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}
    options = off if effort is None else {"reasoning_effort": effort}
    assert streamed(client, "qwen3-coder", 3, **options) == ("", "endless", [], "stop")


def test_what_the_template_was_given_is_recorded_and_the_prompt_is_made_of_it(
    served: Served, client: openai.OpenAI, models: dict[str, str]
) -> None:
    messages: list[Any] = [{"role": "user", "content": "1"}]
    raw = client.chat.completions.with_raw_response.create(
        model="gpt-oss", messages=messages, max_tokens=1, reasoning_effort="low"
    )
    system = served.system
    record = system.controller.registry.requests.get(int(raw.headers["x-request-id"]))
    assert record.parameters["chat_template_kwargs"] == {"reasoning_effort": "low"}
    prompt = system.run(system.controller.tokenizer("gpt-oss")).decode(record.prompt_token_ids)
    assert prompt.endswith("lowassistant")


def test_an_answer_of_a_wanted_form_comes_without_thinking(client: openai.OpenAI, models: dict[str, str]) -> None:
    on: dict[str, Any] = {"chat_template_kwargs": {"enable_thinking": True}, "guided_regex": "[ab]{3}"}
    message = ask(client, "qwen3-coder", 3, extra_body=on).choices[0].message
    assert len(message.content) == 3 and set(message.content) <= {"a", "b"}
    assert not hasattr(message, "reasoning_content")


def test_logprobs_have_each_token_once_whatever_it_is_a_part_of(client: openai.OpenAI, models: dict[str, str]) -> None:
    entries = []
    for chunk in ask(client, "gpt-oss", 1, stream=True, logprobs=True):
        logprobs = chunk.choices[0].logprobs
        entries += [] if logprobs is None else [entry.token for entry in logprobs.content]
    assert "".join(entries).removesuffix("<|endoftext|>") == WAYS["gpt-oss"].scripts[1]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"add_generation_prompt": False}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"thinking": True}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": {"enable_thinking": [[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]}}, "chat_template_kwargs"),
        ({"chat_template_kwargs": "x"}, "chat_template_kwargs"),
    ],
)
def test_what_a_template_cannot_be_given_is_refused(
    client: openai.OpenAI, models: dict[str, str], body: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, "qwen3-coder", 0, extra_body=body)
    assert caught.value.param == param

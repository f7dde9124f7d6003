"""The Responses API, driven by OpenAI's own client: answered, streamed, kept, gone on from, cancelled, deleted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pydantic
import pytest

from app.registry import RequestStatus
from app.serving import ServingWish
from tests.api.openai.conftest import HERMES
from tests.api.openai.scripted_models import make_scripted_model
from tests.api.openai.scripted_ways import PARIS, WAYS, WEATHER
from tests.api.serving import CONTEXT, MODEL, Served
from tests.tiny_model import change_json
from tests.waiting import wait_until

TOOL: Any = {"type": "function", "strict": False, **WEATHER["function"]}
CITIES: Any = {
    "type": "function",
    "name": "get_city",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}
TOOLSMITH, THINKER = "toolsmith", "thinker"
FEW: dict[str, Any] = {"model": TOOLSMITH, "temperature": 0, "max_output_tokens": 12}
ENDLESS: dict[str, Any] = {"model": MODEL, "input": "Count.", "temperature": 0, "extra_body": {"ignore_eos": True}}


@pytest.fixture(scope="module")
def client(api: Served, tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    """Of a server with three models: one that says nonsense, one of that kind whose template knows tools, and one that
    thinks and calls by a script."""
    root, system = tmp_path_factory.mktemp("models"), api.system
    smith = shutil.copytree(tiny_folder, root / TOOLSMITH)
    change_json(smith / "tokenizer_config.json", chat_template=HERMES)
    way = WAYS["gpt-oss"]
    thinker = make_scripted_model(root / THINKER, way.template, way.scripts, way.special, way.added)
    for folder, context in ((smith, CONTEXT), (thinker, 512)):
        system.run(system.controller.add_model(str(folder), name=folder.name))
        serving = ServingWish(context=context, kv_tokens=context)
        system.run(system.controller.deploy(folder.name, nodes=[system.nodes[0].id], serving=serving))
    with openai.OpenAI(base_url=f"{api.url}/v1", api_key="unused", max_retries=0, timeout=120) as client:
        yield client
    for name in (TOOLSMITH, THINKER):
        system.run(system.controller.undeploy(name))
        system.run(system.controller.remove_model(name))


class Planet(pydantic.BaseModel):
    name: str = pydantic.Field(max_length=12)
    moons: int = pydantic.Field(ge=0, le=200)


def told(events: Any) -> list[dict[str, Any]]:
    return [event.to_dict() for event in events]


def prompt_of(api: Served, response: str) -> tuple[int, ...]:
    registry = api.system.controller.registry
    record = registry.responses.find(response)
    assert record is not None
    return registry.requests.get(record.request_id).prompt_token_ids


def test_a_response_is_answered_as_a_chat_is_and_can_be_read_again(api: Served, client: openai.OpenAI) -> None:
    response = client.responses.create(**FEW, input="Hello", instructions="Be brief.", metadata={"a": "b"})
    assert response.status == "incomplete" and response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert (response.metadata, response.temperature, response.instructions) == ({"a": "b"}, 0, "Be brief.")
    (message,) = response.output
    assert message.type == "message" and message.id.startswith("msg_")
    usage = response.usage
    assert usage is not None and usage.total_tokens == usage.input_tokens + usage.output_tokens
    assert client.responses.retrieve(response.id) == response
    messages: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    chat = client.chat.completions.create(model=TOOLSMITH, messages=messages, temperature=0, max_tokens=12)
    assert chat.choices[0].message.content == response.output_text != "" and chat.usage is not None
    assert (chat.usage.prompt_tokens, chat.usage.completion_tokens) == (usage.input_tokens, 12)


def test_a_stream_tells_what_the_whole_response_has_and_may_be_read_on_from_any_event(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {**FEW, "max_output_tokens": 40, "input": "Hello"}
    include: Any = ["message.output_text.logprobs"]
    events = list(client.responses.create(**options, include=include, top_logprobs=2, stream=True))
    names = [event.type.removeprefix("response.") for event in events]
    assert names[:4] == ["created", "in_progress", "output_item.added", "content_part.added"]
    assert names[-4:] == ["output_text.done", "content_part.done", "output_item.done", "incomplete"]
    assert set(names[4:-4]) == {"output_text.delta"} and len(names) > 20
    assert [event.sequence_number for event in events] == list(range(len(events)))
    *_, last = events
    assert last.type == "response.incomplete"
    deltas = [event for event in events if event.type == "response.output_text.delta"]
    assert "".join(event.delta for event in deltas) == last.response.output_text
    entries = [entry for event in deltas for entry in event.logprobs]
    assert len(entries) > 20 and all(len(entry.top_logprobs or []) == 2 for entry in entries)
    assert client.responses.retrieve(last.response.id) == last.response
    for after in (0, 5, len(events) - 2):
        again = client.responses.retrieve(last.response.id, stream=True, starting_after=after)
        assert told(again) == told(events[after + 1 :]), "from the registry, as it was told first"


def test_thinking_text_and_calls_come_as_items_streamed_and_whole(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": THINKER, "input": "0", "tools": [TOOL], "temperature": 0}
    whole = client.responses.create(**options)
    assert whole.status == "completed"
    thinking, message, call = whole.output
    assert thinking.type == "reasoning" and thinking.content and thinking.content[0].text == "so"
    assert message.type == "message" and whole.output_text == "Hm."
    assert call.type == "function_call" and (call.name, call.arguments) == ("get_weather", PARIS)
    assert whole.usage is not None and whole.usage.output_tokens_details.reasoning_tokens > 0
    events = list(client.responses.create(**options, stream=True))
    for kind, field, wanted in (
        ("reasoning_text", "text", "so"),
        ("output_text", "text", "Hm."),
        ("function_call_arguments", "arguments", PARIS),
    ):
        deltas: list[Any] = [event for event in events if event.type == f"response.{kind}.delta"]
        (done,) = [event for event in events if event.type == f"response.{kind}.done"]
        assert "".join(event.delta for event in deltas) == getattr(done, field) == wanted
    assert [event.output_index for event in events if event.type == "response.output_item.added"] == [0, 1, 2]
    last = events[-1]
    assert last.type == "response.completed"
    assert told(client.responses.retrieve(last.response.id, stream=True)) == told(events), "the ids of calls, too"
    with client.responses.stream(response_id=last.response.id) as stream:
        assert stream.get_final_response().output_text == "Hm.", "as the client itself puts them together"


def test_a_tool_is_called_and_its_result_sent_back(api: Served, client: openai.OpenAI) -> None:
    """By the response that called it, with all items sent along, and by reference: the model reads the same."""
    chosen: Any = {"type": "function", "name": "get_city"}
    first = client.responses.create(
        model=TOOLSMITH, tools=[CITIES], input="Which city?", tool_choice=chosen, max_output_tokens=400,
        extra_body={"seed": 3},
    )  # fmt: skip
    (call,) = first.output
    assert call.type == "function_call" and json.loads(call.arguments)["city"] in ("Paris", "Rome")
    result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "Paris it is"}
    asked: Any = {"role": "user", "content": "Which city?"}
    made: Any = call.to_dict()
    reference: Any = {"type": "item_reference", "id": call.id}
    wanted: dict[str, Any] = {"model": TOOLSMITH, "tools": [CITIES], "max_output_tokens": 1}
    answers = [
        client.responses.create(**wanted, input=[result], previous_response_id=first.id),
        client.responses.create(**wanted, input=[asked, made, result]),
        client.responses.create(**wanted, input=[asked, reference, result]),
    ]
    prompts = [prompt_of(api, answer.id) for answer in answers]
    assert prompts[0] == prompts[1] == prompts[2]
    text = api.system.run(api.system.controller.tokenizer(TOOLSMITH)).decode(prompts[0], skip_special_tokens=False)
    arguments = json.dumps(json.loads(call.arguments), ensure_ascii=False)
    assert (
        f'<tool_call>\n{{"name": "get_city", "arguments": {arguments}}}\n</tool_call><|im_end|>\n'
        "<|im_start|>tool\nParis it is<|im_end|>\n<|im_start|>assistant\n"
    ) in text
    items = client.responses.input_items.list(answers[0].id, order="asc", limit=2)
    assert [item.type for item in items] == ["message", "function_call", "function_call_output"], "over two pages"
    assert client.responses.input_items.list(answers[0].id, limit=1).data[0].type == "function_call_output"


def test_a_conversation_goes_on_from_an_earlier_response(client: openai.OpenAI) -> None:
    first = client.responses.create(**FEW, input="Hello")
    second = client.responses.create(**FEW, input="And?", previous_response_id=first.id)
    messages: list[Any] = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "And?"},
    ]
    chat = client.chat.completions.create(model=TOOLSMITH, messages=messages, temperature=0, max_tokens=12)
    assert second.output_text == chat.choices[0].message.content
    assert second.usage is not None and chat.usage is not None
    assert second.usage.input_tokens == chat.usage.prompt_tokens
    assert second.usage.input_tokens_details.cached_tokens > 0
    client.responses.delete(first.id)
    assert len(client.responses.input_items.list(second.id).data) == 3, "what came of it is its own"


def test_an_answer_follows_a_schema(client: openai.OpenAI) -> None:
    parsed = client.responses.parse(model=MODEL, input="A planet?", text_format=Planet, extra_body={"seed": 3})
    assert isinstance(parsed.output_parsed, Planet)


def test_what_runs_in_the_background_is_looked_at_followed_and_cancelled(client: openai.OpenAI) -> None:
    begun = client.responses.create(**ENDLESS, background=True)
    assert begun.status in ("queued", "in_progress") and begun.background
    wait_until(lambda: bool(client.responses.retrieve(begun.id).output), 30)
    with client.responses.retrieve(begun.id, stream=True) as stream:
        names = [next(stream).type for _ in range(6)]
    assert names[:3] == ["response.created", "response.queued", "response.in_progress"]
    assert client.responses.retrieve(begun.id).status == "in_progress", "who leaves ends nothing"
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(**FEW, input="And?", previous_response_id=begun.id)
    assert caught.value.param == "previous_response_id"
    cancelled = client.responses.cancel(begun.id)
    assert cancelled.status == "cancelled" and cancelled.output_text
    events = list(client.responses.retrieve(begun.id, stream=True, starting_after=5))
    assert events[0].sequence_number == 6 and events[-1].type == "response.incomplete"
    assert client.responses.cancel(begun.id).status == "cancelled"


def test_a_stream_whose_client_does_not_come_back_is_ended(
    client: openai.OpenAI, monkeypatch: pytest.MonkeyPatch
) -> None:
    with client.responses.create(**ENDLESS, stream=True) as stream:
        created = next(stream)
        last = next(event for event in stream if event.type == "response.output_text.delta")
    assert created.type == "response.created"
    id = created.response.id
    monkeypatch.setattr("app.api.openai.responses.followers.RETURN_SECONDS", 0.01)
    with client.responses.retrieve(id, stream=True, starting_after=last.sequence_number) as stream:
        assert next(stream).sequence_number == last.sequence_number + 1, "who comes back in time reads on"
    wait_until(lambda: client.responses.retrieve(id).status == "cancelled", 30)


def test_what_is_not_to_be_stored_leaves_no_text(api: Served, client: openai.OpenAI) -> None:
    raw = client.responses.with_raw_response.create(**FEW, input="Hello", store=False)
    response = raw.parse()
    assert response.output_text and response.store is False
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(response.id)
    registry = api.system.controller.registry
    record = registry.requests.get(int(raw.headers["x-request-id"]))
    assert (record.status, record.prompt, record.result, record.token_ids) == (RequestStatus.COMPLETED, "", "", ())
    kept = client.responses.with_raw_response.create(**FEW, input="Hello")
    client.responses.delete(kept.parse().id)
    with pytest.raises(openai.NotFoundError):
        client.responses.delete(kept.parse().id)
    assert registry.requests.get(int(kept.headers["x-request-id"])).result == "", "what is deleted leaves none either"


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a tool of OpenAI's": ({"tools": [{"type": "web_search"}]}, "tools[0]"),
    "an image": ({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}, "input[0].content[0]"),
    "an item that is none of ours": ({"input": [{"type": "computer_call"}]}, "input[0].type"),
    "an item that is not there": ({"input": [{"type": "item_reference", "id": "msg_1"}]}, "input[0].id"),
    "a result of no call": (
        {"input": [{"type": "function_call_output", "call_id": "c", "output": ""}]}, "input[0].call_id"
    ),
    "a message of nobody": ({"input": [{"content": "x"}]}, "input[0].role"),
    "no input": ({"input": None}, "input"),
    "an earlier response that is not there": ({"previous_response_id": "resp_1"}, "previous_response_id"),
    "what would be read later, and is not kept": ({"background": True, "store": False}, "background"),
    "a conversation": ({"conversation": "conv_1"}, "conversation"),
    "a prompt that is kept elsewhere": ({"prompt": {"id": "p"}}, "prompt"),
    "cutting": ({"truncation": "auto"}, "truncation"),
    "thinking summed up": ({"reasoning": {"summary": "detailed"}}, "reasoning.summary"),
    "an effort that the template cannot follow": ({"reasoning": {"effort": "high"}}, "reasoning.effort"),
    "a schema that cannot be followed": (
        {"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "no-such-type"}}}},
        "text.format.schema",
    ),
    "another length": ({"text": {"verbosity": "low"}}, "text.verbosity"),
    "log probabilities by half": ({"top_logprobs": 3}, "top_logprobs"),
    "more than there is": ({"include": ["everything"]}, "include"),
    "the chat's name for a limit": ({"max_tokens": 5}, "max_tokens"),
    "no tokens": ({"max_output_tokens": 0}, "max_output_tokens"),
    "several answers": ({"n": 2}, "n"),
    "two forms at once": ({"text": {"format": {"type": "json_object"}}, "guided_regex": "a"}, "guided_regex"),
    "a tool that is not there": (
        {"tools": [TOOL], "tool_choice": {"type": "function", "name": "other"}}, "tools"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_honoured_is_refused_by_name(client: openai.OpenAI, what: str) -> None:
    change, param = REFUSED[what]
    body = {"model": MODEL, "input": "Hello", "max_output_tokens": 1, **change}
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/responses", body=body, cast_to=object)
    assert caught.value.param == param


def test_a_prompt_that_is_too_long_is_told_by_the_status_or_by_the_response(client: openai.OpenAI) -> None:
    options: dict[str, Any] = {"model": MODEL, "input": "0123 " * CONTEXT}
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as caught:
            client.responses.create(**options, stream=stream)
        assert caught.value.code == "context_length_exceeded"
    begun = client.responses.create(**options, background=True)
    wait_until(lambda: client.responses.retrieve(begun.id).status == "failed", 30)
    error = client.responses.retrieve(begun.id).error
    assert error is not None and "tokens" in error.message
    assert list(client.responses.retrieve(begun.id, stream=True))[-1].type == "response.failed"

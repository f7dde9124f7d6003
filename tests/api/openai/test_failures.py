"""What goes wrong reaches OpenAI's client as the error it knows, with the status and the field that fit."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from app.api.server import ApiServer
from app.controller_settings import ServerSettings
from app.paths import Home
from app.serving import ServingWish
from tests.api.openai.conftest import Served, serve
from tests.api.serving import CONTEXT, MODEL
from tests.e2e.conftest import open_system
from tests.waiting import wait_until

HELLO: list[Any] = [{"role": "user", "content": "Hello"}]


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    (model,) = [model for model in client.models.list() if model.id == "smollm"]
    assert (model.object, model.owned_by) == ("model", "shardboard")
    assert client.models.retrieve("smollm") == model
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("no/such-model")
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_model_is_not_found(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.NotFoundError, match="'gpt-9' does not exist") as caught:
        client.chat.completions.create(model="gpt-9", messages=HELLO, stream=stream)
    assert (caught.value.code, caught.value.param, caught.value.type) == (
        "model_not_found",
        "model",
        "invalid_request_error",
    )


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"temperature": -1}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"n": 0}, "n"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role"),
        ({"messages": [{"role": "user"}]}, "messages[0].content"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages[0].content[0]",
        ),
        ({"stop": [""]}, "stop[0]"),
        ({"logit_bias": {"x": 1}}, "logit_bias.x"),
        ({"logit_bias": {"3": 1000}}, "logit_bias"),
        ({"logit_bias": {"99999999": 1}}, "logit_bias"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"min_tokens": 9, "max_tokens": 3}, "min_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"functions": [{"name": "f"}]}, "functions"),
        ({"response_format": {"type": "yaml"}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(client: openai.OpenAI, change: dict[str, Any], param: str) -> None:
    body = {"model": "smollm", "messages": HELLO, "max_tokens": 4, **change}
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/chat/completions", body=body, cast_to=object)
    assert caught.value.param == param
    assert caught.value.type == "invalid_request_error"
    assert caught.value.message


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"prompt": None}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, "a"]}, "prompt"),
        ({"prompt": [[1], [True]]}, "prompt"),
        ({"prompt": {"a": 1}}, "prompt"),
        ({"best_of": 4}, "best_of"),
        ({"suffix": "the end"}, "suffix"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"logprobs": 101}, "logprobs"),
    ],
)
def test_a_completion_that_cannot_be_honoured_is_refused(
    client: openai.OpenAI, change: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.post("/completions", body={"model": "smollm", "prompt": "x", **change}, cast_to=object)
    assert caught.value.param == param


def test_a_missing_field_and_a_broken_body_are_told_apart(served: Served) -> None:
    missing = httpx.post(f"{served.url}/completions", json={"model": "smollm"})
    assert missing.status_code == 400
    assert missing.json()["error"]["code"] == "missing_required_parameter"
    broken = httpx.post(f"{served.url}/completions", content=b"{no", headers={"content-type": "application/json"})
    assert broken.status_code == 400
    assert "no valid JSON" in broken.json()["error"]["message"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_longer_than_the_context_says_so(client: openai.OpenAI, stream: bool) -> None:
    with pytest.raises(openai.BadRequestError, match="the context holds 2048") as caught:
        client.completions.create(model="smollm", prompt=[1] * 2048, stream=stream)
    assert caught.value.code == "context_length_exceeded"


def test_a_token_outside_the_vocabulary_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="Token id 9999999 is outside"):
        client.completions.create(model="smollm", prompt=[1, 9999999])


def test_a_wrong_key_is_told_as_one(served: Served) -> None:
    async def start() -> ApiServer:
        server = ApiServer(served.system.controller, ServerSettings(port=0, demand_key=True))
        registry = served.system.controller.registry
        if not registry.api_keys.list():
            registry.api_keys.add(name="test", digest="0" * 64, hint="sb-0…")
        await server.start()
        return server

    locked = served.system.run(start())
    try:
        with (
            openai.OpenAI(base_url=f"{locked.url}/v1", api_key="sb-wrong", max_retries=0) as client,
            pytest.raises(openai.AuthenticationError) as caught,
        ):
            client.chat.completions.create(model="smollm", messages=HELLO)
        assert caught.value.code == "invalid_api_key"
    finally:
        served.system.run(locked.stop(deadline=1.0))


def test_headers_tell_the_request_and_keep_proxies_from_collecting(served: Served, client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(model="smollm", messages=HELLO, max_tokens=2)
    assert raw.parse().id == f"chatcmpl-{raw.headers['x-request-id']}"
    body = {"model": "smollm", "messages": HELLO, "max_tokens": 2, "stream": True}
    with httpx.stream("POST", f"{served.url}/chat/completions", json=body) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-accel-buffering"] == "no"
        assert "no-cache" in response.headers["cache-control"]
        text = response.read().decode()
    assert text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize(
    ("path", "content", "status"),
    [
        ("completions", '{"model": "smollm", "prompt": "\\ud800"}', 400),
        ("chat/completions", '{"model": "smollm", "messages": [{"role": "user", "content": "\\ud800"}]}', 400),
        ("completions", '{"model": "smollm", "prompt": ' + "[" * 50_000 + "]" * 50_000 + "}", 400),
        ("completions", '{"model": "smollm", "prompt": "x", "temperature": 1e999}', 400),
        ("completions", '{"model": "smollm", "prompt": [99999999999999999999999]}', 400),
        ("completions", '{"model": "smollm\\u0000", "prompt": "x"}', 404),
        ("completions", "null", 400),
        ("completions", "", 400),
    ],
)
def test_no_body_breaks_the_server(served: Served, path: str, content: str, status: int) -> None:
    response = httpx.post(f"{served.url}/{path}", content=content, headers={"content-type": "application/json"})
    assert response.status_code == status, response.text
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}


# --- agents that go away ---


@pytest.fixture
def fragile(tmp_path: Path, tiny_folder: Path) -> Iterator[Served]:
    """A system of its own with a tiny model, to be broken."""
    home = Home(root=tmp_path, models=tmp_path / "models").create()
    with open_system(home) as system:
        nodes = [node.id for node in system.launch(2)]
        system.run(system.controller.add_model(str(tiny_folder), name=MODEL))
        wish = ServingWish(context=CONTEXT, kv_tokens=2 * CONTEXT, wait_seconds=0)
        system.run(system.controller.deploy(MODEL, nodes=nodes, layers="0-1,2-3", serving=wish))
        served = serve(system)
        try:
            yield served
        finally:
            system.run(served.server.stop(deadline=1.0))


def test_an_agent_killed_in_mid_answer_surfaces_as_an_error(fragile: Served) -> None:
    """Two clients wait when it is killed: one for a stream, one, which would try again, for a whole answer."""
    options: dict[str, Any] = {"model": MODEL, "messages": HELLO, "extra_body": {"ignore_eos": True}}
    system, whole = fragile.system, _Waiting(fragile, options)
    text = ""
    with fragile.client() as client, pytest.raises(openai.APIError, match="has room for layers 2–3") as caught:
        for chunk in client.chat.completions.create(**options, stream=True):
            text += chunk.choices[0].delta.content or ""
            running = system.controller.inference.running()
            if len(running) == 2 and all(len(run.token_ids) > 5 for run in running):
                system.run(system.controller.drain_node(str(system.nodes[0].id)))  # nobody takes over
                system.signal(system.nodes[1], signal.SIGKILL)
    assert len(text) > 5
    assert caught.value.code is not None and caught.value.code.startswith("node_")

    error = whole.error()
    assert error.status_code == 500
    assert error.response.headers["x-should-retry"] == "false"
    assert len(system.controller.registry.requests.list()) == 2  # it was not tried again

    # Before anything is computed a client may try again, and is told when.
    wait_until(lambda: not system.controller.nodes.link(system.nodes[1].id).is_up)
    with fragile.client() as client, pytest.raises(openai.InternalServerError) as before:
        client.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=2)
    assert before.value.status_code == 503
    assert int(before.value.response.headers["retry-after"]) > 0
    assert "x-should-retry" not in before.value.response.headers


class _Waiting(threading.Thread):
    """A client that waits for a whole answer."""

    def __init__(self, served: Served, options: dict[str, Any]) -> None:
        super().__init__()
        self._served, self._options = served, options
        self._error: openai.InternalServerError | None = None
        self.start()

    def run(self) -> None:
        with self._served.client(max_retries=2) as client:
            try:
                client.chat.completions.create(**self._options)
            except openai.InternalServerError as error:
                self._error = error

    def error(self) -> openai.InternalServerError:
        self.join(timeout=30)
        assert self._error is not None
        return self._error

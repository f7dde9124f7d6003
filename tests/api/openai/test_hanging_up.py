"""Clients that go away free what they held, and clients that do not read hold nobody up."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx
import openai
import pytest

from app.registry import RequestStatus
from tests.api.openai.conftest import Served, serve
from tests.waiting import wait_until

ENDLESS: dict[str, Any] = {
    "model": "smollm",
    "messages": [{"role": "user", "content": "Count."}],
    "max_tokens": 1900,
    "ignore_eos": True,
}
SOON = 2.0


@contextmanager
def posted(served: Served, body: dict[str, Any], receive_buffer: int = 0) -> Iterator[socket.socket]:
    """A plain connection that has sent a request; what happens to it then is the test's."""
    place = urlsplit(served.url)
    connection = socket.socket()
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.connect((place.hostname, place.port))
    content = json.dumps(body).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
    connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    with connection:
        yield connection


def computing(served: Served) -> bool:
    running = served.system.controller.inference.running()
    return bool(running) and all(len(run.token_ids) > 2 for run in running)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("n", [1, 2])
def test_a_client_that_hangs_up_frees_its_memory_at_once(served: Served, stream: bool, n: int) -> None:
    with posted(served, ENDLESS | {"stream": stream, "n": n}):
        wait_until(lambda: computing(served) and len(served.system.controller.inference.running()) == n, 30)
        assert served.sequences_held() == 2 * n
    wait_until(lambda: served.sequences_held() == 0, SOON)
    wait_until(lambda: not served.system.controller.inference.running())
    (record, *_) = served.system.controller.registry.requests.list(limit=1)
    assert record.status is RequestStatus.CANCELLED


def test_closing_a_stream_of_openais_client_ends_its_request(served: Served, client: openai.OpenAI) -> None:
    options: Any = {**ENDLESS, "extra_body": {"ignore_eos": True}}
    del options["ignore_eos"]
    stream = client.chat.completions.create(**options, stream=True)
    for chunk in stream:
        if chunk.choices[0].delta.content:
            break
    stream.close()
    wait_until(lambda: served.sequences_held() == 0, SOON)


@pytest.fixture
def narrow(served: Served) -> Iterator[Served]:
    """A second server in front of the same system, whose connections hold next to nothing that is not read."""
    narrow = serve(served.system)
    assert narrow.server._socket is not None
    narrow.server._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    yield narrow
    served.system.run(narrow.server.stop(deadline=0.1))


def test_a_client_that_never_reads_slows_nobody_and_its_answer_ends(narrow: Served, client: openai.OpenAI) -> None:
    body = ENDLESS | {"stream": True, "max_tokens": 30, "n": 2, "logprobs": True, "top_logprobs": 20}
    with posted(narrow, body, receive_buffer=2048):
        wait_until(lambda: computing(narrow), 30)
        answer = client.chat.completions.create(model="smollm", messages=ENDLESS["messages"], max_tokens=4)
        assert answer.choices[0].finish_reason == "length"
        wait_until(lambda: narrow.sequences_held() == 0, 150)

        def written() -> list[tuple[RequestStatus, int]]:
            (_, *records) = narrow.system.controller.registry.requests.list(limit=3)
            return [(record.status, record.completion_tokens) for record in records]

        wait_until(lambda: written() == [(RequestStatus.COMPLETED, 30)] * 2)
        assert narrow.server.streams == 1  # what was not read is still to be written
    wait_until(lambda: narrow.server.streams == 0, SOON)


def test_a_sign_of_life_comes_while_nothing_else_does(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.api.openai.run_group.ALIVE_SECONDS", 0.01)
    body = ENDLESS | {"stream": True, "max_tokens": 3}
    with httpx.stream("POST", f"{served.url}/chat/completions", json=body, timeout=60) as response:
        lines = list(response.iter_lines())
    assert any(line.startswith(":") for line in lines)
    assert lines[-2] == "data: [DONE]"
    data = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    assert data[-1]["choices"][0]["finish_reason"] == "length"


def test_a_request_cancelled_by_somebody_else_ends_its_stream_with_an_error(
    served: Served, client: openai.OpenAI
) -> None:
    options: Any = {**ENDLESS, "extra_body": {"ignore_eos": True}}
    del options["ignore_eos"]
    with pytest.raises(openai.APIError, match="cancelled"):
        for chunk in client.chat.completions.create(**options, stream=True):
            if chunk.choices[0].delta.content:
                (run,) = served.system.controller.inference.running()
                served.system.run(run.cancel())

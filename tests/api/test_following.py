"""Following a request as server-sent events: from its beginning on, by as many as like to, whenever they come."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.api.serving import ENDLESS, MODEL, Served
from tests.waiting import wait_until

Event = tuple[str, dict[str, Any]]


@contextmanager
def following(api: Served, request: int) -> Iterator[Iterator[Event]]:
    """The events of a request, one at a time, as they come."""
    with api.client.stream("GET", f"/shard/api/inference/stream/{request}/") as response:
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/event-stream")
        assert response.headers["x-accel-buffering"] == "no" and response.headers["cache-control"] == "no-store"
        yield _events(response.iter_lines())


def _events(lines: Iterator[str]) -> Iterator[Event]:
    name = ""
    for line in lines:
        field, _, value = line.partition(": ")
        if field == "event":
            name = value
        elif field == "data":
            yield name, json.loads(value)
        else:
            assert line == "" or line.startswith(":") or (field == "id" and value.isdigit())


def text_of(events: list[Event]) -> str:
    return "".join(data["text"] for name, data in events if name == "text")


def test_events_tell_a_request_from_its_beginning_to_its_end(api: Served) -> None:
    request = api.submit("The quick brown fox", max_tokens=20, ignore_eos=True)
    with following(api, request) as told:
        events = list(told)
    names = [name for name, _ in events]
    assert names[0] == "started" and names[-1] == "finished" and names.count("finished") == 1
    started, finished = events[0][1], events[-1][1]
    assert started == {"id": request, "prompt_tokens": finished["prompt_tokens"]}
    assert finished == api.status(request)
    assert text_of(events) == finished["text"] != ""
    counts = [data["tokens"] for name, data in events if name == "text"]
    assert counts == sorted(counts) and counts[-1] == finished["completion_tokens"] == 20


def test_text_comes_while_the_answer_is_made(api: Served) -> None:
    request = api.submit(**ENDLESS)
    with following(api, request) as told:
        next(event for event in told if event[0] == "text")
        assert api.status(request)["status"] == "processing"
        api.cancel(request)
        events = list(told)
    assert events[-1][0] == "finished" and events[-1][1]["status"] == "cancelled"


def test_several_follow_and_each_sees_all_of_it(api: Served) -> None:
    request = api.submit(**ENDLESS)
    with following(api, request) as first:
        early = [next(first) for _ in range(4)]
        with following(api, request) as second:
            late = [next(second) for _ in range(4)]
            assert early == late, "who comes later is told from the beginning on"
            assert api.server.streams == 2
            api.cancel(request)
            early += first
            late += second
    assert early == late
    assert text_of(early) == early[-1][1]["text"]
    wait_until(lambda: api.server.streams == 0)


def test_what_is_over_is_told_once_more(api: Served) -> None:
    answered = api.answer(max_tokens=5, ignore_eos=True)
    with following(api, answered["id"]) as told:
        events = list(told)
    assert events == [
        ("started", {"id": answered["id"], "prompt_tokens": answered["prompt_tokens"]}),
        ("text", {"text": answered["text"], "tokens": 5}),
        ("finished", answered),
    ]


def test_who_connects_again_is_told_what_came_after(api: Served) -> None:
    """Also of what is over, as the next controller has it."""
    answered = api.answer(max_tokens=9, ignore_eos=True)
    had = len(answered["text"]) // 2
    url = f"/shard/api/inference/stream/{answered['id']}/"
    with api.client.stream("GET", url, headers={"Last-Event-ID": str(had)}) as response:
        events = list(_events(response.iter_lines()))
    assert text_of(events) == answered["text"][had:]
    with api.client.stream("GET", url, headers={"Last-Event-ID": "x"}) as response:
        assert response.status_code == 422


def test_a_failed_request_ends_its_stream_and_says_why(api: Served) -> None:
    body = {"model": MODEL, "token_ids": [100_000]}
    request = api.post("/shard/api/inference/submit/", body, 202)["id"]
    with following(api, request) as told:
        *_, (name, finished) = told
    assert (name, finished["status"]) == ("finished", "failed") and "outside the vocabulary" in finished["error"]
    with following(api, request) as told:
        assert list(told) == [("started", {"id": request, "prompt_tokens": 1}), ("finished", finished)]


def test_a_long_prompt_tells_how_far_it_is(api: Served) -> None:
    request = api.submit("The quick brown fox. " * 200, max_tokens=2)
    with following(api, request) as told:
        progress = [data for name, data in told if name == "prompt"]
    assert progress, "the prompt was too short to be read in pieces"
    done = [each["done"] for each in progress]
    assert done == sorted(set(done)) and all(each["total"] == api.status(request)["prompt_tokens"] for each in progress)


def test_a_sign_of_life_comes_while_there_is_nothing_to_tell(api: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.api.routes.inference.COMMENT_SECONDS", 0.001)
    request = api.submit(max_tokens=10, ignore_eos=True)
    text = api.client.get(f"/shard/api/inference/stream/{request}/").text
    assert ": still at it\n\n" in text
    assert list(_events(iter(text.split("\n"))))[-1][1] == api.status(request)


def test_a_follower_that_leaves_leaves_nothing_behind(api: Served) -> None:
    request = api.submit(**ENDLESS)
    with following(api, request) as told:
        next(told)
        assert api.server.streams == 1
    wait_until(lambda: api.server.streams == 0 and api.server._gate.active == 0)
    assert api.status(request)["status"] == "processing"
    api.cancel(request)

"""Requests over REST: begun at once, looked at while they run, cancelled, listed; they go on when a client leaves."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import httpx
import pytest

from app.api.keys import make_key
from app.inference.prompt import TextPrompt
from app.registry import RequestStatus
from tests.api.browsing import browsing
from tests.api.serving import ENDLESS, MODEL, Served, connected, exchange, serving
from tests.waiting import wait_until

SUBMIT = "/shard/api/inference/submit/"
RECENT = "/shard/api/inference/recent/"


def body(**changes: Any) -> dict[str, Any]:
    return {"model": MODEL, "prompt": "The quick brown", "parameters": {"max_tokens": 4}, **changes}


def test_a_request_begins_at_once_and_its_answer_comes_later(api: Served) -> None:
    began = time.monotonic()
    submitted = api.post(SUBMIT, {"model": MODEL, "prompt": "The dog", "parameters": ENDLESS}, 202)
    assert time.monotonic() - began < 5, "it did not wait for 4000 tokens"
    assert submitted["status"] in ("pending", "processing") and submitted["completed_at"] is None
    assert (submitted["model"], submitted["prompt"]) == (MODEL, "The dog")
    assert submitted["parameters"]["max_tokens"] == 4000 and submitted["parameters"]["temperature"] == 0
    wait_until(lambda: api.status(submitted["id"])["completion_tokens"] > 3)
    first = api.status(submitted["id"])
    wait_until(lambda: api.status(submitted["id"])["completion_tokens"] > first["completion_tokens"])
    later = api.status(submitted["id"])
    assert later["status"] == "processing" and later["started_at"] is not None
    assert later["token_ids"][: len(first["token_ids"])] == first["token_ids"], "what was told stays"
    assert later["text"].startswith(first["text"])
    api.cancel(submitted["id"])


def test_the_answer_is_the_one_that_the_controller_gives(api: Served) -> None:
    told = api.answer("The quick brown fox", max_tokens=12, ignore_eos=True)
    record = api.system.answer(MODEL, "The quick brown fox", max_tokens=12, ignore_eos=True)
    assert told["token_ids"] == list(record.token_ids) and len(record.token_ids) == 12
    assert (told["text"], told["finish_reason"], told["status"]) == (record.result, "length", "completed")
    assert (told["prompt_tokens"], told["completion_tokens"]) == (record.prompt_tokens, 12)
    assert told["timings"].keys() == record.timings.keys() and told["timings"]["total"] > 0
    assert told["deployment_id"] == record.deployment_id
    assert told["error"] is None


def test_a_chat_messages_and_token_ids_are_prompts_too(api: Served) -> None:
    plain = api.answer("The dog", max_tokens=6)
    ids = list(api.record(plain["id"]).prompt_token_ids)
    by_ids = api.finished(
        api.post(SUBMIT, {"model": MODEL, "token_ids": ids, "parameters": {"max_tokens": 6}}, 202)["id"]
    )
    assert by_ids["token_ids"] == plain["token_ids"] and by_ids["prompt"] == ""

    messages = [{"role": "system", "content": "The "}, {"role": "user", "content": "dog"}]
    by_messages = api.finished(api.post(SUBMIT, body(prompt=None, messages=messages), 202)["id"])
    as_chat = api.finished(api.post(SUBMIT, body(prompt="The dog", chat=True), 202)["id"])
    # The template puts contents together as they are, without the token that begins a plain prompt.
    assert by_messages["token_ids"] == as_chat["token_ids"] and len(as_chat["token_ids"]) == 4
    assert by_messages["prompt"] == "system: The \nuser: dog" and as_chat["prompt"] == "The dog"


def test_parameters_are_honoured_and_a_seed_repeats_an_answer(api: Served) -> None:
    sampled = {"temperature": 1.5, "seed": 7, "max_tokens": 10, "ignore_eos": True, "logprobs": 2}
    first, again, other = api.answer(**sampled), api.answer(**sampled), api.answer(**{**sampled, "seed": 8})
    assert first["token_ids"] == again["token_ids"] != other["token_ids"]
    assert first["parameters"]["seed"] == 7 and first["parameters"]["logprobs"] == 2
    assert isinstance(api.answer(temperature=1.0, max_tokens=1)["parameters"]["seed"], int), "a random one is told"


def test_it_goes_on_when_its_client_leaves_before_the_answer(api: Served) -> None:
    before = api.get(RECENT, params={"limit": 1})["requests"][0]["id"]
    content = b'{"model": "tiny", "prompt": "I leave", "parameters": {"max_tokens": 30, "ignore_eos": true}}'
    head = f"POST {SUBMIT} HTTP/1.1\r\nHost: {api.host}\r\nContent-Type: application/json\r\n"
    with connected(api) as connection:
        connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        wait_until(lambda: api.get(RECENT, params={"limit": 1})["requests"][0]["id"] > before)
    (line,) = api.get(RECENT, params={"limit": 1})["requests"]
    assert line["prompt"] == "I leave"
    finished = api.finished(line["id"])
    assert (finished["status"], finished["completion_tokens"]) == ("completed", 30)


def test_it_goes_on_when_nobody_follows_it_any_more(api: Served) -> None:
    request = api.submit(max_tokens=60, ignore_eos=True)
    with api.client.stream("GET", f"/shard/api/inference/stream/{request}/") as response:
        for line in response.iter_lines():
            if line == "event: text":
                break
    assert api.finished(request)["completion_tokens"] == 60


def test_a_cancelled_request_keeps_what_it_has(api: Served) -> None:
    request = api.submit(**ENDLESS)
    wait_until(lambda: api.status(request)["completion_tokens"] > 3)
    cancelled = api.cancel(request)
    assert (cancelled["status"], cancelled["finish_reason"]) == ("cancelled", "cancelled")
    assert cancelled["error"] == "Cancelled by the user."
    assert 3 < cancelled["completion_tokens"] == len(cancelled["token_ids"]) < 4000
    assert api.record(request).status is RequestStatus.CANCELLED
    assert api.status(request) == cancelled
    assert api.cancel(request) == cancelled, "a second time changes nothing"


def test_what_was_begun_is_written_down_and_may_be_cancelled_at_once(api: Served) -> None:
    for _ in range(3):
        request = api.submit(**ENDLESS)
        assert api.record(request).id == request
        assert api.cancel(request)["status"] == "cancelled"


def test_what_is_cancelled_before_it_is_written_down_is_written_down_all_the_same(
    api: Served, caplog: pytest.LogCaptureFixture
) -> None:
    async def begin_and_cancel() -> int:
        run = await api.system.controller.generate(MODEL, TextPrompt("The quick brown"))
        await asyncio.sleep(0)  # it waits for the disk now
        await run.cancel()
        return run.id

    for _ in range(10):
        assert api.record(api.system.run(begin_and_cancel())).status is RequestStatus.CANCELLED
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []


def test_cancelling_what_is_over_changes_nothing(api: Served) -> None:
    answered = api.answer(max_tokens=3)
    assert api.cancel(answered["id"]) == answered
    assert answered["status"] == "completed"


def test_a_button_on_a_page_cancels_a_request(api: Served) -> None:
    request = api.submit(**ENDLESS)
    with browsing(api) as browser:
        answer = browser.send(f"/shard/api/inference/cancel/{request}/", page="/shard/nodes/")
    assert (answer.status_code, answer.headers["location"]) == (303, "/inference/")
    assert api.status(request)["status"] == "cancelled"


def test_requests_that_are_not_there_are_told(api: Served) -> None:
    for method, path in (("GET", "status"), ("GET", "stream"), ("POST", "cancel")):
        error = api.error(method, f"/shard/api/inference/{path}/999999/", 404)
        assert "no request 999999" in error["message"]
        api.error(method, f"/shard/api/inference/{path}/first/", 422)


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"prompt": None}, 400, "exactly one"),
        ({"token_ids": [1]}, 400, "exactly one"),
        ({"prompt": None, "messages": []}, 422, "messages"),
        ({"prompt": None, "messages": [{"role": "user"}]}, 422, "messages.0.content"),
        ({"prompt": None, "token_ids": []}, 422, "token_ids"),
        ({"prompt": None, "token_ids": ["a"]}, 422, "token_ids.0"),
        ({"prompt": 5}, 422, "prompt"),
        ({"model": "nobody"}, 404, "no model named 'nobody'"),
        ({"model": ""}, 422, "model"),
        ({"modle": "tiny"}, 422, "modle"),
        ({"parameters": {"temprature": 1}}, 422, "parameters.temprature"),
        ({"parameters": {"temperature": -1}}, 400, "temperature is -1"),
        ({"parameters": {"top_p": 0}}, 400, "top_p"),
        ({"parameters": {"max_tokens": 0}}, 400, "max_tokens"),
        ({"parameters": {"seed": 2**63}}, 400, "seed"),
        ({"parameters": {"stop": [""]}}, 400, "stop"),
        ({"parameters": {"logit_bias": {"x": 1}}}, 400, "logit_bias"),
        ({"parameters": {"min_tokens": 9, "max_tokens": 3}}, 400, "min_tokens"),
        ({"parameters": {"constraint": {"kind": "regex", "text": "("}}}, 400, "regular expression"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(
    api: Served, change: dict[str, Any], status: int, message: str
) -> None:
    given = {name: value for name, value in body(**change).items() if value is not None}
    before = api.get(RECENT, params={"limit": 1})
    assert message in api.error("POST", SUBMIT, status, json=given)["message"]
    assert api.get(RECENT, params={"limit": 1}) == before, "nothing was begun"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"prompt": None, "token_ids": [2**70]}, "outside the vocabulary"),
        ({"prompt": None, "token_ids": [1] * 4096}, "context holds 4096"),
        ({"parameters": {"logit_bias": {"99999": 1.0}}}, "logit_bias names token 99999"),
    ],
)
def test_what_is_found_out_later_is_told_by_the_request(api: Served, change: dict[str, Any], error: str) -> None:
    given = {name: value for name, value in body(**change).items() if value is not None}
    failed = api.finished(api.post(SUBMIT, given, 202)["id"])
    assert failed["status"] == "failed" and error in failed["error"]
    assert failed["finish_reason"] == "error" and failed["completion_tokens"] == 0


def test_who_asked_is_recorded(api: Served) -> None:
    key = make_key(api.system.controller.registry, "laptop")
    try:
        headers = {"x-api-key": key, "user-agent": "probe/1.0"}
        request = api.finished(api.post(SUBMIT, body(), 202, headers=headers)["id"])["id"]
    finally:
        api.system.controller.registry.api_keys.remove("laptop")
    origin = {"via": "http", "user": "laptop", "client": "probe/1.0 at 127.0.0.1"}
    assert api.record(request).origin == origin
    assert api.get(f"/shard/api/runs/request/{request}/")["run"]["trace"]["origin"] == origin
    plain = api.record(api.answer(max_tokens=1)["id"]).origin
    assert (plain["via"], plain["user"]) == ("http", "") and "httpx" in plain["client"]


def test_a_client_without_a_name_and_one_with_a_long_one_are_recorded(api: Served) -> None:
    content = b'{"model": "tiny", "prompt": "x", "parameters": {"max_tokens": 1}}'
    head = f"POST {SUBMIT} HTTP/1.1\r\nHost: {api.host}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    for agent, expected in (("", "a client without a name"), ("User-Agent: " + "\x80x" * 400 + "\r\n", "x" * 200)):
        status, answer = exchange(
            api, f"{head}{agent}Content-Length: {len(content)}\r\n\r\n".encode("latin-1") + content
        )
        assert status == 202
        request = httpx.Response(200, text=answer).json()["id"]
        assert api.record(request).origin["client"] == f"{expected} at 127.0.0.1"
        api.finished(request)


def test_the_newest_requests_are_listed_in_pages_and_by_what_they_are(api: Served) -> None:
    made = [api.answer(f"Number {number}", max_tokens=1)["id"] for number in range(3)]
    cancelled = api.cancel(api.submit("Never mind " * 100, **ENDLESS))["id"]
    newest = [cancelled, *reversed(made)]
    listed = api.get(RECENT, params={"limit": 4})["requests"]
    assert [line["id"] for line in listed] == newest
    assert "text" not in listed[0] and len(listed[0]["prompt"]) == 240, "the beginning of the prompt is enough"
    pages = [api.get(RECENT, params={"limit": 2, "offset": offset})["requests"] for offset in (0, 2)]
    assert [line["id"] for page in pages for line in page] == newest
    assert api.get(RECENT, params={"status": "cancelled", "limit": 1})["requests"][0]["id"] == cancelled
    assert api.get(RECENT, params={"status": "completed", "limit": 1})["requests"][0]["id"] == made[-1]
    assert api.get(RECENT, params={"model": MODEL, "limit": 1})["requests"][0]["id"] == cancelled
    assert api.get(RECENT, params={"model": "nobody"}) == {"requests": []}
    assert api.get(RECENT, params={"offset": 100_000}) == {"requests": []}
    for wrong in ({"limit": 0}, {"limit": 1001}, {"offset": -1}, {"status": "lost"}, {"model": "x" * 201}):
        api.error("GET", RECENT, 422, params=wrong)


def test_two_servers_tell_the_same_of_a_request(api: Served) -> None:
    request = api.submit(**ENDLESS)
    with serving(api.system) as second:
        wait_until(lambda: second.status(request)["completion_tokens"] > 0)
        assert second.cancel(request)["status"] == "cancelled"
    assert api.status(request)["status"] == "cancelled"

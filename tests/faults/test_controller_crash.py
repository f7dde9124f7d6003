"""The controller dies without a word while answers are under way; the next one finishes what it began."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import secrets
import signal
import statistics
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.paths import Home
from app.registry import Registry
from app.runs.trace import RequestTrace, unpack
from tests.cli.programs import CommandLine, Service, make_tiny_model, runs
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(os.name == "nt", reason="programs that are killed as Unix does it")
TOKENS = 150
MANY_TOKENS = 80
API = "/shard/api/inference"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[CommandLine, Path]]:
    """A home with a tiny model in float32 over two agents."""
    home = tmp_path_factory.mktemp("home")
    folder = make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")
    commands = CommandLine(home)
    commands.run("model", "add", str(folder), "--name", "tiny")
    nodes = commands.json("node", "local", "2")
    wish = ("--layers", "0-1,2", "--context", "4096", "--kv-tokens", "8192", "--dtype", "float32")
    commands.run("deploy", "tiny", *wish)
    yield commands, home
    for node in nodes:
        commands.run("node", "remove", str(node["id"]))
    for node in nodes:
        assert not runs(node["local_pid"])


@pytest.fixture
def expected(place: tuple[CommandLine, Path]) -> dict[str, Any]:
    commands, _ = place
    told: dict[str, Any] = commands.json(
        "generate", "tiny", "Hello", "--raw", "--max-tokens", str(TOKENS), "--ignore-eos"
    )
    return told


def call(url: str, method: str = "GET", **body: Any) -> Any:
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return json.load(answer)


def begin(service: Service, count: int = 1) -> list[int]:
    """Requests over HTTP that nobody waits for; their numbers."""
    told = [
        call(
            f"{service.url}{API}/submit/",
            "POST",
            model="tiny",
            prompt="Hello",
            parameters={"max_tokens": TOKENS, "ignore_eos": True},
        )
        for _ in range(count)
    ]
    return [each["id"] for each in told]


def finished(service: Service, number: int) -> dict[str, Any]:
    def over() -> bool:
        found.update(call(f"{service.url}{API}/status/{number}/"))
        return found["status"] not in ("pending", "processing")

    found: dict[str, Any] = {}
    wait_until(over, 120)
    return found


def test_the_next_controller_finishes_what_the_last_one_began_and_the_agents_went_on_with_alone(
    place: tuple[CommandLine, Path], expected: dict[str, Any]
) -> None:
    commands, _ = place
    service = Service(*place)
    numbers = begin(service, 3)
    wait_until(lambda: all(call(f"{service.url}{API}/status/{each}/")["completion_tokens"] > 5 for each in numbers), 60)
    service.process.kill()
    service.process.wait()
    time.sleep(3)
    again = Service(*place)
    try:
        for number in numbers:
            record = finished(again, number)
            assert (record["status"], record["error"]) == ("completed", None)
            shown = commands.json("request", "show", str(number))
            assert shown["token_ids"] == expected["token_ids"]
            assert record["text"] == expected["result"]
        fresh = finished(again, begin(again)[0])
        assert fresh["text"] == expected["result"], "and answers what comes"
    finally:
        again.end()


def test_what_an_agent_took_with_it_is_computed_again_from_the_tokens_written_down(
    place: tuple[CommandLine, Path], expected: dict[str, Any]
) -> None:
    commands, _ = place
    service = Service(*place)
    (number,) = begin(service)
    wait_until(lambda: call(f"{service.url}{API}/status/{number}/")["completion_tokens"] > 5, 60)
    service.process.kill()
    service.process.wait()
    (victim, *_) = json.loads(commands.run("node", "list", "--json"))
    os.kill(victim["local_pid"], signal.SIGKILL)
    again = Service(*place)
    try:
        record = finished(again, number)
        assert (record["status"], record["error"]) == ("completed", None)
        assert record["text"] == expected["result"]
    finally:
        again.end()


def test_what_merely_waited_is_begun_by_the_next_controller(
    place: tuple[CommandLine, Path], expected: dict[str, Any]
) -> None:
    commands, _ = place
    agents = [node["local_pid"] for node in commands.json("node", "list") if runs(node["local_pid"])]
    in_a_chat = commands.json("generate", "tiny", "Hello", "--max-tokens", "40", "--ignore-eos")
    service = Service(*place)
    url = f"{service.url}{API}"
    asked: list[dict[str, Any]] = [
        {"prompt": "Hello"},
        {"messages": [{"role": "user", "content": "Hello"}]},
        {"token_ids": commands.json("request", "show", str(expected["id"]))["prompt_token_ids"]},
    ]
    answers = [expected["token_ids"][:40], in_a_chat["token_ids"], expected["token_ids"][:40]]
    wish = {"max_tokens": 40, "ignore_eos": True}
    for agent in agents:
        os.kill(agent, signal.SIGSTOP)
    try:
        told = [call(f"{url}/submit/", "POST", model="tiny", parameters=wish, **each) for each in asked]
        states = [call(f"{url}/status/{each['id']}/") for each in told]
        service.process.kill()
        service.process.wait()
    finally:
        for agent in agents:
            os.kill(agent, signal.SIGCONT)
    assert [state["completion_tokens"] for state in states] == [0, 0, 0]
    again = Service(*place)
    try:
        records = [finished(again, each["id"]) for each in told]
        assert [(record["status"], record["error"]) for record in records] == [("completed", None)] * 3
        assert [record["token_ids"] for record in records] == answers
    finally:
        again.end()


@pytest.mark.parametrize("moments", [3, pytest.param(50, marks=[pytest.mark.long, pytest.mark.timeout(3000)])])
def test_no_answer_is_lost_doubled_or_changed_whenever_the_controller_dies(
    place: tuple[CommandLine, Path], moments: int
) -> None:
    """Killed again and again, with new requests each time: while it starts, takes up what is left, begins, answers."""
    commands, home = place
    seed = int(os.environ.get("SHARDBOARD_SEED") or secrets.randbelow(10**6))
    print(f"SHARDBOARD_SEED={seed}")
    chance = random.Random(seed)
    prompts = ["Hello", "One two three", "A", "Shards of a model"]
    undisturbed = {
        prompt: commands.json("generate", "tiny", prompt, "--raw", "--max-tokens", str(MANY_TOKENS), "--ignore-eos")
        for prompt in prompts
    }
    asked: dict[int, str] = {}
    starts: list[float] = []

    def submit(service: Service, prompt: str) -> None:
        wish = {"max_tokens": MANY_TOKENS, "ignore_eos": True}
        told = call(f"{service.url}{API}/submit/", "POST", model="tiny", prompt=prompt, parameters=wish)
        assert told["id"] not in asked
        asked[told["id"]] = prompt

    for moment in range(moments):
        began = time.monotonic()
        service = Service(*place)
        try:
            if moment and chance.random() < 0.3:
                time.sleep(chance.uniform(0, 3))
            else:
                assert service.url
                starts.append(time.monotonic() - began)
                for _ in range(chance.randint(1, 4)):
                    submit(service, chance.choice(prompts))
                time.sleep(chance.uniform(0, 1.5))
        finally:
            service.process.kill()
            service.process.wait()
    began = time.monotonic()
    last = Service(*place)
    try:
        for number, prompt in asked.items():
            record = finished(last, number)
            assert (record["status"], record["error"]) == ("completed", None), (number, prompt)
            assert record["token_ids"] == undisturbed[prompt]["token_ids"], (number, prompt)
            assert record["text"] == undisturbed[prompt]["result"], (number, prompt)
        ended = time.monotonic() - began
        with Registry.open(Home(root=home, models=home).registry, lock=False) as registry:
            beginning = min(asked) - 1
            assert registry.requests.count(after_id=beginning) == len(asked), "as many as were asked for, and no more"
            # A status tells that a request is over a moment before that is on the disk.
            wait_until(lambda: all(registry.traces.get("request", str(number)) for number in asked), 30)
            traces = [unpack(registry.traces.get("request", str(number)) or b"") for number in asked]
    finally:
        last.end()
    told = sum(len(trace.interruptions) for trace in traces if isinstance(trace, RequestTrace))
    print(
        f"{moments} kills, {len(asked)} answers, {told} interruptions, all ids the same; up after "
        f"{statistics.median(starts):.1f} s (most {max(starts):.1f}), all over {ended:.1f} s after the last start"
    )


def told(url: str, *, most: int = 0, **body: Any) -> list[dict[str, Any]]:
    """The events of a response's stream: of a new one with a body, else of one that is there; so many at most."""
    data = json.dumps(body).encode() if body else None
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        events = (json.loads(line.removeprefix(b"data: ")) for line in answer if line.startswith(b"data: "))
        return list(itertools.islice(events, most or None))


def bare(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Without what two responses to the same input differ in: ids, times, and what was in memory already."""
    text = re.sub(r"(resp|msg)_[0-9a-f]{32}", r"\1", json.dumps(events))
    text = re.sub(r'"(created_at|completed_at|cached_tokens)": (\d+|null)', r'"\1": 0', text)
    cleaned: list[dict[str, Any]] = json.loads(text)
    return cleaned


@pytest.mark.long
def test_a_streamed_response_is_read_on_behind_its_last_event_from_the_next_controller(
    place: tuple[CommandLine, Path],
) -> None:
    body: dict[str, Any] = {
        "model": "tiny", "input": "Hello", "temperature": 0, "max_output_tokens": 2 * TOKENS, "ignore_eos": True,
        "stream": True,
    }  # fmt: skip
    service = Service(*place)
    undisturbed = told(f"{service.url}/v1/responses", **body)
    seen = told(f"{service.url}/v1/responses", most=40, **body)
    service.process.kill()
    service.process.wait()
    again = Service(*place)
    try:
        id, last = seen[0]["response"]["id"], seen[-1]["sequence_number"]
        rest = told(f"{again.url}/v1/responses/{id}?stream=true&starting_after={last}")
        assert bare(seen + rest) == bare(undisturbed)
        number = call(f"{again.url}{API}/recent/?limit=1")["requests"][0]["id"]
        trace = call(f"{again.url}/shard/api/runs/request/{number}/")["run"]["trace"]
        assert trace["interruptions"], "it was not over when the first one ended"
        assert rest[-1]["response"]["status"] == "incomplete" and len(rest) > TOKENS / 2
        assert told(f"{again.url}/v1/responses/{id}?stream=true") == seen + rest, "also when it is over"
    finally:
        again.end()

"""The controller dies without a word while answers are under way; the next one finishes what it began."""

from __future__ import annotations

import json
import os
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.programs import CommandLine, Service, make_tiny_model, runs
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(os.name == "nt", reason="programs that are killed as Unix does it")
TOKENS = 150
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


@pytest.mark.parametrize("pause", [0.0, 3.0], ids=["at once", "after the agents have gone on alone"])
def test_the_next_controller_finishes_what_the_last_one_began(
    place: tuple[CommandLine, Path], expected: dict[str, Any], pause: float
) -> None:
    commands, _ = place
    service = Service(*place)
    numbers = begin(service, 3)
    wait_until(lambda: all(call(f"{service.url}{API}/status/{each}/")["completion_tokens"] > 5 for each in numbers), 60)
    service.process.kill()
    service.process.wait()
    time.sleep(pause)
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

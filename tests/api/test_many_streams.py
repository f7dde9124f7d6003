"""Two hundred streams at once on one controller, as a process of its own, by OpenAI's client."""

from __future__ import annotations

import asyncio
import os
import signal
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from tests.cli.programs import CommandLine, Service, make_tiny_model

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of Unix")

STREAMS = 200
TOKENS = 12
PATIENCE = 150.0
"""Of a client; whoever waits so long hangs."""
MOST_GROWTH = 150 * 2**20
"""Of the controller's memory under two hundred streams."""
MOST_LEFT = 30 * 2**20
"""What the next two hundred may add to it."""


@dataclass(frozen=True)
class Place:
    """A home whose two agents hold a model of three layers; they outlive the controllers that drive them."""

    commands: CommandLine
    home: Path
    agents: tuple[int, ...]


@dataclass
class Told:
    """What a client saw of its stream."""

    text: str = ""
    finish_reason: str | None = None
    completion_tokens: int | None = None
    error: Exception | None = None


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    root = tmp_path_factory.mktemp("streams")
    commands = CommandLine(root / "home")
    commands.run("model", "add", str(make_tiny_model(root / "tiny")), "--name", "tiny")
    nodes = commands.json("node", "local", "2")
    commands.run("deploy", "tiny", "--layers", "0-1,2", "--context", "1024", "--kv-tokens", "16384")
    yield Place(commands, root / "home", tuple(node["local_pid"] for node in nodes))
    for node in nodes:
        commands.run("node", "remove", str(node["id"]))


@pytest.fixture
def service(place: Place) -> Iterator[Service]:
    service = Service(place.commands, place.home)
    service.wait_for("Serving at ")
    yield service
    if service.process.poll() is None:
        service.process.kill()
        service.process.wait()


def memory(service: Service) -> int:
    return int(psutil.Process(service.process.pid).memory_info().rss)


def ask_all(service: Service, prompts: list[str], tokens: int, *, at_token: Any = None) -> list[Told]:
    """One stream for each prompt, all at once. `at_token` is called once, when the first of them has an answer."""
    begun = asyncio.Event()

    async def ask(client: openai.AsyncOpenAI, prompt: str) -> Told:
        told = Told()
        try:
            stream = await client.completions.create(
                model="tiny", prompt=prompt, max_tokens=tokens, temperature=0, stream=True,
                stream_options={"include_usage": True}, extra_body={"ignore_eos": True},
            )  # fmt: skip
            async for chunk in stream:
                for choice in chunk.choices:
                    told.text += choice.text
                    told.finish_reason = choice.finish_reason or told.finish_reason
                if chunk.usage is not None:
                    told.completion_tokens = chunk.usage.completion_tokens
                begun.set()
        except Exception as error:
            told.error = error
        return told

    async def meddle() -> None:
        await begun.wait()
        await asyncio.to_thread(at_token)

    async def main() -> list[Told]:
        async with openai.AsyncOpenAI(
            base_url=f"{service.url}/v1", api_key="none", max_retries=0, timeout=PATIENCE
        ) as client:
            meddling = asyncio.create_task(meddle()) if at_token is not None else None
            async with asyncio.timeout(PATIENCE):
                told = await asyncio.gather(*(ask(client, prompt) for prompt in prompts))
            if meddling is not None:
                await meddling
        return list(told)

    return asyncio.run(main())


def test_two_hundred_streams_come_whole_and_leave_nothing_behind(place: Place, service: Service) -> None:
    prompts = [f"Number {k} asks" for k in range(8)]
    alone = {prompt: ask_all(service, [prompt], TOKENS)[0] for prompt in prompts}
    before = memory(service)
    many = [prompts[k % len(prompts)] for k in range(STREAMS)]
    held = []
    for _ in range(2):
        told = ask_all(service, many, TOKENS)
        assert [one.error for one in told if one.error is not None] == []
        assert {(one.finish_reason, one.completion_tokens) for one in told} == {("length", TOKENS)}
        assert all(one.text == alone[prompt].text for one, prompt in zip(told, many, strict=True))
        held.append(memory(service))
    assert held[0] - before < MOST_GROWTH
    assert held[1] - held[0] < MOST_LEFT
    requests = place.commands.json("request", "list", "--limit", "1000", "--status", "completed")
    assert len(requests) == len(prompts) + 2 * STREAMS
    assert service.end() == 0


def test_a_controller_that_dies_in_mid_stream_is_an_error_in_every_client(service: Service) -> None:
    told = ask_all(service, ["Hello"] * 4, 900, at_token=service.process.kill)
    service.process.wait()
    assert all(one.error is not None for one in told)
    assert any(one.text for one in told)
    assert all((one.finish_reason, one.completion_tokens) == (None, None) for one in told)


def test_two_hundred_streams_go_on_when_an_agent_dies_under_them(place: Place, service: Service) -> None:
    """Its layers go to the other one, and every client has the answer that it would have had."""
    (expected,) = ask_all(service, ["Hello"], 2 * TOKENS)
    victim = place.agents[1]
    told = ask_all(service, ["Hello"] * STREAMS, 2 * TOKENS, at_token=lambda: os.kill(victim, signal.SIGKILL))
    assert [one.error for one in told if one.error is not None] == []
    assert {(one.text, one.finish_reason, one.completion_tokens) for one in told} == {
        (expected.text, "length", 2 * TOKENS)
    }
    counted = urllib.request.urlopen(f"{service.url}/metrics", timeout=10).read().decode()
    assert "shardboard_recoveries_total 1.0" in counted and "shardboard_lost_answers_total 0.0" in counted

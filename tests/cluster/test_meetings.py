"""Machines that wait, found and met over real sockets: both halves of a meeting, and who tries to be in between."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import pytest
import zmq.asyncio

from app.cluster.controller_identity import ControllerIdentity
from app.cluster.finding import WaitingAgent, chosen, find_waiting
from app.cluster.launching import AgentLauncher
from app.cluster.meetings import MOST_TYPED, Meetings
from app.cluster.nodes import NodeDirectory
from app.errors import BadInput, Conflict, NodeError
from app.paths import Home
from app.registry import Registry
from tests.cluster.small_agent import SmallAgent
from tests.waiting import wait_until
from worker_agent.host import waiting
from worker_agent.host.meeting import READ_SECONDS, Answer, Reception
from worker_agent.host.waiting import Found, NotFound, wait_to_be_found
from worker_agent.wire.announcing import CannotAnnounce
from worker_agent.wire.keys import KeyPair
from worker_agent.wire.links import Endpoint
from worker_agent.wire.meeting import fresh_nonce
from worker_agent.wire.messages import Message, Revealed


@dataclass
class Machine:
    """One whose agent waits, in a thread, on loopback: its terminal, and what came of it."""

    name: str
    keys: KeyPair = field(default_factory=KeyPair.make)
    shown: list[str] = field(default_factory=list)
    port: int = 0
    found: Found | None = None
    ended: NotFound | None = None

    def __post_init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def code(self) -> str:
        """What stands in its terminal last."""
        return next(match[1] for text in reversed(self.shown) if (match := re.search(r"\n    (\d{3} \d{3})\n", text)))

    def wait(self, lines: IO[str]) -> None:
        try:
            self.found = wait_to_be_found(self.keys, Endpoint("127.0.0.1", self.port), self.name, lines)
        except NotFound as error:
            self.ended = error


@contextmanager
def waits(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """It waits until the block ends; gives what types a line in its terminal."""
    before = waiting.say

    def say(text: str) -> None:
        (machine.shown.append if threading.current_thread() is thread else before)(text)

    monkeypatch.setattr(waiting, "say", say)
    reading, writing = os.pipe()
    with os.fdopen(reading) as lines, os.fdopen(writing, "w", buffering=1) as terminal:
        thread = threading.Thread(target=machine.wait, args=(lines,))
        thread.start()
        try:
            wait_until(lambda: machine.shown or not thread.is_alive(), 20)
            yield lambda line: print(line, file=terminal)
        finally:
            terminal.close()
            thread.join(20)
    assert not thread.is_alive()


@dataclass
class Desk:
    """A controller's side: nodes, and the registry behind them."""

    identity: ControllerIdentity
    nodes: NodeDirectory
    registry: Registry

    @property
    def meetings(self) -> Meetings:
        return self.nodes.meetings


@asynccontextmanager
async def desk(root: Path) -> AsyncIterator[Desk]:
    home = Home(root, root / "models").create()
    registry, identity = Registry.open(home.registry), ControllerIdentity.of(home)
    context = zmq.asyncio.Context()
    nodes = NodeDirectory(context, identity, registry, AgentLauncher(home, identity.keys.public))
    try:
        yield Desk(identity, nodes, registry)
    finally:
        await nodes.close()
        registry.close()
        context.destroy(linger=0)


async def looked_for(machine: Machine) -> WaitingAgent:
    """Found on the network by its name, as soon as it is there."""
    seen: asyncio.Queue[list[WaitingAgent]] = asyncio.Queue()
    look = asyncio.create_task(find_waiting(30.0, seen.put_nowait))
    try:
        while True:
            found = await asyncio.wait_for(seen.get(), 20)
            if any(agent.name == machine.name for agent in found):
                return chosen(found, machine.name)
    finally:
        look.cancel()
        await asyncio.gather(look, return_exceptions=True)


def test_a_machine_that_waits_is_found_met_and_taken_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine("attic")

    async def scenario() -> None:
        async with desk(tmp_path) as d:
            with waits(machine, monkeypatch) as type_there:
                agent = await looked_for(machine)
                assert (agent.address, agent.public_key, agent.problem) == (machine.address, machine.keys.public, "")
                assert agent.fingerprint in machine.shown[0], "what people compare stands at both ends"
                meeting = await d.meetings.begin(agent.address, agent.public_key)
                with pytest.raises(BadInput, match="has 6 digits"):
                    await d.meetings.confirm(meeting.id, "12")
                confirming = asyncio.create_task(d.meetings.confirm(meeting.id, machine.code))
                await asyncio.to_thread(wait_until, lambda: "[y/N]" in machine.shown[-1], 10)
                assert d.registry.nodes.list() == [] and machine.found is None, "it is not confirmed there yet"
                await asyncio.sleep(READ_SECONDS)
                type_there("y")
                await asyncio.to_thread(wait_until, lambda: machine.found is not None, 10)
                real = SmallAgent(zmq.asyncio.Context(), keys=machine.keys, port=machine.port)
                await real.start()  # what the agent does next, on the same port
                try:
                    record = await confirming
                finally:
                    await real.stop()
                    real.context.destroy(linger=0)
                assert (record.public_key, record.address) == (machine.keys.public, f"tcp://{machine.address}")
            assert machine.found == Found(
                Endpoint("127.0.0.1", machine.port), d.identity.keys.public, d.identity.name
            ), "and it trusts this controller"

    asyncio.run(scenario())


def test_somebody_who_stands_between_is_found_out_by_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """He answers the controller in the agent's name, and meets the agent in the controller's."""
    machine, his = Machine("attic"), Machine("attic")

    async def scenario() -> None:
        async with desk(tmp_path / "ours") as ours, desk(tmp_path / "his") as theirs:
            with waits(machine, monkeypatch) as type_there, waits(his, monkeypatch):
                meeting = await ours.meetings.begin(his.address, his.keys.public)
                other = await theirs.meetings.begin(machine.address, machine.keys.public)
                read_there = machine.code  # by the user, who sees the agent's real terminal
                for _ in range(MOST_TYPED):
                    with pytest.raises(BadInput, match=r"not the code of this meeting.*stands between"):
                        await ours.meetings.confirm(meeting.id, read_there)
                with pytest.raises(Conflict, match="is over"):
                    await ours.meetings.confirm(meeting.id, read_there)
                confirming = asyncio.create_task(theirs.meetings.confirm(other.id, read_there))
                await asyncio.to_thread(wait_until, lambda: "[y/N]" in machine.shown[-1], 10)
                await asyncio.sleep(READ_SECONDS)
                type_there("n")  # the controller has not said that the code is right
                with pytest.raises(NodeError, match="refused at the agent"):
                    await confirming
            assert ours.registry.nodes.list() == [] and machine.found is None and his.found is None

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
    assert his.keys.public in caplog.text, "the log names whose key it was"


def test_a_message_that_the_agent_fails_at_does_not_end_its_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine, take = Machine("attic"), Reception.take

    def fail_once(reception: Reception, key: str, route: bytes, message: Message, now: float) -> list[Answer]:
        monkeypatch.setattr(Reception, "take", take)
        raise ValueError("a fault of ours")

    async def scenario() -> None:
        async with desk(tmp_path / "one") as one, desk(tmp_path / "other") as other:
            with waits(machine, monkeypatch):
                monkeypatch.setattr(Reception, "take", fail_once)
                beginning = asyncio.create_task(one.meetings.begin(machine.address, machine.keys.public))
                await asyncio.to_thread(wait_until, lambda: "could not be handled" in caplog.text, 10)
                beginning.cancel()
                await other.meetings.begin(machine.address, machine.keys.public)
                assert machine.code and machine.ended is None

    asyncio.run(scenario())


class Grinding(Reception):
    """Looks for a nonce that makes the code it wants, once it knows the controller's."""

    def take(self, key: str, route: bytes, message: Message, now: float) -> list[Answer]:
        answers = super().take(key, route, message, now)
        if answers and isinstance(revealed := answers[0].message, Revealed):
            return [Answer(route, Revealed(call=revealed.call, nonce=fresh_nonce()))]
        return answers


def test_an_agent_that_changes_its_nonce_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine("attic")
    monkeypatch.setattr(waiting, "Reception", Grinding)

    async def scenario() -> None:
        async with desk(tmp_path) as d:
            with (
                waits(machine, monkeypatch),
                pytest.raises(NodeError, match="did not keep to what it had committed to"),
            ):
                await d.meetings.begin(machine.address, machine.keys.public)

    asyncio.run(scenario())
    assert machine.keys.public in caplog.text


def test_without_the_library_that_finds_machines_both_ends_say_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("zeroconf", "zeroconf.asyncio"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(CannotAnnounce, match="pip install zeroconf"):
        wait_to_be_found(KeyPair.make(), Endpoint("127.0.0.1", 0), "attic")
    with pytest.raises(NodeError, match="pip install zeroconf"):
        asyncio.run(find_waiting(0.1))


def test_one_that_waits_meets_one_controller_at_a_time_and_answers_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine = Machine("attic")

    async def scenario() -> None:
        async with desk(tmp_path / "one") as one, desk(tmp_path / "two") as two:
            with waits(machine, monkeypatch):
                meeting = await one.meetings.begin(machine.address, machine.keys.public)
                with pytest.raises(NodeError, match="Another controller") as busy:
                    await two.meetings.begin(machine.address, machine.keys.public)
                assert busy.value.kind == "busy"
                # An agent's own door would answer Hello; this one is not it.
                with pytest.raises(NodeError, match="does not trust this controller"):
                    await two.nodes.add(machine.address, machine.keys.public, seconds=5.0)
                with pytest.raises(NodeError) as wrong:
                    await two.meetings.begin(machine.address, KeyPair.make().public)
                assert wrong.value.kind == "wrong_key"
                await one.meetings.end(meeting.id)
                await asyncio.to_thread(wait_until, lambda: "is over" in machine.shown[-1], 10)
                await two.meetings.begin(machine.address, machine.keys.public)  # it waits on
            assert machine.found is None and machine.ended is not None, "nobody is there to ask any more"
            assert two.identity.keys.public in caplog.text, "who was turned away is named"

    asyncio.run(scenario())

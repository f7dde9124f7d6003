"""The control door between two loops' worth of code in one process: real sockets, real keys, a real controller."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq
import zmq.asyncio

from app.control.address import DoorAddress
from app.control.messages import VERSION, Hello, Lost, Ping, Welcome, encode, read_answer
from app.control.methods import methods
from app.control.remote import RemoteController
from app.control.server import ControlServer
from app.controller import Controller
from app.errors import BadInput, Cancelled, ModelError, NodeError, ShardboardError
from app.inference.events import Finished
from app.inference.prompt import TextPrompt, TokenPrompt
from app.paths import Home
from app.registry import RequestStatus
from app.runs.trace import UNKNOWN, Origin
from worker_agent.wire.keys import KeyPair
from worker_agent.wire.links import controller_socket


@asynccontextmanager
async def door(home: Home) -> AsyncIterator[tuple[Controller, RemoteController]]:
    controller = await Controller.open(home, monitor=False)
    server = ControlServer(controller)
    await server.open()
    try:
        remote = await RemoteController.find(home)
        assert remote is not None
        try:
            yield controller, remote
        finally:
            await remote.close()
    finally:
        await server.close()
        await controller.close()


@pytest.fixture
def at_the_door(home: Home) -> Iterator[Callable[[Callable[[Controller, Any], Awaitable[None]]], None]]:
    """Runs a test's coroutine with a controller and what a command sees of it."""

    async def run(test: Callable[[Controller, Any], Awaitable[None]]) -> None:
        async with asyncio.timeout(60), door(home) as (controller, remote):
            await test(controller, remote)

    yield lambda test: asyncio.run(run(test))


def test_a_command_finds_all_that_the_door_offers() -> None:
    offered = {name for name in methods() if hasattr(Controller, name)}
    found = {name for name in vars(RemoteController) if hasattr(Controller, name) and not name.startswith("__")}
    assert found == offered | {"close", "generate"}


def test_results_and_errors_come_back_as_they_are(at_the_door: Any, tmp_path: Path) -> None:
    async def test(controller: Controller, remote: Any) -> None:
        assert await remote.list_models() == await controller.list_models() == []
        with pytest.raises(BadInput, match="no such path") as raised:
            await remote.add_model(str(tmp_path / "nothing"))
        with pytest.raises(BadInput) as here:
            await controller.add_model(str(tmp_path / "nothing"))
        assert (raised.value.message, raised.value.advice) == (here.value.message, here.value.advice)
        with pytest.raises(ModelError):
            await remote.plan("unknown")
        with pytest.raises(NodeError) as refused:
            await remote.add_node("127.0.0.1:9", KeyPair.load_or_create(tmp_path, "agent").public)
        assert refused.value.kind == "refused"
        assert not hasattr(remote, "remove_request") and not hasattr(remote, "close_registry")

    at_the_door(test)


def test_a_model_is_added_and_cut_with_its_progress_and_paths_of_the_commands_side(
    at_the_door: Any, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(controller: Controller, remote: Any) -> None:
        told: list[Any] = []
        origin = Origin(via="command", user="ada")
        monkeypatch.chdir(tiny.parent)
        added = await remote.add_model(tiny.name, name="tiny", on_progress=told.append, origin=origin)
        assert added == controller.library.get("tiny")
        assert told and {progress.phase for progress in told} >= {"inspecting"}
        monkeypatch.chdir(tmp_path)
        result = await remote.cut_model("tiny", num_shards=2, output_dir=Path("shards"))
        assert [Path(shard.folder).is_dir() for shard in result.shards] == [True, True]
        assert result.output_dir == tmp_path / "shards"
        cut, add = await controller.registry.call(lambda _: list(controller.runs.select(kinds=("job",))))
        assert (add.origin, cut.origin) == (origin, UNKNOWN)

    at_the_door(test)


def test_a_request_that_fails_at_once_and_one_that_fails_later_are_told(at_the_door: Any, tiny: Path) -> None:
    async def test(controller: Controller, remote: Any) -> None:
        with pytest.raises(ModelError):
            async for _ in await remote.generate("unknown", TextPrompt("Hello")):
                pass
        await controller.add_model(str(tiny), name="tiny")
        request = await remote.generate("tiny", TokenPrompt((3, 4, 5)), origin=Origin(via="command"))
        events = [event async for event in request]
        assert isinstance(events[-1], Finished)
        record = events[-1].record
        assert record == controller.registry.requests.get(record.id)
        assert (record.status, record.origin["via"]) == (RequestStatus.FAILED, "command")

    at_the_door(test)


def test_what_a_command_waits_for_is_cancelled_with_it(at_the_door: Any) -> None:
    async def test(controller: Controller, remote: Any) -> None:
        ready = asyncio.Event()
        waiting = asyncio.create_task(remote.invite("127.0.0.1:0", lambda command: ready.set()))
        await ready.wait()
        assert len(asyncio.all_tasks()) > 3
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        # A command that goes without a word, as one that is killed.
        other = await RemoteController.find(controller.home)
        assert other is not None
        ready.clear()
        left = asyncio.create_task(other.invite("127.0.0.1:0", lambda command: ready.set()))  # type: ignore[arg-type]
        await ready.wait()
        await other.close()
        left.cancel()
        await asyncio.gather(left, return_exceptions=True)
        while any("invite" in repr(task.get_coro()) for task in asyncio.all_tasks()):
            await asyncio.sleep(0.01)

    at_the_door(test)


def test_commands_are_told_when_the_controller_closes(home: Home) -> None:
    async def test() -> None:
        controller = await Controller.open(home, monitor=False)
        server = ControlServer(controller)
        await server.open()
        remote = await RemoteController.find(home)
        assert remote is not None
        ready = asyncio.Event()
        waiting = asyncio.create_task(remote.invite("127.0.0.1:0", lambda command: ready.set()))  # type: ignore[arg-type]
        await ready.wait()
        await server.close()
        with pytest.raises(Cancelled):
            await waiting
        assert DoorAddress.read(home) is None
        await remote.close()
        await controller.close()

    asyncio.run(asyncio.wait_for(test(), 60))


def test_another_key_does_not_get_in(home: Home, tmp_path: Path) -> None:
    async def test() -> None:
        async with door(home) as (controller, _):
            address = DoorAddress.read(home)
            assert address is not None
            context = zmq.asyncio.Context()
            stranger = controller_socket(
                context, KeyPair.load_or_create(tmp_path, "stranger"), controller.identity.keys.public, b"", "control"
            )
            stranger.connect(address.address)
            await stranger.send(encode(Hello(VERSION)))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.5):
                    await stranger.recv()
            context.destroy(linger=0)

    asyncio.run(asyncio.wait_for(test(), 60))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_the_address_is_the_users_alone_and_goes_with_the_door(home: Home) -> None:
    async def test() -> None:
        async with door(home):
            assert DoorAddress.path(home).stat().st_mode & 0o777 == 0o600
        assert not DoorAddress.path(home).exists()

    asyncio.run(asyncio.wait_for(test(), 60))


def test_the_address_of_a_controller_that_died_is_not_taken_for_one(home: Home) -> None:
    DoorAddress.path(home).write_text(json.dumps({"address": "tcp://127.0.0.1:9", "pid": 2**22 + 1, "boot": "x"}))
    assert DoorAddress.read(home) is None
    # A process that has the number by now, and is no controller.
    DoorAddress.path(home).write_text(json.dumps({"address": "tcp://127.0.0.1:9", "pid": os.getpid(), "boot": "x"}))
    assert DoorAddress.read(home) is not None


def test_every_method_that_is_offered_has_types_that_can_pass() -> None:
    import msgspec

    for method in methods().values():
        for hint in (*method.parameters.values(), *method.callbacks.values(), method.result):
            msgspec.msgpack.Decoder(hint, dec_hook=lambda type, value: value)


async def waiting_call(remote: Any) -> asyncio.Task[Any]:
    """A call that goes on until somebody ends it."""
    ready = asyncio.Event()
    task = asyncio.create_task(remote.invite("127.0.0.1:0", lambda command: ready.set()))
    await ready.wait()
    return task


def test_a_command_whose_connection_broke_is_told_instead_of_waiting_for_ever(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.control.remote.PING_SECONDS", 0.1)

    async def test() -> None:
        async with door(home) as (_, remote):
            task = await waiting_call(remote)
            address = DoorAddress.read(home)
            assert address is not None
            remote._socket.disconnect(address.address)  # as after a machine slept: to the controller it is another one
            remote._socket.connect(address.address)
            with pytest.raises(ShardboardError, match="broken for long"):
                await task

    asyncio.run(asyncio.wait_for(test(), 60))


def test_a_command_that_is_silent_for_long_is_given_up(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.control.server.SILENCE_SECONDS", 0.2)

    async def test() -> None:
        async with door(home) as (_, remote):
            with pytest.raises(Cancelled):
                await (await waiting_call(remote))

    asyncio.run(asyncio.wait_for(test(), 60))


def test_who_does_not_say_hello_is_answered_with_a_refusal(home: Home) -> None:
    async def test() -> None:
        async with door(home) as (controller, _):
            address = DoorAddress.read(home)
            assert address is not None
            keys = controller.identity.keys
            context = zmq.asyncio.Context()
            other = controller_socket(context, keys, keys.public, b"", "control")
            other.connect(address.address)
            await other.send(encode(Ping()))
            assert isinstance(read_answer(await other.recv()), Lost)
            await other.send(b"\xc1 no message at all")
            await other.send(encode(Hello(VERSION + 1)))  # of a newer command: it is told who we are
            welcome = read_answer(await other.recv())
            assert isinstance(welcome, Welcome) and welcome.version == VERSION
            context.destroy(linger=0)

    asyncio.run(asyncio.wait_for(test(), 60))


def test_a_command_can_only_have_so_much_under_way(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.control.server.MOST_CALLS", 1)

    async def test() -> None:
        async with door(home) as (_, remote):
            first = await waiting_call(remote)
            with pytest.raises(BadInput, match="under way"):
                await remote.list_models()
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            assert await remote.list_models() == []

    asyncio.run(asyncio.wait_for(test(), 60))


def test_a_controller_of_another_version_is_named(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.control.server.VERSION", VERSION + 1)

    async def test() -> None:
        with pytest.raises(BadInput, match=f"process {os.getpid()}"):
            async with door(home):
                pass

    asyncio.run(asyncio.wait_for(test(), 60))

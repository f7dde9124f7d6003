"""Real agents on this machine: launched, watched, killed, frozen, revived, removed. Each test starts processes."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import blake3
import psutil
import pytest
import zmq.asyncio
from msgspec.structs import replace

from app.cluster.controller_identity import ControllerIdentity
from app.cluster.health import NodeDown, NodeEvent, NodeStarting, NodeUp
from app.cluster.invitations import JoinListener
from app.cluster.launching import AgentLauncher
from app.cluster.node_state import NodeState
from app.cluster.nodes import NodeDirectory
from app.cluster.weights import send_parts
from app.errors import BadInput, NodeError
from app.paths import Home
from app.registry import Registry
from worker_agent.wire.keys import KeyPair
from worker_agent.wire.messages import Part, PartTensor


@dataclass
class Machine:
    context: zmq.asyncio.Context
    home: Home
    registry: Registry
    launcher: AgentLauncher
    nodes: NodeDirectory
    events: list[NodeEvent]

    async def wait_for(self, kind: type[NodeEvent], node: int, seconds: float = 15.0) -> NodeEvent:
        async with asyncio.timeout(seconds):
            while True:
                for event in self.events:
                    if isinstance(event, kind) and event.node == node:
                        return event
                await asyncio.sleep(0.02)


@asynccontextmanager
async def machine(root: Path) -> AsyncIterator[Machine]:
    home = Home(root, root / "models").create()
    registry = Registry.open(home.registry)
    identity = ControllerIdentity.of(home)
    context = zmq.asyncio.Context()
    launcher = AgentLauncher(home, identity.keys.public)
    events: list[NodeEvent] = []
    nodes = NodeDirectory(context, identity, registry, launcher, events.append)
    await nodes.open()
    try:
        yield Machine(context, home, registry, launcher, nodes, events)
    finally:
        for agent in launcher.launched():
            await launcher.end(agent.public_key)
        await nodes.close()
        context.destroy(linger=0)
        registry.close()


def test_local_agents_go_on_without_the_controller_and_end_when_removed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with machine(tmp_path) as m:
            first, second = await m.nodes.start_local(2)
            assert first.public_key != second.public_key and first.capacities["cpu_count"]
            pids = [record.local_pid for record in (first, second)]
            assert all(os.getsid(pid) != os.getsid(0) for pid in pids if pid and sys.platform != "win32")
            await m.nodes.close()  # the command that started them ends
            again = NodeDirectory(m.context, ControllerIdentity.of(m.home), m.registry, m.launcher)
            await again.open()
            assert await again.link(first.id).wait_up(10.0), "a later command finds them"
            for record in (first, second):
                await again.remove(record.id)
            assert not any(psutil.pid_exists(pid) for pid in pids if pid)
            assert m.registry.nodes.list() == [] and list(m.home.agents.iterdir()) == []
            await again.close()

    asyncio.run(scenario())


def test_a_launch_that_is_cancelled_halfway_leaves_no_node_and_no_agent(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with machine(tmp_path) as m:
            launch = asyncio.create_task(m.nodes.start_local(2))
            while not m.registry.nodes.list():
                await asyncio.sleep(0)
            launch.cancel()
            with pytest.raises(asyncio.CancelledError):
                await launch
            assert m.registry.nodes.list() == [] and list(m.home.agents.iterdir()) == []

    asyncio.run(scenario())


def test_a_killed_agent_is_down_within_three_seconds_and_can_be_revived(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with machine(tmp_path) as m:
            (record,) = await m.nodes.start_local(1)
            await m.wait_for(NodeUp, record.id)
            content = hashlib.shake_128(b"layer").digest(6 * 2**20)
            tensor = PartTensor("w", "U8", (len(content),), len(content))
            part = Part("layer", 0, (tensor,), blake3.blake3(content).hexdigest())
            wanted = [(part, lambda offset, length: content[offset : offset + length])]
            assert await send_parts(m.nodes.link(record.id), wanted) == len(content)

            assert record.local_pid is not None
            m.events.clear()
            killed = time.monotonic()
            psutil.Process(record.local_pid).kill()
            down = await m.wait_for(NodeDown, record.id)
            assert isinstance(down, NodeDown) and down.kind == "refused" and time.monotonic() - killed < 3.0
            assert m.nodes.state(record) is NodeState.STOPPED

            m.events.clear()
            revival = asyncio.create_task(m.nodes.revive(record.id))
            await m.wait_for(NodeStarting, record.id)
            assert m.nodes.state(record) is NodeState.STARTING
            revived = await revival
            assert m.nodes.state(record) is NodeState.UP
            assert (revived.id, revived.address, revived.public_key) == (record.id, record.address, record.public_key)
            up = await m.wait_for(NodeUp, record.id)
            assert isinstance(up, NodeUp) and up.restarted
            assert await send_parts(m.nodes.link(record.id), wanted) == 0, "its parts are still there"

    asyncio.run(scenario())


@pytest.mark.usefixtures("measuring")
def test_agents_that_end_with_the_window_are_stopped_and_come_back_as_they_were(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with machine(tmp_path) as m:
            (kept,) = await m.nodes.start_local(1)
            (passing,) = await m.nodes.start_local(1, keep=False)
            async with asyncio.timeout(120):  # agents of one machine measure themselves one after the other
                while not all(m.registry.nodes.get(node.id).capacities["speeds"] for node in (kept, passing)):
                    await asyncio.sleep(0.05)
            assert {node: local.agent.keep for node, local in (await m.nodes.local()).items()} == {
                kept.id: True, passing.id: False,
            }  # fmt: skip
            log = Path((await m.nodes.local())[passing.id].agent.folder) / "agent.log"
            assert [node.id for node in await m.nodes.stop_local()] == [passing.id]
            assert "shutdown asked for by a controller" in log.read_text(), "it was asked, and left"
            running = {node: local.runs for node, local in (await m.nodes.local()).items()}
            assert running == {kept.id: True, passing.id: False}
            assert not m.registry.nodes.get(passing.id).is_active
            assert await m.nodes.stop_local() == []
            again = await m.nodes.revive(passing.id)
            assert (again.id, again.public_key) == (passing.id, passing.public_key)
            assert again.capacities["speeds"], "what was measured before is kept"
            assert not (await m.nodes.local())[passing.id].agent.keep
            await m.nodes.revive(passing.id, keep=True)
            assert (await m.nodes.local())[passing.id].agent.keep
            assert {node.id for node in await m.nodes.stop_local(keep_flagged=False)} == {kept.id, passing.id}

    asyncio.run(scenario())


def test_the_log_of_an_agent_is_read_over_the_wire(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with machine(tmp_path) as m:
            (record,) = await m.nodes.start_local(1)
            link = m.nodes.link(record.id)
            text = await link.read_log(200_000)
            assert "Shardboard agent" in text and text.endswith("\n")
            short = await link.read_log(len(text) // 2)
            assert text.endswith(short) and 0 < len(short) < len(text)
            with pytest.raises(NodeError, match="not launched here"):
                await m.launcher.stop(KeyPair.make().public)

    asyncio.run(scenario())


@pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot stop a process and let it go on")
def test_a_frozen_agent_falls_silent_and_is_the_same_when_it_returns(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with machine(tmp_path) as m:
            (record,) = await m.nodes.start_local(1)
            await m.wait_for(NodeUp, record.id)
            assert record.local_pid is not None
            m.events.clear()
            os.kill(record.local_pid, signal.SIGSTOP)
            await m.wait_for(NodeDown, record.id, 8.0)
            os.kill(record.local_pid, signal.SIGCONT)
            up = await m.wait_for(NodeUp, record.id)
            assert isinstance(up, NodeUp) and not up.restarted
            async with asyncio.timeout(5):
                while not m.registry.nodes.get(record.id).is_active:
                    await asyncio.sleep(0.02)

            os.kill(record.local_pid, signal.SIGSTOP)
            await m.nodes.remove(record.id)  # a frozen agent cannot leave by itself
            assert not psutil.pid_exists(record.local_pid)

    asyncio.run(scenario())


def test_an_agent_that_does_not_come_up_leaves_its_words_and_nothing_else(tmp_path: Path) -> None:
    async def scenario() -> None:
        home = Home(tmp_path, tmp_path / "models").create()
        launcher = AgentLauncher(home, "this is no public key")
        with pytest.raises(NodeError, match="did not come up: it ended with status") as caught:
            await launcher.start(1)
        assert "--trust" in str(caught.value), "the end of its output says why"
        assert list(home.agents.iterdir()) == []
        with pytest.raises(BadInput):
            await launcher.start(0)

    asyncio.run(scenario())


def test_a_process_that_got_the_number_of_a_dead_agent_is_left_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with machine(tmp_path) as m:
            (agent,) = await m.launcher.start(1)
            path = Path(agent.folder) / "launch.json"
            genuine = path.read_bytes()
            path.write_bytes(genuine.replace(str(agent.pid).encode(), str(os.getpid()).encode()))
            impostor = await asyncio.to_thread(m.launcher.find, agent.public_key)
            assert impostor is not None and impostor.pid == os.getpid() and impostor.process() is None
            path.write_bytes(genuine)
            # The system tells all beginnings anew, by the clock, once that has been set: this is no other process.
            set_back = replace(agent, created=agent.created + 3600)
            assert set_back.process() is not None and not set_back.is_gone()
            assert agent.began is not None and replace(agent, began=agent.began + 5).is_gone()

    asyncio.run(scenario())


def test_a_node_that_fails_its_check_is_not_registered(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with machine(tmp_path) as m:
            with pytest.raises(NodeError) as caught:
                await m.nodes.add("127.0.0.1:1", KeyPair.make().public)
            assert caught.value.kind == "refused"
            for address, key in (("nonsense", KeyPair.make().public), ("127.0.0.1:7600", "short")):
                with pytest.raises(BadInput):
                    await m.nodes.add(address, key)
            assert m.registry.nodes.list() == []

    asyncio.run(scenario())


def test_a_real_agent_joins_by_the_command_that_was_made_for_it(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with machine(tmp_path / "controller") as m:
            listener = JoinListener(ControllerIdentity.of(m.home), m.nodes)
            listener.open()
            invitation = listener.invite().posix.rpartition(" ")[2]
            agent = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "worker_agent", "--listen", "127.0.0.1:0", "--home", str(tmp_path / "agent"),
                "--join", invitation, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            try:
                async with asyncio.timeout(60):
                    while not m.registry.nodes.list():
                        assert agent.returncode is None
                        await asyncio.sleep(0.05)
                (record,) = m.registry.nodes.list()
                await m.wait_for(NodeUp, record.id)
                await m.nodes.remove(record.id)
                assert agent.returncode is None, "it was not launched here, so it is not ended"
            finally:
                await listener.close()
                if agent.returncode is None:
                    agent.kill()
                await agent.wait()

    asyncio.run(scenario())

"""An agent over SSH, with a real sshd on loopback: keys pinned, code copied once, a process that goes on alone."""

from __future__ import annotations

import asyncio
import io
import socket
import sys
import tarfile

import psutil
import pytest

from app.cli.session import open_controller
from app.errors import BadInput, NodeError
from app.launchers import ssh_launching
from app.launchers.launcher import SshWish
from app.launchers.ssh_hosts import SshHosts
from app.launchers.ssh_launching import COPIED, FOLDER, SshLauncher, SshTarget, package
from app.launching import launch, launchers
from app.paths import Home
from app.registry import EventLevel, NodeRecord
from tests.cli.programs import runs
from tests.ssh_server import Server, fingerprint, needs_sshd, server
from worker_agent.wire.keys import KeyPair

pytest.importorskip("asyncssh", reason="asyncssh is not installed")
pytestmark = needs_sshd
__all__ = ["server"]  # the fixture


def test_a_host_is_refused_until_its_key_is_confirmed_and_when_it_changes(server: Server) -> None:
    launcher = SshLauncher(SshHosts(server.folder / "hosts.json"), KeyPair.make().public)

    async def enter(confirmed: str | None = None) -> str:
        try:
            async with launcher.connected(server.target, confirmed):
                return ""
        except NodeError as error:
            assert fingerprint(server) in error.message
            return error.kind

    assert asyncio.run(enter()) == "host_key_unknown"
    assert asyncio.run(enter("SHA256:another")) == "host_key_changed"
    assert asyncio.run(enter()) == "host_key_unknown", "nothing is trusted by being seen"
    assert asyncio.run(enter(fingerprint(server))) == ""
    assert asyncio.run(enter()) == ""
    (server.folder / "hosts.json").write_text(f'{{"127.0.0.1:{server.port}": "SHA256:before"}}')
    assert asyncio.run(enter()) == "host_key_changed"


def test_a_key_that_the_host_does_not_know_is_refused_by_name(server: Server) -> None:
    server.user_key.with_suffix(".pub").write_text("")
    launcher = SshLauncher(SshHosts(server.folder / "hosts.json"), KeyPair.make().public)

    async def enter() -> None:
        async with launcher.connected(server.target, fingerprint(server)):
            pass

    with pytest.raises(NodeError) as caught:
        asyncio.run(enter())
    assert caught.value.kind == "not_allowed" and "ssh-copy-id" in caught.value.advice


def test_an_agent_is_copied_once_outlives_the_connection_and_leaves_nothing(server: Server) -> None:
    launcher = SshLauncher(SshHosts(server.folder / "hosts.json"), KeyPair.make().public)

    async def scenario() -> None:
        async with launcher.connected(server.target, fingerprint(server)) as connection:
            assert await launcher.copy(connection)
            assert not await launcher.copy(connection), "the same content goes once"
            agent = await launcher.start(connection, "127.0.0.1:0", python=sys.executable)
        assert not (server.remote_home / FOLDER / "app").exists(), "the controller's half stays here"
        assert "worker_agent" in psutil.Process(agent.pid).cmdline()
        async with launcher.connected(server.target) as connection:
            await launcher.remove(connection)
        assert not runs(agent.pid) and list(server.remote_home.iterdir()) == []

    asyncio.run(scenario())


def test_an_agent_that_listens_too_late_and_a_command_that_does_not_end_are_told_in_a_sentence(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = SshLauncher(SshHosts(server.folder / "hosts.json"), KeyPair.make().public)

    async def scenario() -> None:
        async with launcher.connected(server.target, fingerprint(server)) as connection:
            await launcher.copy(connection)
            monkeypatch.setattr(ssh_launching, "READY_SECONDS", 0.0)
            with pytest.raises(NodeError, match=r"has not said within .* that it listens") as late:
                await launcher.start(connection, "127.0.0.1:0", python=sys.executable)
            assert late.value.kind == "timeout" and "output.log" in late.value.advice
            await launcher.end(connection)
            monkeypatch.setattr(ssh_launching, "SETUP_SECONDS", 0.0)
            with pytest.raises(NodeError, match="did not end there within"):
                await launcher.remove(connection)

    asyncio.run(scenario())


def test_a_machine_is_added_over_ssh_brought_up_to_date_and_removed(server: Server, home: Home) -> None:
    with open_controller(home) as session:
        controller = session.controller

        def add(host_key: str | None = None) -> NodeRecord:
            target = f"{server.target.user}@127.0.0.1:{server.port}"
            return session.ask(launch, SshWish(target, host_key, sys.executable))[0]

        with pytest.raises(NodeError, match="seen for the first time"):
            add()
        node = add(fingerprint(server))
        assert session.run(controller.list_nodes())[0].is_active
        (pid,) = [int((server.remote_home / FOLDER / "pid").read_text())]
        assert add().id == node.id and runs(pid), "what runs there and is of today stays"
        (server.remote_home / FOLDER / "digest").write_text("of yesterday")
        assert add().id == node.id and not runs(pid), "what is not of today is ended, and another one runs"
        (last,) = [int((server.remote_home / FOLDER / "pid").read_text())]
        errors = controller.registry.events.count(level=EventLevel.ERROR)
        key = (server.remote_home / FOLDER / "state" / "agent.key").read_bytes()
        session.run(controller.stop_agent(node.id))
        assert not runs(last) and (server.remote_home / FOLDER).exists(), "key and layers stay"
        assert controller.registry.events.count(level=EventLevel.ERROR) == errors, "what was wanted is no error"
        (server.remote_home / FOLDER / "digest").write_text("of yesterday")
        with pytest.raises(NodeError, match="nowhere/python"):
            session.ask(launch, SshWish(f"{server.target.user}@127.0.0.1:{server.port}", python="/nowhere/python"))
        assert (server.remote_home / FOLDER / "state" / "agent.key").read_bytes() == key, "what was there stays"

        async def start_twice() -> list[NodeRecord]:
            return await asyncio.gather(*(controller.start_agent(node.id) for _ in range(2)))

        assert {started.public_key for started in session.run(start_twice())} == {node.public_key}
        [over_ssh] = [state for state in session.ask(launchers) if state.name == "ssh"]
        assert over_ssh.nodes == (node.id,)
        last = int((server.remote_home / FOLDER / "pid").read_text())
        assert runs(last), "who starts it twice has one agent, whose number is known"
        (server.remote_home / FOLDER / "state" / "ready.json").unlink()
        session.run(controller.start_agent(node.id))
        assert not runs(last), "one that still loads is ended, so that there is one whose number is known"
        last = int((server.remote_home / FOLDER / "pid").read_text())
        session.run(controller.remove_node(str(node.id)))
        assert not runs(last) and not (server.remote_home / FOLDER).exists()
        assert session.run(controller.list_nodes()) == []


def test_an_agent_that_cannot_be_started_says_why_and_leaves_nothing(
    server: Server, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_controller(home) as session, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        target = f"{server.target.user}@127.0.0.1:{server.port}"

        def add(**wish: str) -> None:
            session.ask(launch, SshWish(target, fingerprint(server), **wish))

        with pytest.raises(NodeError, match="port"):
            add(python=sys.executable, listen=f"127.0.0.1:{taken.getsockname()[1]}")
        with pytest.raises(NodeError, match="nowhere/python"):
            add(python="/nowhere/python")
        assert not (server.remote_home / FOLDER).exists() and session.run(session.controller.list_nodes()) == []
        monkeypatch.setattr(ssh_launching, "READY_SECONDS", 0.01)
        with pytest.raises(NodeError) as late:
            add(python=sys.executable)
        assert late.value.kind == "timeout" and "try again" in late.value.advice and "stays" in late.value.advice
        assert (server.remote_home / FOLDER / "digest").exists(), "what took long is not done twice"
        assert not runs(int((server.remote_home / FOLDER / "pid").read_text()))


def test_a_machine_that_ssh_leads_to_no_more_is_removed_and_it_is_said_what_stays(server: Server, home: Home) -> None:
    target = f"{server.target.user}@127.0.0.1:{server.port}"
    with open_controller(home) as session:
        controller = session.controller
        node = session.ask(launch, SshWish(target, fingerprint(server), sys.executable))[0]
        pid = int((server.remote_home / FOLDER / "pid").read_text())
        (home.root / "ssh-hosts.json").write_text(f'{{"127.0.0.1:{server.port}": "SHA256:before"}}')
        session.run(controller.remove_node(str(node.id)))
        assert session.run(controller.list_nodes()) == []
        (event,) = [each for each in controller.registry.events.list() if "its agent stays on" in each.message]
        assert target in event.message and str(pid) in event.message
        psutil.Process(pid).kill()


def test_what_is_copied_is_the_agents_half() -> None:
    content, digest = package()
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        names = tar.getnames()
    assert {name.partition("/")[0] for name in names} == set(COPIED) and "worker_agent/__main__.py" in names
    assert len(digest) == 64 and not [name for name in names if "__pycache__" in name]


@pytest.mark.parametrize("text", ["", "@host", "user@", "host:0", "host:99999", "host:ssh"])
def test_a_place_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        SshTarget.parse(text)


def test_a_place_is_user_host_and_port() -> None:
    assert SshTarget.parse("ada@box:2222") == ("box", 2222, "ada")
    assert SshTarget.parse("box") == ("box", None, None)
    assert SshTarget.parse("ada@[fd00::1]:22") == ("fd00::1", 22, "ada")

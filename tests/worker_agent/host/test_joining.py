"""Joining a controller by its invitation, against a small controller that is real on the wire."""

from __future__ import annotations

import socket as stdlib_socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import zmq

from tests.worker_agent.agent_process import launch, log_of, running_agent, until
from worker_agent.host.joining import JoinFailed, join
from worker_agent.wire.keys import Invitation, KeyPair, TrustedControllers
from worker_agent.wire.links import Endpoint, agent_socket, bind, controller_socket
from worker_agent.wire.messages import ControlMessage, Failed, Health, HealthReport, Join, Joined, decode, encode
from worker_agent.wire.zap import Doorkeeper

AGENT = KeyPair.make()


@dataclass
class SmallController:
    """Takes every key in, and whoever has the token."""

    context: zmq.Context[zmq.Socket[bytes]]
    keys: KeyPair = field(default_factory=KeyPair.make)
    token: str = "a-token-that-is-long-enough"
    joins: list[tuple[str, Join]] = field(default_factory=list)
    """(public key of the agent, its message)"""
    looks: list[ControlMessage] = field(default_factory=list)
    """What each agent answered when it was looked at, before it was told Joined."""

    def __post_init__(self) -> None:
        self._door = Doorkeeper(self.context, lambda key: True)
        self._door.open()
        self._router = agent_socket(self.context, self.keys)
        self.endpoint = bind(self._router, Endpoint("127.0.0.1", 0))
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    @property
    def invitation(self) -> Invitation:
        return Invitation(self.endpoint.address, self.keys.public, self.token)

    def _serve(self) -> None:
        while not self._ending.is_set():
            if self._router.poll(50):
                route, envelope = self._router.recv_multipart(copy=False)
                message = decode(envelope.bytes)
                assert isinstance(message, Join)
                self.joins.append((str(envelope.get("User-Id")), message))
                self._router.send_multipart([route.bytes, encode(self._answer(message))])
        self._router.close()

    def _answer(self, message: Join) -> ControlMessage:
        if message.token != self.token:
            return Failed(call=message.call, kind="not_allowed", message="This invitation has expired.")
        key, _ = self.joins[-1]
        address = f"tcp://127.0.0.1:{message.port}"
        if key != AGENT.public:  # behind that one there is no agent
            self.looks.append(self._look_at(address, key))
        return Joined(call=message.call, address=address)

    def _look_at(self, address: str, key: str) -> ControlMessage:
        with controller_socket(self.context, self.keys, key, b"look", "control") as socket:
            socket.connect(address)
            socket.send(encode(Health(call=1)))
            assert socket.poll(10_000), "the agent does not answer the controller that it wants to join"
            message = decode(socket.recv())
            assert isinstance(message, HealthReport | Failed)
            return message

    def close(self) -> None:
        self._ending.set()
        self._thread.join()
        self._door.close()


@pytest.fixture
def controller(context: zmq.Context[zmq.Socket[bytes]]) -> Iterator[SmallController]:
    controller = SmallController(context)
    yield controller
    controller.close()


def ask_to_join(invitation: Invitation, seconds: float = 10.0) -> Joined:
    return join(AGENT, invitation, hostname="pc", port=7600, seconds=seconds)


def test_an_invited_agent_tells_its_key_name_and_port(controller: SmallController) -> None:
    assert ask_to_join(controller.invitation).address == "tcp://127.0.0.1:7600"
    ((key, message),) = controller.joins
    assert key == AGENT.public
    assert (message.agent, message.hostname, message.port) == (AGENT.agent_id, "pc", 7600)


def test_the_controllers_reason_is_told(controller: SmallController) -> None:
    old = Invitation(controller.endpoint.address, controller.keys.public, "another-token-long-enough")
    with pytest.raises(JoinFailed, match=r"did not take this agent: This invitation has expired\."):
        ask_to_join(old)


def test_a_controller_that_has_another_key_is_told_apart_from_one_that_is_not_there(
    controller: SmallController,
) -> None:
    wrong = Invitation(controller.endpoint.address, KeyPair.make().public, controller.token)
    with pytest.raises(JoinFailed, match="has another key than the invitation says"):
        ask_to_join(wrong, seconds=1)
    with stdlib_socket.create_server(("127.0.0.1", 0)) as closed_soon:
        port = closed_soon.getsockname()[1]
    absent = Invitation(f"tcp://127.0.0.1:{port}", controller.keys.public, controller.token)
    with pytest.raises(JoinFailed, match=rf"Nothing answers at 127\.0\.0\.1:{port}\..*firewall"):
        ask_to_join(absent, seconds=1)


def test_an_agent_that_joined_obeys_its_controller_from_before_the_answer_and_over_restarts(
    tmp_path: Path, controller: SmallController
) -> None:
    home = tmp_path / "home"
    with running_agent(home, "--join", controller.invitation.encode(), "--name", "attic") as agent:
        until(lambda: "joined the controller" in agent.log)
        ((key, message),) = controller.joins
        assert (key, message.hostname, message.port) == (agent.public_key, "attic", agent.endpoint.port)
        assert isinstance(controller.looks[0], HealthReport)
    assert controller.keys.public in TrustedControllers(home / "controllers"), "a restart would forget the controller"


def test_an_agent_whose_invitation_is_refused_ends_and_trusts_nobody(
    tmp_path: Path, controller: SmallController
) -> None:
    old = Invitation(controller.endpoint.address, controller.keys.public, "another-token-long-enough")
    process = launch("--listen", "127.0.0.1:0", "--home", str(tmp_path / "home"), "--join", old.encode())
    _, said = process.communicate(timeout=60)
    assert process.returncode == 3
    assert "This invitation has expired." in said
    assert "This invitation has expired." in log_of(tmp_path / "home")
    assert list((tmp_path / "home" / "controllers").iterdir()) == []

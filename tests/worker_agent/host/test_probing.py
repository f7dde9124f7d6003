"""Links between agents that run: what is measured of one, what is said of one that is not there, and who may ask."""

from __future__ import annotations

import socket as stdlib_socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import zmq

from tests.worker_agent.agent_process import AgentProcess, Client, until
from tests.worker_agent.conftest import Connect
from worker_agent.wire.keys import KeyPair
from worker_agent.wire.links import LinkEvent
from worker_agent.wire.messages import (
    MAX_PING_BYTES,
    AdmitProbe,
    Done,
    Drain,
    Failed,
    Ping,
    Pong,
    Probed,
    ProbeLink,
)

BYTES = 4 * 2**20


@pytest.fixture(scope="module")
def two_agents(tmp_path_factory: pytest.TempPathFactory, controller_keys: KeyPair) -> Iterator[list[AgentProcess]]:
    folder, trust = tmp_path_factory.mktemp("probing"), f"--trust={controller_keys.public}"
    with ThreadPoolExecutor(2) as pool:
        agents = list(pool.map(lambda name: AgentProcess.start(folder / name, trust), ("near", "far")))
    yield agents
    for agent in agents:
        agent.stop()


@pytest.fixture
def near(two_agents: list[AgentProcess], connect: Connect) -> Client:
    return connect(to=two_agents[0])


@pytest.fixture
def far(two_agents: list[AgentProcess], connect: Connect) -> Client:
    return connect(to=two_agents[1])


def admit(client: Client, key: str, total_bytes: int = BYTES, seconds: float = 20.0) -> None:
    answer = client.ask(lambda call: AdmitProbe(call=call, key=key, seconds=seconds, total_bytes=total_bytes))
    assert isinstance(answer, Done), answer


def probe(client: Client, address: str, key: str, total_bytes: int = BYTES) -> Probed:
    answer = client.ask(
        lambda call: ProbeLink(call=call, address=address, key=key, pings=10, total_bytes=total_bytes, seconds=20.0),
        seconds=30.0,
    )
    assert isinstance(answer, Probed), answer
    return answer


def test_a_link_has_a_round_trip_a_bandwidth_and_clocks_that_agree_on_one_machine(near: Client, far: Client) -> None:
    admit(far, near.agent.public_key)
    found = probe(near, far.agent.address, far.agent.public_key)
    assert (found.outcome, found.detail) == ("measured", "")
    assert found.rtt is not None and found.least_rtt is not None and found.clock_offset is not None
    assert found.bytes_per_second is not None and found.jitter is not None
    assert 0 < found.least_rtt <= found.rtt < 3
    assert abs(found.clock_offset) <= found.least_rtt
    assert found.bytes_per_second > 1e6
    assert 0 < found.sent_bytes <= BYTES


def test_what_is_sent_for_the_bandwidth_stays_below_what_the_controller_allows(near: Client, far: Client) -> None:
    admit(far, near.agent.public_key)
    found = probe(near, far.agent.address, far.agent.public_key, total_bytes=200_000)
    assert found.outcome == "measured" and 0 < found.sent_bytes <= 200_000
    without = probe(near, far.agent.address, far.agent.public_key, total_bytes=0)
    assert (without.outcome, without.bytes_per_second, without.sent_bytes) == ("measured", None, 0)


def test_an_agent_whose_key_nobody_has_announced_is_turned_away(near: Client, far: Client) -> None:
    stranger = KeyPair.make()
    admit(far, stranger.public, seconds=0.01)
    # what an earlier test has admitted is replaced, too
    admit(far, near.agent.public_key, seconds=0.01)
    time.sleep(0.05)
    assert probe(near, far.agent.address, far.agent.public_key).outcome == "not_trusted"


def test_a_port_at_which_nothing_listens_is_told_from_a_wrong_key(near: Client, far: Client) -> None:
    with stdlib_socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    refused = probe(near, closed, far.agent.public_key)
    assert refused.outcome == "refused" and refused.rtt is None
    admit(far, near.agent.public_key)
    assert probe(near, far.agent.address, KeyPair.make().public).outcome == "wrong_key"


def test_a_host_that_nobody_knows_and_a_program_that_is_no_agent_are_named_as_such(near: Client, far: Client) -> None:
    assert probe(near, "tcp://no-such-host.invalid:7600", far.agent.public_key).outcome == "name"
    with stdlib_socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen(8)
        address = f"tcp://127.0.0.1:{mute.getsockname()[1]}"
        assert probe(near, address, far.agent.public_key).outcome == "no_agent"


def test_another_agent_may_send_pings_of_the_bytes_that_were_admitted_and_nothing_else(
    context: zmq.Context[zmq.Socket[bytes]], far: Client
) -> None:
    keys = KeyPair.make()
    admit(far, keys.public, total_bytes=1000)
    with Client(context, far.agent, keys) as peer:
        first = peer.ask(lambda call: Ping(call=call), bytes(800))
        assert isinstance(first, Pong) and first.received_bytes == 800
        assert abs(first.clock - time.time()) < 60
        assert isinstance(peer.ask(lambda call: Ping(call=call), bytes(200)), Pong)
        beyond = peer.ask(lambda call: Ping(call=call), bytes(1))
        assert isinstance(beyond, Failed) and beyond.kind == "not_allowed"
        for asked in (
            lambda call: Drain(call=call, draining=True),
            lambda call: AdmitProbe(call=call, key=keys.public, seconds=10.0, total_bytes=10**6),
            lambda call: ProbeLink(
                call=call, address="tcp://127.0.0.1:9", key=keys.public, pings=1, total_bytes=0, seconds=1.0
            ),
        ):
            answer = peer.ask(asked)
            assert isinstance(answer, Failed) and answer.kind == "not_allowed", answer


def test_a_ping_longer_than_any_probe_sends_is_no_message(near: Client) -> None:
    answer = near.ask(lambda call: Ping(call=call), bytes(MAX_PING_BYTES + 1))
    assert isinstance(answer, Failed) and answer.kind == "wire"


def test_a_key_is_let_in_no_longer_than_the_controller_said(
    context: zmq.Context[zmq.Socket[bytes]], far: Client
) -> None:
    keys = KeyPair.make()
    admit(far, keys.public, seconds=1.0)
    with Client(context, far.agent, keys) as peer:
        assert isinstance(peer.ask(lambda call: Ping(call=call)), Pong)

        def refused() -> bool:
            answer = peer.ask(lambda call: Ping(call=call))
            return isinstance(answer, Failed) and answer.kind == "not_allowed"

        assert until(refused)
    with Client(context, far.agent, keys) as peer:
        assert LinkEvent.NOT_TRUSTED in peer.events(LinkEvent.NOT_TRUSTED)


def test_one_link_is_measured_at_a_time_and_an_agent_that_ends_meanwhile_ends_at_once(
    tmp_path: Path, connect: Connect, controller_keys: KeyPair
) -> None:
    agent = AgentProcess.start(tmp_path / "busy", f"--trust={controller_keys.public}")
    try:
        client = connect(to=agent)
        client.hello()
        with stdlib_socket.socket() as mute:
            mute.bind(("127.0.0.1", 0))
            mute.listen(8)
            address = f"tcp://127.0.0.1:{mute.getsockname()[1]}"

            def ask(call: int) -> ProbeLink:
                return ProbeLink(call=call, address=address, key=agent.public_key, pings=1, total_bytes=0, seconds=20.0)

            client.send(ask(client.next_call()))
            second = client.ask(ask)
            assert isinstance(second, Failed) and "one at a time" in second.message
            assert agent.stop() == 0
    finally:
        agent.stop()

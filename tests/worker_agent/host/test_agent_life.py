"""An agent's life: how it starts or says why not, receives weights over a kill, and ends without a trace."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket as stdlib_socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import zmq
from blake3 import blake3

from tests.worker_agent.agent_process import AgentProcess, Client, launch, log_of, running_agent, until
from tests.worker_agent.conftest import Connect
from worker_agent.wire.keys import KeyPair
from worker_agent.wire.links import LinkEvent
from worker_agent.wire.messages import (
    CHUNK_BYTES,
    Chunk,
    ChunkAck,
    Done,
    Failed,
    Have,
    Health,
    HealthReport,
    Offer,
    Shutdown,
)

Context = zmq.Context[zmq.Socket[bytes]]


def refusal(*options: str) -> str:
    """What an agent that does not start says; it has to end with status 2, and quickly."""
    process = launch(*options)
    begun = time.monotonic()
    _, said = process.communicate(timeout=20)
    assert process.returncode == 2, said
    assert time.monotonic() - begun < 10
    assert "Traceback" not in said
    return said


# --- starting ---


def test_a_port_in_use_is_told_with_advice_and_leaves_no_process(tmp_path: Path) -> None:
    with stdlib_socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        said = refusal("--listen", f"127.0.0.1:{port}", "--home", str(tmp_path / "home"))
    assert f"Port {port} on 127.0.0.1 is in use by" in said
    assert "choose another port with --listen 127.0.0.1:0" in said


def test_two_agents_do_not_share_a_state_folder(agent: AgentProcess) -> None:
    said = refusal("--listen", "127.0.0.1:0", "--home", str(agent.home))
    assert f"Another agent (process {agent.process.pid}) runs with the state folder" in said
    assert "--home" in said


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--listen", "nowhere"), "--listen: 'nowhere' is no address"),
        (("--memory", "lots"), "--memory: 'lots' is no size"),
        (("--trust=short",), "--trust: A public key has 40 characters"),
        (("--join", "SB1ABC"), "--join: This invitation is incomplete"),
        (("--threads", "0"), "--threads: 0 is too few"),
    ],
)
def test_an_option_that_cannot_be_used_is_named(tmp_path: Path, options: tuple[str, ...], text: str) -> None:
    assert text in refusal("--home", str(tmp_path / "home"), *options)
    assert not (tmp_path / "home").exists()


def test_a_device_that_is_not_there_is_named(tmp_path: Path) -> None:
    said = refusal("--listen", "127.0.0.1:0", "--home", str(tmp_path / "home"), "--device", "toaster")
    assert "--device: 'toaster' is no device" in said


def test_a_damaged_key_file_is_told_and_kept(tmp_path: Path) -> None:
    (tmp_path / "agent.key").write_text("rubbish")
    assert "agent.key cannot be read as a key" in refusal("--listen", "127.0.0.1:0", "--home", str(tmp_path))
    assert (tmp_path / "agent.key").read_text() == "rubbish"


def test_the_public_key_can_be_printed_while_the_agent_runs(agent: AgentProcess) -> None:
    process = launch("--home", str(agent.home), "--print-key")
    said, _ = process.communicate(timeout=20)
    assert (process.returncode, said.strip()) == (0, agent.public_key)


def test_the_log_has_one_line_for_each_event(agent: AgentProcess) -> None:
    lines = agent.log.splitlines()
    assert any(f"listens on {agent.endpoint}" in line for line in lines)
    assert [line for line in lines if not line[:4].isdigit()] == [], "lines that do not begin with a date"


# --- weights ---


def test_weights_come_in_chunks_and_a_wrong_hash_leaves_nothing(connect: Connect, agent: AgentProcess) -> None:
    client = connect()
    content = secrets.token_bytes(2 * CHUNK_BYTES + 1000)
    digest, total = blake3(content).hexdigest(), len(content)
    have = client.ask(lambda call: Offer(call=call, digests=(digest,), sizes=(total,)))
    assert isinstance(have, Have)
    assert have.held == (0,)
    damaged = bytearray(content)
    damaged[CHUNK_BYTES + 5] ^= 1
    for source, last in ((bytes(damaged), Failed), (content, ChunkAck)):
        answers = [send_chunk(client, digest, source, offset) for offset in range(0, total, CHUNK_BYTES)]
        assert [type(answer) for answer in answers] == [ChunkAck, ChunkAck, last]
        if isinstance(answers[-1], Failed):
            assert answers[-1].kind == "damaged"
            assert not list((agent.home / "parts").glob(f"{digest}*"))
    assert answers[-1] == ChunkAck(call=answers[-1].call, digest=digest, received=total, complete=True)
    assert (agent.home / "parts" / digest).read_bytes() == content


def test_a_transfer_goes_on_after_the_agent_was_killed(
    tmp_path: Path, context: Context, controller_keys: KeyPair
) -> None:
    content = secrets.token_bytes(3 * CHUNK_BYTES)
    digest, total = blake3(content).hexdigest(), len(content)
    trust = f"--trust={controller_keys.public}"
    first = AgentProcess.start(tmp_path / "home", trust)
    with Client(context, first, controller_keys) as client:
        boot = client.hello().boot
        send_chunk(client, digest, content, 0)
        send_chunk(client, digest, content, CHUNK_BYTES)
        first.kill()
        client.events(LinkEvent.DISCONNECTED)
    with running_agent(tmp_path / "home") as second, Client(context, second, controller_keys) as client:
        assert second.public_key == first.public_key
        assert client.hello().boot != boot
        have = client.ask(lambda call: Offer(call=call, digests=(digest,), sizes=(total,)))
        assert isinstance(have, Have)
        assert have.held == (2 * CHUNK_BYTES,)
        answer = send_chunk(client, digest, content, 2 * CHUNK_BYTES)
        assert isinstance(answer, ChunkAck)
        assert answer.complete


def test_health_is_answered_while_weights_pour_in(connect: Connect) -> None:
    control, weights = connect(), connect()
    content = secrets.token_bytes(CHUNK_BYTES)
    digest = blake3(content * 20).hexdigest()
    for number in range(20):
        chunk = Chunk(call=number, digest=digest, offset=number * CHUNK_BYTES, total=20 * CHUNK_BYTES)
        weights.send(chunk, content)
    slowest = 0.0
    for _ in range(10):
        begun = time.monotonic()
        assert isinstance(control.ask(lambda call: Health(call=call)), HealthReport)
        slowest = max(slowest, time.monotonic() - begun)
    answer = weights.answer_to(19, seconds=20)
    assert isinstance(answer, ChunkAck)
    assert answer.complete
    assert slowest < 1


def test_a_full_disk_is_answered_with_both_figures(tmp_path: Path, context: Context, controller_keys: KeyPair) -> None:
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root on Linux can mount a small tmpfs")
    home = tmp_path / "home"
    (home / "parts").mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(home / "parts")], check=False).returncode:
        pytest.skip("this system lets nobody mount")
    try:
        with (
            running_agent(home, f"--trust={controller_keys.public}") as agent,
            Client(context, agent, controller_keys) as client,
        ):
            answer = client.ask(lambda call: Offer(call=call, digests=("a" * 64,), sizes=(50_000_000,)))
            assert isinstance(answer, Failed)
            assert (answer.kind, answer.needed) == ("disk", 50_000_000)
            assert 7_000_000 < answer.free < 9_000_000
            content = bytes(CHUNK_BYTES)
            digest = blake3(content).hexdigest()
            (home / "parts" / "filler").write_bytes(bytes(6_000_000))
            answer = send_chunk(client, digest, content, 0)
            assert isinstance(answer, Failed)
            assert answer.kind == "disk"
            assert not (home / "parts" / digest).exists()
            assert isinstance(client.ask(lambda call: Health(call=call)), HealthReport)
    finally:
        subprocess.run(["umount", "-l", str(home / "parts")], check=True)


# --- ending ---


def test_a_shutdown_is_answered_and_leaves_no_process(
    tmp_path: Path, context: Context, controller_keys: KeyPair
) -> None:
    agent = AgentProcess.start(tmp_path / "home", f"--trust={controller_keys.public}")
    with Client(context, agent, controller_keys) as client:
        assert isinstance(client.ask(lambda call: Shutdown(call=call)), Done)
        begun = time.monotonic()
        assert agent.wait() == 0
        assert time.monotonic() - begun < 5
    assert not psutil.pid_exists(agent.process.pid)
    assert not (tmp_path / "home.ready").exists()
    assert "ends with status 0" in agent.log
    # the port is free again, and so is the folder
    with stdlib_socket.create_server((agent.endpoint.host, agent.endpoint.port)):
        shutil.rmtree(tmp_path / "home")


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGINT for another process")
def test_an_interrupt_ends_it_within_five_seconds_whoever_is_connected(
    tmp_path: Path, context: Context, controller_keys: KeyPair
) -> None:
    agent = AgentProcess.start(tmp_path / "home", f"--trust={controller_keys.public}")
    with Client(context, agent, controller_keys) as client:
        client.hello()
        agent.process.send_signal(signal.SIGINT)
        begun = time.monotonic()
        assert agent.wait() == 0
        assert time.monotonic() - begun < 5


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGTERM")
def test_a_signal_while_it_starts_ends_it_too(tmp_path: Path) -> None:
    process = launch("--listen", "127.0.0.1:0", "--home", str(tmp_path / "home"))
    until(lambda: (tmp_path / "home" / "agent.log").exists(), 20)
    time.sleep(0.3)  # somewhere within its imports
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode in (0, -signal.SIGTERM), log_of(tmp_path / "home")


def send_chunk(client: Client, digest: str, content: bytes, offset: int) -> ChunkAck | Failed:
    piece = content[offset : offset + CHUNK_BYTES]
    answer = client.ask(lambda call: Chunk(call=call, digest=digest, offset=offset, total=len(content)), piece)
    assert isinstance(answer, ChunkAck | Failed), answer
    return answer

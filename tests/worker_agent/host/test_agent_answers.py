"""A running agent: who it lets in, what it answers, and that nothing sent to it keeps it from serving."""

from __future__ import annotations

import secrets
import socket as stdlib_socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.worker_agent.agent_process import AgentProcess, Client, running_agent, until
from tests.worker_agent.conftest import Connect
from tests.worker_agent.loading import load, send_parts
from tests.worker_agent.ring import CutModel
from worker_agent import __version__
from worker_agent.wire.keys import KeyPair, key_fingerprint
from worker_agent.wire.links import LinkEvent
from worker_agent.wire.messages import (
    MAX_FRAME_BYTES,
    WIRE_VERSION,
    Budget,
    Cancel,
    Chunk,
    Done,
    Drain,
    DType,
    Failed,
    Fetch,
    Health,
    HealthReport,
    Hello,
    Joined,
    Link,
    Load,
    Loaded,
    LogText,
    Message,
    Offer,
    Part,
    PartTensor,
    ReadLog,
    Sampling,
    Start,
    Step,
    TensorFrame,
    Token,
    Tokens,
    Unload,
    Welcome,
    encode,
    encode_parts,
)
from worker_agent.wire.messages.fields import Call


def health(client: Client) -> HealthReport:
    report = client.ask(lambda call: Health(call=call))
    assert isinstance(report, HealthReport), report
    return report


def a_load(call: int, deployment: str, **changes: object) -> Load:
    load = Load(
        call=call, deployment=deployment, plan="plan", epoch=1, stage=0, stages=2, start=0, end=1, model="m",
        dtype="float32", kv_tokens=64, max_context=64, max_sequences=2, prefill_chunk=16,
        upstream_key=None, ring_key=None,
    )  # fmt: skip
    return msgspec.structs.replace(load, **changes)


def a_step(deployment: str, stage: int = 1) -> Step:
    return Step(deployment, "plan", 1, 1, stage, "boot", (), (7,), ())


# --- hello and health ---


def test_hello_is_answered_with_who_the_agent_is(connect: Connect, agent: AgentProcess) -> None:
    welcome = connect().hello()
    assert welcome.version == WIRE_VERSION
    assert welcome.agent == key_fingerprint(agent.public_key)
    assert welcome.software == __version__
    assert welcome.memory_budget == 1_000_000_000
    assert welcome.numerics.device == "cpu"
    assert welcome.numerics.threads == 1
    assert welcome.stages == ()
    assert welcome.cpu_count >= 1
    assert welcome.disk_free > 0
    assert connect().hello().boot == welcome.boot


def test_health_tells_of_the_machine_and_of_the_budget(connect: Connect) -> None:
    report = health(connect())
    assert report.memory_total >= report.memory_available > 0
    assert report.process_memory > 10_000_000
    assert (report.memory_budget, report.memory_used) == (1_000_000_000, 0)
    assert report.progress.busy_seconds is None
    assert not report.draining


@pytest.mark.usefixtures("measuring")
def test_the_agent_measures_its_speed_after_it_is_ready(
    tmp_path: Path, connect: Connect, controller_keys: KeyPair
) -> None:
    with running_agent(tmp_path / "home", f"--trust={controller_keys.public}") as agent:
        check_speeds(connect(to=agent))


def test_an_agent_that_is_told_not_to_measures_nothing(connect: Connect) -> None:
    client = connect()
    time.sleep(1.5)  # an agent that measures knows its first figures by then
    assert health(client).speeds == () == client.hello().speeds


def check_speeds(client: Client) -> None:
    speeds = until(lambda: (found := health(client).speeds) and len(found) == 3 and found, 120.0)
    assert {speed.dtype for speed in speeds} == {"float32", "bfloat16", "float16"}
    assert all(speed.read_bytes_per_second > 1e7 and speed.flops_per_second > 1e7 for speed in speeds)
    assert {speed.dtype for speed in client.hello().speeds} == {speed.dtype for speed in speeds}


def test_the_end_of_the_log_comes_in_whole_lines(connect: Connect, agent: AgentProcess) -> None:
    client = connect()
    client.hello()
    call = client.next_call()
    client.send(ReadLog(call=call, max_bytes=300))
    answer, text = client.receive_frames()
    assert isinstance(answer, LogText) and answer.call == call
    assert 0 < len(text) <= 300
    lines = agent.log.encode().splitlines(keepends=True)
    assert text.splitlines(keepends=True)[0] in lines, "it begins where a line begins"


def test_a_drained_agent_takes_no_new_stages_and_then_takes_them_again(connect: Connect) -> None:
    client = connect()
    assert isinstance(client.ask(lambda call: Drain(call=call, draining=True)), Done)
    assert health(client).draining
    refused = client.ask(lambda call: a_load(call, "drained"), b"{}", encode_parts(()))
    assert failure(refused).kind == "draining"
    assert isinstance(client.ask(lambda call: Drain(call=call, draining=False)), Done)
    assert not health(client).draining


# --- versions ---


def test_another_wire_version_is_refused_in_ours(connect: Connect) -> None:
    client = connect()
    before = health(client).dropped
    hello = encode(Hello(call=9, oldest=1, newest=1, boot="b", name="n"))
    client.send_raw(struct.pack(">H", WIRE_VERSION + 40) + hello[2:])
    answer = client.answer_to(0)
    assert isinstance(answer, Failed)
    assert answer.kind == "version"
    assert f"wire version {WIRE_VERSION + 40}" in answer.message
    assert health(client).dropped == before + 1


def test_a_hello_without_a_common_version_is_refused_with_what_to_do(connect: Connect) -> None:
    answer = connect().ask(lambda call: Hello(call=call, oldest=300, newest=301, boot="b", name="n"))
    assert isinstance(answer, Failed)
    assert answer.kind == "version"
    assert "update the older of the two" in answer.message


# --- keys ---


def test_a_stranger_is_turned_away(connect: Connect, agent: AgentProcess) -> None:
    stranger = KeyPair.make()
    client = connect(stranger)
    client.events(LinkEvent.NOT_TRUSTED)
    assert client.hears_nothing(0.2)
    until(lambda: f"unknown key {stranger.public}" in agent.log)


def test_a_client_with_the_wrong_key_of_the_agent_sees_that(connect: Connect) -> None:
    connect(server_key=KeyPair.make().public).events(LinkEvent.WRONG_KEY, count=2)


def test_a_controller_is_obeyed_from_when_its_key_file_is_put_there_until_it_is_taken_away(
    connect: Connect, agent: AgentProcess
) -> None:
    """Without a restart, and also over a connection that stands."""
    newcomer = KeyPair.make()
    connect(newcomer).events(LinkEvent.NOT_TRUSTED)
    path = agent.home / "controllers" / "newcomer.pub"
    path.write_text(newcomer.public)
    try:
        client = connect(newcomer)
        assert isinstance(client.hello(), Welcome)
    finally:
        path.unlink()
    until(lambda: isinstance(client.ask(lambda call: Health(call=call)), Failed))
    assert f"the key {newcomer.public} may not send a Health here" in agent.log


def test_a_peer_may_send_only_what_was_announced(connect: Connect, tiny_model: CutModel) -> None:
    """While a stage is there its upstream is let in, for steps of that stage; and who closes the ring, for tokens."""
    controller, upstream, ring = connect(), KeyPair.make(), KeyPair.make()
    connect(upstream).events(LinkEvent.NOT_TRUSTED)
    send_parts(controller, tiny_model)
    load(controller, tiny_model, "peers", 0, (0, 3), upstream_key=upstream.public, ring_key=ring.public)
    peer, closer = connect(upstream), connect(ring)
    before = health(controller).dropped
    forbidden: list[Callable[[int], Call]] = [
        lambda call: Hello(call=call, oldest=1, newest=1, boot="b", name="n"),
        lambda call: Health(call=call),
        lambda call: Unload(call=call, deployment="peers", stage=0),
        lambda call: Cancel(call=call, deployment="peers", epoch=1, sequence=1),
        lambda call: Offer(call=call, digests=(), sizes=()),
    ]
    for ask in forbidden:
        assert failure(peer.ask(ask)).kind == "not_allowed"
        assert failure(closer.ask(ask)).kind == "not_allowed"
    assert health(controller).dropped == before + 10
    peer.send(a_step("peers", stage=1))
    peer.send(a_step("another", stage=0))
    peer.send(Tokens("peers", 1, 1, ()))
    closer.send(a_step("peers", stage=0))
    closer.send(Tokens("another", 1, 1, ()))
    until(lambda: health(controller).dropped == before + 15)
    peer.send(a_step("peers", stage=0))
    closer.send(Tokens("peers", 1, 1, ()))
    # the answers prove that the agent has come past the two before them
    for client in (peer, closer):
        assert failure(client.ask(lambda call: Health(call=call))).kind == "not_allowed"
    assert health(controller).dropped == before + 17, "what was announced has been dropped"
    assert isinstance(controller.ask(lambda call: Unload(call=call, deployment="peers", stage=0)), Done)
    connect(upstream).events(LinkEvent.NOT_TRUSTED)


# --- what cannot be understood ---


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(frames=st.lists(st.binary(max_size=200), max_size=14))
def test_random_frames_are_dropped_and_the_agent_goes_on(connect: Connect, frames: list[bytes]) -> None:
    _survives(connect, frames)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_nearly_right_messages_are_dropped_and_the_agent_goes_on(connect: Connect, data: st.DataObject) -> None:
    """A well-formed envelope, bent at a few places, with whatever behind it."""
    envelope = bytearray(encode(data.draw(st.sampled_from(SAMPLES))))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(2, len(envelope) - 1))
        envelope[place] = data.draw(st.integers(0, 255))
    _survives(connect, [bytes(envelope), *data.draw(st.lists(st.binary(max_size=50), max_size=3))])


SAMPLES: list[Message] = [
    Hello(call=1, oldest=WIRE_VERSION, newest=WIRE_VERSION, boot="b", name="n"),
    Health(call=2),
    Offer(call=3, digests=("a" * 64,), sizes=(10,)),
    Chunk(call=4, digest="b" * 64, offset=0, total=10),
    a_load(5, "fuzz"),
    Link(call=6, deployment="fuzz", stage=0, epoch=2, downstream="tcp://127.0.0.1:1", downstream_key="k" * 40),
    Unload(call=7, deployment="fuzz", stage=0),
    a_step("fuzz"),
    Tokens("fuzz", 1, 1, (Token(1, 2, 3),)),
    Start(
        call=8, deployment="fuzz", epoch=1, sequence=1, prompt_tokens=1, sampling=Sampling(),
        budget=Budget(max_tokens=1), tokens=TensorFrame(DType.INT32, (1,)),
    ),
    Cancel(call=9, deployment="fuzz", epoch=1, sequence=1),
    Joined(call=10, address="tcp://127.0.0.1:1"),
]  # fmt: skip


def test_a_message_of_thousands_of_frames_is_dropped(connect: Connect) -> None:
    client = connect()
    before = health(client).dropped
    client.send_raw(*[encode(Health(call=1))] * 5000)
    assert failure(client.answer_to(1)).kind == "wire"
    assert health(client).dropped == before + 1


def test_a_frame_over_the_limit_costs_its_sender_the_connection_only(connect: Connect) -> None:
    client, other = connect(), connect()
    client.hello()
    client.send_raw(encode(Health(call=1)), bytes(MAX_FRAME_BYTES + 4096))
    client.events(LinkEvent.DISCONNECTED)
    assert isinstance(other.hello(), Welcome)


def test_what_contradicts_itself_or_comes_to_the_wrong_place_is_answered_with_the_reason(connect: Connect) -> None:
    client = connect()
    digest = "0" * 64
    wrong: list[tuple[Callable[[int], Call], tuple[bytes, ...], str, str]] = [
        (lambda call: Health(call=call), (b"x",), "wire", "no payload"),
        (lambda call: Chunk(call=call, digest=digest, offset=5, total=8), (b"1234",), "wire", "past the end"),
        (lambda call: Offer(call=call, digests=(digest,), sizes=()), (), "wire", "1 parts with 0 sizes"),
        (
            lambda call: Fetch(
                call=call, address="tcp://127.0.0.1:1", key="k" * 40, digests=(), sizes=(1, 2), seconds=1.0
            ),
            (), "wire", "0 parts with 2 sizes",
        ),
        (lambda call: Offer(call=call, digests=(digest, "1" * 64), sizes=(2**63 - 1,) * 2), (), "disk", "disk"),
        (lambda call: a_load(call, "none"), (b"{}", b"nonsense"), "wire", "malformed list of parts"),
        (lambda call: Joined(call=call, address="tcp://h:1"), (), "wire", "does not take a Joined"),
        (lambda call: Link(call=call, deployment="none", stage=0, epoch=1), (), "unknown_stage", "holds no stage"),
        (lambda call: Unload(call=call, deployment="none", stage=3), (), "unknown_stage", "no stage 3"),
    ]  # fmt: skip
    for make, payload, kind, text in wrong:
        answer = failure(client.ask(make, *payload))
        assert (answer.kind, text in answer.message) == (kind, True), answer


def test_a_load_without_its_parts_or_with_a_broken_config_leaves_nothing_behind(
    connect: Connect, tiny_model: CutModel
) -> None:
    client = connect()
    missing = Part("layer", 0, (PartTensor("w", "F32", (1,), 4),), "1" * 64)
    for _ in range(2):
        answer = failure(client.ask(lambda call: a_load(call, "broken"), b"{}", encode_parts((missing,))))
        assert (answer.kind, "has to be sent" in answer.message) == ("weights", True), answer
    answer = failure(client.ask(lambda call: a_load(call, "broken"), b"no json", encode_parts(())))
    assert (answer.kind, "config" in answer.message.lower()) == ("architecture", True), answer
    assert health(client).stages == ()
    assert health(client).memory_used == 0


def test_a_stage_over_the_memory_budget_is_refused_with_both_figures(connect: Connect, tiny_model: CutModel) -> None:
    client = connect()
    send_parts(client, tiny_model)
    answer = load(client, tiny_model, "fat", 0, (0, 3), kv_tokens=2**32)
    refusal = failure(answer)
    assert refusal.kind == "memory"
    assert refusal.needed > 2**32
    assert 0 < refusal.free <= 1_000_000_000
    assert health(client).memory_used == 0


def test_a_stage_can_be_loaded_again_under_new_neighbours_and_is_given_back(
    connect: Connect, tiny_model: CutModel
) -> None:
    client = connect()
    send_parts(client, tiny_model)
    first = load(client, tiny_model, "again", 1, (3, 7), upstream_key=KeyPair.make().public)
    assert isinstance(first, Loaded), first
    assert health(client).memory_used == first.weight_bytes + first.kv_bytes
    assert [(info.deployment, info.start, info.end) for info in health(client).stages] == [("again", 3, 7)]
    newcomer = KeyPair.make()
    second = load(client, tiny_model, "again", 1, (3, 7), upstream_key=newcomer.public, epoch=2)
    assert isinstance(second, Loaded), second
    assert msgspec.structs.replace(second, call=first.call) == first
    connect(newcomer).events(LinkEvent.CONNECTED)
    assert "another stage" in failure(load(client, tiny_model, "again", 1, (2, 7))).message
    assert isinstance(client.ask(lambda call: Unload(call=call, deployment="again", stage=1)), Done)
    assert health(client).memory_used == 0
    assert health(client).stages == ()


# --- who only takes up room ---


def test_idle_and_half_open_connections_keep_nobody_out(connect: Connect, agent: AgentProcess) -> None:
    target = (agent.endpoint.host, agent.endpoint.port)
    greeting = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x01" + b"CURVE".ljust(20, b"\0") + bytes(32)
    loiterers = [stdlib_socket.create_connection(target) for _ in range(60)]
    try:
        for number, loiterer in enumerate(loiterers):
            loiterer.sendall((b"", b"\xff", greeting, secrets.token_bytes(100))[number % 4])
        begun = time.monotonic()
        client = connect()
        client.hello()
        assert time.monotonic() - begun < 2
        # the agent hangs up on those that do not finish their handshake
        loiterers[0].settimeout(15)
        while loiterers[0].recv(1000):
            pass
        health(client)
    finally:
        for loiterer in loiterers:
            loiterer.close()


def failure(answer: object) -> Failed:
    assert isinstance(answer, Failed), answer
    return answer


def _survives(connect: Connect, frames: list[bytes]) -> None:
    client = connect()
    if frames:
        client.send_raw(*frames)
    assert isinstance(client.hello(), Welcome)
    client.close()

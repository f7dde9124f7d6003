"""Two agents in a ring, over real sockets: tokens, a neighbour that dies, a controller that falls silent."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import zmq

from tests.worker_agent.agent_process import AgentProcess, Client, until
from tests.worker_agent.loading import load, send_parts
from tests.worker_agent.ring import CutModel
from worker_agent.wire.keys import KeyPair
from worker_agent.wire.messages import (
    Budget,
    Done,
    DType,
    Halt,
    Halted,
    Health,
    HealthReport,
    JournalPage,
    Link,
    Loaded,
    ReadJournal,
    Recompute,
    Resumed,
    Sampling,
    StageFault,
    Start,
    TensorFrame,
    Tokens,
    Unload,
)

PROMPT = (5, 9, 2, 77, 31)
EPOCH = 2
JOURNAL = 10**6


@dataclass
class Pipeline:
    """A deployment of two stages, each on an agent of its own."""

    agents: tuple[AgentProcess, AgentProcess]
    clients: tuple[Client, Client]
    name: str

    def link(self, epoch: int, resumed: tuple[Resumed, ...] = ()) -> None:
        first, last = self.agents
        links = (
            lambda call: Link(
                call=call, deployment=self.name, stage=0, epoch=epoch,
                downstream=last.address, downstream_key=last.public_key, resumed=resumed,
            ),
            lambda call: Link(
                call=call, deployment=self.name, stage=1, epoch=epoch,
                first=first.address, first_key=first.public_key, resumed=resumed,
            ),
        )  # fmt: skip
        for client, make in zip(self.clients, links, strict=True):
            assert isinstance(client.ask(make), Done)

    def start(self, epoch: int, sequence: int, max_tokens: int, had: Sequence[int] = (), held: int = 0) -> None:
        tokens = (*PROMPT, *had)
        answer = self.clients[0].ask(
            lambda call: Start(
                call=call, deployment=self.name, epoch=epoch, sequence=sequence, prompt_tokens=len(PROMPT),
                sampling=Sampling(), budget=Budget(max_tokens=max_tokens), held=held,
                tokens=TensorFrame(DType.INT32, (len(tokens),)),
            ),
            struct.pack(f"<{len(tokens)}i", *tokens),
        )  # fmt: skip
        assert isinstance(answer, Done), answer

    def tokens(self, sequence: int, epoch: int) -> list[int]:
        """What the last stage sends of a sequence, up to its end."""
        found: list[int] = []
        while True:
            message = self.clients[1].receive(seconds=20)
            if not isinstance(message, Tokens):
                continue
            assert message.epoch == epoch
            for token in message.tokens:
                if token.sequence == sequence:
                    found.append(token.token)
                    if token.finish:
                        return found

    def sequences(self, stage: int) -> int:
        report = self.clients[stage].ask(lambda call: Health(call=call))
        assert isinstance(report, HealthReport)
        return sum(info.sequences for info in report.stages)


@pytest.fixture
def pipeline(
    tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]], controller_keys: KeyPair, tiny_model: CutModel
) -> Iterator[Pipeline]:
    with ExitStack() as stack:
        trust = f"--trust={controller_keys.public}"
        with ThreadPoolExecutor(2) as pool:  # most of a start is imports, and there are two cores
            agents = list(pool.map(lambda name: AgentProcess.start(tmp_path / name, trust), ("one", "two")))
        clients = []
        for agent in agents:
            stack.callback(agent.stop)
            client = stack.enter_context(Client(context, agent, controller_keys))
            client.hello()
            send_parts(client, tiny_model)
            clients.append(client)
        first, last = agents
        loads = (
            load(clients[0], tiny_model, "d", 0, (0, 3), ring_key=last.public_key, journal_bytes=JOURNAL),
            load(clients[1], tiny_model, "d", 1, (3, 7), upstream_key=first.public_key),
        )
        assert all(isinstance(answer, Loaded) for answer in loads), loads
        pipeline = Pipeline((first, last), (clients[0], clients[1]), "d")
        pipeline.link(EPOCH)
        yield pipeline


def test_tokens_come_round_and_again_in_a_new_epoch_and_all_is_given_back(pipeline: Pipeline) -> None:
    pipeline.start(EPOCH, sequence=1, max_tokens=12)
    once = pipeline.tokens(1, EPOCH)
    assert len(once) == 12
    pipeline.link(EPOCH + 1)
    pipeline.start(EPOCH + 1, sequence=2, max_tokens=12)
    assert pipeline.tokens(2, EPOCH + 1) == once
    until(lambda: pipeline.sequences(0) == pipeline.sequences(1) == 0)
    for stage, client in enumerate(pipeline.clients):
        assert isinstance(client.ask(lambda call: Unload(call=call, deployment="d", stage=stage)), Done)  # noqa: B023
        report = client.ask(lambda call: Health(call=call))
        assert isinstance(report, HealthReport)
        assert (report.stages, report.memory_used, report.dropped) == ((), 0, 0)


def test_the_upstream_agent_reports_a_neighbour_that_dies_in_mid_answer(pipeline: Pipeline) -> None:
    pipeline.start(EPOCH, sequence=1, max_tokens=100)
    assert isinstance(pipeline.clients[1].receive(seconds=20), Tokens)
    pipeline.agents[1].kill()
    fault = pipeline.clients[0].receive(seconds=5)
    assert isinstance(fault, StageFault), fault
    assert (fault.deployment, fault.stage, fault.kind) == ("d", 0, "link_lost")
    assert str(pipeline.agents[1].endpoint) in fault.message
    assert pipeline.agents[0].process.poll() is None


def test_another_agent_takes_the_place_of_one_that_died_and_computes_its_states_again(
    pipeline: Pipeline, tmp_path: Path, context: zmq.Context[zmq.Socket[bytes]], controller_keys: KeyPair,
    tiny_model: CutModel,
) -> None:  # fmt: skip
    pipeline.start(EPOCH, sequence=1, max_tokens=40)
    once = pipeline.tokens(1, EPOCH)
    pipeline.start(EPOCH, sequence=2, max_tokens=40)
    had: list[int] = []
    while len(had) < 6:
        message = pipeline.clients[1].receive(seconds=20)
        had += [token.token for token in message.tokens if token.sequence == 2] if isinstance(message, Tokens) else []
    pipeline.agents[1].kill()
    first, one = pipeline.agents[0], pipeline.clients[0]
    halted = one.ask(lambda call: Halt(call=call, deployment="d", stage=0, epoch=EPOCH))
    assert isinstance(halted, Halted), halted
    (state,) = (each for each in halted.states if each.kind == "runs")
    length = len(PROMPT) + len(had) - 1
    assert (state.sequence, state.covered) == (2, True) and state.length >= length
    with ExitStack() as stack:
        other = AgentProcess.start(tmp_path / "other", f"--trust={controller_keys.public}")
        stack.callback(other.stop)
        newcomer = stack.enter_context(Client(context, other, controller_keys))
        newcomer.hello()
        send_parts(newcomer, tiny_model)
        answers = (
            load(newcomer, tiny_model, "d", 1, (3, 7), upstream_key=first.public_key, journal_bytes=JOURNAL),
            load(one, tiny_model, "d", 0, (0, 3), ring_key=other.public_key, journal_bytes=JOURNAL),
        )
        assert all(isinstance(answer, Loaded) for answer in answers), answers
        resumed = (Resumed(2, length, "runs", state.slot),)
        mended = Pipeline((first, other), (one, newcomer), "d")
        mended.link(EPOCH + 1, resumed)
        call = one.next_call()
        one.send(ReadJournal(call=call, deployment="d", stage=0, epoch=EPOCH + 1, sequences=(2,)))
        page, hidden = one.receive_frames(seconds=20)
        while not isinstance(page, JournalPage):
            page, hidden = one.receive_frames(seconds=20)
        assert page.complete
        done = newcomer.ask(
            lambda call: Recompute(
                call=call, deployment="d", stage=1, epoch=EPOCH + 1, steps=page.steps, given=page.hidden, complete=True
            ),
            hidden,
        )
        assert isinstance(done, Done), done
        mended.start(EPOCH + 1, 2, 40, had, length)
        assert [*had, *mended.tokens(2, EPOCH + 1)] == once

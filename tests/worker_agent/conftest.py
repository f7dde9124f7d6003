"""Agents and clients for the tests of the agent process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import zmq

from tests.worker_agent.agent_process import AgentProcess, Client, running_agent
from tests.worker_agent.ring import CutModel, cut_model
from tests.worker_agent.tiny_models import make_model
from worker_agent.model.heap import keep_out_of_collections
from worker_agent.wire.keys import KeyPair

Connect = Callable[..., Client]


@pytest.fixture(scope="module", autouse=True)
def short_collections() -> None:
    """Whatever a stage that is loaded or dropped has collected looks at this module's objects alone."""
    keep_out_of_collections()


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    """A context that has to be left without open sockets."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    yield context
    context.term()


@pytest.fixture(scope="session")
def controller_keys() -> KeyPair:
    return KeyPair.make()


@pytest.fixture(scope="session")
def agent(tmp_path_factory: pytest.TempPathFactory, controller_keys: KeyPair) -> Iterator[AgentProcess]:
    """One agent for all tests that leave it serving; it trusts `controller_keys`."""
    home: Path = tmp_path_factory.mktemp("agents") / "shared"
    with running_agent(home, f"--trust={controller_keys.public}", "--memory", "1GB") as agent:
        yield agent
        assert agent.process.poll() is None, f"a test has ended the shared agent: {agent.log[-3000:]}"


@pytest.fixture
def connect(
    context: zmq.Context[zmq.Socket[bytes]], agent: AgentProcess, controller_keys: KeyPair
) -> Iterator[Connect]:
    """Makes clients; they are closed after the test. Without arguments: the controller's, to the shared agent."""
    with ExitStack() as stack:

        def make(keys: KeyPair = controller_keys, to: AgentProcess = agent, server_key: str = "") -> Client:
            return stack.enter_context(Client(context, to, keys, server_key))

        yield make


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> CutModel:
    """A llama of seven layers with random weights, cut into parts."""
    folder = tmp_path_factory.mktemp("tiny")
    make_model("llama", folder / "model")
    return cut_model(folder / "model", folder / "parts")

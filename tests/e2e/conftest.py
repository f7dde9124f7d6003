"""Whole-system runs: a real controller, real agents as processes of their own, real sockets, real SQLite."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
import pytest

from app.cli.session import Session, open_controller
from app.controller import Controller
from app.inference.parameters import GenerationParameters
from app.inference.prompt import ChatPrompt, Prompt, TextPrompt, TokenPrompt
from app.inference.request_run import RequestRun
from app.paths import Home
from app.registry import NodeRecord, RequestRecord
from app.serving import ServingWish
from tests.tiny_model import make_model
from worker_agent.model.imports import import_transformers

Result = TypeVar("Result")


def pytest_collectstart() -> None:
    """For the tests here, transformers comes as agents have it, which takes half as long as the whole; others that use
    what stands here do without torch."""
    import_transformers()


def prompt_of(given: str | Sequence[Any], chat: bool = False) -> Prompt:
    if isinstance(given, str):
        return ChatPrompt.of(given) if chat else TextPrompt(given)
    return ChatPrompt(tuple(given)) if isinstance(given[0], dict) else TokenPrompt(tuple(given))


@dataclass
class System:
    """A controller with agents on this machine, driven from a test's thread."""

    home: Home
    session: Session
    nodes: list[NodeRecord] = field(default_factory=list)

    @property
    def controller(self) -> Controller:
        return self.session.controller

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return self.session.run(work)

    def call(self, function: Callable[[], Result]) -> Result:
        """Run a plain function on the controller's loop."""

        async def on_loop() -> Result:
            return function()

        return self.run(on_loop())

    def launch(self, count: int) -> list[NodeRecord]:
        started = self.run(self.controller.launch_local(count))
        self.nodes += started
        return started

    def begin(self, model: str, prompt: Any, chat: bool = False, **parameters: Any) -> RequestRun:
        """Start a request with a text, messages or token ids, and return at once."""
        return self.run(self.controller.generate(model, prompt_of(prompt, chat), GenerationParameters(**parameters)))

    def finish(self, run: RequestRun) -> RequestRecord:
        return self.run(run.wait())

    def answer(self, model: str, prompt: Any, chat: bool = False, **parameters: Any) -> RequestRecord:
        return self.finish(self.begin(model, prompt, chat, **parameters))

    def answers(self, model: str, prompts: Sequence[Any], **parameters: Any) -> list[RequestRecord]:
        """All at once."""
        return [self.finish(run) for run in [self.begin(model, prompt, **parameters) for prompt in prompts]]

    def process(self, node: NodeRecord) -> psutil.Process:
        pid = self.controller.registry.nodes.get(node.id).local_pid
        assert pid is not None
        return psutil.Process(pid)

    def signal(self, node: NodeRecord, number: signal.Signals) -> None:
        os.kill(self.process(node).pid, number)


@contextmanager
def open_system(home: Home, *, leave: bool = False) -> Iterator[System]:
    """A system whose agents end with it, unless they are to be left for the next one in the same home."""
    with open_controller(home) as session:
        system = System(home, session, session.controller.registry.nodes.list())
        try:
            yield system
        finally:
            if not leave:
                end_agents(system)


def end_agents(system: System) -> None:
    for node in system.run(system.controller.list_nodes()):
        if node.local_pid is not None and psutil.pid_exists(node.local_pid):
            os.kill(node.local_pid, signal.SIGCONT)  # a stopped agent cannot be asked to leave
        system.run(system.controller.remove_node(str(node.id)))


@pytest.fixture
def system(home: Home) -> Iterator[System]:
    """A controller without nodes, in a home of its own."""
    with open_system(home) as system:
        yield system


@pytest.fixture(scope="package")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Three agents for tests that leave nothing behind: they undeploy what they deploy.

    For this package only: other tests look for threads, files and processes that are left over.
    """
    root = tmp_path_factory.mktemp("shared")
    home = Home(root=root, models=root / "models").create()
    with open_system(home) as system:
        system.launch(3)
        yield system


@pytest.fixture(scope="package")
def sensible(shared: System, smollm: Path) -> Iterator[str]:
    """The name of a real model, in float32 over the first two of the three agents, in two uneven stages."""
    name = "SmolLM2"
    shared.run(shared.controller.add_model(str(smollm), name=name))
    nodes = [node.id for node in shared.nodes[:2]]
    wish = ServingWish(dtype="float32", context=1024, kv_tokens=8192)
    shared.run(shared.controller.deploy(name, nodes=nodes, layers="0-10,11-29", serving=wish))
    yield name
    shared.run(shared.controller.undeploy(name))
    shared.run(shared.controller.remove_model(name))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama with random weights and no tokenizer: it takes token ids."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_model("llama", folder, max_position_embeddings=4096)
    return folder

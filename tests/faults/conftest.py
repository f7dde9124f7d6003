"""Real agents that are killed, frozen and cut off while they answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from app.inference.request_run import RequestRun
from app.paths import Home
from app.registry import DeploymentRecord, RequestStatus
from app.serving import ServingWish
from tests.e2e.conftest import System, open_system
from tests.tiny_model import make_model
from tests.waiting import wait_until

MODEL = "tiny"
LONGER = {"max_tokens": 3000, "ignore_eos": True}
"""More than any machine makes until that has happened which is to happen meanwhile."""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama of six layers with random weights."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    make_model("llama", folder, max_position_embeddings=4096, num_hidden_layers=6)
    return folder


@pytest.fixture(scope="module")
def agents(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[System]:
    """Four agents, and the tiny model in the library."""
    root = tmp_path_factory.mktemp("faults")
    with open_system(Home(root=root, models=root / "models").create()) as system:
        system.launch(4)
        system.run(system.controller.add_model(str(tiny), name=MODEL))
        yield system


@pytest.fixture
def four(agents: System) -> System:
    """All four alive, with nothing deployed, whatever the test before did to them."""
    for record in agents.run(agents.controller.deployments.ready()):
        agents.run(agents.controller.undeploy(record.id))
    for node in agents.nodes:
        agents.run(agents.controller.nodes.revive(node.id))
        if agents.controller.registry.nodes.get(node.id).draining:
            agents.run(agents.controller.drain_node(str(node.id), False))
        wait_until(lambda id=node.id: agents.controller.nodes.health.is_alive(id), 15)
    return agents


def deploy(system: System, *nodes: int, **wish: object) -> DeploymentRecord:
    """The tiny model over some of the agents, by their place in the list."""
    ids = [system.nodes[index].id for index in nodes]
    serving = ServingWish(**{"dtype": "float32", "context": 4096, "kv_tokens": 8192, **wish})  # type: ignore[arg-type]
    return system.run(system.controller.deploy(MODEL, nodes=ids, serving=serving))


def got_on(runs: Sequence[RequestRun], tokens: int = 5) -> None:
    """So many tokens more of each."""
    before = [len(run.token_ids) for run in runs]
    wait_until(
        lambda: all(run.is_over or len(run.token_ids) >= had + tokens for run, had in zip(runs, before, strict=True)),
        60,
    )


def as_undisturbed(
    system: System, runs: Sequence[RequestRun], wishes: Sequence[tuple[Sequence[int], dict[str, Any]]]
) -> None:
    """They get on after what happened to them, are cancelled, and had the tokens that come when nothing happens.

    Asked afterwards, for as many: an answer that is to outlast what happens on a machine however fast need not be
    made to its end.
    """
    got_on(runs)
    for run in runs:
        system.run(run.cancel())
    for run, (prompt, wish) in zip(runs, wishes, strict=True):
        record = system.finish(run)
        assert record.status is RequestStatus.CANCELLED, f"its answer outlasts all that happens: {record.error}"
        again = system.begin(MODEL, prompt, **{**wish, "max_tokens": len(record.token_ids)})
        assert system.finish(again).token_ids == record.token_ids

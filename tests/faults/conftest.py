"""Real agents that are killed, frozen and cut off while they answer."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from app.paths import Home
from app.registry import DeploymentRecord
from app.serving import ServingWish
from tests.e2e.conftest import System, open_system
from tests.tiny_model import make_model
from tests.waiting import wait_until

MODEL = "tiny"


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
        wait_until(lambda id=node.id: agents.controller.nodes.health.is_alive(id), 15)
    return agents


def deploy(system: System, *nodes: int, **wish: object) -> DeploymentRecord:
    """The tiny model over some of the agents, by their place in the list."""
    ids = [system.nodes[index].id for index in nodes]
    serving = ServingWish(**{"dtype": "float32", "context": 4096, "kv_tokens": 8192, **wish})  # type: ignore[arg-type]
    return system.run(system.controller.deploy(MODEL, nodes=ids, serving=serving))

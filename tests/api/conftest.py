"""Controllers: with two agents and a tiny model over both and the server in front, with SmolLM2 over two agents, and
one without any agents."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from app.api.keys import make_key
from app.errors import RegistryError
from app.paths import Home
from app.serving import ServingWish
from tests.api.serving import CONTEXT, MODEL, Served, make_tiny_model, serving
from tests.e2e.conftest import System, open_system


@pytest.fixture(scope="package")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="package")
def cluster(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Iterator[System]:
    """For tests that leave nodes, models and deployments as they found them."""
    root = tmp_path_factory.mktemp("cluster")
    home = Home(root=root, models=root / "models").create()
    with open_system(home) as system:
        nodes = [node.id for node in system.launch(2)]
        system.run(system.controller.add_model(str(tiny_folder), name=MODEL))
        system.run(
            system.controller.deploy(
                MODEL, nodes=nodes, layers="0-1,2-3", serving=ServingWish(context=CONTEXT, kv_tokens=16384)
            )
        )
        yield system


@pytest.fixture(scope="package")
def api(cluster: System) -> Iterator[Served]:
    with serving(cluster) as served:
        yield served
        assert 'status="500"' not in served.client.get("/metrics").text, "something was the server's fault"


@pytest.fixture(scope="package")
def smollm_system(tmp_path_factory: pytest.TempPathFactory, smollm: Path) -> Iterator[System]:
    """Two agents that hold a model that makes sense, for tests that leave nodes, models and deployments so."""
    root = tmp_path_factory.mktemp("smollm")
    home = Home(root=root, models=root / "models").create()
    with open_system(home) as system:
        nodes = [node.id for node in system.launch(2)]
        system.run(system.controller.add_model(str(smollm), name="smollm"))
        system.run(
            system.controller.deploy(
                "smollm", nodes=nodes, layers="0-14,15-29", serving=ServingWish(context=2048, kv_tokens=8192)
            )
        )
        yield system


@pytest.fixture(scope="package")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A controller without nodes and models, for what is decided before anything of these is looked at."""
    root = tmp_path_factory.mktemp("bare")
    home = Home(root=root, models=root / "models").create()
    with open_system(home) as system:
        yield system


@pytest.fixture
def key(bare: System) -> Iterator[str]:
    """An API key, unless the test removes it."""
    yield make_key(bare.controller.registry, "laptop")
    with suppress(RegistryError):
        bare.controller.registry.api_keys.remove("laptop")


@pytest.fixture
def locked(bare: System, key: str) -> Iterator[Served]:
    """A server on loopback that demands a key all the same."""
    with serving(bare, demand_key=True) as served:
        yield served

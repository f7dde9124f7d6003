"""Agents by Ray, with a real cluster of several nodes on this machine: brought, found again, ended, brought back."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import psutil
import pytest

from app.cluster.ghosts import GhostKind, ghosts_of
from app.errors import NodeError
from app.launchers.launcher import RayWish
from app.launchers.ray_messages import RayAgent
from app.launching import deploy_on_ray, end_ray, launch, look_at_ray
from app.paths import Home
from app.registry import EventLevel
from app.serving import ServingWish
from tests.cli.programs import CommandLine, Service, make_tiny_model, runs
from tests.e2e.conftest import System, open_system
from tests.launchers.conftest import RayMachines
from tests.tiny_model import make_model
from tests.waiting import wait_until
from tests.worker_agent.references import kept

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]

MODEL, PROMPT, ANSWER = "tiny", [3, 1, 4, 1, 5, 9, 2, 6], 12
SERVING = ServingWish(dtype="float32", context=512, kv_tokens=2048)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / MODEL
    make_model("llama", folder, max_position_embeddings=512, num_hidden_layers=6)
    return folder


@pytest.fixture(scope="session")
def reference(tiny: Path) -> list[int]:
    """What transformers answers by itself."""

    def generated() -> list[int]:
        import torch
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()
        output = model.generate(torch.tensor([PROMPT]), max_new_tokens=ANSWER, do_sample=False, eos_token_id=-1)
        return [int(token) for token in output[0, len(PROMPT) :]]

    weights = (tiny / "model.safetensors").read_bytes()
    return kept(["by Ray", PROMPT, ANSWER, weights.hex()[-4000:]], generated)


@pytest.fixture
def system(home: Home, tiny: Path, ray_machines: RayMachines) -> Iterator[System]:
    with open_system(home, leave=True) as system:
        system.run(system.controller.add_model(str(tiny), name=MODEL))
        yield system
        system.session.ask(end_ray)


def answered(system: System) -> list[int]:
    record = system.answer(MODEL, PROMPT, max_tokens=ANSWER, ignore_eos=True)
    assert record.error is None, record.error
    return list(record.token_ids)


def agents(system: System) -> list[RayAgent]:
    return list(system.session.ask(look_at_ray).agents)


def test_an_agent_comes_back_with_its_key_whoever_is_killed_and_answers_stay_what_they_are(
    system: System, ray_machines: RayMachines, reference: list[int]
) -> None:
    system.controller._upkeep._ray_keeping.first_seconds = 3.0
    system.controller._upkeep._ray_keeping.again_seconds = 3.0
    nodes = system.session.ask(launch, RayWish(3, ray_machines.address))
    assert len({node.public_key for node in nodes}) == 3
    system.run(
        system.controller.deploy(MODEL, nodes=[node.id for node in nodes], layers="0-1,2-3,4-5", serving=SERVING)
    )
    assert answered(system) == reference

    def all_answer() -> bool:
        return all(system.controller.nodes.health.is_alive(node.id) for node in nodes)

    first, second, third = agents(system)
    keeper = psutil.Process(second.pid).parent()
    assert keeper is not None and "ray" in " ".join(keeper.cmdline())
    for victim in (first.pid, keeper.pid):
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: not all_answer(), 30)
        assert answered(system) == reference
        wait_until(all_answer, 180)
    wait_until(lambda: not runs(second.pid), 10)  # it does not outlive who keeps it
    again = agents(system)
    assert {agent.public_key for agent in again} == {node.public_key for node in nodes}
    assert not {agent.pid for agent in again} & {first.pid, second.pid}

    ray_machines.kill(third.place)
    lost = next(node for node in nodes if node.public_key == third.public_key)
    wait_until(lambda: not system.controller.nodes.health.is_alive(lost.id), 30)
    assert answered(system) == reference
    wait_until(lambda: system.call(lambda: system.controller.nodes.heard(lost.id).gone), 60)
    records, heard = system.run(system.controller.list_nodes()), system.run(system.controller.heard_of_nodes())
    [ghost] = ghosts_of(records, heard)
    assert (ghost.node_id, ghost.kind) == (lost.id, GhostKind.GONE)

    ray_machines.add()  # as when the machine was started anew: another node to Ray, and its disk is the old one
    wait_until(all_answer, 180)
    assert len(system.run(system.controller.list_nodes())) == 3, "it has its key again, so it is the node that it was"
    assert answered(system) == reference
    wait_until(lambda: not system.call(lambda: system.controller.nodes.heard(lost.id).gone), 60)


def test_ray_brings_what_a_plan_needs_lets_it_rest_and_brings_it_back_for_a_request(
    system: System, ray_machines: RayMachines, reference: list[int]
) -> None:
    with pytest.raises(NodeError, match="Ray has 3 of the 4 nodes"):
        system.session.ask(launch, RayWish(4, ray_machines.address, wait_seconds=0.0))
    assert system.run(system.controller.list_nodes()) == []
    [one] = system.session.ask(launch, RayWish(1, ray_machines.address, memory=2_300_000, idle_seconds=2.0))
    deployment = system.session.ask(deploy_on_ray, MODEL, 3, serving=SERVING)
    nodes = system.run(system.controller.list_nodes())
    shards = system.controller.registry.shards.list(deployment_id=deployment.id)
    assert 1 < len(shards) == len(nodes) <= 3, "one more for as long as the plan lacked room, and none beyond"

    ray = system.controller.launchers.ray
    running = [agent.pid for agent in agents(system)]
    for _ in range(2):
        wait_until(lambda: ray.is_resting, 60)
        assert not any(runs(pid) for pid in running)
        assert [event.message for event in system.controller.registry.events.list(level=EventLevel.ERROR)] == []
        assert answered(system) == reference
        running = [agent.pid for agent in agents(system)]
        assert len(running) == len(nodes) and not ray.is_resting
    assert ray.wish is not None
    system.session.ask(launch, msgspec.structs.replace(ray.wish, idle_seconds=None))
    system.run(system.controller.remove_node(str(one.id)))
    assert len(agents(system)) == len(nodes) - 1
    assert len(list((system.home.root / "ray").iterdir())) == len(nodes) - 1, "nothing of a node that was removed stays"


def test_from_a_bare_cluster_to_an_answer_by_commands(home: Home, ray_machines: RayMachines, tmp_path: Path) -> None:
    """How long each step takes is printed: ./test -m long tests/launchers/test_ray.py -s"""
    model, commands = make_tiny_model(tmp_path / "tiny"), CommandLine(home.root)
    serving = Service(commands, home.root, "--no-http")

    @contextmanager
    def step(what: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        print(f"{what}: {time.monotonic() - begun:.1f} s")

    try:
        with step("the controller serves"):
            serving.wait_for("Serving commands")
        with step("Ray brings three agents"):
            nodes = commands.json("ray", "up", "--address", ray_machines.address, "--nodes", "3")
        assert len(nodes) == 3
        with step("Ray is looked at"):
            cluster = commands.json("ray", "status")
        assert sorted(node["place"] for node in cluster["nodes"] if node["agent"]) == sorted(ray_machines.places)
        [ray] = [each for each in commands.json("node", "launchers") if each["name"] == "ray"]
        assert (len(ray["nodes"]), ray["gone"], ray["problem"]) == (3, [], "")
        with step("a model is added"):
            commands.run("model", "add", str(model))
        with step("it is deployed over all"):
            commands.run("deploy", "tiny", "--nodes", "1,2,3", "--layers", "0,1,2", "--dtype", "float32")
        with step("it answers"):
            commands.run("generate", "tiny", "hello", "--raw", "--max-tokens", "8")
        with step("an agent is brought up to date"):
            commands.run("node", "update", "2")
        with step("all agents are ended"):
            commands.run("ray", "down")
        assert not [node for node in commands.json("ray", "status")["nodes"] if node["agent"]]
        assert {node["state"] for node in commands.json("node", "list")} == {"stopped"}
    finally:
        serving.end()

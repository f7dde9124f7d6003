"""What goes wrong on real agents: killed, frozen, restarted, drained. Nothing hangs, nothing is lost."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.children.work import NodeProgress
from app.errors import RegistryError
from app.inference import deployer
from app.jobs.works import DeployWork
from app.paths import Home
from app.registry import DeploymentRecord, DeploymentStatus, JobRecord, JobStatus, Registry, RequestStatus
from app.runs.trace import UNKNOWN
from app.serving import ServingWish
from tests.e2e.conftest import System, open_system
from tests.e2e.test_requests import wait_until
from tests.tiny_model import make_model

PROMPT = [3, 4, 5, 6]
LONG = {"max_tokens": 3500, "ignore_eos": True}


def deploy(system: System, tiny: Path, name: str, *nodes: int) -> None:
    system.run(system.controller.add_model(str(tiny), name=name))
    ids = [system.nodes[index].id for index in nodes]
    system.run(
        system.controller.deploy(name, nodes=ids, serving=ServingWish(context=4096, kv_tokens=8192, wait_seconds=0))
    )


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[System]:
    """Two agents with a deployment over both, and a third agent with one of its own."""
    root = tmp_path_factory.mktemp("failures")
    with open_system(Home(root=root, models=root / "models").create()) as system:
        system.launch(3)
        deploy(system, tiny, "split", 0, 1)
        deploy(system, tiny, "other", 2)
        yield system


@pytest.fixture
def pair(three: System) -> System:
    """The three agents, all of them alive again, whatever the test before did to them."""
    for node in three.nodes:
        three.run(three.controller.nodes.revive(node.id))
        wait_until(lambda id=node.id: three.controller.nodes.health.is_alive(id), 15)
    for name in ("split", "other"):
        record = three.answer(name, PROMPT, max_tokens=1)
        assert record.error is None
    return three


def test_a_killed_agent_interrupts_its_own_answers_and_no_others(pair: System) -> None:
    hit, spared = pair.begin("split", PROMPT, **LONG), pair.begin("other", PROMPT, **LONG)
    wait_until(lambda: len(hit.token_ids) > 10 and len(spared.token_ids) > 10)
    pair.process(pair.nodes[1]).kill()
    killed_at = time.monotonic()
    wait_until(lambda: hit.trace().interruptions)
    assert time.monotonic() - killed_at < 20
    count, before = len(hit.token_ids), len(spared.token_ids)
    wait_until(lambda: len(hit.token_ids) > count + 10 and (len(spared.token_ids) > before + 10 or spared.is_over))
    assert spared.record.error is None and not spared.trace().interruptions
    pair.run(spared.cancel())
    pair.run(hit.cancel())
    assert "went to" in hit.trace().interruptions[0].what


def newest_job(system: System) -> JobRecord:
    return system.controller.registry.jobs.list(limit=1)[0]


def test_a_restarted_agent_loads_again_what_it_lost_without_sending_it(pair: System) -> None:
    """It has its layers back although others would have room: its owner placed them there. All see that as a job, which
    can be cancelled and begun again."""
    before = pair.answer("split", PROMPT, max_tokens=12)
    (record,) = pair.run(pair.controller.deployments.ready("split"))
    home = held_by(pair, record.id)[0]
    victim = next(node for node in pair.nodes if node.id == home)
    pair.process(victim).kill()
    wait_until(lambda: not pair.controller.nodes.health.is_alive(victim.id))
    pair.run(pair.controller.nodes.revive(victim.id))
    wait_until(lambda: pair.controller.nodes.health.is_alive(victim.id))
    sending_weights = pair.controller.nodes.link(victim.id).sending_weights
    pair.run(sending_weights.acquire())  # as another deployment would that sends this node its layers
    waiting = pair.begin("split", PROMPT, max_tokens=12)
    wait_until(lambda: newest_job(pair).title == "Load stages of split again")
    wait_until(lambda: newest_job(pair).status is JobStatus.RUNNING)
    cancelled = pair.run(pair.controller.cancel_job(newest_job(pair).id))
    assert (cancelled.kind, cancelled.status) == ("deploy", JobStatus.CANCELLED)
    assert "Loading stages of split again was cancelled" in (pair.finish(waiting).error or "")
    pair.call(sending_weights.release)
    sent: list[NodeProgress] = []
    reload = pair.controller.deployments._deployer.reload

    async def watched(*arguments: Any) -> Any:
        *rest, on_progress, cancel = arguments

        def told(progress: NodeProgress) -> None:
            sent.append(progress)
            on_progress(progress)

        return await reload(*rest, told, cancel)

    pair.controller.deployments._deployer.reload = watched  # type: ignore[method-assign]
    try:
        again = pair.run(pair.controller.retry_job(cancelled.id))
        assert pair.run(pair.controller.follow_job(again.id, lambda progress: None)).status is JobStatus.DONE
        assert newest_job(pair).id == again.id, "that it is loaded again is one job, not two"
        after = pair.answer("split", PROMPT, max_tokens=12)
    finally:
        pair.controller.deployments._deployer.reload = reload  # type: ignore[method-assign]
    assert (after.error, after.token_ids) == (None, before.token_ids)
    assert after.deployment_id == before.deployment_id and held_by(pair, record.id)[0] == home
    sending = [each for each in sent if each.phase == "sending"]
    assert sending and all(each.already_bytes == each.total_bytes > 0 for each in sending)


def held_by(system: System, deployment: str) -> list[int | None]:
    """The nodes of a deployment's stages, in order."""
    return [shard.node_id for shard in system.controller.registry.shards.list(deployment_id=deployment)]


def test_agents_that_were_stopped_and_started_answer_again(pair: System) -> None:
    controller = pair.controller
    before = pair.answer("split", PROMPT, max_tokens=12)
    (record,) = pair.run(controller.deployments.ready("split"))
    ids = sorted({node for node in held_by(pair, record.id) if node is not None})
    others = [node.id for node in pair.nodes if node.id not in ids]
    for id in ids:
        pair.run(controller.stop_agent(id))
    assert {node.id for node in pair.run(controller.stopped_agents())} == set(ids)
    for id in others:
        pair.run(controller.drain_node(str(id)))
    refused = pair.answer("split", PROMPT, max_tokens=12)
    for id in others:
        pair.run(controller.drain_node(str(id), False))
    assert refused.status is RequestStatus.FAILED, "it says that a node is away"
    assert f"node {ids[0]} " in (refused.error or "")
    for id in ids:
        assert pair.run(controller.start_agent(id)).id == id
    assert pair.run(controller.stopped_agents()) == []
    after = pair.answer("split", PROMPT, max_tokens=12)
    assert (after.error, after.token_ids) == (None, before.token_ids)


def test_the_next_controller_attaches_the_deployment_that_the_last_one_left(home: Home, tiny: Path) -> None:
    with open_system(home, leave=True) as first:
        first.launch(2)
        deploy(first, tiny, "kept", 0, 1)
        before = first.answer("kept", PROMPT, max_tokens=12)
    with open_system(home) as second:
        after = second.answer("kept", PROMPT, max_tokens=12)
        assert after.token_ids == before.token_ids
        assert after.deployment_id == before.deployment_id, "it was attached, not loaded again"
        process = second.process(second.nodes[1])
        second.run(second.controller.remove_node(str(second.nodes[1].id)))
        # Its parent is this process, which may not have looked after it yet.
        ended = not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        assert ended, "removing a node ends the agent that was started for it"
        assert second.run(second.controller.deployments.ready("kept")) == [], "and takes down what needs it"


def test_a_second_controller_is_told_who_holds_the_registry(system: System) -> None:
    with pytest.raises(RegistryError, match=r"process \d+|pid \d+"), open_system(system.home):
        pass


def test_moving_a_boundary_by_one_layer_sends_the_bytes_of_one_layer(pair: System, tmp_path: Path) -> None:
    controller = pair.controller
    nodes = [pair.nodes[0].id, pair.nodes[1].id]
    make_model("llama", tmp_path / "other", intermediate_size=104)  # nobody has seen any of its layers
    description = pair.run(controller.add_model(str(tmp_path / "other"), name="moved"))
    pair.run(controller.deploy("moved", nodes=nodes))
    pair.run(controller.undeploy("moved"))
    (stage_a, stage_b) = pair.run(controller.plan("moved", nodes=nodes)).ranges
    moved = f"{stage_a[0]}-{stage_a[1]},{stage_a[1] + 1}-{stage_b[1] - 1}"
    deployed = pair.run(
        controller.jobs.do(DeployWork(pair.run(controller.plan("moved", nodes=nodes, layers=moved))), UNKNOWN)
    )
    assert deployed.sent_bytes == description.layers[stage_a[1]].nbytes
    back = f"{stage_a[0]}-{stage_a[1] - 1},{stage_b[0]}-{stage_b[1] - 1}"
    pair.run(controller.undeploy("moved"))
    deployed = pair.run(
        controller.jobs.do(DeployWork(pair.run(controller.plan("moved", nodes=nodes, layers=back))), UNKNOWN)
    )
    assert deployed.sent_bytes == 0, "both nodes have held every one of their layers before"
    pair.run(controller.undeploy("moved"))


def test_a_drained_node_takes_no_new_request(pair: System) -> None:
    pair.run(pair.controller.drain_node(str(pair.nodes[2].id)))
    record = pair.answer("other", PROMPT, max_tokens=3)
    assert "drained" in (record.error or "")
    pair.run(pair.controller.drain_node(str(pair.nodes[2].id), False))
    assert pair.answer("other", PROMPT, max_tokens=3).error is None


def test_cancelling_a_cut_ends_its_child_and_leaves_no_folder(system: System, tiny: Path, tmp_path: Path) -> None:
    before = set(psutil.Process().children())

    async def cut_and_cancel() -> None:
        work = asyncio.ensure_future(system.controller.cut_model(str(tiny), num_shards=2, output_dir=tmp_path / "out"))
        while not work.done() and set(psutil.Process().children()) <= before:
            await asyncio.sleep(0.01)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work

    system.run(cut_and_cancel())
    assert not (tmp_path / "out").exists()
    assert set(psutil.Process().children()) <= before


def test_a_deployment_that_is_cancelled_while_it_is_written_down_is_not_left_loading(
    pair: System, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = threading.Event()

    def slow_note(*arguments: Any) -> DeploymentRecord:
        begun.set()
        time.sleep(0.5)
        return note(*arguments)

    note = deployer._note_begun
    monkeypatch.setattr(deployer, "_note_begun", slow_note)
    pair.run(pair.controller.add_model(str(tiny), name="hasty"))
    first, second = (pair.begin("hasty", PROMPT, max_tokens=3) for _ in range(2))
    assert begun.wait(20)
    pair.run(first.cancel())
    job = newest_job(pair)
    assert job.status is JobStatus.RUNNING, "another request waits for it"
    pair.run(second.cancel())
    (left,) = pair.controller.registry.deployments.list(model_name="hasty")
    assert {run.record.status for run in (first, second)} == {RequestStatus.CANCELLED}
    assert left.status is DeploymentStatus.FAILED
    assert pair.controller.registry.jobs.get(job.id).status is JobStatus.CANCELLED, "nobody waits for it any more"


def test_nobody_finds_a_deployment_ready_that_has_no_pipeline_yet(
    pair: System, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bool] = []

    def note_and_look(registry: Registry, id: str) -> DeploymentRecord:
        record = note(registry, id)
        seen.append(pair.controller.deployments.pipeline(id) is not None)
        return record

    note = deployer._note_ready
    monkeypatch.setattr(deployer, "_note_ready", note_and_look)
    deploy(pair, tiny, "prompt", 2)
    pair.run(pair.controller.undeploy("prompt"))
    assert seen == [True]

"""One desk, three ways to it: what the window, HTTP or a command began, all of them see, end and begin again."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from pytestqt.qtbot import QtBot

from app.api.server import ApiServer
from app.cluster.node_state import NodeState
from app.controller import Controller
from app.controller_settings import ServerSettings
from app.errors import Cancelled
from app.inference.prompt import TokenPrompt
from app.inference.request_run import RequestRun
from app.jobs.job import JobSnapshot
from app.jobs.works import register_model
from app.paths import Home
from app.registry import JobStatus
from app.runs.run import Run
from app.runs.trace import Origin
from app.ui.board.state.board_model import BoardModel
from app.ui.jobs.shown_job import ShownJob
from app.ui.workbench import Workbench
from tests.cli.programs import CommandLine
from tests.jobs.endless import silent_hub

SECONDS = 30_000


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A model whose adding does not end by itself."""
    with silent_hub(monkeypatch) as source:
        yield source


@pytest.fixture
def shell(home: Home, source: str) -> CommandLine:
    return CommandLine(home.root)


@pytest.fixture
def web(workbench: Workbench, qtbot: QtBot) -> Iterator[httpx.Client]:
    """A program that asks the window's controller over HTTP."""
    servers: list[ApiServer] = []

    async def start(controller: Controller, report: object) -> str:
        servers.append(ApiServer(controller, ServerSettings(port=0)))
        await servers[0].start()
        return servers[0].url

    async def stop(controller: Controller, report: object) -> None:
        await servers[0].stop(0.0)

    url = done(workbench, qtbot, start)
    with httpx.Client(base_url=url, timeout=60, headers={"Accept": "application/json"}, verify=False) as client:
        yield client
    done(workbench, qtbot, stop)


@pytest.fixture
def board(workbench: Workbench, qtbot: QtBot, home: Home, tiny_library: Path) -> Iterator[BoardModel]:
    """The board over one agent of this machine, with "tiny" chosen."""
    shutil.copytree(tiny_library / "tiny", home.models / "tiny")

    async def prepare(controller: Controller, report: object) -> None:
        await controller.launch_local(1, keep=False)
        await controller.registry.call(lambda known: register_model(known, controller.library.get("tiny")))

    async def clear(controller: Controller, report: object) -> None:
        await controller.remove_node("1")

    done(workbench, qtbot, prepare)
    made, cluster = BoardModel(workbench), workbench.cluster
    qtbot.waitUntil(lambda: [view.state for view in cluster.nodes.values()] == [NodeState.UP], timeout=SECONDS)
    qtbot.waitUntil(lambda: cluster.model("tiny") is not None, timeout=SECONDS)
    made.choose_model("tiny")
    yield made
    made.deploying.cancel()
    done(workbench, qtbot, clear)


@pytest.fixture(autouse=True)
def all_is_ended(workbench: Workbench, qtbot: QtBot) -> Iterator[None]:
    yield
    workbench.jobs.close()
    qtbot.waitUntil(lambda: not workbench.jobs.busy(), timeout=SECONDS)


def done(workbench: Workbench, qtbot: QtBot, work: Callable[..., Any]) -> Any:
    with qtbot.waitSignal(workbench.bridge.call(work, "a test").done, timeout=SECONDS) as told:
        pass
    return told.args[0]


def running(workbench: Workbench, qtbot: QtBot, number: int = 0) -> ShownJob:
    """The window's row of a job that runs."""
    jobs = workbench.jobs.jobs
    qtbot.waitUntil(lambda: len(jobs) > number and jobs[number].view.status is JobStatus.RUNNING, timeout=SECONDS)
    return jobs[number]


def runs(workbench: Workbench, qtbot: QtBot) -> list[Run]:
    """The records of all jobs but that of the board's agent, oldest first."""

    async def read(controller: Controller, report: object) -> list[Run]:
        return await controller.registry.call(lambda _: list(controller.runs.select(kinds=("job",)))[::-1])

    return [run for run in done(workbench, qtbot, read) if run.job.kind != "local"]


def test_a_job_of_the_window_is_seen_ended_and_begun_again_over_http_and_by_commands(
    workbench: Workbench, qtbot: QtBot, web: httpx.Client, shell: CommandLine, source: str
) -> None:
    first = workbench.jobs.add_model(source)
    running(workbench, qtbot)
    seen = web.get(f"/shard/api/jobs/status/{first.view.id}/").json()
    assert (seen["title"], seen["status"]) == (first.view.title, "running")
    assert [(job["id"], job["status"]) for job in shell.json("job", "list")] == [(first.view.id, "running")]

    assert web.post(f"/shard/api/jobs/cancel/{first.view.id}/", json={}).json()["status"] == "cancelled"
    qtbot.waitUntil(lambda: first.is_over, timeout=SECONDS)
    assert (first.view.status, first.view.can_retry) == (JobStatus.CANCELLED, True)
    again = web.post(f"/shard/api/jobs/retry/{first.view.id}/", json={}).json()["id"]
    second = running(workbench, qtbot, 1)
    assert (second.view.id, second.is_own, second.view.origin.via) == (again, False, "http")

    assert shell.json("job", "cancel", str(again))["status"] == "cancelled"
    qtbot.waitUntil(lambda: second.is_over, timeout=SECONDS)
    third = shell.json("job", "retry", str(again))["id"]
    assert running(workbench, qtbot, 2).view.id == third
    workbench.jobs.jobs[2].cancel()
    assert "was cancelled" in shell.run("job", "follow", str(third), code=Cancelled.exit_code)
    qtbot.waitUntil(lambda: not workbench.jobs.busy(), timeout=SECONDS)
    told = [(run.status, run.origin.via, run.error) for run in runs(workbench, qtbot)]
    assert told == [("cancelled", via, "Cancelled by the user.") for via in ("window", "http", "command")]


def test_a_job_that_a_program_began_over_http_is_ended_and_begun_again_in_the_window(
    workbench: Workbench, qtbot: QtBot, web: httpx.Client, source: str
) -> None:
    id = web.post("/shard/api/models/add/", json={"source": source}).json()["id"]
    job = running(workbench, qtbot)
    assert (job.view.id, job.view.title, job.is_own) == (id, "Add model", False)
    job.cancel()
    job.cancel()
    qtbot.waitUntil(lambda: job.is_over, timeout=SECONDS)
    assert web.get(f"/shard/api/jobs/status/{id}/").json()["status"] == "cancelled"
    again = job.retry()
    assert again is running(workbench, qtbot, 1) and again.is_own and len(workbench.jobs.jobs) == 2
    assert web.post(f"/shard/api/jobs/cancel/{again.view.id}/", json={}).json()["status"] == "cancelled"
    qtbot.waitUntil(lambda: again.is_over, timeout=SECONDS)
    assert [run.origin.via for run in runs(workbench, qtbot)] == ["http", "window"]


def test_a_job_that_a_command_began_and_waits_for_is_ended_in_the_window(
    workbench: Workbench, qtbot: QtBot, shell: CommandLine, source: str
) -> None:
    process = shell.start("model", "add", source)
    job = running(workbench, qtbot)
    assert not job.is_own and job.view.origin.via == "command"
    job.cancel()
    _, said = process.communicate(timeout=60)
    assert process.returncode == Cancelled.exit_code and "'Add model' was cancelled." in said
    qtbot.waitUntil(lambda: job.is_over, timeout=SECONDS)
    (run,) = runs(workbench, qtbot)
    assert (run.id, run.status, run.origin.via) == (str(job.view.id), "cancelled", "command")


def test_a_deployment_is_seen_ended_and_begun_again_from_everywhere(
    workbench: Workbench, qtbot: QtBot, web: httpx.Client, shell: CommandLine, board: BoardModel
) -> None:
    async def occupy(controller: Controller, report: object) -> asyncio.Lock:
        sending = controller.nodes.link(1).sending_weights
        await sending.acquire()  # as another deployment would that sends this node its layers
        return sending

    async def let_go(controller: Controller, report: object) -> None:
        sending.release()

    sending = done(workbench, qtbot, occupy)
    process = shell.start("deploy", "tiny")
    first = running(workbench, qtbot)
    assert (first.view.title, first.is_own, first.view.origin.via) == ("Deploy tiny on 1 node", False, "command")
    assert board.deploying.model_name == "tiny" and list(board.deploying.nodes) == [1]
    assert board.can_deploy == (False, "tiny is being deployed.")
    assert web.post(f"/shard/api/jobs/cancel/{first.view.id}/", json={}).json()["status"] == "cancelled"
    _, said = process.communicate(timeout=60)
    assert process.returncode == Cancelled.exit_code and "'Deploy tiny on 1 node' was cancelled." in said
    qtbot.waitUntil(lambda: not board.is_deploying, timeout=SECONDS)

    again = web.post(f"/shard/api/jobs/retry/{first.view.id}/", json={}).json()["id"]
    second = running(workbench, qtbot, 1)
    board.deploying.cancel()
    qtbot.waitUntil(lambda: second.is_over and not board.is_deploying, timeout=SECONDS)
    seen = web.get(f"/shard/api/jobs/status/{again}/").json()
    assert (seen["status"], seen["can_retry"]) == ("cancelled", True)

    board.propose()
    board.deploy()
    third = running(workbench, qtbot, 2)
    assert third.is_own and board.is_deploying
    assert shell.json("job", "cancel", str(third.view.id))["status"] == "cancelled"
    qtbot.waitUntil(lambda: third.is_over, timeout=SECONDS)
    assert workbench.cluster.deployment_of("tiny") is None

    async def ask(controller: Controller, report: object) -> RequestRun:
        return await controller.generate("tiny", TokenPrompt((3, 4, 5)), origin=Origin(via="command"))

    asked = done(workbench, qtbot, ask)
    fourth = running(workbench, qtbot, 3)
    assert fourth.view.title.startswith("Deploy tiny on ") and fourth.view.title.endswith(" for a request")
    assert board.deploying.model_name == "tiny" and not fourth.is_own
    assert web.post(f"/shard/api/jobs/cancel/{fourth.view.id}/", json={}).json()["status"] == "cancelled"
    qtbot.waitUntil(lambda: asked.is_over and fourth.is_over, timeout=SECONDS)
    assert asked.record.error == (
        f"tiny was not loaded: '{fourth.view.title}' was cancelled. Send the request again to have it loaded once more."
    )

    done(workbench, qtbot, let_go)
    views: list[JobSnapshot] = []
    workbench.jobs.job_changed.connect(lambda job: views.append(job.view))
    last = shell.json("job", "retry", str(fourth.view.id))["id"]
    assert shell.json("job", "follow", str(last))["status"] == "done"
    qtbot.waitUntil(lambda: board.is_loaded and not board.is_deploying, timeout=SECONDS)
    told = {view.phase: view for view in views if view.status is JobStatus.RUNNING}
    assert {"sending", "loading", "linking", "ready"} <= set(told)
    (node,) = told["linking"].nodes
    assert node.node_id == 1 and node.done_bytes == node.total_bytes == told["linking"].total_bytes > 0
    record = web.get(f"/shard/api/jobs/status/{last}/").json()
    deployment = workbench.cluster.deployment_of("tiny")
    assert deployment is not None and record["details"]["deployment"] == deployment.record.id
    ways = [(run.status, run.origin.via) for run in runs(workbench, qtbot)]
    ended = [("cancelled", via) for via in ("command", "http", "window", "command")]
    assert ways == [*ended, ("done", "command")]

"""The launchers together: which there are, what each says of itself, whose a node is. And what is said of Ray."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Iterator

import pytest

from app.cli.session import Session, open_controller
from app.errors import NodeError, ShardboardError
from app.launchers.launcher import LocalWish, RayWish, missing_extra
from app.launchers.ray_process import _not_connected, _not_up
from app.launching import launch, launchers, look_at_ray, update_agent
from app.paths import Home
from app.runs.trace import Origin

HAS_RAY = importlib.util.find_spec("ray") is not None


@pytest.fixture
def session(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Session]:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE", "RAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home.root))  # where Ray looks for a token
    with open_controller(home) as session:
        yield session


def refused(session: Session, address: str) -> NodeError:
    with pytest.raises(NodeError) as caught:
        session.ask(look_at_ray, address)
    return caught.value


def test_whoever_asks_is_told_of_all_launchers_and_whose_each_node_is(session: Session) -> None:
    assert [(each.name, each.nodes) for each in session.ask(launchers)] == [("local", ()), ("ssh", ()), ("ray", ())]
    [node] = session.ask(launch, LocalWish(1, threads=1, memory=10**8))
    controller = session.controller
    local, _, ray = session.ask(launchers)
    assert (local.nodes, local.problem, ray.problem == "") == ((node.id,), "", HAS_RAY)
    before = node.local_pid
    phases: list[str] = []
    renewed = session.ask(
        update_agent, str(node.id), on_progress=lambda now: phases.append(now.phase), origin=Origin(via="command")
    )
    assert renewed.local_pid != before and phases == ["starting the agent here"]
    assert [(job.kind, job.origin["via"], job.details) for job in controller.registry.jobs.list()] == [
        ("update", "command", {"nodes": [node.id]}), ("local", "program", {"nodes": [node.id]})
    ]  # fmt: skip
    session.run(controller.remove_node(str(node.id)))


def test_without_the_package_it_is_said_how_to_get_it() -> None:
    said = missing_extra("no_such_package", "Ray", "ray")
    assert "needs the package no_such_package" in said and "pip install 'shardboard[ray]'" in said


@pytest.mark.skipif(not HAS_RAY, reason="Ray is not installed")
def test_a_cluster_without_a_token_is_refused_and_one_that_is_not_there_named(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{free.getsockname()[1]}"
    assert "RAY_AUTH_MODE=token" in refused(session, nobody).advice
    monkeypatch.setenv("RAY_AUTH_TOKEN", "0" * 32)
    error = refused(session, nobody)
    assert f"No Ray cluster answers at {nobody}" in error.message and "ray start --head" in error.advice
    assert "has to be a node of the cluster" in refused(session, "ray://127.0.0.1:10001").message
    with pytest.raises(NodeError, match="No Ray cluster answers"):
        session.ask(launch, RayWish(1, nobody))
    assert session.controller.launchers.ray.wish is None, "nothing is kept that did not begin"


@pytest.mark.parametrize(
    ("raised", "said", "advice"),
    [
        (
            "RayTaskError(RuntimeError): ray::AgentKeeper.__init__()\n  File …\nworker_agent.wire.errors.AgentError: "
            "The agent on box did not come up: it ended with status 1. ModuleNotFoundError: No module named 'torch'",
            "The Ray node 10.0.0.7 lacks the Python package torch", "pip install shardboard",
        ),
        (
            "The actor died: creation task\n  File …\nworker_agent.wire.errors.AgentError: The disk is full.",
            "Ray could not start the agent on 10.0.0.7: The disk is full.", "",
        ),
    ],
)  # fmt: skip
def test_an_agent_that_ray_cannot_start_is_explained_without_a_traceback(raised: str, said: str, advice: str) -> None:
    error = _not_up("10.0.0.7", RuntimeError(raised))
    assert error.message.startswith(said) and "File" not in error.message and advice in error.advice


@pytest.mark.parametrize(
    ("raised", "said"),
    [
        ("Version mismatch: The cluster was started with:\n Ray: 2.59.0\n Python: 3.12.3", "same minor version"),
        ("Unauthenticated: InvalidAuthToken: authentication token is wrong", "Give the cluster's token"),
        ("Failed to connect to Ray cluster at rack:6379", "Give the cluster's token"),
        ("Could not find any running Ray instance.", "Start one"),
    ],
)
def test_why_a_cluster_lets_nobody_in_is_told_apart(raised: str, said: str) -> None:
    error: ShardboardError = _not_connected("rack:6379", ConnectionError(raised))
    assert said in error.advice and "rack:6379" in error.message and "\n" not in error.message

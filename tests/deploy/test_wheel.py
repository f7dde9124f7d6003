"""The wheel: built from the repository, put into an environment of its own, and joined with by the line one pastes."""

from __future__ import annotations

import asyncio
import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import zmq.asyncio

from app.cluster.controller_identity import ControllerIdentity
from app.cluster.invitations import AGENT_STARTS, JoinListener
from app.cluster.launching import AgentLauncher
from app.cluster.nodes import NodeDirectory
from app.paths import Home
from app.registry import NodeRecord, Registry
from tests.waiting import wait_until

ROOT = Path(__file__).resolve().parent.parent.parent
IN_WHEEL = ("app", "worker_agent", "pyproject.toml", "README.md", "LICENSE")


BARE = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
"""An environment that leads to no code but what is installed."""


def run(*command: str | Path) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=150, check=False, stdin=subprocess.DEVNULL, env=BARE
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of programs of an environment that has the wheel; the libraries are this environment's."""
    root = tmp_path_factory.mktemp("wheel")
    source = root / "source"
    source.mkdir()
    for name in IN_WHEEL:  # a copy: building leaves things behind
        given = ROOT / name
        if given.is_dir():
            shutil.copytree(given, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(given, source / name)
    pip = (sys.executable, "-m", "pip")
    run(*pip, "wheel", "-q", "--no-deps", "--no-index", "--no-build-isolation", "-w", root, source)
    [wheel] = root.glob("shardboard-*.whl")
    environment = root / "environment"
    venv.create(environment, with_pip=False)
    places = sysconfig.get_paths(scheme="venv", vars={"base": str(environment), "platbase": str(environment)})
    programs, libraries = Path(places["scripts"]), Path(places["purelib"])
    python = programs / ("python.exe" if os.name == "nt" else "python")
    run(*pip, "--python", python, "install", "-q", "--no-deps", "--no-index", "--no-compile", wheel)
    (libraries / "libraries.pth").write_text(f"{sysconfig.get_paths()['purelib']}\n")
    found = run(python, "-P", "-c", "import worker_agent; print(worker_agent.__file__)")
    assert Path(found.strip()).is_relative_to(environment), "the wheel's code, not the repository's"
    return programs


def test_an_agent_from_the_wheel_joins_by_the_line_that_is_pasted(installed: Path, tmp_path: Path) -> None:
    async def scenario() -> None:
        home = Home(tmp_path, tmp_path / "models").create()
        registry, identity = Registry.open(home.registry), ControllerIdentity.of(home)
        context = zmq.asyncio.Context()
        nodes = NodeDirectory(context, identity, registry, AgentLauncher(home, identity.keys.public))
        listener = JoinListener(identity, nodes)
        listener.open()
        try:
            pasted = f"{AGENT_STARTS[1].posix} {listener.invite().options}"
            await asyncio.to_thread(join_with, pasted, registry)
        finally:
            await listener.close()
            await nodes.close()
            registry.close()
            context.destroy(linger=0)

    def join_with(line: str, registry: Registry) -> None:
        program, *options = shlex.split(line)
        options += ["--home", str(tmp_path / "agent"), "--name", "newcomer", "--listen", "127.0.0.1:0"]
        found = shutil.which(program, path=str(installed))
        assert found is not None, f"{program} is a program of the wheel"
        with subprocess.Popen([found, *options], cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=BARE) as process:
            try:
                nodes: list[NodeRecord] = []

                def joined() -> bool:
                    nodes[:] = registry.nodes.list()
                    return bool(nodes) or process.poll() is not None

                wait_until(joined, 90)
                assert process.poll() is None, process.stderr and process.stderr.read()
                assert [node.hostname for node in nodes] == ["newcomer"]
            finally:
                process.send_signal(signal.SIGTERM if os.name == "posix" else signal.CTRL_BREAK_EVENT)

    asyncio.run(scenario())

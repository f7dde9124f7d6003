"""An agent kept as the child of a process that somebody else looks after: an actor of Ray.

The two live and die together: when the agent ends unasked its keeper's process ends, so that whoever looks after that
starts both again; when the keeper's process ends, however, the agent's standard input is closed and it leaves. Which
state folder the agent gets goes by the place, so that one that comes again has its key and its layers. Nothing here
knows Ray: an actor is made of `AgentKeeper` where it is started.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import psutil

from worker_agent.host.home import AgentHome, HomeInUse, default_home
from worker_agent.wire.errors import AgentError
from worker_agent.wire.links import Endpoint

READY_SECONDS = 170.0
"""An agent imports torch before it is ready, which takes long on a slow disk."""
STOP_SECONDS = 10.0
"""How long an agent that is asked to leave may take before it is killed."""
HOME_SECONDS = 15.0
"""How long an agent of before, which is about to leave, may hold its state folder."""
MEMORY_SHARE = 0.8
"""Of the memory that is available, how much all agents of one machine may take together."""
FAILED = 71
"""The keeper's exit status when its agent has ended unasked."""
_POLL_SECONDS = 0.05
_TAIL_BYTES = 1500
_PREFIX = "ray-"


class KeepWish(msgspec.Struct, frozen=True):
    """What agent is wanted. Plain values: it goes through other programs' hands."""

    trust: str
    """The public key of the controller that it obeys."""
    place: str
    """What the machine is called by whoever starts keepers there: another agent's place has another name."""
    host: str
    """The address at which it is to be reached."""
    name: str = ""
    """What the controller shows; empty for the machine's."""
    others: tuple[str, ...] = ()
    """Places that there are besides: their agents' state folders are not to be taken over."""
    threads: int | None = None
    memory: int | None = None
    """Bytes for stages; None for an equal share of what is free."""
    sharing: int = 1
    """How many agents the machine has."""
    device: str | None = None


class Kept(msgspec.Struct, frozen=True):
    """What a keeper tells of its agent."""

    place: str
    address: str
    public_key: str
    pid: int
    host_name: str
    python: str
    """Major and minor version."""
    software: str
    """The version of Ray there; empty without."""
    token: bool
    """Whether Ray asks for a token there."""


class _Ready(msgspec.Struct):
    """What an agent writes into its ready file."""

    pid: int
    address: str
    public_key: str


class AgentKeeper:
    """Starts its agent when it is made, which takes seconds. Raises AgentError when that does not come up.

    Args:
        wish: a `KeepWish` as builtins.
    """

    def __init__(self, wish: dict[str, object]) -> None:
        self._wish = msgspec.convert(wish, KeepWish)
        self._home = _home_of(self._wish)
        self._asked = False
        self._child, self._ready = self._started()
        threading.Thread(target=self._end_with_agent, name="end-with-agent", daemon=True).start()

    def facts(self) -> dict[str, object]:
        """A `Kept` as builtins."""
        return msgspec.to_builtins(  # type: ignore[no-any-return]
            Kept(
                self._wish.place, self._ready.address, self._ready.public_key, self._ready.pid, socket.gethostname(),
                f"{sys.version_info.major}.{sys.version_info.minor}", _ray_version(),
                os.environ.get("RAY_AUTH_MODE", "").lower() == "token",
            )
        )  # fmt: skip

    def stop(self, forget: bool = False) -> None:
        """End the agent. What calls this ends the keeper's process, too.

        Args:
            forget: delete its state folder: key, layers, log.
        """
        self._asked = True
        _end(self._child)
        if forget:
            shutil.rmtree(self._home, ignore_errors=True)

    def _started(self) -> tuple[subprocess.Popen[bytes], _Ready]:
        """Where it listened the last time, if that is free; else on any port."""
        last = AgentHome(self._home).last_endpoint()
        if last is not None and last.host == self._wish.host:
            with contextlib.suppress(AgentError):
                return self._start(last)
        return self._start(Endpoint(self._wish.host, 0))

    def _start(self, listen: Endpoint) -> tuple[subprocess.Popen[bytes], _Ready]:
        home, wish = self._home, self._wish
        ready = home / "ready.json"
        ready.unlink(missing_ok=True)
        arguments = [
            "--listen", str(listen), "--home", str(home), f"--trust={wish.trust}", "--ready-file", str(ready),
            "--name", wish.name or socket.gethostname(), "--end-with-input",
        ]  # fmt: skip
        memory = wish.memory
        if memory is None and wish.sharing > 1:
            memory = int(psutil.virtual_memory().available * MEMORY_SHARE) // wish.sharing
        for option, value in (("--threads", wish.threads), ("--memory", memory), ("--device", wish.device)):
            if value is not None:
                arguments += [option, str(value)]
        with (home / "output.log").open("wb") as output:
            child = subprocess.Popen(
                [sys.executable, "-P", "-m", "worker_agent", *arguments],
                stdin=subprocess.PIPE, stdout=output, stderr=output, cwd=home, env=_environment(),
                start_new_session=os.name == "posix",
            )  # fmt: skip
        try:
            told = self._wait_ready(child, ready)
        except BaseException:
            _end(child)
            raise
        AgentHome(home).remember(Endpoint.parse(told.address, to_listen=True))
        return child, told

    def _wait_ready(self, child: subprocess.Popen[bytes], ready: Path) -> _Ready:
        deadline = time.monotonic() + READY_SECONDS
        while not ready.exists():
            status = child.poll()
            if status is not None:
                raise AgentError(self._not_up(f"it ended with status {status}"))
            if time.monotonic() > deadline:
                raise AgentError(self._not_up(f"it was not ready after {READY_SECONDS:.0f} s"))
            time.sleep(_POLL_SECONDS)
        return msgspec.json.decode(ready.read_bytes(), type=_Ready)

    def _not_up(self, why: str) -> str:
        output = (self._home / "output.log").read_bytes()[-_TAIL_BYTES:].decode(errors="replace").strip()
        said = f" The end of its output:\n{output}" if output else ""
        return f"The agent on {socket.gethostname()} did not come up: {why}.{said}"

    def _end_with_agent(self) -> None:
        self._child.wait()
        if not self._asked:
            os._exit(FAILED)


def _home_of(wish: KeepWish) -> Path:
    """The place's own state folder; else one of a place that is no more, with the layers on its disk; else a new one.

    A machine that was started anew has another place and its old disk.
    """
    folders = default_home().parent / "ray"
    folders.mkdir(parents=True, exist_ok=True)
    own = folders / f"{_PREFIX}{wish.place}"
    if not own.exists():
        taken = {f"{_PREFIX}{place}" for place in wish.others}
        for old in sorted(folders.glob(f"{_PREFIX}*"), key=lambda folder: -folder.stat().st_mtime):
            if old.name not in taken and _is_free(old, 0.0):
                with contextlib.suppress(OSError):  # another keeper was quicker
                    old.rename(own)
                    break
    AgentHome(own).create()
    _is_free(own, HOME_SECONDS)
    return own


def _is_free(folder: Path, seconds: float) -> bool:
    """Whether no agent works in a state folder, or none will in so many seconds."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            AgentHome(folder).lock().close()
            return True
        except (HomeInUse, OSError):
            if time.monotonic() >= deadline:
                return False
            time.sleep(_POLL_SECONDS)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Close the agent's standard input, which asks it to leave; kill it when it does not."""
    assert child.stdin is not None
    with contextlib.suppress(OSError):
        child.stdin.close()
    try:
        child.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _environment() -> dict[str, str]:
    """This process's variables without what was set for this process alone; our code is found first."""
    kept = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    code = str(Path(__file__).resolve().parents[2])
    paths = [code, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**kept, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)), "PYTHONUNBUFFERED": "1"}


def _ray_version() -> str:
    try:
        return importlib.metadata.version("ray")
    except importlib.metadata.PackageNotFoundError:
        return ""

"""Agents on this machine: started so that they outlive this process, found again, ended.

Each has a folder under the home's `agents`: the agent's own state, and beside it `launch.json`, from which
a later process knows how it was started and which process it is.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
import psutil

from app.children.starting import start_child
from app.cluster.strays import LAUNCHED, clear_abandoned, forget_start, note_start
from app.errors import BadInput, NodeError
from app.paths import Home
from app.registry import NodeRecord
from worker_agent.process import usable_cores
from worker_agent.wire.files import write_private

READY_SECONDS = 120.0
"""An agent imports torch before it is ready, which takes long on a slow disk."""
MEMORY_SHARE = 0.8
"""Of the memory that is available, how much all agents here may take together."""
TERMINATE_SECONDS = 5.0
KILL_SECONDS = 5.0
SHUTDOWN_SECONDS = 5.0
"""How long an agent that was asked to leave may take, before it is made to."""
STOP_SECONDS = 2.0
"""The same for one that is stopped while a window closes: nobody wants to wait."""
READY = "ready.json"
"""An agent writes there that it is ready, in a state folder."""
SAME_SECONDS = 1.0
"""Two processes of one number do not begin so close to each other."""
_POLL_SECONDS = 0.05
_TAIL_BYTES = 1500
_MOST_AGENTS = 64


class LaunchedAgent(msgspec.Struct, frozen=True):
    """`launch.json`: an agent that was launched here."""

    folder: str
    name: str
    address: str
    public_key: str
    pid: int
    created: float
    """When the process began, so that another one that got its number is not taken for it. By the system's clock."""
    threads: int
    memory: int
    """Bytes for stages."""
    device: str | None = None
    """What was asked for; None left the choice to the agent."""
    keep: bool = True
    """Whether it goes on when the window that started it is closed."""
    began: float | None = None
    """When the process began, as `_began` counts, which no setting of the clock changes; None of an earlier version."""

    def process(self) -> psutil.Process | None:
        """Its process, if that still runs and is without doubt this agent's. Reads files of the system."""
        try:
            process = self._living()
            command = [] if process is None else process.cmdline()
        except psutil.Error:
            return None
        return process if "worker_agent" in command and self.folder in command else None

    def is_gone(self) -> bool:
        """Whether its process has given back all it held. While that ends it has no command line any more. Reads files
        of the system."""
        try:
            return self._living() is None
        except psutil.NoSuchProcess:
            return True

    def _living(self) -> psutil.Process | None:
        """The process of its number, if it began when this agent did and has not ended. Raises psutil.Error."""
        process = psutil.Process(self.pid)
        apart = process.create_time() - self.created if self.began is None else _began(process) - self.began
        ended = process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
        return process if abs(apart) < SAME_SECONDS and not ended else None


class LocalNode(NamedTuple):
    """A node whose agent was launched on this machine."""

    record: NodeRecord
    agent: LaunchedAgent
    runs: bool


class _Ready(msgspec.Struct):
    """What an agent writes into its ready file."""

    pid: int
    address: str
    public_key: str


class AgentLauncher:
    """Starts, finds and ends the agents of this machine. `controller_key` is the public key they trust."""

    def __init__(self, home: Home, controller_key: str, *, ready_seconds: float = READY_SECONDS) -> None:
        self._home = home
        self._controller_key = controller_key
        self._ready_seconds = ready_seconds
        self._children: list[subprocess.Popen[bytes]] = []
        """Kept so that those which end while this process lives are reaped."""

    def launched(self) -> list[LaunchedAgent]:
        """All that were launched here and not ended since, whether they run or not. Reads their files."""
        found = []
        for path in sorted(self._home.agents.glob(f"*/{LAUNCHED}")):
            with suppress(OSError, msgspec.DecodeError):
                found.append(msgspec.json.decode(path.read_bytes(), type=LaunchedAgent))
        return found

    def clear_abandoned(self) -> None:
        """End agents that a controller was starting here when it was killed, and that nobody knows of. Blocks."""
        clear_abandoned(self._home.agents)

    def find(self, public_key: str) -> LaunchedAgent | None:
        """The one with this key, None when it was not launched here. Reads files as `launched` does."""
        return next((agent for agent in self.launched() if agent.public_key == public_key), None)

    async def start(
        self,
        count: int,
        *,
        threads: int | None = None,
        memory: int | None = None,
        device: str | None = None,
        keep: bool = True,
    ) -> list[LaunchedAgent]:
        """Start `count` agents, each with its share of the cores and of the available memory unless told otherwise.

        `keep` is remembered for whoever closes up: whether they are to go on then.

        Raises:
            BadInput: a count that makes no sense.
            NodeError: one of them did not come up; the text has the end of its output. None is left then.
        """
        if not 1 <= count <= _MOST_AGENTS:
            raise BadInput(f"{count} agents cannot be started; say a number from 1 to {_MOST_AGENTS}.")
        running, available = await asyncio.to_thread(lambda: (self._running(), psutil.virtual_memory().available))
        sharing = count + running
        threads = threads or max(1, usable_cores() // sharing)
        memory = memory or int(available * MEMORY_SHARE) // sharing
        folders = await asyncio.to_thread(lambda: [self._new_folder() for _ in range(count)])
        starts = [
            asyncio.create_task(self._launch(folder, "127.0.0.1:0", threads, memory, device, keep))
            for folder in folders
        ]
        try:
            return [await start for start in starts]
        except BaseException:
            for start in starts:
                start.cancel()
            for started in await asyncio.gather(*starts, return_exceptions=True):
                if isinstance(started, LaunchedAgent):
                    await self._make_end(started, 0.0)
            for folder in folders:
                await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)
            raise

    async def revive(self, public_key: str, *, keep: bool | None = None) -> LaunchedAgent:
        """Start an agent again that has stopped: same folder, same key, and the same port where it is free.

        One that runs goes on. `keep` changes what is remembered of it, None leaves that as it is. Raises NodeError
        when it was not launched here or does not start.
        """
        agent = await asyncio.to_thread(self._known, public_key)
        wanted = agent.keep if keep is None else keep
        if await asyncio.to_thread(agent.process) is not None:
            if wanted != agent.keep:
                agent = msgspec.structs.replace(agent, keep=wanted)
                await asyncio.to_thread(_remember, agent)
            return agent
        await asyncio.to_thread(self.clear_abandoned)
        folder, settings = Path(agent.folder), (agent.threads, agent.memory, agent.device, wanted)
        try:
            return await self._launch(folder, agent.address, *settings)
        except NodeError:  # its port may be another program's by now
            return await self._launch(folder, "127.0.0.1:0", *settings)

    async def stop(self, public_key: str, *, grace: float = 0.0) -> None:
        """End an agent's process; its folder with key and parts stays, so that it can be revived.

        `grace` as for `end`. Raises NodeError when it was not launched here, or its process cannot be ended.
        """
        await self._make_end(await asyncio.to_thread(self._known, public_key), grace, STOP_SECONDS)

    async def end(self, public_key: str, *, grace: float = 0.0) -> None:
        """End an agent that was launched here, and delete its folder: nothing of it is left.

        `grace` is how long it may take to leave by itself, for one that was told to shut down.

        Raises NodeError when its process cannot be ended.
        """
        agent = await asyncio.to_thread(self.find, public_key)
        if agent is None:
            return
        await self._make_end(agent, grace)
        await asyncio.to_thread(shutil.rmtree, agent.folder, ignore_errors=True)

    def _running(self) -> int:
        return sum(agent.process() is not None for agent in self.launched())

    def _known(self, public_key: str) -> LaunchedAgent:
        agent = self.find(public_key)
        if agent is None:
            raise NodeError(
                "This node's agent was not launched here, so it cannot be started or stopped from here.",
                "Start or stop it on its own machine.",
                kind="refused",
            )
        return agent

    # --- starting ---

    def _new_folder(self) -> Path:
        self._home.agents.mkdir(parents=True, exist_ok=True)
        number = 1
        while True:
            folder = self._home.agents / str(number)
            try:
                folder.mkdir(mode=0o700)
            except FileExistsError:
                number += 1
            else:
                return folder

    async def _launch(
        self, folder: Path, listen: str, threads: int, memory: int, device: str | None, keep: bool
    ) -> LaunchedAgent:
        name = f"{socket.gethostname()}-{folder.name}"
        arguments = [
            "--listen", listen.removeprefix("tcp://"), "--home", str(folder),
            f"--trust={self._controller_key}", "--ready-file", str(folder / READY), "--threads", str(threads),
            "--memory", str(memory), "--name", name,
        ]  # fmt: skip
        if device is not None:
            arguments += ["--device", device]
        child = await _spawned(arguments, folder)
        self._children = [other for other in self._children if other.poll() is None] + [child]
        try:
            ready = await self._wait_ready(child, folder, name)
            return await asyncio.to_thread(_enter, folder, name, ready, threads, memory, device, keep)
        except BaseException:
            await asyncio.to_thread(_break_off, child, folder)
            raise

    async def _wait_ready(self, child: subprocess.Popen[bytes], folder: Path, name: str) -> _Ready:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._ready_seconds
        while (ready := await asyncio.to_thread(_read_ready, folder)) is None:
            status = child.poll()
            if status is not None:
                raise await asyncio.to_thread(_not_up, name, f"it ended with status {status}", folder)
            if loop.time() > deadline:
                why = f"it was not ready after {self._ready_seconds:.0f} s"
                raise await asyncio.to_thread(_not_up, name, why, folder)
            await asyncio.sleep(_POLL_SECONDS)
        return ready

    # --- ending ---

    async def _make_end(self, agent: LaunchedAgent, grace: float, patience: float = TERMINATE_SECONDS) -> None:
        """Wait, then ask, then kill; each time only what is without doubt this agent's process."""
        if await self._gone(agent, grace):
            return
        for signal, seconds in ((psutil.Process.terminate, patience), (psutil.Process.kill, KILL_SECONDS)):
            process = await asyncio.to_thread(agent.process)
            if process is not None:
                with suppress(psutil.NoSuchProcess):
                    signal(process)
            if await self._gone(agent, seconds):
                return
        raise NodeError(
            f"The agent {agent.name} (process {agent.pid}) cannot be ended.",
            "End it with the system's own means.",
            kind="internal",
            node=agent.name,
        )

    async def _gone(self, agent: LaunchedAgent, seconds: float) -> bool:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        while True:
            unreaped = any(child.poll() is None and child.pid == agent.pid for child in self._children)
            if not unreaped and await asyncio.to_thread(agent.is_gone):
                return True
            if loop.time() >= deadline:
                return False
            await asyncio.sleep(_POLL_SECONDS)


async def _spawned(arguments: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """Start it in a thread. A cancelled wait does not stop the thread: then what it has started is ended here."""
    spawning = asyncio.ensure_future(asyncio.to_thread(_spawn, arguments, folder))
    try:
        return await asyncio.shield(spawning)
    except asyncio.CancelledError:
        await asyncio.to_thread(_break_off, await spawning, folder)
        raise


def _spawn(arguments: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """Start an agent that goes on when this process, its terminal or its session ends. The folder says that it starts
    until `_enter` or `_break_off` is called."""
    note_start(folder)
    try:
        (folder / READY).unlink(missing_ok=True)
        with (folder / "output.log").open("wb") as output:
            return start_child(
                "worker_agent", arguments, stdin=subprocess.DEVNULL, stdout=output, stderr=output, folder=folder,
                outlives=True,
            )  # fmt: skip
    except BaseException:
        forget_start(folder)
        raise


def _read_ready(folder: Path) -> _Ready | None:
    """What an agent says of itself once it is ready; None until then."""
    try:
        return msgspec.json.decode((folder / READY).read_bytes(), type=_Ready)
    except FileNotFoundError:
        return None


def _enter(
    folder: Path, name: str, ready: _Ready, threads: int, memory: int, device: str | None, keep: bool
) -> LaunchedAgent:
    """Write an agent down that has started. Raises NodeError when it has ended since."""
    try:
        process = psutil.Process(ready.pid)
        agent = LaunchedAgent(
            str(folder), name, ready.address, ready.public_key, ready.pid, process.create_time(), threads, memory,
            device, keep, _began(process),
        )  # fmt: skip
    except psutil.Error as error:
        raise _not_up(name, "it ended at once", folder) from error
    _remember(agent)
    forget_start(folder)
    return agent


def _break_off(child: subprocess.Popen[bytes], folder: Path) -> None:
    """End an agent that was being started."""
    if child.poll() is None:
        child.kill()
    child.wait()
    forget_start(folder)


def _began(process: psutil.Process) -> float:
    """When a process began, in seconds; since the machine's start where the system counts so and makes a time of it by
    the clock as it is set now (Linux). Elsewhere it keeps the time that the clock showed then."""
    since = psutil.boot_time() if psutil.LINUX else 0.0
    return process.create_time() - since


def _remember(agent: LaunchedAgent) -> None:
    write_private(Path(agent.folder) / LAUNCHED, msgspec.json.encode(agent))


def _not_up(name: str, why: str, folder: Path) -> NodeError:
    output = folder / "output.log"
    tail = output.read_bytes()[-_TAIL_BYTES:].decode(errors="replace").strip() if output.exists() else ""
    said = f" The end of its output:\n{tail}" if tail else ""
    return NodeError(f"The agent {name} did not come up: {why}.{said}", kind="internal", node=name)

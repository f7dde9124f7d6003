"""Agents, other children and commands of the tests start in a moment: they are forked by processes that stay warm.

While `starting_warm` is on, `subprocess.Popen` has a child of ours forked by `warm_parent.py`, whoever starts it: the
tests themselves, the controller in their process, or a command that was itself forked so. It is a real process of its
own in every respect, a child of the one that started it (a command's children alone have another parent, which waits
for them in its place). Where that cannot be done (not on Linux, a command line that is none of these, an environment
that would change what the imports do), it is started as ever, and `starting_cold` has everything started as ever.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import inspect
import json
import locale
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from app.children.starting import child_environment
from tests.tiny_model import MAKER
from tests.warm_parent import MESSAGE_BYTES, PADDING
from worker_agent.engine.runtime import KERNEL_SETTINGS

UNRULY = "tests.faults.unruly_agent"
HUB = "app.models.hub_process"
MODULES = frozenset({"worker_agent", "app.models.inspect_process", "app.models.gguf_process", HUB, MAKER, UNRULY})
"""Those that import torch."""
LIGHT_MODULES = frozenset({"app.sharding.cut_process"})
"""Those that do not, and import much of `app`."""
POSSIBLE = sys.platform == "linux" and hasattr(subprocess.Popen, "_execute_child")
ROOT = Path(__file__).resolve().parent.parent
PROGRAMS = frozenset({ROOT / "main.py"})
"""Started as files; without arguments `main.py` is the window, which starts as ever."""
HANDED_ON = "SHARDBOARD_TEST_WARM"
START_SECONDS = 120.0
"""How long a warm process may take until it answers, its own start among it."""
PYTHON = sys.executable
"""Kept, since a test may put another program in its place."""
PR_SET_CHILD_SUBREAPER = 36
_READ_BY_IMPORTS = (
    "CUDA", "GLIBC_TUNABLES", "GOMP_", "HF_", "KMP_", "LANG", "LC_", "LD_", "LRU_", "MALLOC_", "MKL_", "OMP_",
    "ONEDNN_", "OPENBLAS_", "PYTHON", "PYTORCH_", "TORCH", "TRANSFORMERS_",
)  # fmt: skip
"""Beginnings of the names of variables that Python, torch, transformers or the C library read as they are loaded."""
_READ_LATER = frozenset({"HF_DEACTIVATE_ASYNC_LOAD", "PYTHONPATH", "PYTHONUNBUFFERED", "TORCHINDUCTOR_CACHE_DIR"})
"""The exceptions. The last is set by torch itself in a process that has compiled something, to what it is anyway."""
_OF_THE_HUB = frozenset({"HF_ENDPOINT", "HF_HOME", "HF_HUB_OFFLINE", "HF_TOKEN"})
"""Those that change nothing but what the child does that asks the Hub."""


class WarmParent:
    """A warm process, started when its first child is asked for; `holds` says what it has imported. Thread-safe."""

    def __init__(self, holds: str) -> None:
        self._holds = holds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._address = ""
        self._conditions: object = None
        self.environment: dict[str, str] | None = None
        """What it is started with; without it, what holds when it is."""

    def serves(self, environment: Mapping[str, str], asks_hub: bool) -> bool:
        """Whether a child with this environment would be as one that was started anew."""
        with self._lock:
            self._start()
            return _alike(environment, self._conditions, asks_hub)

    def fork(self, task: dict[str, object], descriptors: list[int]) -> tuple[int, None]:
        """Have a child forked; its process id. It is a child of this process."""
        with self._lock:
            self._start()
        with _adopting, _asked(self._address, {**task, "adopted": True}, descriptors) as answering:
            # On for a moment only: the orphans of other programs are not this process's to collect.
            _adopt(True)
            try:
                pid = _number(answering)
                answering.recv(1)  # it hangs up when the child is this process's
                return pid, None
            finally:
                _adopt(False)

    def handed_on(self) -> dict[str, object]:
        """What a `RemoteParent` is made of in another process."""
        with self._lock:
            self._start()
            return {"address": self._address, "conditions": self._conditions}

    def stop(self) -> None:
        with self._lock:
            if self._control is not None and self._process is not None:
                self._control.close()
                self._process.wait(30)
            self._process = self._control = None

    def _start(self) -> None:
        if self._process is not None:
            return
        environment = self.environment or child_environment()
        self._conditions = _conditions(environment)
        self._address = f"\0shardboard-warm-{secrets.token_hex(8)}"  # abstract: it is gone with the process
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
            listening.bind(self._address)
            listening.listen()
            given = [theirs.fileno(), listening.fileno()]
            program = Path(__file__).with_name("warm_parent.py")
            self._process = _RealPopen(
                [PYTHON, str(program), self._holds, *map(str, given), PADDING],
                pass_fds=given,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        self._control = ours


class RemoteParent:
    """The warm process of the tests, seen from a command that was forked: none of its children can be the command's.

    Another process is their parent, which lives as long as they do and says how they have ended.
    """

    def __init__(self, address: str, conditions: object) -> None:
        self._address, self._given = address, conditions

    def serves(self, environment: Mapping[str, str], asks_hub: bool) -> bool:
        return _alike(environment, self._given, asks_hub)

    def fork(self, task: dict[str, object], descriptors: list[int]) -> tuple[int, socket.socket]:
        """Have a child forked; its process id, and where its status will come."""
        answering = _asked(self._address, {**task, "adopted": False}, descriptors)
        return _number(answering), answering


_RealPopen = subprocess.Popen
_agents: WarmParent | RemoteParent = WarmParent("agents")
_besides: list[WarmParent] = []
"""As `_agents`, each in the environment in which it was begun."""
_commands: WarmParent | None = WarmParent("commands")
_adopting = threading.Lock()
_cold = threading.Event()


class WarmPopen(subprocess.Popen[Any]):
    """`subprocess.Popen`, except in how a child of ours comes to be."""

    _ending: socket.socket | None = None
    """Where the status comes of a child that is not this process's to wait for."""

    def _execute_child(self, *values: Any) -> None:
        given = _named(*values)
        start = None if _cold.is_set() else _start_of(given)
        environment = dict(os.environ if given["env"] is None else given["env"])
        possible = [] if start is None else [_commands] if start["light"] else [*_besides, _agents]
        asks_hub = start is not None and start.get("module") == HUB
        parent = next((each for each in possible if each is not None and each.serves(environment, asks_hub)), None)
        if start is None or parent is None:
            super()._execute_child(*values)  # type: ignore[misc]  # not in the types, since it is private
            return
        task: dict[str, object] = {
            **start,
            "shown": [os.fspath(argument) for argument in given["args"]],
            "cwd": os.fspath(given["cwd"] or Path.cwd()),
            "env": environment,
            "session": given["start_new_session"],
            "umask": _umask(),
            "ignored": [
                int(number) for number in signal.valid_signals() if _disposition(number) is signal.SIG_IGN
                and number not in (signal.SIGPIPE, signal.SIGXFSZ)  # which Popen gives back to the child
            ],
            "blocked": [int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
        }  # fmt: skip
        if start["light"] and isinstance(_agents, WarmParent):
            task["agents"] = _agents.handed_on()
        pipes = [given[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        descriptors = [number if pipe == -1 else pipe for number, pipe in enumerate(pipes)]
        self.pid, self._ending = parent.fork(task, descriptors)
        self._child_created = True
        ends = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(given[name] for name in ends))  # type: ignore[attr-defined]

    def _internal_poll(self, _deadstate: Any = None, **given: Any) -> int | None:
        if self._ending is not None:
            given["_waitpid"] = self._waited
        code: int | None = super()._internal_poll(_deadstate, **given)  # type: ignore[misc]
        return code

    def _try_wait(self, wait_flags: int) -> tuple[int, int]:
        if self._ending is not None:
            return self._waited(self.pid, wait_flags)
        ended: tuple[int, int] = super()._try_wait(wait_flags)  # type: ignore[misc]
        return ended

    def _waited(self, pid: int, flags: int) -> tuple[int, int]:
        """As `os.waitpid`."""
        assert self._ending is not None
        self._ending.settimeout(None)
        if flags & os.WNOHANG and not select.select([self._ending], [], [], 0)[0]:
            return 0, 0
        status = _number(self._ending)
        self._ending.close()
        return pid, status


def _asked(address: str, task: dict[str, object], descriptors: list[int]) -> socket.socket:
    """The connection on which a child was asked for."""
    asking = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    asking.settimeout(START_SECONDS)
    asking.connect(address)
    socket.send_fds(asking, [json.dumps(task).encode()], descriptors)
    return asking


def _number(answering: socket.socket) -> int:
    answer = answering.recv(MESSAGE_BYTES)
    assert answer, "the warm parent has ended"
    return int(answer)


def _named(*values: Any) -> dict[str, Any]:
    """The arguments of `_execute_child` by name."""
    return inspect.signature(_RealPopen._execute_child).bind(None, *values).arguments  # type: ignore[attr-defined]


def _start_of(given: Mapping[str, Any]) -> dict[str, object] | None:
    """What the child is to run, where that is ours and there are no wishes that a fork does not meet."""
    unusual = ("executable", "preexec_fn", "pass_fds", "shell", "gid", "gids", "uid")
    command = given["args"]
    if not isinstance(command, list | tuple) or command[0] != PYTHON or len(command) < 3:
        return None
    if any(given[name] for name in unusual) or given["umask"] >= 0:
        return None
    words = [os.fspath(word) for word in command[1:]]
    if words[0].endswith(".py") and Path(given["cwd"] or "", words[0]).absolute() in PROGRAMS:
        return {"light": True, "program": words[0], "arguments": words[1:], "safe": False}
    safe = words[0] == "-P"
    words = words[1:] if safe else words
    if len(words) < 2 or words[0] != "-m" or words[1] not in MODULES | LIGHT_MODULES:
        return None
    return {"light": words[1] in LIGHT_MODULES, "module": words[1], "arguments": words[2:], "safe": safe}


def _conditions(environment: Mapping[str, str]) -> object:
    """What a process that was started with this environment would have been shaped by; as JSON has it."""
    import resource  # not on Windows

    given = {**KERNEL_SETTINGS, **environment}  # an agent sets these itself before it imports torch
    if locale.getencoding().lower() == "utf-8":
        given.setdefault("PYTHONUTF8", "1")  # it changes nothing then
    read = {
        name: value for name, value in given.items() if name.startswith(_READ_BY_IMPORTS) and name not in _READ_LATER
    }
    limits = [list(resource.getrlimit(getattr(resource, name))) for name in dir(resource) if name.startswith("RLIMIT_")]
    return [read, limits]


def _alike(environment: Mapping[str, str], conditions: Any, asks_hub: bool) -> bool:
    """Whether a child with this environment is shaped as under these conditions; one that asks the Hub, or another."""
    ignored = frozenset() if asks_hub else _OF_THE_HUB
    found: Any = _conditions(environment)
    given, wanted = (
        {name: value for name, value in read.items() if name not in ignored} for read in (found[0], conditions[0])
    )
    return given == wanted and found[1] == conditions[1]


def _umask() -> int:
    """This process's, without changing it for a moment as `os.umask` would."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("Umask")), 8)


def _disposition(number: int) -> object:
    with contextlib.suppress(ValueError, OSError):
        return signal.getsignal(number)
    return None


def _adopt(orphans: bool) -> None:
    """Whether descendants whose parent ends become children of this process."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, int(orphans), 0, 0, 0)


def begin_in_command(agents: Mapping[str, Any]) -> None:
    """In a command that was forked: its agents and inspecting children start warm as well."""
    global _agents, _commands
    _agents, _commands = RemoteParent(**agents), None
    subprocess.Popen = WarmPopen  # type: ignore[misc]


def begin_in_program() -> None:
    """In another program that a test starts with what `handed_on` gives: the same."""
    if HANDED_ON in os.environ:
        begin_in_command(json.loads(os.environ[HANDED_ON]))


def handed_on() -> dict[str, str]:
    """Variables by which what a test starts, another run of pytest for one, has its agents forked by the warm process
    of these tests."""
    return {HANDED_ON: json.dumps(_agents.handed_on())} if POSSIBLE and isinstance(_agents, WarmParent) else {}


@contextlib.contextmanager
def starting_warm() -> Iterator[None]:
    """Agents, inspecting children and commands that are started meanwhile start warm, where that can be done.

    Raises AssertionError in the end where something was left in this process's environment since the beginning that
    had everything after it started as ever: nothing else would show it but the time that the tests take.
    """
    global _agents
    if not POSSIBLE:
        yield
        return
    if HANDED_ON in os.environ:
        _agents = RemoteParent(**json.loads(os.environ[HANDED_ON]))
    for parent in (_agents, _commands):
        if isinstance(parent, WarmParent):
            parent.environment = child_environment()  # and not what the test that needs it first has made of it
    subprocess.Popen = WarmPopen  # type: ignore[misc]
    atexit.register(_stop)
    begun = _conditions(child_environment())
    try:
        yield
        left = _conditions(child_environment())
        assert left == begun, f"a test left this in the environment, and children start cold: {left}, not {begun}"
    finally:
        subprocess.Popen = _RealPopen  # type: ignore[misc]
        _stop()


def _stop() -> None:
    for parent in (_agents, _commands):
        if isinstance(parent, WarmParent):
            parent.stop()


@contextlib.contextmanager
def starting_warm_here() -> Iterator[None]:
    """What is started with this environment starts warm as well, though it changes what the imports do."""
    parent = WarmParent("agents")
    if POSSIBLE:
        _besides.append(parent)
    try:
        yield
    finally:
        if POSSIBLE:
            _besides.remove(parent)
            parent.stop()


@contextlib.contextmanager
def starting_cold() -> Iterator[None]:
    """Everything is started as users start it."""
    _cold.set()
    try:
        yield
    finally:
        _cold.clear()

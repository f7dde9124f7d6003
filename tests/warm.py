"""Agents and inspecting children of the tests start in a moment: they are forked by a process that stays warm.

While `starting_warm` is on, `subprocess.Popen` has a child of these modules forked by `warm_parent.py`, whoever starts
it: the tests themselves or the controller in their process. It is a real process of its own in every respect, a child
of the one that started it. Where that cannot be done (not on Linux, a command that is not one of these, an environment
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
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from app.children.starting import child_environment
from tests.warm_parent import MESSAGE_BYTES, PADDING, READY
from worker_agent.engine.runtime import WAITING

MODULES = frozenset({"worker_agent", "app.models.inspect_process", "app.models.gguf_process"})
"""Those that import torch."""
POSSIBLE = sys.platform == "linux" and hasattr(subprocess.Popen, "_execute_child")
ROOT = Path(__file__).resolve().parent.parent
START_SECONDS = 120.0
PYTHON = sys.executable
"""Kept, since a test may put another program in its place."""
PR_SET_CHILD_SUBREAPER = 36
_READ_BY_IMPORTS = (
    "CUDA", "GLIBC_TUNABLES", "GOMP_", "HF_", "KMP_", "LANG", "LC_", "LD_", "MALLOC_", "MKL_", "OMP_", "OPENBLAS_",
    "PYTHON", "PYTORCH_", "TORCH", "TRANSFORMERS_",
)  # fmt: skip
"""Beginnings of the names of variables that Python, torch, transformers or the C library read as they are loaded."""
_READ_LATER = frozenset({"HF_DEACTIVATE_ASYNC_LOAD", "PYTHONPATH", "PYTHONUNBUFFERED"})
"""The exceptions."""


class WarmParent:
    """The warm process, started when the first child is asked for. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._environment: dict[str, str] = {}
        self._limits: object = None

    def serves(self, environment: Mapping[str, str]) -> bool:
        """Whether a child with this environment would be as one that was started anew."""
        with self._lock:
            self._start()
            return _read_by_imports(environment) == self._environment and _limits() == self._limits

    def fork(self, task: dict[str, object], descriptors: list[int]) -> int:
        """Have a child forked; its process id. It is a child of this process."""
        with self._lock:
            self._start()
            assert self._control is not None
            # On for a moment only: the orphans of other programs are not this process's to collect.
            _adopt(True)
            try:
                socket.send_fds(self._control, [json.dumps(task).encode()], descriptors)
                answer = self._control.recv(MESSAGE_BYTES)
            finally:
                _adopt(False)
        assert answer, "the warm parent has ended"
        return int(answer)

    def stop(self) -> None:
        with self._lock:
            if self._control is not None and self._process is not None:
                self._control.close()
                self._process.wait(30)
            self._process = self._control = None

    def _start(self) -> None:
        if self._process is not None:
            return
        environment = child_environment()
        self._environment, self._limits = _read_by_imports(environment), _limits()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            program = Path(__file__).with_name("warm_parent.py")
            self._process = _RealPopen(
                [PYTHON, str(program), str(theirs.fileno()), PADDING],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        ours.settimeout(START_SECONDS)
        assert ours.recv(MESSAGE_BYTES) == READY, "the warm parent did not come up"
        self._control = ours


_RealPopen = subprocess.Popen
_parent = WarmParent()
_cold = threading.Event()


class WarmPopen(subprocess.Popen[Any]):
    """`subprocess.Popen`, except in how a child of `MODULES` comes to be."""

    def _execute_child(self, *values: Any) -> None:
        given = _named(*values)
        if _cold.is_set() or not _is_ours(given):
            super()._execute_child(*values)  # type: ignore[misc]  # not in the types, since it is private
            return
        command = [os.fspath(argument) for argument in given["args"]]
        environment = dict(os.environ if given["env"] is None else given["env"])
        if not _parent.serves(environment):
            super()._execute_child(*values)  # type: ignore[misc]
            return
        at = command.index("-m")
        task: dict[str, object] = {
            "module": command[at + 1],
            "arguments": command[at + 2 :],
            "safe": at == 2,
            "shown": command,
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
        pipes = [given[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        self.pid = _parent.fork(task, [number if pipe == -1 else pipe for number, pipe in enumerate(pipes)])
        self._child_created = True
        ends = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
        self._close_pipe_fds(*(given[name] for name in ends))  # type: ignore[attr-defined]


def _named(*values: Any) -> dict[str, Any]:
    """The arguments of `_execute_child` by name."""
    return inspect.signature(_RealPopen._execute_child).bind(None, *values).arguments  # type: ignore[attr-defined]


def _is_ours(given: Mapping[str, Any]) -> bool:
    """Whether it is `python -m MODULE …` with no wishes that a fork does not meet."""
    command = given["args"]
    unusual = ("executable", "preexec_fn", "pass_fds", "shell", "gid", "gids", "uid")
    if not isinstance(command, list | tuple) or command[0] != PYTHON:
        return False
    options = list(command[1:3] if command[1:2] == ["-P"] else command[1:2])
    return (
        options in (["-m"], ["-P", "-m"])
        and command[len(options) + 1] in MODULES
        and not any(given[name] for name in unusual)
        and given["umask"] < 0
    )


def _read_by_imports(environment: Mapping[str, str]) -> dict[str, str]:
    given = {**WAITING, **environment}  # an agent sets these itself before it imports torch
    if locale.getencoding().lower() == "utf-8":
        given.setdefault("PYTHONUTF8", "1")  # it changes nothing then
    return {
        name: value for name, value in given.items() if name.startswith(_READ_BY_IMPORTS) and name not in _READ_LATER
    }


def _limits() -> object:
    import resource  # not on Windows

    return [resource.getrlimit(getattr(resource, name)) for name in dir(resource) if name.startswith("RLIMIT_")]


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


@contextlib.contextmanager
def starting_warm() -> Iterator[None]:
    """Agents and inspecting children that are started meanwhile start warm, where that can be done."""
    if not POSSIBLE:
        yield
        return
    subprocess.Popen = WarmPopen  # type: ignore[misc]
    atexit.register(_parent.stop)
    try:
        yield
    finally:
        subprocess.Popen = _RealPopen  # type: ignore[misc]
        _parent.stop()


@contextlib.contextmanager
def starting_cold() -> Iterator[None]:
    """Everything is started as users start it."""
    _cold.set()
    try:
        yield
    finally:
        _cold.clear()

"""A process that imports torch, transformers and the agent once, and forks the agents and children of the tests.

Run as a program by `tests.warm`, with the number of a socket's descriptor; each message on it asks for one child. The
child goes on as `python -m MODULE …` would from here: its own process id, parent, session, descriptors, signals,
working directory, environment, command line and exit status are those of a process that was started anew. What it
saves is the three seconds and more that the imports take.

Forking is safe because nothing here has a second thread: neither OpenMP nor OpenBLAS has run, and it is looked up
before each fork.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MESSAGE_BYTES = 1_000_000
PADDING = "." * 4096
"""An argument that makes room for the command lines of the children: they are written over this process's own."""
READY = b"ready"
_ALONE = "OPENBLAS_NUM_THREADS"


def import_everything() -> None:
    """What agents and inspecting children import, except the module that is their `__main__`."""
    import worker_agent
    from worker_agent.engine.runtime import wait_passively

    before = dict(os.environ)
    wait_passively()
    os.environ[_ALONE] = "1"  # numpy's OpenBLAS would start a thread per core as it is loaded
    from worker_agent.model.imports import import_transformers

    import_transformers()
    agents = [found.name for found in pkgutil.walk_packages(worker_agent.__path__, "worker_agent.")]
    for name in (
        *agents, "app.models.rehearsal", "app.models.tokenizer_conversion",
        "transformers.models.llama.modeling_llama", "transformers.models.llama.tokenization_llama",
    ):  # fmt: skip
        if not name.endswith("__main__"):
            importlib.import_module(name)
    os.environ.clear()
    os.environ.update(before)


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def serve(control: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Fork a child for each message. Returns in each child with what it is to do, and here when the tests have ended.

    The child is a grandchild at first: as its parent in between is gone, it becomes a child of the tests' process,
    which has asked the system for that (`PR_SET_CHILD_SUBREAPER`).
    """
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, MESSAGE_BYTES, 3)
        if not message:
            return None
        assert threads() == 1, "a fork would leave the other threads' locks locked"
        reading, writing = os.pipe()
        between = os.fork()
        if between == 0:
            parent_at_first = os.getpid()
            child = os.fork()
            if child == 0:
                while os.getppid() == parent_at_first:  # what asks for its parent is to find the one that it stays with
                    time.sleep(0.0005)
                for descriptor in (reading, writing, control.fileno()):
                    os.close(descriptor)
                control.detach()
                return json.loads(message), descriptors
            os.write(writing, str(child).encode())
            os._exit(0)
        os.close(writing)
        os.waitpid(between, 0)
        control.send(os.read(reading, 32))
        for descriptor in (reading, *descriptors):
            os.close(descriptor)


def become(task: dict[str, Any], descriptors: list[int]) -> None:
    """Make this process what a new one would be: everything that it would have inherited or begun with."""
    if task["session"]:
        os.setsid()
    for number, descriptor in enumerate(descriptors):
        os.dup2(descriptor, number)
    for descriptor in descriptors:
        os.close(descriptor)
    os.chdir(task["cwd"])
    os.umask(task["umask"])
    os.environ.clear()
    os.environ.update(task["env"])
    ignored = set(task["ignored"])
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        with suppress(OSError, ValueError):  # some belong to the C library
            signal.signal(number, signal.SIG_IGN if number in ignored else signal.SIG_DFL)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # as Python does when it starts
        signal.signal(number, signal.SIG_IGN)
    if signal.SIGINT not in ignored:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_SETMASK, task["blocked"])
    given, said, wrong = (os.fdopen(number, mode, closefd=False) for number, mode in ((0, "rb"), (1, "wb"), (2, "wb")))
    unbuffered = bool(task["env"].get("PYTHONUNBUFFERED"))
    sys.stdin = io.TextIOWrapper(given, sys.stdin.encoding, sys.stdin.errors)
    sys.stdout = io.TextIOWrapper(said, sys.stdout.encoding, sys.stdout.errors, write_through=unbuffered)
    sys.stderr = io.TextIOWrapper(wrong, sys.stderr.encoding, sys.stderr.errors, line_buffering=True)
    sys.argv = [task["module"], *task["arguments"]]
    paths = [path for path in task["env"].get("PYTHONPATH", "").split(os.pathsep) if path]
    found = [path for path in sys.path if Path(path).resolve() not in _OWN_PATHS]
    sys.path[:] = [*([] if task["safe"] else [task["cwd"]]), *paths, *found]
    show_command(task["shown"])


def show_command(command: list[str]) -> None:
    """Write a command line over this process's own, for who looks at processes by it."""
    fields = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end, 48 and 49 in proc(5)
    line = b"".join(os.fsencode(argument) + b"\0" for argument in command)
    assert len(line) < end - start
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, line, len(line))


_OWN_PATHS = {ROOT, Path(__file__).resolve().parent}

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the tests' to hear; they end, and so does this
    sys.path[0] = str(ROOT)
    with socket.socket(fileno=int(sys.argv[1])) as asked:
        import_everything()
        gc.collect()
        gc.freeze()  # a child's collections leave these pages alone, which it shares with its siblings
        asked.send(READY)
        job = serve(asked)
    if job is not None:
        become(*job)
        runpy.run_module(job[0]["module"], run_name="__main__", alter_sys=True)

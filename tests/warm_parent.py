"""A process that imports once what takes long, and forks the agents, children and commands of the tests.

Run as a program by `tests.warm`, with what it is to hold (`agents`: torch, transformers and the agent; `commands`: the
controller and the command line) and two descriptors: a socket that is open for as long as it is needed, and one that
listens; each message on a connection to that asks for one child. The child goes on as `python -m MODULE …` or
`python PROGRAM …` would from here: its own process id, parent, session, descriptors, signals, working directory,
environment, command line and exit status are those of a process that was started anew. What it saves is the second, or
three and more, that the imports take.

Forking is safe because nothing here has a second thread: neither OpenMP nor OpenBLAS has run, and it is looked up
before each fork.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import io
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import struct
import sys
import threading
import time
from contextlib import suppress
from mmap import PAGESIZE
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MESSAGE_BYTES = 1_000_000
PADDING = "." * 65536
"""An argument that makes room for the command lines of the children: they are written over this process's own."""
_ALONE = "OPENBLAS_NUM_THREADS"
MADV_POPULATE_READ = 22
"""Since Linux 5.14."""
_madvise = ctypes.CDLL(None).madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def import_for_agents() -> None:
    """What agents and inspecting children import, except the module that is their `__main__`."""
    import worker_agent
    from worker_agent.engine.runtime import set_up_kernels

    set_up_kernels()
    from worker_agent.model.imports import import_transformers

    import_transformers()
    agents = [found.name for found in pkgutil.walk_packages(worker_agent.__path__, "worker_agent.")]
    for name in (
        *agents, "app.models.rehearsal", "app.models.tokenizer_conversion",
        "transformers.models.llama.modeling_llama", "transformers.models.llama.tokenization_llama",
    ):  # fmt: skip
        if not name.endswith("__main__"):
            importlib.import_module(name)
    _build_a_stage()


def _build_a_stage() -> None:
    """What torch and transformers import and find out at the first stage, as agents do; with no second thread."""
    import torch

    from worker_agent.engine.runtime import Runtime
    from worker_agent.engine.warming import warm_up

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    warm_up(Runtime("cpu", 1, 1))
    torch.set_num_threads(threads)


def take_in(pages: list[tuple[int, int]]) -> None:
    """Have a forked agent hold what one that has built its first stage holds, which takes that half a second."""
    from worker_agent.engine import warming

    read_pages(pages)
    warming.took_in("cpu")


def import_for_commands() -> None:
    """What commands import, and the child that cuts; no torch, which no process of the controller's has."""
    for name in (
        "app.api.server", "app.cli.root", "app.control.remote", "app.control.server", "app.runs.export.report",
        "app.sharding.arrangement", "app.sharding.cut_process", "tests.warm",
    ):  # fmt: skip
        importlib.import_module(name)
    assert not {"torch", "huggingface_hub"} & sys.modules.keys()


def threads() -> int:
    return len(list(Path("/proc/self/task").iterdir()))


def pages_of_files() -> list[tuple[int, int]]:
    """What this process has read of the files that are mapped into it (libraries, mostly): addresses and bytes.

    A fork copies no entries of those into its own table of pages: it comes upon them one by one, and until then seems
    to hold less than a process that was started anew.
    """
    found: list[tuple[int, int]] = []
    with Path("/proc/self/pagemap").open("rb", buffering=0) as pages:
        for line in Path("/proc/self/maps").read_text().splitlines():
            addresses, _, _, _, inode, *_ = line.split(maxsplit=5)
            if inode == "0":
                continue
            start, end = (int(address, 16) for address in addresses.split("-"))
            pages.seek(start // PAGESIZE * 8)
            entries = struct.unpack(f"{(end - start) // PAGESIZE}Q", pages.read((end - start) // PAGESIZE * 8))
            first = None
            for number, entry in enumerate((*entries, 0)):
                present = bool(entry >> 63)
                if present and first is None:
                    first = number
                elif not present and first is not None:
                    found.append((start + first * PAGESIZE, (number - first) * PAGESIZE))
                    first = None
    return found


def read_pages(pages: list[tuple[int, int]]) -> None:
    """Have them in this process's own table of pages, too; a kernel that cannot do that leaves it as it is."""
    for start, length in pages:
        if _madvise(start, length, MADV_POPULATE_READ):
            return


def serve(control: socket.socket, listening: socket.socket) -> tuple[dict[str, Any], list[int]] | None:
    """Fork a child for each message. Returns in each child with what it is to do, and here when the tests have ended.

    The child is a grandchild at first. As its parent in between is gone, it becomes a child of the tests' process,
    which has asked the system for that (`PR_SET_CHILD_SUBREAPER`). Where another process asks, the parent in between
    stays, and says how the child has ended.
    """
    while control not in (ready := select.select([control, listening], [], [])[0]):
        _collect()
        assert ready
        asking, _ = listening.accept()
        message, descriptors, _, _ = socket.recv_fds(asking, MESSAGE_BYTES, 3)
        task = json.loads(message)
        assert threads() == 1, "a fork would leave the other threads' locks locked"
        between = os.fork()
        if between == 0:
            parent_at_first = os.getpid()
            child = os.fork()
            if child == 0:
                # What asks for its parent is to find the one that it stays with.
                while task["adopted"] and os.getppid() == parent_at_first:
                    time.sleep(0.0005)
                for used in (asking, control, listening):
                    used.close()
                return task, descriptors
            asking.send(str(child).encode())
            if not task["adopted"]:
                _wait_for(child, asking, [control.fileno(), listening.fileno(), *descriptors])
            os._exit(0)
        if task["adopted"]:
            os.waitpid(between, 0)
        asking.close()
        for descriptor in descriptors:
            os.close(descriptor)
    return None


def _wait_for(child: int, asking: socket.socket, others: list[int]) -> None:
    """Stay until a child has ended and say its status, if anybody still wants to know; in a session of its own."""
    for descriptor in (0, 1, 2, *others):
        os.close(descriptor)
    os.setsid()
    _, status = os.waitpid(child, 0)
    with suppress(OSError):
        asking.send(str(status).encode())


def _collect() -> None:
    """Those in between that have ended."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


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
    unbuffered = bool(task["env"].get("PYTHONUNBUFFERED"))
    given = os.fdopen(0, "rb", closefd=False)
    said, wrong = (os.fdopen(number, "wb", 0 if unbuffered else -1, closefd=False) for number in (1, 2))
    sys.stdin = io.TextIOWrapper(given, sys.stdin.encoding, sys.stdin.errors)
    sys.stdout = io.TextIOWrapper(said, sys.stdout.encoding, sys.stdout.errors, write_through=unbuffered)
    sys.stderr = io.TextIOWrapper(
        wrong, sys.stderr.encoding, sys.stderr.errors, line_buffering=True, write_through=unbuffered
    )
    sys.argv = [task.get("program") or task["module"], *task["arguments"]]
    paths = [path for path in task["env"].get("PYTHONPATH", "").split(os.pathsep) if path]
    found = [path for path in sys.path if Path(path).resolve() not in _OWN_PATHS]
    first = [str(Path(task["program"]).parent.absolute())] if "program" in task else [task["cwd"]]
    sys.path[:] = [*([] if task["safe"] else first), *paths, *found]
    show_command(task["shown"])


def show_command(command: list[str]) -> None:
    """Write a command line over this process's own, for who looks at processes by it."""
    fields = Path("/proc/self/stat").read_text().rsplit(")", 1)[1].split()
    start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end, 48 and 49 in proc(5)
    line = b"".join(os.fsencode(argument) + b"\0" for argument in command)
    assert len(line) < end - start
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, line, len(line))


def run(task: dict[str, Any]) -> None:
    """Run what was asked for, and end as the interpreter would, but for taking hundreds of modules to pieces."""
    if "agents" in task:
        importlib.import_module("tests.warm").begin_in_command(task["agents"])
    try:
        if "program" in task:
            runpy.run_path(task["program"], run_name="__main__")
        else:
            runpy.run_module(task["module"], run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            raise
        status = end.code or 0
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except (OSError, ValueError):
        sys.exit(status)  # the interpreter says it in its way
    os._exit(status & 0xFF)


_OWN_PATHS = {ROOT, Path(__file__).resolve().parent}

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the tests' to hear; they end, and so does this
    sys.path[0] = str(ROOT)
    holds, control_number, listening_number = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with socket.socket(fileno=control_number) as asked, socket.socket(fileno=listening_number) as connecting:
        before = dict(os.environ)
        os.environ[_ALONE] = "1"  # numpy's OpenBLAS would start a thread per core as it is loaded
        import_for_agents() if holds == "agents" else import_for_commands()
        os.environ.clear()
        os.environ.update(before)
        gc.collect()
        gc.freeze()  # a child's collections leave these pages alone, which it shares with its siblings
        read = pages_of_files() if holds == "agents" else []
        job = serve(asked, connecting)
    if job is not None:
        if holds == "agents":
            take_in(read)
        become(*job)
        run(job[0])

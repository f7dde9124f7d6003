"""A program that tells what it is, for the tests of how the others are started: `python -m tests.mirror HOW…`.

`python tests/mirror.py HOW…` is the same as a program that is a file, as commands are.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any


def disposition(number: int) -> str:
    handler = signal.getsignal(number)
    return handler.name if isinstance(handler, signal.Handlers) else getattr(handler, "__name__", str(handler))


def facts() -> dict[str, Any]:
    """What a process can find out about itself, and that is the same however it came to be."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {
        "pid": os.getpid(),
        "parent": os.getppid(),
        "group": os.getpgrp(),
        "session": os.getsid(0),
        "folder": str(Path.cwd()),
        "environment": dict(os.environ),
        "handed_on": subprocess.check_output(["sh", "-c", "echo $MIRRORED"], text=True),
        "arguments": sys.argv[1:],
        "command": Path("/proc/self/cmdline").read_bytes().rstrip(b"\0").decode().split("\0"),
        "search": sys.path[0],
        "main": sys.modules["__main__"].__spec__.name if sys.modules["__main__"].__spec__ else None,
        "umask": next(line for line in lines if line.startswith("Umask")),
        "signals": {int(number): disposition(number) for number in signal.valid_signals()},
        "blocked": sorted(int(number) for number in signal.pthread_sigmask(signal.SIG_BLOCK, ())),
        "descriptors": sorted(int(path.name) for path in Path("/proc/self/fd").iterdir() if path.exists()),
        "threads": [thread.name for thread in threading.enumerate()],
        "streams": [
            (stream.encoding, stream.errors, stream.fileno()) for stream in (sys.stdin, sys.stdout, sys.stderr)
        ],
        "heard": sys.stdin.read(),
    }


def children() -> dict[str, Any]:
    """How children of this process come and go, as it sees them."""
    sys.path.remove(str(Path(__file__).parent))  # in which a folder has the name of our package
    from tests import warm

    warm.MODULES |= {"tests.mirror"}

    def start(how: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "tests.mirror", how], text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    told, failed, waiting, killed = start("tell"), start("fail"), start("wait"), start("wait")
    heard = json.loads(told.communicate()[0])
    assert heard["pid"] == heard["session"] == told.pid
    assert waiting.stdout is not None and waiting.stdout.readline() == "ready\n"
    assert waiting.poll() is None
    waiting.terminate()
    killed.kill()
    return {
        "warm": start("warm").communicate()[0] == "True\n",
        "wrong": failed.communicate()[1].splitlines()[-1],
        "statuses": [child.wait(30) for child in (told, failed, waiting, killed)],
        "polled": [child.poll() for child in (told, failed, waiting, killed)],
        "left": [child.pid for child in (told, failed, waiting, killed) if Path(f"/proc/{child.pid}").exists()],
        "folder": heard["folder"], "descriptors": heard["descriptors"], "environment": heard["environment"],
    }  # fmt: skip


if __name__ == "__main__":
    match sys.argv[1]:
        case "tell":
            print(json.dumps(facts()))
            print("said to the error stream", file=sys.stderr)
            sys.exit(7)
        case "children":
            print(json.dumps(children()))
        case "light":
            print("app.cli.root" in sys.modules)
        case "warm":
            print("torch" in sys.modules)
        case "fail":
            raise ValueError("it broke")
        case "wait":
            print("ready", flush=True)
            threading.Event().wait()

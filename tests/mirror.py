"""A program that tells what it is, for the tests of how the others are started: `python -m tests.mirror HOW…`."""

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


if __name__ == "__main__":
    match sys.argv[1]:
        case "tell":
            print(json.dumps(facts()))
            print("said to the error stream", file=sys.stderr)
            sys.exit(7)
        case "warm":
            print("torch" in sys.modules)
        case "fail":
            raise ValueError("it broke")
        case "wait":
            print("ready", flush=True)
            threading.Event().wait()

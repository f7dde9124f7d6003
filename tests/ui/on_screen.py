"""A real X display for scenarios that need one, and a real mouse on it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PySide6.QtCore import QPoint

from tests.warm import handed_on

ROOT = Path(__file__).resolve().parent.parent.parent
SCREEN = "-screen 0 1440x900x24"


def run_scenario(name: str, seconds: float) -> None:
    """Run tests/ui/NAME.py with pytest in a process of its own under Xvfb; fails with its output."""
    if not sys.platform.startswith("linux"):
        pytest.skip("Xvfb and xdotool are programs of Linux")
    missing = [program for program in ("xvfb-run", "xauth", "xdotool") if shutil.which(program) is None]
    assert not missing, f"missing programs: {missing}; ./test installs them where it may"
    environment = {**os.environ, **handed_on(), "QT_QPA_PLATFORM": "xcb", "QT_SCALE_FACTOR": "1"}
    environment.pop("WAYLAND_DISPLAY", None)
    command = [
        "xvfb-run", "-a", "-s", SCREEN, sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider",
        f"--timeout={seconds:.0f}", str(ROOT / "tests" / "ui" / f"{name}.py"),
    ]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=seconds + 30)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-3000:]}"


class Mouse:
    """xdotool as a child process: a real drag runs an event loop of its own, which the test must not wait inside."""

    def __init__(self) -> None:
        self._running: list[subprocess.Popen[bytes]] = []

    def click(self, at: QPoint) -> None:
        self._run(*_to(at), "sleep", "0.1", "click", "1")

    def type(self, text: str, *keys: str) -> None:
        pressed = [part for key in keys for part in ("key", key)]
        self._run("type", "--delay", "15", "--args", "1", text, *pressed)

    def key(self, *keys: str) -> None:
        self._run(*[part for key in keys for part in ("key", key)])

    def drag(self, start: QPoint, end: QPoint, steps: int = 12) -> None:
        """Press at `start`, move in steps as a hand does, let go at `end`."""
        moves: list[str] = []
        for step in range(1, steps + 1):
            moves += [*_to(start + (end - start) * (step / steps)), "sleep", "0.03"]
        self._run(
            *_to(start), "sleep", "0.15", "mousedown", "1", "sleep", "0.1", *moves, *_to(end + QPoint(1, 0)),
            "sleep", "0.05", *_to(end), "sleep", "0.2", "mouseup", "1",
        )  # fmt: skip

    def close(self) -> None:
        for process in self._running:
            process.wait(10)

    def _run(self, *arguments: str) -> None:
        self._running = [process for process in self._running if process.poll() is None]
        self._running.append(subprocess.Popen(["xdotool", *arguments]))


def _to(point: QPoint) -> tuple[str, ...]:
    return "mousemove", str(point.x()), str(point.y())

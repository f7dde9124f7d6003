"""Runs pip in the environment: progress as plain lines, everything it says in a log."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

DOWNLOAD = re.compile(r"^\s*Downloading (\S+?)(?:-py\d\S*|-cp\d\S*|\.tar\.gz)? \((\d+(?:\.\d+)?) ([MG]B)\)")
INSTALL = re.compile(r"^\s*Installing collected packages: (.+)")
ELSEWHERE = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER", "PIP_PYTHON", "PIP_REQUIRE_VIRTUALENV")
"""Variables that tell pip where to install, or that it must not here."""
QUIET_SECONDS = 15.0
"""After so long without a line, one is printed that says that it goes on."""


def say(text: str) -> None:
    """Progress goes to the error stream, so that the output of what runs afterwards stays clean."""
    print(text, file=sys.stderr, flush=True)


def progress_line(line: str) -> str | None:
    """What the user is shown of one line of pip's: downloads of 5 MB and more, and that installing begins."""
    if found := DOWNLOAD.match(line):
        name, size, unit = found.groups()
        return f"  downloading {name} ({size} {unit})" if unit == "GB" or float(size) >= 5 else None
    if found := INSTALL.match(line):
        return f"  installing {found.group(1).count(',') + 1} packages"
    return None


def command(python: Path, arguments: Sequence[str]) -> list[str]:
    """`pip install` in the environment of this Python."""
    # Isolated (-I): what PYTHONPATH or the current folder offers is not taken for installed. --no-user: a setting of
    # the user's for their other Pythons must not lead these packages out of the environment.
    kept = ["--no-input", "--progress-bar", "off", "--disable-pip-version-check", "--no-user"]
    return [str(python), "-I", "-m", "pip", "install", *kept, *arguments]


def variables() -> dict[str, str]:
    """This process's, less those that tell pip to install elsewhere."""
    return {name: value for name, value in os.environ.items() if name not in ELSEWHERE}


def install(python: Path, requirements: Sequence[str], *, folder: Path, log: Path, keep_open: int) -> tuple[int, str]:
    """`pip install` of the requirements in `folder`. Returns its exit code and all it printed.

    The descriptor `keep_open` (the lock) is handed down to pip on POSIX. When this process is interrupted or
    terminated, so is pip.
    """
    inherited = () if sys.platform == "win32" else (keep_open,)
    lines: list[str] = []
    quiet = _QuietReminder()
    with (
        log.open("w", encoding="utf-8") as kept,
        subprocess.Popen(
            command(python, requirements),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=variables(),
            encoding="utf-8",
            errors="replace",
            pass_fds=inherited,
        ) as pip,
    ):
        assert pip.stdout is not None
        quiet.start()
        try:
            for line in pip.stdout:
                lines.append(line)
                kept.write(line)
                if shown := progress_line(line):
                    say(shown)
                    quiet.heard()
        except BaseException:
            pip.terminate()
            raise
        finally:
            quiet.stop()
        return pip.wait(), "".join(lines)


class _QuietReminder(threading.Thread):
    """Says every now and then that pip is still at work: one download can take minutes without a line."""

    def __init__(self) -> None:
        super().__init__(name="pip-reminder", daemon=True)
        self._begun = time.monotonic()
        self._last = self._begun
        self._ended = threading.Event()

    def heard(self) -> None:
        self._last = time.monotonic()

    def stop(self) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        while not self._ended.wait(1.0):
            now = time.monotonic()
            if now - self._last >= QUIET_SECONDS:
                say(f"  still at work after {now - self._begun:.0f} s")
                self._last = now

"""Agents on this machine that nobody knows of: their controller was killed while it started them.

Such an agent goes on for ever, holds its memory and its state folder, and is in no list. Two things find it: the note
that a controller leaves in the folder while it starts an agent there, and the agent's own command line.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

import psutil

from app.children.starting import is_abandoned

NOTE = "starting-"
"""The note's name, followed by the number of the controller's process."""
LAUNCHED = "launch.json"
"""Stands in the folder of an agent that did start: then it is known, and no stray."""
END_SECONDS = 5.0


def note_start(folder: Path) -> None:
    """Have the folder say, until `forget_start`, that this process starts an agent there. Blocks."""
    _note(folder).touch()


def forget_start(folder: Path) -> None:
    """The agent is known now, or gone, and its folder perhaps with it. Blocks."""
    with suppress(OSError):
        _note(folder).unlink(missing_ok=True)


def _note(folder: Path) -> Path:
    return folder / f"{NOTE}{os.getpid()}-"


def clear_abandoned(agents: Path) -> None:
    """End what dead controllers have begun to start under the home's `agents`, and remove its folders. Blocks."""
    for note in agents.glob(f"*/{NOTE}*"):
        if is_abandoned(note, NOTE):
            end_strays(note.parent)
            if (note.parent / LAUNCHED).exists():  # it was being revived: the folder is a known agent's
                note.unlink(missing_ok=True)
            else:
                shutil.rmtree(note.parent, ignore_errors=True)


def end_strays(folder: Path) -> None:
    """End agents that work in this state folder, which holds none that is known to run. Blocks."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        command = process.info["cmdline"] or []
        if "worker_agent" in command and str(folder) in command:
            found.append(process)
    for process in found:
        with suppress(psutil.Error):
            process.terminate()
    for process in psutil.wait_procs(found, END_SECONDS)[1]:
        with suppress(psutil.Error):
            process.kill()
            process.wait(END_SECONDS)

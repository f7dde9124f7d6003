"""Starting child processes that run our own code, always the same way, whatever this process inherited.

What a child is to have of its parent's environment is decided here; what it inherits otherwise (signals, umask, open
files) it sets right itself, by `worker_agent.process.settle`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
"""Where the packages `app` and `worker_agent` lie."""
KEPT_VARIABLES = frozenset(
    {
        "PYTHONCOERCECLOCALE",
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONEXECUTABLE",
        "PYTHONFAULTHANDLER",
        "PYTHONHASHSEED",
        "PYTHONHOME",
        "PYTHONLEGACYWINDOWSFSENCODING",
        "PYTHONNOUSERSITE",
        "PYTHONPLATLIBDIR",
        "PYTHONPYCACHEPREFIX",
        "PYTHONUSERBASE",
    }
)
"""Of Python's own variables, those that a child needs to be the same Python. The others change what our code does
(PYTHONOPTIMIZE, PYTHONWARNINGS), what goes through the pipes (PYTHONIOENCODING), or how it ends (PYTHONINSPECT)."""

CLOCK_SECONDS = 2.0
"""How far the time when a process began and that of a file may be apart for the clocks' sake."""

_NO_WINDOW = getattr(subprocess, "CREATE_NO_WINDOW", 0)
_DETACHED = getattr(subprocess, "DETACHED_PROCESS", 0) | getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
"""Windows' way to a process without this one's console; 0 elsewhere, where `start_new_session` does it."""


def start_child(
    module: str,
    arguments: Sequence[str] = (),
    *,
    stdin: int,
    stdout: int | IO[Any],
    stderr: int | IO[Any],
    folder: Path = ROOT,
    outlives: bool = False,
    variables: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start `python -m MODULE ARGUMENTS…`, a module of ours or of this Python's, with the code of this process.

    It has a session of its own: Ctrl-C in a terminal reaches this process alone, which then ends its children in
    good order.

    Args:
        module: looked for where this process's code lies, never in the folder that the user happens to be in.
        stdin, stdout, stderr: as for `subprocess.Popen`.
        folder: its working directory. This process's own may be gone, and is nothing that a child depends on.
        outlives: whether it goes on when this process ends; on Windows it has no console then.
        variables: of its environment, besides those of this process.

    Raises:
        OSError: it cannot be started.
    """
    return subprocess.Popen(
        [sys.executable, "-P", "-m", module, *arguments],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        cwd=folder,
        env={**child_environment(), **(variables or {})},
        start_new_session=os.name == "posix",
        creationflags=_DETACHED if outlives else _NO_WINDOW,
    )


def is_abandoned(path: Path, prefix: str) -> bool:
    """Whether what a process of ours was making at `path` is nobody's any more, since the process has ended.

    The name is `prefix`, the number of that process and a dash. Another process that was given the same number began
    after `path` was written to.
    """
    number = path.name.removeprefix(prefix).partition("-")[0]
    if not number.isdecimal():
        return False
    try:
        return psutil.Process(int(number)).create_time() > path.stat().st_mtime + CLOCK_SECONDS
    except psutil.NoSuchProcess:
        return True
    except (psutil.Error, OSError):  # it cannot be asked, or the path has just gone
        return False


def child_environment() -> dict[str, str]:
    """This process's variables, those that are Python's as `KEPT_VARIABLES` has them; our code is found first."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith("PYTHON") or name in KEPT_VARIABLES
    }
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths)),
        "PYTHONUNBUFFERED": "1",
        # A path must be the same bytes for both, whatever the locale says.
        "PYTHONUTF8": "1" if sys.getfilesystemencoding() == "utf-8" else "0",
    }

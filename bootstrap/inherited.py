"""What set-up inherits from whoever started it, and what it hands on. The program's own half is
`worker_agent/process.py`; here nothing is installed yet that could be shared."""

from __future__ import annotations

import os
import signal
from collections.abc import MutableMapping
from types import FrameType

PASSED_ON = frozenset(
    {
        "PYTHONDONTWRITEBYTECODE",
        "PYTHONFAULTHANDLER",
        "PYTHONPYCACHEPREFIX",
        "PYTHONUNBUFFERED",
        "PYTHONUTF8",
    }
)
"""Variables of Python's that do no harm in the environment."""


def settle() -> None:
    """Hear Ctrl-C and SIGTERM, also when started with them ignored or blocked (the background of a script, a
    supervisor); both end pip too. And forget Python's variables: what PYTHONPATH, PYTHONHOME and their like say is
    meant for the user's other programs, and the environment is of our own making."""
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, nobody would learn how a child ended
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupted)
    forget_python_variables(os.environ)


def forget_python_variables(environment: MutableMapping[str, str]) -> None:
    for name in [name for name in environment if name.startswith("PYTHON") and name not in PASSED_ON]:
        del environment[name]


def _interrupted(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt

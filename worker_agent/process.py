"""What a process of ours inherits from whoever started it, set right before anything else is done.

Every program of ours calls `settle` first: agent, command line, window, child processes. A script starts its
background with Ctrl-C ignored, a supervisor closes streams or blocks signals, a shell allows few open files; none of
that is meant for us, and all of it would break something much later. Standard library only.
"""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from contextlib import suppress
from types import FrameType
from typing import TextIO

OPEN_FILES = 16_384
"""How many files and sockets a process may want: a controller has four for each node that it talks to."""
_FEWER_FILES = (10_240, 4096)
"""What is asked for where the system does not give so many, though its hard limit says that it would: macOS."""
_MEANT_FOR_US = ("SIGINT", "SIGTERM", "SIGQUIT", "SIGALRM", "SIGCHLD", "SIGBREAK")
"""Signals that are heard even if the process was started with them ignored. Not SIGHUP: `nohup` means that."""


def settle() -> None:
    """Set right what this process inherited: streams, signals, umask, open files. May be called again."""
    _fill_streams()
    _hear_signals()
    _mask_files()
    _allow_open_files()


def interrupt_on_terminate() -> None:
    """Have SIGTERM, and SIGHUP unless it is ignored, raise KeyboardInterrupt as Ctrl-C does: cleaning up is the same.

    For programs whose main thread waits for one piece of work. Outside of the main thread it does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for name in ("SIGTERM", "SIGHUP", "SIGBREAK"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _interrupt)


def usable_cores() -> int:
    """Cores that this process may run on: fewer than the machine's under `taskset`, or in a container that is kept to
    some of them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _fill_streams() -> None:
    """A closed standard stream's number would go to the next file that is opened, and what some library prints would
    be written into that: a registry, a shard. The null device takes its place."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened == number:
                os.set_inheritable(opened, True)  # children get it as they would get the real one
            else:
                os.dup2(opened, number)
                os.close(opened)
    sys.stdin = sys.stdin or open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115 - the process's own, to its end
    sys.stdout = _usable(sys.stdout)
    sys.stderr = _usable(sys.stderr)


def _usable(stream: TextIO | None) -> TextIO:
    """The stream, so that what its encoding lacks is shown as `?` instead of ending the program."""
    if stream is None:
        return open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123
    if isinstance(stream, io.TextIOWrapper):
        with suppress(io.UnsupportedOperation):
            stream.reconfigure(errors="replace")
    return stream


def _hear_signals() -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
    for name in _MEANT_FOR_US:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)


def _mask_files() -> None:
    """Whatever the umask says, the owner may use what we make, and not everybody may write to it."""
    inherited = os.umask(0o077)
    os.umask((inherited & 0o077) | 0o002)


def _allow_open_files() -> None:
    """Raise the soft limit of open files, as far as the hard one lets us; macOS begins at 256."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    for most in (OPEN_FILES, *_FEWER_FILES):
        wanted = most if hard == resource.RLIM_INFINITY else min(most, hard)
        if soft == resource.RLIM_INFINITY or soft >= wanted:
            return
        with suppress(ValueError, OSError):  # a system that allows fewer than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            return

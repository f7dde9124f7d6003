"""Finds what waits for the disk on the thread of an asyncio loop, where every request and every link waits with it."""

from __future__ import annotations

import asyncio
import builtins
import functools
import io
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from inspect import CO_ASYNC_GENERATOR, CO_COROUTINE
from pathlib import Path
from types import FrameType
from typing import Any

from app.cluster.launching import AgentLauncher
from app.models.library import ModelLibrary
from app.registry.store import Store

ROOT = Path(__file__).resolve().parent.parent
ASKED = [
    *((Store, name) for name in ("read", "write", "run")),
    *((ModelLibrary, name) for name in ("find", "list", "digests")),
    (AgentLauncher, "launched"),
]
INSIDE = (str(ROOT / "app" / "registry"), str(ROOT / "app" / "models" / "library.py"))
"""Whoever called these is asked for. A test that asks the registry on its own loop holds up nobody."""
FILE_CALLS = (
    "chmod fsync link listdir lstat mkdir open readlink remove rename replace rmdir scandir stat statvfs symlink "
    "unlink utime"
)
FILES = [(builtins, "open"), (io, "open"), *((os, name) for name in FILE_CALLS.split() if hasattr(os, name))]
"""What the standard library opens files with, looks at them and moves them."""
NO_DISK = ("/proc", "/sys", "/dev")
"""Answered by the system without one."""
NOT_MEANT = re.compile(r"<frozen importlib|^shibokensupport|[\\/](logging[\\/]__init__|linecache|traceback)\.py$")
"""Who imports a module, or has an error written to the log, does not ask for files."""
LOOP = re.compile(r"[\\/]asyncio[\\/]events\.py$")
OURS, TESTS = str(ROOT / "app") + os.sep, str(ROOT / "tests") + os.sep


@dataclass(frozen=True)
class Waits:
    """A stack for each time that the app has waited so."""

    asked: list[str] = field(default_factory=list)
    """The registry or the library."""
    files: list[str] = field(default_factory=list)
    """For a file."""

    def taken(self) -> Waits:
        """All of them; from here on it is counted anew."""
        taken = Waits(self.asked.copy(), self.files.copy())
        self.asked.clear()
        self.files.clear()
        return taken


@contextmanager
def watched() -> Iterator[Waits]:
    """Watches while the block runs."""
    found = Waits()
    before = [(owner, name, getattr(owner, name)) for owner, name in (*ASKED, *FILES)]
    for owner, name, function in before:
        is_file = (owner, name) in FILES
        watching = _watching(
            function, *((_asks_for_files, found.files) if is_file else (_asks_the_registry, found.asked))
        )
        for able in (os.supports_dir_fd, os.supports_effective_ids, os.supports_fd, os.supports_follow_symlinks):
            if function in able:  # so that shutil goes on as it does
                able.add(watching)
        setattr(owner, name, watching)
    try:
        yield found
    finally:
        for owner, name, function in before:
            setattr(owner, name, function)


def _watching(
    function: Callable[..., Any], asks: Callable[[FrameType | None], bool], found: list[str]
) -> Callable[..., Any]:  # fmt: skip
    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        if _on_loop() and not str(*arguments[:1]).startswith(NO_DISK) and asks(sys._getframe(1)):
            found.append("".join(traceback.format_stack(limit=12)))
        return function(*arguments, **named)

    return call


def _on_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _asks_the_registry(frame: FrameType | None) -> bool:
    """Whether what called the registry or the library is the app's code and no test."""
    while frame is not None and frame.f_code.co_filename.startswith((__file__, *INSIDE)):
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.startswith(OURS)


def _asks_for_files(frame: FrameType | None) -> bool:
    """Whether what a loop runs there is the app's, which has others ask for files; a test may on its own loop."""
    is_ours = False
    while frame is not None:
        code = frame.f_code
        if LOOP.search(code.co_filename):
            return is_ours
        if code.co_filename.startswith(TESTS) or NOT_MEANT.search(code.co_filename):
            return False
        if code.co_filename.startswith(OURS):
            is_ours = True
            if code.co_flags & (CO_COROUTINE | CO_ASYNC_GENERATOR):
                return True
        frame = frame.f_back
    return False

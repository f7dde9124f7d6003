"""Finds what waits for the disk on the thread of an asyncio loop, where every request and every link waits with it."""

from __future__ import annotations

import asyncio
import functools
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from app.cluster.launching import AgentLauncher
from app.models.library import ModelLibrary
from app.registry.store import Store

ROOT = Path(__file__).resolve().parent.parent
BLOCKING = [
    *((Store, name) for name in ("read", "write", "run")),
    *((ModelLibrary, name) for name in ("find", "list", "digests")),
    (AgentLauncher, "launched"),
]
INSIDE = (__file__, str(ROOT / "app" / "registry"), str(ROOT / "app" / "models" / "library.py"))
"""Whoever called these is asked for. A test that asks the registry on its own loop holds up nobody."""


@contextmanager
def watched() -> Iterator[list[str]]:
    """The list grows by a stack for each time that the app has waited so."""
    found: list[str] = []
    before = [getattr(owner, name) for owner, name in BLOCKING]
    for owner, name in BLOCKING:
        setattr(owner, name, _watching(getattr(owner, name), found))
    try:
        yield found
    finally:
        for (owner, name), method in zip(BLOCKING, before, strict=True):
            setattr(owner, name, method)


def _watching(method: Callable[..., Any], found: list[str]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(*arguments: Any, **named: Any) -> Any:
        if _on_loop() and _caller_is_ours():
            found.append("".join(traceback.format_stack(limit=12)))
        return method(*arguments, **named)

    return call


def _on_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _caller_is_ours() -> bool:
    """Whether what called the registry or the library is the app's code and no test."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(INSIDE):
        frame = frame.f_back
    return frame.f_code.co_filename.startswith(str(ROOT / "app"))

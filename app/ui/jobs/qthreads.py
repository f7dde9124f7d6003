"""The window's runner: the controller's blocking work in a QThread each, beside the GUI thread and below it in turn."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from PySide6.QtCore import QThread

Result = TypeVar("Result")

_running: set[_WorkThread] = set()
"""Threads that have not ended. Letting go of one would abort the process."""


def in_qthread(work: Callable[[], Result], name: str) -> asyncio.Future[Result]:
    """Run something in a QThread; what it returns or raises. Called on the loop, as an `app.jobs.job.Runner` is."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Result] = loop.create_future()
    thread = _WorkThread(work)
    thread.setObjectName(f"job-{name}")

    def ended() -> None:
        thread.wait()  # its work is done: this is a matter of microseconds
        _running.discard(thread)
        if thread.error is not None:
            future.set_exception(thread.error)
        else:
            future.set_result(thread.result)

    def tell() -> None:
        with suppress(RuntimeError):  # the loop did not wait for it
            loop.call_soon_threadsafe(ended)

    thread.on_end = tell
    _running.add(thread)
    thread.start(QThread.Priority.LowPriority)
    return future


def running() -> list[QThread]:
    """The threads that have not ended."""
    return list(_running)


class _WorkThread(QThread):
    """Does one work, once."""

    def __init__(self, work: Callable[[], Any]) -> None:
        super().__init__()
        self.result: Any = None
        self.error: BaseException | None = None
        self.on_end: Callable[[], None] | None = None
        self._work = work

    def run(self) -> None:
        try:
            self.result = self._work()
        except BaseException as error:  # a thread begins here: it is raised again where it is waited for
            self.error = error
        tell, self.on_end = self.on_end, None
        if tell is not None:
            tell()

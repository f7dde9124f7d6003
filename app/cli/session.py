"""One command's controller: the one that is running, or one of its own, opened and closed again.

Either way its loop runs in a thread, and the main thread waits for what it asks.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import getpass
import os
import queue
import signal
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from app.errors import Cancelled
from app.inference.events import RequestEvent, RunningRequest
from app.logs import log_to_file
from app.paths import Home
from app.registry import Registry
from app.runs.trace import Origin

if TYPE_CHECKING:
    from app.control.remote import RemoteController
    from app.controller import Controller

Result = TypeVar("Result")
P = ParamSpec("P")

POLL_SECONDS = 0.2
"""Windows delivers Ctrl-C only between waits."""
CANCEL_SECONDS = 10.0
"""How long something cancelled may take to clean up behind itself."""


class Session:
    """A running controller. `run` and `events` are for the main thread: Ctrl-C cancels what they wait for.

    Args:
        controller: of this process, or what stands for the one of another and has its methods that commands use.
        registry: to look into.
    """

    def __init__(
        self, controller: Controller | RemoteController, registry: Registry, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.controller, self.registry, self._loop = controller, registry, loop

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine in the controller's loop and wait for it. Raises what it raises; Cancelled on Ctrl-C."""
        return _wait(asyncio.run_coroutine_threadsafe(work, self._loop))

    def ask(
        self,
        function: Callable[Concatenate[Controller, P], Coroutine[Any, Any, Result]],
        *arguments: P.args,
        **named: P.kwargs,
    ) -> Result:
        """Run a function that the control door offers and that takes the controller first, where the controller is."""
        from app.control.remote import RemoteController, passed_on

        if isinstance(self.controller, RemoteController):
            return self.run(passed_on(function)(self.controller, *arguments, **named))
        return self.run(function(self.controller, *arguments, **named))

    def events(self, start: Coroutine[Any, Any, RunningRequest]) -> Iterator[RequestEvent]:
        """Start a request and yield its events. The first Ctrl-C cancels it and goes on to its last event."""
        arrived: queue.Queue[RequestEvent | BaseException | None] = queue.Queue()
        running = self.run(start)
        pump = asyncio.run_coroutine_threadsafe(_pump(aiter(running), arrived), self._loop)
        interrupts = _Interrupts(lambda: asyncio.run_coroutine_threadsafe(running.cancel(), self._loop))
        try:
            while True:
                try:
                    event = arrived.get(timeout=POLL_SECONDS)
                except queue.Empty:
                    continue
                if event is None:
                    return
                if isinstance(event, BaseException):
                    raise event
                yield event
        finally:
            interrupts.end()
            pump.cancel()


class _Interrupts:
    """Ctrl-C while a request is followed: the first cancels it wherever the main thread is, the second interrupts."""

    def __init__(self, cancel: Callable[[], object]) -> None:
        self._cancel = cancel
        self._pressed = False
        self._is_main = threading.current_thread() is threading.main_thread()
        if self._is_main:
            self._before = signal.signal(signal.SIGINT, self._on_interrupt)

    def _on_interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._pressed:
            raise KeyboardInterrupt
        self._pressed = True
        self._cancel()

    def end(self) -> None:
        if self._is_main:
            signal.signal(signal.SIGINT, self._before)


async def _pump(events: AsyncIterator[RequestEvent], arrived: queue.Queue[RequestEvent | BaseException | None]) -> None:
    try:
        async for event in events:
            arrived.put(event)
    except Exception as error:  # raised again in the thread that listens
        arrived.put(error)
    arrived.put(None)


def _wait(future: concurrent.futures.Future[Result]) -> Result:
    try:
        while not future.done():
            concurrent.futures.wait([future], POLL_SECONDS)
    except KeyboardInterrupt:
        future.cancel()
        raise Cancelled("Cancelled.") from None
    return future.result()


@contextmanager
def open_controller(home: Home | None = None, *, monitor: bool = True) -> Iterator[Session]:
    """The controller of the user's home: the one that is running, in a window or as a service, else one for this
    command, until the block ends.

    Args:
        monitor: one for this command watches the nodes' health; a command that needs no node goes without.

    Raises:
        ShardboardError: it cannot be opened, or the one that runs is of another version.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="controller", daemon=True)
    thread.start()
    try:
        place = (home or Home.find()).create()
        log_to_file(place)
        with _elsewhere(place, loop) as session:
            if session is not None:
                yield session
                return
        with _here(place, loop, monitor) as session:
            yield session
    finally:
        _end(loop, thread)


@contextmanager
def _elsewhere(home: Home, loop: asyncio.AbstractEventLoop) -> Iterator[Session | None]:
    """Through the control door of the controller that is running; None when there is none."""
    from app.control.address import DoorAddress

    if DoorAddress.read(home) is None:
        yield None
        return
    from app.control.remote import RemoteController  # slow to load

    remote = _wait(asyncio.run_coroutine_threadsafe(RemoteController.find(home), loop))
    if remote is None:
        yield None
        return
    try:
        with open_registry(home) as registry:
            yield Session(remote, registry, loop)
    finally:
        _wait(asyncio.run_coroutine_threadsafe(remote.close(), loop))


@contextmanager
def _here(home: Home, loop: asyncio.AbstractEventLoop, monitor: bool) -> Iterator[Session]:
    from app.controller import Controller  # not needed for --help, and slow to load

    controller = _wait(asyncio.run_coroutine_threadsafe(Controller.open(home, monitor=monitor), loop))
    try:
        yield Session(controller, controller.registry, loop)
    finally:
        _wait(asyncio.run_coroutine_threadsafe(controller.close(), loop))


def _end(loop: asyncio.AbstractEventLoop, thread: threading.Thread) -> None:
    """Let what was cancelled clean up, then stop the loop."""
    ended = asyncio.run_coroutine_threadsafe(_cancel_all(), loop)
    concurrent.futures.wait([ended], CANCEL_SECONDS)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(CANCEL_SECONDS)
    if not thread.is_alive():
        loop.close()


async def _cancel_all() -> None:
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


def origin() -> Origin:
    """Who asks when a command does, for the record."""
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # the system has no name for who this is
        user = ""
    return Origin(via="command", user=user)


def registry_location(home: Home) -> str | Path:
    """The controller's registry: the database that the environment names, else the file in the home."""
    from app.controller import DATABASE_VARIABLE

    return os.environ.get(DATABASE_VARIABLE) or home.registry


@contextmanager
def open_registry(home: Home | None = None) -> Iterator[Registry]:
    """The registry to look into, also while a controller is at work on it."""
    with Registry.open(registry_location((home or Home.find()).create()), lock=False) as registry:
        yield registry

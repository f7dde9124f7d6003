"""The one way between the window and the controller, which lives on an asyncio loop in a thread of its own.

Work goes in as coroutines. What comes back waits in an inbox that the GUI thread empties at most 30 times
a second, so that 200 tokens/s and 100 nodes cost 30 wake-ups. **Every signal of this module is emitted in
the GUI thread**, so any slot may be connected.
"""

from __future__ import annotations

import asyncio
import functools
import getpass
import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from PySide6.QtCore import QElapsedTimer, QObject, Signal, Slot

from app.errors import Cancelled, ShardboardError
from app.paths import Home
from app.runs.trace import Origin
from app.ui import make

if TYPE_CHECKING:
    from app.controller import Controller
    from app.inference.events import StepPassed
    from app.inference.parameters import GenerationParameters
    from app.inference.prompt import Prompt
    from app.inference.request_run import RequestRun
    from app.registry import Registry

log = logging.getLogger(__name__)

Report = Callable[[Any], None]
"""Takes how far the work is; may be called from any thread."""
Work = Callable[["Controller", Report], Coroutine[Any, Any, Any]]

DRAIN_MILLISECONDS = 33


class Call(QObject):
    """A piece of work on the controller's loop. Exactly one of `done`, `failed`, `cancelled` comes, then `ended`."""

    done = Signal(object)
    """Its result."""
    failed = Signal(object)
    """A ShardboardError."""
    cancelled = Signal()
    ended = Signal()
    progressed = Signal(object)
    """A tuple of what was reported since the last time, in order."""

    def __init__(self, bridge: Bridge, what: str) -> None:
        super().__init__(bridge)
        self.what = what
        self.is_over = False
        self._bridge = bridge
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False

    def cancel(self) -> None:
        """Ask it to end; `ended` comes when it has cleaned up behind itself."""
        self._cancelled = True
        self._bridge.in_loop(self._cancel_task)

    def _cancel_task(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def report(self, progress: object) -> None:
        """Thread-safe; shown as `progressed`."""
        self._bridge.post(self, progress)

    def deliver(self, batch: list[Any]) -> None:
        """In the GUI thread: what was posted to it since the last time."""
        if reported := tuple(item for item in batch if not isinstance(item, _Outcome)):
            self.progressed.emit(reported)
        for item in batch:
            if isinstance(item, _Outcome) and not self.is_over:
                self.is_over = True
                item.tell(self)
                self.ended.emit()
                self._bridge.forget(self)


class _Outcome:
    """How a call ended."""

    def __init__(self, result: object = None, error: BaseException | None = None) -> None:
        self.result, self.error = result, error

    def tell(self, call: Call) -> None:
        if self.error is None:
            call.done.emit(self.result)
        elif isinstance(self.error, asyncio.CancelledError | Cancelled):
            call.cancelled.emit()
        else:
            call.failed.emit(explained(self.error, call.what))


class RequestStream(QObject):
    """A request under way, as the window follows it."""

    submitted = Signal(int)
    """The request's id in the registry."""
    events = Signal(object)
    """A tuple of RequestEvents in order; the last of all is Finished."""
    ended = Signal(object)
    """The RequestRecord it ended with."""
    failed = Signal(object)
    """A ShardboardError: it could not even begin. Nothing else comes then."""

    def __init__(self, bridge: Bridge) -> None:
        super().__init__(bridge)
        self.is_over = False
        self._bridge = bridge
        self._run: RequestRun | None = None
        self._cancelled = False

    def cancel(self) -> None:
        """End it; its last events still come."""
        self._cancelled = True
        self._bridge.in_loop(self._cancel_run)

    def _cancel_run(self) -> None:
        if self._run is not None:
            self._bridge.keep(asyncio.ensure_future(self._run.cancel()))

    async def follow(self, start: Callable[[], Awaitable[RequestRun]]) -> None:
        """On the loop: begin the request and post what it tells."""
        try:
            self._run = await start()
        except Exception as error:  # the request could not begin, whatever the reason: its user must hear of it
            self._bridge.post(self, _Outcome(error=error))
            return
        self._bridge.post(self, self._run.id)
        if self._cancelled:
            self._cancel_run()
        async for event in self._run:
            self._bridge.post(self, event)

    def deliver(self, batch: list[Any]) -> None:
        """In the GUI thread."""
        from app.inference.events import Finished

        events = []
        for item in batch:
            if isinstance(item, _Outcome):
                self.is_over = True
                self.failed.emit(explained(item.error or RuntimeError("no reason"), "the request"))
                self._bridge.forget(self)
                return
            if isinstance(item, int):
                self.submitted.emit(item)
            else:
                events.append(item)
        if events:
            self.events.emit(tuple(events))
            if isinstance(events[-1], Finished):
                self.is_over = True
                self.ended.emit(events[-1].record)
                self._bridge.forget(self)


@dataclass(frozen=True, slots=True)
class SeenStep:
    """A step and when the controller saw it, in microseconds of a clock that goes on steadily."""

    at_us: int
    step: StepPassed


class _Feed(QObject):
    """A stream of news that is handed out in batches."""

    def __init__(self, parent: QObject, tell: Callable[[list[Any]], None]) -> None:
        super().__init__(parent)
        self._tell = tell

    def deliver(self, batch: list[Any]) -> None:
        self._tell(batch)


class Bridge(QObject):
    """The controller as the window has it. Lives in the GUI thread; `start` it once, `close` it once."""

    opened = Signal()
    open_failed = Signal(object)
    """A ShardboardError: the registry is in use, or cannot be opened. `start` may be called again."""
    closed = Signal()
    node_events = Signal(object)
    """A tuple of NodeEvents."""
    tables_changed = Signal(object)
    """A frozenset of what was written to the registry: node, model, deployment, shard, request, event, job."""
    steps = Signal(object)
    """A tuple of StepPassed."""
    jobs_changed = Signal(object)
    """A tuple of JobViews, in order: of jobs of the controller's desk that came, got on or ended."""
    seen_steps = Signal(object)
    """The same as a tuple of SeenStep, for who wants to know how long they took: they arrive here in batches."""
    _wake = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.home: Home | None = None
        self.is_open = False
        self._controller: Controller | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ready: asyncio.Future[Controller] | None = None
        self._inbox: deque[tuple[Any, Any]] = deque()
        self._awake = False
        self._active: set[QObject] = set()
        self._chores: set[asyncio.Future[Any]] = set()
        self._doors: list[Callable[[], Coroutine[Any, Any, None]]] = []
        """On the loop: what lets others in, as functions that close it."""
        self._opening_door: asyncio.Future[None] | None = None
        self._taking_back: asyncio.Future[None] | None = None
        self._node_feed = _Feed(self, lambda batch: self.node_events.emit(tuple(batch)))
        self._table_feed = _Feed(self, lambda batch: self.tables_changed.emit(frozenset(batch)))
        self._job_feed = _Feed(self, lambda batch: self.jobs_changed.emit(tuple(batch)))
        self._step_feed = _Feed(self, self._on_steps)
        self._self_feed = _Feed(self, self._on_own_news)
        self._timer = make.timer(self, self._drain)
        self._since = QElapsedTimer()
        self._since.start()
        self._wake.connect(self._on_wake)

    # --- life ---

    def start(self, home: Home | None = None) -> None:
        """Open the controller of a home in a thread; `opened` or `open_failed` comes. Work may be given at once."""
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="controller", daemon=True)
            self._thread.start()
        self.in_loop(lambda: self.keep(asyncio.ensure_future(self._open(home))))

    async def _open(self, home: Home | None) -> None:
        loop = asyncio.get_running_loop()
        if self._ready is None:
            self._ready = loop.create_future()
        try:
            place = await asyncio.to_thread(lambda: (home or Home.find()).create())
            from app.controller import Controller  # takes half a second, which the GUI thread must not wait for
            from app.ui.jobs.qthreads import in_qthread

            controller = await Controller.open(place, runner=in_qthread)
        except Exception as error:  # whatever it is, the window must say it
            self.post(self._self_feed, _Outcome(error=error))
            return
        controller.on_node_event(lambda event: self.post(self._node_feed, event))
        controller.on_step(lambda step: self.post(self._step_feed, SeenStep(time.monotonic_ns() // 1000, step)))
        controller.jobs.on_changed(lambda view: self.post(self._job_feed, view))
        controller.registry.on_changed(lambda noun: self.post(self._table_feed, noun))
        self._controller = controller
        self.home = place
        self.post(self._self_feed, "opened")
        self._ready.set_result(controller)
        self._opening_door = asyncio.ensure_future(self._open_door(controller))
        self._taking_back = asyncio.ensure_future(controller.take_back())  # what a window that was killed left

    async def _open_door(self, controller: Controller) -> None:
        """Let commands in. A window without that is a window all the same."""
        from app.control.server import ControlServer

        door = ControlServer(controller)
        try:
            await door.open()
        except (ShardboardError, OSError) as error:
            log.warning("commands cannot be let in, they have to wait until the window is closed: %s", error)
        else:
            self.add_door(door.close)

    def add_door(self, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """On the loop: have this closed before the controller, the last one first."""
        self._doors.append(close)

    async def shut_doors(self) -> None:
        """On the loop: let nobody in any more. What those who are in wait for is cancelled, and they are told."""
        begun = [each for each in (self._opening_door, self._taking_back) if each is not None]
        await asyncio.gather(*begun, return_exceptions=True)
        while self._doors:
            try:
                await self._doors.pop()()
            except Exception:
                log.exception("a door could not be closed in good order")

    def close(self) -> None:
        """Cancel what is under way, close the controller and end its thread; `closed` comes."""
        self.is_open = False
        if self._loop is None:
            self.closed.emit()
            return
        self.in_loop(lambda: self.keep(asyncio.ensure_future(self._shut_down())))

    async def _shut_down(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        calls = {call._task for call in list(self._active) if isinstance(call, Call) and call._task is not None}
        for task in calls:
            task.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        await self.shut_doors()
        try:
            if self._controller is not None:
                await self._controller.close()
        except Exception:
            log.exception("the controller could not be closed in good order")
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await asyncio.get_running_loop().shutdown_asyncgens()
        await asyncio.get_running_loop().shutdown_default_executor()
        self.post(self._self_feed, "closed")

    def _on_steps(self, batch: list[SeenStep]) -> None:
        self.seen_steps.emit(tuple(batch))
        self.steps.emit(tuple(seen.step for seen in batch))

    def _on_own_news(self, batch: list[Any]) -> None:
        for news in batch:
            if isinstance(news, _Outcome):
                self.open_failed.emit(explained(news.error or RuntimeError("no reason"), "opening Shardboard"))
            elif news == "opened":
                self.is_open = True
                self.opened.emit()
            elif news == "closed":
                self._end_thread()
                self.closed.emit()

    def _end_thread(self) -> None:
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        loop.call_soon_threadsafe(loop.stop)
        thread.join(5.0)  # its last task has ended: this is a matter of microseconds
        if not thread.is_alive():
            loop.close()
        self._loop = self._thread = self._controller = self._ready = None

    # --- work ---

    def call(self, work: Work, what: str) -> Call:
        """Run a coroutine on the controller's loop, once the controller is open.

        Args:
            work: gets the controller and a function that reports progress.
            what: the work in words, for the message when it fails with a bug of ours: "adding the node".
        """
        call = Call(self, what)
        self._active.add(call)
        self.in_loop(lambda: self._begin(call, work))
        return call

    def _begin(self, call: Call, work: Work) -> None:
        async def run() -> Any:
            controller = await self._when_ready()
            return await work(controller, call.report)

        task = asyncio.ensure_future(run())
        call._task = task
        task.add_done_callback(lambda ended: self.post(call, _outcome_of(ended)))
        if call._cancelled:
            task.cancel()

    def read(self, work: Callable[[Registry], Any], what: str) -> Call:
        """Ask the registry something, in a thread of its own."""
        return self.call(lambda controller, report: controller.registry.call(work), what)

    def generate(
        self,
        model: str,
        prompt: Prompt,
        parameters: GenerationParameters | None = None,
    ) -> RequestStream:
        """Begin a request; see `Controller.generate`. It is recorded as asked by the window's user."""
        stream = RequestStream(self)
        self._active.add(stream)
        origin = window_origin()

        async def follow() -> None:
            controller = await self._when_ready()
            await stream.follow(lambda: controller.generate(model, prompt, parameters, origin=origin))

        self.in_loop(lambda: self.keep(asyncio.ensure_future(follow())))
        return stream

    async def _when_ready(self) -> Controller:
        if self._ready is None:
            self._ready = asyncio.get_running_loop().create_future()
        return await asyncio.shield(self._ready)

    # --- between the threads ---

    def in_loop(self, function: Callable[[], object]) -> None:
        """Run a function on the loop's thread. After the end of the loop nothing happens."""
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(function)

    def keep(self, chore: asyncio.Future[Any]) -> None:
        """On the loop: hold a task until it has ended."""
        self._chores.add(chore)
        chore.add_done_callback(self._chores.discard)

    def post(self, target: Any, item: object) -> None:
        """From any thread: have `target.deliver` called in the GUI thread with this among its batch."""
        self._inbox.append((target, item))
        if not self._awake:
            self._awake = True
            self._wake.emit()

    def forget(self, finished: QObject) -> None:
        """In the GUI thread: it is over."""
        self._active.discard(finished)
        finished.deleteLater()

    @Slot()
    def _on_wake(self) -> None:
        wait = max(0, DRAIN_MILLISECONDS - self._since.elapsed())
        if not self._timer.isActive():
            self._timer.start(wait)

    @Slot()
    def _drain(self) -> None:
        self._awake = False  # before the inbox is read: what comes from now on wakes again
        self._since.restart()
        batches: dict[int, tuple[Any, list[Any]]] = {}
        for _ in range(len(self._inbox)):
            target, item = self._inbox.popleft()
            batches.setdefault(id(target), (target, []))[1].append(item)
        for target, batch in batches.values():
            target.deliver(batch)


@functools.cache
def window_origin() -> Origin:
    """Who asks for what this window begins."""
    try:
        return Origin(via="window", user=getpass.getuser())
    except (OSError, KeyError):  # a user id that has no name
        return Origin(via="window")


def _outcome_of(task: asyncio.Future[Any]) -> _Outcome:
    if task.cancelled():
        return _Outcome(error=asyncio.CancelledError())
    error = task.exception()
    return _Outcome(error=error) if error is not None else _Outcome(task.result())


def explained(error: BaseException, what: str) -> ShardboardError:
    """An error as the user sees it: ours as it is, anything else as a bug, with its traceback in the log."""
    if isinstance(error, ShardboardError):
        return error
    log.error("%s failed", what, exc_info=error)
    reason = "".join(traceback.format_exception_only(error)).strip()
    wrapped = ShardboardError(
        f"{what[:1].upper()}{what[1:]} failed: {reason}", "This is a bug of Shardboard; the log has the details."
    )
    wrapped.__cause__ = error
    return wrapped

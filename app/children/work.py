"""Long work in a child process: start it, hear how far it is, cancel it, get its result or its error.

Whatever needs torch, takes minutes or has to die cleanly on a cancel runs as `python -m MODULE` beside
this process. The request goes to the child's stdin as one JSON line; its stdout carries JSON lines:
progress, then one result or one failure. The child's half of this contract is `serve_job`.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, Generic, Literal, Protocol, TypeVar, cast

import msgspec

from app.children.starting import start_child
from app.errors import (
    BadInput,
    Cancelled,
    DiskFullError,
    ModelError,
    PlacementError,
    RegistryError,
    ShardboardError,
)
from worker_agent.process import settle

REPORT_SECONDS = 0.1
"""A job tells how far it is at most this often."""
GRACE_SECONDS = 3.0
"""How long a cancelled child may take to clean up behind itself before it is killed."""
STUCK_SECONDS = 60.0
"""After so long a child that was asked to leave ends in any case; its parent, where it lives, did not wait for that."""
ERROR_TEXT_BYTES = 4000
"""How much of a crashed child's stderr is read to find out why."""


Unit = Literal["bytes", "tokens", "links", "answers"]


class NodeProgress(msgspec.Struct, frozen=True):
    """How far one node is, of several that have to get somewhere."""

    phase: str
    node_id: int | None
    """None for what the controller itself does for all of them."""
    node: str
    """Its name."""
    done_bytes: int
    total_bytes: int
    bytes_per_second: float = 0.0
    already_bytes: int = 0
    """Of those that are done, what the node held before."""
    unit: Unit = "bytes"
    """What `done_bytes` and `total_bytes` count where it is something else."""

    @property
    def seconds_left(self) -> float | None:
        """None while nobody can tell."""
        left = self.total_bytes - self.done_bytes
        return left / self.bytes_per_second if self.bytes_per_second > 0 else None


class JobProgress(msgspec.Struct, frozen=True, tag="progress"):
    """How far a job is."""

    phase: str
    """What it is doing, in a word or two: reading, copying, verifying, downloading, …"""
    done_bytes: int
    total_bytes: int
    bytes_per_second: float = 0.0
    seconds_left: float | None = None
    """None while nobody can tell."""
    nodes: tuple[NodeProgress, ...] = ()
    """How far each of the nodes is that it is about."""
    unit: Unit = "bytes"
    """What `done_bytes` and `total_bytes` count where it is something else."""

    @property
    def already_bytes(self) -> int:
        """Of those that are done, what the nodes held before."""
        return sum(node.already_bytes for node in self.nodes)


ProgressCallback = Callable[[JobProgress], None]

Request = TypeVar("Request", bound=msgspec.Struct)
Result = TypeVar("Result")
Covariant = TypeVar("Covariant", covariant=True)


class _Result(msgspec.Struct, frozen=True, tag="result"):
    value: msgspec.Raw


class _Failure(msgspec.Struct, frozen=True, tag="failure"):
    kind: str
    message: str
    advice: str


_events: msgspec.json.Decoder[JobProgress | _Result | _Failure] = msgspec.json.Decoder(JobProgress | _Result | _Failure)
_encoder = msgspec.json.Encoder()
_ERRORS: dict[str, type[ShardboardError]] = {
    error.kind: error
    for error in (ShardboardError, BadInput, ModelError, DiskFullError, PlacementError, RegistryError, Cancelled)
}


class Meter:
    """Turns a count of bytes into `JobProgress` lines with speed and time left, not too many of them. Thread-safe.

    Args:
        report: takes the lines; None to count only.
        phase: what is being done.
        total_bytes: how much there is to do.
        passes: how often each byte is handled before it is done, as in copying and then verifying it.
    """

    def __init__(self, report: ProgressCallback | None, phase: str, total_bytes: int, passes: int = 1) -> None:
        self._report = report
        self._phase = phase
        self._total = total_bytes
        self._passes = passes
        self._handled = 0
        self._lock = threading.Lock()
        self._began = time.monotonic()
        self._last = 0.0

    def advance(self, nbytes: int) -> None:
        """`nbytes` more have been handled once."""
        with self._lock:
            self._handled += nbytes
            done = self._handled // self._passes
            now = time.monotonic()
            if self._report is None or (now - self._last < REPORT_SECONDS and done < self._total):
                return
            self._last = now
            speed = done / max(now - self._began, 1e-6)
            left = (self._total - done) / speed if speed > 0 else None
            self._report(JobProgress(self._phase, done, self._total, speed, left))


class Cancellable(Protocol[Covariant]):
    """A job that blocks its thread in `run`, and ends early when another thread calls `cancel`."""

    def run(self) -> Covariant: ...

    def cancel(self) -> None: ...


class JobChain:
    """Several jobs one after another, which one `cancel` from any thread ends, whichever is under way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._current: Cancellable[object] | None = None
        self._cancelled = False

    def run(self, job: Cancellable[Result]) -> Result:
        """Run a job of the chain. Raises Cancelled when the chain was cancelled before or meanwhile."""
        with self._lock:
            self.check()
            self._current = job
        try:
            return job.run()
        finally:
            self._current = None

    def check(self) -> None:
        """Raises Cancelled when the chain was cancelled."""
        if self._cancelled:
            raise Cancelled("It was cancelled.")

    def cancel(self) -> None:
        with self._lock:
            self._cancelled = True
            current = self._current
        if current is not None:
            current.cancel()


async def until_over(work: asyncio.Future[Any], cancel: Callable[[], None] = lambda: None) -> bool:
    """Wait until something is over, whatever it brings; whether the caller was cancelled meanwhile.

    Being cancelled once more does not end the waiting: it would break off the cleaning up.

    Args:
        cancel: called when the caller is cancelled, each time.
    """
    cancelled = False
    while not work.done():
        try:
            await asyncio.wait({work})
        except asyncio.CancelledError:
            cancelled = True
            cancel()
    return cancelled


async def finished(work: asyncio.Future[Result], cancel: Callable[[], None]) -> Result:
    """What something brings; when the caller is cancelled, cancel it and wait until it has cleaned up.

    Raises Cancelled when it was done all the same.
    """
    cancelled = await until_over(work, cancel)
    if cancelled and not work.cancelled() and work.exception() is None:
        raise Cancelled("It was done when it was cancelled.")
    if cancelled:
        raise asyncio.CancelledError
    return work.result()


class ChildJob(Generic[Result]):
    """One piece of work in a child process.

    `run` blocks its caller's thread (a plain one or a QThread) until the work has ended; `cancel` may be
    called from any thread, before, during or after.

    Args:
        module: the module to run; it calls `serve_job` when it is `__main__`.
        request: what to do, a msgspec Struct.
        result_type: what the result line is decoded to.
        what: the work in words, for messages: "cutting the model".
        on_progress: called in the thread that called `run`.
    """

    def __init__(
        self,
        module: str,
        request: msgspec.Struct,
        result_type: type[Result],
        *,
        what: str,
        on_progress: ProgressCallback | None = None,
    ) -> None:
        self._module = module
        self._request = request
        self._result_type = result_type
        self._what = what
        self._on_progress = on_progress
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._cancelled = threading.Event()

    @property
    def pid(self) -> int | None:
        """The child's process id, once it runs."""
        return None if self._process is None else self._process.pid

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Ask the child to clean up and leave, and kill it when it does not. Returns at once."""
        self._cancelled.set()
        with self._lock:
            process = self._process
        if process is not None and process.poll() is None:
            threading.Thread(target=_end, args=(process,), name="end-job", daemon=True).start()

    def run(self) -> Result:
        """Do the work and return its result, also when `cancel` came after it was done.

        Raises:
            Cancelled: `cancel` was called, and the child left without a result.
            ShardboardError: what the child reported, as the same kind of error; or that it died, and why.
        """
        with tempfile.TemporaryFile() as stderr:
            with self._lock:
                if self._cancelled.is_set():
                    raise Cancelled(f"{self._what.capitalize()} was cancelled.")
                process = self._process = start_child(
                    self._module, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr.fileno()
                )
            try:
                outcome = self._listen(process)
            finally:
                _end(process)
            if isinstance(outcome, _Result):  # also when it was cancelled too late to be undone
                return msgspec.json.decode(outcome.value, type=self._result_type)
            if self._cancelled.is_set():
                raise Cancelled(f"{self._what.capitalize()} was cancelled.")
            if outcome is None:
                raise ShardboardError(*self._crash(process, stderr))
        raise _ERRORS.get(outcome.kind, ShardboardError)(outcome.message, outcome.advice)

    def _listen(self, process: subprocess.Popen[bytes]) -> _Result | _Failure | None:
        """Read the child's lines to the end. Returns what it ended with, None when it just ended."""
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(_encoder.encode(self._request) + b"\n")
            process.stdin.flush()
        except (BrokenPipeError, OSError):  # it died before it had read; how is told by what it left behind
            return None
        outcome: _Result | _Failure | None = None
        for line in process.stdout:
            event = _events.decode(line)
            if not isinstance(event, JobProgress):
                outcome = event
            elif self._on_progress is not None and not self._cancelled.is_set():
                self._on_progress(event)
        return outcome

    def _crash(self, process: subprocess.Popen[bytes], stderr: Any) -> tuple[str, str]:
        stderr.seek(0, os.SEEK_END)
        stderr.seek(max(0, stderr.tell() - ERROR_TEXT_BYTES))
        lines = [line for line in stderr.read().decode(errors="replace").splitlines() if line.strip()]
        code = process.returncode
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        advice = "The system may have run out of memory." if code == -9 else ""
        return f"The process {self._what} {how}" + (f": {lines[-1][:500]}" if lines else "") + ".", advice


def _end(process: subprocess.Popen[bytes]) -> None:
    """Close the child's stdin, which asks it to clean up and leave; kill it when it does not."""
    if process.stdin is not None:
        with suppress(OSError):  # it is gone already
            process.stdin.close()
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


class _Child:
    """The state of the process that `serve_job` runs in."""

    def __init__(self) -> None:
        self.ended_by = 0
        """The signal that ended the work, to end by it; 0 when the parent did, or nobody."""
        self._interruptible = False

    def listen(self) -> None:
        """From here on the signals that ask a process to leave raise KeyboardInterrupt, once."""
        self._interruptible = True
        for name in ("SIGINT", "SIGTERM", "SIGHUP"):
            if number := getattr(signal, name, 0):
                signal.signal(number, self._interrupt)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self._interruptible:
            self._interruptible = False  # a second one must not break off the cleaning up
            self.ended_by = 0 if number == signal.SIGINT else number
            raise KeyboardInterrupt

    def finish(self) -> None:
        self._interruptible = False


_child = _Child()


def past_return() -> None:
    """The work's last steps begin, which are quick and must all be done: who cancels from here on comes too late.

    Only counts in a process that serves a job.
    """
    _child.finish()


def serve_job(
    request_type: type[Request],
    work: Callable[[Request, ProgressCallback], msgspec.Struct],
    undo: Callable[[Request], None] | None = None,
) -> None:
    """The child's main: read the request, do the work, write the result or the failure.

    When the parent closes the pipe or dies, or a signal asks the process to leave, the main thread gets a
    KeyboardInterrupt, so that its `finally` clauses remove what is half-written; then `undo` removes the rest. The
    parent does that, too, for the child that is killed; here it is done for the parent that is.
    """
    settle()
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # a stray print of some library must not be taken for a line of ours
    request = msgspec.json.decode(sys.stdin.buffer.readline(), type=request_type)
    _child.listen()
    threading.Thread(target=_leave_with_parent, name="watch-parent", daemon=True).start()

    def send(event: JobProgress | _Result | _Failure) -> None:
        out.write(_encoder.encode(event) + b"\n")

    try:
        result = work(request, send)
        _child.finish()
        send(_Result(msgspec.Raw(_encoder.encode(result))))
        return
    except ShardboardError as error:
        _undone(undo, request)
        send(_Failure(error.kind, error.message, error.advice))
    except KeyboardInterrupt:
        _undone(undo, request)
        if _child.ended_by:  # so that the parent learns what it was
            signal.signal(_child.ended_by, signal.SIG_DFL)
            signal.raise_signal(_child.ended_by)
        sys.exit(Cancelled.exit_code)
    except BaseException:
        _undone(undo, request)
        raise


def _undone(undo: Callable[[Request], None] | None, request: Request) -> None:
    _child.finish()
    if undo is not None:
        with suppress(OSError):  # the parent tries it, too
            undo(request)


def _leave_with_parent() -> None:
    with suppress(OSError):  # the pipe is gone with the parent
        while os.read(0, 4096):  # not `sys.stdin`: Python ends with an abort when a thread waits in that
            pass
    if hasattr(signal, "pthread_kill"):  # this way it is also woken where it waits for the network or a disk
        signal.pthread_kill(cast(int, threading.main_thread().ident), signal.SIGINT)
    else:
        import _thread

        _thread.interrupt_main()
    time.sleep(STUCK_SECONDS)
    os._exit(Cancelled.exit_code)  # in a computation that nobody can interrupt, and with a parent that cannot kill it

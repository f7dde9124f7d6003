"""The agent: the loop that turns frames into messages and answers into frames.

The I/O thread, which runs `Agent.serve`, owns the sockets for messages. It never computes, reads a part or a log from
the disk, or waits for a send; what a message asks for is `service.py`'s matter. Importing this imports torch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial

import msgspec
import zmq

from worker_agent.engine.runtime import Runtime
from worker_agent.host.compute import Compute
from worker_agent.host.service import AgentIdentity, Resources, Service
from worker_agent.host.switchboard import Switchboard
from worker_agent.store.storekeeper import Reply, failed
from worker_agent.wire.callers import Caller, Callers
from worker_agent.wire.complaints import Complaints
from worker_agent.wire.errors import AgentError, NotAllowed, VersionMismatch, WireError
from worker_agent.wire.messages import (
    MAX_PAYLOAD_FRAMES,
    Buffer,
    Call,
    ControlMessage,
    Done,
    Failed,
    Message,
    check_payload,
    decode,
    encode,
)
from worker_agent.wire.outlet import Outlet, send_frames

log = logging.getLogger(__name__)

COMPUTE_DIED = 70
"""Exit status when the compute thread has ended by itself."""
_TICK_SECONDS = 1.0
_RETRY_MS = 5
"""How soon a send is tried again that found the other end's queue full."""
_MESSAGES_PER_TURN = 64
_FAREWELL_SECONDS = 0.5


class Agent:
    """Serves until it is stopped."""

    def __init__(self, board: Switchboard, identity: AgentIdentity, runtime: Runtime, resources: Resources) -> None:
        self._board = board
        self._resources = resources
        self._callers: Callers = resources.callers
        self._answers: dict[bytes, Outlet] = {}
        self._exit_code: int | None = None
        self._complaints = Complaints(log)
        self._service = Service(identity, resources, self.post, self._to_owner, self.stop)
        self._compute = Compute(
            self._service.send_out,
            identity.boot,
            runtime,
            resources.aside,
            lambda: resources.loader.is_busy,
            lambda: bool(resources.owner.reason),
        )
        self._service.attach(self._compute)
        resources.telemetry.is_measuring = lambda: self._compute.is_measuring

    def post(self, task: Callable[[], None]) -> None:
        """Run `task` in the I/O thread soon. Any thread, and a signal handler, may call it."""
        self._board.mailbox.put(task)

    def stop(self, code: int = 0) -> None:
        """End `serve` with this exit status, after the answers that are under way. Any thread may call it."""

        def end() -> None:
            self._exit_code = code if self._exit_code is None else self._exit_code

        self.post(end)

    def serve(self) -> int:
        """Run the agent in this thread; returns the exit status."""
        threads = (self._resources.telemetry, self._resources.storekeeper, self._resources.loader, self._compute)
        for thread in threads:
            thread.start()
        next_tick = time.monotonic() + _TICK_SECONDS
        while self._exit_code is None:
            self._turn(next_tick)
            if time.monotonic() >= next_tick:
                next_tick = time.monotonic() + _TICK_SECONDS
                self._guard(self._tick)
        self._say_farewell()
        self._resources.telemetry.stop()
        self._resources.storekeeper.stop()
        self._resources.loader.stop()
        self._resources.among.stop()
        self._compute.stop()
        deadline = time.monotonic() + 2.0
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        return self._exit_code

    # --- one turn of the loop ---

    def _turn(self, next_tick: float) -> None:
        waiting = bool(self._answers) or self._board.peers.is_waiting
        patience = _RETRY_MS if waiting else max(0, int((next_tick - time.monotonic()) * 1000)) + 1
        ready = dict(self._board.poller.poll(patience))
        if self._board.mailbox.fileno() in ready:
            for task in self._board.mailbox.drain():
                self._guard(task)
        if self._board.router in ready:
            for _ in range(_MESSAGES_PER_TURN):
                frames = self._receive()
                if frames is None:
                    break
                self._guard(partial(self._take, frames))
        self._guard(partial(self._board.peers.serve, ready, self._service.report_trouble))
        for route in list(self._answers):
            self._flush(route)

    def _tick(self) -> None:
        self._service.drop_silent(time.monotonic())
        if not self._compute.is_alive():
            cause = f" ({self._compute.failure})" if self._compute.failure is not None else ""
            self._service.report_death(f"The agent's compute thread has died{cause}; see its agent.log.")
            self.stop(COMPUTE_DIED)

    def _guard(self, task: Callable[[], None]) -> None:
        """Nothing that one message or event does may end the loop."""
        try:
            task()
        except Exception:
            log.exception("an event could not be handled")

    # --- what comes in ---

    def _receive(self) -> list[zmq.Frame] | None:
        """One message, read to its end but kept only as far as a message may go. None: there is none."""
        try:
            frame = self._board.router.recv(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return None
        frames = [frame]
        while frame.more:
            frame = self._board.router.recv(copy=False)
            # one more than allowed, so that the check of the payload sees it
            if len(frames) < MAX_PAYLOAD_FRAMES + 3:
                frames.append(frame)
        return frames

    def _take(self, frames: Sequence[zmq.Frame]) -> None:
        """Decode, authorise, dispatch; whatever cannot be done is answered where an answer has a place to go."""
        if len(frames) < 2:
            self._drop("an empty message")
            return
        route = frames[0].bytes
        try:
            key = str(frames[1].get("User-Id"))
        except zmq.ZMQError:
            self._drop("a message from nobody")
            return
        caller = Caller(key, route)
        if self._board.access.is_controller(key):
            self._callers.heard(caller, time.monotonic())
        try:
            message = decode(frames[1].buffer)
        except VersionMismatch as error:
            self._drop(f"{error} (key {key})")
            self._answer(route, failed(0, error))
            return
        except WireError as error:
            self._drop(f"{error} (key {key})")
            return
        self._dispatch(caller, message, [frame.buffer for frame in frames[2:]])

    def _dispatch(self, caller: Caller, message: Message, payload: Sequence[memoryview]) -> None:
        # Done and Failed have a call too, but it is one of the sender's questions to somebody, not to us
        asks = isinstance(message, Call) and not isinstance(message, Done | Failed)
        call = message.call if isinstance(message, Call) else 0
        reply = self._reply_to(caller.route, call)
        try:
            self._board.access.check(caller.key, message)
            check_payload(message, payload)
            self._service.handle(caller, message, payload, reply)
        except (NotAllowed, WireError) as error:
            if not isinstance(error, VersionMismatch):
                self._drop(str(error))
            if asks:
                reply(failed(call, error))
        except AgentError as error:
            log.warning("%s: %s", type(message).__name__, error)
            if asks:
                reply(failed(call, error))
        # a message handler begins here; whatever went wrong, the sender is told and the next one is served
        except Exception as error:
            log.exception("a %s could not be handled", type(message).__name__)
            if asks:
                reply(failed(call, error))

    def _drop(self, why: str) -> None:
        """Count a message that was not taken; the log hears of each reason every ten seconds at most."""
        self._service.dropped += 1
        self._complaints.warn(f"dropped a message: {why}")

    # --- what goes out ---

    def _reply_to(self, route: bytes, call: int) -> Reply:
        def reply(message: ControlMessage, *payload: Buffer) -> None:
            if isinstance(message, Call) and message.call != call:
                message = msgspec.structs.replace(message, call=call)
            self.post(partial(self._answer, route, message, *payload))

        return reply

    def _to_owner(self, deployment: str, message: Message) -> None:
        owner = self._callers.owner(deployment)
        if owner is None or not self._board.access.is_controller(owner.key):  # gone, or trusted no more
            self._service.dropped += 1
            return
        self._answer(owner.route, message)

    def _answer(self, route: bytes, message: Message, *payload: Buffer) -> None:
        """Send to a connection, or queue for it; a connection that is gone or full loses the message."""
        outlet = self._answers.get(route) or Outlet(partial(send_frames, self._board.router))
        try:
            taken = outlet.push([route, encode(message), *payload])
        except zmq.ZMQError:  # EHOSTUNREACH: nobody is connected under this name
            taken = False
        if not taken:
            self._drop("an answer that nobody takes")
        elif outlet.is_waiting:
            self._answers[route] = outlet

    def _flush(self, route: bytes) -> None:
        outlet = self._answers[route]
        try:
            outlet.flush()
        except zmq.ZMQError:
            log.info("a connection went away before its answers were sent")
            del self._answers[route]
            return
        if not outlet.is_waiting:
            del self._answers[route]

    def _say_farewell(self) -> None:
        """Send the answers that are still under way, within a bounded time."""
        deadline = time.monotonic() + _FAREWELL_SECONDS
        for task in self._board.mailbox.drain():
            self._guard(task)
        while self._answers and time.monotonic() < deadline:
            for route in list(self._answers):
                self._flush(route)
            time.sleep(_RETRY_MS / 1000)

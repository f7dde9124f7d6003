"""Waiting to be found: an agent that nobody owns announces itself, meets a controller, and trusts it when confirmed.

The listener stands where the agent will listen, but before the agent is there: it lets every key in, so it must not
share a context, or a moment, with the agent's own door. All that it answers is a meeting.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import IO, NamedTuple

import zmq

from worker_agent.host.meeting import MOST_FAILED, Answer, Reception
from worker_agent.wire.announcing import announced
from worker_agent.wire.complaints import Complaints
from worker_agent.wire.errors import AgentError, VersionMismatch, WireError
from worker_agent.wire.keys import KeyPair, key_fingerprint
from worker_agent.wire.links import Endpoint, agent_socket, bind
from worker_agent.wire.mailbox import Mailbox
from worker_agent.wire.meeting import printable
from worker_agent.wire.messages import Failed, check_payload, decode, encode
from worker_agent.wire.zap import Doorkeeper

log = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 16 * 1024
MOST_FRAMES = 4
_TICK_MS = 500
_MESSAGES_PER_TURN = 64


class NotFound(AgentError):
    """The wait is over, and no controller is trusted. The text says why."""

    kind = "waiting"


class Found(NamedTuple):
    """By whom, and where the listener stood."""

    endpoint: Endpoint
    public_key: str
    controller: str


def wait_to_be_found(keys: KeyPair, listen: Endpoint, name: str, lines: IO[str] | None = None) -> Found:
    """Wait until a controller was met and confirmed.

    Args:
        name: what controllers show of this machine.
        lines: where answers come from; None for the terminal.

    Raises:
        CannotAnnounce, AddressError: it could not begin to wait.
        NotFound: too many meetings came to nothing, or there is nobody to ask.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    door = Doorkeeper(context, lambda key: True)
    door.open()
    router = agent_socket(context, keys)
    router.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
    try:
        endpoint = bind(router, listen)
        with announced(name, keys.public, endpoint):
            say(
                f"This machine waits to be found, as {printable(name)} at {endpoint} with the key "
                f"{key_fingerprint(keys.public)}. On the controller: Nodes, Find machines; or: node find. "
                "Ctrl-C ends the wait."
            )
            reception = Reception(keys.public, name, say)
            key, controller = _Waiting(router, reception, lines or sys.stdin).serve()
        log.info("met the controller %s with the key %s", controller, key)
        return Found(endpoint, key, controller)
    finally:
        router.close()
        door.close()
        context.term()  # waits until the last answer has left, or LINGER is over


def say(text: str) -> None:
    """In the terminal; not in the log, where codes have no business."""
    with suppress(OSError, ValueError):  # a terminal that has been closed
        print(text, flush=True)


class _Waiting:
    def __init__(self, router: zmq.Socket[bytes], reception: Reception, lines: IO[str]) -> None:
        self._router, self._reception = router, reception
        self._typed: Mailbox[str] = Mailbox()
        self._complaints = Complaints(log)
        threading.Thread(target=_read_lines, args=(lines, self._typed.put), name="terminal", daemon=True).start()

    def serve(self) -> tuple[str, str]:
        """Key and name of the controller that was confirmed. Raises NotFound."""
        try:
            self._serve()
        finally:
            self._typed.close()
        if self._reception.trusted is None:
            raise NotFound(
                f"{MOST_FAILED} meetings came to nothing. If the codes differed, somebody on this network answers in "
                "the name of one of the two machines: join by an invitation instead (--join)."
            )
        return self._reception.trusted

    def _serve(self) -> None:
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._typed.fileno(), zmq.POLLIN)
        while not self._reception.is_over:
            ready = dict(poller.poll(_TICK_MS))
            for line in self._typed.drain():
                if not line:
                    raise NotFound(
                        "Whoever meets this agent has to be confirmed here, and there is no terminal to ask in. "
                        "Start it in one, or join by an invitation (--join), which needs none."
                    )
                self._send(self._reception.hear(line, time.monotonic()))
            if self._router in ready:
                for _ in range(_MESSAGES_PER_TURN):
                    if self._reception.is_over or not self._receive():
                        break
            self._send(self._reception.tick(time.monotonic()))

    def _receive(self) -> bool:
        """Take one message; False when there is none."""
        try:
            frame = self._router.recv(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        frames = [frame]
        while frame.more:
            frame = self._router.recv(copy=False)
            if len(frames) < MOST_FRAMES:  # read to its end, kept only as far as anything goes on here
                frames.append(frame)
        if len(frames) < 2:
            return True
        route, key, peer = frames[0].bytes, str(frames[1].get("User-Id")), str(frames[1].get("Peer-Address"))
        try:
            message = decode(frames[1].buffer)
            check_payload(message, [each.buffer for each in frames[2:]])
        except VersionMismatch as error:
            self._send([Answer(route, Failed(call=0, kind="version", message=str(error)))])
        except WireError as error:
            self._complaints.warn(f"while waiting to be found: {peer} (key {key}) sent what is no message: {error}")
        else:
            try:
                answers = self._reception.take(key, route, message, time.monotonic())
            # anybody may send anything here, and nothing of it may end the wait
            except Exception:
                log.exception("a %s from %s could not be handled", type(message).__name__, peer)
                return True
            for answer in answers:
                if isinstance(answer.message, Failed):
                    what, why = type(message).__name__, answer.message.message
                    self._complaints.warn(f"while waiting to be found: {peer} (key {key}) sent a {what}: {why}")
            self._send(answers)
        return True

    def _send(self, answers: Sequence[Answer]) -> None:
        for answer in answers:
            with suppress(zmq.ZMQError):  # it has gone, or does not read
                self._router.send_multipart([answer.route, encode(answer.message)], zmq.NOBLOCK)


def _read_lines(lines: IO[str], put: Callable[[str], None]) -> None:
    """Each line with its end; an empty text when there are no more."""
    while True:
        try:
            line = lines.readline(1000)
        except (OSError, ValueError):
            line = ""
        put(line)
        if not line:
            return

"""Links to other agents, measured: over a socket as the ring has it, in a thread of its own, one at a time.

The other end only counts what comes and answers, in its I/O thread, as it would take a step.
"""

from __future__ import annotations

import logging
import os
import socket as stdlib_socket
import statistics
import threading
import time
from collections.abc import Sequence
from itertools import pairwise

import msgspec
import zmq

from worker_agent.store.storekeeper import Reply, failed
from worker_agent.wire.access import Access
from worker_agent.wire.errors import Busy, WireError
from worker_agent.wire.keys import KeyPair
from worker_agent.wire.links import Endpoint, LinkEvent, LinkMonitor, peer_socket
from worker_agent.wire.messages import (
    MAX_PING_BYTES,
    AdmitProbe,
    Buffer,
    Done,
    Failed,
    Ping,
    Pong,
    Probed,
    ProbeLink,
    decode,
    encode,
)
from worker_agent.wire.messages.probing import ProbeOutcome

log = logging.getLogger(__name__)

CONNECT_SECONDS = 4.0
"""For the TCP connection, and again for the handshake."""
PING_SECONDS = 3.0
"""How long an answer to a short message may take."""
LARGE_BYTES = 64 * 1024
"""Of the first long message: many packets, and half a second on the slowest line that a model could run over."""
LARGE_SECONDS = 8.0
WINDOW = 4
"""Messages on their way at once while the bandwidth is measured."""
BANDWIDTH_SECONDS = 1.0
"""The bandwidth is known well enough after so long."""
_POLL_MS = 100


class ProbeEnded(Exception):
    """A measurement has come to its end before its last figure."""

    def __init__(self, outcome: ProbeOutcome, detail: str = "") -> None:
        super().__init__(outcome)
        self.outcome: ProbeOutcome = outcome
        self.detail = detail


class Prober:
    """Measures when a controller asks for it, and answers other agents that a controller has named.

    All methods return at once and belong to the I/O thread, `stop` may be called in any.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: KeyPair, access: Access) -> None:
        self._context, self._keys, self._access = context, keys, access
        self._thread: threading.Thread | None = None
        self._idle = threading.Event()
        self._idle.set()
        self._stopping = threading.Event()

    def admit(self, message: AdmitProbe, reply: Reply) -> None:
        self._access.admit_probe(message.key, message.seconds, message.total_bytes)
        reply(Done(call=message.call))

    def echo(self, key: str, message: Ping, payload: Sequence[Buffer], reply: Reply) -> None:
        """Answer a Ping. Raises NotAllowed for more bytes than were admitted."""
        received = sum(len(frame) for frame in payload)
        self._access.take_probe_bytes(key, received)
        reply(Pong(call=message.call, received_bytes=received, clock=time.time()))

    def probe(self, message: ProbeLink, reply: Reply) -> None:
        """Begin to measure. Raises Busy while another measurement is under way, AddressError."""
        if not self._idle.is_set():
            raise Busy("This agent measures a link already, one at a time; ask again when that is over.")
        endpoint = Endpoint.parse(message.address)

        def work() -> None:
            answer: Probed | Failed
            try:
                answer = _Probe(self._context, self._keys, endpoint, message, self._stopping).run()
            # a thread begins here; whatever went wrong, the controller is told
            except Exception as error:
                log.exception("the link to %s could not be measured", endpoint)
                answer = failed(message.call, error)
            self._idle.set()  # before it is told: who hears of it may ask for the next one
            reply(answer)

        self._idle.clear()
        self._thread = threading.Thread(target=work, name="probing", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End what is under way: its socket must be closed before the context is."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(2 * CONNECT_SECONDS)


class _Probe:
    """One measurement."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        keys: KeyPair,
        endpoint: Endpoint,
        asked: ProbeLink,
        stopping: threading.Event,
    ) -> None:
        self._context, self._keys, self._endpoint, self._asked, self._stopping = (
            context,
            keys,
            endpoint,
            asked,
            stopping,
        )
        self._deadline = time.monotonic() + asked.seconds
        self._socket: zmq.Socket[bytes]
        self._monitor: LinkMonitor
        self._number = 0
        self._refusals = 0
        self._found = Probed(call=asked.call, outcome="lost")

    def run(self) -> Probed:
        try:
            self._note(segment_bytes=self._connect_plainly())
            if self._stopping.is_set():
                raise ProbeEnded("lost", "the agent ends")
            self._socket = peer_socket(self._context, self._keys, self._asked.key)
            self._monitor = LinkMonitor(self._socket)
            try:
                self._socket.connect(self._endpoint.address)
                self._measure()
            finally:
                self._monitor.close()
                self._socket.close(0)
        except ProbeEnded as ended:
            self._note(outcome=ended.outcome, detail=ended.detail[:8000])
        return self._found

    def _note(self, **found: object) -> None:
        self._found = msgspec.structs.replace(self._found, **found)

    def _measure(self) -> None:
        self._answer_to(self._ping(), CONNECT_SECONDS + 1, "no_agent")
        trips, offsets = [], []
        for _ in range(self._asked.pings):
            began, wall = time.perf_counter(), time.time()
            pong = self._answer_to(self._ping(), PING_SECONDS, "lost")
            trips.append(time.perf_counter() - began)
            offsets.append(pong.clock - wall - trips[-1] / 2)
        least = min(trips)
        self._note(
            rtt=statistics.median(trips),
            least_rtt=least,
            jitter=statistics.fmean(abs(one - other) for one, other in pairwise(trips)) if len(trips) > 1 else 0.0,
            clock_offset=offsets[trips.index(least)],
        )
        if self._asked.total_bytes >= LARGE_BYTES:
            began = time.perf_counter()
            self._answer_to(self._ping(bytes(LARGE_BYTES)), LARGE_SECONDS, "large_lost")
            self._note(bytes_per_second=self._bandwidth(time.perf_counter() - began, least))
        self._note(outcome="measured")

    def _bandwidth(self, trip: float, rtt: float) -> float:
        """Bytes per second, of frames as long as the line carries in a tenth of a second or so."""
        guess = LARGE_BYTES / max(1e-6, trip - rtt)
        size = int(min(MAX_PING_BYTES, max(LARGE_BYTES // 4, guess / 10)))
        # what is sent may go through a tunnel that compresses, as a model's hidden states could not be
        frame = os.urandom(size)
        waiting: list[int] = []
        budget, sent, done = self._asked.total_bytes - LARGE_BYTES, 0, 0
        began = ended = time.perf_counter()
        while True:
            more = sent + size <= budget and time.perf_counter() - began < BANDWIDTH_SECONDS
            if more and len(waiting) < WINDOW:
                waiting.append(self._ping(frame))
                sent += size
                continue
            if not waiting:
                break
            done += self._answer_to(waiting.pop(0), LARGE_SECONDS, "lost").received_bytes
            ended = time.perf_counter()
        self._note(sent_bytes=sent + LARGE_BYTES)
        return done / max(1e-6, ended - began - rtt) if done else guess

    # --- what passes ---

    def _connect_plainly(self) -> int | None:
        """A plain connection first: the system says why there is none, which ZeroMQ does not. Bytes of a segment."""
        try:
            with stdlib_socket.create_connection((self._endpoint.host, self._endpoint.port), CONNECT_SECONDS) as plain:
                option = getattr(stdlib_socket, "TCP_MAXSEG", None)
                return None if option is None else plain.getsockopt(stdlib_socket.IPPROTO_TCP, option)
        except stdlib_socket.gaierror as error:
            raise ProbeEnded("name", str(error)) from error
        except ConnectionRefusedError as error:
            raise ProbeEnded("refused", str(error)) from error
        except TimeoutError as error:
            raise ProbeEnded("silent", str(error)) from error
        except OSError as error:
            raise ProbeEnded("unreachable", str(error)) from error

    def _ping(self, payload: bytes = b"") -> int:
        """Send one; its number."""
        self._number += 1
        frames = [encode(Ping(call=self._number)), *([payload] if payload else [])]
        try:
            self._socket.send_multipart(frames)
        except zmq.Again as error:
            raise ProbeEnded("lost", "nothing could be sent any more") from error
        return self._number

    def _answer_to(self, number: int, seconds: float, otherwise: ProbeOutcome) -> Pong:
        """The Pong of this number. Raises ProbeEnded with `otherwise` when none comes in time."""
        until = min(self._deadline, time.monotonic() + seconds)
        while not self._stopping.is_set():
            if self._socket.poll(_POLL_MS):
                try:
                    answer = decode(self._socket.recv_multipart()[0])
                except WireError as error:
                    raise ProbeEnded("no_agent", str(error)) from error
                if isinstance(answer, Failed):
                    raise ProbeEnded("not_trusted" if answer.kind == "not_allowed" else "no_agent", answer.message)
                if isinstance(answer, Pong) and answer.call == number:
                    return answer
                continue
            for event in self._monitor.read():
                self._judge(event)
            if time.monotonic() >= until:
                raise ProbeEnded(otherwise, f"no answer within {seconds:.0f} s")
        raise ProbeEnded("lost", "the agent ends")

    def _judge(self, event: LinkEvent) -> None:
        match event:
            case LinkEvent.NOT_TRUSTED:
                raise ProbeEnded("not_trusted")
            case LinkEvent.WRONG_KEY:
                self._refusals += 1
                if self._refusals > 1:  # once may be an agent that restarts in mid-handshake
                    raise ProbeEnded("wrong_key")
            case LinkEvent.NO_ANSWER:
                raise ProbeEnded("no_agent")
            case LinkEvent.DISCONNECTED:
                raise ProbeEnded("lost", "the connection was lost")

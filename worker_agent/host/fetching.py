"""Getting weights from another agent: in a thread of its own, over the kind of socket that steps take, one at a time.

The other end reads its disk in the storekeeper's thread, for those keys and parts that a controller has named. What
comes goes into the store as the controller's chunks do: a part counts once it is whole and has its hash.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Iterator

import zmq

from worker_agent.store.shard_store import ShardStore
from worker_agent.store.storekeeper import Reply, failed
from worker_agent.wire.errors import Busy, WireError
from worker_agent.wire.keys import KeyPair
from worker_agent.wire.links import Endpoint, LinkEvent, LinkMonitor, peer_socket
from worker_agent.wire.messages import (
    CHUNK_BYTES,
    Failed,
    Fetch,
    Fetched,
    PartBytes,
    ReadPart,
    check_payload,
    decode,
    encode,
)

log = logging.getLogger(__name__)

WINDOW = 4
"""Questions on their way at once: what both ends hold in memory for this is bounded by it."""
CONNECT_SECONDS = 5.0
SILENCE_SECONDS = 15.0
"""How long an answer may take: the other end reads it behind others that wait for its disk."""
_POLL_MS = 100


class FetchEnded(Exception):
    """Nothing more comes from there. The sentence says why."""


class Fetcher:
    """Gets parts when a controller asks for it. `fetch` returns at once and belongs to the I/O thread."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], keys: KeyPair, store: ShardStore) -> None:
        self._context, self._keys, self._store = context, keys, store
        self._thread: threading.Thread | None = None
        self._idle = threading.Event()
        self._idle.set()
        self._stopping = threading.Event()

    def fetch(self, message: Fetch, reply: Reply) -> None:
        """Begin. Raises Busy while another one is under way, AddressError, WireError."""
        if not self._idle.is_set():
            raise Busy("This agent gets weights from another one already, one at a time; ask again when that is over.")
        if len(message.digests) != len(message.sizes):
            raise WireError("a fetch whose parts and sizes are not as many")
        endpoint = Endpoint.parse(message.address)

        def work() -> None:
            try:
                answer: Fetched | Failed = _Fetching(
                    self._context, self._keys, self._store, endpoint, message, self._stopping
                ).run()
            # a thread begins here; whatever went wrong, the controller is told
            except Exception as error:
                log.warning("weights could not be had from %s: %s", endpoint, error)
                answer = failed(message.call, error)
            self._idle.set()  # before it is told: who hears of it may ask for the next one
            reply(answer)

        self._idle.clear()
        self._thread = threading.Thread(target=work, name="fetching", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End what is under way: its socket must be closed before the context is. Any thread may call it."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join(CONNECT_SECONDS)


class _Fetching:
    """One connection, and what comes over it."""

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        keys: KeyPair,
        store: ShardStore,
        endpoint: Endpoint,
        asked: Fetch,
        stopping: threading.Event,
    ) -> None:
        self._context, self._keys, self._store = context, keys, store
        self._endpoint, self._asked, self._stopping = endpoint, asked, stopping
        self._socket: zmq.Socket[bytes]
        self._monitor: LinkMonitor
        self._received = 0

    def run(self) -> Fetched:
        """Raises NoRoom, DamagedPart."""
        asked = self._asked
        held = self._store.offer(asked.digests, asked.sizes)
        pieces = _pieces(asked, held)
        trouble = ""
        self._socket = peer_socket(self._context, self._keys, asked.key)
        self._monitor = LinkMonitor(self._socket)
        try:
            self._socket.connect(self._endpoint.address)
            self._get(pieces, time.monotonic() + asked.seconds)
        except FetchEnded as ended:
            trouble = str(ended)
        finally:
            self._monitor.close()
            self._socket.close(0)
        whole = all(self._store.has(digest) for digest in asked.digests)
        return Fetched(call=asked.call, received=self._received, complete=whole, trouble=trouble)

    def _get(self, pieces: Iterator[ReadPart], until: float) -> None:
        under_way: deque[ReadPart] = deque()
        patience = CONNECT_SECONDS
        while True:
            while len(under_way) < WINDOW and time.monotonic() < until and (piece := next(pieces, None)) is not None:
                try:
                    self._socket.send(encode(piece))
                except zmq.Again as error:
                    raise FetchEnded("Nothing could be sent there any more.") from error
                under_way.append(piece)
            if not under_way:
                return
            answer, content = self._answer_to(under_way.popleft(), patience)
            patience = SILENCE_SECONDS
            taken = self._store.write(answer.digest, answer.offset, answer.total, content)
            if not taken.complete and taken.size != answer.offset + len(content):
                raise FetchEnded("The part has come from elsewhere meanwhile.")
            self._received += len(content)

    def _answer_to(self, piece: ReadPart, seconds: float) -> tuple[PartBytes, memoryview]:
        until = time.monotonic() + seconds
        while not self._stopping.is_set():
            if self._socket.poll(_POLL_MS):
                frames = self._socket.recv_multipart(copy=False)
                payload = [frame.buffer for frame in frames[1:]]
                try:
                    answer = decode(frames[0].buffer)
                    check_payload(answer, payload)
                except WireError as error:
                    raise FetchEnded(f"What came from there cannot be read: {error}.") from error
                if isinstance(answer, Failed):
                    raise FetchEnded(answer.message)
                wanted = (piece.call, piece.digest, piece.offset)
                if not isinstance(answer, PartBytes) or (answer.call, answer.digest, answer.offset) != wanted:
                    raise FetchEnded("Something else came from there than was asked for.")
                return answer, payload[0]
            for event in self._monitor.read():
                if event is not LinkEvent.CONNECTED:
                    raise FetchEnded(f"The agent at {self._endpoint} cannot be reached ({event.value}).")
            if time.monotonic() >= until:
                raise FetchEnded(f"The agent at {self._endpoint} did not answer within {seconds:.0f} s.")
        raise FetchEnded("This agent ends.")


def _pieces(asked: Fetch, held: tuple[int, ...]) -> Iterator[ReadPart]:
    """What is missing, part after part, each from where it has come to."""
    call = 0
    for digest, size, have in zip(asked.digests, asked.sizes, held, strict=True):
        for offset in range(have, size, CHUNK_BYTES):
            call += 1
            yield ReadPart(call=call, digest=digest, offset=offset, length=min(CHUNK_BYTES, size - offset))

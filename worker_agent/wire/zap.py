"""The doorkeeper: decides by its public key whether a CURVE connection is let in.

Without a ZAP handler libzmq lets every key in. So `links` sets ZAP_ENFORCE_DOMAIN on each server socket,
which refuses everybody while no handler stands, and this handler refuses whenever anything is unclear.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import zmq
from zmq.utils import z85

from worker_agent.wire.complaints import Complaints
from worker_agent.wire.links import ZAP_DOMAIN
from worker_agent.wire.mailbox import Mailbox

log = logging.getLogger(__name__)

_ENDPOINT = "inproc://zeromq.zap.01"


class Doorkeeper(threading.Thread):
    """Answers libzmq's ZAP requests of one context in a thread of its own.

    A key that is let in becomes the `User-Id` of each frame that comes from it, in Z85. A client that is
    turned away is told so (status 400), sees it as a monitor event and does not try again by itself.

    Args:
        context: the context whose server sockets are guarded; an asyncio context may be given too.
        admits: whether a public key (Z85) may connect. Called in this thread; an exception means no.
    """

    def __init__(self, context: zmq.Context[Any], admits: Callable[[str], bool]) -> None:
        super().__init__(name="doorkeeper", daemon=True)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.shadow(context.underlying)
        self._admits = admits
        self._complaints = Complaints(log)
        self._stopping: Mailbox[None] = Mailbox()
        self._ready = threading.Event()
        self._failure: BaseException | None = None

    def open(self) -> None:
        """Start, and return once requests are answered. Raises zmq.ZMQError if the context has a handler already."""
        self.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure

    def close(self) -> None:
        """End the thread. From here on nobody is let in."""
        self._stopping.put(None)
        self.join()
        self._stopping.close()

    def run(self) -> None:
        requests = self._context.socket(zmq.REP)
        requests.linger = 0
        try:
            requests.bind(_ENDPOINT)
        except zmq.ZMQError as error:
            self._failure = error
            requests.close()
            return
        finally:
            self._ready.set()
        poller = zmq.Poller()
        poller.register(requests, zmq.POLLIN)
        poller.register(self._stopping.fileno(), zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if self._stopping.fileno() in ready:
                break
            request = requests.recv_multipart()
            requests.send_multipart(self._answer(request))
        requests.close()

    def _answer(self, request: list[bytes]) -> list[bytes]:
        """RFC 27: version, request id, domain, address, identity, mechanism, credentials."""
        version, request_id = [*request, b"", b""][:2]
        key = ""
        try:
            _, _, domain, address, _, mechanism, credentials = request
            if version == b"1.0" and mechanism == b"CURVE" and domain == ZAP_DOMAIN:
                key = z85.encode(credentials).decode("ascii")
            admitted = bool(key) and self._admits(key)
        # a handler that dies would leave every later client waiting; this is where its errors end
        except Exception:
            log.exception("the doorkeeper could not judge a connection and refuses it")
            return [b"1.0", request_id, b"400", b"cannot judge", b"", b""]
        if not admitted:
            self._complaints.warn(f"refused a connection from {address.decode(errors='replace')}: unknown key {key}")
            return [b"1.0", request_id, b"400", b"unknown key", b"", b""]
        return [b"1.0", request_id, b"200", b"OK", key.encode("ascii"), b""]

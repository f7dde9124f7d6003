"""What strangers, and lines that damage, send to a door: ZMTP and CURVE that are nearly right.

Raw bytes over a connection of its own (`raw`), or the bytes of a real client, changed at one place as they pass
(`Mangler`): so handshakes are damaged that nobody without libzmq's keys could make.
"""

from __future__ import annotations

import contextlib
import random
import select
import socket
import threading
from collections.abc import Callable

from tests.fuzz.made_up import MadeUp

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + bytes(32)
"""ZMTP 3.1, as a client of CURVE begins."""
HELLO = b"\x04\xc8\x05HELLO\x01\x00"
"""How CURVE's first command begins; 72 zeros, a key, a nonce and a box follow."""
HANDSHAKE_BYTES = 700
"""As long as greeting, HELLO, INITIATE and a first message of a client are together, or a little more."""
PUMP_BYTES = 65536
IDLE_SECONDS = 0.3
"""After so long without a byte a connection that was changed is closed: the door waits for what was cut out."""


def raw(chance: random.Random) -> bytes:
    """All that a connection sends: nearly right greetings and commands, and lengths beyond everything."""
    made, hello = MadeUp(chance), HELLO + bytes(72) + chance.randbytes(120)
    mechanism = chance.choice((b"NULL", b"PLAIN", b"GSSAPI", b"CURVE", b"\xff" * 20, b"")).ljust(20, b"\0")
    version = bytes([chance.choice((0, 1, 2, 3, 4, 255)), chance.randrange(256)])
    huge = chance.choice((2**63 - 1, 2**64 - 1, 2**62, 2**32, 2**31, 20_000, 0)).to_bytes(8, "big")
    command = bytes([chance.choice((4, 6, 0, 1, 2, 3, 5, 7, 255)), chance.randrange(256)])
    ready = b"\x05READY\x0bSocket-Type" + (6).to_bytes(4, "big") + b"DEALER"
    return chance.choice((
        lambda: GREETING[: chance.randrange(len(GREETING))],
        lambda: made.bent(GREETING),
        lambda: made.bent(GREETING) + hello,
        lambda: GREETING[:10] + version + mechanism + bytes([chance.randrange(256)]) + bytes(31) + hello,
        lambda: GREETING + hello[: chance.randrange(len(hello))],
        lambda: GREETING + made.bent(hello),
        lambda: GREETING + hello + hello,
        lambda: GREETING + b"\x06" + huge + chance.randbytes(chance.randrange(3000)),
        lambda: GREETING + b"\x02" + huge + chance.randbytes(chance.randrange(3000)),
        lambda: GREETING + command + chance.randbytes(command[1]),
        lambda: GREETING + bytes([4, len(ready)]) + ready,
        lambda: GREETING + b"\x04\xff\xff" + chance.randbytes(254),
        lambda: chance.randbytes(chance.randrange(1, 3000)),
        lambda: b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        lambda: b"\x16\x03\x01" + chance.randbytes(200),
    ))()  # fmt: skip


def send_raw(port: int, content: bytes) -> None:
    """Over a connection of its own, which is closed at once."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(content)
        connection.shutdown(socket.SHUT_WR)


class Mangler:
    """A port that leads to another one; what passes there is changed at one place of each connection.

    Made for `with`; connections are taken in a thread each.
    """

    def __init__(self, port: int, chance: random.Random) -> None:
        self._behind, self._chance = port, chance
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._threads: list[threading.Thread] = []
        self.changed = 0
        """Connections in which something was changed."""

    @property
    def port(self) -> int:
        number: int = self._listener.getsockname()[1]
        return number

    def __enter__(self) -> Mangler:
        self._accepting = threading.Thread(target=self._accept, name="mangler")
        self._accepting.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(10)
        self._listener.close()
        for thread in self._threads:
            thread.join(10)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:  # it was closed
                return
            place, change = self._chance.randrange(HANDSHAKE_BYTES), self._change()
            thread = threading.Thread(target=self._pump, args=(near, place, change), name="mangled connection")
            self._threads = [each for each in self._threads if each.is_alive()] + [thread]
            thread.start()

    def _change(self) -> Callable[[bytes], bytes]:
        bit, junk = 1 << self._chance.randrange(8), self._chance.randbytes(self._chance.choice((1, 2, 9, 200)))
        return self._chance.choice((
            lambda rest: bytes([rest[0] ^ bit]) + rest[1:],
            lambda rest: b"\xff" + rest[1:],
            lambda rest: rest[1:],
            lambda rest: rest[len(junk) :],
            lambda rest: junk + rest,
            lambda rest: rest[: len(junk)] + rest,
        ))  # fmt: skip

    def _pump(self, near: socket.socket, place: int, change: Callable[[bytes], bytes]) -> None:
        passed, seconds = 0, 5.0
        with near, contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self._behind), 5) as far:
            while ready := select.select([near, far], [], [], seconds)[0]:
                for connection in ready:
                    content = connection.recv(PUMP_BYTES)
                    if not content:
                        return
                    if connection is far:
                        near.sendall(content)
                        continue
                    if passed <= place < passed + len(content):
                        at = place - passed
                        passed += len(content)
                        content, seconds = content[:at] + change(content[at:]), IDLE_SECONDS
                        self.changed += 1
                    else:
                        passed += len(content)
                    far.sendall(content)

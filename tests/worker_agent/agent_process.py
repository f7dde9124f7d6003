"""Real agents as child processes, and a plain client that drives them as a controller does."""

from __future__ import annotations

import itertools
import json
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import zmq

from worker_agent.wire.keys import KeyPair
from worker_agent.wire.links import Endpoint, LinkEvent, LinkMonitor, controller_socket
from worker_agent.wire.messages import (
    WIRE_VERSION,
    Buffer,
    ControlMessage,
    Hello,
    LoadProgress,
    Message,
    Welcome,
    decode,
    encode,
)
from worker_agent.wire.messages.fields import Call

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
AGENT = ("worker_agent",)
ANSWER_SECONDS = 10.0

M = TypeVar("M", bound=Message)
T = TypeVar("T")


def until(condition: Callable[[], T | None], seconds: float = 10.0) -> T:
    """What `condition` gives as soon as that is true; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"nothing came within {seconds} s")


@dataclass
class AgentProcess:
    """One `python -m worker_agent`, under a state folder of its own."""

    home: Path
    process: subprocess.Popen[str]
    address: str
    public_key: str

    @classmethod
    def start(cls, home: Path, *options: str, program: Sequence[str] = AGENT) -> AgentProcess:
        """Start it and wait until it listens. `program`: the module to run, and what stands before the options."""
        ready = home.with_name(f"{home.name}.ready")
        ready.unlink(missing_ok=True)
        process = launch(
            "--listen", "127.0.0.1:0", "--home", str(home), "--ready-file", str(ready), *options, program=program
        )
        try:
            until(lambda: ready.exists() or process.poll() is not None, START_SECONDS)
            assert process.poll() is None, f"the agent ended: {log_of(home)}"
        except BaseException:
            process.kill()
            process.communicate()
            raise
        facts = json.loads(ready.read_text())
        assert facts["pid"] == process.pid
        return cls(home, process, facts["address"], facts["public_key"])

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint.parse(self.address)

    @property
    def log(self) -> str:
        return log_of(self.home)

    def stop(self) -> int:
        """Ask it to end, as the system would; its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(getattr(signal, "CTRL_BREAK_EVENT", signal.SIGTERM))
        return self.wait()

    def kill(self) -> None:
        self.process.kill()
        self.wait()

    def wait(self, seconds: float = 10.0) -> int:
        try:
            self.process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        return self.process.returncode


def launch(*options: str, program: Sequence[str] = AGENT) -> subprocess.Popen[str]:
    """Start `python -m worker_agent` with these options; what it writes to stderr is kept for `communicate`."""
    return subprocess.Popen(
        [sys.executable, "-m", *program, "--threads", "1", "--log-level", "debug", *options],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )


def log_of(home: Path) -> str:
    path = home / "agent.log"
    return path.read_text("utf-8") if path.exists() else ""


@contextmanager
def running_agent(home: Path, *options: str) -> Iterator[AgentProcess]:
    agent = AgentProcess.start(home, *options)
    try:
        yield agent
    finally:
        agent.stop()


@dataclass
class Client:
    """One connection to an agent, with the keys of a controller, a peer or a stranger."""

    context: zmq.Context[zmq.Socket[bytes]]
    agent: AgentProcess
    keys: KeyPair
    server_key: str = ""
    boot: str = field(default_factory=lambda: secrets.token_hex(8))

    def __post_init__(self) -> None:
        server_key = self.server_key or self.agent.public_key
        self.socket = controller_socket(self.context, self.keys, server_key, b"c" + secrets.token_bytes(15), "control")
        self.monitor = LinkMonitor(self.socket)
        # Far from the small numbers in messages that tests make up: an answer to one of these is none to a call.
        self._calls = itertools.count(1_000_001)
        self.waiting: list[Message] = []
        self.socket.connect(self.agent.address)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        if not self.socket.closed:
            self.monitor.close()
            self.socket.close(0)

    def send(self, message: Message, *payload: Buffer) -> None:
        self.socket.send_multipart([encode(message), *payload])

    def send_raw(self, *frames: bytes) -> None:
        self.socket.send_multipart(list(frames))

    def next_call(self) -> int:
        return next(self._calls)

    def ask(self, make: Callable[[int], Call], *payload: Buffer, seconds: float = ANSWER_SECONDS) -> ControlMessage:
        """Send what `make` makes of a call id, and wait for the answer that repeats it."""
        call = self.next_call()
        self.send(make(call), *payload)  # type: ignore[arg-type]  # every Call is one of the messages
        return self.answer_to(call, seconds)

    def answer_to(self, call: int, seconds: float = ANSWER_SECONDS) -> ControlMessage:
        """The final answer to a call; whatever else comes meanwhile is kept in `waiting`."""
        deadline = time.monotonic() + seconds
        while True:
            message = self.receive(deadline - time.monotonic())
            if isinstance(message, Call) and message.call == call and not isinstance(message, LoadProgress):
                return message
            self.waiting.append(message)

    def receive(self, seconds: float = ANSWER_SECONDS) -> Message:
        if not self.socket.poll(max(0, int(seconds * 1000))):
            raise AssertionError(f"no answer within {seconds:.1f} s; the agent's log: {self.agent.log[-2000:]}")
        return decode(self.socket.recv_multipart()[0])

    def receive_frames(self, seconds: float = ANSWER_SECONDS) -> tuple[Message, bytes]:
        """A message with its one payload frame."""
        assert self.socket.poll(int(seconds * 1000)), f"no answer within {seconds:.1f} s"
        envelope, payload = self.socket.recv_multipart()
        return decode(envelope), payload

    def hears_nothing(self, seconds: float = 0.5) -> bool:
        return not self.socket.poll(int(seconds * 1000))

    def hello(self) -> Welcome:
        answer = self.ask(
            lambda call: Hello(call=call, oldest=WIRE_VERSION, newest=WIRE_VERSION, boot=self.boot, name="test")
        )
        assert isinstance(answer, Welcome), answer
        return answer

    def events(self, wanted: LinkEvent, count: int = 1, seconds: float = 10.0) -> Sequence[LinkEvent]:
        """The connection's events up to the one that is wanted."""
        seen: list[LinkEvent] = []

        def enough() -> bool:
            seen.extend(self.monitor.read())
            return seen.count(wanted) >= count

        until(enough, seconds)
        return seen

"""A controller with a thousand nodes: what its beats cost it, in processor and memory, and how soon it knows.

    python benchmarks/cluster.py [--nodes 1000] [--seconds 60] [--processes 5]

The agents are simulated: a few processes have sockets like theirs, encrypted and each with a key of its own, and answer
Hello and Health in full. All else is real: registry, links, monitors, beats each second, upkeep. Times are of the
controller's process; the agents', and other programs', do not count but for the caches and cores that they take. One
JSON line a figure. At last a tenth of the agents ends at once, and how long the controller takes to see it is told.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec
import psutil
import zmq
import zmq.asyncio

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from app.cluster.health import NodeDown, NodeEvent, NodeHealth, NodeUp
from app.cluster.node_records import capacities_of
from app.controller import Controller
from app.paths import Home
from worker_agent.process import settle
from worker_agent.wire.keys import KeyPair
from worker_agent.wire.links import Endpoint, agent_socket, bind
from worker_agent.wire.messages import (
    WIRE_VERSION,
    Done,
    Health,
    HealthReport,
    Hello,
    Numerics,
    Progress,
    Speed,
    Welcome,
    decode,
    encode,
)
from worker_agent.wire.messages.fields import Call
from worker_agent.wire.zap import Doorkeeper

GIB = 2**30
SETTLE_SECONDS = 10.0
TURN_SECONDS = 0.02
"""Simulated agents answer so often: to ask hundreds of sockets for each message takes more than to answer it."""
CONNECT_SECONDS = 300.0
IDLE = Progress(steps_done=0, busy_seconds=None, busy_tokens=0, step_p99=0.0)
SPEEDS = tuple(Speed(dtype, 12e9, 3e11) for dtype in ("float32", "bfloat16", "float16"))


def welcome(number: int, keys: KeyPair) -> Welcome:
    return Welcome(
        call=0, version=WIRE_VERSION, boot="boot", agent=keys.agent_id, hostname=f"machine-{number}", system="Linux",
        software="0", numerics=Numerics("cpu", "2", "5", 1, ("float32",)), cpu_name="Made-up CPU 3000", cpu_count=8,
        memory_total=64 * GIB, memory_budget=48 * GIB, memory_base=GIB // 2, disk_free=500 * GIB, gpus=(), stages=(),
        speeds=SPEEDS,
    )  # fmt: skip


def report(number: int) -> HealthReport:
    return HealthReport(
        call=0, boot="boot", cpu_percent=number % 90, process_cpu_percent=1, load_1m=0.5, memory_total=64 * GIB,
        memory_available=50 * GIB, process_memory=GIB // 2, memory_base=GIB // 2, memory_held=GIB // 2,
        memory_budget=48 * GIB, memory_used=0, disk_free=500 * GIB, gpus=(), progress=IDLE, stages=(), draining=False,
        loading=0, dropped=0, speeds=SPEEDS,
    )  # fmt: skip


# --- the agents, in processes of their own -------------------------------------------------------------------


def simulate(numbers: Sequence[int], pipe: Connection) -> None:
    """Be so many agents: tell their ports and keys, then answer until the pipe says how many of them end."""
    settle()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, len(numbers) + 64)
    door = Doorkeeper(context, lambda key: True)
    door.open()
    poller, answers, told = zmq.Poller(), {}, []
    for number in numbers:
        keys = KeyPair.make()
        socket = agent_socket(context, keys)
        port = bind(socket, Endpoint("127.0.0.1", 0)).port
        poller.register(socket, zmq.POLLIN)
        hello = welcome(number, keys)
        answers[socket] = {Hello: hello, Health: report(number)}
        told.append((number, port, keys.public, hello))
    pipe.send(told)
    poller.register(pipe.fileno(), zmq.POLLIN)
    while True:
        time.sleep(TURN_SECONDS)
        for ready, _ in poller.poll():
            if ready == pipe.fileno():
                gone = list(answers)[: pipe.recv()]
                for socket in gone or list(answers):
                    poller.unregister(socket)
                    del answers[socket]
                    socket.close(linger=0)
                if not answers:
                    return
                continue
            peer, envelope, *_ = ready.recv_multipart()
            message = decode(envelope)
            if isinstance(message, Call):
                answer = answers[ready].get(type(message)) or Done(call=0)
                ours = msgspec.structs.replace(answer, call=message.call)
                ready.send_multipart([peer, encode(ours)])  # type: ignore[arg-type]  # every Call is a message


# --- the controller ------------------------------------------------------------------------------------------


class Seen:
    """What the controller told of its nodes."""

    def __init__(self) -> None:
        self.up: dict[int, float] = {}
        self.down: dict[int, float] = {}
        self.beats = 0
        self.trips: list[float] = []

    def __call__(self, event: NodeEvent) -> None:
        now = time.monotonic()
        if isinstance(event, NodeUp):
            self.up.setdefault(event.node, now)
        elif isinstance(event, NodeDown):
            self.down.setdefault(event.node, now)
        elif isinstance(event, NodeHealth):
            self.beats += 1
            self.trips.append(event.rtt)


async def measure(nodes: int, seconds: float, pipes: Sequence[Connection], root: Path) -> None:
    home = Home(root, root / "models").create()
    # The registry knows them all, as it would after a restart: each is registered once in its life.
    first = await Controller.open(home, monitor=False)
    told = [each for pipe in pipes for each in pipe.recv()]

    def register() -> None:
        for _, port, key, hello in told:
            first.registry.nodes.add(
                hostname=hello.hostname, ip_address="127.0.0.1", port=port, public_key=key, agent_id=hello.agent,
                capacities=capacities_of(hello),
            )  # fmt: skip

    began = time.monotonic()
    await asyncio.to_thread(register)
    say("registering them", f"{time.monotonic() - began:.1f} s")
    await first.close()

    process, seen = psutil.Process(), Seen()
    began, spent = time.monotonic(), time.process_time()
    controller = await Controller.open(home)
    controller.on_node_event(seen)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            while len(seen.up) < nodes:
                await asyncio.sleep(0.1)
        say(
            f"until all {nodes} are known to be there",
            f"{time.monotonic() - began:.1f} s, {time.process_time() - spent:.1f} s of CPU",
        )
        await asyncio.sleep(SETTLE_SECONDS)
        late = asyncio.create_task(lateness(seconds))
        began, spent, beats = time.monotonic(), time.process_time(), seen.beats
        seen.trips.clear()
        await asyncio.sleep(seconds)
        passed = time.monotonic() - began
        core = (time.process_time() - spent) / passed
        trips = sorted(seen.trips)
        say("cores that the controller takes", f"{core:.2f}", "< 1")
        say("memory of its process", f"{process.memory_info().rss / 1e6:.0f} MB", "< 500 MB")
        say("beats answered a second", f"{(seen.beats - beats) / passed:.0f} of {nodes}")
        say("round trip of a beat", f"{trips[len(trips) // 2] * 1e3:.1f} ms, {trips[-len(trips) // 100] * 1e3:.1f} ms")
        worst, usual = await late
        say("how late the loop is", f"{usual * 1e3:.1f} ms, at worst {worst * 1e3:.0f} ms")
        say("nodes that were taken for lost", str(len(seen.down)), "0")
        seen.down.clear()
        ended = time.monotonic()
        gone = nodes // 10
        pipes[0].send(gone)
        async with asyncio.timeout(CONNECT_SECONDS):
            while len(seen.down) < gone:
                await asyncio.sleep(0.05)
        say(f"until {gone} that end at once are known to be gone", f"{max(seen.down.values()) - ended:.1f} s")
        began = time.monotonic()
    finally:
        await controller.close()
    say("closing", f"{time.monotonic() - began:.1f} s")


async def lateness(seconds: float) -> tuple[float, float]:
    """How late the loop comes to what is due: at worst, and half of the time."""
    late, ends = [], time.monotonic() + seconds
    while time.monotonic() < ends:
        due = time.monotonic() + 0.01
        await asyncio.sleep(0.01)
        late.append(time.monotonic() - due)
    return max(late), statistics.median(late)


def say(what: str, figure: str, aim: str = "") -> None:
    print(json.dumps({"what": what, "figure": figure, "aim": aim}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--processes", type=int, default=5)
    options = parser.parse_args()
    settle()
    spawning = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for part in range(options.processes):
        ours, theirs = spawning.Pipe()
        numbers = range(part, options.nodes, options.processes)
        process = spawning.Process(target=simulate, args=(numbers, theirs), daemon=True)
        process.start()
        pipes.append(ours)
        processes.append(process)
    with tempfile.TemporaryDirectory(prefix="shardboard-cluster-") as folder:
        try:
            asyncio.run(measure(options.nodes, options.seconds, pipes, Path(folder)))
        finally:
            for process in processes:
                process.terminate()
                process.join()


if __name__ == "__main__":
    main()

"""What clients saw of their answers while faults came at random: every token once, in order, equal to the reference."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from app.inference.request_run import RequestRun
from app.registry import RequestStatus
from tests.e2e.conftest import System
from tests.faults.relay import BOTH, Party, Relay, flipped
from tests.waiting import wait_until

Kind = Literal["kill", "cut", "hold", "reset", "damage"]
KINDS: tuple[Kind, ...] = ("kill", "cut", "hold", "reset", "damage")


@dataclass(frozen=True)
class Fault:
    """One fault: what happens to which agent, or to its lines, and for how long."""

    kind: Kind
    node: int
    party: Party
    seconds: float


@dataclass
class Client:
    """Somebody who reads an answer as it comes, over and over, and takes down all that he ever saw."""

    run: RequestRun
    seen: list[tuple[int, ...]] = field(default_factory=list)

    def look(self) -> None:
        shown = tuple(self.run.token_ids)
        if not self.seen or shown != self.seen[-1]:
            self.seen.append(shown)

    def check(self, expected: Sequence[int]) -> None:
        """Raises AssertionError where a token was lost, doubled, changed, taken back, or is another one."""
        self.look()
        for before, after in zip(self.seen, self.seen[1:], strict=False):
            assert after[: len(before)] == before, f"what was shown has changed: {before} became {after}"
        assert self.seen[-1] == tuple(expected), f"{self.seen[-1]} came, {tuple(expected)} was to come"


def carry_out(system: System, relays: Sequence[Relay], fault: Fault) -> None:
    """Have a fault happen, and be over."""
    relay, node = relays[fault.node], system.nodes[fault.node]
    match fault.kind:
        case "kill":
            system.process(node).kill()
            time.sleep(fault.seconds)
            system.run(system.controller.nodes.revive(node.id))
            system.run(system.controller.add_node(relay.address, node.public_key))
        case "cut":
            with relay.cut(fault.party):
                time.sleep(fault.seconds)
        case "hold":
            with relay.hold([fault.party], BOTH):
                time.sleep(fault.seconds)
        case "reset":
            relay.reset(fault.party)
        case "damage":
            relay.damage(fault.party, "back", flipped)
            time.sleep(fault.seconds)


@contextlib.contextmanager
def watching(clients: Sequence[Client]) -> Iterator[None]:
    """Clients look at their answers all the while, as fast as they come."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(0.005):
            for client in clients:
                client.look()

    thread = threading.Thread(target=look, name="clients")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def live_through(
    system: System,
    relays: Sequence[Relay],
    begin: Callable[[int], RequestRun],
    expected: Sequence[Sequence[int]],
    faults: Sequence[Fault],
) -> int:
    """As many answers at once as there are expected ones, while these faults come one after the other.

    Returns how often answers were interrupted. Raises AssertionError where a history is not what it has to be.
    """
    clients = [Client(begin(number)) for number in range(len(expected))]
    with watching(clients):
        wait_until(lambda: all(len(client.run.token_ids) >= 3 for client in clients))
        for fault in faults:
            carry_out(system, relays, fault)
        records = [system.finish(client.run) for client in clients]
    for client, record, tokens in zip(clients, records, expected, strict=True):
        assert (record.status, record.error) == (RequestStatus.COMPLETED, None)
        client.check(tokens)
        assert record.token_ids == tuple(tokens)
    return sum(len(client.run.trace().interruptions) for client in clients)

"""Faults at random for as long as one likes: whether any client lost or doubled a token, and whether memory grows.

    python benchmarks/histories.py [--minutes 10] [--clients 4] [--seed 1] [--kinds kill] [--every 60]

A tiny model in float32 over three of four agents on this machine, each behind a relay (tests/faults/relay.py). Agents
are killed, lines cut, held, reset and damaged while the clients read; all that they ever saw is compared with what an
undisturbed run brings. With --every faults come one by one, so many seconds apart, and answers follow each other all
the while; without it one to three come with each round of answers. What is told of memory is the controller's process,
which runs in this one, and the agent that grew most of those that lived for some minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psutil

TOKENS = 48
HOP_SECONDS = 0.01
SETTLED_SECONDS = 90.0
"""An agent's memory counts from so long after it was started."""
LEAST_SECONDS = 120.0
"""For so long, at least."""


def growth(lives: dict[int, list[tuple[float, int]]]) -> str:
    """What the agent gained a minute that gained most, of those that lived long enough, in MB; "-" where none did."""
    found = []
    for life in lives.values():
        settled = [(at, held) for at, held in life if at - life[0][0] > SETTLED_SECONDS]
        if settled and (seconds := settled[-1][0] - settled[0][0]) > LEAST_SECONDS:
            found.append((settled[-1][1] - settled[0][1]) / 1e6 / (seconds / 60))
    return f"{max(found):.2f} ({len(found)} agents)" if found else "-"


def main() -> None:
    from app.paths import Home
    from app.serving import ServingWish
    from tests.e2e.conftest import open_system
    from tests.faults.history import KINDS, Fault, live_through
    from tests.faults.relay import EVERYBODY, Relays
    from tests.tiny_model import make_model
    from tests.waiting import wait_until

    options = argparse.ArgumentParser(description="Faults at random while clients read.")
    options.add_argument("--minutes", type=float, default=10.0)
    options.add_argument("--clients", type=int, default=4)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    options.add_argument("--every", type=float, help="seconds between two faults")
    chosen = options.parse_args()
    chance, root = random.Random(chosen.seed), Path(tempfile.mkdtemp(prefix="shardboard-histories-"))
    make_model("llama", root / "tiny", max_position_embeddings=4096, num_hidden_layers=6)
    home = Home(root=root / "home", models=root / "models").create()
    with open_system(home) as system, Relays() as relays, contextlib.ExitStack() as slow:
        system.launch(4)
        system.run(system.controller.add_model(str(root / "tiny"), name="tiny"))
        before = [relays.before(f"{node.ip_address}:{node.port}") for node in system.nodes]
        for node, relay in zip(system.nodes, before, strict=True):
            system.run(system.controller.add_node(relay.address, node.public_key))
            slow.enter_context(relay.delayed(HOP_SECONDS))
        wish = ServingWish(dtype="float32", context=1024, kv_tokens=8192)
        system.run(system.controller.deploy("tiny", nodes=[node.id for node in system.nodes[:3]], serving=wish))
        prompts = [[3, 4, 5, 6, 7, 8, 20 + number] for number in range(chosen.clients)]
        asked = {"max_tokens": TOKENS, "ignore_eos": True}
        expected = [record.token_ids for record in system.answers("tiny", prompts, **asked)]
        process, ends = psutil.Process(), time.monotonic() + 60 * chosen.minutes
        due = time.monotonic() + (chosen.every or 0.0)
        rounds, faults, interruptions, held = 0, 0, 0, [(time.monotonic(), process.memory_info().rss)]
        health = system.controller.nodes.health
        lives: dict[int, list[tuple[float, int]]] = {}
        while time.monotonic() < ends:
            wait_until(lambda: all(health.is_alive(node.id) for node in system.nodes))
            coming = [
                Fault(
                    chance.choice(chosen.kinds), chance.randrange(4), chance.choice(EVERYBODY), chance.uniform(0.1, 3.0)
                )
                for _ in range(chance.randint(1, 3) if chosen.every is None else time.monotonic() >= due)
            ]
            if coming and chosen.every is not None:
                due += chosen.every
            interruptions += live_through(
                system, before, lambda number: system.begin("tiny", prompts[number], **asked), expected, coming
            )
            rounds, faults = rounds + 1, faults + len(coming)
            held.append((time.monotonic(), process.memory_info().rss))
            for node in system.run(system.controller.list_nodes()):
                if node.local_pid is not None:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        size = psutil.Process(node.local_pid).memory_info().rss
                        lives.setdefault(node.local_pid, []).append((time.monotonic(), size))
        half = held[len(held) // 2 :]
        minutes = max(half[-1][0] - half[0][0], 1e-9) / 60
        names = (
            "answers",
            "faults",
            "interruptions",
            "lost or doubled",
            "MB at first",
            "at last",
            "a minute",
            "an agent",
        )
        print(f"| {' | '.join(names)} |")
        print(f"|{' --- |' * len(names)}")
        print(
            f"| {rounds * chosen.clients} | {faults} | {interruptions} | 0 | {held[0][1] / 1e6:.0f} "
            f"| {held[-1][1] / 1e6:.0f} | {(half[-1][1] - half[0][1]) / 1e6 / minutes:.2f} | {growth(lives)} |"
        )


if __name__ == "__main__":
    main()

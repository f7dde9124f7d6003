"""Stages that are handed over while answers stream: how long these pause, and whether their tokens are the same.

    python benchmarks/handover.py [--streams 8] [--tokens 160] [--moves 6] [--dtype float32]

SmolLM2-135M over three agents on this machine; a stage at a time goes to a fourth one, which is free after each move.
Told are the longest time between two tokens of any stream over each move, beside the longest one without a move, which
is what 8 streams on these cores take anyway. Tokens are compared with those of the same streams undisturbed.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from app.controller import Controller
from app.inference.request_run import RequestRun
from app.models.demo import ensure_demo_model
from app.paths import Home
from app.serving import ServingWish
from benchmarks.faults import MODEL, STAGES, begin, ended


def gaps(runs: Sequence[RequestRun]) -> tuple[list[float], list[float]]:
    """Of each stream: its longest time between two tokens in ms, away from moves and over them."""
    quiet, moved = [], []
    for run in runs:
        times = [token.at_us for token in run.tokens]
        moves = [each.at_us for each in run.trace().interruptions]
        for before, after in itertools.pairwise(times):
            over = any(before <= at <= after for at in moves)
            (moved if over else quiet).append((after - before) / 1000)
    return quiet, moved


async def main() -> None:
    options = argparse.ArgumentParser(description="Stages that are handed over while answers stream.")
    options.add_argument("--streams", type=int, default=8)
    options.add_argument("--tokens", type=int, default=160)
    options.add_argument("--moves", type=int, default=6)
    options.add_argument("--dtype", default="float32")
    chosen = options.parse_args()
    root = Path(tempfile.mkdtemp(prefix="shardboard-handover-"))
    controller = await Controller.open(Home(root=root / "home", models=root / "models").create())
    try:
        await asyncio.to_thread(ensure_demo_model, controller.library)
        nodes = [node.id for node in await controller.launch_local(STAGES + 1)]
        wish = ServingWish(dtype=chosen.dtype, context=1024, kv_tokens=1024 * chosen.streams)
        await controller.deploy(MODEL, nodes=nodes[:STAGES], serving=wish)
        expected = await ended(await begin(controller, chosen.streams, chosen.tokens))
        runs = await begin(controller, chosen.streams, chosen.tokens)
        where, free = nodes[:STAGES], nodes[STAGES]
        step = (chosen.tokens - 20) // chosen.moves
        for move in range(chosen.moves):
            while len(runs[-1].token_ids) < 8 + step * move:
                await asyncio.sleep(0.005)
            stage = move % STAGES
            where[stage], free = free, where[stage]
            await controller.hand_over(MODEL, nodes=where)
        got = await ended(runs)
        quiet, moved = gaps(runs)
        same = sum(one == other for one, other in zip(got, expected, strict=True))
        print("| dtype | streams | moves | the same | between tokens, ms: median | most | over a move: median | most |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        print(
            f"| {chosen.dtype} | {chosen.streams} | {chosen.moves} | {same} | {statistics.median(quiet):.0f} "
            f"| {max(quiet):.0f} | {statistics.median(moved):.0f} | {max(moved):.0f} |"
        )
    finally:
        for node in await controller.list_nodes():
            await controller.remove_node(str(node.id))
        await controller.close()


if __name__ == "__main__":
    asyncio.run(main())

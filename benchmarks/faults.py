"""Agents that are killed in mid-answer: how long the answer pauses, and whether its tokens are those it would have had.

    python benchmarks/faults.py [--every 7] [--tokens 64] [--streams 1]

SmolLM2-135M over three agents on this machine, with a fourth to take over; of each round one stage's agent is killed
with SIGKILL after so many tokens of the answer, then started again. In float32 and bfloat16, each with fast and exact
recovery. With several streams each goes on; tokens are compared with those of the same streams undisturbed.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psutil

from app.controller import Controller
from app.inference.parameters import GenerationParameters
from app.inference.prompt import TokenPrompt
from app.inference.request_run import RequestRun
from app.models.demo import ensure_demo_model
from app.paths import Home
from app.registry import NodeRecord
from app.serving import ServingWish
from benchmarks.reference import PROMPT

MODEL = "SmolLM2-135M-Instruct"
STAGES = 3


async def begin(controller: Controller, streams: int, tokens: int) -> list[RequestRun]:
    """One answer for each stream, to prompts that differ in their last token."""
    wish = GenerationParameters(max_tokens=tokens, ignore_eos=True)
    return [await controller.generate(MODEL, TokenPrompt((*PROMPT, 100 + number)), wish) for number in range(streams)]


async def ended(runs: Sequence[RequestRun]) -> list[tuple[int, ...]]:
    records = [await run.wait() for run in runs]
    assert not [record.error for record in records if record.error], records
    return [record.token_ids for record in records]


async def kill(controller: Controller, node: int) -> None:
    record = await controller.registry.call(lambda known: known.nodes.get(node))
    assert record.local_pid is not None
    psutil.Process(record.local_pid).kill()


async def measure(
    controller: Controller, nodes: Sequence[NodeRecord], wish: ServingWish, every: int, tokens: int, streams: int
) -> tuple[list[float], int, int]:
    """Seconds that answers paused, how many answers were the same, and how many there were."""
    record = await controller.deploy(MODEL, nodes=[node.id for node in nodes[:STAGES]], serving=wish)
    expected = await ended(await begin(controller, streams, tokens))
    pauses, same, answers = [], 0, 0
    for after in range(1, tokens - 5, every):
        for stage in range(STAGES):
            shards = await controller.registry.call(lambda known: known.shards.list(deployment_id=record.id))
            victim = shards[stage].node_id
            assert victim is not None
            runs = await begin(controller, streams, tokens)
            while len(runs[0].token_ids) < after:
                await asyncio.sleep(0.002)
            await kill(controller, victim)
            got = await ended(runs)
            same += sum(one == other for one, other in zip(got, expected, strict=True))
            answers += streams
            pauses += [each.lasted_us / 1e6 for run in runs for each in run.trace().interruptions]
            await controller.nodes.revive(victim)
    await controller.undeploy(MODEL)
    return pauses, same, answers


async def main() -> None:
    options = argparse.ArgumentParser(description="Agents that are killed in mid-answer.")
    options.add_argument("--every", type=int, default=7)
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument("--streams", type=int, default=1)
    chosen = options.parse_args()
    root = Path(tempfile.mkdtemp(prefix="shardboard-faults-"))
    controller = await Controller.open(Home(root=root / "home", models=root / "models").create())
    try:
        await asyncio.to_thread(ensure_demo_model, controller.library, dequantize=True)
        nodes = await controller.launch_local(STAGES + 1)
        print("| dtype | recovery | kills | answers | the same | paused, s: median | most |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for dtype in ("float32", "bfloat16"):
            for recovery in ("fast", "exact"):
                wish = ServingWish(dtype=dtype, context=1024, recovery=recovery)
                pauses, same, answers = await measure(
                    controller, nodes, wish, chosen.every, chosen.tokens, chosen.streams
                )
                print(
                    f"| {dtype} | {recovery} | {answers // chosen.streams} | {answers} | {same} "
                    f"| {statistics.median(pauses):.2f} | {max(pauses):.2f} |",
                    flush=True,
                )
    finally:
        for node in await controller.list_nodes():
            await controller.remove_node(str(node.id))
        await controller.close()


if __name__ == "__main__":
    asyncio.run(main())

"""Agents that are killed in mid-answer: how long the answer pauses, and whether its tokens are those it would have had.

    python benchmarks/faults.py [--every 7] [--tokens 64] [--streams 1] [--replica]

SmolLM2-135M over three agents on this machine, with a fourth to take over; of each round one stage's agent is killed
with SIGKILL after so many tokens of the answer, then started again. In float32 and bfloat16, each with fast and exact
recovery. With several streams each goes on; tokens are compared with those of the same streams undisturbed.

With --replica the model lies on two of the agents, and once more on the other two, which take over; each kill is
followed by the same one without the replica, so that both are measured while the machine is at the same things. Told is
what a reader sees of it: the time between the last token before the loss and the first one after. --tiny takes a model
of six small layers with random numbers, for machines that have no time: what is left of the time is how the loss is
found out and seen to.
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
TAKEN_TOKENS = 32
"""Of an answer that a replica takes over, or the layers of which are loaded again."""
SETTLED_SECONDS = 1.0
"""From when an agent that was started again is there until it is given something to load."""
AIM_SECONDS = 0.5
"""Longer than this nobody is to wait for a token where a replica takes over."""


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


def silences(runs: Sequence[RequestRun]) -> list[float]:
    """Seconds between the last token before and the first one after each run's first interruption."""
    found = []
    for run in runs:
        after = run.trace().interruptions[0].tokens
        found.append((run.tokens[after].at_us - run.tokens[after - 1].at_us) / 1e6)
    return found


async def taken_over(
    controller: Controller, nodes: Sequence[NodeRecord], wish: ServingWish, after: int, victim: int, replica: bool
) -> tuple[RequestRun, RequestRun]:
    """One kill, after so many tokens of the answer, of the agent that has stage `victim`: an undisturbed answer, and
    the one that went on."""
    ids = [node.id for node in nodes]
    await controller.deploy(MODEL, nodes=ids[:2], serving=wish)
    if replica:
        await controller.deploy(MODEL, nodes=ids[2:], replica=True)
    (undisturbed,) = await begin(controller, 1, TAKEN_TOKENS)
    await ended([undisturbed])
    (run,) = await begin(controller, 1, TAKEN_TOKENS)
    while len(run.token_ids) < after:
        await asyncio.sleep(0.002)
    carries = run.record.deployment_id or ""
    shards = await controller.registry.call(lambda known: known.shards.list(deployment_id=carries))
    lost = shards[victim].node_id
    assert lost is not None
    await kill(controller, lost)
    await ended([run])
    told = [each.what for each in run.trace().interruptions]
    # On a busy machine who takes over may be thought lost in his turn.
    assert told and ("replica" in told[0]) == replica, told
    while controller.deployments.mender.is_mending(carries):
        await asyncio.sleep(0.05)
    for record in await controller.deployments.ready(MODEL):
        await controller.undeploy(record.id)
    await controller.nodes.revive(lost)
    while not controller.nodes.health.is_alive(lost):
        await asyncio.sleep(0.05)
    await asyncio.sleep(SETTLED_SECONDS)
    return undisturbed, run


async def compare(controller: Controller, nodes: Sequence[NodeRecord], every: int) -> None:
    """A replica that takes over, and layers that are loaded again, one after the other; prints a table."""
    print("| dtype | goes on | kills | the same | between tokens, s: median | most | over 0.5 s | agents have it, s |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for dtype in ("float32", "bfloat16"):
        wish = ServingWish(dtype=dtype, context=1024)
        found: dict[bool, list[tuple[RequestRun, RequestRun]]] = {True: [], False: []}
        for after in range(1, TAKEN_TOKENS - 5, every):
            for victim in range(2):
                for replica in (True, False):
                    pair = await taken_over(controller, nodes, wish, after, victim, replica)
                    found[replica].append(pair)
                    print(dtype, after, victim, replica, silences(pair[1:]), file=sys.stderr, flush=True)
        for replica, rounds in found.items():
            same = sum(one.record.token_ids == run.record.token_ids for one, run in rounds)
            waits = silences([run for _, run in rounds])
            restarts = [run.trace().interruptions[0].lasted_us / 1e6 for _, run in rounds]
            how = "over the replica" if replica else "loaded again"
            print(
                f"| {dtype} | {how} | {len(rounds)} | {same} | {statistics.median(waits):.2f} | {max(waits):.2f} "
                f"| {sum(wait > AIM_SECONDS for wait in waits)} | {statistics.median(restarts):.2f} |",
                flush=True,
            )


async def main() -> None:
    options = argparse.ArgumentParser(description="Agents that are killed in mid-answer.")
    options.add_argument("--every", type=int, default=7)
    options.add_argument("--tokens", type=int, default=64)
    options.add_argument("--streams", type=int, default=1)
    options.add_argument("--tiny", action="store_true", help="a model of six small layers with random numbers")
    options.add_argument("--replica", action="store_true", help="a replica that takes over, beside loading again")
    chosen = options.parse_args()
    root = Path(tempfile.mkdtemp(prefix="shardboard-faults-"))
    from tests.tiny_model import make_model

    controller = await Controller.open(Home(root=root / "home", models=root / "models").create())
    try:
        if chosen.tiny:
            make_model("llama", root / "tiny", max_position_embeddings=4096, num_hidden_layers=6, vocab_size=5000)
            await controller.add_model(str(root / "tiny"), name=MODEL)
        else:
            await asyncio.to_thread(ensure_demo_model, controller.library, dequantize=True)
        nodes = await controller.launch_local(STAGES + 1)
        if chosen.replica:
            await compare(controller, nodes, chosen.every)
            return
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

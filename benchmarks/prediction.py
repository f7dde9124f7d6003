"""Predicted against measured: decoding and the first token of SmolLM2, over several plans and links.

    python benchmarks/prediction.py [--rounds 3] [--tokens 48] [--prompt 256] [--plans 1:2,2:1+1,3:1+1+1] [--delay 20]

A plan is a number of agents and the threads of each. For each plan and dtype the links are measured, the model is
deployed and asked the same a few times, and what the runs say of prediction and reality is printed: the median of the
rounds. Beside it stands what other programs took of the machine's cores meanwhile; where that is more than a few
percent, the error is theirs. With `--delay` each agent stands behind a TCP proxy that holds back every byte for so many
milliseconds in each direction, and the plans of two agents and more are measured once more so.

The constants of app/sharding/prediction.py were fitted to what an earlier form of this printed, with two agents.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from app.controller import Controller
from app.inference.parameters import GenerationParameters
from app.inference.prompt import TokenPrompt
from app.models.demo import ensure_demo_model
from app.paths import Home
from app.registry import NodeRecord
from app.runs.foreseen import Comparison, compared, error_text
from app.runs.trace import Foreseen, RequestTrace, unpack
from app.serving import ServingWish
from worker_agent.wire.links import Endpoint

MODEL = "SmolLM2-135M-Instruct"
MEASURING_SECONDS = 120.0
"""For all agents to have measured themselves: they take turns."""
QUIET = 0.05
PLANS = "1:2,1:1,2:1+1,3:1+1+1,4:1+1+1+1"
DTYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Row:
    """One plan in one dtype: medians of the rounds."""

    threads: tuple[int, ...]
    delay_ms: float
    dtype: str
    foreseen: Foreseen
    tokens_per_second: float
    first_token_us: float
    others: float
    """What other programs took of all cores meanwhile, 0 to 1."""

    @property
    def speed_error(self) -> float:
        return self.foreseen.tokens_per_second / self.tokens_per_second - 1

    @property
    def first_token_error(self) -> float:
        return self.foreseen.first_token_us / self.first_token_us - 1

    def __str__(self) -> str:
        plan = f"{len(self.threads)} ({'+'.join(map(str, self.threads))})"
        return (
            f"| {plan} | {self.delay_ms:.0f} ms | {self.dtype} | {self.foreseen.tokens_per_second:.1f} "
            f"| {self.tokens_per_second:.1f} | {error_text(self.speed_error)} "
            f"| {self.foreseen.first_token_us / 1e3:.0f} ms | {self.first_token_us / 1e3:.0f} ms "
            f"| {error_text(self.first_token_error)} | {self.others * 100:.0f} % |"
        )


HEADER = (
    "| agents (threads) | delay | dtype | tokens/s predicted | measured | error | first token predicted | measured "
    "| error | other programs |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
)


class OtherPrograms:
    """What programs besides this one and its agents take of the machine's cores, from when it is made."""

    def __init__(self, nodes: Sequence[NodeRecord]) -> None:
        pids = [node.local_pid for node in nodes if node.local_pid is not None]
        self._ours = [psutil.Process(), *map(psutil.Process, pids)]
        self._began = self._spent()

    def share(self) -> float:
        """Until now, of all cores."""
        (all_before, ours_before, began), (everything, ours, now) = self._began, self._spent()
        spent = everything - all_before - (ours - ours_before)
        return max(0.0, spent / ((now - began) * (psutil.cpu_count() or 1)))

    def _spent(self) -> tuple[float, float, float]:
        times = psutil.cpu_times()
        busy = sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
        ours = sum(each.user + each.system for each in (process.cpu_times() for process in self._ours))
        return busy, ours, time.monotonic()


class DelayingProxy:
    """Passes a TCP port on, each byte a while later, in both directions."""

    def __init__(self, target: Endpoint, seconds: float) -> None:
        self._target, self._seconds = target, seconds
        self._tasks: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Endpoint]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        try:
            yield Endpoint("127.0.0.1", server.sockets[0].getsockname()[1])
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(self._target.host, self._target.port)
        except OSError:
            writer.close()
            return
        for source, sink in ((reader, far_writer), (far_reader, writer)):
            task = asyncio.create_task(self._pass(source, sink))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        loop, waiting = asyncio.get_running_loop(), asyncio.Queue[tuple[float, bytes]]()

        async def deliver() -> None:
            while True:
                due, data = await waiting.get()
                await asyncio.sleep(max(0.0, due - loop.time()))
                sink.write(data)
                if not data:
                    return

        delivering = asyncio.create_task(deliver())
        try:
            while data := await source.read(1 << 16):
                waiting.put_nowait((loop.time() + self._seconds, data))
        except OSError:
            pass
        finally:
            delivering.cancel()
            with suppress(OSError):
                sink.close()


async def measured(
    controller: Controller, nodes: Sequence[NodeRecord], dtype: str, rounds: int, tokens: int, prompt: int
) -> tuple[Foreseen, list[Comparison]]:
    """Deploy, ask `rounds` times after a first time that does not count; what was foreseen, and what came."""
    ids = [node.id for node in nodes]
    record = await controller.deploy(MODEL, nodes=ids, serving=ServingWish(dtype=dtype))
    told: list[Comparison] = []
    foreseen: Foreseen | None = None
    for number in range(rounds + 1):
        # Another beginning each time: nothing may come from the cache.
        asked = TokenPrompt(tuple(5 + (number * 7919 + place) % 1000 for place in range(prompt)))
        parameters = GenerationParameters(max_tokens=tokens, ignore_eos=True)
        answer = await (await controller.generate(MODEL, asked, parameters)).wait()
        assert answer.error is None, answer.error
        content = await controller.registry.call(lambda known, id=answer.id: known.traces.get("request", str(id)))
        assert content is not None
        trace = unpack(content)
        assert isinstance(trace, RequestTrace)
        found = compared(trace)
        assert found is not None and not found.why_not, found
        foreseen = trace.foreseen
        if number:
            told.append(found)
    await controller.undeploy(record.id)
    assert foreseen is not None
    return foreseen, told


async def rows(
    controller: Controller, nodes: Sequence[NodeRecord], threads: tuple[int, ...], delay_ms: float,
    options: argparse.Namespace,
) -> AsyncIterator[Row]:  # fmt: skip
    if len(nodes) > 1:
        await controller.measure_links([node.id for node in nodes])
        for finding in await controller.link_findings():
            link = finding.link
            print(
                f"link {finding.source} to {finding.target}: {(link.rtt or 0) * 1e3:.2f} ms, "
                f"{(link.bytes_per_second or 0) / 1e6:.0f} MB/s"
            )
    for dtype in options.dtypes.split(","):
        others = OtherPrograms(nodes)
        foreseen, told = await measured(controller, nodes, dtype, options.rounds, options.tokens, options.prompt)
        speeds = [each.tokens_per_second for each in told if each.tokens_per_second is not None]
        firsts = [each.first_token_us for each in told if each.first_token_us is not None]
        yield Row(
            threads, delay_ms, dtype, foreseen, statistics.median(speeds), statistics.median(firsts), others.share()
        )


async def speeds_known(controller: Controller, nodes: Sequence[NodeRecord]) -> None:
    """Wait until every agent has measured itself in every dtype that is asked for."""
    async with asyncio.timeout(MEASURING_SECONDS):
        while True:
            records = [controller.registry.nodes.get(node.id) for node in nodes]
            told = [record.capacities.get("speeds") for record in records]
            if all(isinstance(each, list) and len(each) >= len(DTYPES) for each in told):
                return
            await asyncio.sleep(0.2)


async def plan_rows(controller: Controller, threads: tuple[int, ...], options: argparse.Namespace) -> list[Row]:
    """Start the agents of a plan, measure it without and with a delay, end them."""
    nodes: list[NodeRecord] = []
    found: list[Row] = []
    try:
        for count in threads:
            nodes += await controller.launch_local(1, threads=count, keep=False)
        await speeds_known(controller, nodes)
        async for row in rows(controller, nodes, threads, 0.0, options):
            print(row, flush=True)
            found.append(row)
        if options.delay and len(nodes) > 1:
            proxies = [DelayingProxy(Endpoint(node.ip_address, node.port), options.delay / 1e3) for node in nodes]
            async with contexts(proxies) as places:
                for node, place in zip(nodes, places, strict=True):
                    await controller.add_node(str(place), node.public_key)
                async for row in rows(controller, nodes, threads, options.delay, options):
                    print(row, flush=True)
                    found.append(row)
                for node in nodes:  # back to where they are, so that they can be ended
                    await controller.add_node(str(Endpoint(node.ip_address, node.port)), node.public_key)
    finally:
        for node in nodes:
            await controller.remove_node(str(node.id))
    return found


@asynccontextmanager
async def contexts(proxies: Sequence[DelayingProxy]) -> AsyncIterator[list[Endpoint]]:
    """All proxies open."""
    if not proxies:
        yield []
        return
    async with proxies[0].open() as place, contexts(proxies[1:]) as others:
        yield [place, *others]


async def run(options: argparse.Namespace) -> list[Row]:
    root = Path(tempfile.mkdtemp(prefix="shardboard-prediction-"))
    home = Home(root=root, models=Path(os.environ.get("MODEL_CACHE_DIR") or root / "models")).create()
    controller = await Controller.open(home)
    found: list[Row] = []
    try:
        await asyncio.to_thread(ensure_demo_model, controller.library, dequantize=True)
        for text in options.plans.split(","):
            found += await plan_rows(controller, tuple(map(int, text.rpartition(":")[2].split("+"))), options)
    finally:
        await controller.close()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--plans", default=PLANS)
    parser.add_argument("--dtypes", default=",".join(DTYPES))
    parser.add_argument("--delay", type=float, default=0.0, help="milliseconds in each direction")
    found = asyncio.run(run(parser.parse_args()))
    print(HEADER)
    for row in found:
        print(row)
    quiet = [row for row in found if row.others <= QUIET]
    print(f"{len(quiet)} of {len(found)} rows were measured while other programs took {QUIET * 100:.0f} % or less.")
    for name, errors in (
        ("decoding", [abs(row.speed_error) for row in quiet]),
        ("first token", [abs(row.first_token_error) for row in quiet]),
    ):
        if not errors:
            continue
        within = sum(error <= 0.15 for error in errors)
        print(f"{name}: {within} of {len(errors)} within 15 %, the worst {max(errors) * 100:.0f} % off")


if __name__ == "__main__":
    main()

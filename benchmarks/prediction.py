"""Predicted against measured: decoding, the first token and memory, of three models over many plans and links.

    python benchmarks/prediction.py [--rounds 2] [--tokens 32] [--prompt 256] [--plans 1+1@5:small/bfloat16,1+1@5:...]

A plan is the threads of each agent, milliseconds by which each link between them is delayed, a model and a dtype. For
each of them the links are measured, the model is deployed and asked a few times, and what the runs say of prediction
and reality is printed: the median of the rounds. What earlier requests took corrects what later ones are told, so
beside that stands what the formulas alone would have said; and the first request of each plan, of whose kind nothing
had been seen. Memory is what the plan says of each agent's process beside what it holds when its cache is
full: the one that differs most is shown. Beside that stands what other programs took of the machine's cores meanwhile;
where that is more than a few percent, the error is theirs. Where links are delayed, each agent stands behind a TCP
proxy that holds back every byte so long in each direction.

The models: SmolLM2-135M (`small`), and two that are made on the spot with random numbers: `tiny` (11 M parameters) and
`large` (0.4 B).
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_args

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from app.controller import Controller
from app.inference.parameters import GenerationParameters
from app.inference.prompt import TokenPrompt
from app.models.demo import ensure_demo_model
from app.paths import Home
from app.registry import NodeRecord, Registry
from app.runs.foreseen import Comparison, compared, error_text
from app.runs.trace import Foreseen, RequestTrace, unpack
from app.serving import ServingWish
from worker_agent.wire.links import Endpoint
from worker_agent.wire.messages import ComputeDType

MODELS = {"small": "SmolLM2-135M-Instruct", "tiny": "tiny", "large": "large"}
SHAPES = {
    "tiny": (256, 768, 8, 4, 2, 8_000),
    "large": (1024, 2816, 28, 16, 8, 32_000),
}
"""Of models that are made: width, width within, layers, heads, heads of keys and values, vocabulary."""
MEASURING_SECONDS = 120.0
"""For all agents to have measured themselves: they take turns."""
QUIET = 0.05
PLANS = (
    "2:small/float32,2:small/bfloat16,2:large/bfloat16,"
    "1+1:small/bfloat16,1+1:large/float32,1+1@5:tiny/float32,1+1@5:large/bfloat16,1+1@20:small/float32,"
    "2+1:large/bfloat16,2+1@5:small/bfloat16,"
    "1+1+1:tiny/bfloat16,1+1+1:small/float32,1+1+1@5:small/bfloat16,1+1+1@20:large/bfloat16,"
    "1+1+1+1:small/bfloat16,1+1+1+1@5:large/float32,1+1+1+1@20:tiny/bfloat16"
)
CONTEXT, KV_TOKENS = 512, 640
"""So few that some answers fill the cache: what a plan says of memory is said of a full one."""


@dataclass(frozen=True)
class Case:
    """One plan in one dtype."""

    threads: tuple[int, ...]
    delay_ms: float
    model: str
    dtype: str

    @classmethod
    def read(cls, text: str) -> Case:
        """As `--plans` has it: 1+1@5:small/bfloat16."""
        where, _, what = text.partition(":")
        threads, _, delay = where.partition("@")
        model, _, dtype = what.partition("/")
        return cls(tuple(map(int, threads.split("+"))), float(delay or 0), model, dtype)


@dataclass(frozen=True)
class Found:
    """What was foreseen of a case, and what came."""

    foreseen: Foreseen
    first: Comparison
    later: tuple[Comparison, ...]
    memory: tuple[tuple[int, int], ...]
    """Of each agent's process: bytes that the plan said, and that it holds."""

    @property
    def memory_errors(self) -> list[float]:
        return [planned / held - 1 for planned, held in self.memory]


@dataclass(frozen=True)
class Row:
    """One case: medians of the rounds."""

    case: Case
    found: Found
    others: float
    """What other programs took of all cores meanwhile, 0 to 1."""

    @property
    def tokens_per_second(self) -> float:
        return statistics.median(each.tokens_per_second or 0.0 for each in self.found.later)

    @property
    def first_token_us(self) -> float:
        return statistics.median(each.first_token_us or 0 for each in self.found.later)

    @property
    def speed_error(self) -> float:
        """Of what each request was told, corrected by those before it."""
        return statistics.median(each.speed_error or 0.0 for each in self.found.later)

    @property
    def alone_error(self) -> float:
        """Of what the formulas say of decoding without any correction."""
        return self.found.foreseen.tokens_per_second * self.found.foreseen.correction / self.tokens_per_second - 1

    @property
    def first_token_error(self) -> float:
        return statistics.median(each.first_token_error or 0.0 for each in self.found.later)

    @property
    def memory_error(self) -> float:
        return max(self.found.memory_errors, key=abs)

    def __str__(self) -> str:
        case, foreseen = self.case, self.found.foreseen
        plan = f"{len(case.threads)} ({'+'.join(map(str, case.threads))})"
        planned, held = map(sum, zip(*self.found.memory, strict=True))
        alone = self.found.first
        return (
            f"| {plan} | {case.delay_ms:.0f} ms | {case.model}, {case.dtype} | {foreseen.tokens_per_second:.1f} "
            f"| {self.tokens_per_second:.1f} | {error_text(self.speed_error)} | {error_text(self.alone_error)} "
            f"| {foreseen.first_token_us / 1e3:.0f} ms | {self.first_token_us / 1e3:.0f} ms "
            f"| {error_text(self.first_token_error)} "
            f"| {error_text(alone.speed_error or 0.0)}, {error_text(alone.first_token_error or 0.0)} "
            f"| {planned / 1e6:.0f} MB | {held / 1e6:.0f} MB | {error_text(self.memory_error)} "
            f"| {self.others * 100:.0f} % |"
        )


HEADER = (
    "| agents (threads) | delay | model | tokens/s predicted at last | measured | error "
    "| of the formulas alone | first token predicted | measured "
    "| error | errors of the first request | memory planned | held | worst error | other programs |\n"
    "|" + " --- |" * 15
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


async def measured(controller: Controller, nodes: Sequence[NodeRecord], case: Case, options: Options) -> Found:
    """Plan, deploy, and ask `rounds` times after a first time that is told by itself."""
    model, ids = MODELS[case.model], [node.id for node in nodes]
    wish = ServingWish(dtype=case.dtype, context=CONTEXT, kv_tokens=KV_TOKENS)
    placement = await controller.plan(model, nodes=ids, serving=wish)
    planned = {each.node.node_id: each.memory for each in placement.processes}
    record = await controller.deploy(model, nodes=ids, serving=wish)
    told: list[Comparison] = []
    foreseen: Foreseen | None = None
    for number in range(options.rounds + 1):
        # Another beginning each time: nothing may come from the cache.
        asked = TokenPrompt(tuple(5 + (number * 7919 + place) % 1000 for place in range(options.prompt)))
        parameters = GenerationParameters(max_tokens=options.tokens, ignore_eos=True)
        answer = await (await controller.generate(model, asked, parameters)).wait()
        assert answer.error is None, answer.error
        content = await controller.registry.call(partial(_trace_of, answer.id))
        assert content is not None
        trace = unpack(content)
        assert isinstance(trace, RequestTrace)
        found = compared(trace)
        assert found is not None and not found.why_not, found
        foreseen = trace.foreseen
        told.append(found)
    held = {node.id: psutil.Process(node.local_pid).memory_info().rss for node in nodes}
    await controller.undeploy(record.id)
    assert foreseen is not None
    return Found(foreseen, told[0], tuple(told[1:]), tuple((planned[node], held[node]) for node in planned))


def _trace_of(request: int, known: Registry) -> bytes | None:
    return known.traces.get("request", str(request))


async def speeds_known(controller: Controller, nodes: Sequence[NodeRecord]) -> None:
    """Wait until every agent has measured itself in every dtype."""
    async with asyncio.timeout(MEASURING_SECONDS):
        while True:
            records = [controller.registry.nodes.get(node.id) for node in nodes]
            told = [record.capacities.get("speeds") for record in records]
            if all(isinstance(each, list) and len(each) >= len(get_args(ComputeDType)) for each in told):
                return
            await asyncio.sleep(0.2)


async def case_rows(
    controller: Controller, threads: tuple[int, ...], cases: Sequence[Case], options: Options
) -> list[Row]:
    """Start agents, measure what is asked for with one delay after the other, end them."""
    nodes: list[NodeRecord] = []
    found: list[Row] = []
    try:
        for count in threads:
            nodes += await controller.launch_local(1, threads=count, keep=False)
        await speeds_known(controller, nodes)
        for delay in dict.fromkeys(case.delay_ms for case in cases):
            proxies = [DelayingProxy(Endpoint(node.ip_address, node.port), delay / 1e3) for node in nodes if delay]
            async with contexts(proxies) as places:
                for node, place in zip(nodes, places, strict=False):
                    await controller.add_node(str(place), node.public_key)
                if len(nodes) > 1:
                    await controller.measure_links([node.id for node in nodes])
                for case in cases:
                    if case.delay_ms == delay:
                        others = OtherPrograms(nodes)
                        row = Row(case, await measured(controller, nodes, case, options), others.share())
                        print(row, flush=True)
                        found.append(row)
                for node, _ in zip(nodes, places, strict=False):  # back to where they are, so that they can be ended
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


def make_models(folder: Path, names: Sequence[str]) -> None:
    """Write models of random numbers. In a process of its own, which torch leaves with it."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    for name in names:
        width, within, layers, heads, kv_heads, vocabulary = SHAPES[name]
        config = LlamaConfig(
            vocab_size=vocabulary, hidden_size=width, intermediate_size=within, num_hidden_layers=layers,
            num_attention_heads=heads, num_key_value_heads=kv_heads, max_position_embeddings=2048,
            tie_word_embeddings=True,
        )  # fmt: skip
        AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder / name)


@dataclass(frozen=True)
class Options:
    """How much is asked of each plan."""

    rounds: int
    tokens: int
    prompt: int


async def run(cases: Sequence[Case], options: Options) -> list[Row]:
    root = Path(tempfile.mkdtemp(prefix="shardboard-prediction-"))
    home = Home(root=root, models=Path(os.environ.get("MODEL_CACHE_DIR") or root / "models")).create()
    controller = await Controller.open(home)
    found: list[Row] = []
    try:
        needed = {case.model for case in cases}
        if made := sorted(needed & SHAPES.keys()):
            maker = multiprocessing.get_context("spawn").Process(target=make_models, args=(root, made))
            maker.start()
            await asyncio.to_thread(maker.join)
            for name in made:
                await controller.add_model(str(root / name), name=MODELS[name])
        if "small" in needed:
            await asyncio.to_thread(ensure_demo_model, controller.library, dequantize=True)
        for threads in dict.fromkeys(case.threads for case in cases):
            found += await case_rows(controller, threads, [each for each in cases if each.threads == threads], options)
    finally:
        await controller.close()
        shutil.rmtree(root, ignore_errors=True)
    return found


def within(name: str, errors: Sequence[float], most: float) -> None:
    if errors:
        good = sum(abs(error) <= most for error in errors)
        worst = max(abs(error) for error in errors)
        typical = statistics.median(errors)
        print(
            f"{name}: {good} of {len(errors)} within {most * 100:.0f} %, the worst {worst * 100:.0f} % off, "
            f"half of them below {typical * 100:+.0f} %"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--plans", default=PLANS)
    asked = parser.parse_args()
    cases = [Case.read(text) for text in asked.plans.split(",")]
    print(HEADER, flush=True)
    found = asyncio.run(run(cases, Options(asked.rounds, asked.tokens, asked.prompt)))
    quiet = [row for row in found if row.others <= QUIET]
    print(f"\n{len(quiet)} of {len(found)} rows were measured while other programs took {QUIET * 100:.0f} % or less.")
    for title, rows in (("of these", quiet), ("of all", found)):
        within(f"decoding, {title}", [row.speed_error for row in rows], 0.15)
        within(f"decoding by the formulas alone, {title}", [row.alone_error for row in rows], 0.15)
        within(f"first token, {title}", [row.first_token_error for row in rows], 0.15)
        within(f"decoding of the first request, {title}", [row.found.first.speed_error or 0.0 for row in rows], 0.15)
        within(f"memory of each agent, {title}", [each for row in rows for each in row.found.memory_errors], 0.10)


if __name__ == "__main__":
    main()

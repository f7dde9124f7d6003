"""Decoding over two agents on loopback, against transformers' `generate` in one process with all cores.

    python benchmarks/decode.py [--rounds 5] [--tokens 64] [--large]

With SmolLM2-135M, or with a Llama shape of 1.17 B parameters and random weights (`--large`). Answers three questions,
for float32 and bfloat16: (a) one stream against the peer, in turns within one run; (b) eight streams at once against
one; (c) bytes on the wire per generated token and boundary, counted by a TCP proxy between the two agents (ZeroMQ's
framing, encryption and heartbeats included).
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from app.controller import Controller
from app.inference.parameters import GenerationParameters
from app.inference.prompt import TokenPrompt
from app.models.demo import ensure_demo_model
from app.paths import Home
from app.registry import NodeRecord, RequestRecord
from app.serving import ServingWish
from benchmarks.reference import PROMPT

MODEL = "SmolLM2-135M-Instruct"
LARGE = "llama-1b"
STREAMS = 8
ALLOWED_EXTRA_BYTES = 300
ITEM_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class DecodeFigures:
    """Medians over the rounds; tokens per second, bytes."""

    dtype: str
    peer: float
    one_stream: float
    ratio_to_peer: float
    """Median of the rounds' ratios: both were measured within seconds of each other."""
    ratios: tuple[float, ...]
    eight_streams: float
    ratio_of_eight: float
    wire_bytes: float
    wire_limit: int


@contextmanager
def peer(folder: Path, dtype: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(Path(__file__).with_name("reference.py")), str(folder), dtype, str(os.cpu_count())]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.wait()


async def ask_peer(process: subprocess.Popen[str], tokens: int) -> float:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{tokens}\n")
    process.stdin.flush()
    return float(await asyncio.to_thread(process.stdout.readline))


@dataclass
class CountingProxy:
    """Forwards TCP connections to an agent and counts what each sends to it."""

    port: int
    counts: dict[int, int] = field(default_factory=dict)

    async def serve(self) -> int:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        number = len(self.counts)
        self.counts[number] = 0
        onward_reader, onward_writer = await asyncio.open_connection("127.0.0.1", self.port)
        await asyncio.gather(
            self._pump(reader, onward_writer, number), self._pump(onward_reader, writer, None), return_exceptions=True
        )

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int | None) -> None:
        while data := await reader.read(65536):
            if number is not None:
                self.counts[number] += len(data)
            writer.write(data)
            await writer.drain()
        writer.close()


def make_large(folder: Path) -> None:
    """Write the large model, in bfloat16."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=49152, hidden_size=2048, intermediate_size=5632, num_hidden_layers=22, num_attention_heads=32,
        num_key_value_heads=4, head_dim=64, max_position_embeddings=2048, tie_word_embeddings=False,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder, max_shard_size="100GB")


async def add_model(controller: Controller, root: Path, *, large: bool) -> str:
    """The name of the model that is measured, which the library has from then on."""
    if not large:
        await asyncio.to_thread(ensure_demo_model, controller.library, dequantize=True)
        return MODEL
    # In a process of its own, which torch leaves with it.
    process = multiprocessing.get_context("spawn").Process(target=make_large, args=(root / "large",))
    process.start()
    await asyncio.to_thread(process.join)
    await controller.add_model(str(root / "large"), name=LARGE)
    return LARGE


async def measure(
    controller: Controller, model: str, nodes: list[NodeRecord], dtype: str, rounds: int, tokens: int
) -> DecodeFigures:
    folder = controller.library.get(model).path
    await controller.deploy(model, nodes=[node.id for node in nodes], serving=ServingWish(dtype=dtype))

    async def stream(count: int) -> RequestRecord:
        parameters = GenerationParameters(max_tokens=count, ignore_eos=True)
        record = await (await controller.generate(model, TokenPrompt(tuple(PROMPT)), parameters)).wait()
        assert record.error is None, record.error
        return record

    singles, peers, eights = [], [], []
    with peer(folder, dtype) as process:
        await stream(8)
        for _ in range(rounds):
            peers.append(await ask_peer(process, tokens))
            singles.append((await stream(tokens)).timings["tokens_per_second"])
            began = time.perf_counter()
            await asyncio.gather(*(stream(tokens) for _ in range(STREAMS)))
            eights.append(STREAMS * tokens / (time.perf_counter() - began))
    await controller.undeploy(model)
    wire = await count_bytes(controller, model, nodes, dtype, tokens)
    hidden = controller.library.get(model).hidden_size
    ratios = [ours / theirs for ours, theirs in zip(singles, peers, strict=True)]
    return DecodeFigures(
        dtype=dtype,
        peer=statistics.median(peers),
        one_stream=statistics.median(singles),
        ratio_to_peer=statistics.median(ratios),
        ratios=tuple(round(ratio, 3) for ratio in ratios),
        eight_streams=statistics.median(eights),
        ratio_of_eight=statistics.median(e / s for e, s in zip(eights, singles, strict=True)),
        wire_bytes=wire,
        wire_limit=hidden * ITEM_BYTES[dtype] + ALLOWED_EXTRA_BYTES,
    )


async def count_bytes(controller: Controller, model: str, nodes: list[NodeRecord], dtype: str, tokens: int) -> float:
    """Bytes that the first agent sends to the second per generated token."""
    second = controller.registry.nodes.get(nodes[1].id)
    proxy = CountingProxy(second.port)
    await controller.add_node(f"127.0.0.1:{await proxy.serve()}", second.public_key)
    try:
        await controller.deploy(model, nodes=[node.id for node in nodes], serving=ServingWish(dtype=dtype))
        parameters = GenerationParameters(max_tokens=3 * tokens, ignore_eos=True)
        run = await controller.generate(model, TokenPrompt(tuple(PROMPT)), parameters)
        marks: list[tuple[int, dict[int, int]]] = []
        ended = asyncio.create_task(run.wait())
        while not ended.done():  # not as its text comes: random weights say what no text is made of
            marks.append((len(run.token_ids), dict(proxy.counts)))
            await asyncio.wait((ended,), timeout=0.02)
        # From the tenth token on: the prompt is over. The ring's connection is the one that carried the most.
        (first, before), (last, after) = next(mark for mark in marks if mark[0] >= 10), marks[-1]
        return max((after[number] - before.get(number, 0)) / (last - first) for number in after)
    finally:
        await controller.undeploy(model)
        await controller.add_node(f"127.0.0.1:{second.port}", second.public_key)


async def run(rounds: int, tokens: int, *, large: bool = False) -> list[DecodeFigures]:
    """Measure both dtypes with two fresh agents."""
    root = Path(tempfile.mkdtemp(prefix="shardboard-decode-"))
    shared = None if large else os.environ.get("MODEL_CACHE_DIR")
    home = Home(root=root, models=Path(shared or root / "models")).create()
    controller = await Controller.open(home)
    nodes: list[NodeRecord] = []
    try:
        model = await add_model(controller, root, large=large)
        nodes = await controller.launch_local(2)
        return [await measure(controller, model, nodes, dtype, rounds, tokens) for dtype in ("float32", "bfloat16")]
    finally:
        for node in nodes:
            await controller.remove_node(str(node.id))
        await controller.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--large", action="store_true", help="the Llama shape instead of SmolLM2")
    options = parser.parse_args()
    for figures in asyncio.run(run(options.rounds, options.tokens, large=options.large)):
        print(
            f"{figures.dtype}: peer {figures.peer:.1f}, one stream {figures.one_stream:.1f} tokens/s "
            f"({figures.ratio_to_peer:.2f}x; {figures.ratios}), eight streams {figures.eight_streams:.1f} "
            f"({figures.ratio_of_eight:.1f}x), {figures.wire_bytes:.0f} bytes per token and boundary "
            f"(limit {figures.wire_limit})"
        )


if __name__ == "__main__":
    main()

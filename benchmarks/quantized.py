"""Weights in blocks over two agents on loopback: tokens per second and memory, against floats, in one run.

    python benchmarks/quantized.py [--model llama|smollm] [--rounds 3] [--tokens 32]

`llama` is a Llama shape of 1.17 B parameters with random weights; `smollm` the demo's model. Each is deployed from
floats in the compute dtype, quantized to int8 and int4, and from GGUF files (Q4_0, and the mixture called Q4_K_M; the
demo's own file), all by the same two agents; every round measures each in turn. Memory is what the agents' processes
hold more after a deployment is loaded, besides their base. Beside it stands how many of the matrices that could be in
blocks are: what became floats is no faster than floats.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import psutil

HIDDEN, INNER, LAYERS, HEADS, KV_HEADS, VOCABULARY = 2048, 5632, 22, 32, 4, 49_152
PROMPT = 512


def make_folder(folder: Path, dtype: str) -> Path:
    """The Llama shape as a Hugging Face folder of floats."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, head_dim=HIDDEN // HEADS,
        max_position_embeddings=2048, tie_word_embeddings=False,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).save_pretrained(folder)
    return folder


def make_gguf(path: Path, mixture: str) -> Path:
    """The Llama shape as a GGUF file with random blocks: `Q4_0`, or `Q4_K_M` as llama.cpp mixes it."""
    import numpy as np
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(2048)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCABULARY)
    chance = np.random.default_rng(3)

    def blocks(name: str, kind: str, rows: int, columns: int) -> None:
        type_ = GGMLQuantizationType[kind]
        weights, size = GGML_QUANT_SIZES[type_]
        data = chance.integers(0, 256, (rows, columns // weights, size), dtype=np.uint8)
        scales = {"Q4_0": {0: 4e-3}, "Q4_K": {0: 8e-5, 2: 4e-5}, "Q6_K": {208: 3e-5}}[kind]
        for at, value in scales.items():
            data[:, :, at : at + 2] = np.array([value], dtype=np.float16).view(np.uint8)
        if kind == "Q6_K":
            data[:, :, 192:208] = chance.integers(1, 32, (rows, columns // weights, 16), dtype=np.uint8)
        writer.add_tensor(f"{name}.weight", data.reshape(rows, -1), raw_dtype=type_)

    four = "Q4_0" if mixture == "Q4_0" else "Q4_K"
    six = "Q4_0" if mixture == "Q4_0" else "Q6_K"
    blocks("token_embd", four, VOCABULARY, HIDDEN)
    for number in range(LAYERS):
        name = f"blk.{number}."
        better = six if number < LAYERS // 8 or number >= 7 * LAYERS // 8 or number % 3 == 2 else four
        blocks(f"{name}attn_q", four, HIDDEN, HIDDEN)
        blocks(f"{name}attn_k", four, HIDDEN // HEADS * KV_HEADS, HIDDEN)
        blocks(f"{name}attn_v", better, HIDDEN // HEADS * KV_HEADS, HIDDEN)
        blocks(f"{name}attn_output", four, HIDDEN, HIDDEN)
        blocks(f"{name}ffn_gate", four, INNER, HIDDEN)
        blocks(f"{name}ffn_up", four, INNER, HIDDEN)
        blocks(f"{name}ffn_down", better, HIDDEN, INNER)
        writer.add_tensor(f"{name}attn_norm.weight", np.ones(HIDDEN, dtype=np.float32))
        writer.add_tensor(f"{name}ffn_norm.weight", np.ones(HIDDEN, dtype=np.float32))
    writer.add_tensor("output_norm.weight", np.ones(HIDDEN, dtype=np.float32))
    blocks("output", six, VOCABULARY, HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def variants(model: str, folder: Path, dtype: str) -> Iterator[tuple[str, Path, str, bool]]:
    """Name, source, what is quantized to, and whether a GGUF file's matrices become floats."""
    if model == "llama":
        floats = make_folder(folder / "floats", dtype)
        yield from ((name, floats, quantize, False) for name, quantize in
                    ((dtype, "none"), ("int8", "int8"), ("int4", "int4")))  # fmt: skip
        yield from ((name, make_gguf(folder / f"{name}.gguf", name), "none", False) for name in ("Q4_0", "Q4_K_M"))
        return
    from app.children.work import JobChain
    from app.models.demo import _from_package

    file = _from_package(folder, None, JobChain())
    yield from ((name, file, quantize, True) for name, quantize in
                ((dtype, "none"), ("int8", "int8"), ("int4", "int4")))  # fmt: skip
    yield "as stored", file, "none", False


def counted(stages: list[list[Any]], name: str) -> str:
    """How often a way is taken in all stages, out of how often it could be: 110 of 110."""
    found = [way for ways in stages for way in ways if way.name == name]
    return f"{sum(way.used for way in found)} of {sum(way.possible for way in found)}"


async def run(options: argparse.Namespace) -> None:
    from app.controller import Controller
    from app.inference.parameters import GenerationParameters
    from app.inference.prompt import TokenPrompt
    from app.paths import Home
    from app.runs.ways import lost_text
    from app.serving import ServingWish

    root = Path(tempfile.mkdtemp(prefix="shardboard-quantized-", dir=options.folder))
    controller = await Controller.open(Home(root=root / "home", models=root / "models").create())
    nodes = await controller.launch_local(2)
    agents = [psutil.Process(node.local_pid) for node in nodes if node.local_pid]
    chance = random.Random(7)

    def held() -> float:
        return sum(agent.memory_info().rss - getattr(agent.memory_info(), "shared", 0) for agent in agents) / 1e6

    async def ask(name: str, length: int, count: int) -> Any:
        prompt = TokenPrompt(tuple(chance.randrange(100, 40_000) for _ in range(length)))
        run = await controller.generate(name, prompt, GenerationParameters(max_tokens=count, ignore_eos=True))
        record = await run.wait()
        assert record.error is None, record.error
        return record

    async def ways_of(node: int, deployment: str, stage: int) -> list[Any]:
        """How a stage runs, once its agent has told; what could have been faster or smaller is shown at once."""
        while (told := controller.nodes.stage(node, deployment, stage)) is None:
            await asyncio.sleep(0.2)
        if missing := lost_text(told.ways):
            print(f"stage {stage}: {missing}", file=sys.stderr, flush=True)
        return list(told.ways)

    names: list[str] = []
    try:
        columns = ["weights", "stored, MB", "reckoned, MB", "agents hold more, MB", "sent and loaded in, s"]
        columns += ["in blocks", "recorded"]
        print(f"| {' | '.join(columns)} |\n| --- |{' --- |' * (len(columns) - 1)}")
        for name, source, quantize, dequantize in variants(options.model, root, options.dtype):
            if options.weights and name not in options.weights:
                continue
            if dequantize and names:  # the floats are there already
                source, dequantize = controller.library.get(names[0]).path, False
            await controller.add_model(str(source), name=name, dequantize=dequantize)
            size = sum(part.nbytes for part in controller.library.get(name).parts) / 1e6
            before, began = held(), time.monotonic()
            wish = ServingWish(dtype=options.dtype, context=1024, kv_tokens=4096, quantize=quantize)
            deployment = await controller.deploy(name, nodes=[node.id for node in nodes], serving=wish)
            seconds = time.monotonic() - began
            await ask(name, 16, 8)
            names.append(name)
            plan = await controller.plan(name, nodes=[node.id for node in nodes], serving=wish)
            reckoned = sum(stage.weight_bytes for stage in plan.stages) / 1e6
            grown = held() - before
            ways = [await ways_of(node.id, deployment.id, stage) for stage, node in enumerate(nodes)]
            counts = " | ".join(counted(ways, way) for way in ("blocks", "recorded"))
            print(f"| {name} | {size:.0f} | {reckoned:.0f} | {grown:.0f} | {seconds:.1f} | {counts} |", flush=True)
        figures: dict[str, dict[str, list[float]]] = {name: {} for name in names}
        for number in range(options.rounds):
            for streams in options.streams:
                for name in names:
                    began = time.perf_counter()
                    await asyncio.gather(*(ask(name, 10, options.tokens) for _ in range(streams)))
                    rate = streams * options.tokens / (time.perf_counter() - began)
                    figures[name].setdefault(f"{streams} streams, tokens/s", []).append(rate)
            for name in names:
                seconds = (await ask(name, PROMPT, 1)).timings["first_token"]
                figures[name].setdefault(f"prompt of {PROMPT}, s", []).append(seconds)
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
        columns = list(figures[names[0]])
        print(f"\n| weights | {' | '.join(columns)} |\n| --- |{' --- |' * len(columns)}")
        for name in names:
            cells = []
            for column in columns:
                ratio = statistics.median(
                    mine / first for mine, first in zip(figures[name][column], figures[names[0]][column], strict=True)
                )
                cells.append(f"{statistics.median(figures[name][column]):.3g} ({ratio:.2f}x)")
            print(f"| {name} | {' | '.join(cells)} |")
    finally:
        for node in nodes:
            await controller.remove_node(str(node.id))
        await controller.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("llama", "smollm"), default="llama")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--weights", nargs="+", help="only these, by their names in the table")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--folder", type=Path, default=Path(os.environ.get("TMPDIR") or tempfile.gettempdir()))
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()

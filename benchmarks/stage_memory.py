"""What agents take of memory while a stage is loaded, when it answers, and after it is gone, beside what was predicted.

    python benchmarks/stage_memory.py [--dtype bfloat16] [--layers 9] [--agents 1] [--rounds 10]

A Llama shape of 1.17 B parameters (hidden size 2048) with random weights, of which the first layers are deployed over
real agents again and again. Figures in MB, of the agent that has the most of them; ratios are to what the plan says
beforehand that the agent's process will hold: the peak and the end of loading, and after an answer (at most 1.10).
What is left after the stage is gone is told over the base, which is what the agent said of itself before (at most
50 MB more; round 10 within 5 % of round 1). The agents do not measure their speed meanwhile, which takes 300 MB for
moments. Reads `/proc`, so it runs on Linux alone.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from app.controller import Controller
from app.inference.parameters import GenerationParameters
from app.inference.prompt import TokenPrompt
from app.paths import Home
from app.registry import NodeRecord
from app.serving import ServingWish
from benchmarks.reference import PROMPT
from worker_agent.wire.messages import HealthReport

HIDDEN, INNER, VOCABULARY = 2048, 5632, 32000
BEGINNING_SECONDS = 8.0
"""By then an agent is ready for a first stage."""
NAME = "llama"
COLUMNS = (
    "round", "predicted", "weights", "peak", "loaded", "answered", "peak / predicted", "loaded / predicted",
    "answered / predicted", "believed when answered", "after, less base",
)  # fmt: skip
SETTLING_SECONDS = 3.0
"""Agents sample their figures once a second."""


def make(folder: Path, dtype: str, layers: int) -> None:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=HIDDEN, intermediate_size=INNER, num_hidden_layers=layers,
        num_attention_heads=32, num_key_value_heads=4, head_dim=64, max_position_embeddings=2048,
        tie_word_embeddings=False,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype))
    model.save_pretrained(folder / "model", max_shard_size="100GB")


def figure(process: int, name: str) -> float:
    """MB of a process, by its name in /proc/…/status."""
    for line in Path(f"/proc/{process}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise SystemExit(f"/proc/{process}/status has no {name}")


def told(controller: Controller, node: NodeRecord) -> HealthReport:
    """What an agent said last."""
    health = controller.nodes.health.latest(node.id)
    assert health is not None
    return health.report


async def measure(controller: Controller, folder: Path, dtype: str, agents: int, rounds: int) -> None:
    await controller.add_model(str(folder), name=NAME)
    nodes = await controller.launch_local(agents)
    ids, serving = [node.id for node in nodes], ServingWish(dtype=dtype, context=512, kv_tokens=512)
    processes = await asyncio.to_thread(_processes, controller, nodes)
    try:
        await asyncio.sleep(BEGINNING_SECONDS)
        bases = [told(controller, node).memory_base / 1e6 for node in nodes]
        print(f"bases {', '.join(f'{base:.0f}' for base in bases)} MB")
        print(
            "| round | predicted | weights | peak | loaded | answered | peak / … | loaded / … | answered / … |", end=""
        )
        print(" believed when answered | after, less base |\n|" + " --- |" * 11)
        first = [0.0] * agents
        for number in range(1, rounds + 1):
            placement = await controller.plan(NAME, nodes=ids, serving=serving)
            plans = {process.node.node_id: process for process in placement.processes}
            for process in processes:
                Path(f"/proc/{process}/clear_refs").write_text("5")  # the peak counts from here
            await controller.deploy(NAME, nodes=ids, serving=serving)
            peaks = [figure(process, "VmHWM") for process in processes]
            loaded = [figure(process, "VmRSS") for process in processes]
            run = await controller.generate(NAME, TokenPrompt(tuple(PROMPT)), GenerationParameters(max_tokens=8))
            record = await run.wait()
            assert record.error is None, record.error
            await asyncio.sleep(SETTLING_SECONDS)
            answered = [figure(process, "VmRSS") for process in processes]
            believed = [told(controller, node).memory_held / 1e6 for node in nodes]
            await controller.undeploy(NAME)
            await asyncio.sleep(SETTLING_SECONDS)
            after = [figure(process, "VmRSS") for process in processes]
            first = after if number == 1 else first
            predicted = [plans[node].memory / 1e6 for node in ids]
            most = max(range(agents), key=lambda index: peaks[index] / predicted[index])
            figures = [each[most] for each in (predicted, peaks, loaded, answered)]
            print(
                f"| {number} | {figures[0]:.0f} | {plans[ids[most]].weight_bytes / 1e6:.0f} | "
                + " | ".join(f"{each:.0f}" for each in figures[1:])
                + " | "
                + " | ".join(f"{each / figures[0]:.3f}" for each in figures[1:])
                + f" | {believed[most]:.0f} | {max(a - b for a, b in zip(after, bases, strict=True)):.0f} |",
                flush=True,
            )
        print(
            f"after the last round {max(a / b for a, b in zip(after, first, strict=True)):.3f} of after the first one"
        )
    finally:
        for node in nodes:
            await controller.remove_node(str(node.id))


def _processes(controller: Controller, nodes: list[NodeRecord]) -> list[int]:
    """The agents' process ids: those that listen on the nodes' ports."""
    import psutil

    ports = [controller.registry.nodes.get(node.id).port for node in nodes]
    listening = {each.laddr.port: each.pid for each in psutil.net_connections("tcp") if each.status == "LISTEN"}
    return [listening[port] or 0 for port in ports]


async def run(folder: Path, options: argparse.Namespace) -> None:
    os.environ["SHARDBOARD_SPEED"] = "0"
    controller = await Controller.open(Home(root=folder / "home", models=folder / "models").create())
    try:
        await measure(controller, folder / "model", options.dtype, options.agents, options.rounds)
    finally:
        await controller.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--layers", type=int, default=9)
    parser.add_argument("--agents", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In a process of its own, which torch leaves with it.
        process = multiprocessing.get_context("spawn").Process(
            target=make, args=(folder, options.dtype, options.layers)
        )
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(process.exitcode)
        asyncio.run(run(folder, options))


if __name__ == "__main__":
    main()

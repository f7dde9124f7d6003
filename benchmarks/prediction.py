"""Predicted against measured speed of SmolLM2 over two agents of this machine, and on one.

    python benchmarks/prediction.py [--rounds 5] [--tokens 64] [--prompt 256]

The constants of app/sharding/prediction.py were fitted to what this prints.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from app.controller import Controller
from app.inference.parameters import GenerationParameters
from app.inference.prompt import TokenPrompt
from app.models.demo import ensure_demo_model
from app.paths import Home
from app.registry import NodeRecord, RequestRecord
from app.serving import ServingWish
from app.sharding.prediction import Prediction, predict, speed_of

MODEL = "SmolLM2-135M-Instruct"
MEASURING_SECONDS = 12.0


@dataclass(frozen=True)
class Comparison:
    dtype: str
    stages: int
    predicted: Prediction
    tokens_per_second: float
    first_token_seconds: float

    def __str__(self) -> str:
        speed, first = self.predicted.tokens_per_second, self.predicted.first_token_seconds
        return (
            f"{self.dtype}, {self.stages} stages: {speed:.1f} tokens/s predicted, "
            f"{self.tokens_per_second:.1f} measured ({speed / self.tokens_per_second:.2f}x); "
            f"first token of {self.predicted.prompt_tokens} after {first * 1e3:.0f} ms predicted, "
            f"{self.first_token_seconds * 1e3:.0f} ms measured ({first / self.first_token_seconds:.2f}x)"
        )


async def compare(
    controller: Controller, nodes: list[NodeRecord], dtype: str, rounds: int, tokens: int, prompt: int
) -> Comparison:
    deployed = await controller.deploy(MODEL, nodes=[node.id for node in nodes], serving=ServingWish(dtype=dtype))
    stages = []
    for shard in controller.registry.shards.list(deployment_id=deployed.id):
        assert shard.node_id is not None
        speed = speed_of(controller.registry.nodes.get(shard.node_id).capacities, dtype, 0.0)
        assert speed is not None
        stages.append((shard.start_layer, shard.end_layer, speed))
    predicted = predict(controller.library.get(MODEL), stages, dtype=dtype, same_machine=True, prompt_tokens=prompt)

    async def run() -> RequestRecord:
        ids = [5 + number % 1000 for number in range(prompt)]
        parameters = GenerationParameters(max_tokens=tokens, ignore_eos=True)
        record = await (await controller.generate(MODEL, TokenPrompt(tuple(ids)), parameters)).wait()
        assert record.error is None, record.error
        return record

    await run()
    records = [await run() for _ in range(rounds)]
    await controller.undeploy(MODEL)
    return Comparison(
        dtype,
        len(stages),
        predicted,
        statistics.median(record.timings["tokens_per_second"] for record in records),
        statistics.median(record.timings["first_token"] - record.timings["prepare"] for record in records),
    )


async def run(rounds: int, tokens: int, prompt: int) -> None:
    root = Path(tempfile.mkdtemp(prefix="shardboard-prediction-"))
    home = Home(root=root, models=Path(os.environ.get("MODEL_CACHE_DIR") or root / "models")).create()
    controller = await Controller.open(home)
    nodes: list[NodeRecord] = []
    try:
        await asyncio.to_thread(ensure_demo_model, controller.library, dequantize=True)
        nodes = await controller.launch_local(2, keep=False)
        await asyncio.sleep(MEASURING_SECONDS)
        for node in controller.registry.nodes.list():
            print(node.hostname, node.capacities["speeds"])
        for dtype in ("float32", "bfloat16"):
            for count in (1, 2):
                print(await compare(controller, nodes[:count], dtype, rounds, tokens, prompt))
    finally:
        for node in nodes:
            await controller.remove_node(str(node.id))
        await controller.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--prompt", type=int, default=256)
    options = parser.parse_args()
    asyncio.run(run(options.rounds, options.tokens, options.prompt))


if __name__ == "__main__":
    main()

"""Many streams over two agents on loopback, one code against another: tokens per second, prompts, second turns.

    python benchmarks/streams.py [--against OTHER_CHECKOUT] [--rounds 3] [--tokens 48] [--dtype bfloat16]
                                 [--only NAME ...]

Each checkout runs in a process of its own with agents of its own; both stay up, and measure one figure after another in
turns: a machine whose memory is half as fast a minute later slows both alike. Prompts are random and unlike, so that
none begins as another did; but the second turn of a chat begins as its first one ended.
"""

from __future__ import annotations

import argparse
import asyncio
import inspect
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
MODEL = "SmolLM2-135M-Instruct"
FIGURES = ("1", "2", "4", "8", "16", "32", "prompt-10", "prompt-100", "prompt-500", "chat", "beside")
"""Streams at a time, prompts of about so many tokens (no two alike), the two turns of a chat, a short chat beside one
without a limit."""
TURN = 2000
"""Tokens of a chat before its second turn."""


async def serve(dtype: str, tokens: int) -> None:
    """Measure the figure that each line on standard input names (`FIGURES`); a line of JSON each."""
    from app.controller import Controller
    from app.inference.parameters import GenerationParameters
    from app.inference.prompt import TokenPrompt
    from app.models.demo import ensure_demo_model
    from app.paths import Home
    from app.serving import ServingWish

    root = Path(tempfile.mkdtemp(prefix="shardboard-streams-"))
    models = Path(os.environ.get("MODEL_CACHE_DIR") or root / "models")
    controller = await Controller.open(Home(root=root / "home", models=models).create())
    # Code of before it could run as it is stored made floats of it anyway.
    floats = {"dequantize": True} if "dequantize" in inspect.signature(ensure_demo_model).parameters else {}
    await asyncio.to_thread(ensure_demo_model, controller.library, **floats)
    nodes = await controller.launch_local(2)
    chance = random.Random(7)

    def prompt(length: int) -> tuple[int, ...]:
        return tuple(chance.randrange(100, 40_000) for _ in range(length))

    async def ask(given: tuple[int, ...], count: int) -> Any:
        parameters = GenerationParameters(max_tokens=count, ignore_eos=True)
        record = await (await controller.generate(MODEL, TokenPrompt(given), parameters)).wait()
        assert record.error is None, record.error
        return record

    async def beside() -> float:
        endless = GenerationParameters(max_tokens=None, ignore_eos=True)
        long = await controller.generate(MODEL, TokenPrompt(prompt(10)), endless)
        while not long.token_ids:
            await asyncio.sleep(0.005)
        short = asyncio.ensure_future(ask(prompt(10), 4))
        # Where all memory is set aside for the long one, the short one begins when that has ended.
        await asyncio.wait({short}, timeout=8.0)
        await long.cancel()
        return float((await short).timings["first_token"])

    try:
        await controller.deploy(
            MODEL, nodes=[node.id for node in nodes], serving=ServingWish(dtype=dtype, kv_tokens=16_384)
        )
        await ask(prompt(10), 8)
        print("ready", flush=True)
        for line in sys.stdin:
            name = line.strip()
            if name == "chat":
                chat = prompt(TURN)
                first = await ask(chat, 2)
                second = await ask((*chat, *first.token_ids, *prompt(20)), 2)
                figures = {
                    f"chat of {TURN}, first turn, s": first.timings["first_token"],
                    f"chat of {TURN}, second turn, s": second.timings["first_token"],
                }
            elif name == "beside":
                figures = {"short chat beside one without a limit, first token, s": await beside()}
            elif name.startswith("prompt-"):
                length = int(name.removeprefix("prompt-"))
                unlike = length + chance.randrange(-length // 10, length // 10 + 1)
                figures = {f"prompt of about {length}, s": (await ask(prompt(unlike), 1)).timings["first_token"]}
            else:
                streams = int(name)
                began = time.perf_counter()
                await asyncio.gather(*(ask(prompt(10), tokens) for _ in range(streams)))
                figures = {f"{streams} streams, tokens/s": streams * tokens / (time.perf_counter() - began)}
            print(json.dumps(figures), flush=True)
    finally:
        for node in nodes:
            await controller.remove_node(str(node.id))
        await controller.close()


class Checkout:
    """The code of one folder, ready to measure."""

    def __init__(self, folder: Path, dtype: str, tokens: int) -> None:
        command = [sys.executable, "-P", str(Path(__file__)), "--serve", "--dtype", dtype, "--tokens", str(tokens)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder,
            env={**os.environ, "PYTHONPATH": str(folder)},
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def measure(self, name: str) -> dict[str, float]:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())  # type: ignore[no-any-return]

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--only", nargs="+", choices=FIGURES, default=FIGURES)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(options.dtype, options.tokens))
        return
    folders = [HERE, *([options.against.resolve()] if options.against else [])]
    checkouts = [Checkout(folder, options.dtype, options.tokens) for folder in folders]
    try:
        rounds = []
        for number in range(options.rounds):
            measured: list[dict[str, float]] = [{} for _ in checkouts]
            for name in options.only:
                # Who begins alternates: what the other has left in the caches is nobody's advantage.
                for place, checkout in list(enumerate(checkouts))[:: -1 if number % 2 else 1]:
                    measured[place].update(checkout.measure(name))
            rounds.append(measured)
            print(f"round {number + 1} of {options.rounds}", file=sys.stderr, flush=True)
    finally:
        for checkout in checkouts:
            checkout.close()
    for name in rounds[0][0]:
        medians = [statistics.median(each[number][name] for each in rounds) for number in range(len(folders))]
        line = f"{name}: {medians[0]:.3g}"
        if len(medians) > 1:
            ratio = statistics.median(each[0][name] / each[1][name] for each in rounds)
            line += f", other {medians[1]:.3g}, ratio {ratio:.2f}"
        print(line)


if __name__ == "__main__":
    main()

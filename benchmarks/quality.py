"""What numbers cost: the demo's model as its file has it, in int8 and int4, against its floats, over two agents.

    python benchmarks/quality.py [--only stored floats int8 int4 kv]

Perplexity and greedy tokens are measured as `model measure` does; beside it transformers computes the same text with
the dequantized weights in this process, and goes on from the same passages. float32 throughout.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from msgspec.structs import replace

from app.inference.measuring import ANSWER_TOKENS, GREEDY, Passages, cut_up, read_text
from app.inference.tokenizer import Tokenizer

ROWS = ["stored", "floats", "int8", "int4", "kv"]
MOST = 8192
"""Tokens that the demo's model reads."""


def passages(folder: Path) -> Passages:
    return cut_up(read_text(), Tokenizer.open(folder), MOST)


def transformers_figures(folder: Path) -> tuple[int, float, list[list[int]]]:
    """Tokens predicted, perplexity, and the greedy answers of the whole model."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    text = passages(folder)
    count, nats, skipped = 0, 0.0, max(1, len(text.beginning))
    with torch.inference_mode():
        for window in text.windows:
            tokens = torch.tensor(window)
            scores = torch.log_softmax(model(tokens[None]).logits[0].double(), dim=-1)
            nats -= float(scores[skipped - 1 : -1].gather(1, tokens[skipped:, None]).sum())
            count += len(tokens) - skipped
        found = [
            model.generate(
                torch.tensor([opening]), attention_mask=torch.ones(1, len(opening), dtype=torch.long),
                max_new_tokens=ANSWER_TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0,
            )[0, len(opening) :].tolist()
            for opening in text.openings
        ]  # fmt: skip
    return count, math.exp(nats / count), found


async def run(folder: Path, only: list[str]) -> None:
    from app.children.work import JobChain
    from app.controller import Controller
    from app.inference.prompt import TokenPrompt
    from app.models.demo import _from_package
    from app.paths import Home
    from app.runs.measured import measured_text
    from app.serving import ServingWish

    controller = await Controller.open(Home(root=folder / "home", models=folder / "models").create())
    try:
        nodes = await controller.launch_local(2)
        file = await asyncio.to_thread(_from_package, folder, None, JobChain())
        await controller.add_model(str(file), name="stored")
        floats = await controller.add_model(str(file), name="floats", dequantize=True)
        count, reference, answers = await asyncio.to_thread(transformers_figures, floats.path)
        print(f"transformers, dequantized, float32: perplexity {reference:.4f} over {count} tokens")
        ids = [node.id for node in nodes]
        deployed = await controller.deploy("floats", nodes=ids, serving=ServingWish("float32", 1024, 4096))
        rows = {
            "stored": ServingWish("float32"),
            "floats": ServingWish("float32"),
            "int8": ServingWish("float32", quantize="int8"),
            "int4": ServingWish("float32", quantize="int4"),
            "kv": ServingWish("float32", kv_dtype="int8"),
        }
        for row, wish in rows.items():
            if row not in only:
                continue
            name, against = ("stored", "floats") if row == "stored" else ("floats", None)
            began = time.monotonic()
            record = await controller.measure_model(name, nodes=ids, serving=wish, against=against)
            off = 100 * (record.perplexity / reference - 1)
            print(
                f"{name}, {record.serving.numbers}: {measured_text(record)}; {off:+.3f} % of transformers' perplexity; "
                f"{time.monotonic() - began:.0f} s",
                flush=True,
            )
        await controller.undeploy(deployed.id)
        stored = await controller.deploy("stored", nodes=ids, serving=ServingWish("float32", 1024, 4096))
        same, total = 0, 0
        for opening, answer in zip(passages(floats.path).openings, answers, strict=True):
            request = await controller.generate("stored", TokenPrompt(opening), replace(GREEDY, max_tokens=len(answer)))
            record = await request.wait()
            same += sum(one == other for one, other in zip(record.token_ids, answer, strict=True))
            total += len(answer)
        print(f"stored, going on by itself: {same} of {total} tokens are those of transformers' generate")
        await controller.undeploy(stored.id)
    finally:
        for node in await controller.list_nodes():
            await controller.remove_node(str(node.id))
        await controller.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=ROWS, choices=ROWS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shardboard-quality-") as folder:
        asyncio.run(run(Path(folder), options.only))


if __name__ == "__main__":
    main()

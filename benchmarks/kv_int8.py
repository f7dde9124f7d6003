"""Keys and values in 8 bits against as they are computed: bytes of a token, time of a step, and what it costs.

    python benchmarks/kv_int8.py MODEL_FOLDER [--dtypes float32,bfloat16] [--rounds 5] [--steps 6]
        [--threads 1] [--alone]

The model, a Hugging Face folder with its tokenizer, runs whole in this process. Rows are random numbers, so that a
context of thousands of tokens need not be computed; then steps of one token alone, both ways in turns. Told are CPU
seconds, which mind less who else is at work: medians of the rounds, and the median of the rounds' ratios. What it
costs is measured over a text, this project's README: how far logits differ (RMS, relative to their size), for how
many tokens the likeliest next one is the same, and the loss over the text's own next tokens. With --alone each sequence
has a pass of its own, with transformers' own cache, as models have it whose sequences cannot share a pass.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

CONTEXTS = (64, 512, 4096)
TEXT = 768
"""Tokens of the text."""
WAYS = ("computed", "int8")


def loaded(folder: Path, parts: Path, dtype: str, threads: int, alone: bool) -> Any:
    """A stage that holds the whole model."""
    import torch

    from tests.models.described import cut_as_added
    from tests.worker_agent.ring import load_message
    from worker_agent.engine import loading
    from worker_agent.engine.runtime import Runtime

    cut = cut_as_added(folder, parts)
    layers = cut.anatomy.num_layers
    room = max(CONTEXTS) + 64
    message = load_message(
        cut, 0, layers, 0, 1, dtype=dtype, max_context=room, kv_tokens=room, max_sequences=2, kv_dtype="int8"
    )
    if alone:
        examine = loading.examine_once
        loading.examine_once = lambda *given: dataclasses.replace(examine(*given), batched=False)
    stage = loading.load_stage(
        message, cut.config, cut.parts_for(0, layers), lambda digest: cut.folder / digest,
        Runtime("cpu", threads, threads), 10**12, lambda done, total: None,
    )  # fmt: skip
    torch.set_num_threads(threads)
    return stage


def executor(stage: Any, way: str) -> Any:
    """The stage with rows kept in this way."""
    from worker_agent.engine.executor import Executor

    stage.kv_dtype = way
    return Executor(stage)


def filled(made: Any, number: int, tokens: int) -> None:
    """Begin a sequence, with rows of random numbers."""
    import torch

    from worker_agent.engine.executor import Admitted, StepPlan, Turn

    made.step(StepPlan((Turn(number, 0, 1, range(1)),), torch.tensor([1]), admitted=(Admitted(number, tokens),)))
    state = made.memory[number]
    shapes = {} if made.stage.batched else {each: state.cache.layers[each].keys.shape for each in state.cache.indices()}
    state.truncate(0)
    with torch.inference_mode():
        for layer, (_, heads, _, width) in shapes.items():
            state.cache.update(*torch.randn(2, 1, heads, tokens, width).to(made.stage.dtype), layer)
        for layer, kept in list(state._rows.items()) if made.stage.batched else ():
            rows = torch.randn(2, kept[0].shape[1], tokens, kept[0].shape[3]).to(made.stage.dtype)
            state._fill(layer, made._rows.as_kept(*rows))
    state.length = tokens


def seconds(made: Any, number: int, tokens: int, steps: int) -> float:
    """CPU seconds of a step of one token behind so many."""
    import torch

    from worker_agent.engine.executor import StepPlan, Turn

    began = time.process_time()
    for _ in range(steps):
        made.step(StepPlan((Turn(number, tokens, 1, range(1)),), torch.tensor([5])))
    return (time.process_time() - began) / steps


def over_text(made: Any, ids: list[int]) -> Any:
    """Logits after each token of a text, which comes in pieces."""
    import torch

    from worker_agent.engine.executor import Admitted, StepPlan, Turn

    outputs = []
    for start in range(0, len(ids), 128):
        piece = ids[start : start + 128]
        admitted = (Admitted(1, len(ids)),) if not start else ()
        turn = Turn(1, start, len(piece), range(len(piece)))
        outputs.append(made.step(StepPlan((turn,), torch.tensor(piece), admitted=admitted)).float())
    return torch.cat(outputs)


def tell_cost(stage: Any, folder: Path) -> None:
    import torch
    from tokenizers import Tokenizer

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    ids = Tokenizer.from_file(str(folder / "tokenizer.json")).encode(text).ids[:TEXT]
    exact, found = (over_text(executor(stage, way), ids) for way in WAYS)
    error = float((found - exact).norm() / exact.norm())
    same = float((found.argmax(-1) == exact.argmax(-1)).float().mean())
    following = torch.tensor(ids[1:])
    losses = [float(torch.nn.functional.cross_entropy(each[:-1], following)) for each in (exact, found)]
    print(
        f"  {len(ids)} tokens of text: logits {100 * error:.2f} % off (at loading {100 * stage.kv_error:.2f} %), "
        f"likeliest token the same {100 * same:.1f} %, loss {losses[0]:.4f} and {losses[1]:.4f}",
        flush=True,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--alone", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="shardboard-kv-") as parts:
        for dtype in options.dtypes.split(","):
            stage = loaded(options.folder, Path(parts, dtype), dtype, options.threads, options.alone)
            token = {}
            for way in WAYS:
                stage.kv_dtype = way
                token[way] = stage.kv_bytes // stage.load.kv_tokens
            print(f"{dtype}: {token['computed']:,} bytes a token, in int8 {token['int8']:,}", flush=True)
            tell_cost(stage, options.folder)
            ways = {way: executor(stage, way) for way in WAYS}
            for number, tokens in enumerate(CONTEXTS, start=1):
                times: dict[str, list[float]] = {way: [] for way in WAYS}
                for way in WAYS:
                    filled(ways[way], number, tokens)
                    seconds(ways[way], number, tokens, 2)
                for _ in range(options.rounds):
                    for way in WAYS:
                        times[way].append(seconds(ways[way], number, tokens, options.steps))
                ratio = statistics.median(b / a for a, b in zip(*times.values(), strict=True))
                medians = {way: 1000 * statistics.median(each) for way, each in times.items()}
                print(
                    f"  {tokens} tokens: {medians['computed']:.1f} ms a step, in int8 {medians['int8']:.1f} ms, "
                    f"ratio {ratio:.2f}",
                    flush=True,
                )
                for each in ways.values():
                    each.clear()


if __name__ == "__main__":
    main()

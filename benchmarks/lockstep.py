"""Several sequences of a model whose attention cannot be replaced: each alone against in lockstep, in turns.

    python benchmarks/lockstep.py [falcon bloom …] [--dtype float32] [--rounds 5] [--tokens 16] [--threads 2]

A model of some 110 million random parameters runs whole in this process, as one stage. Before: each sequence of a step
has a pass by itself. After: they go side by side and share what treats each token by itself (`engine/lockstep.py`).
Both take turns within a round; what is told is the median of the rounds, and of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

STREAMS = (1, 4, 8)
PROMPT = 20
SHAPE = {"hidden_size": 768, "vocab_size": 32_000, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SHAPES: dict[str, dict[str, Any]] = {
    "falcon": {
        "num_hidden_layers": 12, "num_attention_heads": 12, "new_decoder_architecture": False, "multi_query": True,
        "alibi": False, "parallel_attn": True, "bias": False,
    },
    "bloom": {"n_layer": 12, "n_head": 12},
    "bamba": {
        "num_hidden_layers": 12, "num_attention_heads": 12, "num_key_value_heads": 4, "intermediate_size": 2048,
        "attn_layer_indices": [3, 7, 11], "mamba_n_heads": 24, "mamba_d_head": 64, "mamba_d_state": 64,
    },
}  # fmt: skip


def loaded(model_type: str, dtype: str, threads: int) -> Any:
    """A stage that holds the whole model."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from tests.worker_agent.ring import cut_model, load_message
    from worker_agent.engine.loading import load_stage
    from worker_agent.engine.runtime import Runtime

    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[model_type](**SHAPE, **SHAPES[model_type]))
    millions = model.num_parameters() / 1e6
    with tempfile.TemporaryDirectory(prefix="shardboard-lockstep-") as folder:
        model.to(getattr(torch, dtype)).save_pretrained(f"{folder}/model")
        del model
        cut = cut_model(Path(folder, "model"), Path(folder, "parts"))
        layers = cut.anatomy.num_layers
        message = load_message(cut, 0, layers, 0, 1, dtype=dtype, max_context=1024)
        stage = load_stage(
            message, cut.config, cut.parts_for(0, layers), lambda digest: cut.folder / digest,
            Runtime("cpu", threads, threads), 10**12, lambda done, total: None,
        )  # fmt: skip
    torch.set_num_threads(threads)
    print(f"{model_type}, {millions:.0f} M parameters, {dtype}: {stage.ways}", flush=True)
    return stage


def speed(stage: Any, streams: int, tokens: int) -> float:
    """Tokens per second of so many sequences that decode together."""
    import torch

    from worker_agent.engine.executor import Admitted, Executor, StepPlan, Turn

    executor = Executor(stage)
    last = range(PROMPT - 1, PROMPT)
    for number in range(streams):
        prompt = torch.arange(PROMPT) + 7 * number
        executor.step(StepPlan((Turn(number, 0, PROMPT, last),), prompt, admitted=(Admitted(number, PROMPT),)))
    began = time.perf_counter()
    given = torch.arange(streams)
    for position in range(PROMPT, PROMPT + tokens):
        turns = tuple(Turn(number, position, 1, range(1)) for number in range(streams))
        given = executor.step(StepPlan(turns, given)).argmax(-1)
    taken = time.perf_counter() - began
    executor.close()
    return streams * tokens / taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("types", nargs="*", metavar="TYPE", help=", ".join(SHAPES))
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    from worker_agent.engine.lockstep import Lockstep

    print(
        "| type | sequences | alone, tokens/s | lockstep, tokens/s | ratio |",
        "| --- | --- | --- | --- | --- |",
        sep="\n",
    )
    for model_type in options.types or SHAPES:
        stage = loaded(model_type, options.dtype, options.threads)
        together, alone = stage.lockstep, Lockstep()
        for streams in STREAMS:
            found: list[tuple[float, float]] = []
            for _ in range(options.rounds):
                pair = []
                for stage.lockstep in (alone, together):
                    pair.append(speed(stage, streams, options.tokens))
                found.append((pair[0], pair[1]))
            before, after = (statistics.median(each) for each in zip(*found, strict=True))
            ratio = statistics.median(after / before for before, after in found)
            print(f"| {model_type} | {streams} | {before:.1f} | {after:.1f} | {ratio:.2f} |", flush=True)
        stage.close()


if __name__ == "__main__":
    main()

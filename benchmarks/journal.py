"""What it costs to keep a journal of what goes to the next stage, while tokens are decoded.

    python benchmarks/journal.py [--rounds 9] [--tokens 24] [--dtype bfloat16] [--layers 12]

A llama of SmolLM2-135M's shape with random weights runs as two stages in this process, one thread each, with the
journal and without in turns; what is told is CPU time for each token, the median of the rounds and of their ratios, and
how large the journal grew. A whole step is counted, both stages and what goes between them; of one stage alone the
share would be twice as large.
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

STREAMS = (1, 8, 32)
PROMPT = 20
SHAPE = {
    "vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9,
    "num_key_value_heads": 3, "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": None, "pad_token_id": 0,
}  # fmt: skip


def ring(dtype: str, layers: int) -> Any:
    """Two stages of half the layers each."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    from tests.worker_agent.ring import Ring, cut_model

    torch.manual_seed(1)
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING["llama"](**SHAPE, num_hidden_layers=layers))
    with tempfile.TemporaryDirectory(prefix="shardboard-journal-") as folder:
        model.to(getattr(torch, dtype)).save_pretrained(f"{folder}/model")
        del model
        cut = cut_model(Path(folder, "model"), Path(folder, "parts"))
        return Ring.build(cut, [layers // 2], dtype=dtype, kv_tokens=32_768, lanes=1)


def cpu_per_token(ring: Any, streams: int, tokens: int, journal: bool) -> tuple[float, int]:
    """Seconds of CPU time for each token of so many sequences that decode together, and bytes of the journal."""
    from worker_agent.engine.journal import Journal

    first = ring.runners[0]
    first._journal = Journal(10**9) if journal else None
    ring.link()
    for number in range(streams):
        ring.start(number, [3 + number + place for place in range(PROMPT)], tokens + 8)
    ring.tokens.clear()
    while not all(len(ring.tokens[number]) >= 3 for number in range(streams)):
        ring.turn()
    began, before = time.process_time(), len(ring.tokens[0])
    while len(ring.tokens[0]) < before + tokens:
        ring.turn()
    taken = time.process_time() - began
    return taken / tokens / streams, first._journal.nbytes if journal else 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--layers", type=int, default=12)
    options = parser.parse_args()
    made = ring(options.dtype, options.layers)
    print(
        "| sequences | without, ms CPU/token | with, ms CPU/token | ratio (quartiles) | journal, bytes/token |",
        "| --- | --- | --- | --- | --- |",
        sep="\n",
    )
    for streams in STREAMS:
        cpu_per_token(made, streams, options.tokens, True)
        found: list[dict[bool, float]] = []
        size = 0.0
        for turn in range(options.rounds):
            pair = {}
            for journal in (bool(turn % 2), not turn % 2):  # who goes first changes
                pair[journal], nbytes = cpu_per_token(made, streams, options.tokens, journal)
                size = max(size, nbytes / streams / (PROMPT + options.tokens))
            found.append(pair)
        without, kept = (statistics.median(pair[which] for pair in found) * 1e3 for which in (False, True))
        low, middle, high = statistics.quantiles([pair[True] / pair[False] for pair in found], n=4)
        print(
            f"| {streams} | {without:.3f} | {kept:.3f} | {middle:.4f} ({low:.4f} to {high:.4f}) | {size:.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

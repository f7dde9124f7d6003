"""What a stage takes of an agent's memory while it is loaded, once it is, and after it is gone.

    python benchmarks/stage_memory.py [--dtype bfloat16] [--layers 9] [--rounds 10]

A Llama shape of 1.17 B parameters (hidden size 2048) with random weights, of which one process, built as an agent's
loader is, loads its first layers again and again. Figures in MB, and as ratios to base + weights: the peak and the end
of loading (at most 1.10), and what is left after the stage is gone (at most base + 50 MB; round 10 within 5 % of
round 1). Reads `/proc`, so it runs on Linux alone.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

HIDDEN, INNER, VOCABULARY = 2048, 5632, 32000


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


def figure(name: str) -> float:
    """MB of this process, by its name in /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise SystemExit(f"/proc/self/status has no {name}")


def measure(folder: Path, dtype: str, layers: int, rounds: int) -> None:
    from tests.worker_agent.ring import RUNTIME, load_message
    from worker_agent.engine.loading import drop_stage, load_stage
    from worker_agent.host import agent  # noqa: F401  # all that an agent imports belongs to its base
    from worker_agent.wire.messages import decode_parts

    parts = decode_parts((folder / "parts.msgpack").read_bytes())
    config = (folder / "model" / "config.json").read_bytes()
    message = load_message(None, 0, layers, 0, 1, dtype=dtype)  # type: ignore[arg-type]  # no cut model is needed
    base, first = figure("VmRSS"), 0.0
    print(f"base {base:.0f} MB")
    print("| round | weights | peak | loaded | peak / (base + weights) | loaded / … | after, less base |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for number in range(1, rounds + 1):
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        stage = load_stage(
            message, config, parts, lambda digest: folder / "parts" / digest, RUNTIME, 10**12, lambda done, total: None
        )
        weights, peak, loaded = stage.weight_bytes / 1e6, figure("VmHWM"), figure("VmRSS")
        drop_stage(stage)
        del stage
        after = figure("VmRSS")
        first = first or after
        whole = base + weights
        print(
            f"| {number} | {weights:.0f} | {peak:.0f} | {loaded:.0f} | {peak / whole:.3f} | {loaded / whole:.3f} "
            f"| {after - base:.0f} |",
            flush=True,
        )
    print(f"after the last round {after / first:.3f} of after the first one")


def cut(folder: Path) -> None:
    from tests.worker_agent.ring import cut_model
    from worker_agent.wire.messages import encode_parts

    made = cut_model(folder / "model", folder / "parts")
    (folder / "parts.msgpack").write_bytes(bytes(encode_parts(made.parts)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16", "float16"])
    parser.add_argument("--layers", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # Each in a process of its own: what one leaves behind must not count for the next.
        for target, arguments in (
            (make, (folder, options.dtype, options.layers)),
            (cut, (folder,)),
            (measure, (folder, options.dtype, options.layers, options.rounds)),
        ):
            process = multiprocessing.get_context("spawn").Process(target=target, args=arguments)
            process.start()
            process.join()
            if process.exitcode:
                raise SystemExit(process.exitcode)


if __name__ == "__main__":
    main()

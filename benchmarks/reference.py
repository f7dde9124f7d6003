"""The peer: transformers' `generate` in one process, greedy. Reads a number of tokens a line, answers tokens/s.

    python benchmarks/reference.py MODEL_FOLDER DTYPE THREADS

What is answered is the speed of decoding alone: the time for one token, which is mostly the prompt's, is
taken off.
"""

from __future__ import annotations

import sys
import time

PROMPT = [504, 3575, 282, 4649, 314, 253, 1132, 30, 1820, 1212]
"""Ten token ids that every vocabulary of more than 5,000 has."""


def main() -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder, dtype, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    model.generation_config.eos_token_id = None
    prompt = torch.tensor([PROMPT])

    def seconds(tokens: int) -> float:
        began = time.perf_counter()
        model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=tokens, do_sample=False, pad_token_id=0
        )
        return time.perf_counter() - began

    seconds(8)
    print("ready", flush=True)
    for line in sys.stdin:
        tokens = int(line)
        print((tokens - 1) / (seconds(tokens) - seconds(1)), flush=True)


if __name__ == "__main__":
    main()

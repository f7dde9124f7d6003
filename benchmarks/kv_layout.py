"""How rows of keys and values should lie in memory: attention of one token, by layout and by call.

    python benchmarks/kv_layout.py [--threads 1]

Layouts: rows behind each other for each head, for each token, or in blocks of 16 tokens that are gathered first.
Calls: one for each sequence, or one for all of them with a mask. Microseconds, the best of five.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import torch
from torch.nn.functional import scaled_dot_product_attention as attend

SHAPES = ((9, 3, 64), (32, 4, 64), (32, 8, 128))
"""(query heads, key heads, width): SmolLM2, TinyLlama, Llama 3 8B."""
CAPACITY, BLOCK = 4096, 16


def best(run: Callable[[], object], count: int) -> float:
    for _ in range(5):
        run()
    times = []
    for _ in range(5):
        began = time.perf_counter()
        for _ in range(count):
            run()
        times.append((time.perf_counter() - began) / count)
    return min(times) * 1e6


def layouts(dtype: torch.dtype, heads: int, kv: int, width: int, tokens: int) -> dict[str, float]:
    query = torch.randn(1, kv, heads // kv, width, dtype=dtype)
    by_head = torch.randn(2, 1, kv, CAPACITY, width, dtype=dtype)
    by_token = torch.randn(2, CAPACITY, kv, width, dtype=dtype).transpose(1, 2)[:, None]
    blocks = torch.randn(2, CAPACITY // BLOCK, kv, BLOCK, width, dtype=dtype)
    places = torch.randperm(CAPACITY // BLOCK)[: tokens // BLOCK]

    def gathered(which: int) -> torch.Tensor:
        return blocks[which].index_select(0, places).transpose(0, 1).reshape(1, kv, tokens, width)

    return {
        "head": best(lambda: attend(query, by_head[0][:, :, :tokens], by_head[1][:, :, :tokens]), 200),
        "token": best(lambda: attend(query, by_token[0][:, :, :tokens], by_token[1][:, :, :tokens]), 200),
        "blocks": best(lambda: attend(query, gathered(0), gathered(1)), 50),
    }


def calls(dtype: torch.dtype, heads: int, kv: int, width: int, tokens: int, sequences: int) -> dict[str, float]:
    keys = torch.randn(sequences, kv, CAPACITY, width, dtype=dtype)
    values = torch.randn(sequences, kv, CAPACITY, width, dtype=dtype)
    query = torch.randn(sequences, kv, heads // kv, width, dtype=dtype)
    lengths = torch.randint(int(tokens * 0.7), tokens + 1, (sequences,))
    lengths[0] = tokens
    hidden = torch.arange(tokens)[None] >= lengths[:, None]
    mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf)[:, None, None]

    def each() -> None:
        for place, length in enumerate(lengths.tolist()):
            rows = slice(place, place + 1)
            attend(query[rows], keys[rows, :, :length], values[rows, :, :length])

    return {
        "one call each": best(each, 20),
        "one for all": best(lambda: attend(query, keys[:, :, :tokens], values[:, :, :tokens], attn_mask=mask), 20),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    torch.set_num_threads(parser.parse_args().threads)
    for dtype in (torch.float32, torch.bfloat16):
        for shape in SHAPES:
            for tokens in (64, 512, 2048):
                found = layouts(dtype, *shape, tokens)
                print(dtype, shape, tokens, "tokens:", ", ".join(f"{name} {us:.0f}" for name, us in found.items()))
            for sequences in (4, 16, 32):
                for tokens in (64, 256):
                    found = calls(dtype, *shape, tokens, sequences)
                    text = ", ".join(f"{name} {us:.0f}" for name, us in found.items())
                    print(dtype, shape, f"{sequences} x {tokens} tokens:", text)


if __name__ == "__main__":
    main()

"""Whatever bytes come, they are understood or refused: thousands of them here, millions by `benchmarks/fuzz.py`."""

from __future__ import annotations

import os
import random
import secrets
import time

import pytest

from benchmarks.fuzz import seeded
from tests.fuzz.made_up import KINDS, MadeUp
from tests.fuzz.readers import READERS, inputs
from worker_agent.wire.messages import decode, encode

FEW, MANY = 1000, 100_000
LONGEST_SECONDS = 1.0
"""Of processor time for one input of a few kilobytes, so that none stops an agent's I/O thread."""


@pytest.fixture
def chance() -> random.Random:
    seed = int(os.environ.get("SHARDBOARD_SEED") or secrets.randbelow(10**6))
    print(f"SHARDBOARD_SEED={seed}")
    return random.Random(seed)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_message_of_any_kind_crosses_the_wire_unchanged(kind: type, chance: random.Random) -> None:
    made = MadeUp(chance)
    for _ in range(5):
        message = made.message(kind)
        assert decode(encode(message)) == message


@pytest.mark.parametrize("count", [FEW, pytest.param(MANY, marks=[pytest.mark.long, pytest.mark.timeout(900)])])
@pytest.mark.parametrize("name", READERS)
def test_any_input_is_understood_or_refused(name: str, count: int, chance: random.Random) -> None:
    reader = READERS[name]()
    reader.read(reader.seeds(chance)[0])  # what has to be imported first
    made, understood = inputs(reader, chance), 0
    for _ in range(count):
        content, began = next(made), time.thread_time()
        understood += reader.read(content)
        assert time.thread_time() - began < LONGEST_SECONDS, content
    assert 0 < understood < count


def test_the_benchmark_tells_what_became_of_its_inputs(capsys: pytest.CaptureFixture[str]) -> None:
    seeded("addresses", 50, seed=1)
    assert "| addresses | 50 | " in capsys.readouterr().out

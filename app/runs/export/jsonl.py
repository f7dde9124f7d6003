"""JSON Lines: one run in each line, all that is known of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import BinaryIO

import msgspec

from app.runs.infinities import without_infinities
from app.runs.run import Run


def write_jsonl(runs: Iterable[Run], output: BinaryIO) -> int:
    encoder = msgspec.json.Encoder()
    count = 0
    for run in runs:
        output.write(encoder.encode(without_infinities(run)) + b"\n")
        count += 1
    return count

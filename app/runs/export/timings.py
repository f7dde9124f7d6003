"""CSV of timings: a line for each token, each chunk of a prompt, each phase of a deployment or job.

How many columns there are depends on the widest run, which nobody knows before the last one was read; so the lines
wait in a temporary file.
"""

from __future__ import annotations

import csv
import io
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC
from typing import BinaryIO

from app.runs.run import Run
from app.runs.trace import ChunkTime, Phase, RequestTrace, StageShare, TokenTime
from app.runs.waterfall import node_name

COLUMNS = (
    "kind",
    "run",
    "model",
    "created_at",
    "part",
    "name",
    "node",
    "index",
    "token_id",
    "prompt_done",
    "at_us",
    "took_us",
    "batch",
    "compute_us",
    "queue_us",
    "wire_us",
    "bytes",
)
STAGE_COLUMNS = ("node", "queue_us", "compute_us")
"""Of each stage, as `stage_0_node` and so on, after the others."""

Cell = str | int | None

FORMULA = ("=", "+", "-", "@", "\t", "\r")
MEMORY = 4 * 2**20
"""So much waits in memory before a file on the disk is made."""


def write_timings(runs: Iterable[Run], output: BinaryIO) -> int:
    count = stages = 0
    with tempfile.SpooledTemporaryFile(max_size=MEMORY, mode="w+", encoding="utf-8", newline="") as lines:
        waiting = csv.writer(lines)
        for run in runs:
            count += 1
            for line in _lines(run):
                waiting.writerow(line)
                stages = max(stages, (len(line) - len(COLUMNS)) // len(STAGE_COLUMNS))
        lines.seek(0)
        text = io.TextIOWrapper(output, encoding="utf-8", newline="", write_through=True)
        try:
            written = csv.writer(text)
            names = (*COLUMNS, *(f"stage_{stage}_{name}" for stage in range(stages) for name in STAGE_COLUMNS))
            written.writerow(names)
            for row in csv.reader(lines):
                written.writerow(row + [""] * (len(names) - len(row)))
        finally:
            text.detach()  # the output is the caller's, to close or not
    return count


def _lines(run: Run) -> Iterator[list[Cell]]:
    trace = run.trace
    if isinstance(trace, RequestTrace):
        tokens = run.request.token_ids if run.request is not None else ()
        for number, chunk in enumerate(trace.chunks):
            yield _line(run, "prompt", number, chunk, trace, prompt_done=chunk.done)
        for number, time in enumerate(trace.tokens):
            token = tokens[number] if number < len(tokens) else None
            yield _line(run, "token", number, time, trace, token_id=token, batch=time.batch)
    elif trace is not None:
        for number, phase in enumerate(trace.phases):
            yield _phase_line(run, number, phase)


def _line(
    run: Run,
    part: str,
    number: int,
    time: TokenTime | ChunkTime,
    trace: RequestTrace,
    *,
    token_id: int | None = None,
    prompt_done: int | None = None,
    batch: int | None = None,
) -> list[Cell]:
    compute = sum(stage.compute_us for stage in time.stages)
    queue = sum(stage.queue_us for stage in time.stages)
    return [
        *_run_cells(run),
        part,
        None,
        None,
        number,
        token_id,
        prompt_done,
        time.at_us,
        time.took_us,
        batch,
        compute,
        queue,
        max(0, time.took_us - compute - queue),
        None,
        *_stage_cells(time.stages, trace),
    ]


def _stage_cells(stages: Sequence[StageShare], trace: RequestTrace) -> Iterator[Cell]:
    for number, stage in enumerate(stages):
        yield from (_text(node_name(trace.plan, number)), stage.queue_us, stage.compute_us)


def _phase_line(run: Run, number: int, phase: Phase) -> list[Cell]:
    took = phase.ended_us - phase.began_us
    none = None
    return [
        *_run_cells(run), "phase", _text(phase.name), _text(phase.node), number, none, none, phase.ended_us, took,
        none, none, none, none, phase.total_bytes,
    ]  # fmt: skip


def _run_cells(run: Run) -> tuple[Cell, ...]:
    return run.kind, run.id, _text(run.model or ""), run.created_at.astimezone(UTC).isoformat()


def _text(text: str) -> str:
    """A name that other machines chose must not be a formula to whoever opens the file in a spreadsheet."""
    return f"'{text}" if text.startswith(FORMULA) else text

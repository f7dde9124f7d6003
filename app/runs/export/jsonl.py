"""JSON Lines: one run in each line, all that is known of it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import BinaryIO

import msgspec
from msgspec.structs import replace

from app.runs.run import Run
from app.runs.trace import TokenLogprob

IMPOSSIBLE = -9999.0
"""Stands for the logarithm of zero, which JSON cannot write. OpenAI's API and vLLM use the same number."""


def write_jsonl(runs: Iterable[Run], output: BinaryIO) -> int:
    encoder = msgspec.json.Encoder()
    count = 0
    for run in runs:
        output.write(encoder.encode(_finite(run)) + b"\n")
        count += 1
    return count


def _finite(run: Run) -> Run:
    trace = run.request_trace
    if trace is None or not (trace.logprobs or trace.prompt_logprobs):
        return run
    logprobs = tuple(_finite_logprob(each) for each in trace.logprobs)
    prompt = tuple(None if each is None else _finite_logprob(each) for each in trace.prompt_logprobs)
    return replace(run, trace=replace(trace, logprobs=logprobs, prompt_logprobs=prompt))


def _finite_logprob(given: TokenLogprob) -> TokenLogprob:
    if math.isfinite(given.logprob) and all(math.isfinite(logprob) for _, logprob in given.top):
        return given
    top = tuple((token, _finite_number(logprob)) for token, logprob in given.top)
    return TokenLogprob(given.token, _finite_number(given.logprob), top)


def _finite_number(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else IMPOSSIBLE

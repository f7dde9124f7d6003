"""What JSON cannot write, written so that it can be read back."""

from __future__ import annotations

import math

from msgspec.structs import replace

from app.runs.run import Run
from app.runs.trace import TokenLogprob

IMPOSSIBLE = -9999.0
"""Stands for the logarithm of zero. OpenAI's API and vLLM use the same number."""


def finite(run: Run) -> Run:
    """The run with `IMPOSSIBLE` in place of log probabilities that are infinite."""
    trace = run.request_trace
    if trace is None or not (trace.logprobs or trace.prompt_logprobs):
        return run
    logprobs = tuple(_finite_logprob(each) for each in trace.logprobs)
    prompt = tuple(None if each is None else _finite_logprob(each) for each in trace.prompt_logprobs)
    return replace(run, trace=replace(trace, logprobs=logprobs, prompt_logprobs=prompt))


def finite_number(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else IMPOSSIBLE


def _finite_logprob(given: TokenLogprob) -> TokenLogprob:
    if math.isfinite(given.logprob) and all(math.isfinite(logprob) for _, logprob in given.top):
        return given
    top = tuple((token, finite_number(logprob)) for token, logprob in given.top)
    return TokenLogprob(given.token, finite_number(given.logprob), top)

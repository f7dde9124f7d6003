"""Infinite log probabilities, which JSON cannot write: a number in their place that can be read back."""

from __future__ import annotations

import math

from msgspec.structs import replace

from app.runs.run import Run
from app.runs.trace import TokenLogprob

IMPOSSIBLE = -9999.0
"""Stands for the logarithm of zero. OpenAI's API and vLLM use the same number."""


def without_infinities(run: Run) -> Run:
    """The run with `IMPOSSIBLE` in place of log probabilities that are infinite."""
    trace = run.request_trace
    if trace is None or not (trace.logprobs or trace.prompt_logprobs):
        return run
    logprobs = tuple(_finite_logprob(each) for each in trace.logprobs)
    prompt = tuple(None if each is None else _finite_logprob(each) for each in trace.prompt_logprobs)
    return replace(run, trace=replace(trace, logprobs=logprobs, prompt_logprobs=prompt))


def _finite(logprob: float) -> float:
    return logprob if math.isfinite(logprob) else IMPOSSIBLE


def _finite_logprob(given: TokenLogprob) -> TokenLogprob:
    if math.isfinite(given.logprob) and all(math.isfinite(logprob) for _, logprob in given.top):
        return given
    top = tuple((token, _finite(logprob)) for token, logprob in given.top)
    return TokenLogprob(given.token, _finite(given.logprob), top)

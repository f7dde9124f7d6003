"""What was predicted of a request beside what came of it. Pure: a trace in, words and errors out."""

from __future__ import annotations

from statistics import fmean

from msgspec import Struct

from app.figures import micros, token_rate
from app.registry.records import NewComparison
from app.runs.trace import ChunkTime, Foreseen, RequestTrace, TokenTime

LEAST_TOKENS = 4
"""Of fewer nothing is learned: how long they take is chance."""


class Comparison(Struct, frozen=True, kw_only=True):
    """Prediction and reality of one request. An error is predicted over measured less 1: 0.1 is a tenth too fast.

    Figures of reality are None where there is nothing to compare, and `why_not` then says why.
    """

    tokens_per_second: float | None = None
    first_token_us: int | None = None
    """From the hand-over to the agents to the first token."""
    speed_error: float | None = None
    first_token_error: float | None = None
    """Predicted over measured time, less 1: 0.1 is a tenth too slow."""
    why_not: str = ""


def compared(trace: RequestTrace) -> Comparison | None:
    """None where nothing was predicted. Only a request that was alone and undisturbed is what was predicted of."""
    predicted = trace.foreseen
    if predicted is None:
        return None
    if not trace.tokens:
        return Comparison(why_not="the times of its tokens were not kept")
    if trace.interruptions:
        return Comparison(why_not="it was interrupted")
    if trace.cached_tokens:
        return Comparison(why_not="a part of its prompt came from the cache")
    if any(token.batch > 1 for token in trace.tokens):
        return Comparison(why_not="other requests shared its steps")
    first = trace.tokens[0].at_us - trace.first_step_us
    later = trace.tokens[1:]
    decode = sum(token.took_us for token in later)
    speed = len(later) * 1e6 / decode if decode > 0 else None
    return Comparison(
        tokens_per_second=speed,
        first_token_us=first if first > 0 else None,
        speed_error=None if speed is None else predicted.tokens_per_second / speed - 1,
        first_token_error=predicted.first_token_us / first - 1 if first > 0 else None,
    )


def stage_comparisons(trace: RequestTrace) -> tuple[NewComparison, ...]:
    """What each stage's prediction can learn from a request; nothing where it was not what was predicted of.

    What is neither computing nor waiting for a stage's turn goes to the ways, each by its part of what was predicted;
    a stage alone has no way, and takes all of it.
    """
    predicted, found = trace.foreseen, compared(trace)
    if predicted is None or found is None or found.why_not or trace.model is None:
        return ()
    later, stages = trace.tokens[1:], predicted.stages
    if len(later) < LEAST_TOKENS or found.first_token_us is None or not stages:
        return ()
    prompt_steps: list[TokenTime | ChunkTime] = [*trace.chunks, trace.tokens[0]]
    if any(len(step.stages) != len(stages) for step in (*prompt_steps, *later)):
        return ()
    took = fmean(token.took_us for token in later)
    computing = [fmean(token.stages[place].compute_us for token in later) for place in range(len(stages))]
    reading = [float(sum(step.stages[place].compute_us for step in prompt_steps)) for place in range(len(stages))]
    if len(stages) == 1:
        computing, reading = [took], [float(found.first_token_us)]
    between, ways = max(0.0, took - sum(computing)), sum(stage.way for stage in stages)
    return tuple(
        NewComparison(
            node_id=stage.node_id,
            following_id=stage.following_id,
            model_name=trace.model.name,
            dtype=predicted.dtype,
            quantize=predicted.quantize,
            token_predicted=stage.token,
            token_measured=step / 1e6,
            prompt_predicted=stage.prompt,
            prompt_measured=prompt / 1e6,
            way_predicted=stage.way,
            way_measured=between / 1e6 * stage.way / ways if ways else 0.0,
            read_bytes_per_second=stage.read_bytes_per_second,
            flops_per_second=stage.flops_per_second,
            rtt=stage.rtt,
        )
        for stage, step, prompt in zip(stages, computing, reading, strict=True)
    )


def predicted_facts(trace: RequestTrace) -> tuple[tuple[str, str], ...]:
    """Names and values for whoever shows a run; empty where nothing was predicted."""
    predicted, found = trace.foreseen, compared(trace)
    if predicted is None or found is None:
        return ()
    speed, first = token_rate(predicted.tokens_per_second), micros(predicted.first_token_us)
    if found.tokens_per_second is not None and found.speed_error is not None:
        speed += f" predicted, {token_rate(found.tokens_per_second)} measured ({error_text(found.speed_error)})"
    if found.first_token_us is not None and found.first_token_error is not None:
        first += f" predicted, {micros(found.first_token_us)} measured ({error_text(found.first_token_error)})"
    facts = [("Speed", speed), (f"First token of {predicted.prompt_tokens:,}", first)]
    if found.why_not:
        facts.append(("Not compared", f"{found.why_not}, and predicted is what one answer alone may expect"))
    if corrected := corrected_text(predicted.correction, predicted.corrected_runs):
        facts.append(("Corrected", corrected))
    facts += [("Assumed", text) for text in predicted.assumed]
    return tuple(facts)


def error_text(error: float) -> str:
    """By how much what was predicted is off: +12 %, −3 %, 0 %."""
    percent = round(error * 100)
    return f"{percent:+d} %".replace("-", "−") if percent else "0 %"


def brief_correction(correction: float, runs: int) -> str:
    """by 12 % after 5 runs; empty where nothing was learned."""
    if not runs:
        return ""
    percent = round(abs(correction - 1) * 100)
    return f"by {percent or 'less than 1'} % after {runs} run{'' if runs == 1 else 's'}"


def corrected_text(correction: float, runs: int) -> str:
    """by 12 % after 5 runs, in which a token took longer than the formulas say; empty where nothing was learned."""
    brief = brief_correction(correction, runs)
    if abs(correction - 1) < 0.005:
        return brief
    came = "longer" if correction > 1 else "less"
    return brief and f"{brief}, in which a token took {came} than the formulas say"


def predicted_text(predicted: Foreseen) -> str:
    """about 31 tokens/s, first token of 256 in 0.4 s"""
    rate = predicted.tokens_per_second
    speed = token_rate(round(rate) if rate >= 10 else rate)  # a guess has no tenths
    return f"about {speed}, first token of {predicted.prompt_tokens:,} in {micros(predicted.first_token_us)}"

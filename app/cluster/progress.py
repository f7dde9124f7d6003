"""Whether a stage still computes: the rule by which a step that takes too long becomes suspect.

Pure: figures of one health report in, a judgement out. The health monitor calls it on each beat.
"""

from __future__ import annotations

from worker_agent.wire.messages import Progress

SHORTEST_LIMIT = 10.0
"""Seconds that any step may take, however fast the last ones were."""
P99_FACTOR = 8.0
"""How many times its usual duration a step may take."""
TOKENS_PER_DECODE = 16
"""So many prompt tokens together are taken to cost at most as much as one decode step.

A decode step is bound by reading the weights, a prefill by arithmetic; on a slow CPU the ratio of the two
is about 16 to 1, and `P99_FACTOR` covers machines on which it is worse.
"""


def step_limit(step_p99: float, tokens: int) -> float:
    """How many seconds a step of this many tokens may take before its stage is suspect.

    `max(10 s, 8 x p99)`, and the p99 grows with the tokens of a prefill, because the steps that it was
    taken from may all have been decode steps of one token. As long as no step has been done (p99 is 0)
    nothing is known of the machine's speed, and the 10 s themselves grow.
    """
    scale = max(1.0, tokens / TOKENS_PER_DECODE)
    if step_p99 <= 0:
        return SHORTEST_LIMIT * scale
    return max(SHORTEST_LIMIT, P99_FACTOR * step_p99 * scale)


def is_suspect(progress: Progress) -> bool:
    """Whether the step under way takes longer than it may. An idle stage never is."""
    if progress.busy_seconds is None:
        return False
    return progress.busy_seconds > step_limit(progress.step_p99, progress.busy_tokens)

"""The rule by which a step that takes too long becomes suspect."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.cluster.progress import is_suspect, step_limit
from worker_agent.wire.messages import Progress


def progress(busy: float | None, *, tokens: int = 1, p99: float = 0.05) -> Progress:
    return Progress(steps_done=100, busy_seconds=busy, busy_tokens=tokens, step_p99=p99)


@pytest.mark.parametrize(
    ("busy", "tokens", "p99", "suspect"),
    [
        (None, 0, 0.05, False),  # idle
        (9.9, 1, 0.05, False),  # a fast machine still gets 10 s
        (10.1, 1, 0.05, True),
        (30.0, 1, 4.0, False),  # a slow one gets 8 times what it usually takes
        (32.1, 1, 4.0, True),
        (60.0, 512, 1.0, False),  # 512 tokens of a prompt take longer than the decode steps before
        (257.0, 512, 1.0, True),
        (60.0, 512, 0.0, False),  # the first step of all: nothing is known of the machine
    ],
)
def test_a_step_is_suspect_when_it_takes_longer_than_its_machine_and_its_tokens_explain(
    busy: float | None, tokens: int, p99: float, suspect: bool
) -> None:
    assert is_suspect(progress(busy, tokens=tokens, p99=p99)) is suspect


@given(st.floats(0, 1e4), st.integers(0, 65536), st.integers(0, 65536))
def test_more_tokens_never_get_less_time(p99: float, few: int, more: int) -> None:
    few, more = sorted((few, more))
    assert 10.0 <= step_limit(p99, few) <= step_limit(p99, more)

"""Faults that hypothesis chooses, while several clients read: what they see is what an undisturbed run brings."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from app.inference.request_run import RequestRun
from tests.faults.conftest import MODEL
from tests.faults.history import KINDS, Client, Fault, live_through
from tests.faults.relay import EVERYBODY
from tests.faults.test_links import Lines, lines, relayed  # noqa: F401  # fixtures
from tests.faults.test_losses import LONG, PROMPT
from tests.waiting import wait_until

pytestmark = pytest.mark.long

CLIENTS = 3
faults = st.builds(
    Fault, kind=st.sampled_from(KINDS), node=st.integers(0, 2), party=st.sampled_from(EVERYBODY),
    seconds=st.sampled_from([0.1, 0.5]),
)  # fmt: skip


@settings(
    max_examples=1, deadline=None, derandomize=True, phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
@given(chosen=st.lists(faults, min_size=2, max_size=3))
def test_whatever_happens_every_client_sees_each_token_once_and_in_order(
    lines: Lines,  # noqa: F811
    chosen: list[Fault],
) -> None:
    prompts = [[*PROMPT, 20 + number] for number in range(CLIENTS)]
    wait_until(lines.all_up, 30)
    expected = [record.token_ids for record in lines.system.answers(MODEL, prompts, **LONG)]
    live_through(
        lines.system,
        lines.relays,
        lambda number: lines.system.begin(MODEL, prompts[number], **LONG),
        expected,
        chosen,
    )


def test_a_history_in_which_a_token_is_lost_doubled_or_changed_is_found() -> None:
    def client(*seen: tuple[int, ...]) -> Client:
        return Client(cast(RequestRun, SimpleNamespace(token_ids=list(seen[-1]))), list(seen))

    client((1,), (1, 2), (1, 2, 3)).check([1, 2, 3])
    for wrong in ([(1,), (1, 3)], [(1,), (1, 2, 2, 3)], [(1, 9), (1, 2, 3)], [(1, 2, 3), (1, 2)]):
        with pytest.raises(AssertionError, match=r"has changed|was to come"):
            client(*wrong).check([1, 2, 3])

"""A stage is lost while answers are under way: they go on with the tokens that they would have had."""

from __future__ import annotations

import pytest

from app.registry import RequestStatus
from tests.e2e.conftest import System
from tests.faults.conftest import MODEL, deploy
from tests.waiting import wait_until

PROMPT = [3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
TOKENS = 60


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_stage_that_is_killed_goes_to_another_node_and_the_tokens_are_the_same(four: System, victim: int) -> None:
    deploy(four, 0, 1, 2)
    expected = four.answer(MODEL, PROMPT, max_tokens=TOKENS, ignore_eos=True)
    assert len(expected.token_ids) == TOKENS
    run = four.begin(MODEL, PROMPT, max_tokens=TOKENS, ignore_eos=True)
    wait_until(lambda: len(run.token_ids) >= 7)
    four.process(four.nodes[victim]).kill()
    record = four.finish(run)
    assert (record.status, record.error) == (RequestStatus.COMPLETED, None)
    assert record.token_ids == expected.token_ids
    (interruption,) = run.trace().interruptions
    assert f"went to" in interruption.what and interruption.exact
    print(interruption)

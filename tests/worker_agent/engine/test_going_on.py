"""A stage is lost in the middle of answers; what comes afterwards is what would have come, to the last bit."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.worker_agent.recovering import RecoveringRing, Wish
from tests.worker_agent.ring import CutModel, cut_model, random_prompt
from tests.worker_agent.tiny_models import VOCABULARY, make_model
from worker_agent.wire.messages import Sampling

BEGINNING = random_prompt(40, VOCABULARY, 9)
WISHES = {
    0: Wish(random_prompt(23, VOCABULARY, 0), 30),
    1: Wish(random_prompt(9, VOCABULARY, 1), 8, Sampling(temperature=0.9, top_p=0.95, seed=5)),
    2: Wish(BEGINNING, 24, Sampling(temperature=1.2, seed=7, repetition_penalty=1.3, presence_penalty=0.4)),
    3: Wish(random_prompt(70, VOCABULARY, 3), 20, Sampling(no_repeat_ngram_size=2, logprobs=2)),
    # Shares what the third one has read, while that runs.
    4: Wish([*BEGINNING, *random_prompt(11, VOCABULARY, 4)], 18, after=(2, 3)),
    # Comes when the second one is over, and takes its slot.
    5: Wish(random_prompt(17, VOCABULARY, 5), 14, Sampling(temperature=0.7, seed=2), after=(1, 8)),
}
CHANGES = {"dtype": "bfloat16", "prefill_chunk": 16, "lanes": 1}


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> CutModel:
    folder = tmp_path_factory.mktemp("going-on")
    make_model("llama", folder / "model", num_hidden_layers=6)
    return cut_model(folder / "model", folder / "parts")


@dataclass
class Undisturbed:
    answers: dict[int, list[int]]
    rows: dict[tuple[int, int, int], bytes]
    turns: int


def built(cut: CutModel) -> RecoveringRing:
    ring = RecoveringRing.build(cut, [2, 4], **CHANGES)
    assert isinstance(ring, RecoveringRing)
    return ring


@pytest.fixture(scope="module")
def expected(cut: CutModel) -> Undisturbed:
    ring, turns = built(cut), 0

    def count() -> bool:
        nonlocal turns
        turns += 1
        return False

    ring.serve(WISHES, count)
    assert ring.cached == {4: 40}
    assert len(ring.finished) == len(WISHES)
    return Undisturbed({number: ring.answer(number) for number in WISHES}, ring.rows(), turns)


def after(turns: int):  # type: ignore[no-untyped-def]
    """Says that it is time after so many turns."""
    left = turns

    def over() -> bool:
        nonlocal left
        left -= 1
        return left <= 0

    return over


@pytest.mark.parametrize("turns", range(1, 120, 9))
def test_states_survive_a_link_and_go_on_as_if_nothing_had_been(
    cut: CutModel, expected: Undisturbed, turns: int
) -> None:
    ring = built(cut)
    ring.serve(WISHES, after(turns))
    ring.go_on(ring.halt())
    before = len(ring.steps)
    ring.serve(WISHES)
    check(ring, expected)
    del before


def check(ring: RecoveringRing, expected: Undisturbed) -> None:
    assert {number: ring.answer(number) for number in WISHES} == expected.answers
    rows = ring.rows()
    assert rows.keys() == expected.rows.keys()
    assert [key for key in rows if rows[key] != expected.rows[key]] == []

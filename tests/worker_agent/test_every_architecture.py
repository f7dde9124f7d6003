"""A quarter of the causal types that transformers knows, cut over three stages, each as the table says.

All of them, over one, two and three stages: `python benchmarks/coverage.py`.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.worker_agent.causal_types import CAUSAL_TYPES, QUARTER
from tests.worker_agent.verdicts import judge

TABLE: dict[str, dict[str, str]] = json.loads(
    (Path(__file__).with_name("every_architecture.json")).read_text(encoding="utf-8")
)


def test_no_type_is_wrong_in_the_table() -> None:
    assert {name for name, found in TABLE.items() if found["kind"] == "wrong"} == set()


def test_the_table_has_every_type_that_this_transformers_knows() -> None:
    assert set(CAUSAL_TYPES) <= set(TABLE), "run `python benchmarks/coverage.py --json FILE` and look at what is new"


@pytest.mark.parametrize("model_type", QUARTER)
def test_a_type_is_run_as_the_table_says(model_type: str, tmp_path: Path) -> None:
    found = judge(model_type, tmp_path, thorough=False)
    assert (found.kind, found.way) == (TABLE[model_type]["kind"], TABLE[model_type]["way"]), found.why

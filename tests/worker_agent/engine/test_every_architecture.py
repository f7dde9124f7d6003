"""A quarter of the causal types that transformers knows, cut over two stages, each as the table says.

All of them, over one, two and three stages: `python benchmarks/coverage.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.worker_agent.causal_types import CAUSAL_TYPES, KNOWN_SCALES, QUARTER, best_scales, tiny_config
from tests.worker_agent.engine.verdicts import judge

TABLE: dict[str, dict[str, str]] = json.loads(
    (Path(__file__).with_name("every_architecture.json")).read_text(encoding="utf-8")
)

PECULIAR = ("falcon_h1", "moshi", "nemotron_h")
"""Besides the quarter: numbers that the model makes for its layers, a window as wide as the context, and time steps
that are bounded in prompts alone."""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices this small are slower with more, and threads that wait burn what other tests need."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_no_type_is_wrong_in_the_table() -> None:
    assert {name for name, found in TABLE.items() if found["kind"] == "wrong"} == set()


def test_what_cannot_be_run_is_refused_when_it_is_added() -> None:
    refused = {name: found["why"] for name, found in TABLE.items() if found["kind"] == "refused"}
    assert {name: why for name, why in refused.items() if not why.startswith("ModelError")} == {}


def test_the_table_has_every_type_that_this_transformers_knows() -> None:
    assert set(CAUSAL_TYPES) <= set(TABLE), "run `python benchmarks/coverage.py --json FILE` and look at what is new"


@pytest.mark.parametrize("model_type", [*QUARTER, *PECULIAR])
def test_a_type_is_run_as_the_table_says(model_type: str, tmp_path: Path) -> None:
    found = judge(model_type, tmp_path, thorough=False)
    assert (found.kind, found.way) == (TABLE[model_type]["kind"], TABLE[model_type]["way"]), found.why


@pytest.mark.parametrize("model_type", ["olmo3", "big_bird"])
def test_the_scales_that_are_kept_are_those_that_would_be_found(model_type: str) -> None:
    assert KNOWN_SCALES[model_type] == list(best_scales(tiny_config(model_type)))

"""lm-evaluation-harness measures the split model over HTTP as it would measure the whole one in one process."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.api.openai.conftest import Served

CHOICES = """\
task: capitals
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: multiple_choice
doc_to_text: "The capital of {{{{country}}}} is"
doc_to_choice: "{{{{cities}}}}"
doc_to_target: "{{{{answer}}}}"
metric_list: [{{metric: acc}}]
"""
TEXTS = """\
task: countries
dataset_path: json
dataset_kwargs:
  data_files: {{test: {data}}}
test_split: test
output_type: generate_until
doc_to_text: "The capital of {{{{country}}}} is"
doc_to_target: "{{{{cities[answer]}}}}"
generation_kwargs: {{until: [".", "\\n"], max_gen_toks: 12, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""
DOCUMENTS: list[dict[str, Any]] = [
    {"country": "France", "cities": ["Berlin", "Paris", "Rome"], "answer": 1},
    {"country": "Italy", "cities": ["Rome", "New York City", "Tokyo"], "answer": 0},
    {"country": "Japan", "cities": ["Madrid", "Oslo", "Tokyo"], "answer": 2},
]
CLOSE = 1e-3
"""Of a sum over the tokens of a continuation."""


@pytest.fixture
def tasks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with two tasks on data of our own: there is no Hub to get any from."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps(document) + "\n" for document in DOCUMENTS), encoding="utf-8")
    folder = tmp_path / "tasks"
    folder.mkdir()
    for name, task in (("capitals", CHOICES), ("countries", TEXTS)):
        (folder / f"{name}.yaml").write_text(task.format(data=data), encoding="utf-8")
    with patch.dict(os.environ):  # the harness sets variables of its own when it is imported
        yield folder


def likelihood(model: Any, tokenizer: Any, context: str, continuation: str) -> tuple[float, bool]:
    """The log probability of a continuation, and whether it is the greedy one, straight from the logits."""
    before, whole = tokenizer.encode(context), tokenizer.encode(context + continuation)
    with torch.no_grad():
        rows = torch.log_softmax(model(torch.tensor([whole])).logits[0], dim=-1)[len(before) - 1 : -1]
    ids = whole[len(before) :]
    greedy = rows.argmax(dim=-1).tolist() == ids
    return sum(float(row[token]) for row, token in zip(rows, ids, strict=True)), greedy


@pytest.fixture(scope="module")
def expected(smollm: Path) -> dict[tuple[str, str], tuple[float, bool]]:
    """By context and continuation, as transformers computes it."""
    model = AutoModelForCausalLM.from_pretrained(smollm, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(smollm)
    asked = [(f"The capital of {each['country']} is", f" {city}") for each in DOCUMENTS for city in each["cities"]]
    return {each: likelihood(model, tokenizer, *each) for each in asked}


@pytest.mark.parametrize("by_ids", [True, False])
def test_the_harness_sees_what_transformers_computes(
    served: Served, smollm: Path, tasks: Path, expected: dict[tuple[str, str], tuple[float, bool]], by_ids: bool
) -> None:
    import lm_eval
    from lm_eval.tasks import TaskManager

    results = lm_eval.simple_evaluate(
        model="local-completions",
        model_args={
            "model": "smollm",
            "base_url": f"{served.url}/completions",
            "tokenizer_backend": "huggingface",
            "tokenizer": str(smollm),
            "tokenized_requests": by_ids,
            "num_concurrent": 2,
            "max_retries": 1,
        },
        tasks=["capitals", "countries"],
        task_manager=TaskManager(include_path=str(tasks), include_defaults=False),
        batch_size=3 if by_ids else 1,
        bootstrap_iters=0,
        log_samples=True,
    )
    assert results is not None
    assert len(results["samples"]["capitals"]) == len(DOCUMENTS)
    for sample in results["samples"]["capitals"]:
        context = f"The capital of {sample['doc']['country']} is"
        for city, (logprob, greedy) in zip(sample["doc"]["cities"], sample["filtered_resps"], strict=True):
            wanted = expected[context, f" {city}"]
            assert float(logprob) == pytest.approx(wanted[0], abs=CLOSE)
            assert str(greedy) == str(wanted[1])
    assert results["results"]["capitals"]["acc,none"] == 1.0
    for sample in results["samples"]["countries"]:
        record = served.system.answer(
            "smollm", f"The capital of {sample['doc']['country']} is", max_tokens=12, stop=(".", "\n")
        )
        assert sample["resps"][0][0] == record.result

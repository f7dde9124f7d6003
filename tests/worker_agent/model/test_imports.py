"""An agent has no use for torch's compiler, distributed tensors, symbols and training, and does without them."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from app.children.starting import child_environment
from tests.worker_agent.tiny_models import make_model

SYMBOLS = ("sympy", "torch.fx.experimental.symbolic_shapes")
UNUSED = ("torch._dynamo", "torch.distributed.tensor", "accelerate", "scipy", *SYMBOLS)
PROGRAM = """
import json, logging, sys
from pathlib import Path

logging.basicConfig(stream=sys.stdout)
from worker_agent.model.imports import import_transformers

import_transformers()
import torch
from torch.fx.experimental.symbolic_shapes import sym_eq, sym_or


def loaded(names):
    return [name for name in names if hasattr(sys.modules.get(name), "__file__")]


symbols, unused = map(json.loads, sys.argv[2:])
numbers = [sym_eq((2, 3), torch.Size([2, 3])), sym_eq([2, [3]], [2, [4]]), sym_or(False, True)]
for_numbers = loaded(symbols)

from tests.worker_agent.ring import Ring, cut_model, random_prompt

folder = Path(sys.argv[1])
ring = Ring.build(cut_model(folder / "model", folder / "parts"), [2])
ring.start(0, random_prompt(9, 150, 1), 5)
ring.finish()
for_a_stage = loaded(unused)

from torch.fx.experimental.proxy_tensor import make_fx

graph = make_fx(lambda given: given @ given.T, tracing_mode="symbolic")(torch.ones(5, 3)).graph
rows = next(iter(graph.nodes)).meta["val"].shape[0]
compiled = torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2)).tolist()
print(json.dumps({
    "numbers": numbers, "loaded for numbers": for_numbers, "loaded for a stage": for_a_stage,
    "answered": len(ring.answer(0)), "compiled": compiled, "symbol": [type(rows).__name__, bool(sym_eq(rows, 5))],
}))
"""


def told(program: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=child_environment(),
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What one process has to say, which has imported transformers as an agent does."""
    folder = tmp_path_factory.mktemp("imports")
    make_model("llama", folder / "model")
    [line] = told(PROGRAM, str(folder), json.dumps(SYMBOLS), json.dumps(UNUSED)).splitlines()
    answer: dict[str, object] = json.loads(line)
    return answer


def test_a_stage_is_built_and_answers_without_them_and_they_are_there_when_asked_for(found: dict[str, object]) -> None:
    assert (found["loaded for a stage"], found["answered"]) == ([], 5)
    assert found["compiled"] == [2.0, 2.0]


def test_a_transformers_that_needs_them_comes_whole_and_the_log_says_so() -> None:
    said = told(
        """
import logging, sys
logging.basicConfig(stream=sys.stdout)
from worker_agent.model import imports

imports._unchanged = None
imports.import_transformers()
import torch, transformers.models.llama.modeling_llama
print(torch._dynamo.allow_in_graph is not None)
"""
    )
    assert "imported with all that it may use: TypeError: 'NoneType' object is not callable" in said
    assert said.splitlines()[-1] == "True"


def test_sizes_that_are_symbols_are_computed_as_ever(found: dict[str, object]) -> None:
    assert (found["numbers"], found["loaded for numbers"]) == ([True, False, True], [])
    assert found["symbol"] == ["SymInt", True]

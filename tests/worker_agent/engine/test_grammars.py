"""Grammars on an agent: kept as long as any stage of their deployment is there, and lost without breaking a step."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.inference import tiny_tokenizers
from tests.worker_agent.ring import RUNTIME, Ring, cut_model
from tests.worker_agent.tiny_models import make_model
from worker_agent.engine.outgoing import Outgoing
from worker_agent.host.compute import Compute
from worker_agent.wire.messages import Constraint

WANTED = Constraint("regex", "(yes|no)")
EOS = (0,)


@pytest.fixture
def compute(tmp_path: Path) -> Iterator[Compute]:
    """With both stages of one deployment, and a grammar that is ready."""
    make_model("llama", tmp_path / "model")
    ring = Ring.build(cut_model(tmp_path / "model", tmp_path / "parts"), [3])
    sent: queue.SimpleQueue[Outgoing] = queue.SimpleQueue()
    compute = Compute(sent.put, "boot1", RUNTIME)
    for runner in ring.runners:
        compute.add_stage(runner.stage)
    tokenizer = tiny_tokenizers.byte_level().to_str().encode()
    compute.grammars.prepare("d1", WANTED, EOS, tokenizer)
    compute.start()
    yield compute
    compute.stop()
    compute.join(20)


def remove(compute: Compute, stage: int) -> None:
    removed = threading.Event()
    compute.remove_stage("d1", stage, removed.set)
    assert removed.wait(20)


def test_a_grammar_stays_until_the_last_stage_of_its_deployment_goes(compute: Compute) -> None:
    remove(compute, 0)
    assert compute.grammars.follower("d1", WANTED.name, EOS).failure == ""
    remove(compute, 1)
    gone = compute.grammars.follower("d1", WANTED.name, EOS)
    assert "not known here any more" in gone.failure
    assert not gone.is_complete

"""Keys and values in 8 bits over real agents: twice the tokens in the same memory, and told wherever it shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.errors import PlacementError
from app.runs.telling import tell
from app.serving import ServingWish
from tests.e2e.conftest import System
from tests.waiting import wait_until
from worker_agent.wire.messages import StageInfo

BUDGET = 6 * 10**6
TOKENS = 5_000
"""Of which each stage's keys and values fit into the budget as they are computed, and no more than twice as many."""


def test_twice_the_tokens_are_held_in_the_same_memory(system: System, tiny: Path) -> None:
    system.nodes += system.run(system.controller.launch_local(2, memory=BUDGET))
    controller, nodes = system.controller, [node.id for node in system.nodes]
    system.run(controller.add_model(str(tiny), name="tiny"))
    layers = controller.library.get("tiny").num_layers
    split = f"0-{layers // 2 - 1},{layers // 2}-{layers - 1}"
    once = ServingWish(dtype="float32", context=1024, kv_tokens=TOKENS)
    twice = ServingWish(dtype="float32", context=1024, kv_tokens=2 * TOKENS)
    assert system.run(controller.plan("tiny", nodes=nodes, layers=split, serving=once)).fits
    with pytest.raises(PlacementError, match="does not fit"):
        system.run(controller.deploy("tiny", nodes=nodes, layers=split, serving=twice))
    smaller = ServingWish(dtype="float32", context=1024, kv_tokens=2 * TOKENS, kv_dtype="int8")
    planned = system.run(controller.plan("tiny", nodes=nodes, layers=split, serving=smaller))
    deployment = system.run(controller.deploy("tiny", nodes=nodes, layers=split, serving=smaller))
    assert deployment.serving.numbers == "float32, keys and values in int8"

    def told(at: int) -> StageInfo | None:
        return system.call(lambda: controller.nodes.stage(nodes[at], deployment.id, at))

    # 8 prompts of 900 tokens, all different, under way at once: more than would have been held.
    prompts = [[3 + (7 * i + 13 * number + i * i % 11) % 90 for i in range(900)] for number in range(8)]
    records = system.answers("tiny", prompts, max_tokens=4, ignore_eos=True)
    assert all(len(record.token_ids) == 4 for record in records)
    for at in (0, 1):
        wait_until(lambda: (now := told(at)) is not None and now.kv_used_tokens + now.kv_kept_tokens > TOKENS * 1.4)  # noqa: B023
        stage = told(at)
        assert stage is not None and stage.kv_dtype == "int8" and 0 < stage.kv_error < 0.1
        assert stage.kv_bytes == planned.stages[at].kv_bytes and stage.weight_bytes + stage.kv_bytes <= BUDGET
        assert stage.kv_held_bytes < stage.kv_bytes
    run = controller.runs.request(records[0].id)
    assert run.plan is not None and run.plan.kv_dtype == "int8"
    text = str(tell(run))
    assert "float32, keys and values in int8" in text and "Keys and values in 8 bits: all" in text
    system.run(controller.undeploy("tiny"))

"""Quantized folders over real agents: GPTQ, AWQ, compressed-tensors and FP8 as they are stored."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.serving import ServingWish
from tests.e2e.conftest import System
from tests.models.prequantized_models import FORMATS, write_quantized
from tests.waiting import wait_until
from tests.worker_agent.tiny_models import greedy
from worker_agent.wire.messages import StageInfo

PROMPT = [5, 17, 3, 99, 41, 8]


@pytest.mark.parametrize(
    "name",
    [
        "GPTQ, 4 bits, symmetric", "GPTQ, 8 bits, asymmetric", "AWQ, groups of 64",
        "compressed-tensors, 4 bits, asymmetric", "compressed-tensors, FP8", "FP8 in blocks",
        "bitsandbytes, NF4, nested",
    ],
)  # fmt: skip
def test_a_quantized_folder_runs_as_it_is_stored_and_answers_as_transformers_does_with_what_it_means(
    name: str, shared: System, tmp_path: Path
) -> None:
    pack, said, format_ = FORMATS[name]
    model, _ = write_quantized(tmp_path / "model", pack, said)
    expected = greedy(model, PROMPT, 16)
    controller, nodes = shared.controller, [node.id for node in shared.nodes[:2]]
    description = shared.run(controller.add_model(str(tmp_path / "model"), name="prequantized"))
    try:
        assert any(f"blocks of {format_}, and mean exactly the same" in note for note in description.notes)
        wish = ServingWish(dtype="float32", context=128, kv_tokens=256)
        planned = shared.run(controller.plan("prequantized", nodes=nodes, layers="0-0,1-2", serving=wish))
        deployment = shared.run(controller.deploy("prequantized", nodes=nodes, layers="0-0,1-2", serving=wish))
        record = shared.answer("prequantized", PROMPT, max_tokens=16, ignore_eos=True)
        assert list(record.token_ids) == expected
        for at, (node, plan) in enumerate(zip(nodes, planned.stages, strict=True)):

            def told(node: int = node, at: int = at) -> StageInfo | None:
                return shared.call(lambda: controller.nodes.stage(node, deployment.id, at))

            wait_until(lambda: told() is not None)
            stage = told()
            assert stage is not None and stage.weight_bytes == plan.weight_bytes
            assert next(way for way in stage.ways if way.name == "blocks").why == ""
        assert description.weight_bytes < description.parameters * 2
    finally:
        shared.run(controller.undeploy("prequantized"))
        shared.run(controller.remove_model("prequantized"))

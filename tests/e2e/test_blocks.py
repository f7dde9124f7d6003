"""Models in blocks over real agents: a GGUF file as it is stored, and floats that are quantized while they load."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType

from app.errors import BadInput
from app.serving import ServingWish
from tests.e2e.conftest import System
from tests.models.test_gguf import write_llama, write_qwen3_moe
from tests.waiting import wait_until

PROMPT = [5, 17, 3, 99, 41, 8]


def write_mixture(path: Path, *, kind: GGMLQuantizationType) -> Path:
    """With experts as wide as transformers takes them for where it does not read it."""
    return write_qwen3_moe(path, kind=kind, forward=768, finer={"ffn_down_exps": GGMLQuantizationType.Q5_1})


@pytest.mark.parametrize(
    ("write", "kind", "layers"),
    [
        (write_llama, GGMLQuantizationType.Q4_0, "0-0,1-2"),
        (write_llama, GGMLQuantizationType.Q8_0, "0-0,1-2"),
        (write_mixture, GGMLQuantizationType.Q4_0, "0-0,1-1"),
    ],
)
def test_a_gguf_file_runs_as_it_is_stored_and_answers_as_transformers_does_with_what_it_means(
    write: Callable[..., Path], kind: GGMLQuantizationType, layers: str, shared: System, tmp_path: Path
) -> None:
    # After what imports it as agents have it, without accelerate, which is only asked for here and not used.
    from transformers import AutoModelForCausalLM, modeling_utils

    path = write(tmp_path / "stored.gguf", kind=kind)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_utils, "is_accelerate_available", lambda: True)
        model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, dtype=torch.float32).eval()
    with torch.no_grad():
        answer = model.generate(
            torch.tensor([PROMPT]), max_new_tokens=16, do_sample=False, eos_token_id=None, pad_token_id=0
        )
    controller, nodes = shared.controller, [node.id for node in shared.nodes[:2]]
    description = shared.run(controller.add_model(str(path), name="stored"))
    try:
        wish = ServingWish(dtype="float32", context=128, kv_tokens=256)
        planned = shared.run(controller.plan("stored", nodes=nodes, layers=layers, serving=wish))
        deployment = shared.run(controller.deploy("stored", nodes=nodes, layers=layers, serving=wish))
        record = shared.answer("stored", PROMPT, max_tokens=16, ignore_eos=True)
        assert list(record.token_ids) == answer[0, len(PROMPT) :].tolist()
        held = []
        for at in (0, 1):
            wait_until(lambda: shared.call(lambda: controller.nodes.stage(nodes[at], deployment.id, at)) is not None)  # noqa: B023
            stage = shared.call(lambda: controller.nodes.stage(nodes[at], deployment.id, at))  # noqa: B023
            assert stage is not None
            held.append(stage)
        # The plan said what the stages hold: the file's bytes, and its tied embedding at both ends.
        assert [stage.weight_bytes for stage in held] == [stage.weight_bytes for stage in planned.stages]
        twice = description.end("tied")
        assert (twice is not None) == (write is write_llama)
        stored = description.weight_bytes + (0 if twice is None else twice.nbytes)
        assert sum(stage.weight_bytes for stage in held) == stored
        assert all(next(way for way in stage.ways if way.name == "blocks").why == "" for stage in held)
    finally:
        shared.run(controller.undeploy("stored"))
        shared.run(controller.remove_model("stored"))


def test_a_deployment_asks_for_int8_and_says_so_wherever_it_is_told(shared: System, tiny: Path) -> None:
    controller, nodes = shared.controller, [node.id for node in shared.nodes[:2]]
    shared.run(controller.add_model(str(tiny), name="quantized"))
    try:
        deployment = shared.run(
            controller.deploy(
                "quantized", nodes=nodes, serving=ServingWish(context=128, kv_tokens=256, quantize="int8")
            )
        )
        assert deployment.serving.numbers == "float32, weights in int8"
        shared.answer("quantized", PROMPT, max_tokens=4, ignore_eos=True)
        assert controller.registry.deployments.get(deployment.id).quantize == "int8"
        with pytest.raises(BadInput, match="'int3' is nothing to quantize to"):
            shared.run(controller.plan("quantized", serving=ServingWish(quantize="int3")))
    finally:
        shared.run(controller.undeploy("quantized"))
        shared.run(controller.remove_model("quantized"))

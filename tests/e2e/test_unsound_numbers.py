"""A prompt whose numbers overflow fails alone, with a reason and an advice; answers beside it go on."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from app.errors import NodeError
from app.registry import RequestStatus
from app.serving import ServingWish
from tests.e2e.conftest import System
from tests.e2e.test_requests import sequences_held
from tests.waiting import wait_until
from tests.worker_agent.tiny_models import make_model

LOUD = 7
"""A token whose embedding is more than float16 can hold."""


def test_weights_that_overflow_are_refused_when_they_are_loaded_with_an_advice_that_fits(
    shared: System, tmp_path: Path
) -> None:
    model = make_model("llama", tmp_path / "model", num_hidden_layers=2)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.fill_(60_000.0)
    model.save_pretrained(tmp_path / "model")
    shared.run(shared.controller.add_model(str(tmp_path / "model"), name="louder"))
    try:
        nodes = [node.id for node in shared.nodes[:2]]
        with pytest.raises(NodeError) as refused:
            shared.run(shared.controller.deploy("louder", nodes=nodes, serving=ServingWish(dtype="float16")))
    finally:
        shared.run(shared.controller.remove_model("louder"))
    told = str(refused.value)
    assert "layer 1" in told and "float16" in told and "deploy the model in bfloat16 or float32" in told
    assert "hash" not in told and "SHARDBOARD_" not in told


@pytest.fixture(scope="module")
def overflowing(shared: System, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    folder: Path = tmp_path_factory.mktemp("loud") / "model"
    model = make_model("llama", folder, vocab_size=50_000, tie_word_embeddings=False, max_position_embeddings=4096)
    with torch.no_grad():
        model.get_input_embeddings().weight[LOUD] = 70_000.0
    model.save_pretrained(folder)
    shared.run(shared.controller.add_model(str(folder), name="loud"))
    nodes = [node.id for node in shared.nodes[:2]]
    shared.run(
        shared.controller.deploy(
            "loud", nodes=nodes, serving=ServingWish(dtype="float16", context=4096, kv_tokens=8192)
        )
    )
    yield shared
    shared.run(shared.controller.undeploy("loud"))
    shared.run(shared.controller.remove_model("loud"))


def test_a_prompt_whose_numbers_overflow_fails_alone_and_says_what_to_do(overflowing: System) -> None:
    system = overflowing
    deployment = system.run(system.controller.deployments.ready("loud"))[0]
    epoch = deployment.epoch
    beside = system.begin("loud", [20, 21, 22], max_tokens=3000, ignore_eos=True)
    wait_until(lambda: len(beside.token_ids) > 5)
    failed = system.answer("loud", [20, LOUD, 22], max_tokens=5, ignore_eos=True)
    assert failed.status is RequestStatus.FAILED and failed.error is not None and not failed.token_ids
    assert "layers 0-" in failed.error and "computed in float16" in failed.error
    assert "bfloat16 or float32" in failed.error and "Send the request again" not in failed.error
    before = len(beside.token_ids)
    wait_until(lambda: len(beside.token_ids) > before + 10 or beside.is_over)
    assert beside.record.error is None, "what runs beside it is not touched"
    system.run(beside.cancel())
    wait_until(lambda: sequences_held(system) == 0)
    assert system.answer("loud", [20, 21], max_tokens=3, ignore_eos=True).status is RequestStatus.COMPLETED
    assert system.controller.registry.deployments.get(deployment.id).epoch == epoch, "and nothing was linked anew"

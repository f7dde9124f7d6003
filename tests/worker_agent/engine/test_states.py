"""What sequences keep is what was set aside for them: keys and values, and states that do not grow with the text."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from app.models.description import ModelDescription
from app.serving import Serving
from app.sharding.stage_sizes import StageSizes
from tests.models.described import described
from tests.worker_agent.causal_types import VOCABULARY, make_model
from tests.worker_agent.ring import RUNTIME, CutModel, cut_model, load_message
from worker_agent.engine.executor import Admitted, Executor, StepPlan, Turn
from worker_agent.engine.loading import load_stage
from worker_agent.wire.messages import DType, KvDType

TOKENS = 40
TYPES = {
    "mamba": "states alone",
    "nemotron_h": "states and attention in turn",
    "falcon_h1": "both in each layer",
    "glm_moe_dsa": "the keys of an index beside keys and values",
    "llama": "keys and values alone",
}


@pytest.fixture(scope="module", params=TYPES)
def model(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[CutModel, ModelDescription]:
    """A tiny model as stages load it, and as the controller knows it."""
    folder = tmp_path_factory.mktemp(request.param)
    make_model(request.param, folder / "model")
    return cut_model(folder / "model", folder / "parts"), described(folder / "model")


@pytest.mark.parametrize(
    ("dtype", "kv_dtype"), [("float32", "computed"), ("bfloat16", "computed"), ("float32", "int8")]
)
def test_what_is_set_aside_is_what_a_sequence_keeps(
    model: tuple[CutModel, ModelDescription], dtype: DType, kv_dtype: KvDType
) -> None:
    cut, description = model
    sizes = StageSizes(description, Serving(dtype, TOKENS, TOKENS, kv_dtype=kv_dtype))
    edges = [0, *([3] if 3 in cut.anatomy.cuts else []), cut.anatomy.num_layers]
    given = torch.randint(0, VOCABULARY, (TOKENS,))
    for number, (start, end) in enumerate(pairwise(edges)):
        message = load_message(
            cut, start, end, number, len(edges) - 1, dtype=dtype, kv_tokens=TOKENS, max_context=TOKENS, max_sequences=1,
            kv_dtype=kv_dtype,
        )  # fmt: skip
        stage = load_stage(
            message, cut.config, cut.parts_for(start, end), lambda digest: cut.folder / digest, RUNTIME, 10**12,
            lambda done, total: None,
        )  # fmt: skip
        executor = Executor(stage)
        given = executor.step(StepPlan((Turn(1, 0, TOKENS, range(0)),), given, admitted=(Admitted(1, TOKENS),)))
        state = executor.memory[1]
        # Rows are counted without the rest of the pages that they end in.
        kept = sum(tensor.nbytes for tensor in state.exported().values()) if stage.batched else state.nbytes
        assert kept == stage.kv_bytes == sizes.kv(start, end), f"layers {start}-{end - 1}"
        executor.close()
        stage.close()

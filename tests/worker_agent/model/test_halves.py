"""Matrices of bfloat16 on a processor without instructions for it, by the kernels for blocks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tests.worker_agent.model.test_blocks import WIDE
from tests.worker_agent.model.test_blocks_proven import ways_of
from tests.worker_agent.ring import Ring, cut_model, random_prompt
from tests.worker_agent.tiny_models import VOCABULARY, make_model
from worker_agent.model import filling
from worker_agent.model.linears.blocks import building, halves, layers
from worker_agent.model.linears.blocks.formats import Blocks


@pytest.fixture(autouse=True)
def without_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the processor of the tests has."""
    assert building.kernels() is not None, building.why_not()
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 13, 100])
def test_a_product_is_that_of_the_same_numbers_in_float32_rounded_once(count: int) -> None:
    generator = torch.Generator().manual_seed(count)
    weight = torch.randn(50, 544, generator=generator).bfloat16()
    blocks = Blocks("BF16", weight.view(torch.uint8), 544)
    assert torch.equal(blocks.unfolded(), weight.float())
    given = torch.randn(count, 544, generator=generator).bfloat16()
    exact = given.double() @ weight.double().T
    found = layers.times(blocks, given)
    assert found.dtype == torch.bfloat16
    assert float((found.double() - exact).norm() / exact.norm()) < 2**-8
    if count >= layers.LEAST_WIDENED:
        wide = layers.times(blocks, given.float()).bfloat16()
        assert torch.equal(found, wide)


def test_weights_stay_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = nn.Linear(256, 300, dtype=torch.bfloat16)
    layer = halves.laid_out(plain)
    assert isinstance(layer, layers.BlockLinear)
    assert layer.blocks.data.data_ptr() == plain.weight.data_ptr()
    assert halves.laid_out(nn.Linear(40, 300, dtype=torch.bfloat16)) == "its rows are no whole 32 numbers"
    assert halves.can(torch.device("cpu"), torch.bfloat16)
    assert not halves.can(torch.device("cpu"), torch.float16)
    monkeypatch.setenv("SHARDBOARD_PACKED", "0")
    assert not halves.can(torch.device("cpu"), torch.bfloat16)


@pytest.mark.parametrize("tied", [True, False])
def test_a_model_in_bfloat16_takes_no_more_memory_so_and_gives_the_same(
    tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_model("llama", tmp_path / "model", **WIDE, tie_word_embeddings=tied, vocab_size=512)
    cut = cut_model(tmp_path / "model", tmp_path / "parts")
    ring = Ring.build(cut, [], dtype="bfloat16")
    monkeypatch.setenv("SHARDBOARD_PACKED", "0")
    plain = Ring.build(cut, [], dtype="bfloat16")
    stage, ways = ring.runners[0].stage, ways_of(ring.runners[0].stage)
    assert ways["packed"].used == ways["packed"].possible == 3 * 4 + 1, ways["packed"]
    assert ways["recorded"].used == 1
    assert "SHARDBOARD_PACKED=0" in ways_of(plain.runners[0].stage)["packed"].why
    assert stage.weight_bytes == plain.runners[0].stage.weight_bytes == filling.weight_bytes(cut.parts, torch.bfloat16)
    whole = stage.slice.model
    first, last = whole.get_input_embeddings(), whole.get_output_embeddings()
    assert isinstance(last, layers.BlockLinear)
    assert (last.blocks.data.data_ptr() == first.weight.data_ptr()) is tied
    for each in (ring, plain):
        each.start(1, random_prompt(9, VOCABULARY, 8), 8)
        each.finish()
    assert ring.answer(1) == plain.answer(1)

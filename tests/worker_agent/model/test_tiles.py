"""Many rows of bfloat16 over weights in blocks, by a processor's tiles."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch

from tests.worker_agent.model.test_blocks import random_blocks
from tests.worker_agent.model.test_blocks_proven import SCALE
from worker_agent.model.linears.blocks import building, layers
from worker_agent.model.linears.blocks.formats import Blocks
from worker_agent.wire.messages import BLOCK_FORMATS


@pytest.fixture(autouse=True)
def tiles() -> building.Kernels:
    kernels = building.kernels()
    if kernels is None or not kernels.has_tiles:
        pytest.skip("this processor has no tiles for bfloat16")
    return kernels


@pytest.fixture(params=(1, 2))
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def meant(blocks: Blocks, rows: torch.Tensor) -> torch.Tensor:
    return rows.double() @ blocks.unfolded().double().T


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found.double() - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("format_", BLOCK_FORMATS)
def test_every_format_is_multiplied_but_for_the_rounding_of_weights_and_results(format_: str) -> None:
    blocks = random_blocks(format_, 70, 2304)  # no whole number of panels, nor of what is unfolded at a time
    for count in (1, 45):
        given = torch.randn(count, 2304, generator=torch.Generator().manual_seed(count)).to(torch.bfloat16)
        # Weights and results are rounded to 8 bits each, which is off by at most 2**-9, and by 0.6 of that as a rule.
        assert off(layers.times_unfolded(blocks, given), meant(blocks, given)) < 2**-8.5


@pytest.mark.parametrize(
    ("format_", "floats"), [("Q4_0", torch.float16), ("FP8_128", torch.float32), ("INT4_32", torch.float32)]
)
def test_a_matrix_of_one_scale_leans_to_no_side(format_: str, floats: torch.dtype) -> None:
    blocks = random_blocks(format_, 256, 1024)
    scale = torch.tensor([SCALE], dtype=floats).view(torch.uint8)
    blocks.data.view(-1, BLOCK_FORMATS[format_][1])[:, : len(scale)] = scale
    given = torch.randn(48, 1024, generator=torch.Generator().manual_seed(2)).to(torch.bfloat16)
    wanted = meant(blocks, given)
    rounded = given.double() @ blocks.unfolded().to(torch.bfloat16).double().T
    along = [
        float(((each - wanted) * wanted).sum() / wanted.square().sum())
        for each in (layers.times_unfolded(blocks, given).double(), rounded)
    ]
    assert abs(along[0]) < 4e-5 < 1e-4 < abs(along[1]), along


def test_scales_of_nothing_and_of_any_size_are_multiplied() -> None:
    blocks = random_blocks("INT4_32", 64, 256)
    scales = torch.tensor([0.0, 1e-38, 3e-31, 1e-3, -2.0, 1e15]).repeat(11)[:64][:, None].repeat(1, 8)
    scales[:, 5:] = 0.5
    data = blocks.data.view(64, 8, -1)
    data[:, :, :4] = scales.contiguous().view(torch.uint8).view(64, 8, 4)
    given = torch.randn(20, 256, generator=torch.Generator().manual_seed(3)).to(torch.bfloat16)
    found, wanted = layers.times_unfolded(blocks, given).double(), meant(blocks, given)
    assert torch.isfinite(found).all()
    assert ((found - wanted).norm(dim=0) / wanted.norm(dim=0)).max() < 2**-7


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(("rows", "columns"), [(1, 32), (16, 64), (31, 1024), (33, 1056), (129, 96), (300, 2080)])
def test_every_shape_is_multiplied_to_its_last_row(rows: int, columns: int) -> None:
    blocks = random_blocks("Q4_0", rows, columns)
    for count in (1, 15, 16, 17, 31, 32, 33, 512, 530):
        given = torch.randn(count, columns, generator=torch.Generator().manual_seed(count)).to(torch.bfloat16)
        found, wanted = layers.times_unfolded(blocks, given).double(), meant(blocks, given)
        assert found.shape == wanted.shape
        assert float((found - wanted).abs().max()) < 2**-6 * float(wanted.abs().max()), count


def test_a_row_of_input_gives_the_same_whatever_comes_with_it_and_whoever_computes_it() -> None:
    blocks = random_blocks("Q4_K", 200, 2560)
    given = torch.randn(600, 2560, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    whole = layers.times_unfolded(blocks, given)
    before = torch.get_num_threads()
    for threads, (start, count) in itertools.product((1, 2), ((0, 1), (7, 20), (500, 100))):
        torch.set_num_threads(threads)
        try:
            assert torch.equal(
                layers.times_unfolded(blocks, given[start : start + count]), whole[start : start + count]
            )
        finally:
            torch.set_num_threads(before)


def test_torchs_own_tiles_and_ours_do_not_disturb_each_other() -> None:
    blocks = random_blocks("Q8_0", 96, 512)
    weights = torch.randn(512, 512).to(torch.bfloat16)
    given = torch.randn(64, 512).to(torch.bfloat16)
    ours, theirs = layers.times_unfolded(blocks, given), given @ weights
    for _ in range(20):
        assert torch.equal(given @ weights, theirs)
        assert torch.equal(layers.times_unfolded(blocks, given), ours)


def test_a_matrix_is_not_unfolded_by_tiles_for_rows_of_float32(
    tiles: building.Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building.Kernels, "multiply_tiles", lambda *_: pytest.fail("float32 has more digits"))
    blocks = random_blocks("Q4_0", 64, 256)
    given = torch.randn(40, 256)
    assert off(layers.times_unfolded(blocks, given), meant(blocks, given)) < 1e-6

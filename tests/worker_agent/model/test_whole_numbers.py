"""Few rows of input against matrices in blocks, in whole numbers: as near to the exact product as is said of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.worker_agent.model.test_blocks import random_blocks
from worker_agent.model.linears.blocks import building, layers
from worker_agent.model.linears.blocks.formats import NUMBERS, Blocks
from worker_agent.wire.messages import BLOCK_FORMATS

ROWS, COLUMNS = 24, 512
IN_FLOATS = ("FP8", "NF4", "FP4")
"""Each weight of these is looked up as a float: there are no whole numbers, and no way of their own for a few rows."""
ORDER_OF_SUMS = 3e-7
"""What float32 makes of sums of 512 products, of both rows' lengths multiplied."""


@pytest.fixture(autouse=True)
def compiled() -> None:
    assert building.kernels() is not None, building.why_not()


def product(blocks: Blocks, rows: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What rows of such a type give, before it is rounded to the type."""
    kernels = building.kernels()
    assert kernels is not None
    return kernels.multiply_few(NUMBERS[blocks.format], blocks.data, rows, layers.LOSSES[dtype])


def is_near(found: torch.Tensor, blocks: Blocks, rows: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether each number is as near to the exact one as `LOSSES` says of the type."""
    weights, given = blocks.unfolded().double(), rows.double()
    lengths = given.norm(dim=1)[:, None] * weights.norm(dim=1)
    return bool(((found - given @ weights.T).abs() <= (layers.LOSSES[dtype] + ORDER_OF_SUMS) * lengths).all())


def rows_of_all_kinds() -> torch.Tensor:
    """Of few digits and of many, with numbers that stand out by as much as can be, nothing at all, tiny, huge."""
    rows = torch.randn(12, COLUMNS, generator=torch.Generator().manual_seed(5))
    rows[:6] = rows[:6].bfloat16()
    rows[1, 40], rows[2, 7], rows[3, 33] = 4096, torch.inf, -torch.inf
    rows[4] = 0
    rows[5, 32:64] = 0
    rows[6, 40], rows[7, 9] = 3e5, torch.nan
    rows[8] *= 1e-38
    rows[9] *= 1e30
    rows[10] = rows[10] ** 9
    return rows


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("format_", BLOCK_FORMATS)
def test_what_a_row_gives_is_near_to_the_exact_product_and_the_same_to_the_bit_whoever_is_beside_it(
    format_: str, dtype: torch.dtype
) -> None:
    blocks, rows = random_blocks(format_, ROWS, COLUMNS), rows_of_all_kinds()
    alone = torch.cat([product(blocks, row[None], dtype) for row in rows])
    kernels = building.kernels()
    assert kernels is not None and kernels.few(NUMBERS[format_]) == (1 if format_.startswith(IN_FLOATS) else 4)
    for count in range(2, kernels.few(NUMBERS[format_]) + 1):
        for start in range(len(rows) - count + 1):
            together = product(blocks, rows[start : start + count], dtype)
            # As bits: what is no number is not equal to itself.
            assert torch.equal(together.view(torch.int32), alone[start : start + count].view(torch.int32))
    finite = rows.isfinite().all(dim=1)
    assert torch.equal(alone.isfinite().all(dim=1), finite)
    assert is_near(alone[finite], blocks, rows[finite], dtype)


def test_rows_of_bfloat16_give_what_the_same_numbers_do_as_floats_rounded_once() -> None:
    blocks, rows = random_blocks("Q4_K", ROWS, COLUMNS), rows_of_all_kinds().bfloat16()
    for row in rows:
        wanted = product(blocks, row[None].float(), torch.bfloat16).bfloat16()
        assert torch.equal(layers.times(blocks, row[None]).nan_to_num(7), wanted.nan_to_num(7))
    assert layers.times(blocks, rows[:0]).shape == (0, ROWS)


@pytest.mark.parametrize("power", [0, 3, 6, 9, 12, 20, 40, 90])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_a_number_that_stands_out_takes_no_digits_from_its_neighbours(power: int, dtype: torch.dtype) -> None:
    blocks = random_blocks("Q8_0", ROWS, COLUMNS)
    blocks.data.view(ROWS, -1, 34)[:, 1, 2 + 8] = 0  # the weights of column 40, so that it hides no fault of the others
    row = torch.randn(1, COLUMNS, generator=torch.Generator().manual_seed(power)).to(dtype).float()
    row[0, 40] = 2.0**power
    exact = row.double() @ blocks.unfolded().double().T
    found = product(blocks, row, dtype)
    assert float((found - exact).norm() / exact.norm()) < layers.LOSSES[dtype] + ORDER_OF_SUMS


@pytest.mark.parametrize(
    ("format_", "byte", "halves"),
    [("Q8_0", 128, [0]), ("Q8_0", 127, [0]), ("Q6_K", 255, [208]), ("Q5_1", 255, [0, 2]), ("Q4_K", 255, [0, 2])],
)
def test_codes_and_inputs_at_the_ends_of_their_ranges_do_not_overflow(
    format_: str, byte: int, halves: list[int]
) -> None:
    blocks = random_blocks(format_, ROWS, COLUMNS)
    content = blocks.data.view(-1, BLOCK_FORMATS[format_][1])
    content[:] = byte
    for at in halves:
        content[:, at : at + 2] = torch.tensor([0.05], dtype=torch.float16).view(torch.uint8)
    for dtype, size in ((torch.bfloat16, 1.9921875), (torch.float32, 1.99999988)):  # the largest that begin with 1
        rows = torch.full((3, COLUMNS), size)
        rows[1], rows[2, ::2] = -size, -size
        assert is_near(product(blocks, rows, dtype), blocks, rows, dtype)


def test_kernels_are_compiled_anew_when_a_header_of_theirs_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(building, "SOURCE", tmp_path / "tiny.c")
    monkeypatch.setattr(building.platformdirs, "user_cache_dir", lambda *_given, **_more: str(tmp_path / "cache"))
    building.SOURCE.write_text('#include "tiny.h"\nint tiny(void) { return NUMBER; }\n')
    made = []
    for number in (1, 2, 1):
        (tmp_path / "tiny.h").write_text(f"#define NUMBER {number}\n")
        made.append(building._compiled("tiny.so", (), 4))
    assert made[0] == made[2] != made[1] and all(each.is_file() for each in made)

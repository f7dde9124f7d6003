"""Matrices in the layout that the CPU reads fastest, packed where they lie."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from worker_agent.model.linears import packed
from worker_agent.model.ways import Tally

SMALL = 16 * 1024


@pytest.fixture(autouse=True)
def small_matrices_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    if not packed.can_pack(torch.device("cpu"), torch.float32):
        pytest.skip("this machine has no kernels for packed weights")
    monkeypatch.setitem(packed.LEAST_ELEMENTS, torch.float32, 1)
    monkeypatch.setattr(packed, "PIECE_BYTES", SMALL)


@torch.inference_mode()
@pytest.mark.parametrize("bias", [True, False])
def test_a_large_matrix_is_packed_in_pieces_and_computes_the_same(bias: bool) -> None:
    module, given = nn.Sequential(nn.Linear(64, 199, bias=bias)), torch.randn(2, 5, 64)
    expected, tally = module(given), Tally()
    packed.pack(module, torch.float32, tally)
    assert isinstance(module[0], packed.PackedPieces) and len(module[0].pieces) == 4
    assert (tally.taken, tally.possible) == (1, 1)
    torch.testing.assert_close(module(given), expected)


def test_a_matrix_of_which_a_piece_differs_stays_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Sequential(nn.Linear(64, 199))
    plain, before, seen = module[0], module[0].weight.detach().clone(), []

    def differs(one: nn.Linear, other: packed.PackedLinear) -> str:
        seen.append(other)
        return "it gives something else" if len(seen) == 3 else ""

    monkeypatch.setattr(packed, "_differs", differs)
    tally = Tally()
    packed.pack(module, torch.float32, tally)
    assert module[0] is plain and torch.equal(plain.weight, before)
    assert (tally.taken, tally.possible, tally.why) == (0, 1, "a matrix of 199 x 64: it gives something else")


@torch.inference_mode()
def test_a_matrix_that_two_layers_have_is_packed_for_both_and_lost_for_none() -> None:
    module, given = nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 64)), torch.randn(3, 64)
    module[1].weight = module[0].weight
    expected = module(given)
    packed.pack(module, torch.float32, Tally())
    torch.testing.assert_close(module(given), expected)

"""Float matrices put into blocks while a stage loads: 8 bits as Q8_0, 4 bits as Q4_K or Q4_1.

4 bits: each group of 32 weights gets the scale and the minimum with the least squared error, found by fitting them to
the whole numbers that the range of the group suggests, twice. Q4_K keeps scales and minima themselves in 6 bits (4.5
bits a weight) and wants rows of whole 256; elsewhere Q4_1 keeps them in float16 (5 bits a weight).
"""

from __future__ import annotations

import torch

from worker_agent.model.linears.blocks import building
from worker_agent.model.linears.blocks.formats import Blocks
from worker_agent.wire.messages import BLOCK_FORMATS, Quantize
from worker_agent.wire.messages.parts import quantized_format

CHUNK_ELEMENTS = 1 << 20
"""Weights that are worked on at a time, so that memory holds little besides the matrix (less than `heap.LARGE`)."""


def made(weight: torch.Tensor, quantize: Quantize) -> Blocks | None:
    """A matrix [rows, columns] of floats in blocks for `int8` or `int4`; None where its rows are no whole blocks."""
    rows, columns = weight.shape
    format_ = quantized_format(quantize, columns)
    if not format_:
        return None
    weights, size = BLOCK_FORMATS[format_]
    data = torch.empty(rows, columns // weights * size, dtype=torch.uint8)
    make = {"Q8_0": _q8_0, "Q4_1": _q4_1, "Q4_K": _q4_k}[format_]
    step = max(1, CHUNK_ELEMENTS // columns)
    for start in range(0, rows, step):
        chunk = weight[start : start + step].detach().to("cpu", torch.float32)
        data[start : start + step] = make(chunk.reshape(-1, weights)).view(chunk.shape[0], -1)
    return Blocks(format_, data, columns)


def put_meaning(blocks: Blocks, weight: torch.Tensor) -> tuple[float, float]:
    """Give a matrix the values that its blocks mean.

    Returns the sum of the squares of what that changed, and that of the weights as they were.
    """
    changed = size = 0.0
    step = max(1, CHUNK_ELEMENTS // blocks.columns)
    for start in range(0, blocks.rows, step):
        rows = weight.data[start : start + step]
        was, meant = rows.to("cpu", torch.float32), blocks.unfolded(start, start + rows.shape[0])
        size += float(torch.linalg.vector_norm(was)) ** 2
        changed += float(torch.linalg.vector_norm(was.sub_(meant) if was is not rows else was - meant)) ** 2
        rows.copy_(meant)
    return changed, size


def _bytes(numbers: torch.Tensor) -> torch.Tensor:
    """float16 [n] as uint8 [n, 2]"""
    return numbers.to(torch.float16).view(-1, 1).view(torch.uint8)


def _nibbles(codes: torch.Tensor) -> torch.Tensor:
    """uint8 [n, 32] -> [n, 16]: the first half low, the second high."""
    return codes[:, :16] | (codes[:, 16:] << 4)


def _inverse(scale: torch.Tensor) -> torch.Tensor:
    return torch.where(scale == 0, 0.0, 1.0 / scale)


def _q8_0(groups: torch.Tensor) -> torch.Tensor:
    scale = (groups.abs().amax(1) / 127).to(torch.float16).float()
    codes = (groups * _inverse(scale)[:, None]).round().clamp(-127, 127).to(torch.int8)
    return torch.cat([_bytes(scale), codes.view(torch.uint8)], dim=1)


def _fitted(groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Scale and minimum of each group [n, 32] for whole numbers from 0 to 15; the minimum is not above 0.

    `kernels.c` has the same, and is thirty times faster.
    """
    if (kernels := building.kernels()) is not None:
        return kernels.fit(groups)
    least = groups.amin(1).clamp(max=0)
    scale = (groups.amax(1) - least).clamp(min=0) / 15
    count = groups.shape[1]
    total = groups.sum(1)
    for _ in range(2):
        codes = _codes(groups, scale, least)
        ones, squares, mixed = codes.sum(1), codes.square().sum(1), (codes * groups).sum(1)
        spread = count * squares - ones.square()
        better = torch.where(spread > 0, (count * mixed - ones * total) / spread, scale)
        shift = (total - better * ones) / count
        # A minimum above nothing cannot be kept: the best scale without one then.
        above = shift > 0
        better = torch.where(above, mixed * _inverse(squares), better).clamp(min=0)
        shift = torch.where(above, 0.0, shift)
        old = (codes * scale[:, None] + least[:, None] - groups).square().sum(1)
        fresh = _codes(groups, better, shift)
        new = (fresh * better[:, None] + shift[:, None] - groups).square().sum(1)
        scale, least = torch.where(new < old, better, scale), torch.where(new < old, shift, least)
    return scale, least


def _codes(groups: torch.Tensor, scale: torch.Tensor, least: torch.Tensor) -> torch.Tensor:
    return ((groups - least[:, None]) * _inverse(scale)[:, None]).round().clamp(0, 15)


def _numbers(groups: torch.Tensor, scale: torch.Tensor, least: torch.Tensor) -> torch.Tensor:
    """The whole numbers of the groups, uint8 [n, 32]."""
    if (kernels := building.kernels()) is not None:
        return kernels.codes(groups, scale.contiguous(), least.contiguous())
    return _codes(groups, scale, least).to(torch.uint8)


def _q4_1(groups: torch.Tensor) -> torch.Tensor:
    scale, least = (each.to(torch.float16).float() for each in _fitted(groups))
    codes = _numbers(groups, scale, least)
    return torch.cat([_bytes(scale), _bytes(least), _nibbles(codes)], dim=1)


def _q4_k(blocks: torch.Tensor) -> torch.Tensor:
    groups = blocks.reshape(-1, 32)
    scale, least = (each.view(-1, 8) for each in _fitted(groups))
    whole, lowest = (
        (each.amax(1) / 63).to(torch.float16).float() for each in (scale, -least)
    )  # what scales and minima are counted in
    scales, minima = (
        (each * _inverse(unit)[:, None]).round().clamp(0, 63).to(torch.uint8)
        for each, unit in ((scale, whole), (-least, lowest))
    )
    kept = (scales.float() * whole[:, None]).view(-1), -(minima.float() * lowest[:, None]).view(-1)
    codes = _numbers(groups, *kept).view(-1, 4, 2, 32)
    packed = torch.cat(
        [
            (scales[:, :4] & 63) | ((scales[:, 4:] >> 4) << 6),
            (minima[:, :4] & 63) | ((minima[:, 4:] >> 4) << 6),
            (scales[:, 4:] & 15) | ((minima[:, 4:] & 15) << 4),
        ],
        dim=1,
    )
    both = (codes[:, :, 0] | (codes[:, :, 1] << 4)).reshape(-1, 128)
    return torch.cat([_bytes(whole), _bytes(lowest), packed, both], dim=1)

"""What it takes to say that two ways of computing give the same.

Two ways that are mathematically equal differ in their last bits, because sums are added up in another order. How
much that can be is known, and anything beyond it is a fault:

- A sum of K products in another order differs by about eps * sqrt(K) of its own size (random rounding errors). In
  float32 that is all: with the widest matrices (K = 30,000) and some eight such sums one behind the other in a layer,
  8 * 6e-8 * 170 = 8e-5 (`Tolerance.spread`).
- In bfloat16 and float16 sums are kept in float32, and what is rounded is every result on its way: some thirty of
  them in a layer, each of which may fall to the other side, so sqrt(30) half steps, times three to be sure.
- Rounding leans to neither side. A weight that is off by half a percent changes every number by a step of bfloat16
  or less, which hides in the spread; but all of them by as much and to the same side. `lean` is how far the found
  numbers stand from the expected ones in the expected ones' own direction; over the thousands of numbers of a trial
  rounding cancels out there, and such a fault does not.

Differences are taken relative to what a layer adds to its input, since the input itself passes unchanged and would
hide it. (A router of a mixture may choose another expert where two score the same within rounding; that happens to
single tokens in half precision, which is why a few may differ there.)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Tolerance:
    """What may differ, relative to what a layer adds: a token's root mean square, and the lean of all of them."""

    spread: float
    lean: float
    outliers: float
    """Which part of the tokens may differ by more."""


TOLERANCES = {
    torch.float32: Tolerance(spread=8e-5, lean=2e-5, outliers=0.0),
    torch.bfloat16: Tolerance(spread=3.3e-2, lean=1.2e-3, outliers=0.08),
    torch.float16: Tolerance(spread=4.1e-3, lean=1.5e-4, outliers=0.08),
}
"""Half a percent, which is what a skewed norm was tried with, is 60, 4 and 33 times what is allowed."""
NUMBERS_AT_A_TIME = 64 * 1024
"""What is compared at a time; in double precision, several times over."""


def difference(
    expected: torch.Tensor,
    found: torch.Tensor,
    dtype: torch.dtype,
    given: torch.Tensor | None = None,
    factor: float = 1.0,
) -> str:
    """How `found` differs from `expected` by more than rounding may; empty if it does not.

    Args:
        expected, found: [tokens, width].
        dtype: in which both were computed.
        given: what went in, [tokens, width], where it passes through and something is added to it.
        factor: how many times the difference of one layer is allowed.
    """
    if expected.shape != found.shape:
        return f"it gives {tuple(found.shape)} instead of {tuple(expected.shape)}"
    tolerance, eps = TOLERANCES[dtype], torch.finfo(dtype).eps
    through = given is not None and given.shape == expected.shape
    sums = _Sums.of(expected, found, given if through else None)
    if not bool(torch.isfinite(sums.found).all()):
        return "its numbers stop being finite"
    width = expected.shape[-1]
    size = (sums.added / width).sqrt()
    # What passes through is rounded to a step of its own size, which may be large beside what was added.
    step = eps * (sums.wanted / width).sqrt()
    allowed = factor * tolerance.spread * size + 2 * step + torch.finfo(torch.float32).tiny
    apart = (sums.apart / width).sqrt()
    excess = apart / allowed
    ordinary = excess <= 1
    if int((~ordinary).sum()) > tolerance.outliers * len(excess):
        worst = int(excess.argmax())
        share = float(apart[worst] / size[worst].clamp_min(1e-300))
        return f"token {worst} differs by {share:.2g} of what is added, allowed are {tolerance.spread * factor:.2g}"
    power = float(sums.added[ordinary].sum())
    if not power:
        return ""
    lean = float(sums.along[ordinary].sum()) / power
    # What rounding alone makes of the lean of so many numbers, five times over.
    noise = 5 * float(sums.along_squared[ordinary].sum().sqrt()) / power
    bound = factor * tolerance.lean + noise
    if abs(lean) > bound:
        return f"its numbers lean {100 * lean:+.3f} % to one side, allowed are {100 * bound:.3f} %"
    return ""


@dataclass(frozen=True, slots=True)
class _Sums:
    """Sums over the numbers of each token, [tokens], in double precision."""

    found: torch.Tensor
    wanted: torch.Tensor
    """Of squares, as the next two."""
    added: torch.Tensor
    apart: torch.Tensor
    along: torch.Tensor
    """How far what is found stands from what is wanted, times what is added."""
    along_squared: torch.Tensor

    @classmethod
    def of(cls, expected: torch.Tensor, found: torch.Tensor, given: torch.Tensor | None) -> _Sums:
        """Of a few tokens at a time: all of them are hundreds of MB where a vocabulary is large."""
        rows = max(1, NUMBERS_AT_A_TIME // max(1, expected.shape[-1]))
        sums = []
        for start in range(0, len(expected), rows):
            part = slice(start, start + rows)
            wanted, got = expected[part].detach().double(), found[part].detach().double()
            added = wanted if given is None else wanted - given[part].detach().double()
            apart = got - wanted
            along = apart * added
            squares = (wanted.square(), added.square(), apart.square(), along, along.square())
            sums.append(torch.stack([each.sum(-1) for each in (got, *squares)]))
        return cls(*torch.cat(sums, dim=-1))

"""Numbers that stop being finite: which sequences of a step they belong to, and where it began.

An overflow in float16, or broken weights, make infinities and then not-a-numbers of a sequence's hidden states; what a
sampler makes of these is token 0 for ever. Other sequences of the same step are not touched by it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from worker_agent.engine.stage import Row


def overflow(where: str, dtype: str) -> str:
    """What to say when numbers stop being finite in a stage or layer."""
    if dtype == "float16":
        advice = "they overflow; deploy the model in bfloat16 or float32"
    else:
        advice = "the weights are broken, or not meant for this model; get them again from where they came from"
    return f"the numbers stop being finite in {where}, computed in {dtype}: {advice}"


class Soundness:
    """What a stage knows of its sequences in this respect."""

    def __init__(self) -> None:
        self.unsound: set[int] = set()
        """Sequences whose numbers are none any more; they wait for their end."""

    def forget(self, sequence: int) -> None:
        self.unsound.discard(sequence)

    def forget_all(self) -> None:
        self.unsound.clear()

    def look(self, rows: Sequence[Row], given: torch.Tensor, output: torch.Tensor, is_last: bool) -> tuple[int, ...]:
        """The sequences whose numbers stopped being finite in this step and on this stage.

        Args:
            given: token ids [tokens], or hidden states [tokens, hidden].
            output: hidden states [tokens, hidden], or on the last stage logits [wanted of all rows, vocabulary].
        """
        sound = _possible if is_last else _finite
        if sound(output):
            return ()
        start = at = 0
        found = []
        for row in rows:
            count = len(row.wanted) if is_last else row.count
            inner, outer = given[start : start + row.count], output[at : at + count]
            start, at = start + row.count, at + count
            if row.sequence in self.unsound or sound(outer):
                continue
            self.unsound.add(row.sequence)
            if not inner.is_floating_point() or _finite(inner):
                found.append(row.sequence)  # else the stage where it began has told it
        return tuple(found)


def _finite(numbers: torch.Tensor) -> bool:
    return bool(torch.isfinite(numbers).all())


def _possible(logits: torch.Tensor) -> bool:
    """Logits may be minus infinity: some models bar tokens like this."""
    return not len(logits) or bool(logits.max() < torch.inf)  # NaN is not less than anything

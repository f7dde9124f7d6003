"""Which of the faster ways a stage runs, and why not the others: a speed-up that is lost is told, never guessed.

What a stage can do differently from transformers' own pass, with the same result:

- `batched`: sequences of unlike length share a pass;
- `lockstep`: passes of several sequences go side by side, and what treats each token by itself runs once for all;
- `pieces`: a long prompt comes in several steps;
- `reused`: a prompt starts where an earlier one was that began in the same way;
- `blocks`: matrices that stay in the blocks in which they are stored, or into which they were quantized;
- `packed`: matrices in the layout, or by the kernels, that the CPU reads them with fastest;
- `joined`: matrices with one input as one matrix;
- `norms`: norms by torch's own kernel;
- `recorded`: the whole pass without Python between the layers;
- `captured`: steps of one token of each sequence in fixed shapes, which a GPU runs again by one call each;
- `kv_int8`: keys and values kept in 8 bits, where that was asked for.
"""

from __future__ import annotations

from worker_agent.wire.messages import Way, WayName

MAX_REASON = 300


class Tally:
    """How often one way was taken, out of how often it could have been."""

    def __init__(self) -> None:
        self.taken = 0
        self.possible = 0
        self.why = ""
        """Why not everywhere: the first reason met."""

    def used(self, count: int = 1) -> None:
        self.taken += count
        self.possible += count

    def lost(self, why: str, count: int = 1) -> None:
        self.possible += count
        self.why = self.why or why

    def add(self, other: Tally) -> None:
        self.taken += other.taken
        self.possible += other.possible
        self.why = self.why or other.why


class Ways:
    """The ways of one stage, tallied while it is loaded."""

    def __init__(self) -> None:
        self._tallies: dict[WayName, Tally] = {}

    def __getitem__(self, name: WayName) -> Tally:
        return self._tallies.setdefault(name, Tally())

    def add(self, other: Ways) -> None:
        for name, tally in other._tallies.items():
            self[name].add(tally)

    def __str__(self) -> str:
        return ", ".join(f"{name} {tally.taken}/{tally.possible}" for name, tally in self._tallies.items())

    def report(self) -> tuple[Way, ...]:
        """As it is told to the controller. Of what was not asked for, or is not there, no stage speaks."""
        return tuple(
            Way(name, tally.taken, tally.possible, tally.why[:MAX_REASON])
            for name, tally in self._tallies.items()
            if name not in ("blocks", "kv_int8") or tally.possible or (name == "kv_int8" and tally.why)
        )

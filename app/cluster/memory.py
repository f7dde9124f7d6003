"""Whether an agent's process holds what the agent believes to hold, and how that is said.

What a process holds swings: a step's activations come and go, a load takes a moment to settle, the allocator keeps a
little. So a difference counts once it has lasted, is more than a tenth and more than a floor, and is over once it is
clearly smaller than that.
"""

from __future__ import annotations

from dataclasses import dataclass

from app.figures import size_text
from worker_agent.wire.messages import HealthReport

SHARE = 0.10
"""Of what is believed: a larger difference counts."""
CALM_SHARE = 0.06
"""A difference below it is over. Between the two everything stays as it is."""
FLOOR = 64_000_000
"""Smaller differences never count: code that one architecture needs, programs that oneDNN writes, parts on their way
and what the allocator keeps are some tens of megabytes (12 to 20 with a first stage, measured)."""
LASTING_BEATS = 8
"""For how many beats a difference, or its end, has to last."""
SETTLING_BEATS = 8
"""So many beats after a stage came or went nothing is judged."""
BASE_SLACK = 96_000_000
"""An agent's base may grow by so much over what it was when it was first heard of: code is read when it is needed,
30 MB of it before the first stage."""
LARGE_STEP_TOKENS = 32
"""A step of more tokens is part of a prompt: its activations are large, and gone with it."""


@dataclass(frozen=True)
class AgentMemory:
    """A node's memory as its agent told it. Bytes; of main memory, except the budget and what is used of it."""

    node_id: int
    agent: int
    """What the agent itself takes, without any stage."""
    believed: int
    """The agent itself, weights, and the keys and values of this moment."""
    held: int
    """What its process really holds."""
    used: int
    """Of the budget: weights, and all keys and values that may come."""
    budget: int

    @classmethod
    def of(cls, node_id: int, report: HealthReport) -> AgentMemory:
        return cls(
            node_id, report.memory_base, report.memory_held, report.process_memory, report.memory_used,
            report.memory_budget,
        )  # fmt: skip


class MemoryWatch:
    """Judges one agent's beats, one after another.

    An agent that holds no stage takes what its process holds for its base. So that what was undeployed and did not
    come back is seen all the same, a base counts up to a little over what it was when the agent was first heard of.
    """

    def __init__(self) -> None:
        self.differs = False
        self.base = self.believed = 0
        """What is accounted for, as of the last beat that was judged."""
        self._first_base = 0
        self._boot = ""
        self.idle = True
        """Whether the agent held no stage then."""
        self._stages: frozenset[tuple[str, int]] | None = None
        self._settled: int | None = None
        self._settling = self._lasted = 0

    def judge(self, report: HealthReport) -> bool:
        """Take a beat. Returns whether `differs` is another than before."""
        stages = frozenset((stage.deployment, stage.stage) for stage in report.stages)
        if report.boot != self._boot:  # another process
            self.differs, self._boot, self._first_base = False, report.boot, report.memory_base
            self._stages = None
        if stages != self._stages or report.loading:
            self._stages, self._settling, self._lasted, self._settled = stages, SETTLING_BEATS, 0, None
        progress = report.progress
        if self._settling > 0:
            self._settling -= 1
            return False
        if progress.busy_seconds is not None and progress.busy_tokens > LARGE_STEP_TOKENS:
            return False
        self.base = min(report.memory_base, self._first_base + BASE_SLACK)
        self.believed = report.memory_held - report.memory_base + self.base
        self.idle = not report.stages
        if report.stages and report.memory_held == report.memory_base:  # they lie in a GPU's memory
            # What the GPU's libraries take of main memory for a stage is not known beforehand: growth is what counts.
            self._settled = report.process_memory if self._settled is None else self._settled
            self.base = self.believed = max(self.base, self._settled)
        off = abs(report.process_memory - self.believed)
        changes = off < self._limit(CALM_SHARE) if self.differs else off > self._limit(SHARE)
        self._lasted = self._lasted + 1 if changes else 0
        if self._lasted < LASTING_BEATS:
            return False
        self.differs, self._lasted = not self.differs, 0
        return True

    def _limit(self, share: float) -> float:
        """In bytes. The floor shrinks with the share, or what is over would begin anew with the next swing."""
        return max(FLOOR * share / SHARE, share * self.believed)


def difference_text(base: int, believed: int, held: int, *, idle: bool) -> str:
    """Both figures in a sentence, and what to do.

    Args:
        idle: the agent holds no stage.
    """
    if idle and held > believed:
        return (
            f"The agent's process holds {size_text(held)} of memory without any stage, where {size_text(base)} were to "
            "be expected: what it held before has not come back. Stop the agent and start it again to free it."
        )
    stages = f", {size_text(believed - base)} by its stages" if believed > base else ""
    figures = (
        f"The agent's process holds {size_text(held)} of memory, and {size_text(believed)} are accounted for "
        f"({size_text(base)} by the agent itself{stages})"
    )
    if held > believed:
        return (
            f"{figures}: {size_text(held - believed)} more. If that goes on growing, stop the agent and start it "
            "again when no answer is under way; the next request loads its stages again from its own disk."
        )
    return (
        f"{figures}: {size_text(believed - held)} less. The machine may have moved some of it to disk, which makes "
        "answers slow: end other programs there, or deploy fewer layers on this node."
    )


def agreement_text(believed: int, held: int) -> str:
    return (
        f"The agent's process holds {size_text(held)} of memory, about what is accounted for again "
        f"({size_text(believed)})."
    )

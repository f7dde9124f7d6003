"""What a stage does with a step that comes late, twice, or out of order: a pure state machine.

| what arrives | verdict |
| --- | --- |
| another plan, or an older epoch | DROP |
| a step number that was run already | RESEND what it brought |
| another boot id of the sender | RESTARTED: the stage before was restarted and has forgotten its caches |
| a step number further on than the next | DROP: one was lost; the sender repeats what is not answered, in order |
| the next one | RUN |
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto


class Verdict(Enum):
    RUN = auto()
    RESEND = auto()
    DROP = auto()
    RESTARTED = auto()


@dataclass
class Gate:
    """The stage's memory of what came before, within one epoch."""

    plan: str
    epoch: int
    boot: str | None = None
    """Boot id of the sender of this epoch's first step."""
    last_step: int = 0

    def judge(self, plan: str, epoch: int, boot: str, step: int) -> Verdict:
        """What to do with a step. A newer epoch than the stage knows is dropped too: its Link has not come."""
        if plan != self.plan or epoch != self.epoch:
            return Verdict.DROP
        if self.boot is not None and boot != self.boot:
            return Verdict.RESTARTED
        if step <= self.last_step:
            return Verdict.RESEND
        return Verdict.RUN if step == self.last_step + 1 else Verdict.DROP

    def ran(self, boot: str, step: int) -> None:
        """The step was taken up."""
        self.boot, self.last_step = boot, step

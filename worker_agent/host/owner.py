"""Whether this machine's owner needs it: rules that the owner gave, and figures that speak for one of them.

An agent that yields takes part as before, but slowly (`compute.py`), and says why; its controller moves its stages
elsewhere, where there is room.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, time

import psutil

from worker_agent.host.telemetry import Sample
from worker_agent.wire.errors import AgentError

BEGIN_SECONDS = 5.0
"""A rule has to hold so long before the agent yields: a compiler's moment is none."""
END_SECONDS = 30.0
"""And so long nothing may speak for it before the agent is there again: stages do not go to and fro."""


class BadRule(AgentError):
    """A rule cannot be understood."""

    kind = "option"


@dataclass(frozen=True)
class Hours:
    """Times of each day, by this machine's clock; they may go past midnight."""

    begin: time
    end: time

    @classmethod
    def parse(cls, text: str) -> Hours:
        """From `9:00-17:30`. Raises BadRule."""
        match = re.fullmatch(r"\s*(\d{1,2}):(\d{2})\s*-\s*(\d{1,2}):(\d{2})\s*", text)
        try:
            if match is None:
                raise ValueError
            begin, end = time(int(match[1]), int(match[2])), time(int(match[3]), int(match[4]))
        except ValueError:
            raise BadRule(f"'{text}' are no hours: write for example 9:00-17:30.") from None
        if begin == end:
            raise BadRule(f"'{text}' begins when it ends.")
        return cls(begin, end)

    def holds(self, at: time) -> bool:
        inside = self.begin <= at < self.end
        return inside if self.begin < self.end else self.begin <= at or at < self.end

    def __str__(self) -> str:
        return f"{self.begin:%H:%M}-{self.end:%H:%M}"


@dataclass(frozen=True)
class OwnerRules:
    """When the owner needs the machine. What is None speaks for nothing."""

    cpu: int | None = None
    """Percent of all cores that other programs use."""
    memory: int | None = None
    """Bytes of memory that have to stay free."""
    battery: bool = False
    """While the machine runs on its battery."""
    hours: Hours | None = None

    @property
    def any(self) -> bool:
        return self.cpu is not None or self.memory is not None or self.battery or self.hours is not None


class OwnerWatch:
    """Judges each sample of the machine. `look` belongs to one thread; `reason` may be read by any.

    Args:
        cores: that the machine has; a process's share is in percent of one.
        on_battery: None where there is no battery, or nobody can tell.
    """

    def __init__(
        self,
        rules: OwnerRules,
        cores: int,
        on_battery: Callable[[], bool | None] = lambda: runs_on_battery(),
        clock: Callable[[], time] = lambda: datetime.now().time(),  # the owner's day is local
    ) -> None:
        self._rules, self._cores, self._on_battery, self._clock = rules, cores, on_battery, clock
        self._since: float | None = None
        """Since when it is not as `reason` has it."""
        self.reason = ""
        """Why the agent yields, as a sentence; empty while it does not."""

    def look(self, sample: Sample, now: float) -> None:
        """Take in a sample. `now`: seconds of a clock that goes on steadily."""
        speaks = self._speaks(sample)
        if bool(speaks) == bool(self.reason):
            self._since, self.reason = None, speaks
            return
        self._since = now if self._since is None else self._since
        if now - self._since >= (BEGIN_SECONDS if speaks else END_SECONDS):
            self._since, self.reason = None, speaks

    def _speaks(self, sample: Sample) -> str:
        """What speaks for yielding now."""
        rules = self._rules
        others = max(0.0, sample.cpu_percent - sample.process_cpu_percent / self._cores)
        if rules.cpu is not None and others > rules.cpu:
            return f"Its owner needs it: other programs use {others:.0f} % of the CPU (rule: {rules.cpu} %)."
        free = sample.memory.available
        if rules.memory is not None and free < rules.memory:
            return f"Its owner needs it: {free / 1e9:.1f} GB of memory are free (rule: {rules.memory / 1e9:.1f} GB)."
        if rules.battery and self._on_battery():
            return "Its owner needs it: it runs on its battery."
        if rules.hours is not None and rules.hours.holds(self._clock()):
            return f"Its owner needs it from {rules.hours.begin:%H:%M} to {rules.hours.end:%H:%M}."
        return ""


def runs_on_battery() -> bool | None:
    """None where there is no battery, or nobody can tell."""
    read = getattr(psutil, "sensors_battery", None)
    battery = read() if read is not None else None
    return None if battery is None or battery.power_plugged is None else not battery.power_plugged

"""Forgetting what is older than the settings allow, or more than they allow."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from app.controller_settings import RecordSettings
from app.registry import Registry


@dataclass(frozen=True, slots=True)
class Pruned:
    """How much was forgotten."""

    requests: int = 0
    jobs: int = 0
    events: int = 0
    traces: int = 0

    @property
    def anything(self) -> bool:
        return bool(self.requests or self.jobs or self.events or self.traces)

    def __str__(self) -> str:
        """2 requests, 1 record of times; nothing"""
        counts = (
            (self.requests, "request", "requests"), (self.jobs, "job", "jobs"), (self.events, "event", "events"),
            (self.traces, "record of times", "records of times"),
        )  # fmt: skip
        words = [f"{number:,} {one if number == 1 else many}" for number, one, many in counts if number]
        return ", ".join(words) or "nothing"


def prune(registry: Registry, settings: RecordSettings, *, at: datetime | None = None) -> Pruned:
    """Remove requests, jobs, events and traces beyond the age, then the oldest traces and requests beyond the size.

    What is under way stays. Other writes get their turn meanwhile; it may take a while: call it in a thread.
    """
    requests = jobs = events = traces = 0
    if settings.keep_days:
        before = (at or datetime.now(UTC)) - timedelta(days=settings.keep_days)
        requests = registry.requests.prune(before)
        jobs = registry.jobs.prune(before)
        events = registry.events.prune(before=before)
        traces = registry.traces.prune(before)
    if settings.keep_bytes:
        texts = registry.requests.total_bytes()
        room = settings.keep_bytes - texts
        if room < 0:
            # Texts outlive their traces, which are the larger part and the sooner forgotten.
            requests += registry.requests.prune_to(settings.keep_bytes)
            room = settings.keep_bytes - registry.requests.total_bytes()
        traces += registry.traces.prune_to(max(0, room))
    return Pruned(requests, jobs, events, traces)

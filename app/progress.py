"""How far work is, in words: said once, for window, pages and commands. Pure."""

from __future__ import annotations

from app.children.work import JobProgress, NodeProgress
from app.figures import amount_text, pace, size_text

_PHASES = {"hashing": "Reading the weights", "converting": "Unpacking the weights", "copying": "Copying states"}
"""Where the name of a phase does not say to a user what is done."""
_AT_ONCE = frozenset({"waiting", "linking", "ready"})
"""Phases of a deployment in which nothing moves: what was brought before is no figure of theirs."""


def phase_words(phase: str) -> str:
    """What is being done, to begin a line with: Sending."""
    return _PHASES.get(phase, phase[:1].upper() + phase[1:])


def amount_words(done: int, total: int, unit: str = "bytes") -> str:
    """1.2 of 4 GB; 3 of 12 links; nothing where nobody knows how much there is."""
    if total <= 0:
        return ""
    return amount_text(done, total) if unit == "bytes" else f"{done:,} of {total:,} {unit}"


def figures_words(now: JobProgress | NodeProgress) -> list[str]:
    """1.2 of 4 GB (800 MB were there); 110 MB/s; 25 s left: as much of it as is known."""
    amount = amount_words(now.done_bytes, now.total_bytes, now.unit)
    if not amount or now.phase in _AT_ONCE:
        return []
    there = f" ({size_text(now.already_bytes)} were there)" if now.already_bytes else ""
    left = now.seconds_left if now.done_bytes < now.total_bytes else None
    return [f"{amount}{there}", *pace(now.bytes_per_second, left)]


def progress_words(now: JobProgress | NodeProgress) -> str:
    """All of it as a line: Sending 1.2 of 4 GB (800 MB were there), 110 MB/s, 25 s left."""
    phase, (amount, *rest) = phase_words(now.phase), figures_words(now) or [""]
    return ", ".join([f"{phase} {amount}".rstrip(), *rest])

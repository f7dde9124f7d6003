"""Interruptions of a run in words: who was lost, what was done about it, how long it took, whether it shows."""

from __future__ import annotations

from app.figures import duration
from app.runs.trace import Interruption


def interruption_text(interruption: Interruption) -> str:
    """As a sentence: rack-2 lost at token 57; layers 22-31 went to laptop; 1.8 s; exact. (It refused the connection.)

    Of one that was planned: handed over at token 57; layers 22-31 went to laptop; 80 ms; exact.
    """
    where = f"token {interruption.tokens}" if interruption.tokens else "the prompt"
    reason = "" if interruption.planned else interruption.reason.rstrip(".")
    what = "Handed over" if interruption.planned else f"{interruption.node or 'A stage'} lost"
    parts = [f"{what} at {where}"]
    if interruption.what:
        parts.append(interruption.what)
    parts.append(duration(interruption.lasted_us / 1e6))
    parts.append("exact" if interruption.exact else "continued, not bit-exact")
    return "; ".join(parts) + "." + (f" ({reason}.)" if reason else "")

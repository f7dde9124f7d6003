"""Figures as people read them: sizes, speeds, times. The window's only place for such words."""

from __future__ import annotations

from datetime import UTC, datetime

from app.runs.figures import duration as micros
from app.runs.figures import part_of, percent, rate_text
from app.sharding.placement import size_text

__all__ = [
    "ago", "clock", "duration", "layers_text", "micros", "part_of", "percent", "rate", "rate_text", "short",
    "size_text",
]  # fmt: skip


def rate(bytes_per_second: float) -> str:
    """120.5 MB/s"""
    return f"{size_text(int(bytes_per_second))}/s"


def duration(seconds: float | None) -> str:
    """4.2 s, 3 min 20 s, 1 h 5 min; a dash when nobody can tell."""
    if seconds is None:
        return "–"
    if seconds < 0.001:
        return "0 ms" if seconds <= 0 else f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def ago(moment: datetime | None, now: datetime | None = None) -> str:
    """now, 12 s ago, 3 min ago, 2 h ago, 4 d ago; never for None."""
    if moment is None:
        return "never"
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    if seconds < 2:
        return "now"
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit} ago"
    return f"{int(seconds)} s ago"


def clock(moment: datetime) -> str:
    """A moment in the user's own time zone: 14:03:27, with the date when it was not today."""
    local = moment.astimezone()
    today = datetime.now().astimezone().date()
    return local.strftime("%H:%M:%S" if local.date() == today else "%Y-%m-%d %H:%M:%S")


def layers_text(start: int, end: int) -> str:
    """Layers [start, end) as people count them: 0–14."""
    return f"{start}–{end - 1}" if end - start > 1 else f"{start}"


def short(text: str, length: int = 80) -> str:
    """One line of a text, cut off with an ellipsis."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"

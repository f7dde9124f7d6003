"""Figures as people read them: sizes, durations, ages, rates, shares, layers. One way for window, pages, reports and
commands.

From 100 on a figure has no decimals, below it one where that is not 0: 4 GB, 8.2 ms, 310 tokens/s.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

_Units = Sequence[tuple[float, str]]
_BYTES: _Units = ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"))
_COUNTS: _Units = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_SECONDS: _Units = ((1, "s"), (1e-3, "ms"), (1e-6, "µs"))
_AGES = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_NEARLY = 0.9995
"""From so much of a unit on a figure is told in it: what would be rounded to 1,000 MB is 1 GB."""


def size_text(nbytes: int) -> str:
    """Bytes in powers of 1000: 50 bytes, 1.5 GB."""
    if nbytes < 1000 * _NEARLY:
        return "1 byte" if nbytes == 1 else f"{nbytes} bytes"
    return _in_unit(nbytes, _unit(nbytes, _BYTES))


def amount_text(part: int, whole: int) -> str:
    """Bytes out of others: 1.2 of 4 GB, 900 MB of 4 GB. The unit is said once where it is the same."""
    first, last = size_text(part) if part else "0", size_text(whole)
    figure, _, unit = first.partition(" ")
    return f"{figure if unit == last.partition(' ')[2] else first} of {last}"


def held_text(held: int, believed: int, agent: int) -> str:
    """What an agent's process takes: 1.6 GB held, 1.5 GB accounted for (283 MB by the agent itself).

    Args:
        believed: 0 where that is not known.
    """
    own = f" ({size_text(agent)} by the agent itself)" if believed > agent else ""
    return f"{size_text(held)} held{f', {size_text(believed)} accounted for{own}' if believed else ''}"


def count_text(count: int) -> str:
    """A great number as models are named by it: 12, 135 M, 8 B."""
    return str(count) if count < 1000 * _NEARLY else _in_unit(count, _unit(count, _COUNTS))


def duration(seconds: float | None) -> str:
    """850 µs, 8.2 ms, 1.4 s, 3 min 20 s, 1 h 5 min; a dash for what nobody can tell."""
    if seconds is None:
        return "–"
    if seconds <= 0:
        return "0 s"
    if seconds < 59.95:
        return _in_unit(seconds, _unit(seconds, _SECONDS))
    whole = round(seconds)
    first, second = (whole // 60, whole % 60) if whole < 3600 else (whole // 3600, whole % 3600 // 60)
    great, small = ("min", "s") if whole < 3600 else ("h", "min")
    return f"{first} {great} {second} {small}" if second else f"{first} {great}"


def micros(us: float) -> str:
    """A duration in microseconds, as traces have it."""
    return duration(us / 1e6)


def part_of(part_us: float, whole_us: float) -> str:
    """Microseconds out of others, both in the unit of the whole: 8.2 of 11.5 ms."""
    unit = _unit(whole_us / 1e6, _SECONDS)
    return f"{_rounded(part_us / 1e6 / unit[0])} of {_in_unit(whole_us / 1e6, unit)}"


def time_left(seconds: float) -> str:
    """A duration that is a guess: 12 s. Tenths of a second mean nothing in it."""
    return duration(max(1, round(seconds)))


def ago(moment: datetime | None, now: datetime | None = None) -> str:
    """now, 12 s ago, 3 min ago, 2 h ago, 4 d ago; never for None."""
    if moment is None:
        return "never"
    seconds = ((now or datetime.now(UTC)) - moment).total_seconds()
    if seconds < 2:
        return "now"
    length, unit = next(each for each in _AGES if seconds >= each[0])
    return f"{int(seconds // length)} {unit} ago"


def clock(moment: datetime) -> str:
    """A moment in the user's own time zone: 14:03:27, with the date when it was not today."""
    local = moment.astimezone()
    today = datetime.now().astimezone().date()
    return local.strftime("%H:%M:%S" if local.date() == today else "%Y-%m-%d %H:%M:%S")


def utc(moment: datetime) -> str:
    """A moment for readers who may be anywhere: 2026-03-01 12:00:00 UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def data_rate(bytes_per_second: float) -> str:
    """120 MB/s"""
    return f"{size_text(round(bytes_per_second))}/s"


def flop_rate(flops_per_second: float) -> str:
    """95 GFLOP/s, 1.4 TFLOP/s"""
    giga = flops_per_second / 1e9
    return f"{giga:.0f} GFLOP/s" if giga < 1000 * _NEARLY else f"{giga / 1000:.1f} TFLOP/s"


def pace(bytes_per_second: float, seconds_left: float | None) -> list[str]:
    """120 MB/s, 12 s left: as much of it as is known."""
    pieces = [data_rate(bytes_per_second)] if bytes_per_second > 0 else []
    return pieces if seconds_left is None else [*pieces, f"{time_left(seconds_left)} left"]


def token_rate(tokens_per_second: float) -> str:
    """310 tokens/s, 23.4 tokens/s"""
    return f"{_rounded(tokens_per_second)} tokens/s"


def percent(share: float) -> str:
    """71 %; what is there but tiny is not shown as nothing."""
    if 0 < share < 0.005:
        return "under 1 %"
    return f"{share * 100:.0f} %"


def layers(start: int, end: int) -> str:
    """Layers [start, end) in words, ends included: layers 0–14, layer 7."""
    return f"{'layers' if end - start > 1 else 'layer'} {layers_text(start, end)}"


def layers_text(start: int, end: int) -> str:
    """Layers [start, end) as people count them: 0–14."""
    return f"{start}–{end - 1}" if end - start > 1 else f"{start}"


def short(text: str, length: int = 80) -> str:
    """One line of a text, cut off with an ellipsis."""
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"


def _unit(value: float, units: _Units) -> tuple[float, str]:
    return next((each for each in units if value >= each[0] * _NEARLY), units[-1])


def _in_unit(value: float, unit: tuple[float, str]) -> str:
    return f"{_rounded(value / unit[0])} {unit[1]}"


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.1f}".removesuffix(".0")

"""Figures of runs as sentences and reports show them: times, shares, layers, sizes."""

from __future__ import annotations

_UNITS = ((1_000_000, "s"), (1_000, "ms"), (1, "µs"))


def duration(us: float) -> str:
    """Microseconds for people: 850 µs, 8.2 ms, 1.4 s, 3 min 20 s."""
    if us >= 60_000_000:
        seconds = round(us / 1_000_000)
        if seconds >= 3600:
            return f"{seconds // 3600} h {seconds % 3600 // 60} min"
        return f"{seconds // 60} min {seconds % 60} s"
    size, unit = _unit(us)
    return f"{_rounded(us / size)} {unit}"


def part_of(part_us: float, whole_us: float) -> str:
    """Both in the unit of the whole: 8.2 of 11.5 ms."""
    size, unit = _unit(whole_us)
    return f"{_rounded(part_us / size)} of {_rounded(whole_us / size)} {unit}"


def percent(share: float) -> str:
    """71 %; what is there but tiny is not shown as nothing."""
    if 0 < share < 0.005:
        return "under 1 %"
    return f"{share * 100:.0f} %"


def layers(start: int, end: int) -> str:
    """Layers [start, end) in words, ends included."""
    return f"layers {start}-{end - 1}" if end - start > 1 else f"layer {start}"


def size(nbytes: int) -> str:
    """Bytes for people, in powers of 1000: 4.2 GB."""
    for unit, each in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if nbytes >= each:
            return f"{_rounded(nbytes / each)} {unit}"
    return f"{nbytes} B"


def rate(tokens: int, us: int) -> float:
    """Tokens per second; 0 where no time has passed."""
    return tokens / us * 1_000_000 if us > 0 else 0.0


def rate_text(per_second: float) -> str:
    """310 tokens/s, 23.4 tokens/s."""
    return f"{per_second:,.0f} tokens/s" if per_second >= 100 else f"{per_second:.1f} tokens/s"


def _unit(us: float) -> tuple[int, str]:
    return next(((size, unit) for size, unit in _UNITS if us >= size), _UNITS[-1])


def _rounded(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}".removesuffix(".0")

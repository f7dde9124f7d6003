"""The shares of a request's time as phases of a bar: of all of it, and of one token on average."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt

from app.runs import telling
from app.runs.telling import TimeShare
from app.runs.waterfall import Shares
from app.ui.runs.timing_bar import Phase
from app.ui.runs.waterfall_paint import READY, WAITING, WIRE

_SECOND = 1e6
_LOOKS = {
    "prepare": (None, READY), "prompt": (1, Qt.BrushStyle.SolidPattern), "compute": (0, Qt.BrushStyle.SolidPattern),
    "queue": (0, WAITING), "wire": (None, WIRE),
}  # fmt: skip


def request_phases(times: Sequence[TimeShare]) -> tuple[Phase, ...]:
    """From the question to the last token."""
    return tuple(Phase(part.name, part.us / _SECOND, *_LOOKS[part.kind]) for part in times)


def token_phases(shares: Shares) -> tuple[Phase, ...]:
    """Of a token after the first, on average: computing on each stage, waiting, on the way."""
    count = shares.tokens - 1
    if count < 1 or shares.decode_us <= 0:
        return ()
    each = 1 / (_SECOND * count)
    found = [
        Phase(f"{stage.stage + 1} · {stage.node}", stage.compute_us * each, stage.stage) for stage in shares.stages
    ]
    found.append(Phase(telling.WAITING, shares.queue_us * each, 0, WAITING))
    found.append(Phase(telling.ON_THE_WAY, shares.wire_us * each, None, WIRE))
    return tuple(phase for phase in found if phase.seconds > 0)

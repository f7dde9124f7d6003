"""The shares of a request's time as phases of a bar: of all of it, and of one token on average."""

from __future__ import annotations

from app.runs.waterfall import Shares
from app.ui.runs.timing_bar import Phase
from app.ui.runs.waterfall_paint import READY, WAITING, WIRE

_SECOND = 1e6


def request_phases(shares: Shares) -> tuple[Phase, ...]:
    """From the question to the last token."""
    found = (
        Phase("Getting ready", shares.prepare_us / _SECOND, None, READY),
        Phase("Reading the prompt", shares.prompt_us / _SECOND, 1),
        Phase("Computing", shares.compute_us / _SECOND, 0),
        Phase("Waiting for a turn", shares.queue_us / _SECOND, 0, WAITING),
        Phase("On the way", shares.wire_us / _SECOND, None, WIRE),
    )
    return tuple(phase for phase in found if phase.seconds > 0)


def token_phases(shares: Shares) -> tuple[Phase, ...]:
    """Of a token after the first, on average: computing on each stage, waiting, on the way."""
    count = shares.tokens - 1
    if count < 1 or shares.decode_us <= 0:
        return ()
    each = 1 / (_SECOND * count)
    found = [
        Phase(f"{stage.stage + 1} · {stage.node}", stage.compute_us * each, stage.stage) for stage in shares.stages
    ]
    found.append(Phase("Waiting for a turn", shares.queue_us * each, 0, WAITING))
    found.append(Phase("On the way", shares.wire_us * each, None, WIRE))
    return tuple(phase for phase in found if phase.seconds > 0)

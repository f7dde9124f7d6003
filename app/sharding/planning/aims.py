"""What a plan is made for."""

from __future__ import annotations

from typing import Literal

from app.errors import BadInput

Aim = Literal["fastest", "most", "fits", "fewest"]
FASTEST, MOST, FITS, FEWEST = "fastest", "most", "fits", "fewest"
AIMS: dict[str, str] = {
    FASTEST: "fastest answer",
    MOST: "most tokens in all",
    FITS: "fits at all",
    FEWEST: "fewest machines",
}
"""Each with its name for people."""
MEANINGS: dict[str, str] = {
    FASTEST: "one answer alone comes as fast as it can",
    MOST: "many answers at once bring the most tokens together",
    FITS: "the fullest node keeps as much of its memory free as it can",
    FEWEST: "no more machines than it takes, and those as fast as they can be",
}
DEFAULT_AIM: Aim = "fastest"


def check_aim(aim: str) -> str:
    """An aim as it is; raises BadInput for what is none."""
    if aim not in AIMS:
        raise BadInput(f"'{aim}' is nothing to aim at.", f"Take {', '.join(AIMS)}.")
    return aim

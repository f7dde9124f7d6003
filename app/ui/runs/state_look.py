"""How the state of a run looks: an icon and a colour, which stand beside its word."""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtGui import QColor

from app.runs.telling import state_word
from app.ui.theme import Colors


@dataclass(frozen=True)
class StateLook:
    """`color` is a field of Colors."""

    icon: str
    color: str

    def of(self, colors: Colors) -> QColor:
        found: QColor = getattr(colors, self.color)
        return found


_LOOKS = {
    "Waiting": StateLook("clock", "muted"),
    "Running": StateLook("loader", "accent"),
    "Loading": StateLook("loader", "accent"),
    "Done": StateLook("circle-check", "ok"),
    "Ready": StateLook("circle-check", "ok"),
    "Failed": StateLook("circle-alert", "error"),
    "Cancelled": StateLook("circle-stop", "muted"),
    "Unloaded": StateLook("power-off", "muted"),
}


def look_of(status: str) -> StateLook:
    """Of a status of requests, jobs or deployments."""
    return _LOOKS.get(state_word(status), StateLook("circle-help", "muted"))

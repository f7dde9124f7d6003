"""How the state of a run looks: an icon, a word and a colour, so that none of them has to be told apart alone."""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtGui import QColor

from app.ui.theme import Colors


@dataclass(frozen=True)
class StateLook:
    """`color` is a field of Colors."""

    icon: str
    word: str
    color: str

    def of(self, colors: Colors) -> QColor:
        found: QColor = getattr(colors, self.color)
        return found


_LOOKS = {
    "pending": StateLook("clock", "Waiting", "muted"),
    "queued": StateLook("clock", "Waiting", "muted"),
    "processing": StateLook("loader", "Running", "accent"),
    "running": StateLook("loader", "Running", "accent"),
    "loading": StateLook("loader", "Loading", "accent"),
    "completed": StateLook("circle-check", "Done", "ok"),
    "done": StateLook("circle-check", "Done", "ok"),
    "ready": StateLook("circle-check", "Ready", "ok"),
    "failed": StateLook("circle-alert", "Failed", "error"),
    "cancelled": StateLook("circle-stop", "Cancelled", "muted"),
    "unloaded": StateLook("power-off", "Unloaded", "muted"),
}


def look_of(status: str) -> StateLook:
    """Of a status of requests, jobs or deployments."""
    return _LOOKS.get(str(status), StateLook("circle-help", str(status), "muted"))

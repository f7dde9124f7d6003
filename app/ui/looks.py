"""How states and levels look everywhere: an icon and a colour, which stand beside a word and never alone."""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtGui import QColor, QIcon, QPixmap
from PySide6.QtWidgets import QLabel, QWidget

from app.cluster.node_state import NodeState
from app.registry import EventLevel
from app.runs.telling import state_word
from app.ui.icons import icon, mark
from app.ui.notices import Level
from app.ui.theme import Colors


@dataclass(frozen=True)
class Look:
    """An icon and the name of its colour, a field of Colors."""

    icon: str
    color: str
    word: str = ""
    """What a screen reader says, since it says neither icon nor colour."""

    def of(self, colors: Colors) -> QColor:
        """Its colour in a theme."""
        color: QColor = getattr(colors, self.color)
        return color

    def soft(self, colors: Colors) -> QColor:
        """A ground behind text; for ok, warning, error and accent."""
        color: QColor = getattr(colors, f"{self.color}_soft")
        return color

    def drawn(self, colors: Colors) -> QIcon:
        return icon(self.icon, self.of(colors))

    def mark(self, colors: Colors) -> QPixmap:
        """The icon beside a line of text."""
        return mark(self.icon, self.of(colors))


NODES = {
    NodeState.DOWN: Look("circle-x", "error"),
    NodeState.FROZEN: Look("snowflake", "warning"),
    NodeState.STARTING: Look("loader", "accent"),
    NodeState.CONNECTING: Look("loader", "muted"),
    NodeState.YIELDING: Look("user", "warning"),
    NodeState.DRAINING: Look("unplug", "warning"),
    NodeState.STOPPED: Look("power-off", "muted"),
    NodeState.UP: Look("circle-check", "ok"),
}
"""In this order when sorted by state: what needs attention first."""
EVENTS = {
    EventLevel.DEBUG: Look("dot", "muted", "Debug"),
    EventLevel.INFO: Look("info", "accent", "Info"),
    EventLevel.WARNING: Look("triangle-alert", "warning", "Warning"),
    EventLevel.ERROR: Look("circle-alert", "error", "Error"),
}
NOTICES = {
    Level.INFO: Look("info", "accent", "Note"),
    Level.SUCCESS: Look("circle-check", "ok", "Done"),
    Level.WARNING: Look("triangle-alert", "warning", "Warning"),
    Level.ERROR: Look("circle-x", "error", "Error"),
}
_RUNS = {
    "Waiting": Look("clock", "muted"),
    "Running": Look("loader", "accent"),
    "Loading": Look("loader", "accent"),
    "Done": Look("circle-check", "ok"),
    "Ready": Look("circle-check", "ok"),
    "Failed": Look("circle-alert", "error"),
    "Cancelled": Look("circle-stop", "muted"),
    "Unloaded": Look("power-off", "muted"),
}


def rank(state: NodeState) -> int:
    """By what needs attention first."""
    return list(NODES).index(state)


def run_look(status: str) -> Look:
    """Of a status of requests, jobs or deployments."""
    return _RUNS.get(state_word(status), Look("circle-help", "muted"))


class LookIcon(QLabel):
    """A look's icon as a widget, a little taller than a line of text."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._side = round(self.fontMetrics().height() * 1.15)
        self.setFixedSize(self._side, self._side)

    def show_look(self, look: Look, colors: Colors) -> None:
        """Draw it; again after a change of theme."""
        self.setPixmap(mark(look.icon, look.of(colors), self._side, self.devicePixelRatioF()))
        self.setAccessibleName(look.word)

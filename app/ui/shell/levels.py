"""How a level of notice looks: its icon, its colours, and its name for those who cannot see either."""

from __future__ import annotations

from dataclasses import dataclass

from PySide6.QtCore import QSize
from PySide6.QtGui import QColor
from PySide6.QtWidgets import QLabel, QWidget

from app.ui.icons import icon
from app.ui.notices import Level
from app.ui.theme import Colors


@dataclass(frozen=True)
class LevelLook:
    """What a level is drawn with."""

    icon: str
    word: str
    """Said by screen readers, since icon and colour are not."""
    color: QColor
    soft: QColor
    """A background behind text."""

    @classmethod
    def of(cls, level: Level, colors: Colors) -> LevelLook:
        match level:
            case Level.SUCCESS:
                return cls("circle-check", "Done", colors.ok, colors.ok_soft)
            case Level.WARNING:
                return cls("triangle-alert", "Warning", colors.warning, colors.warning_soft)
            case Level.ERROR:
                return cls("circle-x", "Error", colors.error, colors.error_soft)
            case _:
                return cls("info", "Note", colors.accent, colors.accent_soft)


class LevelIcon(QLabel):
    """A level's icon as a widget, as tall as a line of text."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._side = round(self.fontMetrics().height() * 1.15)
        self.setFixedSize(self._side, self._side)

    def show_look(self, look: LevelLook) -> None:
        """Draw it; again after a change of theme."""
        self.setPixmap(icon(look.icon, look.color).pixmap(QSize(self._side, self._side), self.devicePixelRatioF()))
        self.setAccessibleName(look.word)

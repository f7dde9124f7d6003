"""How the scene's items look: the theme's colours and the fonts, in one object that all items share."""

from __future__ import annotations

from PySide6.QtCore import QRectF
from PySide6.QtGui import QColor, QFont, QFontMetricsF
from PySide6.QtWidgets import QApplication

from app.ui.theme import Colors

SMALL = 0.88
"""Size of the small font, in parts of the normal one."""


class Look:
    """Changed in place when the theme changes, so that no item has to be told twice."""

    def __init__(self, colors: Colors) -> None:
        self.colors = colors
        self.font = QFont()
        self.bold = QFont()
        self.small = QFont()
        self.small_bold = QFont()
        self.refresh(colors)

    def refresh(self, colors: Colors) -> None:
        """Take other colours, and the application's font as it is now."""
        self.colors = colors
        self.font = QApplication.font()
        self.bold = QFont(self.font)
        self.bold.setWeight(QFont.Weight.DemiBold)
        self.small = QFont(self.font)
        self.small.setPointSizeF(self.font.pointSizeF() * SMALL)
        self.small_bold = QFont(self.small)
        self.small_bold.setWeight(QFont.Weight.DemiBold)
        self.metrics = QFontMetricsF(self.font)
        self.bold_metrics = QFontMetricsF(self.bold)
        self.small_metrics = QFontMetricsF(self.small)
        self.small_bold_metrics = QFontMetricsF(self.small_bold)

    @property
    def line(self) -> float:
        """Height of a line of normal text."""
        return self.metrics.height()

    @property
    def small_line(self) -> float:
        return self.small_metrics.height()


def mixed(color: QColor, other: QColor, share: float) -> QColor:
    """`share` of the first colour, the rest of the second."""
    rest = 1.0 - share
    return QColor.fromRgbF(
        color.redF() * share + other.redF() * rest,
        color.greenF() * share + other.greenF() * rest,
        color.blueF() * share + other.blueF() * rest,
    )


def faded(color: QColor, alpha: float) -> QColor:
    """The colour, translucent."""
    result = QColor(color)
    result.setAlphaF(alpha)
    return result


def shrunk(rect: QRectF, by: float) -> QRectF:
    return rect.adjusted(by, by, -by, -by)

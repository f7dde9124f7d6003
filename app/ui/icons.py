"""Icons from the one SVG set in resources/icons, drawn in the palette's colours at any scale."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from PySide6.QtCore import QByteArray, QPointF, QRect, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QGuiApplication, QIcon, QIconEngine, QImage, QPainter, QPalette, QPixmap
from PySide6.QtSvg import QSvgRenderer

RESOURCES = Path(__file__).resolve().parent.parent.parent / "resources"


@lru_cache(maxsize=256)
def _source(name: str) -> str:
    return (RESOURCES / "icons" / f"{name}.svg").read_text(encoding="utf-8")


@lru_cache(maxsize=512)
def _renderer(name: str, color: str) -> QSvgRenderer:
    return QSvgRenderer(QByteArray(_source(name).replace("currentColor", color).encode()))


def draw_icon(painter: QPainter, name: str, rect: QRectF, color: QColor) -> None:
    """Draw an icon into a rectangle, for delegates and scene items."""
    side = min(rect.width(), rect.height())
    square = QRectF(rect.center() - QPointF(side / 2, side / 2), rect.center() + QPointF(side / 2, side / 2))
    _renderer(name, color.name()).render(painter, square)


class _Engine(QIconEngine):
    """Draws in the palette's colour of the moment, so that icons follow a change of theme by themselves."""

    def __init__(self, name: str, color: QColor | None) -> None:
        super().__init__()
        self._name, self._color = name, color

    def paint(self, painter: QPainter, rect: QRect, mode: QIcon.Mode, state: QIcon.State) -> None:
        palette = QGuiApplication.palette()
        color = self._color or palette.color(QPalette.ColorRole.ButtonText)
        if mode is QIcon.Mode.Disabled:
            color = palette.color(QPalette.ColorGroup.Disabled, QPalette.ColorRole.ButtonText)
        elif mode is QIcon.Mode.Selected and self._color is None:
            color = palette.color(QPalette.ColorRole.HighlightedText)
        draw_icon(painter, self._name, QRectF(rect), color)

    def pixmap(self, size: QSize, mode: QIcon.Mode, state: QIcon.State) -> QPixmap:
        image = QImage(size, QImage.Format.Format_ARGB32_Premultiplied)
        image.fill(Qt.GlobalColor.transparent)
        painter = QPainter(image)
        self.paint(painter, QRect(0, 0, size.width(), size.height()), mode, state)
        painter.end()
        return QPixmap.fromImage(image)

    def clone(self) -> QIconEngine:
        return _Engine(self._name, self._color)


def icon(name: str, color: QColor | None = None) -> QIcon:
    """An icon of the set. Without a colour it follows the palette. Raises FileNotFoundError for an unknown name."""
    _source(name)
    return QIcon(_Engine(name, color))


def mark(name: str, color: QColor | None = None, side: int = 16, ratio: float = 1.0) -> QPixmap:
    """An icon as a picture for a label: `side` device-independent pixels on a screen with `ratio` pixels to each."""
    return icon(name, color).pixmap(QSize(side, side), ratio)

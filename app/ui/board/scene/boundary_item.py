"""The handle between two neighbouring stages: dragging it moves layers from one to the other."""

from __future__ import annotations

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QPainter, QPainterPath
from PySide6.QtWidgets import QGraphicsItem, QStyleOptionGraphicsItem, QWidget

from app.ui.board.scene.look import Look

WIDTH = 8.0
REACH = 12.0
"""Width of what the mouse can take."""
LEAST_STEP, LARGEST_STEP = 8.0, 36.0
"""Pixels per layer: as in the block, within what a hand can do."""


class BoundaryItem(QGraphicsItem):
    """Stands at the right end of the block of stage `boundary`."""

    def __init__(self, look: Look, boundary: int) -> None:
        super().__init__()
        self.setZValue(8)
        self.setAcceptedMouseButtons(Qt.MouseButton.NoButton)
        self.setAcceptHoverEvents(True)
        self.setCursor(Qt.CursorShape.SplitHCursor)
        self.boundary = boundary
        self.layer = 0
        self.step = LEAST_STEP
        """Pixels per layer while it is dragged."""
        self.is_dragged = False
        self.refused = False
        self._look = look
        self._height = 40.0
        self._hovered = False

    def show_boundary(self, layer: int, edge: QPointF, height: float, step: float) -> None:
        """Stand before `layer`; `edge` is the middle of the block's right edge, in the scene."""
        if height != self._height:
            self.prepareGeometryChange()
        self._height = height
        self.step = min(LARGEST_STEP, max(LEAST_STEP, step))
        self.setPos(edge)
        if layer != self.layer:
            self.layer = layer
            shards = f"shards {self.boundary + 1} and {self.boundary + 2}"
            self.setToolTip(f"Boundary before layer {layer}: drag to move layers between {shards}")

    def set_dragged(self, dragged: bool, refused: bool = False) -> None:
        if (dragged, refused) != (self.is_dragged, self.refused):
            self.is_dragged, self.refused = dragged, refused
            self.update()

    def boundingRect(self) -> QRectF:
        return QRectF(-REACH / 2 - 1, -self._height / 2, REACH + 2, self._height)

    def shape(self) -> QPainterPath:
        path = QPainterPath()
        path.addRect(QRectF(-REACH / 2, -self._height / 2, REACH, self._height))
        return path

    def hoverEnterEvent(self, event: object) -> None:
        self._hovered = True
        self.update()

    def hoverLeaveEvent(self, event: object) -> None:
        self._hovered = False
        self.update()

    def paint(self, painter: QPainter, option: QStyleOptionGraphicsItem, widget: QWidget | None = None) -> None:
        colors = self._look.colors
        strong = self._hovered or self.is_dragged
        color = colors.error if self.refused else colors.accent if strong else colors.text
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        height = min(self._height * 0.62, 30.0) + (4 if strong else 0)
        pill = QRectF(-WIDTH / 2, -height / 2, WIDTH, height)
        painter.setPen(colors.raised)
        painter.setBrush(color)
        painter.drawRoundedRect(pill, WIDTH / 2, WIDTH / 2)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(colors.raised)
        for dy in (-5.0, 0.0, 5.0):
            painter.drawEllipse(QPointF(0, dy), 1.1, 1.1)

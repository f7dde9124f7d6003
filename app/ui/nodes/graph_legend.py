"""Which curve is which node; while the pointer is over a graph, each node's value there."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QRect, QRectF, QSize, Qt, Slot
from PySide6.QtGui import QFont, QPainter, QPaintEvent
from PySide6.QtWidgets import QSizePolicy, QWidget

from app.ui.theme import SPACING, ThemeKeeper


class GraphLegend(QWidget):
    """One line: a colour and a name for each curve, spread so that nothing moves when values appear."""

    def __init__(self, theme: ThemeKeeper, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self._names: tuple[str, ...] = ()
        self._left_out = 0
        self._values: tuple[str, ...] = ()
        font = QFont(self.font())
        font.setFeature(QFont.Tag("tnum"), 1)
        self.setFont(font)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        theme.changed.connect(self._on_theme)

    def show_names(self, names: Sequence[str], left_out: int) -> None:
        """`left_out`: how many nodes have no curve, since there are more than colours."""
        if (tuple(names), left_out) != (self._names, self._left_out):
            self._names, self._left_out = tuple(names), left_out
            self._tell()

    def show_values(self, values: tuple[str, ...]) -> None:
        """A value for each curve; none takes them away."""
        if values != self._values:
            self._values = values
            self._tell()

    @property
    def text(self) -> str:
        """What it says, for those who do not see it."""
        values = self._values or ("",) * len(self._names)
        said = ", ".join(f"{name} {value}".strip() for name, value in zip(self._names, values, strict=False))
        return f"{said}, and {self._left_out} more" if self._left_out else said

    def sizeHint(self) -> QSize:
        return QSize(20 * self.fontMetrics().averageCharWidth(), self.fontMetrics().height() + SPACING)

    def minimumSizeHint(self) -> QSize:
        return self.sizeHint()

    def paintEvent(self, event: QPaintEvent) -> None:
        if not self._names:
            return
        colors = self._theme.colors
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        metrics = self.fontMetrics()
        more = f"+{self._left_out} more" if self._left_out else ""
        room = self.width() - (metrics.horizontalAdvance(more) + SPACING if more else 0)
        width = min(room // len(self._names), metrics.averageCharWidth() * 34)
        dash = metrics.averageCharWidth() * 2
        left = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
        for number, name in enumerate(self._names):
            x = number * width
            painter.setPen(Qt.PenStyle.NoPen)
            painter.setBrush(colors.of(number))
            painter.drawRoundedRect(QRectF(x, self.height() / 2 - 2, dash, 4), 2, 2)
            place = QRect(x + dash + SPACING // 2, 0, width - dash - SPACING - SPACING // 2, self.height())
            value = self._values[number] if number < len(self._values) else ""
            taken = metrics.horizontalAdvance(value) + SPACING if value else 0
            shown = metrics.elidedText(name, Qt.TextElideMode.ElideMiddle, max(0, place.width() - taken))
            painter.setPen(colors.muted if value else colors.text)
            painter.drawText(place, left, shown)
            if value:
                painter.setPen(colors.text)
                painter.drawText(place.adjusted(metrics.horizontalAdvance(shown) + SPACING // 2, 0, 0, 0), left, value)
        if more:
            painter.setPen(colors.muted)
            painter.drawText(QRect(len(self._names) * width, 0, self.width(), self.height()), left, more)

    def _tell(self) -> None:
        self.setAccessibleName(f"Curves: {self.text}")
        self.setToolTip(self.text)
        self.update()

    @Slot()
    def _on_theme(self) -> None:
        self.update()

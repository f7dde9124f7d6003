"""The box in which the user chooses a model, each with a line about where it runs or would be loaded."""

from __future__ import annotations

from PySide6.QtCore import QPointF, QRect, QSize, Qt, Signal, Slot
from PySide6.QtGui import QPainter
from PySide6.QtWidgets import QComboBox, QListView, QStyleOptionViewItem, QWidget

from app.ui.chat.model_choices import ChoiceRole, ModelChoices
from app.ui.list_delegate import Index, ListDelegate, small, write
from app.ui.theme import ThemeKeeper

MARGIN = 8
DOT = 4.0


class ChoiceDelegate(ListDelegate):
    """A filled dot for a deployed model, a ring for one that has to be loaded; name and note."""

    margin = 2

    def sizeHint(self, option: QStyleOptionViewItem, index: Index) -> QSize:
        wide = max(option.fontMetrics.horizontalAdvance(str(index.data(role)) or "") for role in ChoiceRole)
        return QSize(wide + 5 * MARGIN, option.fontMetrics.height() * 2 + 2 * MARGIN)

    def paint_row(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        colors = self._theme.colors
        inside = option.rect.adjusted(MARGIN, MARGIN // 2, -MARGIN, -MARGIN // 2)
        line = option.fontMetrics.height()
        ready = bool(index.data(ChoiceRole.READY))
        painter.setPen(colors.ok if ready else colors.muted)
        painter.setBrush(colors.ok if ready else Qt.BrushStyle.NoBrush)
        painter.drawEllipse(QPointF(inside.left() + DOT + 1, inside.top() + 2 + line / 2), DOT, DOT)
        text = inside.adjusted(int(2 * DOT) + MARGIN + 2, 2, 0, -2)
        ink = colors.text if index.flags() & Qt.ItemFlag.ItemIsEnabled else colors.muted
        above = QRect(text.left(), text.top(), text.width(), line)
        write(painter, above, str(index.data()), option.font, ink, cut=Qt.TextElideMode.ElideMiddle)
        below = QRect(text.left(), text.bottom() - line + 1, text.width(), line)
        write(painter, below, str(index.data(ChoiceRole.NOTE)), small(option.font), colors.muted)


class ModelPicker(QComboBox):
    """Chooses a model by name; one that is gone stays shown as the conversation's model."""

    chosen = Signal(str)
    """The user chose a model."""

    def __init__(self, choices: ModelChoices, theme: ThemeKeeper, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("chat-model")
        self.setAccessibleName("Model")
        self.setPlaceholderText("Choose a model")
        self.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.setMinimumContentsLength(22)
        self._choices = choices
        self._model = ""
        self.setModel(choices)
        view = QListView(self)
        view.setItemDelegate(ChoiceDelegate(theme, view))
        view.setMinimumWidth(340)
        view.setAccessibleName("Models")
        self.setView(view)
        self.activated.connect(self._on_activated)
        choices.modelReset.connect(self._show)
        choices.dataChanged.connect(self._show)

    def choose(self, name: str) -> None:
        """Show a model as chosen; nothing is emitted."""
        self._model = name
        self._show()

    @property
    def note(self) -> str:
        """What stands beside the chosen model."""
        row = self._choices.row_of(self._model)
        if row >= 0:
            return self._choices.rows[row].note
        return f"{self._model} is not in the library any more" if self._model else ""

    @Slot()
    def _show(self) -> None:
        self.setPlaceholderText(self._model or "Choose a model")
        self.setCurrentIndex(self._choices.row_of(self._model))
        self.setToolTip(f"{self._model}\n{self.note}".strip())

    @Slot(int)
    def _on_activated(self, row: int) -> None:
        self._model = self._choices.rows[row].name
        self._show()
        self.chosen.emit(self._model)

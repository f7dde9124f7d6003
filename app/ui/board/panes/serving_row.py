"""Dtype, context and KV tokens of the draft: what decides how much memory a layer takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import Slot
from PySide6.QtWidgets import QComboBox, QHBoxLayout, QLabel, QSpinBox, QWidget

from app.errors import ShardboardError
from app.models.description import COMPUTE_ITEM_BYTES
from app.sharding.arrangement import Serving
from app.ui.board.panes.flow_layout import FlowLayout
from app.ui.notices import Level
from app.ui.theme import SPACING

if TYPE_CHECKING:
    from app.ui.board.state.board_model import BoardModel

MOST_KV_TOKENS = 16_000_000


class ServingRow(QWidget):
    """See the module. Each change is a step that can be undone."""

    def __init__(self, board: BoardModel, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._board = board
        self.dtype = QComboBox()
        self.dtype.setAccessibleName("Compute dtype")
        self.dtype.setToolTip("What the stages compute in. Half precision takes half the memory of float32.")
        self.dtype.addItems(list(COMPUTE_ITEM_BYTES))
        self.context = self._spin("Context", "The longest prompt and answer together, in tokens")
        self.kv_tokens = self._spin(
            "KV tokens", "For how many tokens in all, of all answers at once, keys and values are kept"
        )
        self.kv_tokens.setMaximum(MOST_KV_TOKENS)
        layout = FlowLayout(SPACING, self)
        for text, field in (("Dtype", self.dtype), ("Context", self.context), ("KV tokens", self.kv_tokens)):
            label = QLabel(text)
            label.setProperty("role", "muted")
            label.setBuddy(field)
            pair = QWidget()
            row = QHBoxLayout(pair)
            row.setContentsMargins(0, 0, SPACING, 0)
            row.setSpacing(SPACING)
            row.addWidget(label)
            row.addWidget(field)
            layout.addWidget(pair)
        self.dtype.activated.connect(self._on_edited)
        self.context.valueChanged.connect(self._on_edited)
        self.kv_tokens.valueChanged.connect(self._on_edited)
        board.changed.connect(self.show_draft)
        self.show_draft()

    def _spin(self, name: str, tip: str) -> QSpinBox:
        made = QSpinBox()
        made.setAccessibleName(name)
        made.setToolTip(tip)
        made.setRange(1, 1)
        made.setSingleStep(1024)
        made.setGroupSeparatorShown(True)
        made.setKeyboardTracking(False)
        made.lineEdit().setTextMargins(4, 0, 0, 0)
        made.setMinimumWidth(made.fontMetrics().horizontalAdvance("16,000,000") + 4 * SPACING)
        return made

    @Slot()
    def show_draft(self) -> None:
        """The draft's figures, unless they are there already: a field that is being typed in stays as it is."""
        draft = self._board.arrangement
        self.setEnabled(draft is not None and not self._board.is_deploying)
        if draft is None:
            return
        fields = (self.dtype, self.context, self.kv_tokens)
        for field in fields:
            field.blockSignals(True)
        if self.context.maximum() != draft.description.max_context:
            self.context.setMaximum(draft.description.max_context)
        if self.dtype.currentText() != draft.serving.dtype:
            self.dtype.setCurrentText(draft.serving.dtype)
        if self.context.value() != draft.serving.context:
            self.context.setValue(draft.serving.context)
        if self.kv_tokens.value() != draft.serving.kv_tokens:
            self.kv_tokens.setValue(draft.serving.kv_tokens)
        for field in fields:
            field.blockSignals(False)

    @Slot()
    def _on_edited(self) -> None:
        draft = self._board.arrangement
        if draft is None:
            return
        context = self.context.value()
        # One sequence of the whole context must fit, or the context is only a promise.
        kv_tokens = max(self.kv_tokens.value(), context)
        try:
            self._board.set_serving(Serving(self.dtype.currentText(), context, kv_tokens))
        except ShardboardError as error:
            self._board.workbench.notices.toast(str(error), Level.WARNING)
        self.show_draft()

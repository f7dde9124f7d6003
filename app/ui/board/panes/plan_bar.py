"""Over the scene: the draft's model and settings, what it would be like to use, and Deploy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, Slot
from PySide6.QtGui import QAction, QResizeEvent
from PySide6.QtWidgets import QComboBox, QFrame, QGridLayout, QLabel, QPushButton, QSpinBox, QWidget

from app.errors import ShardboardError
from app.models.description import COMPUTE_ITEM_BYTES
from app.serving import KV_DTYPES, QUANTIZE, RECOVERIES
from app.sharding.planning.aims import AIMS, MEANINGS
from app.ui import make
from app.ui.board.panes.plan_words import (
    outlook_text,
    outlook_tip,
    plan_text,
    plan_tip,
    single_text,
    state_text,
    warning_text,
)
from app.ui.giving_way import ElidedLabel, FlowLayout
from app.ui.icons import mark
from app.ui.notices import Level
from app.ui.theme import SPACING

if TYPE_CHECKING:
    from app.ui.board.board_commands import BoardCommands
    from app.ui.board.state.board_model import BoardModel


NARROW = 640
"""Pixels below which the buttons may stand under the name."""
MOST_KV_TOKENS = 16_000_000


class PlanBar(QFrame):
    """The chosen model with its draft's figures. Its buttons are the screen's commands."""

    def __init__(self, board: BoardModel, commands: BoardCommands, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "panel")
        self._board = board
        self.name = make.dressed(ElidedLabel("", Qt.TextElideMode.ElideMiddle), "title")
        self.state = make.label("", "muted")
        self.outlook = make.dressed(ElidedLabel(), "heading", key="board-prediction")
        self.single = make.dressed(ElidedLabel(), "muted")
        self.plan = make.dressed(ElidedLabel(), "muted", key="board-plan")
        self.warning = make.label("", "warning", wraps=True, name="Warning")
        self._warning_icon = QLabel()
        self.propose = self._button(commands.propose, "Propose", "board-propose")
        self.deploy = self._button(commands.deploy, "Deploy", "board-deploy", "primary")
        self.replicate = self._button(commands.replicate, "Add replica", "board-replicate")
        self.undeploy = self._button(commands.undeploy, "Undeploy", "board-undeploy")
        self.serving = ServingRow(board, commands)
        self._top = QGridLayout()
        self._top.setSpacing(SPACING)
        self._top.setColumnStretch(0, 1)
        names = make.column(self.name, self.state, spacing=0)
        self._top.addLayout(names, 0, 0)
        self._buttons = QWidget()
        make.row(
            make.tool_of(commands.undo),
            make.tool_of(commands.redo),
            self.propose,
            self.undeploy,
            self.replicate,
            self.deploy,
            within=self._buttons,
        )
        self._is_narrow = False
        self._top.addWidget(self._buttons, 0, 1)
        figures = QGridLayout()
        figures.setHorizontalSpacing(3 * SPACING)
        figures.setVerticalSpacing(0)
        figures.addWidget(self.outlook, 0, 0)
        figures.addWidget(self.single, 1, 0)
        figures.addWidget(self.plan, 2, 0)
        self._warning_row = QWidget()
        make.row((self._warning_icon, 0, Qt.AlignmentFlag.AlignTop), (self.warning, 1), within=self._warning_row)
        make.column(
            self._top, self.serving, figures, self._warning_row, within=self,
            margins=(2 * SPACING, SPACING + 4, 2 * SPACING, SPACING + 4),
        )  # fmt: skip
        board.changed.connect(self.show_draft)
        board.workbench.theme.changed.connect(self._recolour)
        self._recolour()
        self.show_draft()

    def _button(self, action: QAction, text: str, name: str, role: str = "") -> QPushButton:
        """A push button for a command: it follows whether it can be done, and says why not."""
        made = make.button(text, action.trigger, key=name, role=role)
        made.setProperty("command", action.text())

        def follow() -> None:
            made.setEnabled(action.isEnabled())
            tip = action.statusTip() or action.text()
            keys = action.shortcut().toString()
            made.setToolTip(f"{tip} ({keys})" if keys and action.isEnabled() else tip)

        action.changed.connect(follow)
        follow()
        return made

    @Slot()
    def show_draft(self) -> None:
        board = self._board
        draft = board.arrangement
        self.name.say(board.model_name or "No model chosen")
        self.state.setText(state_text(board))
        self.outlook.say(outlook_text(board), outlook_tip(board))
        self.single.say(single_text(board))
        self.single.setVisible(draft is not None)
        planned = plan_text(board)
        self.plan.say(planned, plan_tip(board))
        self.plan.setVisible(bool(planned))
        self.serving.setVisible(draft is not None)
        warning = warning_text(board)
        if warning != self.warning.text():
            self.warning.setText(warning)
        self._warning_row.setVisible(bool(warning))
        name = board.model_name
        deployed = name is not None and board.workbench.cluster.deployment_of(name) is not None
        self.undeploy.setVisible(deployed and not board.is_deploying)
        self.deploy.setVisible(not board.is_deploying and not board.is_loaded)
        self.replicate.setVisible(board.can_replicate and not board.is_deploying)
        self.deploy.setText("Move" if board.moves else "Deploy")
        self._arrange()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._arrange()

    def _arrange(self) -> None:
        """Where there is little room the buttons stand below the name, which would be cut off beside them."""
        name = self.name.fontMetrics().horizontalAdvance(self.name.text())
        wanted = max(name, self.state.sizeHint().width()) + self._buttons.sizeHint().width()
        is_narrow = wanted + 6 * SPACING > self.width() and self.width() < NARROW
        if is_narrow != self._is_narrow:
            self._is_narrow = is_narrow
            self._top.removeWidget(self._buttons)
            side = Qt.AlignmentFlag.AlignLeft if is_narrow else Qt.AlignmentFlag.AlignRight
            self._top.addWidget(self._buttons, 1 if is_narrow else 0, 0 if is_narrow else 1, side)

    @Slot()
    def _recolour(self) -> None:
        color = self._board.workbench.theme.colors.warning
        self._warning_icon.setPixmap(mark("triangle-alert", color))


class ServingRow(QWidget):
    """What a plan aims at, and what the model is loaded for: it decides how much memory a layer takes. Each change of
    the latter can be undone."""

    def __init__(self, board: BoardModel, commands: BoardCommands, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._board, self._commands = board, commands
        self.dtype = _choice(
            "Compute dtype",
            "What the stages compute in. Half precision takes half the memory of float32.",
            COMPUTE_ITEM_BYTES,
        )
        self.quantize = _choice(
            "Quantize weights",
            "Put the layers' matrices into 8 or 4 bits while they are loaded: a half and a quarter of bfloat16's "
            "memory, and faster, at the cost of some accuracy. What a file has in blocks already stays as it is.",
            QUANTIZE,
        )
        self.kv_dtype = _choice(
            "Keep keys and values in",
            "As they are computed, or in 8 bits: a half and a quarter of bfloat16's and float32's memory for each "
            "token, at the cost of some accuracy. Where a model's layers cannot, the stage says why.",
            KV_DTYPES,
        )
        self.recovery = _choice(
            "Recovery",
            "How answers go on when a stage is lost. Fast: their tokens are read anew, which in half precision may "
            "change what follows. Exact: to the bit, from a journal that every stage keeps in main memory.",
            RECOVERIES,
        )
        self.context = self._spin("Context", "The longest prompt and answer together, in tokens")
        self.kv_tokens = self._spin(
            "KV tokens", "For how many tokens in all, of all answers at once, keys and values are kept"
        )
        self.kv_tokens.setMaximum(MOST_KV_TOKENS)
        self.aim = make.dressed(QComboBox(), name="Aim", key="board-aim")
        for aim, title in AIMS.items():
            self.aim.addItem(title.capitalize(), aim)
            self.aim.setItemData(self.aim.count() - 1, MEANINGS[aim], Qt.ItemDataRole.ToolTipRole)
        layout = FlowLayout(SPACING, self)
        for text, field in (
            ("Aim", self.aim),
            ("Dtype", self.dtype), ("Quantize", self.quantize), ("Context", self.context),
            ("KV tokens", self.kv_tokens), ("KV in", self.kv_dtype), ("Recovery", self.recovery),
        ):  # fmt: skip
            label = make.label(text, "muted")
            label.setBuddy(field)
            pair = QWidget()
            make.row(label, field, within=pair, margins=(0, 0, SPACING, 0))
            layout.addWidget(pair)
        self.aim.activated.connect(self._on_aim)
        for choice in (self.dtype, self.quantize, self.kv_dtype, self.recovery):
            choice.activated.connect(self._on_edited)
        self.context.valueChanged.connect(self._on_edited)
        self.kv_tokens.valueChanged.connect(self._on_edited)
        board.changed.connect(self.show_draft)
        self.show_draft()

    @Slot()
    def _on_aim(self) -> None:
        self._commands.attempt(lambda: self._board.aim_at(self.aim.currentData()))
        self.show_draft()

    def _spin(self, name: str, tip: str) -> QSpinBox:
        made = make.dressed(make.number_field(QSpinBox()), name=name, tip=tip)
        made.setRange(1, 1)
        made.setSingleStep(1024)
        made.setGroupSeparatorShown(True)
        made.setKeyboardTracking(False)
        made.setMinimumWidth(made.fontMetrics().horizontalAdvance("16,000,000") + 4 * SPACING)
        return made

    @Slot()
    def show_draft(self) -> None:
        """The draft's figures, unless they are there already: a field that is being typed in stays as it is."""
        draft = self._board.arrangement
        self.setEnabled(draft is not None and not self._board.is_deploying)
        if (at := self.aim.findData(self._board.aim)) != self.aim.currentIndex():
            self.aim.setCurrentIndex(at)
        self.aim.setToolTip(f"What a plan is proposed for: {MEANINGS[self._board.aim]}")
        if draft is None:
            return
        serving = draft.serving
        fields = (self.dtype, self.quantize, self.context, self.kv_tokens, self.kv_dtype, self.recovery)
        for field in fields:
            field.blockSignals(True)
        if self.context.maximum() != draft.description.max_context:
            self.context.setMaximum(draft.description.max_context)
        for choice, value in (
            (self.dtype, serving.dtype), (self.quantize, serving.quantize), (self.kv_dtype, serving.kv_dtype),
            (self.recovery, serving.recovery),
        ):  # fmt: skip
            if choice.currentText() != value:
                choice.setCurrentText(value)
        if self.context.value() != serving.context:
            self.context.setValue(serving.context)
        if self.kv_tokens.value() != serving.kv_tokens:
            self.kv_tokens.setValue(serving.kv_tokens)
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
            self._board.set_serving(
                replace(
                    draft.serving, dtype=self.dtype.currentText(), context=context, kv_tokens=kv_tokens,
                    quantize=self.quantize.currentText(), kv_dtype=self.kv_dtype.currentText(),
                    recovery=self.recovery.currentText(),
                )
            )  # fmt: skip
        except ShardboardError as error:
            self._board.workbench.notices.toast(str(error), Level.WARNING)
        self.show_draft()


def _choice(name: str, tip: str, values: Iterable[str]) -> QComboBox:
    made = make.dressed(QComboBox(), name=name, tip=tip)
    made.addItems(list(values))
    return made

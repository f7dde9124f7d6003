"""Over the scene: the draft's model and settings, what it would be like to use, and Deploy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import QSize, Qt, Slot
from PySide6.QtGui import QAction, QResizeEvent
from PySide6.QtWidgets import QFrame, QGridLayout, QHBoxLayout, QLabel, QPushButton, QToolButton, QVBoxLayout, QWidget

from app.ui.board.panes.elided_label import ElidedLabel
from app.ui.board.panes.plan_words import outlook_text, outlook_tip, single_text, state_text, warning_text
from app.ui.board.panes.serving_row import ServingRow
from app.ui.icons import icon
from app.ui.theme import SPACING

if TYPE_CHECKING:
    from app.ui.board.board_commands import BoardCommands
    from app.ui.board.state.board_model import BoardModel

NARROW = 560
"""Pixels below which the buttons may stand under the name."""


class PlanBar(QFrame):
    """See the module. Its buttons are the screen's commands."""

    def __init__(self, board: BoardModel, commands: BoardCommands, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "panel")
        self._board = board
        self.name = ElidedLabel("", Qt.TextElideMode.ElideMiddle)
        self.name.setProperty("role", "title")
        self.state = QLabel()
        self.state.setProperty("role", "muted")
        self.outlook = ElidedLabel()
        self.outlook.setProperty("role", "heading")
        self.outlook.setObjectName("board-prediction")
        self.single = ElidedLabel()
        self.single.setProperty("role", "muted")
        self.warning = QLabel()
        self.warning.setProperty("role", "warning")
        self.warning.setWordWrap(True)
        self.warning.setAccessibleName("Warning")
        self._warning_icon = QLabel()
        self.propose = self._button(commands.propose, "Propose", "board-propose")
        self.deploy = self._button(commands.deploy, "Deploy", "board-deploy", "primary")
        self.undeploy = self._button(commands.undeploy, "Undeploy", "board-undeploy")
        self.serving = ServingRow(board)
        self._top = QGridLayout()
        self._top.setSpacing(SPACING)
        self._top.setColumnStretch(0, 1)
        names = QVBoxLayout()
        names.setSpacing(0)
        names.addWidget(self.name)
        names.addWidget(self.state)
        self._top.addLayout(names, 0, 0)
        self._buttons = QWidget()
        buttons = QHBoxLayout(self._buttons)
        buttons.setContentsMargins(0, 0, 0, 0)
        buttons.setSpacing(SPACING)
        buttons.addWidget(_tool(commands.undo))
        buttons.addWidget(_tool(commands.redo))
        for button in (self.propose, self.undeploy, self.deploy):
            buttons.addWidget(button)
        self._is_narrow = False
        self._top.addWidget(self._buttons, 0, 1)
        figures = QGridLayout()
        figures.setHorizontalSpacing(3 * SPACING)
        figures.setVerticalSpacing(0)
        figures.addWidget(self.outlook, 0, 0)
        figures.addWidget(self.single, 1, 0)
        self._warning_row = QWidget()
        row = QHBoxLayout(self._warning_row)
        row.setContentsMargins(0, 0, 0, 0)
        row.setSpacing(SPACING)
        row.addWidget(self._warning_icon, 0, Qt.AlignmentFlag.AlignTop)
        row.addWidget(self.warning, 1)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(2 * SPACING, SPACING + 4, 2 * SPACING, SPACING + 4)
        layout.setSpacing(SPACING)
        layout.addLayout(self._top)
        layout.addWidget(self.serving)
        layout.addLayout(figures)
        layout.addWidget(self._warning_row)
        board.changed.connect(self.show_draft)
        board.workbench.theme.changed.connect(self._recolour)
        self._recolour()
        self.show_draft()

    def _button(self, action: QAction, text: str, name: str, role: str = "") -> QPushButton:
        """A push button for a command: it follows whether it can be done, and says why not."""
        made = QPushButton(text)
        made.setObjectName(name)
        if role:
            made.setProperty("role", role)
        made.clicked.connect(action.trigger)
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
        self.serving.setVisible(draft is not None)
        warning = warning_text(board)
        if warning != self.warning.text():
            self.warning.setText(warning)
        self._warning_row.setVisible(bool(warning))
        name = board.model_name
        deployed = name is not None and board.workbench.cluster.deployment_of(name) is not None
        self.undeploy.setVisible(deployed and not board.is_deploying)
        self.deploy.setVisible(not board.is_deploying and not board.is_loaded)

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Where there is little room the buttons stand below the name, which would be cut off beside them."""
        super().resizeEvent(event)
        wanted = self.name.fontMetrics().horizontalAdvance(self.name.text()) + self._buttons.sizeHint().width()
        is_narrow = wanted + 6 * SPACING > self.width() and self.width() < NARROW
        if is_narrow != self._is_narrow:
            self._is_narrow = is_narrow
            self._top.removeWidget(self._buttons)
            side = Qt.AlignmentFlag.AlignLeft if is_narrow else Qt.AlignmentFlag.AlignRight
            self._top.addWidget(self._buttons, 1 if is_narrow else 0, 0 if is_narrow else 1, side)

    @Slot()
    def _recolour(self) -> None:
        color = self._board.workbench.theme.colors.warning
        self._warning_icon.setPixmap(icon("triangle-alert", color).pixmap(QSize(16, 16)))


def _tool(action: QAction) -> QToolButton:
    made = QToolButton()
    made.setDefaultAction(action)
    made.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonIconOnly)
    made.setAccessibleName(action.text())
    made.setFocusPolicy(Qt.FocusPolicy.TabFocus)
    return made

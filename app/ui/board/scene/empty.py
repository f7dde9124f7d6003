"""What lies over the board when there is nothing to show, and the words beside a drag."""

from __future__ import annotations

from PySide6.QtCore import QPoint, QRect, Qt, Slot
from PySide6.QtWidgets import QFrame, QHBoxLayout, QLabel, QPushButton, QSizePolicy, QVBoxLayout, QWidget

from app.ui.icons import icon
from app.ui.theme import SPACING
from app.ui.workbench import Workbench


class NoNodes(QWidget):
    """The first thing someone sees who has no agents yet, with the two ways on."""

    def __init__(self, workbench: Workbench, parent: QWidget) -> None:
        super().__init__(parent)
        self._workbench = workbench
        self.picture = QLabel()
        self.picture.setAlignment(Qt.AlignmentFlag.AlignCenter)
        title = QLabel("No nodes yet")
        title.setProperty("role", "title")
        title.setAlignment(Qt.AlignmentFlag.AlignCenter)
        text = QLabel("A node is a machine with an agent on it. Start two here to try it, or add one of your machines.")
        text.setProperty("role", "muted")
        text.setWordWrap(True)
        text.setAlignment(Qt.AlignmentFlag.AlignCenter)
        text.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.MinimumExpanding)
        self.start = QPushButton("Start two agents here")
        self.start.setProperty("role", "primary")
        self.start.clicked.connect(self._on_start)
        self.add = QPushButton("Add a node…")
        self.add.clicked.connect(self._on_add)
        buttons = QHBoxLayout()
        buttons.setSpacing(SPACING)
        buttons.addStretch()
        buttons.addWidget(self.start)
        buttons.addWidget(self.add)
        buttons.addStretch()
        layout = QVBoxLayout(self)
        layout.setContentsMargins(3 * SPACING, 3 * SPACING, 3 * SPACING, 3 * SPACING)
        layout.setSpacing(SPACING)
        layout.addWidget(self.picture)
        layout.addWidget(title)
        layout.addWidget(text)
        layout.addSpacing(SPACING)
        layout.addLayout(buttons)
        workbench.theme.changed.connect(self._recolour)
        self._recolour()

    @Slot()
    def _recolour(self) -> None:
        self.picture.setPixmap(icon("server", self._workbench.theme.colors.muted).pixmap(40, 40))

    @Slot()
    def _on_start(self) -> None:
        self._workbench.navigate.emit("nodes", "start")

    @Slot()
    def _on_add(self) -> None:
        self._workbench.navigate.emit("nodes", "add")


class Bubble(QFrame):
    """A few words over the board that never catch the mouse: a hint below, or figures beside a drag."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setProperty("role", "card")
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.head = QLabel()
        self.body = QLabel()
        self.verdict = QLabel()
        self.head.setProperty("role", "heading")
        self.body.setProperty("role", "muted")
        self.verdict.setProperty("role", "error")
        layout = QVBoxLayout(self)
        layout.setContentsMargins(12, 8, 12, 8)
        layout.setSpacing(2)
        for label in (self.head, self.body, self.verdict):
            label.setTextFormat(Qt.TextFormat.PlainText)
            layout.addWidget(label)
        self.hide()

    def say(self, head: str, body: str = "", problem: str = "") -> None:
        """Show these words; empty parts take no room."""
        for label, text in ((self.head, head), (self.body, body), (self.verdict, problem)):
            label.setText(text)
            label.setVisible(bool(text))
        self.adjustSize()
        self.show()
        self.raise_()

    def move_below(self, at: QPoint, room: QRect) -> None:
        """Stand below a point, or above it where there is no room."""
        x = min(max(room.left() + 8, at.x() - self.width() // 2), max(room.left() + 8, room.right() - self.width() - 8))
        below = at.y() + 40
        y = below if below + self.height() <= room.bottom() else at.y() - 40 - self.height()
        self.move(x, max(room.top() + 8, y))

    def move_to_foot(self, room: QRect) -> None:
        """Stand at the lower edge, in the middle."""
        self.move((room.width() - self.width()) // 2, max(0, room.height() - self.height() - 16))

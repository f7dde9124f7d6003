"""What lies over the board: the ways to a first node, and a few words on what to do next or what a drag would do."""

from __future__ import annotations

from functools import partial

from PySide6.QtCore import QPoint, QRect, Qt
from PySide6.QtWidgets import QFrame, QWidget

from app.ui import make
from app.ui.empty_state import EmptyState
from app.ui.workbench import Workbench


def no_nodes(workbench: Workbench, parent: QWidget) -> EmptyState:
    """The first thing someone sees who has no agents yet, with the two ways on."""
    made = EmptyState(workbench.theme, parent)
    made.say(
        "server",
        "No nodes yet",
        "A node is a machine with an agent on it. Start two here to try it, or add one of your machines.",
    )
    made.offer("Start two agents here", partial(workbench.navigate.emit, "nodes", "start"), primary=True)
    made.offer("Add a node…", partial(workbench.navigate.emit, "nodes", "add"))
    return made


class Bubble(QFrame):
    """A few words over the board that never catch the mouse: a hint below, or figures beside a drag."""

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent)
        self.setProperty("role", "card")
        self.setAttribute(Qt.WidgetAttribute.WA_TransparentForMouseEvents)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.head, self.body, self.verdict = (
            make.label("", role, is_plain=True) for role in ("heading", "muted", "error")
        )
        make.column(self.head, self.body, self.verdict, within=self, margins=(12, 8, 12, 8), spacing=2)
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

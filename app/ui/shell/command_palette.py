"""The command palette: everything that can be done, by typing a part of its name."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QEvent, QModelIndex, QObject, Qt, Slot
from PySide6.QtGui import QKeyEvent
from PySide6.QtWidgets import QDialog, QFrame, QLabel, QLineEdit, QListView, QWidget

from app.ui import make
from app.ui.icons import icon
from app.ui.shell.palette_delegate import PaletteDelegate
from app.ui.shell.palette_model import PaletteEntry, PaletteModel, PaletteProxy
from app.ui.theme import SPACING, ThemeKeeper

__all__ = ["CommandPalette", "PaletteEntry"]

ROWS = 10
WIDTH_IN_CHARACTERS = 78


class CommandPalette(QDialog):
    """Opened with Ctrl+K over its parent. The keyboard stays in the input; arrows move the list."""

    def __init__(self, theme: ThemeKeeper, parent: QWidget) -> None:
        super().__init__(parent, Qt.WindowType.Dialog | Qt.WindowType.FramelessWindowHint)
        self._over = parent
        self.setObjectName("command-palette")
        self.setWindowTitle("Commands")
        self.model = PaletteModel(self)
        self.proxy = PaletteProxy(self.model, self)
        self.input = QLineEdit(self)
        self.input.setObjectName("palette-input")
        self.input.setPlaceholderText("What do you want to do?")
        self.input.setAccessibleName("Search commands")
        self.input.addAction(icon("search"), QLineEdit.ActionPosition.LeadingPosition)
        self.input.textChanged.connect(self._on_typed)
        self.input.installEventFilter(self)
        self.list = QListView(self)
        self.list.setModel(self.proxy)
        self.list.setItemDelegate(PaletteDelegate(theme, self.list))
        self.list.setUniformItemSizes(True)
        self.list.setMouseTracking(True)
        self.list.setStyleSheet("background: transparent;")
        self.list.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.list.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.list.setAccessibleName("Commands")
        self.list.entered.connect(self.list.setCurrentIndex)
        self.list.clicked.connect(self._on_chosen)
        self.empty = make.label("No command is called that.", "muted", self)
        self.empty.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self.empty.setContentsMargins(0, 2 * SPACING, 0, 2 * SPACING)
        card = make.dressed(QFrame(self), "card")
        make.column(self.input, (self.list, 1), self.empty, self._help(), within=card, margins=SPACING)
        make.row(card, within=self, spacing=None)

    def _help(self) -> QLabel:
        label = make.label("↑ ↓ to choose    Enter to run    Esc to close", "muted", self)
        label.setContentsMargins(SPACING, 0, SPACING, 0)
        return label

    def set_entries(self, entries: Sequence[PaletteEntry]) -> None:
        """What can be done now."""
        self.model.reset(entries)

    def open(self) -> None:
        """Show it in the upper middle of the parent's window, empty and with what was used last at the top."""
        window = self._over.window()
        self.input.clear()
        self.proxy.set_query("")
        em = self.fontMetrics()
        width = min(em.averageCharWidth() * WIDTH_IN_CHARACTERS, window.width() - 4 * SPACING)
        self.setFixedWidth(width)
        row = self.list.sizeHintForRow(0) if self.proxy.rowCount() else em.height() + 2 * SPACING + 2
        self.list.setFixedHeight(row * max(1, min(ROWS, self.proxy.rowCount())) + 2)
        self.adjustSize()
        corner = window.mapToGlobal(window.rect().topLeft())
        self.move(corner.x() + (window.width() - width) // 2, corner.y() + max(SPACING * 6, window.height() // 8))
        self._choose_first()
        self.show()
        self.input.setFocus()

    @Slot(str)
    def _on_typed(self, text: str) -> None:
        self.proxy.set_query(text)
        self._choose_first()

    def _choose_first(self) -> None:
        has_any = self.proxy.rowCount() > 0
        self.empty.setVisible(not has_any)
        self.list.setVisible(has_any)
        if has_any:
            self.list.setCurrentIndex(self.proxy.index(0, 0))
            self.list.scrollToTop()

    def run_current(self) -> None:
        """Run what is chosen and close; a command that cannot be run leaves the palette open."""
        index = self.list.currentIndex()
        if not index.isValid():
            return
        entry = self.proxy.entry(index.row())
        if not entry.enabled:
            return
        self.model.used(entry)
        self.hide()
        entry.run()

    @Slot(QModelIndex)
    def _on_chosen(self, index: QModelIndex) -> None:
        self.list.setCurrentIndex(index)
        self.run_current()

    def _step(self, by: int) -> None:
        rows = self.proxy.rowCount()
        if rows:
            self.list.setCurrentIndex(self.proxy.index((self.list.currentIndex().row() + by) % rows, 0))

    def event(self, event: QEvent) -> bool:
        if event.type() is QEvent.Type.WindowDeactivate:  # a click elsewhere: whoever does that wants on
            self.hide()
        return super().event(event)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if watched is self.input and isinstance(event, QKeyEvent) and event.type() is QEvent.Type.KeyPress:
            steps = {Qt.Key.Key_Down: 1, Qt.Key.Key_Up: -1}
            key = Qt.Key(event.key())
            if key in steps:
                self._step(steps[key])
                return True
            if key in (Qt.Key.Key_PageDown, Qt.Key.Key_PageUp):
                last = self.proxy.rowCount() - 1
                to = self.list.currentIndex().row() + (ROWS - 1) * (1 if key is Qt.Key.Key_PageDown else -1)
                self.list.setCurrentIndex(self.proxy.index(max(0, min(last, to)), 0))
                return True
            if key in (Qt.Key.Key_Return, Qt.Key.Key_Enter):
                self.run_current()
                return True
        return super().eventFilter(watched, event)

"""The list of conversations at the left: open one, begin a new one, rename, delete."""

from __future__ import annotations

from PySide6.QtCore import QModelIndex, QPoint, Qt, Signal, Slot
from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import QFrame, QListView, QMenu, QWidget

from app.ui import make
from app.ui.chat.conversation_delegate import ConversationDelegate
from app.ui.chat.conversation_list import ConversationList, ListRole
from app.ui.icons import icon
from app.ui.theme import SPACING, ThemeKeeper

REFRESH_MILLISECONDS = 30_000
"""How often "3 min ago" is looked at again."""


class ConversationPane(QFrame):
    """Shows the list and says what the user wants of it."""

    opened = Signal(str)
    deleted = Signal(str)

    def __init__(
        self, conversations: ConversationList, theme: ThemeKeeper, new: QAction, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.setProperty("role", "panel")
        self.setMinimumWidth(180)
        self._list = conversations
        button = make.button("New chat", new.trigger, picture="plus", tip=f"{new.text()} ({new.shortcut().toString()})")
        self.view = make.dressed(QListView(), key="chat-conversations", name="Conversations")
        self.view.setModel(conversations)
        self.view.setItemDelegate(ConversationDelegate(theme, self.view))
        self.view.setUniformItemSizes(True)
        self.view.setMouseTracking(True)
        self.view.setEditTriggers(QListView.EditTrigger.EditKeyPressed)
        self.view.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.view.setContextMenuPolicy(Qt.ContextMenuPolicy.CustomContextMenu)
        self.view.customContextMenuRequested.connect(self._on_menu)
        self.view.selectionModel().currentChanged.connect(self._on_current)
        self.note = make.label("Conversations are kept on this computer only.", "muted", wraps=True)
        make.column(button, (self.view, 1), self.note, within=self, margins=SPACING)
        self.rename_action = self._action("Rename", "pencil", QKeySequence(), self._rename)
        self.delete_action = self._action("Delete", "trash-2", QKeySequence(Qt.Key.Key_Delete), self._delete)
        self._selecting = False
        self._timer = make.timer(self, conversations.refresh_times, REFRESH_MILLISECONDS, once=False)

    def _action(self, text: str, name: str, key: QKeySequence, run: object) -> QAction:
        action = QAction(icon(name), text, self.view)
        action.setShortcut(key)
        action.setShortcutContext(Qt.ShortcutContext.WidgetShortcut)
        action.triggered.connect(run)
        self.view.addAction(action)
        return action

    def set_live(self, live: bool) -> None:
        """Times in words are kept up while they can be seen."""
        if live:
            self._list.refresh_times()
            self._timer.start()
        else:
            self._timer.stop()

    def select(self, id: str) -> None:
        """Mark the open conversation, or none; nothing is emitted."""
        self._selecting = True
        row = self._list.row_of(id)
        self.view.setCurrentIndex(self._list.index(row) if row >= 0 else QModelIndex())
        if row < 0:
            self.view.clearSelection()
        self._selecting = False

    @Slot(QModelIndex, QModelIndex)
    def _on_current(self, current: QModelIndex, previous: QModelIndex) -> None:
        if not self._selecting and current.isValid():
            self.opened.emit(str(current.data(ListRole.ID)))

    @Slot(QPoint)
    def _on_menu(self, position: QPoint) -> None:
        if self.view.indexAt(position).isValid():
            menu = QMenu(self)
            menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
            menu.addActions([self.rename_action, self.delete_action])
            menu.popup(self.view.viewport().mapToGlobal(position))

    @Slot()
    def _rename(self) -> None:
        if self.view.currentIndex().isValid():
            self.view.edit(self.view.currentIndex())

    @Slot()
    def _delete(self) -> None:
        if (index := self.view.currentIndex()).isValid():
            self.deleted.emit(str(index.data(ListRole.ID)))

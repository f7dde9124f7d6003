"""The screen Log: events of controller and agents with filters and follow, or the end of one agent's own log."""

from __future__ import annotations

from typing import Any

from PySide6.QtCore import QByteArray, Slot
from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import QComboBox, QPushButton, QWidget

from app.ui import make
from app.ui.icons import icon
from app.ui.log.agent_log import AgentLogPage
from app.ui.log.events_page import EventsPage
from app.ui.screen import Screen
from app.ui.theme import SPACING
from app.ui.workbench import Workbench


class LogScreen(Screen):
    """A chooser over two pages: the events, and an agent's log."""

    key = "log"
    title = "Log"
    icon = "scroll-text"

    def __init__(self, workbench: Workbench, parent: QWidget | None = None) -> None:
        super().__init__(workbench, parent)
        self.events = EventsPage(workbench, self)
        self.agent = AgentLogPage(workbench, self)
        self.chooser = QComboBox(self)
        self.chooser.setAccessibleName("What to show")
        self.chooser.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToContents)
        self.chooser.addItem(icon("scroll-text"), "Events")
        self._node_ids: list[int | None] = [None]
        self._stack = make.stack(self.events, self.agent)
        self._make_commands()
        self._build()
        self.chooser.currentIndexChanged.connect(self._on_chosen)
        self.events.following_changed.connect(self._on_following)
        workbench.cluster.nodes_reset.connect(self._show_nodes)
        self._show_nodes()

    def _make_commands(self) -> None:
        self._find = make.command(self, "search", "Find in the log", self._on_find, keys=QKeySequence.StandardKey.Find)
        self.follow = QAction(icon("arrow-up"), "Follow", self)
        self.follow.setCheckable(True)
        self.follow.setChecked(True)
        self.follow.setToolTip("Show new events as they come")
        self.follow.triggered.connect(self._on_follow)
        self._copy = make.command(self, "copy", "Copy the selected events", self.events.copy_selection)
        self._export = make.command(
            self, "download", "Export log…", self.events.export, tip="Write all events that the filters leave to a file"
        )
        self._all = make.command(self, "funnel", "Show all events", self.events.filters.reset)
        self.addAction(self._find)

    def commands(self) -> list[QAction]:
        return [self._find, self.follow, self._all, self._copy, self.events.detail.copy, self._export]

    def _build(self) -> None:
        title = make.label(self.title, "title", self)
        self._follow_button = QPushButton(self.follow.icon(), self.follow.text(), self)
        self._follow_button.setCheckable(True)
        self._follow_button.setChecked(True)
        self._show_follow()
        self._follow_button.setToolTip(self.follow.toolTip())
        self._follow_button.clicked.connect(self._on_follow)
        export = make.button("Export…", self._export.trigger, self, tip=self._export.toolTip())
        export.setIcon(self._export.icon())
        self._event_buttons = (self._follow_button, export)
        head = make.row(title, make.STRETCH, *self._event_buttons)
        self._gap = QWidget(self)
        self._gap.hide()
        tools = make.row(self.chooser, (self.events.filters, 1), (self._gap, 1), spacing=2 * SPACING)
        top = make.column(head, tools, margins=(2 * SPACING, 2 * SPACING, 2 * SPACING, SPACING))
        make.column(top, (self._stack, 1), within=self, spacing=0)

    # --- a screen's life ---

    def went_live(self) -> None:
        self.events.set_live(True)

    def went_quiet(self) -> None:
        self.events.set_live(False)

    def open_with(self, what: object) -> None:
        """A node's id: what is about it."""
        if isinstance(what, int):
            self.chooser.setCurrentIndex(0)
            self._show_nodes()
            self.events.filters.choose_node(what)

    def save(self) -> dict[str, Any]:
        return {
            "level": self.events.filters.levels.currentIndex(),
            "splitter": bytes(self.events.splitter.saveState().toBase64().data()).decode(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        level = state.get("level")
        if isinstance(level, int) and 0 <= level < self.events.filters.levels.count():
            self.events.filters.levels.setCurrentIndex(level)
        if isinstance(kept := state.get("splitter"), str):
            self.events.splitter.restoreState(QByteArray.fromBase64(kept.encode()))

    def busy_with(self) -> list[str]:
        return ["an export of the log"] if self.events.exporting.is_running else []

    # --- choosing what is shown ---

    @Slot()
    def _show_nodes(self) -> None:
        """Events, then every node's own log."""
        nodes = self.workbench.cluster.nodes
        chosen = self._node_ids[max(0, self.chooser.currentIndex())]
        self._node_ids = [None, *nodes]
        self.chooser.blockSignals(True)
        while self.chooser.count() > 1:
            self.chooser.removeItem(1)
        for view in nodes.values():
            self.chooser.addItem(icon("server"), f"Agent log: {view.name}")
        gone = chosen not in self._node_ids
        self.chooser.setCurrentIndex(0 if gone else self._node_ids.index(chosen))
        self.chooser.blockSignals(False)
        if gone:
            self._on_chosen(0)
        self.events.filters.set_nodes({id: view.name for id, view in nodes.items()})

    @Slot(int)
    def _on_chosen(self, number: int) -> None:
        node = self._node_ids[number] if 0 <= number < len(self._node_ids) else None
        is_events = node is None
        self._stack.setCurrentWidget(self.events if is_events else self.agent)
        self.events.filters.setVisible(is_events)
        self._gap.setVisible(not is_events)
        for button in self._event_buttons:
            button.setVisible(is_events)
        self.agent.show_node(node)

    # --- doing ---

    @Slot()
    def _on_find(self) -> None:
        search = self.events.filters.search if self._stack.currentWidget() is self.events else self.agent.search
        search.setFocus()
        search.selectAll()

    @Slot(bool)
    def _on_follow(self, follow: bool) -> None:
        self.events.panel.view.set_following(follow)
        self._on_following(follow)

    @Slot(bool)
    def _on_following(self, follows: bool) -> None:
        self.follow.setChecked(follows)
        self._follow_button.setChecked(follows)
        self._show_follow()

    def _show_follow(self) -> None:
        """In words and with an icon: a pressed button alone is easily overlooked."""
        follows = self.follow.isChecked()
        self._follow_button.setText("Following" if follows else "Follow")
        self._follow_button.setIcon(icon("check" if follows else "arrow-up"))

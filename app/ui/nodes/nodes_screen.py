"""The Nodes screen: actions above, the table of nodes, and below it the graphs of those that are selected."""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

from PySide6.QtCore import QPoint, Qt, Slot
from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import QFrame, QHBoxLayout, QMenu, QToolButton, QWidget

from app.cluster.node_state import NodeState
from app.ui import make
from app.ui.empty_state import EmptyState
from app.ui.looks import rank
from app.ui.nodes.graph_panel import GraphPanel
from app.ui.nodes.node_actions import NodeActions
from app.ui.nodes.node_row import NodeColumn
from app.ui.nodes.nodes_model import NodesModel
from app.ui.nodes.nodes_table import NodesTable
from app.ui.screen import Screen
from app.ui.theme import SPACING
from app.ui.workbench import Workbench

_SUMMARY_MILLISECONDS = 250
"""States and the actions they allow are looked at so often at most, however many nodes beat."""
_IN_BAR = ("start", "stop", "drain", "take_back", "remove")


class NodesScreen(Screen):
    key: ClassVar[str] = "nodes"
    title: ClassVar[str] = "Nodes"
    icon: ClassVar[str] = "server"

    def __init__(self, workbench: Workbench, parent: QWidget | None = None) -> None:
        super().__init__(workbench, parent)
        cluster = workbench.cluster
        self.model = NodesModel(cluster, self)
        self.table = NodesTable(self.model, workbench.theme)
        self.graphs = GraphPanel(cluster, workbench.theme)
        self.node_actions = NodeActions(workbench, self)
        self._wanted: tuple[int, ...] = ()
        """To be selected as soon as the cluster has them."""
        self._remembered: tuple[int, ...] = ()
        """What was selected the last time; those that are still there are selected when the nodes are read."""
        self._waiting = make.label("Opening the registry …", "muted")
        self._waiting.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._empty = EmptyState(workbench.theme)
        self._empty.say(
            "server",
            "No nodes yet",
            "A node is a machine with an agent on it, which runs layers of a model. Start with this one.",
        )
        actions = self.node_actions
        for way in actions.ways()[:2]:
            first = way.action is actions.start_here
            self._empty.offer(way.action.text(), way.action.trigger, way.picture, primary=first, tip=way.sentence)
        self._empty.offer(actions.machines.text(), actions.machines.trigger, "plus", tip=actions.machines.toolTip())
        lower = make.dressed(QFrame(), "panel")
        make.column(self.graphs, within=lower, spacing=None)
        self._splitter = make.splitter(
            Qt.Orientation.Vertical, self._make_upper(), lower, sizes=(340, 400), growing=(0, 1)
        )
        self._stack = make.stack(self._waiting, self._empty, self._splitter)
        make.column(self._make_header(), (self._stack, 1), within=self, spacing=0)
        self._look_again = make.timer(self, self._look, _SUMMARY_MILLISECONDS)
        self._find = make.command(
            self, "search", "Filter nodes", self._on_find, keys=QKeySequence.StandardKey.Find,
            tip="Show only nodes with some words",
        )  # fmt: skip
        self.addActions(self.commands())
        cluster.nodes_changed.connect(self._on_nodes)
        cluster.nodes_reset.connect(self._look)
        cluster.loaded.connect(self._look)
        self.table.selection_changed.connect(self._on_selection)
        self.table.menu_wanted.connect(self._on_menu)
        self.node_actions.wanted.connect(self.select)
        self.table.doubleClicked.connect(self.node_actions.show_on_board.trigger)
        self._look()

    # --- what the window asks ---

    def commands(self) -> list[QAction]:
        return [*self.node_actions.all(), self._find, self.graphs.pause, self.graphs.reset]

    def open_with(self, what: object) -> None:
        match what:
            case int():
                self.select((what,))
            case "start":
                self.node_actions.open_start()
            case "add":
                self.node_actions.open_add()
            case "find":
                self.node_actions.open_find()
            case "invite":
                self.node_actions.open_invite()

    def busy_with(self) -> list[str]:
        return self.node_actions.busy_with()

    def save(self) -> dict[str, Any]:
        return {
            "sort": int(self.table.proxy.sortColumn()),
            "descending": self.table.proxy.sortOrder() is Qt.SortOrder.DescendingOrder,
            "widths": self.table.widths(),
            "split": self._splitter.sizes(),
            "minutes": self.graphs.minutes,
            "selected": list(self.table.selected),
        }

    def restore(self, state: dict[str, Any]) -> None:
        sort, minutes, split = state.get("sort"), state.get("minutes"), _ints(state.get("split"))
        if isinstance(sort, int) and sort in set(NodeColumn):
            order = Qt.SortOrder.DescendingOrder if state.get("descending") else Qt.SortOrder.AscendingOrder
            self.table.sortByColumn(sort, order)
        self.table.set_widths(_ints(state.get("widths")))
        if len(split) == 2:
            self._splitter.setSizes(split)
        if isinstance(minutes, int):
            self.graphs.set_minutes(minutes)
        self._remembered = tuple(_ints(state.get("selected")))
        self._look()

    def went_live(self) -> None:
        self.model.set_live(True)
        self._look()
        self.graphs.set_live(True)

    def went_quiet(self) -> None:
        self.model.set_live(False)
        self.graphs.set_live(False)

    @Slot(object)
    def select(self, nodes: tuple[int, ...]) -> None:
        """Select nodes, also some that are about to come."""
        self._wanted = tuple(nodes)
        self._select_wanted()

    # --- building ---

    def _make_header(self) -> QHBoxLayout:
        title = make.label(self.title, "title")
        self._summary = make.label("", "muted")
        row = make.row(
            title, SPACING, self._summary, make.STRETCH,
            margins=(2 * SPACING, SPACING + SPACING // 2, 2 * SPACING, SPACING + SPACING // 2),
        )  # fmt: skip
        for name, action in (
            ("nodes-machines", self.node_actions.machines),
            ("nodes-links", self.node_actions.links),
        ):
            row.addWidget(_button(action, name))
        return row

    def _make_upper(self) -> QWidget:
        upper = make.dressed(QFrame(), "panel")
        layout = make.column(within=upper, spacing=0)
        bar = make.row(margins=(2 * SPACING, SPACING, 2 * SPACING, SPACING), spacing=SPACING // 2)
        self.filter = make.field("Filter by name, address, state or model", "Filter nodes", searches=True)
        self.filter.setMinimumWidth(self.fontMetrics().averageCharWidth() * 42)
        self.filter.textChanged.connect(self._on_filter)
        bar.addWidget(self.filter)
        bar.addStretch(1)
        for name in _IN_BAR:
            bar.addWidget(_button(getattr(self.node_actions, name), f"nodes-{name.replace('_', '-')}"))
        more = make.tool("ellipsis", "More that can be done with the selected nodes", name="More actions")
        more.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        more.setStyleSheet("QToolButton::menu-indicator { image: none; }")
        more.setMenu(self._make_menu(more))
        bar.addWidget(more)
        layout.addLayout(bar)
        self._nothing = make.label("No node matches this filter.", "muted", hidden=True)
        self._nothing.setAlignment(Qt.AlignmentFlag.AlignCenter)
        layout.addWidget(self._nothing, 1)
        framed = make.row(self.table, margins=(SPACING, 0, SPACING, 0), spacing=None)
        layout.addLayout(framed, 4)
        return upper

    def _make_menu(self, parent: QWidget) -> QMenu:
        menu = QMenu(parent)
        actions = self.node_actions
        for group in (
            (actions.start, actions.stop, actions.renew, actions.drain, actions.take_back),
            (actions.show_on_board, actions.show_log, actions.copy_address, actions.copy_details),
            (actions.remove, actions.remove_ghosts),
        ):
            menu.addActions(group)
            menu.addSeparator()
        return menu

    # --- following ---

    @Slot(object)
    def _on_nodes(self, ids: frozenset[int]) -> None:
        if not self._look_again.isActive():
            self._look_again.start()

    @Slot()
    def _look(self) -> None:
        """Bring what depends on all nodes up to date: page, summary, what can be done, which curves are drawn."""
        cluster = self.workbench.cluster
        page = self._splitter if cluster.nodes else self._empty if cluster.is_loaded else self._waiting
        if self._stack.currentWidget() is not page:
            self._stack.setCurrentWidget(page)
        counts = Counter(view.state for view in cluster.nodes.values())
        order = sorted(counts, key=lambda state: (state is not NodeState.UP, rank(state)))
        self._summary.setText(", ".join(f"{counts[state]} {state}" for state in order))
        has_gpu = any(view.report is not None and view.report.gpus for view in cluster.nodes.values())
        self.table.setColumnHidden(NodeColumn.GPU, not has_gpu)
        self._select_wanted()
        self._on_selection()

    @Slot()
    def _on_selection(self) -> None:
        selected = self.table.selected
        self.node_actions.take_selection(selected)
        self.graphs.show_nodes(selected or tuple(self.workbench.cluster.nodes))

    def _select_wanted(self) -> None:
        if self._remembered and self.workbench.cluster.is_loaded:
            remembered, self._remembered = self._remembered, ()
            self.table.select(remembered)
        if self._wanted and all(self.model.place_of(node) is not None for node in self._wanted):
            wanted, self._wanted = self._wanted, ()
            if self.table.proxy.is_filtered and not set(wanted) <= set(self.table.shown):
                self.filter.clear()
            self.table.select(wanted)

    @Slot(str)
    def _on_filter(self, text: str) -> None:
        self.table.proxy.set_filter(text)
        nothing = bool(self.model.rowCount()) and not self.table.proxy.rowCount()
        self._nothing.setVisible(nothing)
        self.table.setVisible(not nothing)

    @Slot()
    def _on_find(self) -> None:
        self.filter.setFocus(Qt.FocusReason.ShortcutFocusReason)
        self.filter.selectAll()

    @Slot(QPoint)
    def _on_menu(self, at: QPoint) -> None:
        menu = self._make_menu(self)
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.popup(at)


def _button(action: QAction, name: str) -> QToolButton:
    button = QToolButton()
    button.setDefaultAction(action)
    button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
    button.setObjectName(name)
    button.setAccessibleName(action.iconText())
    button.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
    return button


def _ints(value: object) -> list[int]:
    return [each for each in value if isinstance(each, int)] if isinstance(value, list) else []

"""The lower half of the screen: graphs with their range, pause, reset and legend. Loads pyqtgraph when first shown."""

from __future__ import annotations

import importlib
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, Slot
from PySide6.QtGui import QAction
from PySide6.QtWidgets import QButtonGroup, QHBoxLayout, QToolButton, QWidget

from app.ui import make
from app.ui.cluster import Cluster
from app.ui.icons import icon
from app.ui.nodes.graph_legend import GraphLegend
from app.ui.theme import SPACING, ThemeKeeper

if TYPE_CHECKING:
    from app.ui.nodes.graph_grid import GraphGrid

MOST_CURVES = 8
RANGES = (1, 5, 10)
"""Minutes."""
_LOOK_MILLISECONDS = 20


class GraphPanel(QWidget):
    """Draws the nodes it is told to, while it is visible."""

    def __init__(self, cluster: Cluster, theme: ThemeKeeper, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._cluster, self._theme = cluster, theme
        self._nodes: tuple[int, ...] = ()
        self._minutes = RANGES[-1]
        self._live = False
        self.grid: GraphGrid | None = None
        self.legend = GraphLegend(theme)
        self._over = make.label("", "muted")
        self._waiting = make.label("Loading the graphs …", "muted")
        self._waiting.setAlignment(Qt.AlignmentFlag.AlignCenter)
        self._body = make.column(
            self._make_bar(), self.legend, (self._waiting, 1), within=self,
            margins=(2 * SPACING, SPACING, 2 * SPACING, SPACING), spacing=SPACING // 2,
        )  # fmt: skip
        self._loading: threading.Thread | None = None
        self._look = make.timer(self, self._on_look, _LOOK_MILLISECONDS, once=False)
        self.setAccessibleName("Graphs")

    def _make_bar(self) -> QHBoxLayout:
        title = make.label("Last 10 minutes", "heading")
        self._title = title
        row = make.row(title, SPACING, self._over, make.STRETCH, spacing=SPACING // 2)
        self._ranges = QButtonGroup(self)
        for minutes in RANGES:
            button = QToolButton()
            button.setText(f"{minutes} min")
            button.setCheckable(True)
            button.setChecked(minutes == self._minutes)
            button.setToolTip(f"Show the last {minutes} minute{'s' if minutes > 1 else ''}")
            self._ranges.addButton(button, minutes)
            row.addWidget(button)
        self._ranges.idClicked.connect(self.set_minutes)
        row.addSpacing(SPACING)
        self.pause = QAction(icon("pause"), "Pause graphs", self)
        self.pause.setCheckable(True)
        self.pause.setToolTip("Hold the graphs still; figures go on being kept")
        self.pause.toggled.connect(self._on_pause)
        self.reset = make.command(self, "rotate-ccw", "Reset graphs", self._on_reset, tip="Undo zooming and panning")
        for action, text in ((self.pause, "Pause"), (self.reset, "Reset")):
            action.setIconText(text)
            button = QToolButton()
            button.setDefaultAction(action)
            button.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
            row.addWidget(button)
        return row

    @property
    def minutes(self) -> int:
        return self._minutes

    @property
    def nodes(self) -> tuple[int, ...]:
        return self._nodes

    def show_nodes(self, nodes: Sequence[int]) -> None:
        """Draw the first eight of these."""
        views = self._cluster.nodes
        known = [node for node in nodes if node in views]
        self._nodes = tuple(known[:MOST_CURVES])
        self.legend.show_names([views[node].name for node in self._nodes], len(known) - len(self._nodes))
        self._hand_over()

    @Slot(int)
    def set_minutes(self, minutes: int) -> None:
        if minutes not in RANGES:
            return
        self._minutes = minutes
        self._ranges.button(minutes).setChecked(True)
        self._title.setText(f"Last {minutes} minutes" if minutes > 1 else "Last minute")
        if (grid := self.grid) is not None:
            grid.set_range(60 * minutes)

    def set_live(self, live: bool) -> None:
        self._live = live
        if (grid := self.grid) is not None:
            grid.set_live(live)
        elif live and self._loading is None:
            # Half a second of imports: in a thread the window stays responsive meanwhile.
            self._loading = threading.Thread(
                target=importlib.import_module, args=("pyqtgraph",), name="loading graphs", daemon=True
            )
            self._loading.start()
            self._look.start()

    # --- within ---

    @Slot()
    def _on_look(self) -> None:
        if self._loading is None or self._loading.is_alive():
            return
        self._look.stop()
        from app.ui.nodes.graph_grid import GraphGrid

        grid = GraphGrid(self._cluster.history, self._theme, time.time)
        self._body.replaceWidget(self._waiting, grid)
        self._body.setStretchFactor(grid, 1)
        self._waiting.deleteLater()
        self.grid = grid
        grid.read_out.connect(self._on_read_out)
        grid.set_range(60 * self._minutes)
        grid.set_paused(self.pause.isChecked())
        self._hand_over()
        grid.set_live(self._live)

    def _hand_over(self) -> None:
        if (grid := self.grid) is not None:
            with_gpu = any(view.report is not None and view.report.gpus for view in self._cluster.nodes.values())
            grid.show_nodes(self._nodes, with_gpu=with_gpu)

    @Slot(bool)
    def _on_pause(self, paused: bool) -> None:
        self.pause.setIcon(icon("play" if paused else "pause"))
        self.pause.setIconText("Go on" if paused else "Pause")
        if (grid := self.grid) is not None:
            grid.set_paused(paused)

    @Slot()
    def _on_reset(self) -> None:
        if (grid := self.grid) is not None:
            grid.reset()

    @Slot(object)
    def _on_read_out(self, read: tuple[str, tuple[str, ...]] | None) -> None:
        over, values = read if read is not None else ("", ())
        self._over.setText(over)
        self.legend.show_values(values)

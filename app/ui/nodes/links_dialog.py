"""The links between nodes as a matrix: from each row's node to each column's, as measured last; measuring them anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, Qt, Slot
from PySide6.QtWidgets import QAbstractItemView, QDialog, QHeaderView, QTableView, QWidget

from app.cluster.link_findings import LinkFinding, findings_of
from app.figures import clock, data_rate, duration
from app.progress import progress_words
from app.registry.records import JobStatus
from app.ui import make
from app.ui.jobs.shown_job import ShownJob
from app.ui.list_delegate import Index
from app.ui.nodes.node_dialog import wrapped
from app.ui.theme import SPACING
from app.ui.workbench import Workbench

Role = Qt.ItemDataRole

_INTRODUCTION = (
    "Round trip and bandwidth from the agent of each row to that of each column, over the sockets that a model's steps "
    "take. Predictions use what was measured."
)


_MOST_SAID = 8
"""Sentences below the matrix; each cell has its own in its tooltip."""
_LINES = 3
"""Of text in a cell."""
_WIDEST = "does not work"


class LinksModel(QAbstractTableModel):
    """A row and a column for each node. What a cell says is made when it is shown: of hundreds of nodes few are."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._nodes: Sequence[tuple[int, str]] = ()
        self._found: Mapping[tuple[int, int], LinkFinding] = {}

    def show_links(self, nodes: Sequence[tuple[int, str]], found: Mapping[tuple[int, int], LinkFinding]) -> None:
        """Nodes by number and name, what was found by the numbers of a link's ends."""
        if [number for number, _ in nodes] == [number for number, _ in self._nodes]:  # what is chosen stays so
            self._nodes, self._found = nodes, found
            last = max(0, len(nodes) - 1)
            self.dataChanged.emit(self.index(0, 0), self.index(last, last))
            return
        self.beginResetModel()
        self._nodes, self._found = nodes, found
        self.endResetModel()

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008 - Qt's own signature
        return 0 if parent.isValid() else len(self._nodes)

    columnCount = rowCount

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Role.DisplayRole) -> Any:
        if role not in (Role.DisplayRole, Role.ToolTipRole) or not 0 <= section < len(self._nodes):
            return None
        number, name = self._nodes[section]
        return f"{'to' if orientation is Qt.Orientation.Horizontal else 'from'} {name} ({number})"

    def data(self, index: Index, role: int = Role.DisplayRole) -> Any:
        if role == Role.TextAlignmentRole:
            return Qt.AlignmentFlag.AlignCenter
        if not index.isValid() or role not in (Role.DisplayRole, Role.ToolTipRole):
            return None
        source, target = self._nodes[index.row()][0], self._nodes[index.column()][0]
        text, tip = cell_text(self._found.get((source, target)), source == target)
        return text if role == Role.DisplayRole else tip


class LinksDialog(QDialog):
    """Follows what the registry has of links; a measuring that was begun here goes on when it is closed."""

    def __init__(self, workbench: Workbench, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("nodes-links-dialog")
        self.setWindowTitle("Links between nodes")
        self._workbench = workbench
        self._job: ShownJob | None = None
        self._most = 30 * self.fontMetrics().averageCharWidth()
        """Pixels for a node's name; longer ones are cut."""
        self.model = LinksModel(self)
        self.table = make.dressed(QTableView(), name="Links between nodes")
        self.table.setModel(self.model)
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        # One size for all cells, so that none has to be made to be measured.
        for header in (self.table.verticalHeader(), self.table.horizontalHeader()):
            header.setSectionResizeMode(QHeaderView.ResizeMode.Fixed)
        self.table.verticalHeader().setDefaultSectionSize(_LINES * self.fontMetrics().height() + 2 * SPACING)
        self.table.verticalHeader().setMaximumWidth(self._most)
        self.said = wrapped("")
        self.said.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
        self.measure_button = make.button("Measure", self.measure, role="primary", key="links-measure")
        self.close_button = make.button("Close", self.reject)
        make.column(
            make.label("Links between nodes", "title"), wrapped(_INTRODUCTION), (self.table, 1), self.said,
            make.row(make.STRETCH, self.close_button, self.measure_button), within=self, margins=make.DIALOG,
            spacing=2 * SPACING,
        )  # fmt: skip
        self.resize(self.fontMetrics().averageCharWidth() * 110, self.fontMetrics().height() * 32)
        cluster = workbench.cluster
        cluster.links_changed.connect(self.show_links)
        cluster.nodes_reset.connect(self.show_links)
        self.table.selectionModel().currentChanged.connect(self._say)
        self.show_links()

    @Slot()
    def measure(self) -> None:
        """Begin to measure all links between nodes that answer; the jobs' dock shows how far it is, too."""
        self._job = self._workbench.jobs.measure_links()
        self._job.changed.connect(self._on_job)
        self._on_job()

    @Slot()
    def show_links(self) -> None:
        cluster = self._workbench.cluster
        nodes = sorted(cluster.nodes)
        self._found = {
            (each.link.source_id, each.link.target_id): each
            for each in findings_of(cluster.links, [cluster.nodes[node].record for node in nodes])
        }
        self.model.show_links([(node, cluster.nodes[node].name) for node in nodes], self._found)
        titles = (self.model.headerData(section, Qt.Orientation.Horizontal) for section in range(len(nodes)))
        widest = max(map(self.fontMetrics().horizontalAdvance, [_WIDEST, *titles]))
        self.table.horizontalHeader().setDefaultSectionSize(min(widest, self._most) + 3 * SPACING)
        self._say()

    @Slot()
    def _say(self) -> None:
        """What is wrong with the chosen link, else with all of them; what has changed."""
        tip = self.table.currentIndex().data(Role.ToolTipRole)
        if tip:
            self.said.setText(tip)
            return
        said = [f"{each.problem} {each.advice}" for each in self._found.values() if each.problem]
        said += [f"{each.source} to {each.target}: {each.drift}" for each in self._found.values() if each.drift]
        if len(said) > _MOST_SAID:
            said = [*said[:_MOST_SAID], f"And {len(said) - _MOST_SAID:,} more: see the cells that say so."]
        nothing = "Nothing is wrong with any of them." if self._found else "Nothing has been measured yet."
        self.said.setText("\n".join(said) or nothing)

    @Slot()
    def _on_job(self) -> None:
        job = self._job
        if job is None:
            return
        self.measure_button.setEnabled(job.is_over)
        if not job.is_over:
            self.said.setText(progress_words(job.view.progress))
        elif job.view.status is JobStatus.FAILED:
            self.said.setText(str(job.view.error))
        elif job.view.status is JobStatus.CANCELLED:
            self.said.setText("The measuring was cancelled; what had been measured is shown.")
        else:
            self._say()


def cell_text(finding: LinkFinding | None, is_itself: bool) -> tuple[str, str]:
    """What stands in a cell, and in its tooltip."""
    if is_itself:
        return "", ""
    if finding is None:
        return "–", "Not measured yet."
    link = finding.link
    said = [finding.problem, finding.advice, finding.drift, f"Measured at {clock(link.created_at)}."]
    if not link.is_measured:
        return "does not work", "\n".join(text for text in said if text)
    figures = f"{duration(link.rtt)}\n{data_rate(link.bytes_per_second or 0.0)}"
    more = f"Jitter {duration(link.jitter)}, clock {(link.clock_offset or 0.0) * 1e3:+.1f} ms."
    tip = "\n".join(text for text in (more, *said) if text)
    return (f"{figures}\n{_mark(finding)}" if _mark(finding) else figures), tip


def _mark(finding: LinkFinding) -> str:
    """In a word, that there is something to read about it."""
    return "see below" if finding.problem else "has changed" if finding.drift else ""

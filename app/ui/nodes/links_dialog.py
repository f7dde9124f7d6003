"""The links between nodes as a matrix: from each row's node to each column's, as measured last; measuring them anew."""

from __future__ import annotations

from PySide6.QtCore import Qt, Slot
from PySide6.QtWidgets import QAbstractItemView, QDialog, QTableWidget, QTableWidgetItem, QWidget

from app.cluster.link_findings import LinkFinding, findings_of
from app.figures import clock, data_rate, duration
from app.registry.records import JobStatus
from app.ui import make
from app.ui.jobs.job import Job
from app.ui.nodes.node_dialog import wrapped
from app.ui.theme import SPACING
from app.ui.workbench import Workbench

_INTRODUCTION = (
    "Round trip and bandwidth from the agent of each row to that of each column, over the sockets that a model's steps "
    "take. Predictions use what was measured."
)


class LinksDialog(QDialog):
    """Follows what the registry has of links; a measuring that was begun here goes on when it is closed."""

    def __init__(self, workbench: Workbench, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("nodes-links-dialog")
        self.setWindowTitle("Links between nodes")
        self._workbench = workbench
        self._job: Job | None = None
        self.table = make.dressed(QTableWidget(), name="Links between nodes")
        self.table.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.table.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.table.verticalHeader().setMaximumWidth(self.fontMetrics().averageCharWidth() * 30)  # long names are cut
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
        self.table.currentCellChanged.connect(self._say)
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
        self.table.setRowCount(len(nodes))
        self.table.setColumnCount(len(nodes))
        names = [f"{cluster.nodes[node].name} ({node})" for node in nodes]
        self.table.setVerticalHeaderLabels([f"from {name}" for name in names])
        self.table.setHorizontalHeaderLabels([f"to {name}" for name in names])
        for row, source in enumerate(nodes):
            for column, target in enumerate(nodes):
                text, tip = cell_text(self._found.get((source, target)), source == target)
                item = QTableWidgetItem(text)
                item.setToolTip(tip)
                item.setTextAlignment(Qt.AlignmentFlag.AlignCenter)
                self.table.setItem(row, column, item)
        self.table.resizeColumnsToContents()  # a few nodes, and only when something was measured
        self.table.resizeRowsToContents()
        self._say()

    @Slot()
    def _say(self) -> None:
        """What is wrong with the chosen link, else with all of them; what has changed."""
        item = self.table.currentItem()
        if item is not None and item.toolTip():
            self.said.setText(item.toolTip())
            return
        problems = [f"{each.problem} {each.advice}" for each in self._found.values() if each.problem]
        changes = [f"{each.source} to {each.target}: {each.drift}" for each in self._found.values() if each.drift]
        nothing = "Nothing is wrong with any of them." if self._found else "Nothing has been measured yet."
        self.said.setText("\n".join([*problems, *changes]) or nothing)

    @Slot()
    def _on_job(self) -> None:
        job = self._job
        if job is None:
            return
        self.measure_button.setEnabled(job.is_over)
        if not job.is_over:
            self.said.setText(job.view.phase.capitalize() or "Waiting for its turn")
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

"""The events with their filters: one of the two things that the log screen shows."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QWidget

from app.registry import EventRecord
from app.ui import make
from app.ui.log.event_detail import EventDetail
from app.ui.log.event_model import EventListing, EventModel, text_line
from app.ui.log.log_filter import LogFilter
from app.ui.paging.export import Rows, json_line
from app.ui.paging.export_run import Export, ExportRun
from app.ui.paging.paged_panel import PagedPanel
from app.ui.theme import SPACING
from app.ui.workbench import Workbench

COPIED = 5_000
"""Rows that a copy takes at most; an export takes all."""


class EventsPage(QWidget):
    """Filters are made here and placed by the screen, beside the chooser of what is shown."""

    following_changed = Signal(bool)

    def __init__(self, workbench: Workbench, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.workbench = workbench
        self.filters = LogFilter()
        self.model = EventModel(workbench, self)
        self.model.set_live(False)
        self.panel = PagedPanel(workbench, self.model, "log-table", "Log")
        self.detail = EventDetail(workbench, self)
        self.exporting = ExportRun(workbench, self)
        self.splitter = make.splitter(
            Qt.Orientation.Vertical, self.panel, self.detail, sizes=(500, 18 * SPACING), growing=(0,), parent=self
        )
        make.column(self.splitter, within=self, spacing=None)
        view = self.panel.view
        view.selected.connect(self._on_selected)
        view.copy_wanted.connect(self.copy_selection)
        view.opened.connect(self._on_opened)
        view.following_changed.connect(self.following_changed)
        self.panel.emptied.connect(self._say_why_empty)
        self.panel.empty.pressed.connect(self.filters.reset)
        self.filters.changed.connect(self._on_filter)
        self.detail.request_wanted.connect(self._on_request_wanted)
        workbench.bridge.tables_changed.connect(self._on_tables_changed)
        workbench.cluster.nodes_reset.connect(self._show_nodes)

    def set_live(self, live: bool) -> None:
        if live:
            self._show_nodes()
            self._read_sources()
            self.model.show_listing(self.filters.value())
        self.model.set_live(live)

    # --- what can be chosen ---

    @Slot()
    def _show_nodes(self) -> None:
        self.filters.set_nodes({id: view.name for id, view in self.workbench.cluster.nodes.items()})

    def _read_sources(self) -> None:
        call = self.workbench.bridge.read(lambda registry: registry.events.sources(), "reading the log's sources")
        call.done.connect(self._on_sources)

    @Slot(object)
    def _on_sources(self, names: tuple[str, ...]) -> None:
        self.filters.set_sources(names)

    @Slot(object)
    def _on_tables_changed(self, nouns: frozenset[str]) -> None:
        # A source that was never heard of before comes with an event in sight.
        if "event" in nouns and self.isVisible():
            known = {self.filters.sources.itemText(index) for index in range(self.filters.sources.count())}
            if any(record.source not in known for _, record in self.model.at_hand()[-100:]):
                self._read_sources()

    @Slot(object)
    def _on_filter(self, listing: EventListing) -> None:
        self.model.show_listing(listing)

    @Slot()
    def _say_why_empty(self) -> None:
        listing = self.model.listing
        if isinstance(listing, EventListing) and listing.is_narrow:
            self.panel.empty.say("funnel", "Nothing in the log matches these filters.", "", "Show all")
        else:
            self.panel.empty.say(
                "scroll-text", "Nothing has happened yet.", "What controller and agents report appears here."
            )

    # --- one event ---

    @Slot()
    def _on_selected(self) -> None:
        index = self.panel.view.currentIndex()
        record = self.model.record(index.row()) if index.isValid() else None
        if record is not None:
            self.detail.show_event(record, self.model.node_name(record.node_id))
        elif not index.isValid():
            self.detail.show_event(None, "")

    @Slot()
    def _on_opened(self) -> None:
        self.detail.text.setFocus()

    @Slot(int)
    def _on_request_wanted(self, id: int) -> None:
        self.workbench.navigate.emit("runs", id)

    # --- taking along ---

    def _names(self) -> dict[int, str]:
        return {id: view.name for id, view in self.workbench.cluster.nodes.items()}

    @Slot()
    def copy_selection(self) -> None:
        """The selected events as lines of text."""
        names = self._names()
        lines = []
        for first, last in self.panel.view.selected_rows():
            for row in range(first, min(last, first + COPIED - 1) + 1):
                record = self.model.record(row)
                if isinstance(record, EventRecord):
                    lines.append(text_line(record, names.get(record.node_id or 0, "")))
        if lines:
            QGuiApplication.clipboard().setText("\n".join(lines))
            what = "1 line was" if len(lines) == 1 else f"{len(lines):,} lines were"
            self.workbench.notices.toast(f"{what} copied.")

    @Slot()
    def export(self) -> None:
        """All rows that the filters leave, newest first."""
        listing, last, total = self.model.listing, self.model.last, self.model.total
        if listing is None or not total:
            self.workbench.notices.toast("There is nothing to export.")
            return
        names = self._names()
        self.exporting.ask(
            f"Export {total:,} events",
            "shardboard-log.txt",
            ("Text (*.txt *.log)", "JSON Lines (*.jsonl)"),
            lambda file, kind: Export(
                Rows(listing, last, ((0, total - 1),)), file,
                json_line if "jsonl" in kind or file.suffix == ".jsonl"
                else lambda record: text_line(record, names.get(record.node_id or 0, "")),
            ),
        )  # fmt: skip

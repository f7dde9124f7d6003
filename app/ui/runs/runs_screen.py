"""The screen Runs: requests, jobs and deployments in three tables, filters above, everything about one below."""

from __future__ import annotations

from functools import partial
from typing import Any

from PySide6.QtCore import QByteArray, QItemSelectionModel, Qt, Slot
from PySide6.QtGui import QAction, QGuiApplication, QKeySequence
from PySide6.QtWidgets import QTabBar, QWidget

from app.errors import ShardboardError
from app.ui import make
from app.ui.ask import ask
from app.ui.paging.export import Rows
from app.ui.paging.listing import RowId
from app.ui.paging.paged_panel import PagedPanel
from app.ui.runs.export_dialog import ExportDialog
from app.ui.runs.export_work import RowsChosen
from app.ui.runs.filter_bar import FilterBar, RunFilter
from app.ui.runs.live_trace import LiveTrace
from app.ui.runs.run_detail import RunDetail
from app.ui.runs.run_reader import DetailReader, Reading
from app.ui.runs.run_tables import KINDS, make_panel
from app.ui.screen import Screen
from app.ui.theme import SPACING
from app.ui.workbench import Workbench


class RunsScreen(Screen):
    """A tab for each kind of run with its table, and below the run that is chosen."""

    key = "runs"
    title = "Runs"
    icon = "history"

    def __init__(self, workbench: Workbench, parent: QWidget | None = None) -> None:
        super().__init__(workbench, parent)
        self.tabs = QTabBar(self)
        self.tabs.setDrawBase(False)
        self.tabs.setExpanding(False)
        self.tabs.setAccessibleName("Kind of run")
        self.filters = FilterBar(self)
        self.panels = [make_panel(workbench, kind) for kind in KINDS]
        self._stack = make.stack(*self.panels)
        self.detail = RunDetail(workbench, self)
        self.detail.setMinimumHeight(20 * SPACING)
        self._reader = DetailReader(workbench.bridge, self)
        self._live = LiveTrace(workbench.bridge, self)
        self.export_dialog: ExportDialog | None = None
        self._shown: tuple[int, RowId, Any] | None = None
        self._make_commands()
        self._build()
        self._connect()

    # --- building ---

    def _make_commands(self) -> None:
        self._find = make.command(self, "search", "Find in runs", self._on_find, keys=QKeySequence.StandardKey.Find)
        self._newest = make.command(self, "arrow-up", "Show the newest run", self._on_newest)
        self._clear = make.command(self, "funnel", "Show all runs", self.filters.reset)
        self._export = make.command(
            self, "download", "Export runs…", self._on_export,
            tip="Write the selected rows, or all rows that the filters leave, to a file",
        )  # fmt: skip
        self.addAction(self._find)

    def commands(self) -> list[QAction]:
        detail = self.detail
        return [
            self._find, self._newest, self._clear, detail.copy_answer, detail.copy_json, detail.copy_details,
            detail.again, self._export, detail.remove,
        ]  # fmt: skip

    def _build(self) -> None:
        title = make.label(self.title, "title", self)
        export = make.button("Export…", self._export.trigger, self, picture="download", tip=self._export.toolTip())
        head = make.row(title, make.STRETCH, export, spacing=None)
        for kind in KINDS:
            self.tabs.addTab(kind.title)
        tools = make.row(self.tabs, (self.filters, 1), spacing=2 * SPACING)
        top = make.column(head, tools, margins=(2 * SPACING, 2 * SPACING, 2 * SPACING, SPACING))
        self._splitter = make.splitter(
            Qt.Orientation.Vertical, self._stack, self.detail, sizes=(400, 300), growing=(0,), parent=self
        )
        make.column(top, (self._splitter, 1), within=self, spacing=0)

    def _connect(self) -> None:
        self.tabs.currentChanged.connect(self._on_tab)
        self.filters.changed.connect(self._on_filter)
        for panel in self.panels:
            panel.view.selected.connect(self._on_selected)
            panel.view.opened.connect(self._on_opened)
            panel.view.copy_wanted.connect(self._on_copy)
            panel.view.remove_wanted.connect(self._on_remove)
            panel.model.counted.connect(self._on_counted)
            panel.emptied.connect(self._say_why_empty)
            panel.empty.pressed.connect(self._on_empty_pressed)
            panel.model.set_live(False)
        self.detail.ask_again.connect(self._on_ask_again)
        self.detail.remove_wanted.connect(self._on_remove)
        self.detail.export_wanted.connect(self._on_export_one)
        self._reader.read_done.connect(self._on_reading)
        self._reader.failed.connect(self._on_read_failed)
        self._live.grown.connect(self.detail.grow)
        self.workbench.cluster.models_changed.connect(self._on_models_changed)

    # --- a screen's life ---

    @property
    def panel(self) -> PagedPanel:
        return self.panels[self._stack.currentIndex()]

    def went_live(self) -> None:
        self._on_models_changed()
        self._apply(self.filters.value())
        self.panel.model.set_live(True)
        self._follow()

    def went_quiet(self) -> None:
        for panel in self.panels:
            panel.model.set_live(False)
        self._live.stop()

    def open_with(self, what: object) -> None:
        """A request's id, a deployment's id, or ("job", id)."""
        noun, id = ("request", what)
        if isinstance(what, tuple) and len(what) == 2:
            noun, id = what
        elif isinstance(what, str):
            noun = "deployment"
        numbers = [number for number, kind in enumerate(KINDS) if kind.noun == noun]
        if not numbers or not isinstance(id, int | str):
            return
        self.filters.reset()
        self.tabs.setCurrentIndex(numbers[0])
        self.panel.view.select_id(id)
        self.panel.view.setFocus()

    def save(self) -> dict[str, Any]:
        return {
            "kind": KINDS[self.tabs.currentIndex()].noun,
            "splitter": bytes(self._splitter.saveState().toBase64().data()).decode(),
            "columns": bytes(self.detail.overview.saveState().toBase64().data()).decode(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        nouns = [kind.noun for kind in KINDS]
        if state.get("kind") in nouns:
            self.tabs.setCurrentIndex(nouns.index(state["kind"]))
        for name, splitter in (("splitter", self._splitter), ("columns", self.detail.overview)):
            if isinstance(kept := state.get(name), str):
                splitter.restoreState(QByteArray.fromBase64(kept.encode()))

    def busy_with(self) -> list[str]:
        dialog = self.export_dialog
        return ["an export of runs"] if dialog is not None and dialog.is_writing else []

    # --- what is shown ---

    @Slot(int)
    def _on_tab(self, number: int) -> None:
        self._stack.setCurrentIndex(number)
        self._apply(self.filters.value())
        for each, panel in enumerate(self.panels):
            panel.model.set_live(self.is_live and each == number)
        self._on_selected()

    @Slot(object)
    def _on_filter(self, chosen: RunFilter) -> None:
        self._apply(chosen)

    def _apply(self, chosen: RunFilter) -> None:
        self.panel.model.show_listing(KINDS[self.tabs.currentIndex()].listing(chosen))

    @Slot()
    def _on_models_changed(self) -> None:
        call = self.workbench.bridge.read(lambda registry: registry.requests.models(), "reading the models' names")
        call.done.connect(self._on_model_names)

    @Slot(object)
    def _on_model_names(self, names: tuple[str, ...]) -> None:
        known = {model.name for model in self.workbench.cluster.models}
        self.filters.set_models(sorted(known | set(names), key=str.casefold))

    @Slot()
    def _on_counted(self) -> None:
        view, model = self.panel.view, self.panel.model
        if model.total and not view.currentIndex().isValid():
            flags = QItemSelectionModel.SelectionFlag
            view.selectionModel().setCurrentIndex(model.index(0, 0), flags.ClearAndSelect | flags.Rows)
        self._on_selected()

    @Slot()
    def _say_why_empty(self) -> None:
        kind = KINDS[self._stack.currentIndex()]
        if self.filters.value().is_narrow:
            self.panel.empty.say("funnel", f"No {kind.title.lower()} match these filters.", "", "Show all")
        else:
            button = {"request": "Open the chat", "deployment": "Open the board"}.get(kind.noun, "")
            self.panel.empty.say(*kind.empty, button)

    @Slot()
    def _on_empty_pressed(self) -> None:
        if self.filters.value().is_narrow:
            self.filters.reset()
        else:
            screen = "chat" if KINDS[self._stack.currentIndex()].noun == "request" else "board"
            self.workbench.navigate.emit(screen, None)

    # --- the run below ---

    @Slot()
    def _on_selected(self) -> None:
        if self.sender() not in (None, self.panel.view, self.panel.model, self.tabs):
            return
        id = self.panel.view.current_id()
        if id is None:
            if not self.panel.view.currentIndex().isValid():
                self._shown = None
                self._reader.forget()
                self._live.stop()
                self.detail.show_reading(None)
            return
        # Read again only what is another now: pages come in all the time while somebody scrolls.
        shown = (self._stack.currentIndex(), id, self.panel.model.record(self.panel.view.currentIndex().row()))
        if shown == self._shown:
            return
        self._shown = shown
        self._reader.read(KINDS[self._stack.currentIndex()].noun, id)

    @Slot(object)
    def _on_reading(self, reading: Reading | None) -> None:
        self.detail.show_reading(reading)
        self._follow()

    def _follow(self) -> None:
        """A request under way is followed while it is to be seen."""
        told = self.detail.told
        if self.is_live and told is not None and told.run.kind == "request" and not told.is_over:
            self._live.follow(int(told.id))
        else:
            self._live.stop()

    @Slot(object)
    def _on_read_failed(self, error: ShardboardError) -> None:
        self.workbench.notices.error("The run cannot be read", error)

    # --- doing ---

    @Slot()
    def _on_find(self) -> None:
        self.filters.search.setFocus()
        self.filters.search.selectAll()

    @Slot()
    def _on_newest(self) -> None:
        self.panel.view.show_newest()
        if self.panel.model.total:
            self.panel.view.selectRow(0)

    @Slot()
    def _on_opened(self) -> None:
        """Enter: to the texts."""
        for child in self.detail.findChildren(QWidget):
            if child.focusPolicy() & Qt.FocusPolicy.TabFocus and child.isVisible():
                child.setFocus(Qt.FocusReason.TabFocusReason)
                return

    @Slot()
    def _on_copy(self) -> None:
        """What the selected rows show, as lines with tabs, for a spreadsheet."""
        model = self.panel.model
        lines = []
        for first, last in self.panel.view.selected_rows():
            for row in range(first, min(last, first + 4999) + 1):
                cells = (str(model.index(row, column).data() or "") for column in range(model.columnCount()))
                lines.append("\t".join(cells))
        if lines:
            QGuiApplication.clipboard().setText("\n".join(lines))

    @Slot(str)
    def _on_ask_again(self, model_name: str) -> None:
        self.workbench.navigate.emit("chat", model_name)

    @Slot()
    def _on_remove(self) -> None:
        kind = KINDS[self._stack.currentIndex()]
        if kind.noun == "deployment":
            return
        ids = self.panel.view.selected_ids()
        if not ids:
            return
        what = f"{len(ids):,} {kind.noun}s" if len(ids) > 1 else f"{kind.noun} {ids[0]}"
        ask(
            self, "Remove", f"Remove {what}?", "Remove", partial(self.remove_runs, kind.noun, ids),
            more="The record is gone for good. What is still under way stays.",
        )  # fmt: skip

    def remove_runs(self, noun: str, ids: tuple[RowId, ...]) -> None:
        """Remove records without asking; what is under way stays."""

        def work(registry: Any) -> None:
            table = registry.jobs if noun == "job" else registry.requests
            for id in ids:
                if table.get(id).status.is_over:
                    table.remove(id)

        call = self.workbench.bridge.read(work, "removing the runs")
        call.failed.connect(self._on_remove_failed)

    @Slot(object)
    def _on_remove_failed(self, error: ShardboardError) -> None:
        self.workbench.notices.error("Not everything was removed", error)

    @Slot()
    def _on_export(self) -> None:
        """The selected rows when they are several, else all that the filters leave."""
        self._open_export(one=False)

    @Slot()
    def _on_export_one(self) -> None:
        """The run that is shown."""
        self._open_export(one=True)

    def _open_export(self, one: bool) -> None:
        model = self.panel.model
        if self.export_dialog is not None:
            return
        if model.listing is None or not model.total:
            self.workbench.notices.toast("There is nothing to export.")
            return
        table = KINDS[self._stack.currentIndex()]
        noun = table.noun
        chosen = tuple(self.panel.view.selected_rows())
        count = sum(end - start + 1 for start, end in chosen)
        offers = []
        if count:
            id = self.panel.view.current_id() if count == 1 else None
            words = f"The selected {noun}" if count == 1 else f"The {count:,} selected {noun}s"
            offers.append((words, RowsChosen(noun, Rows(model.listing, model.last, chosen), id)))
        if model.total > 1 or not count:
            left = " that the filters leave" if self.filters.value().is_narrow else ""
            everything = RowsChosen(noun, Rows(model.listing, model.last, ((0, model.total - 1),)))
            offers.append((f"All {model.total:,} {noun}s{left}", everything))
        dialog = self.export_dialog = ExportDialog(self.workbench, noun, offers, self)
        if count == 1 and not one and len(offers) > 1:
            dialog.what.setCurrentIndex(1)
        dialog.finished.connect(self._on_export_closed)
        dialog.open()

    @Slot()
    def _on_export_closed(self) -> None:
        self.export_dialog = None

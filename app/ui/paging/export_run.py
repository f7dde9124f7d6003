"""An export as the user sees it: a choice of file, progress with a way to stop it, and a word at the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from PySide6.QtCore import QObject, Signal, Slot
from PySide6.QtWidgets import QFileDialog, QProgressDialog, QWidget

from app.errors import ShardboardError
from app.ui.bridge import Call
from app.ui.notices import Level
from app.ui.paging.export import Rows, write
from app.ui.workbench import Workbench

if TYPE_CHECKING:
    from app.controller import Controller


@dataclass(frozen=True)
class Export:
    """What to write: rows, a line for each."""

    rows: Rows
    file: Path
    line_of: Callable[[Any], str]

    def write(self, records: Iterator[Any], output: BinaryIO) -> int:
        """How many there were."""
        written = 0
        for record in records:
            output.write(f"{self.line_of(record)}\n".encode(errors="replace"))
            written += 1
        return written


class ExportRun(QObject):
    """One export at a time."""

    ended = Signal()

    def __init__(self, workbench: Workbench, parent: QWidget) -> None:
        super().__init__(parent)
        self._workbench = workbench
        self._widget = parent
        self._call: Call | None = None
        self._progress: QProgressDialog | None = None
        self._dialog: QFileDialog | None = None
        self._export: Export | None = None
        self._choose: Callable[[Path, str], Export] | None = None

    @property
    def is_running(self) -> bool:
        return self._call is not None

    def ask(self, title: str, name: str, kinds: tuple[str, ...], export_to: Callable[[Path, str], Export]) -> None:
        """Let the user choose a file, then write to it.

        Args:
            name: the file's name to begin with.
            kinds: Qt's filters; the chosen one goes to `export_to` with the path.
        """
        if self._call is not None:
            return
        self._choose = export_to
        dialog = QFileDialog(self._widget, title, str(Path.home() / name))
        dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
        dialog.setNameFilters(list(kinds))
        dialog.setDefaultSuffix(Path(name).suffix.lstrip("."))
        dialog.fileSelected.connect(self._on_chosen)
        dialog.finished.connect(dialog.deleteLater)
        self._dialog = dialog
        dialog.open()

    @Slot(str)
    def _on_chosen(self, file: str) -> None:
        if self._choose is not None and self._dialog is not None and file:
            self.start(self._choose(Path(file), self._dialog.selectedNameFilter()))

    def start(self, export: Export) -> None:
        """Write without a question."""
        self._export = export
        progress = QProgressDialog("Exporting…", "Cancel", 0, max(1, export.rows.total), self._widget)
        progress.setWindowTitle("Export")
        progress.setMinimumDuration(600)
        progress.setAutoClose(False)
        progress.setAutoReset(False)
        progress.canceled.connect(self.cancel)
        self._progress = progress

        def records(controller: Controller) -> Iterator[Any]:
            return export.rows.records(controller.registry)

        self._call = write(self._workbench.bridge, export.file, records, export.write)
        self._call.progressed.connect(self._on_progressed)
        self._call.done.connect(self._on_done)
        self._call.failed.connect(self._on_failed)
        self._call.cancelled.connect(self._on_cancelled)
        self._call.ended.connect(self._on_ended)

    @Slot()
    def cancel(self) -> None:
        if self._call is not None:
            self._call.cancel()

    @Slot(object)
    def _on_progressed(self, told: tuple[int, ...]) -> None:
        if self._progress is not None:
            self._progress.setValue(told[-1])
            self._progress.setLabelText(f"Exporting {told[-1]:,} of {self._progress.maximum():,} rows…")

    @Slot(object)
    def _on_done(self, written: int) -> None:
        if self._export is not None:
            rows = "1 row was" if written == 1 else f"{written:,} rows were"
            self._workbench.notices.toast(f"{rows} written to {self._export.file.name}.", Level.SUCCESS)

    @Slot(object)
    def _on_failed(self, error: ShardboardError) -> None:
        self._workbench.notices.error("The export failed", error)

    @Slot()
    def _on_cancelled(self) -> None:
        self._workbench.notices.toast("The export was cancelled; no file was written.")

    @Slot()
    def _on_ended(self) -> None:
        self._call = None
        if self._progress is not None:
            self._progress.close()
            self._progress.deleteLater()
            self._progress = None
        self.ended.emit()

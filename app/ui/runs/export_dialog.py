"""The dialog of an export: which runs, in which form, to which file; then how far it is."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from PySide6.QtCore import QDateTime, Qt, QUrl, Slot
from PySide6.QtGui import QDesktopServices
from PySide6.QtWidgets import (
    QButtonGroup,
    QComboBox,
    QDateTimeEdit,
    QDialog,
    QFileDialog,
    QLabel,
    QRadioButton,
    QWidget,
)

from app.errors import ShardboardError
from app.runs.run import RunKind
from app.ui import make
from app.ui.bridge import Call
from app.ui.notices import Level, NoticeAction
from app.ui.runs.export_work import Chosen, Form, RowsChosen, TimeChosen, begin
from app.ui.theme import SPACING
from app.ui.workbench import Workbench

FORMS = (
    (Form.JSONL, "JSON Lines", "All that was recorded, a run on each line, for programs; docs/schemas describes it."),
    (Form.CSV, "CSV of timings", "A line for each token and each stage, for a spreadsheet or a data frame."),
    (Form.HTML, "HTML report", "One page to read, send or print: charts, waterfall, plan, log. Needs no network."),
    (Form.CHROME, "Chrome trace", "Every stage on a time line; opens in Perfetto (ui.perfetto.dev)."),
    (Form.BUNDLE, "Incident bundle", "One request with plan, versions, events and the agents' logs, to run it again."),
)  # fmt: skip
BY_TIME = "Everything asked for between two moments"


class ExportDialog(QDialog):
    """Offers what is given and a range of time. Closing it while it writes stops the writing."""

    def __init__(
        self,
        workbench: Workbench,
        kind: RunKind,
        offers: Sequence[tuple[str, RowsChosen]],
        parent: QWidget | None = None,
    ) -> None:
        super().__init__(parent)
        self._workbench, self._kind, self._offers = workbench, kind, tuple(offers)
        self._call: Call | None = None
        self.file_chosen = False
        """The name is the user's: another form changes its ending alone."""
        self.setWindowTitle("Export")
        self.setObjectName("export-dialog")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.what = QComboBox()
        self.what.setAccessibleName("What to export")
        for words, _ in offers:
            self.what.addItem(words)
        self.what.addItem(BY_TIME)
        now = QDateTime.currentDateTime()
        self.since = self._moment("From", now.addDays(-1))
        self.until = self._moment("To", now.addSecs(60))
        self._range = QWidget()
        self.forms: dict[Form, QRadioButton] = {}
        self._group = QButtonGroup(self)
        self.file = make.field("", "File")
        self.note = make.label("", "muted", wraps=True)
        self.bar = make.progress("Progress of the export")
        self.go = make.button("Export", self.begin, role="primary", by_return=True)
        self.cancel = make.button("Cancel", self.reject)
        self._settings = QWidget()
        self._build()
        self.what.currentIndexChanged.connect(self._on_what)
        self._group.buttonClicked.connect(self._on_form)
        self.file.textEdited.connect(self._on_file)
        self.forms[Form.JSONL].setChecked(True)
        self._on_what()
        self._on_form()

    def _moment(self, name: str, value: QDateTime) -> QDateTimeEdit:
        made = QDateTimeEdit(value)
        made.setAccessibleName(name)
        made.setCalendarPopup(True)
        made.setDisplayFormat("yyyy-MM-dd HH:mm")
        return made

    def _build(self) -> None:
        column = make.column(_heading("What", self.what), self.what, within=self._settings)
        row = make.row(within=self._range, spacing=None)
        for text, field in (("From", self.since), ("to", self.until)):
            row.addWidget(QLabel(text))
            row.addWidget(field)
        row.addStretch(1)
        column.addWidget(self._range)
        column.addSpacing(SPACING)
        column.addWidget(_heading("Form"))
        grid = make.grid()
        for number, (form, title, sentence) in enumerate(FORMS):
            button = QRadioButton(title)
            button.setObjectName(f"export-{form.value}")
            button.setAccessibleDescription(sentence)
            words = make.label(sentence, "muted", wraps=True)
            self.forms[form] = button
            self._group.addButton(button, number)
            grid.addWidget(button, number, 0, Qt.AlignmentFlag.AlignTop)
            grid.addWidget(words, number, 1)
        column.addLayout(grid)
        column.addSpacing(SPACING)
        column.addWidget(_heading("File", self.file))
        browse = make.button("Browse…", self._on_browse)
        place = make.row((self.file, 1), browse, spacing=None)
        column.addLayout(place)
        layout = make.column(
            self._settings, self.note, self.bar, make.STRETCH, within=self,
            margins=make.DIALOG,
        )  # fmt: skip
        buttons = make.row(make.STRETCH, self.cancel, self.go, spacing=None)
        layout.addLayout(buttons)
        self.bar.hide()
        self.setMinimumWidth(self.fontMetrics().averageCharWidth() * 96)

    # --- what is wanted ---

    @property
    def form(self) -> Form:
        return next(form for form, button in self.forms.items() if button.isChecked())

    @property
    def is_by_time(self) -> bool:
        return self.what.currentIndex() == len(self._offers)

    @property
    def chosen(self) -> Chosen:
        if not self.is_by_time:
            return self._offers[self.what.currentIndex()][1]
        return TimeChosen(self._kind, _utc(self.since.dateTime()), _utc(self.until.dateTime()) + timedelta(minutes=1))

    @Slot()
    def _on_what(self) -> None:
        self._range.setVisible(self.is_by_time)
        one_request = self._kind == "request" and not self.is_by_time and self.chosen.total == 1
        bundle = self.forms[Form.BUNDLE]
        bundle.setEnabled(one_request)
        bundle.setToolTip("" if one_request else "A bundle is of one request: select it in the table first.")
        if bundle.isChecked() and not one_request:
            self.forms[Form.JSONL].setChecked(True)
            self._on_form()
        elif not self.file_chosen:
            self._name_file()

    @Slot()
    def _on_form(self) -> None:
        if self.file_chosen:
            known = self.file.text()
            for form in Form:
                known = known.removesuffix(form.suffix)
            self.file.setText(known + self.form.suffix)
        else:
            self._name_file()
        self._say_where()

    def _name_file(self) -> None:
        chosen, stamp = self.chosen, datetime.now().strftime("%Y-%m-%d-%H%M")
        id = chosen.id if isinstance(chosen, RowsChosen) else None
        name = f"{self._kind}s-{stamp}" if id is None else f"{self._kind}-{id}"
        folder = Path(self.file.text()).parent if self.file.text() else Path.home()
        self.file.setText(str(folder / (name + self.form.suffix)))

    @Slot()
    def _on_file(self) -> None:
        self.file_chosen = True
        self._say_where()

    def _say_where(self) -> None:
        """What there is at this place already."""
        file = Path(self.file.text())
        words = "A file of this name is there already; it will be replaced." if file.is_file() else ""
        if self.form is Form.BUNDLE:
            words = f"The agents are asked for their logs; that may take some seconds. {words}".strip()
        self.note.setText(words)
        self.note.setVisible(bool(words))
        self.go.setEnabled(bool(self.file.text().strip()))

    @Slot()
    def _on_browse(self) -> None:
        dialog = QFileDialog(self, "Export to", self.file.text())
        dialog.setAcceptMode(QFileDialog.AcceptMode.AcceptSave)
        # This dialog says it already, and again when the form changes the name.
        dialog.setOption(QFileDialog.Option.DontConfirmOverwrite)
        dialog.fileSelected.connect(self._on_browsed)
        dialog.finished.connect(dialog.deleteLater)
        dialog.open()

    @Slot(str)
    def _on_browsed(self, file: str) -> None:
        self.file.setText(file if file.endswith(self.form.suffix) else file + self.form.suffix)
        self._on_file()

    # --- writing ---

    @property
    def is_writing(self) -> bool:
        return self._call is not None

    @Slot()
    def begin(self) -> None:
        """Write it."""
        if self._call is not None:
            return
        total = self.chosen.total
        self._settings.setEnabled(False)
        self.go.setEnabled(False)
        self.bar.setRange(0, total if total is not None and self.form is not Form.BUNDLE else 0)
        self.bar.setValue(0)
        self.bar.show()
        self._say("Exporting…")
        self._call = begin(self._workbench.bridge, self.chosen, self.form, Path(self.file.text()).expanduser())
        self._call.progressed.connect(self._on_progressed)
        self._call.done.connect(self._on_done)
        self._call.failed.connect(self._on_failed)
        self._call.cancelled.connect(self._on_cancelled)

    def _say(self, words: str, role: str = "muted") -> None:
        make.change_role(self.note, role)
        self.note.setText(words)
        self.note.show()

    @Slot(object)
    def _on_progressed(self, told: tuple[int, ...]) -> None:
        self.bar.setValue(told[-1])
        of = f" of {self.bar.maximum():,}" if self.bar.maximum() else ""
        self._say(f"Exporting {told[-1]:,}{of}…")

    @Slot(object)
    def _on_done(self, written: int) -> None:
        self._call = None
        file = Path(self.file.text()).expanduser()
        noun = self._kind if written == 1 else f"{self._kind}s"
        self._workbench.notices.toast(
            f"{written:,} {noun} exported to {file.name}.",
            Level.SUCCESS,
            NoticeAction("Open", lambda: QDesktopServices.openUrl(QUrl.fromLocalFile(str(file)))),
            NoticeAction("Show in folder", lambda: QDesktopServices.openUrl(QUrl.fromLocalFile(str(file.parent)))),
        )
        self.accept()

    @Slot(object)
    def _on_failed(self, error: ShardboardError) -> None:
        """The choices are there again: another folder may do."""
        self._again()
        self._say(str(error), "error")

    @Slot()
    def _on_cancelled(self) -> None:
        self._call = None
        self._workbench.notices.toast("The export was cancelled; no file was written.")
        super().reject()

    def _again(self) -> None:
        self._call = None
        self._settings.setEnabled(True)
        self.go.setEnabled(True)
        self.bar.hide()

    def reject(self) -> None:
        """Cancel, Escape or the window's cross: while it writes it stops first, and leaves no file."""
        if self._call is not None:
            self._call.cancel()
            self.cancel.setEnabled(False)
            self._say("Stopping…")
        else:
            super().reject()


def _heading(text: str, buddy: QWidget | None = None) -> QLabel:
    label = make.label(text, "heading")
    if buddy is not None:
        label.setBuddy(buddy)
    return label


def _utc(moment: QDateTime) -> datetime:
    return datetime.fromtimestamp(moment.toSecsSinceEpoch(), UTC)

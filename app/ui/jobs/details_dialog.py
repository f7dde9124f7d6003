"""All that is known of one job, as text that can be copied."""

from __future__ import annotations

from PySide6.QtCore import Qt, Slot
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QDialog, QWidget

from app.ui import make
from app.ui.jobs.job_words import details_text
from app.ui.jobs.shown_job import ShownJob
from app.ui.theme import SPACING


class JobDetailsDialog(QDialog):
    """Follows the job while it is open."""

    def __init__(self, job: ShownJob, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._job = job
        self.setWindowTitle("Job details")
        self.setObjectName("job-details")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self._text = make.reading("Details of the job")
        copy = make.button("Copy", self._copy, picture="copy")
        make.column(
            make.label(job.view.title, "title", wraps=True), (self._text, 1),
            make.row(copy, make.STRETCH, make.button("Close", self.accept, by_return=True), spacing=None),
            within=self, margins=make.DIALOG, spacing=2 * SPACING,
        )  # fmt: skip
        metrics = self.fontMetrics()
        self.resize(72 * metrics.averageCharWidth() + 6 * SPACING, 22 * metrics.height())
        job.changed.connect(self._show)
        self._show()

    @Slot()
    def _show(self) -> None:
        text = "\n".join(details_text(self._job.view).splitlines()[1:])
        if text != self._text.toPlainText():
            self._text.setPlainText(text)

    @Slot()
    def _copy(self) -> None:
        QGuiApplication.clipboard().setText(details_text(self._job.view))

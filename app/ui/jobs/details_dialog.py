"""All that is known of one job, as text that can be copied."""

from __future__ import annotations

from PySide6.QtCore import Qt, Slot
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QDialog, QHBoxLayout, QLabel, QPlainTextEdit, QPushButton, QVBoxLayout, QWidget

from app.ui.icons import icon
from app.ui.jobs.job import Job
from app.ui.jobs.job_words import details_text
from app.ui.theme import SPACING, monospace


class JobDetailsDialog(QDialog):
    """Follows the job while it is open."""

    def __init__(self, job: Job, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._job = job
        self.setWindowTitle("Job details")
        self.setObjectName("job-details")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(3 * SPACING, 3 * SPACING, 3 * SPACING, 2 * SPACING)
        layout.setSpacing(2 * SPACING)
        title = QLabel(job.view.title)
        title.setProperty("role", "title")
        title.setWordWrap(True)
        layout.addWidget(title)
        self._text = QPlainTextEdit()
        self._text.setReadOnly(True)
        self._text.setFont(monospace())
        self._text.setAccessibleName("Details of the job")
        self._text.setTabChangesFocus(True)
        layout.addWidget(self._text, 1)
        buttons = QHBoxLayout()
        copy = QPushButton(icon("copy"), "Copy")
        copy.clicked.connect(self._copy)
        close = QPushButton("Close")
        close.setDefault(True)
        close.clicked.connect(self.accept)
        buttons.addWidget(copy)
        buttons.addStretch(1)
        buttons.addWidget(close)
        layout.addLayout(buttons)
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

"""The dialog 'Add a model': one field for a folder, a GGUF file or a Hub id. Starts a job."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Qt, QTimer, Slot
from PySide6.QtWidgets import (
    QCheckBox,
    QDialog,
    QFileDialog,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLineEdit,
    QPushButton,
    QVBoxLayout,
    QWidget,
)

from app.errors import ShardboardError
from app.ui.icons import icon
from app.ui.jobs.inline_note import InlineNote
from app.ui.jobs.model_source import SourceLook, SourceWish, look_at_source, sort_out
from app.ui.theme import SPACING
from app.ui.workbench import Workbench

if TYPE_CHECKING:
    from app.controller import Controller
    from app.ui.bridge import Call, Report

WAIT_MILLISECONDS = 150
HINT = "A folder with safetensors files, a .gguf file, or a Hub id like org/name."


class AddModelDialog(QDialog):
    """Asks for a model's source and name, and begins to add it."""

    def __init__(self, workbench: Workbench, parent: QWidget | None = None, source: str = "") -> None:
        super().__init__(parent)
        self.setWindowTitle("Add a model")
        self.setObjectName("add-model-dialog")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self._workbench = workbench
        self.look: SourceLook | None = None
        """At what is entered now; None while it is being looked at."""
        self._looking: Call | None = None
        self.source = QLineEdit()
        self.source.setObjectName("add-source")
        self.source.setPlaceholderText("org/name or a path")
        self.source.setAccessibleName("Folder, GGUF file or Hub id")
        self.source_note = InlineNote("add-source-note")
        self.name = QLineEdit()
        self.name.setObjectName("add-name")
        self.name.setAccessibleName("Name in the library")
        self.name_note = InlineNote("add-name-note")
        self.revision = QLineEdit()
        self.revision.setObjectName("add-revision")
        self.revision.setPlaceholderText("main")
        self.revision.setAccessibleName("Revision: a branch, a tag or a commit")
        self.dequantize = QCheckBox("Turn its weights into floats")
        self.dequantize.setObjectName("add-dequantize")
        self.dequantize.setToolTip(
            "As transformers would save them: several times as large, for agents whose GPU computes with floats alone"
        )
        self.add = QPushButton(icon("plus", workbench.theme.colors.on_accent), "Add")
        self.add.setProperty("role", "primary")
        self.add.setDefault(True)
        self.add.setEnabled(False)
        self._lay_out()
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(WAIT_MILLISECONDS)
        self._timer.timeout.connect(self._start_look)
        for field in (self.source, self.name, self.revision):
            field.textChanged.connect(self._on_changed)
        self.add.clicked.connect(self.accept)
        self.source.setText(source)
        self.source.setFocus()

    def _lay_out(self) -> None:
        column = QVBoxLayout(self)
        column.setContentsMargins(3 * SPACING, 3 * SPACING, 3 * SPACING, 2 * SPACING)
        column.setSpacing(SPACING)
        title = QLabel("Add a model")
        title.setProperty("role", "title")
        column.addWidget(title)
        column.addSpacing(SPACING)
        grid = QGridLayout()
        grid.setHorizontalSpacing(2 * SPACING)
        grid.setVerticalSpacing(SPACING // 2)
        grid.setColumnStretch(1, 1)
        browse = QHBoxLayout()
        browse.setSpacing(SPACING)
        browse.addWidget(self.source, 1)
        for text, name, slot, tip in (
            ("Folder…", "folder", self._browse_folder, "Choose a model's folder"),
            ("File…", "file", self._browse_file, "Choose a GGUF file"),
        ):
            button = QPushButton(icon(name), text)
            button.setToolTip(tip)
            button.setAccessibleName(tip)
            button.setAutoDefault(False)
            button.clicked.connect(slot)
            browse.addWidget(button)
        grid.addWidget(self._label("Model", self.source), 0, 0)
        grid.addLayout(browse, 0, 1)
        grid.addWidget(self.source_note, 1, 1)
        self._revision_label = self._label("Revision", self.revision)
        grid.addWidget(self._revision_label, 2, 0)
        grid.addWidget(self.revision, 2, 1)
        grid.addWidget(self.dequantize, 2, 1)
        grid.setRowMinimumHeight(3, SPACING // 2)
        grid.addWidget(self._label("Name", self.name), 4, 0)
        grid.addWidget(self.name, 4, 1)
        grid.addWidget(self.name_note, 5, 1)
        column.addLayout(grid)
        column.addStretch(1)
        column.addSpacing(SPACING)
        buttons = QHBoxLayout()
        buttons.setSpacing(SPACING)
        buttons.addStretch(1)
        cancel = QPushButton("Cancel")
        cancel.setAutoDefault(False)
        cancel.clicked.connect(self.reject)
        buttons.addWidget(cancel)
        buttons.addWidget(self.add)
        column.addLayout(buttons)
        self._ask_for("")
        self.source_note.say(HINT)
        self.name_note.say("What it is called in the library.")
        # Room for two lines of an error, so that the dialog does not jump.
        self.source_note.setMinimumHeight(2 * self.source_note.fontMetrics().lineSpacing())
        self.source_note.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.setMinimumWidth(78 * self.fontMetrics().averageCharWidth())

    def _label(self, text: str, buddy: QWidget) -> QLabel:
        label = QLabel(text)
        label.setBuddy(buddy)
        return label

    def _ask_for(self, kind: str) -> None:
        """Show what a source of this kind may need besides: the two have one place in the dialog."""
        for each in (self._revision_label, self.revision):
            each.setVisible(kind == "hub")
        self.dequantize.setVisible(kind == "gguf")

    # --- browsing ---

    @Slot()
    def _browse_folder(self) -> None:
        dialog = QFileDialog(self, "Choose a model's folder")
        dialog.setFileMode(QFileDialog.FileMode.Directory)
        self._open(dialog)

    @Slot()
    def _browse_file(self) -> None:
        dialog = QFileDialog(self, "Choose a GGUF file")
        dialog.setFileMode(QFileDialog.FileMode.ExistingFile)
        dialog.setNameFilters(["GGUF models (*.gguf)", "All files (*)"])
        self._open(dialog)

    def _open(self, dialog: QFileDialog) -> None:
        dialog.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        dialog.fileSelected.connect(self.source.setText)
        dialog.open()

    # --- what it means ---

    @Slot()
    def _on_changed(self) -> None:
        self.look = None
        self.add.setEnabled(False)
        self._timer.start()

    @Slot()
    def _start_look(self) -> None:
        wish = SourceWish(self.source.text(), self.name.text(), self.revision.text())

        async def look(controller: Controller, report: Report) -> SourceLook:
            return await asyncio.to_thread(look_at_source, wish, controller.library)

        call = self._looking = self._workbench.bridge.call(look, "looking at the model")
        call.done.connect(self._on_looked)
        call.failed.connect(self.source_note.refuse)

    @Slot(object)
    def _on_looked(self, look: SourceLook) -> None:
        if self.sender() is not self._looking or self._timer.isActive():
            return  # something else was entered meanwhile
        self.look = look
        self._ask_for(look.kind)
        if look.source_error is not None:
            self.source_note.refuse(look.source_error)
        else:
            self.source_note.say(look.text or HINT)
        self.name.setPlaceholderText(look.suggested)
        if look.name_error is not None:
            self.name_note.refuse(look.name_error)
        else:
            self.name_note.say("What it is called in the library.")
        self.add.setEnabled(look.is_possible)

    def accept(self) -> None:
        look = self.look
        if look is None or not look.is_possible:
            return
        wish = look.wish
        self._workbench.jobs.add_model(
            wish.source.strip(),
            name=wish.name.strip() or look.suggested,
            revision=(wish.revision.strip() or None) if look.kind == "hub" else None,
            dequantize=look.kind == "gguf" and self.dequantize.isChecked(),
        )
        super().accept()


class _PathsAdder(QObject):
    """Files that were dropped, while somebody looks at what they are."""

    def __init__(self, workbench: Workbench, paths: tuple[str, ...]) -> None:
        super().__init__(workbench)
        self._workbench = workbench
        call = workbench.bridge.call(
            lambda controller, report: asyncio.to_thread(sort_out, paths), "looking at what was dropped"
        )
        call.done.connect(self._on_sorted)
        call.failed.connect(self._on_failed)
        call.ended.connect(self.deleteLater)

    @Slot(object)
    def _on_sorted(self, sorted_out: tuple[tuple[str, ...], tuple[tuple[str, ShardboardError], ...]]) -> None:
        taken, refused = sorted_out
        for path in taken:
            self._workbench.jobs.add_model(path)
        for path, error in refused:
            self._workbench.notices.error(f"{Path(path).name} was not added", error)

    @Slot(object)
    def _on_failed(self, error: ShardboardError) -> None:
        self._workbench.notices.error("Nothing was added", error)


def add_paths(workbench: Workbench, paths: Iterable[Path]) -> None:
    """Add files and folders that were dropped: each becomes a job, and what is no model says why."""
    if listed := tuple(dict.fromkeys(str(path) for path in paths)):
        _PathsAdder(workbench, listed)

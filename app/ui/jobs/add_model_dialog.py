"""The dialog 'Add a model': one field for a folder, a GGUF file or a Hub id. Starts a job."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, Slot
from PySide6.QtWidgets import QCheckBox, QDialog, QWidget

from app.ui import make
from app.ui.choose import GGUF_FILES, choose_file, choose_folder
from app.ui.icons import icon
from app.ui.jobs.inline_note import InlineNote
from app.ui.jobs.model_source import SourceLook, SourceWish, look_at_source
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
        self.source = make.field("org/name or a path", "Folder, GGUF file or Hub id", key="add-source")
        self.source_note = InlineNote("add-source-note")
        self.name = make.field("", "Name in the library", key="add-name")
        self.name_note = InlineNote("add-name-note")
        self.revision = make.field("main", "Revision: a branch, a tag or a commit", key="add-revision")
        self.dequantize = make.dressed(
            QCheckBox("Turn its weights into floats"), key="add-dequantize",
            tip="As transformers would save them: several times as large, "
            "for agents whose GPU computes with floats alone",
        )  # fmt: skip
        self.add = make.button("Add", self.accept, role="primary", by_return=True)
        self.add.setIcon(icon("plus", workbench.theme.colors.on_accent))
        self.add.setEnabled(False)
        self._lay_out()
        self._timer = make.timer(self, self._start_look, WAIT_MILLISECONDS)
        for field in (self.source, self.name, self.revision):
            field.textChanged.connect(self._on_changed)
        self.source.setText(source)
        self.source.setFocus()

    def _lay_out(self) -> None:
        grid = make.grid(down=SPACING // 2)
        browse = make.row((self.source, 1))
        for text, name, slot, tip in (
            ("Folder…", "folder", self._browse_folder, "Choose a model's folder"),
            ("File…", "file", self._browse_file, "Choose a GGUF file"),
        ):
            browse.addWidget(make.button(text, slot, picture=name, tip=tip, name=tip, by_return=False))
        grid.addWidget(make.label_of(self.source, "Model"), 0, 0)
        grid.addLayout(browse, 0, 1)
        grid.addWidget(self.source_note, 1, 1)
        self._revision_label = make.label_of(self.revision, "Revision")
        grid.addWidget(self._revision_label, 2, 0)
        grid.addWidget(self.revision, 2, 1)
        grid.addWidget(self.dequantize, 2, 1)
        grid.setRowMinimumHeight(3, SPACING // 2)
        grid.addWidget(make.label_of(self.name, "Name"), 4, 0)
        grid.addWidget(self.name, 4, 1)
        grid.addWidget(self.name_note, 5, 1)
        buttons = make.row(make.STRETCH, make.button("Cancel", self.reject, by_return=False), self.add)
        title = make.label("Add a model", "title")
        make.column(title, SPACING, grid, make.STRETCH, SPACING, buttons, within=self, margins=make.DIALOG)
        self._ask_for("")
        self.source_note.say(HINT)
        self.name_note.say("What it is called in the library.")
        # Room for two lines of an error, so that the dialog does not jump.
        self.source_note.setMinimumHeight(2 * self.source_note.fontMetrics().lineSpacing())
        self.source_note.setAlignment(Qt.AlignmentFlag.AlignTop)
        self.setMinimumWidth(78 * self.fontMetrics().averageCharWidth())

    def _ask_for(self, kind: str) -> None:
        """Show what a source of this kind may need besides: the two have one place in the dialog."""
        for each in (self._revision_label, self.revision):
            each.setVisible(kind == "hub")
        self.dequantize.setVisible(kind == "gguf")

    # --- browsing ---

    @Slot()
    def _browse_folder(self) -> None:
        choose_folder(self, "Choose a model's folder", self.source.setText)

    @Slot()
    def _browse_file(self) -> None:
        choose_file(self, "Choose a GGUF file", self.source.setText, GGUF_FILES)

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

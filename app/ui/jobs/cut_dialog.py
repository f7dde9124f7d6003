"""The dialog 'Cut into shards': which model, where it is cut, where the shards go. Starts a job."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

from PySide6.QtCore import Qt, Slot
from PySide6.QtWidgets import QDialog, QWidget

from app.errors import ShardboardError
from app.figures import size_text
from app.ui import make
from app.ui.choose import choose_folder
from app.ui.jobs.cut_form import CutForm
from app.ui.jobs.cut_preview import CutPreview, CutWish, preview_cut
from app.ui.workbench import Workbench

if TYPE_CHECKING:
    from app.controller import Controller
    from app.models.description import ModelDescription
    from app.ui.bridge import Call, Report

WAIT_MILLISECONDS = 150
"""After the last key before the preview is made anew."""


class CutDialog(QDialog):
    """Made with the name of a model to begin with it, else with the first of the library."""

    def __init__(self, workbench: Workbench, model: str | None = None, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setWindowTitle("Cut into shards")
        self.setObjectName("cut-dialog")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self._workbench = workbench
        self.preview: CutPreview | None = None
        """Of what is entered now; None while it is being looked at."""
        self._folders: dict[str, ModelDescription] = {}
        """Models that are not in the library, by their path."""
        self._inspecting: Call | None = None
        self._looking: Call | None = None
        self._output_is_mine = False
        self.form = CutForm(workbench.theme, self)
        self._timer = make.timer(self, self._look, WAIT_MILLISECONDS)
        self._connect()
        self._show_models(model)
        self.form.count.setFocus()

    def _connect(self) -> None:
        form = self.form
        form.model.currentIndexChanged.connect(self._on_model)
        form.browse_model.clicked.connect(self._browse_model)
        form.browse_output.clicked.connect(self._browse_output)
        form.by_count.toggled.connect(self._on_mode)
        form.count.valueChanged.connect(self._on_changed)
        form.layers.textChanged.connect(self._on_changed)
        form.output.textChanged.connect(self._on_changed)
        form.output.textEdited.connect(self._on_output_edited)
        form.cut.clicked.connect(self.accept)
        form.cancel.clicked.connect(self.reject)
        self._workbench.cluster.models_changed.connect(self._on_models)

    # --- the model ---

    @property
    def description(self) -> ModelDescription | None:
        """The chosen model, once it is known."""
        key = self.form.model.currentData()
        return self._workbench.cluster.model(key) or self._folders.get(key) if isinstance(key, str) else None

    @Slot()
    def _on_models(self) -> None:
        self._show_models(self.form.model.currentData())

    def _show_models(self, wanted: str | None) -> None:
        choices = [(model.name, model.name) for model in self._workbench.cluster.models]
        choices += [(f"{Path(path).name}  (folder)", path) for path in self._folders]
        self.form.show_models(choices, wanted)
        self._on_model()

    @Slot()
    def _on_model(self) -> None:
        description = self.description
        if description is None:
            self.form.model_note.say("The library is empty. Choose a folder with a model.")
        else:
            layers = f"{description.num_layers} layers · {size_text(description.weight_bytes)}"
            self.form.model_note.say(f"{layers} · {description.architecture}")
            self.form.count.setMaximum(len(description.cuts) + 1)
            if not self._output_is_mine:
                self.form.output.setText(str(self._usual_place() / description.name))
        self._on_changed()

    def _usual_place(self) -> Path:
        """Where shards went the last time."""
        last = self._workbench.settings.state("cut").get("folder")
        return Path(last) if isinstance(last, str) and last else Path.home() / "shards"

    @Slot()
    def _browse_model(self) -> None:
        choose_folder(self, "Choose a model's folder", self.take_folder)

    @Slot(str)
    def take_folder(self, folder: str) -> None:
        """Look at a model that is not in the library, and choose it."""

        async def inspect(controller: Controller, report: Report) -> ModelDescription:
            return await controller.inspect_model(folder, report)

        if self._inspecting is not None:
            self._inspecting.cancel()
        self.form.model_note.say(f"Looking at {folder}…")
        call = self._inspecting = self._workbench.bridge.call(inspect, "looking at the model")
        call.done.connect(self._on_inspected)
        call.failed.connect(self.form.model_note.refuse)
        call.ended.connect(self._on_inspection_over)

    @Slot(object)
    def _on_inspected(self, description: ModelDescription) -> None:
        self._folders[description.folder] = description
        self._show_models(description.folder)

    @Slot()
    def _on_inspection_over(self) -> None:
        if self.sender() is self._inspecting:
            self._inspecting = None

    # --- where it is cut, and where to ---

    @Slot()
    def _on_mode(self) -> None:
        by_count = self.form.by_count.isChecked()
        if not by_count and not self.form.layers.text() and self.preview is not None and self.preview.shards:
            from app.sharding.plan import ranges_text

            self.form.layers.setText(ranges_text([(shard.start, shard.end) for shard in self.preview.shards]))
        self.form.show_mode(by_count)
        self._on_changed()

    @Slot()
    def _on_output_edited(self) -> None:
        self._output_is_mine = True

    @Slot()
    def _browse_output(self) -> None:
        choose_folder(self, "Choose where the shards go", self._take_output, str(self._usual_place()))

    @Slot(str)
    def _take_output(self, folder: str) -> None:
        self._output_is_mine = True
        self.form.output.setText(folder)

    @Slot()
    def _on_changed(self) -> None:
        """What is previewed is not what is entered any more."""
        self.preview = None
        self.form.cut.setEnabled(False)
        self._timer.start()

    @Slot()
    def _look(self) -> None:
        description = self.description
        if description is None:
            self.form.show_preview(None)
            return
        shards: int | str = self.form.count.value() if self.form.by_count.isChecked() else self.form.layers.text()
        wish = CutWish(description, shards, self.form.output.text())
        call = self._looking = self._workbench.bridge.call(
            lambda controller, report: asyncio.to_thread(preview_cut, wish), "looking at the cut"
        )
        call.done.connect(self._on_preview)
        call.failed.connect(self._on_look_failed)

    @Slot(object)
    def _on_preview(self, preview: CutPreview) -> None:
        if self.sender() is not self._looking or self._timer.isActive():
            return  # something else was entered meanwhile
        self.preview = preview
        self.form.show_preview(preview)

    @Slot(object)
    def _on_look_failed(self, error: ShardboardError) -> None:
        self.form.shards_note.refuse(error)

    # --- the end ---

    def accept(self) -> None:
        preview = self.preview
        if preview is None or not preview.is_possible:
            return
        output = Path(preview.wish.output_dir).expanduser().resolve()
        self._workbench.settings.save_state("cut", {"folder": str(output.parent)})
        name = preview.wish.description.name
        model = (
            name if self._workbench.cluster.model(name) == preview.wish.description else preview.wish.description.folder
        )
        ranges = [(shard.start, shard.end) for shard in preview.shards]
        self._workbench.jobs.cut(model, ranges, output, register=self.form.register.isChecked())
        super().accept()

    def done(self, result: int) -> None:
        if self._inspecting is not None:
            self._inspecting.cancel()
        super().done(result)

"""The fields of the dialog 'Cut into shards', and how they look. What they mean is the dialog's."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QSignalBlocker, QSize, Qt
from PySide6.QtWidgets import (
    QCheckBox,
    QComboBox,
    QDialog,
    QGridLayout,
    QLabel,
    QLayout,
    QRadioButton,
    QSpinBox,
    QWidget,
)

from app.figures import size_text
from app.ui import make
from app.ui.icons import icon
from app.ui.jobs.cut_preview import CutPreview
from app.ui.jobs.inline_note import InlineNote
from app.ui.jobs.shard_previews import ShardPreviews
from app.ui.jobs.shards_bar import ShardsBar
from app.ui.tables import Table
from app.ui.theme import SPACING, ThemeKeeper

ROWS_SHOWN = 4


class CutForm:
    """Lays the dialog out. Fields are public: the dialog reads them and listens to them."""

    def __init__(self, theme: ThemeKeeper, dialog: QDialog) -> None:
        self.model = make.dressed(QComboBox(), key="cut-model", name="Model")
        self.model.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.model.setMinimumContentsLength(24)
        self.browse_model = make.button("Folder…", picture="folder", name="Choose a model's folder")
        self.model_note = InlineNote("cut-model-note")
        self.by_count, self.by_layers = QRadioButton("Number of shards"), QRadioButton("Layers")
        self.by_count.setChecked(True)
        self.count = make.dressed(make.number_field(QSpinBox()), key="cut-count", name="Number of shards")
        self.count.setRange(1, 999)
        self.count.setValue(2)
        self.count.setMinimumWidth(12 * self.count.fontMetrics().averageCharWidth())
        self.layers = make.field("0-9,10-20", "Layers of each shard, like 0-9,10-20", key="cut-layers")
        self.shards_note = InlineNote("cut-shards-note")
        self.bar = ShardsBar(theme)
        self.shards = ShardPreviews(theme, dialog)
        self.output = make.field("", "Folder for the shards", key="cut-output")
        self.browse_output = make.button("Browse…", picture="folder-open", name="Choose the folder for the shards")
        self.output_note = InlineNote("cut-output-note")
        self.register = make.dressed(
            QCheckBox("Enter the shards in the registry"),
            tip="They can be looked up then, by the window and by other programs.",
        )
        self.register.setChecked(True)
        self.cancel = make.button("Cancel")
        self.cut = make.button("Cut", role="primary", by_return=True)
        self.cut.setIcon(icon("scissors", theme.colors.on_accent))
        self.cut.setEnabled(False)
        self._lay_out(theme, dialog)
        self.show_mode(True)

    def _lay_out(self, theme: ThemeKeeper, dialog: QDialog) -> None:
        above, below = make.grid(down=SPACING // 2), make.grid(down=SPACING // 2)
        cut_by = make.column(
            make.row(self.by_count, self.by_layers, make.STRETCH),
            make.row(self.count, (self.layers, 1), make.Stretch(0)),
            spacing=SPACING // 2,
        )  # fmt: skip
        labels = (
            _add_row(above, 0, "Model", make.row((self.model, 1), self.browse_model), self.model, self.model_note),
            _add_row(above, 3, "Cut by", cut_by, self.count, self.shards_note),
            _add_row(below, 0, "Folder", make.row((self.output, 1), self.browse_output), self.output, self.output_note),
        )
        below.addWidget(self.register, 3, 1)
        about = "Each shard is a folder with some of the model's layers that works without the others."
        make.column(
            make.label("Cut into shards", "title"), make.label(about, "muted", wraps=True), SPACING, above, self.bar,
            (self._table(theme), 1), SPACING, below, SPACING, make.row(make.STRETCH, self.cancel, self.cut),
            within=dialog, margins=make.DIALOG,
        )  # fmt: skip
        for grid in (above, below):
            grid.setColumnMinimumWidth(0, max(label.sizeHint().width() for label in labels))
        letter, line = dialog.fontMetrics().averageCharWidth(), dialog.fontMetrics().height()
        dialog.setMinimumWidth(64 * letter)
        dialog.resize(QSize(80 * letter, 36 * line))

    def _table(self, theme: ThemeKeeper) -> Table:
        table = Table(self.shards, theme, "Shards", key="cut-shards")
        table.size_columns(self.shards.columns)
        header, rows = table.horizontalHeader(), ROWS_SHOWN * table.verticalHeader().defaultSectionSize()
        table.setMinimumHeight(header.sizeHint().height() + rows + SPACING // 2)
        return table

    # --- what the dialog shows ---

    def show_models(self, choices: Sequence[tuple[str, str]], wanted: str | None) -> None:
        """Offer models as (text, key) and choose one, else keep what is chosen."""
        keys = [key for _, key in choices]
        with QSignalBlocker(self.model):
            self.model.clear()
            for text, key in choices:
                self.model.addItem(icon("box"), text, key)
            self.model.setCurrentIndex(keys.index(wanted) if wanted in keys else (0 if keys else -1))
        self.model.setEnabled(bool(keys))

    def show_mode(self, by_count: bool) -> None:
        self.count.setVisible(by_count)
        self.layers.setVisible(not by_count)

    def show_preview(self, preview: CutPreview | None) -> None:
        """None: there is no model to cut."""
        shards = preview.shards if preview is not None else ()
        self.bar.show_shards(shards)
        self.shards.show_rows(shards)
        self.cut.setEnabled(preview is not None and preview.is_possible)
        if preview is None:
            self.shards_note.say("")
            self.output_note.say("")
            return
        if preview.shards_error is not None:
            self.shards_note.refuse(preview.shards_error)
        else:
            largest = max(shard.nbytes for shard in shards)
            self.shards_note.say(f"The largest shard has {size_text(largest)}.")
        if preview.folder_error is not None:
            self.output_note.refuse(preview.folder_error)
        elif preview.free is not None and preview.needed:
            self.output_note.say(f"Needs {size_text(preview.needed)} · {size_text(preview.free)} free")
        else:
            self.output_note.say("")


def _add_row(grid: QGridLayout, row: int, text: str, field: QLayout, buddy: QWidget, note: InlineNote) -> QLabel:
    label = make.label_of(buddy, text)
    grid.addWidget(label, row, 0, Qt.AlignmentFlag.AlignTop)
    # Beside the first line of text in the field, which a radio button has higher up than a framed field.
    label.setContentsMargins(0, 0 if isinstance(buddy, QSpinBox) else SPACING - 2, 0, 0)
    grid.addLayout(field, row, 1)
    grid.addWidget(note, row + 1, 1)
    grid.setRowMinimumHeight(row + 2, SPACING)
    return label

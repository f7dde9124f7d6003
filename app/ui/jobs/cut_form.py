"""The fields of the dialog 'Cut into shards', and how they look. What they mean is the dialog's."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import QSize, Qt
from PySide6.QtWidgets import (
    QButtonGroup,
    QCheckBox,
    QComboBox,
    QDialog,
    QGridLayout,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QLineEdit,
    QPushButton,
    QRadioButton,
    QSpinBox,
    QTableView,
    QVBoxLayout,
    QWidget,
)

from app.figures import size_text
from app.ui.icons import icon
from app.ui.jobs.cut_plan import CutPlan
from app.ui.jobs.inline_note import InlineNote
from app.ui.jobs.planned_shards import PlannedShardsModel, ShardColumn
from app.ui.jobs.shards_bar import ShardsBar
from app.ui.theme import SPACING, ThemeKeeper

ROWS_SHOWN = 4


class CutForm:
    """Lays the dialog out. Fields are public: the dialog reads them and listens to them."""

    def __init__(self, theme: ThemeKeeper, dialog: QDialog) -> None:
        self.model = QComboBox()
        self.model.setObjectName("cut-model")
        self.model.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
        self.model.setMinimumContentsLength(24)
        self.browse_model = QPushButton(icon("folder"), "Folder…")
        self.model_note = InlineNote("cut-model-note")
        self.by_count = QRadioButton("Number of shards")
        self.by_layers = QRadioButton("Layers")
        self.by_count.setChecked(True)
        self._group = QButtonGroup(dialog)
        self._group.addButton(self.by_count)
        self._group.addButton(self.by_layers)
        self.count = QSpinBox()
        self.count.setObjectName("cut-count")
        self.count.setRange(1, 999)
        self.count.setValue(2)
        self.count.setMinimumWidth(12 * self.count.fontMetrics().averageCharWidth())
        self.layers = QLineEdit()
        self.layers.setObjectName("cut-layers")
        self.layers.setPlaceholderText("0-9,10-20")
        self.shards_note = InlineNote("cut-shards-note")
        self.bar = ShardsBar(theme)
        self.shards = PlannedShardsModel(theme, dialog)
        self.output = QLineEdit()
        self.output.setObjectName("cut-output")
        self.browse_output = QPushButton(icon("folder-open"), "Browse…")
        self.output_note = InlineNote("cut-output-note")
        self.register = QCheckBox("Enter the shards in the registry")
        self.register.setChecked(True)
        self.register.setToolTip("They can be looked up then, by the window and by other programs.")
        self.cancel = QPushButton("Cancel")
        self.cut = QPushButton(icon("scissors", theme.colors.on_accent), "Cut")
        self.cut.setProperty("role", "primary")
        self.cut.setDefault(True)
        self.cut.setEnabled(False)
        self._lay_out(dialog)
        self.show_mode(True)

    def _lay_out(self, dialog: QDialog) -> None:
        column = QVBoxLayout(dialog)
        column.setContentsMargins(3 * SPACING, 3 * SPACING, 3 * SPACING, 2 * SPACING)
        column.setSpacing(SPACING)
        title = QLabel("Cut into shards")
        title.setProperty("role", "title")
        about = QLabel("Each shard is a folder with some of the model's layers that works without the others.")
        about.setProperty("role", "muted")
        about.setWordWrap(True)
        column.addWidget(title)
        column.addWidget(about)
        column.addSpacing(SPACING)
        grid = QGridLayout()
        grid.setHorizontalSpacing(2 * SPACING)
        grid.setVerticalSpacing(SPACING // 2)
        grid.setColumnStretch(1, 1)
        self._add_row(grid, 0, "Model", _beside(self.model, self.browse_model), self.model, self.model_note)
        choice = _beside(self.by_count, self.by_layers, stretch=False)
        fields = QHBoxLayout()
        fields.addWidget(self.count)
        fields.addWidget(self.layers, 1)
        fields.addStretch(0)
        both = QWidget()
        stack = QVBoxLayout(both)
        stack.setContentsMargins(0, 0, 0, 0)
        stack.setSpacing(SPACING // 2)
        stack.addWidget(choice)
        stack.addLayout(fields)
        self._add_row(grid, 3, "Cut by", both, self.count, self.shards_note)
        column.addLayout(grid)
        column.addWidget(self.bar)
        column.addWidget(self._table(), 1)
        column.addSpacing(SPACING)
        below = QGridLayout()
        below.setHorizontalSpacing(2 * SPACING)
        below.setVerticalSpacing(SPACING // 2)
        below.setColumnStretch(1, 1)
        self._add_row(below, 0, "Folder", _beside(self.output, self.browse_output), self.output, self.output_note)
        width = max(label.sizeHint().width() for label in dialog.findChildren(QLabel, "field-label"))
        grid.setColumnMinimumWidth(0, width)
        below.setColumnMinimumWidth(0, width)
        below.addWidget(self.register, 3, 1)
        column.addLayout(below)
        column.addSpacing(SPACING)
        column.addWidget(_beside(None, self.cancel, self.cut))
        self._name()
        letter, line = dialog.fontMetrics().averageCharWidth(), dialog.fontMetrics().height()
        dialog.setMinimumWidth(64 * letter)
        dialog.resize(QSize(80 * letter, 36 * line))

    def _name(self) -> None:
        for widget, name in (
            (self.model, "Model"), (self.browse_model, "Choose a model's folder"), (self.count, "Number of shards"),
            (self.layers, "Layers of each shard, like 0-9,10-20"), (self.output, "Folder for the shards"),
            (self.browse_output, "Choose the folder for the shards"),
        ):  # fmt: skip
            widget.setAccessibleName(name)

    def _add_row(
        self, grid: QGridLayout, row: int, text: str, field: QWidget, buddy: QWidget, note: InlineNote
    ) -> None:
        label = QLabel(text)
        label.setObjectName("field-label")
        label.setBuddy(buddy)
        grid.addWidget(label, row, 0, Qt.AlignmentFlag.AlignTop)
        # Beside the first line of text in the field, which a radio button has higher up than a framed field.
        label.setContentsMargins(0, 0 if isinstance(buddy, QSpinBox) else SPACING - 2, 0, 0)
        grid.addWidget(field, row, 1)
        grid.addWidget(note, row + 1, 1)
        grid.setRowMinimumHeight(row + 2, SPACING)

    def _table(self) -> QTableView:
        table = QTableView()
        table.setObjectName("cut-shards")
        table.setAccessibleName("Shards")
        table.setModel(self.shards)
        table.setShowGrid(False)
        table.setSelectionBehavior(QTableView.SelectionBehavior.SelectRows)
        table.setTabKeyNavigation(False)
        table.verticalHeader().hide()
        table.verticalHeader().setDefaultSectionSize(table.fontMetrics().height() + SPACING)
        header = table.horizontalHeader()
        header.setDefaultAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter)
        header.setSectionResizeMode(QHeaderView.ResizeMode.Stretch)
        header.setHighlightSections(False)
        rows = ROWS_SHOWN * table.verticalHeader().defaultSectionSize()
        table.setMinimumHeight(header.sizeHint().height() + rows + SPACING // 2)
        table.resizeColumnToContents(ShardColumn.SHARD)
        return table

    # --- what the dialog shows ---

    def show_models(self, choices: Sequence[tuple[str, str]], wanted: str | None) -> None:
        """Offer models as (text, key) and choose one, else keep what is chosen."""
        keys = [key for _, key in choices]
        self.model.blockSignals(True)
        self.model.clear()
        for text, key in choices:
            self.model.addItem(icon("box"), text, key)
        self.model.setCurrentIndex(keys.index(wanted) if wanted in keys else (0 if keys else -1))
        self.model.blockSignals(False)
        self.model.setEnabled(bool(keys))

    def show_mode(self, by_count: bool) -> None:
        self.count.setVisible(by_count)
        self.layers.setVisible(not by_count)

    def show_plan(self, plan: CutPlan | None) -> None:
        """None: there is no model to plan for."""
        shards = plan.shards if plan is not None else ()
        self.bar.show_shards(shards)
        self.shards.show_shards(shards)
        self.cut.setEnabled(plan is not None and plan.is_possible)
        if plan is None:
            self.shards_note.say("")
            self.output_note.say("")
            return
        if plan.shards_error is not None:
            self.shards_note.refuse(plan.shards_error)
        else:
            largest = max(shard.nbytes for shard in shards)
            self.shards_note.say(f"The largest shard has {size_text(largest)}.")
        if plan.folder_error is not None:
            self.output_note.refuse(plan.folder_error)
        elif plan.free is not None and plan.needed:
            self.output_note.say(f"Needs {size_text(plan.needed)} · {size_text(plan.free)} free")
        else:
            self.output_note.say("")


def _beside(*widgets: QWidget | None, stretch: bool = True) -> QWidget:
    """Widgets in a row, the first as wide as can be; None is empty space."""
    box = QWidget()
    row = QHBoxLayout(box)
    row.setContentsMargins(0, 0, 0, 0)
    row.setSpacing(SPACING)
    for number, widget in enumerate(widgets):
        if widget is None:
            row.addStretch(1)
        else:
            row.addWidget(widget, 1 if stretch and number == 0 else 0)
    if not stretch:
        row.addStretch(1)
    return box

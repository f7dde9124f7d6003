"""Preferences: what is kept of requests, jobs, deployments and events, for how long, and how much that is."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace
from PySide6.QtCore import QSignalBlocker, Slot
from PySide6.QtWidgets import QCheckBox, QSpinBox, QWidget

from app.controller_settings import GIB, RecordSettings
from app.errors import ShardboardError
from app.figures import size_text
from app.ui import make
from app.ui.bridge import window_origin
from app.ui.notices import Level
from app.ui.shell.preference_rows import Section
from app.ui.theme import SPACING
from app.ui.workbench import Workbench

if TYPE_CHECKING:
    from app.controller import Controller
    from app.runs.retention import Pruned
    from app.ui.bridge import Report

MIB = 2**20
MOST_MIB = 10_000_000


@dataclass(frozen=True)
class RecordUse:
    """What is kept now, and what the settings are."""

    settings: RecordSettings
    requests: int
    text_bytes: int
    trace_bytes: int


class RecordsSection(Section):
    """The button asks by becoming another one, not by a window of its own."""

    def __init__(self, workbench: Workbench, parent: QWidget | None = None) -> None:
        super().__init__("Records of what was asked and answered", parent)
        self._workbench = workbench
        self._settings = RecordSettings()
        self.add_words(
            "Requests, jobs, deployments and events are recorded on this machine, with where each token's time went. "
            "What is too old or too much goes by itself, the oldest first; models, nodes and deployments stay."
        )
        self.days = self._spin("Keep them for", " days", 36_500, "for ever")
        self.limit = self._spin("Keep at most", " MiB", MOST_MIB, "without a limit")
        grid = make.grid(wide=2)
        for number, (text, field) in enumerate((("Keep them for", self.days), ("Keep at most", self.limit))):
            grid.addWidget(make.label_of(field, text), number, 0)
            grid.addWidget(field, number, 1)
        self.column.addLayout(grid)
        self.text = self._switch(
            "keep_text", "Keep the text of prompts and answers",
            "Without it Runs shows figures only, and a request cannot be run again. It counts from the next request.",
        )  # fmt: skip
        self.times = self._switch(
            "keep_token_times", "Keep where each token's time went",
            "Without it there is no waterfall and no explanation of what took the time.",
        )  # fmt: skip
        self.used = self.add_words("Counting…")
        self.prune = make.button(
            "Prune now…", self._on_prune, self, picture="trash-2", key="records-prune", by_return=False
        )
        self.confirm = make.button(
            "", self._on_confirmed, self, role="danger", key="records-prune-confirm", by_return=False
        )
        self.keep = make.button("Keep it", self._calm_down, self, by_return=False)
        row = make.row((self.used, 1), self.prune, self.confirm, self.keep)
        self.column.addLayout(row)
        self.days.valueChanged.connect(self._on_changed)
        self.limit.valueChanged.connect(self._on_changed)
        self.text.toggled.connect(self._on_changed)
        self.times.toggled.connect(self._on_changed)
        self._calm_down()
        self._read()

    def _spin(self, name: str, unit: str, most: int, without: str) -> QSpinBox:
        made = make.number_field(QSpinBox(self))
        made.setRange(0, most)
        made.setSuffix(unit)
        made.setSpecialValueText(without)
        made.setGroupSeparatorShown(True)
        made.setKeyboardTracking(False)
        made.setAccessibleName(name)
        made.setToolTip(f"0: {without}")
        made.setMinimumWidth(made.fontMetrics().horizontalAdvance("10,000,000 MiB") + 5 * SPACING)
        return made

    def _switch(self, key: str, text: str, meaning: str) -> QCheckBox:
        box = QCheckBox(text, self)
        box.setObjectName(f"records-{key}")
        box.setAccessibleDescription(meaning)
        self.column.addWidget(box)
        words = self.add_words(meaning)
        words.setContentsMargins(box.iconSize().width() + SPACING, 0, 0, 0)
        return box

    # --- how it is ---

    def _read(self) -> None:
        async def work(controller: Controller, report: Report) -> RecordUse:
            return await controller.registry.call(lambda _: _use(controller))

        call = self._workbench.bridge.call(work, "counting the records")
        call.done.connect(self._on_read)
        call.failed.connect(self._on_failed)

    @Slot(object)
    def _on_read(self, use: RecordUse) -> None:
        self._show(use.settings)
        noun = "request" if use.requests == 1 else "requests"
        self.used.setText(
            f"Now {use.requests:,} {noun}, {size_text(use.text_bytes)} of text, {size_text(use.trace_bytes)} of times."
        )

    def _show(self, settings: RecordSettings) -> None:
        self._settings = settings
        with ExitStack() as quiet:
            for field in (self.days, self.limit, self.text, self.times):
                quiet.enter_context(QSignalBlocker(field))
            self.days.setValue(settings.keep_days)
            self.limit.setValue(_mib(settings))
            self.text.setChecked(settings.keep_text)
            self.times.setChecked(settings.keep_token_times)

    # --- changing ---

    @Slot()
    def _on_changed(self) -> None:
        """Only what was touched changes: a size between two mebibytes, written by hand, stays as it is."""
        self._calm_down()
        known = self._settings
        fields: dict[str, object] = {
            "keep_days": self.days.value(),
            "keep_text": self.text.isChecked(),
            "keep_token_times": self.times.isChecked(),
        }
        if self.limit.value() != _mib(known):
            fields["keep_bytes"] = self.limit.value() * MIB
        self._settings = replace(known, **fields)
        desk = self._workbench.desk

        async def work(controller: Controller, report: Report) -> None:
            await desk.change(controller, "records", fields)

        call = self._workbench.bridge.call(work, "saving the settings")
        call.failed.connect(self._on_failed)

    @Slot(object)
    def _on_failed(self, error: ShardboardError) -> None:
        self._workbench.notices.error("The records' settings", error)

    # --- pruning ---

    @Slot()
    def _calm_down(self) -> None:
        self.prune.show()
        self.confirm.hide()
        self.keep.hide()

    @Slot()
    def _on_prune(self) -> None:
        settings = self._settings
        limits = []
        if settings.keep_days:
            limits.append(f"is older than {settings.keep_days:,} days")
        if settings.keep_bytes:
            limits.append(f"is beyond {_size(settings.keep_bytes)}")
        if not limits:
            self._workbench.notices.toast("Everything is kept for ever: there is nothing to prune.")
            return
        self.confirm.setText(f"Remove what {' or '.join(limits)}")
        self.confirm.show()
        self.keep.show()
        self.prune.hide()
        self.keep.setFocus()

    @Slot()
    def _on_confirmed(self) -> None:
        self._calm_down()
        self.prune.setEnabled(False)
        call = self._workbench.bridge.call(
            lambda controller, report: controller.prune(window_origin()), "pruning the records"
        )
        call.done.connect(self._on_pruned)
        call.failed.connect(self._on_failed)
        call.ended.connect(self._on_ended)

    @Slot(object)
    def _on_pruned(self, pruned: Pruned) -> None:
        text = f"Removed {pruned}." if pruned.anything else "There was nothing to remove."
        self._workbench.notices.toast(text, Level.SUCCESS)
        self._read()

    @Slot()
    def _on_ended(self) -> None:
        self.prune.setEnabled(True)


def _use(controller: Controller) -> RecordUse:
    registry = controller.registry
    return RecordUse(
        controller.settings.records, registry.requests.count(), registry.requests.total_bytes(),
        registry.traces.total_bytes(),
    )  # fmt: skip


def _mib(settings: RecordSettings) -> int:
    """As the field shows it: the next whole mebibyte."""
    return min(MOST_MIB, -(-settings.keep_bytes // MIB))


def _size(nbytes: int) -> str:
    return f"{nbytes // GIB} GiB" if nbytes % GIB == 0 else f"{nbytes / MIB:,.0f} MiB"

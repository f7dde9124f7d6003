"""Starting agents on this machine: how many, and with how much of it each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import Signal, Slot
from PySide6.QtWidgets import QComboBox, QDoubleSpinBox, QFormLayout, QSpinBox, QWidget

from app.figures import size_text
from app.launchers.launcher import LocalWish
from app.ui import make
from app.ui.bridge import Report, window_origin
from app.ui.nodes.node_dialog import NodeDialog
from app.ui.nodes.node_words import listed
from app.ui.notices import Level
from app.ui.theme import SPACING
from app.ui.workbench import Workbench

if TYPE_CHECKING:
    from app.controller import Controller
    from app.registry.records import NodeRecord


_INTRODUCTION = (
    "Each agent is a process of its own that runs layers of a model. Left on automatic, they share this machine's "
    "cores and free memory equally."
)
_MOST = 64
_DEVICES = ("Automatic", "cpu", "cuda:0", "cuda:1", "mps")


class StartAgentsDialog(NodeDialog):
    """Asks how many, with which threads, memory and device. `started` tells a tuple of the new nodes' ids."""

    started = Signal(object)

    def __init__(self, workbench: Workbench, parent: QWidget) -> None:
        super().__init__(workbench, "Start agents on this machine", _INTRODUCTION, "Start 2 agents", parent)
        self.setObjectName("nodes-start-dialog")
        self.count, self.threads = make.number_field(QSpinBox()), make.number_field(QSpinBox())
        self.memory, self.device = make.number_field(QDoubleSpinBox()), QComboBox()
        self.count.setRange(1, _MOST)
        self.count.setValue(2)
        self.threads.setRange(0, 1024)
        self.threads.setSpecialValueText("Automatic")
        self.memory.setRange(0.0, 100_000.0)
        self.memory.setDecimals(1)
        self.memory.setSingleStep(0.5)
        self.memory.setSuffix(" GB")
        self.memory.setSpecialValueText("Automatic")
        self.device.setEditable(True)
        self.device.addItems(list(_DEVICES))
        form = QFormLayout()
        form.setHorizontalSpacing(2 * SPACING)
        form.setVerticalSpacing(SPACING)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for text, field, tip in (
            ("Agents", self.count, "How many agents are started"),
            ("Threads of each", self.threads, "CPU threads; automatic is an equal share of the cores"),
            ("Memory of each", self.memory, "For stages; automatic is an equal share of what is free"),
            ("Device", self.device, "Automatic takes the first GPU, else the CPU"),
        ):
            field.setAccessibleName(text)
            field.setToolTip(tip)
            form.addRow(text, field)
        self.body.addLayout(form)
        self.count.valueChanged.connect(self._on_count)
        self.count.setFocus()

    @property
    def wanted(self) -> LocalWish:
        """What the form says now."""
        device = self.device.currentText().strip()
        return LocalWish(
            count=self.count.value(),
            threads=self.threads.value() or None,
            memory=round(self.memory.value() * 1e9) or None,
            device=None if device in ("", _DEVICES[0]) else device,
            keep=not self.workbench.settings.get("agents/stop_with_window"),
        )

    @Slot(int)
    def _on_count(self, count: int) -> None:
        self.accept_button.setText(f"Start {count} agents" if count > 1 else "Start 1 agent")

    @Slot()
    def begin(self) -> None:
        wanted = self.wanted
        size = f" with {size_text(wanted.memory)} each" if wanted.memory else ""

        async def work(controller: Controller, report: Report) -> list[NodeRecord]:
            from app.launching import launch

            return await launch(controller, wanted, lambda progress: report(progress.phase), window_origin())

        self.follow(
            self.workbench.bridge.call(work, "starting agents"),
            f"Starting {wanted.count} agent{'s' if wanted.count > 1 else ''}{size}",
        )

    def set_form_enabled(self, enabled: bool) -> None:
        for field in (self.count, self.threads, self.memory, self.device):
            field.setEnabled(enabled)

    def succeeded(self, result: object) -> None:
        assert isinstance(result, list)
        names = listed([record.hostname for record in result])
        self.workbench.notices.toast(f"{names} {'are' if len(result) > 1 else 'is'} running.", Level.SUCCESS)
        self.started.emit(tuple(record.id for record in result))
        self.accept()

"""Having Ray bring agents to the nodes of its cluster: how many, where it is, and what each may take."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import Signal, Slot
from PySide6.QtWidgets import QCheckBox, QDoubleSpinBox, QFormLayout, QSpinBox, QWidget

from app.launchers.launcher import RayWish
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
    "Ray starts an agent on each of so many of its nodes, and starts it again when it ends. This machine has to be in "
    "the cluster (ray start --address=HEAD:6379), and Ray has to ask for a token (RAY_AUTH_MODE=token)."
)
_MOST = 1000
_MINUTE = 60.0


class RayDialog(NodeDialog):
    """Asks how many nodes of which cluster. `added` tells a tuple of the nodes' ids."""

    added = Signal(object)

    def __init__(self, workbench: Workbench, parent: QWidget) -> None:
        super().__init__(workbench, "Bring agents by Ray", _INTRODUCTION, "Bring 2 agents", parent)
        self.setObjectName("nodes-ray-dialog")
        self.address = make.field("the cluster that this machine is in", "Address of Ray's head, host and port")
        self.count, self.idle = make.number_field(QSpinBox()), make.number_field(QSpinBox())
        self.cpus, self.memory = make.number_field(QDoubleSpinBox()), make.number_field(QDoubleSpinBox())
        self.no_token = QCheckBox("Use a cluster that lets in whoever reaches it, too")
        self.count.setRange(1, _MOST)
        self.count.setValue(2)
        self.cpus.setRange(0.0, 1024.0)
        self.cpus.setSpecialValueText("All of its node")
        self.memory.setRange(0.0, 100_000.0)
        self.memory.setDecimals(1)
        self.memory.setSingleStep(0.5)
        self.memory.setSuffix(" GB")
        self.memory.setSpecialValueText("Automatic")
        self.idle.setRange(0, 10_000)
        self.idle.setSuffix(" minutes")
        self.idle.setSpecialValueText("Never")
        form = QFormLayout()
        form.setHorizontalSpacing(2 * SPACING)
        form.setVerticalSpacing(SPACING)
        form.setFieldGrowthPolicy(QFormLayout.FieldGrowthPolicy.AllNonFixedFieldsGrow)
        for text, field, tip in (
            ("Ray nodes with an agent", self.count, "Those that have one already count"),
            ("Head of the cluster", self.address, "Host and port, as rack-1:6379"),
            ("CPUs of each", self.cpus, "Of Ray's CPUs, what each agent takes, and so its threads"),
            ("Memory of each", self.memory, "For stages; automatic is an equal share of what is free"),
            ("End them when idle for", self.idle, "The next request brings them back"),
        ):
            field.setAccessibleName(text)
            field.setToolTip(tip)
            form.addRow(text, field)
        self.body.addLayout(form)
        self.body.addWidget(self.no_token)
        self.count.valueChanged.connect(self._on_count)
        self.count.setFocus()

    @property
    def wanted(self) -> RayWish:
        """What the form says now."""
        return RayWish(
            self.count.value(),
            self.address.text().strip() or "auto",
            cpus=self.cpus.value() or None,
            memory=round(self.memory.value() * 1e9) or None,
            idle_seconds=self.idle.value() * _MINUTE or None,
            needs_token=not self.no_token.isChecked(),
        )

    @Slot(int)
    def _on_count(self, count: int) -> None:
        self.accept_button.setText(f"Bring {count} agents" if count > 1 else "Bring 1 agent")

    @Slot()
    def begin(self) -> None:
        wanted = self.wanted

        async def work(controller: Controller, report: Report) -> list[NodeRecord]:
            from app.launching import launch

            return await launch(controller, wanted, lambda progress: report(progress.phase), window_origin())

        call = self.workbench.bridge.call(work, "bringing agents by Ray")
        call.progressed.connect(self._on_phase)
        self.follow(call, "Asking Ray")

    @Slot(object)
    def _on_phase(self, phases: tuple[str, ...]) -> None:
        self._doing = phases[-1].capitalize()
        self._tick()

    def set_form_enabled(self, enabled: bool) -> None:
        for field in (self.count, self.address, self.cpus, self.memory, self.idle, self.no_token):
            field.setEnabled(enabled)

    def succeeded(self, result: object) -> None:
        assert isinstance(result, list)
        names = listed([record.hostname for record in result])
        self.workbench.notices.toast(f"{names} {'are' if len(result) > 1 else 'is'} running.", Level.SUCCESS)
        self.added.emit(tuple(record.id for record in result))
        self.accept()

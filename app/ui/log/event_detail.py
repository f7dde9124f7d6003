"""The strip below the log: one event with its whole message and its details."""

from __future__ import annotations

import json

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtGui import QGuiApplication
from PySide6.QtWidgets import QFrame, QLabel, QWidget

from app.figures import clock
from app.registry import EventRecord
from app.ui import make
from app.ui.looks import EVENTS
from app.ui.paging.export import json_line
from app.ui.theme import SPACING
from app.ui.workbench import Workbench


class EventDetail(QFrame):
    """Shows an EventRecord, or hides."""

    request_wanted = Signal(int)
    """Show the request that this is about."""

    def __init__(self, workbench: Workbench, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "panel")
        self._theme = workbench.theme
        self._notices = workbench.notices
        self.event_record: EventRecord | None = None
        self._mark = QLabel(self)
        self._level = QLabel(self)
        self._about = make.label("", "muted", self)
        self.text = make.reading("The event in full", self)
        self.copy = make.command(self, "copy", "Copy event as JSON", self._on_copy)
        button = make.button("Copy", self.copy.trigger, self, picture="copy", tip=self.copy.text())
        self._request = make.button("Show request", self._on_request, self)
        header = make.row(self._mark, self._level, self._about, make.STRETCH, self._request, button)
        make.column(header, (self.text, 1), within=self, margins=(2 * SPACING, SPACING, 2 * SPACING, SPACING))
        self._theme.changed.connect(self._show_look)
        self.hide()

    def show_event(self, record: EventRecord | None, node: str) -> None:
        if record == self.event_record:
            return
        self.event_record = record
        self.setVisible(record is not None)
        if record is None:
            return
        about = [clock(record.at), record.source, node]
        if record.deployment_id:
            about.append(f"deployment {record.deployment_id}")
        if record.request_id is not None:
            about.append(f"request {record.request_id}")
        self._about.setText("  ·  ".join(part for part in about if part))
        self._request.setVisible(record.request_id is not None)
        details = json.dumps(record.details, indent=2, ensure_ascii=False) if record.details else ""
        self.text.setPlainText(f"{record.message}\n\n{details}".rstrip())
        self._show_look()

    @Slot()
    def _show_look(self) -> None:
        if self.event_record is None:
            return
        look, colors = EVENTS[self.event_record.level], self._theme.colors
        self._mark.setPixmap(look.mark(colors))
        self._level.setText(look.word)
        self._level.setStyleSheet(f"color: {look.of(colors).name()}; font-weight: 600;")
        self._level.setAlignment(Qt.AlignmentFlag.AlignVCenter)

    @Slot()
    def _on_copy(self) -> None:
        if self.event_record is not None:
            QGuiApplication.clipboard().setText(json_line(self.event_record))
            self._notices.toast("The event is on the clipboard.")

    @Slot()
    def _on_request(self) -> None:
        if self.event_record is not None and self.event_record.request_id is not None:
            self.request_wanted.emit(self.event_record.request_id)

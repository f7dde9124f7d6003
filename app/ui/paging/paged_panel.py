"""A paged table, or the sentence in its place while it has no rows."""

from __future__ import annotations

from PySide6.QtCore import Signal, Slot
from PySide6.QtWidgets import QStackedLayout, QWidget

from app.errors import ShardboardError
from app.ui.empty_state import EmptyState
from app.ui.paging.paged_model import PagedModel
from app.ui.paging.paged_view import PagedView
from app.ui.workbench import Workbench


class PagedPanel(QWidget):
    """Shows the view once rows have been counted; until then nothing, which takes milliseconds."""

    emptied = Signal()
    """There are no rows (any more): say why in `empty`."""

    def __init__(self, workbench: Workbench, model: PagedModel, name: str, title: str) -> None:
        super().__init__()
        self._notices = workbench.notices
        self._title = title
        self.model = model
        self.view = PagedView(model, workbench.theme, title, name, self)
        self.empty = EmptyState(workbench.theme, self)
        self.empty.setProperty("role", "panel")
        self._blank = QWidget(self)
        self._layout = QStackedLayout(self)
        self._layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self._blank, self.view, self.empty):
            self._layout.addWidget(widget)
        model.counted.connect(self._on_counted)
        model.failed.connect(self._on_failed)

    @property
    def is_empty(self) -> bool:
        return self._layout.currentWidget() is self.empty

    @Slot()
    def _on_counted(self) -> None:
        if self.model.total:
            self._layout.setCurrentWidget(self.view)
        else:
            self.emptied.emit()
            self._layout.setCurrentWidget(self.empty)

    @Slot(object)
    def _on_failed(self, error: ShardboardError) -> None:
        self._notices.error(f"{self._title} cannot be read", error)

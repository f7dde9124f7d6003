"""A page of sections of facts, or of events, that scrolls."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFrame, QScrollArea, QWidget

from app.runs.run import RunEvent
from app.runs.telling import Section
from app.ui import make
from app.ui.runs.detail_parts import EventsView, SectionView
from app.ui.theme import SPACING, ThemeKeeper


class SectionsPage(QScrollArea):
    """What it shows is made anew when it is another."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        inner = make.dressed(QFrame(), "panel")
        self.column = make.column(
            within=inner, margins=(2 * SPACING, SPACING, 2 * SPACING, 2 * SPACING), spacing=2 * SPACING
        )
        self._views: list[QWidget] = []
        self._sections: tuple[Section, ...] = ()
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setWidgetResizable(True)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setFocusPolicy(Qt.FocusPolicy.NoFocus)
        self.setWidget(inner)
        self.column.addStretch(1)

    def show_sections(self, sections: Sequence[Section]) -> None:
        wanted = tuple(section for section in sections if section.facts)
        if wanted != self._sections:
            self._sections = wanted
            self._replace([SectionView(section) for section in wanted])

    def show_events(self, events: Sequence[RunEvent], theme: ThemeKeeper) -> None:
        self._replace([EventsView(events, theme)] if events else [])

    def _replace(self, views: list[QWidget]) -> None:
        for old in self._views:
            self.column.removeWidget(old)
            old.hide()
            old.deleteLater()
        self._views = views
        for view in views:
            self.column.insertWidget(self.column.count() - 1, view)

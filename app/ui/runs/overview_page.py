"""The first page of a run: its texts at the left, where the time went and its facts at the right."""

from __future__ import annotations

from PySide6.QtCore import Qt
from PySide6.QtWidgets import QFrame, QScrollArea, QSplitter, QVBoxLayout, QWidget

from app.runs.telling import Telling, times_of
from app.runs.waterfall import Shares
from app.ui import make
from app.ui.runs.detail_parts import ANSWER_LINES, PROMPT_LINES, ErrorCard, PassageView
from app.ui.runs.phases_view import PhasesView
from app.ui.runs.sections_page import SectionsPage
from app.ui.runs.timing_bar import TimingBar, request_phases
from app.ui.theme import SPACING, ThemeKeeper


class OverviewPage(QSplitter):
    """Shows a Telling."""

    def __init__(self, theme: ThemeKeeper, parent: QWidget | None = None) -> None:
        super().__init__(Qt.Orientation.Horizontal, parent)
        self._error = ErrorCard(theme)
        self._passages = [PassageView(PROMPT_LINES), PassageView(ANSWER_LINES)]
        self._heading = make.label("Where the time went", "heading")
        self._timing = TimingBar(theme)
        self._phases = PhasesView(theme)
        left = make.column(
            self._error, *self._passages, make.STRETCH, margins=(2 * SPACING, SPACING, 2 * SPACING, 2 * SPACING),
            spacing=2 * SPACING,
        )  # fmt: skip
        self._texts = _scrolled(left)
        times = QWidget()
        make.column(self._heading, self._timing, self._phases, within=times)
        self._facts = SectionsPage()
        self._facts.column.insertWidget(0, times)
        self.setChildrenCollapsible(False)
        self.addWidget(self._texts)
        self.addWidget(self._facts)
        self.setStretchFactor(0, 3)
        self.setStretchFactor(1, 2)
        self.setSizes([600, 400])

    def show_telling(self, told: Telling, is_same: bool) -> None:
        """`is_same`: it is about the run that was shown before, and the reader's place in it stays."""
        self._error.say(told.run.error, told.advice)
        for view, passage in zip(self._passages, told.passages, strict=False):
            view.show_passage(passage)
        for number, view in enumerate(self._passages):
            view.setVisible(number < len(told.passages))
        # A column without a text to read would be an empty half.
        self._texts.setVisible(bool(told.passages or told.run.error))
        if not is_same or told.is_over:
            self._timing.show_phases(request_phases(told.times))
        self._phases.show_phases(told.phases)
        self._show_heading()
        self._facts.show_sections((told.overview, *told.sections))
        if not is_same:
            for area in (self._texts, self._facts):
                area.verticalScrollBar().setValue(0)

    def show_shares(self, shares: Shares) -> None:
        """Of a request under way."""
        self._timing.show_phases(request_phases(times_of(shares)))
        self._show_heading()

    def _show_heading(self) -> None:
        self._heading.setVisible(not self._timing.isHidden() or not self._phases.isHidden())


def _scrolled(content: QVBoxLayout) -> QScrollArea:
    inner = make.dressed(QFrame(), "panel")
    inner.setLayout(content)
    area = make.scrolled(inner, sideways=False)
    area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    return area

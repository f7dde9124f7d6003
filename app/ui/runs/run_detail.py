"""The pane that tells all of one run: a sentence on where the time went, and pages with everything behind it."""

from __future__ import annotations

from enum import IntEnum

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtGui import QAction, QGuiApplication
from PySide6.QtWidgets import QFrame, QLabel, QMenu, QPushButton, QStackedWidget, QTabBar, QWidget

from app.runs.telling import Telling
from app.ui import make
from app.ui.icons import mark
from app.ui.looks import run_look
from app.ui.runs.live_trace import LiveNews
from app.ui.runs.overview_page import OverviewPage
from app.ui.runs.run_reader import Reading
from app.ui.runs.sections_page import SectionsPage
from app.ui.runs.timeline import Timeline
from app.ui.runs.tokens_view import TokensView
from app.ui.runs.waterfall_panel import WaterfallPanel
from app.ui.theme import SPACING
from app.ui.workbench import Workbench


class DetailPage(IntEnum):
    """In the order of the tabs."""

    OVERVIEW = 0
    TIMING = 1
    TOKENS = 2
    PLAN = 3
    EVENTS = 4


TITLES = ("Overview", "Waterfall", "Tokens", "Plan and nodes", "Events")


class RunDetail(QFrame):
    """Shows a Reading. What is to be done with the run is told by signals."""

    ask_again = Signal(str)
    """The model to ask."""
    remove_wanted = Signal()
    export_wanted = Signal()

    def __init__(self, workbench: Workbench, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "panel")
        self._theme = workbench.theme
        self._notices = workbench.notices
        self.told: Telling | None = None
        self._live: int | None = None
        """The request under way whose waterfall grows."""
        self._mark = QLabel(self)
        self._state = QLabel(self)
        self._title = make.label("", "heading", self, is_plain=True)
        self.insight = make.label("", "", self, wraps=True, is_plain=True, selectable=True, name="Where the time went")
        self._insight_mark = QLabel(self)
        self.copy_answer = make.command(self, "copy", "Copy answer", self._on_copy_answer)
        self.copy_json = make.command(self, "clipboard-copy", "Copy as JSON", self._on_copy_json)
        self.copy_details = make.command(self, "clipboard", "Copy details", self._on_copy_details)
        self.again = make.command(self, "message-square", "Ask again in chat", self._on_again)
        self.export = make.command(self, "download", "Export…", self.export_wanted)
        self.remove = make.command(self, "trash-2", "Remove…", self.remove_wanted)
        self.tabs = QTabBar(self)
        self.tabs.setDrawBase(False)
        self.tabs.setExpanding(False)
        self.tabs.setAccessibleName("Pages of the run")
        self.overview = OverviewPage(self._theme, self)
        self.waterfall = WaterfallPanel(self._theme, self)
        self.tokens = TokensView(self._theme, self)
        self.plan = SectionsPage(self)
        self.events = SectionsPage(self)
        self._pages = QStackedWidget(self)
        for title, page in zip(
            TITLES, (self.overview, self.waterfall, self.tokens, self.plan, self.events), strict=True
        ):  # fmt: skip
            self.tabs.addTab(title)
            self._pages.addWidget(page)
        self.tabs.currentChanged.connect(self._pages.setCurrentIndex)
        self._build()
        self._theme.changed.connect(self._on_theme_changed)
        self.hide()

    def _build(self) -> None:
        header = make.row(
            self._mark, self._state, self._title, make.STRETCH, margins=(2 * SPACING, SPACING, 2 * SPACING, 0)
        )
        self.buttons = [self._button(action) for action in (self.copy_answer, self.again)]
        more = make.button("More", None, self, name="More about this run")
        menu = QMenu(more)
        menu.addActions([self.copy_json, self.copy_details])
        menu.addSeparator()
        menu.addActions([self.export, self.remove])
        more.setMenu(menu)
        for button in (*self.buttons, more):
            header.addWidget(button)
        self._insight_row = QWidget(self)
        make.row(
            (self._insight_mark, 0, Qt.AlignmentFlag.AlignTop), (self.insight, 1), within=self._insight_row,
            margins=(2 * SPACING, SPACING // 2, 2 * SPACING, 0),
        )  # fmt: skip
        tabs = make.row(self.tabs, make.STRETCH, margins=(SPACING, 0, SPACING, 0), spacing=None)
        make.column(header, self._insight_row, tabs, (self._pages, 1), within=self, spacing=0)

    def _button(self, action: QAction) -> QPushButton:
        button = make.button(action.text(), action.trigger, self)
        button.setIcon(action.icon())
        return button

    # --- showing ---

    def show_reading(self, reading: Reading | None) -> None:
        """Show a run, or nothing."""
        told = None if reading is None else reading.told
        if reading is None or told is None:
            self.told = self._live = None
            self.hide()
            return
        is_same = self.told is not None and (told.run.kind, told.id) == (self.told.run.kind, self.told.id)
        if is_same and told == self.told:
            return
        self.told = told
        self.show()
        self._state.setText(told.state)
        self._title.setText(told.title)
        self._show_look()
        self.setAccessibleName(f"{told.title}: {told.state}")
        self._show_pages(told, reading, is_same)
        is_request = told.run.kind == "request"
        for action, button in ((self.copy_answer, self.buttons[0]), (self.again, self.buttons[1])):
            action.setEnabled(is_request and (action is self.again or told.answer is not None))
            button.setVisible(is_request)
            button.setEnabled(action.isEnabled())
        self.remove.setEnabled(told.run.kind != "deployment" and told.is_over)

    def _show_pages(self, told: Telling, reading: Reading, is_same: bool) -> None:
        self.overview.show_telling(told, is_same)
        # What is live is told by `grow`; what was told of it stays until its record says more.
        grows = told.run.kind == "request" and not told.is_over
        if not grows or not is_same:
            self._live = None
            self._say(told.insight)
            self.waterfall.show_timeline(reading.timeline or Timeline(), reading.shares, keep_place=is_same)
        self.tokens.show_rows(reading.tokens)
        self.plan.show_sections(told.plan)
        self.events.show_events(told.run.events, self._theme)
        self._show_tabs()

    def _show_tabs(self) -> None:
        told = self.told
        if told is None:
            return
        self.tabs.setTabText(DetailPage.EVENTS, f"Events ({len(told.run.events):,})")
        for page, there in (
            (DetailPage.TIMING, not self.waterfall.view.timeline.is_empty),
            (DetailPage.TOKENS, self.tokens.tokens.rowCount() > 0),
            (DetailPage.PLAN, bool(told.plan)),
            (DetailPage.EVENTS, bool(told.run.events)),
        ):
            if not there and self.tabs.currentIndex() == page:
                self.tabs.setCurrentIndex(DetailPage.OVERVIEW)
            self.tabs.setTabVisible(page, there)

    def _say(self, sentence: str) -> None:
        self.insight.setText(sentence)
        self._insight_row.setVisible(bool(sentence))

    def grow(self, news: LiveNews) -> None:
        """The request that is shown has got on."""
        told = self.told
        if told is None or (told.run.kind, told.id) != ("request", news.request) or told.is_over:
            return
        if self._live != news.request:
            self._live = news.request
            self.waterfall.show_timeline(Timeline(), None)
        self.waterfall.grow(news.growth, news.shares)
        self.overview.show_shares(news.shares)
        self._say(news.sentence)
        self._show_tabs()

    def _show_look(self) -> None:
        if self.told is None:
            return
        look, colors = run_look(self.told.run.status), self._theme.colors
        self._mark.setPixmap(look.mark(colors))
        self._state.setStyleSheet(f"color: {look.of(colors).name()}; font-weight: 600;")
        self._insight_mark.setPixmap(mark("gauge", colors.accent))

    @Slot()
    def _on_theme_changed(self) -> None:
        self._show_look()
        if self.told is not None:
            self.events.show_events(self.told.run.events, self._theme)

    # --- doing ---

    @Slot()
    def _on_copy_answer(self) -> None:
        if self.told is not None and self.told.answer is not None:
            self._copy(self.told.answer, "The answer")

    @Slot()
    def _on_copy_json(self) -> None:
        if self.told is not None:
            self._copy(self.told.as_json(), "The record")

    @Slot()
    def _on_copy_details(self) -> None:
        if self.told is not None:
            self._copy(self.told.as_text(), "Everything shown")

    @Slot()
    def _on_again(self) -> None:
        if self.told is not None and self.told.run.model is not None:
            self.ask_again.emit(self.told.run.model)

    def _copy(self, text: str, what: str) -> None:
        QGuiApplication.clipboard().setText(text)
        self._notices.toast(f"{what} is on the clipboard.")

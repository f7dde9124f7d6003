"""The pane that tells all of one run: its texts at the left, its facts and times at the right."""

from __future__ import annotations

from PySide6.QtCore import QSize, Qt, Signal, Slot
from PySide6.QtGui import QAction, QGuiApplication
from PySide6.QtWidgets import (
    QFrame,
    QHBoxLayout,
    QLabel,
    QMenu,
    QPushButton,
    QScrollArea,
    QSplitter,
    QVBoxLayout,
    QWidget,
)

from app.ui.icons import icon
from app.ui.runs.detail_parts import (
    ANSWER_LINES,
    PROMPT_LINES,
    ErrorCard,
    EventsView,
    PassageView,
    SectionView,
)
from app.ui.runs.state_look import look_of
from app.ui.runs.story import Story
from app.ui.runs.timing_bar import TimingBar
from app.ui.theme import SPACING
from app.ui.workbench import Workbench


class RunDetail(QFrame):
    """Shows a Story. What is to be done with the run is told by signals."""

    ask_again = Signal(str)
    """The model to ask."""
    remove_wanted = Signal()
    export_wanted = Signal()

    def __init__(self, workbench: Workbench, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "panel")
        self._theme = workbench.theme
        self._notices = workbench.notices
        self.story: Story | None = None
        self._mark = QLabel(self)
        self._state = QLabel(self)
        self._title = QLabel(self)
        self._title.setProperty("role", "heading")
        self._title.setTextFormat(Qt.TextFormat.PlainText)
        self.copy_answer = QAction(icon("copy"), "Copy answer", self)
        self.copy_json = QAction(icon("clipboard-copy"), "Copy as JSON", self)
        self.copy_details = QAction(icon("clipboard"), "Copy details", self)
        self.again = QAction(icon("message-square"), "Ask again in chat", self)
        self.export = QAction(icon("download"), "Export…", self)
        self.remove = QAction(icon("trash-2"), "Remove…", self)
        self.copy_answer.triggered.connect(self._on_copy_answer)
        self.copy_json.triggered.connect(self._on_copy_json)
        self.copy_details.triggered.connect(self._on_copy_details)
        self.again.triggered.connect(self._on_again)
        self.export.triggered.connect(self.export_wanted)
        self.remove.triggered.connect(self.remove_wanted)
        self._error = ErrorCard(self._theme, self)
        self._passages = [PassageView(PROMPT_LINES, self), PassageView(ANSWER_LINES, self)]
        self._timing = TimingBar(self._theme, self)
        self._timing_heading = QLabel("Where the time went", self)
        self._timing_heading.setProperty("role", "heading")
        self._facts = QVBoxLayout()
        self._fact_views: list[QWidget] = []
        self._build()
        self._theme.changed.connect(self._on_theme_changed)
        self.hide()

    def _build(self) -> None:
        header = QHBoxLayout()
        header.setContentsMargins(2 * SPACING, SPACING, 2 * SPACING, SPACING)
        header.setSpacing(SPACING)
        for widget in (self._mark, self._state, self._title):
            header.addWidget(widget)
        header.addStretch(1)
        self.buttons = [self._button(action) for action in (self.copy_answer, self.again)]
        more = QPushButton("More", self)
        more.setAccessibleName("More about this run")
        menu = QMenu(more)
        menu.addActions([self.copy_json, self.copy_details])
        menu.addSeparator()
        menu.addActions([self.export, self.remove])
        more.setMenu(menu)
        for button in (*self.buttons, more):
            header.addWidget(button)
        left, right = QVBoxLayout(), QVBoxLayout()
        for column in (left, right):
            column.setContentsMargins(2 * SPACING, SPACING, 2 * SPACING, 2 * SPACING)
            column.setSpacing(2 * SPACING)
        left.addWidget(self._error)
        for passage in self._passages:
            left.addWidget(passage)
        left.addStretch(1)
        times = QVBoxLayout()
        times.setSpacing(SPACING)
        times.addWidget(self._timing_heading)
        times.addWidget(self._timing)
        right.addLayout(times)
        self._facts.setSpacing(2 * SPACING)
        right.addLayout(self._facts)
        right.addStretch(1)
        self.columns = QSplitter(Qt.Orientation.Horizontal, self)
        self.columns.setChildrenCollapsible(False)
        self._texts = _scrolled(left)
        for area, stretch in ((self._texts, 3), (_scrolled(right), 2)):
            self.columns.addWidget(area)
            self.columns.setStretchFactor(self.columns.count() - 1, stretch)
        self.columns.setSizes([600, 400])
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.setSpacing(0)
        layout.addLayout(header)
        layout.addWidget(self.columns, 1)

    def _button(self, action: QAction) -> QPushButton:
        button = QPushButton(action.icon(), action.text(), self)
        button.clicked.connect(action.trigger)
        return button

    # --- showing ---

    def show_story(self, story: Story | None) -> None:
        """Show a run, or nothing."""
        if story == self.story:
            return
        is_same = story is not None and self.story is not None and (story.id, story.kind) == self._key()
        self.story = story
        self.setVisible(story is not None)
        if story is None:
            return
        look = look_of(story.status)
        self._state.setText(look.word)
        self._title.setText(story.title)
        self._show_look()
        self.setAccessibleName(f"{story.title}: {look.word}")
        self._error.say(story.error, story.advice)
        for view, passage in zip(self._passages, story.passages, strict=False):
            view.show_passage(passage)
        for number, view in enumerate(self._passages):
            view.setVisible(number < len(story.passages))
        # A column without a text to read would be an empty half.
        self._texts.setVisible(bool(story.passages or story.error))
        self._timing.show_timings(story.timings)
        self._timing_heading.setVisible(self._timing.isVisibleTo(self))
        self._show_facts(story)
        for action, button in ((self.copy_answer, self.buttons[0]), (self.again, self.buttons[1])):
            is_request = story.kind == "request"
            action.setEnabled(is_request and (action is self.again or story.answer is not None))
            button.setVisible(is_request)
            button.setEnabled(action.isEnabled())
        self.remove.setEnabled(story.kind != "deployment" and story.is_over)
        if not is_same:
            for area in self.findChildren(QScrollArea):
                area.verticalScrollBar().setValue(0)

    def _key(self) -> tuple[int | str, str] | None:
        return (self.story.id, self.story.kind) if self.story is not None else None

    def _show_facts(self, story: Story) -> None:
        for old in self._fact_views:
            self._facts.removeWidget(old)
            old.hide()
            old.deleteLater()
        self._fact_views = [SectionView(section) for section in story.sections if section.facts]
        if story.events:
            self._fact_views.append(EventsView(story.events, self._theme))
        for view in self._fact_views:
            self._facts.addWidget(view)

    def _show_look(self) -> None:
        if self.story is None:
            return
        look = look_of(self.story.status)
        color = look.of(self._theme.colors)
        self._mark.setPixmap(icon(look.icon, color).pixmap(QSize(16, 16)))
        self._state.setStyleSheet(f"color: {color.name()}; font-weight: 600;")

    @Slot()
    def _on_theme_changed(self) -> None:
        self._show_look()
        if self.story is not None:
            self._show_facts(self.story)

    # --- doing ---

    @Slot()
    def _on_copy_answer(self) -> None:
        if self.story is not None and self.story.answer is not None:
            self._copy(self.story.answer, "The answer")

    @Slot()
    def _on_copy_json(self) -> None:
        if self.story is not None:
            self._copy(self.story.as_json(), "The record")

    @Slot()
    def _on_copy_details(self) -> None:
        if self.story is not None:
            self._copy(self.story.as_text(), "Everything shown")

    @Slot()
    def _on_again(self) -> None:
        if self.story is not None and self.story.model_name is not None:
            self.ask_again.emit(self.story.model_name)

    def _copy(self, text: str, what: str) -> None:
        QGuiApplication.clipboard().setText(text)
        self._notices.toast(f"{what} is on the clipboard.")


def _scrolled(content: QVBoxLayout) -> QScrollArea:
    inner = QFrame()
    inner.setProperty("role", "panel")
    inner.setLayout(content)
    area = QScrollArea()
    area.setFrameShape(QFrame.Shape.NoFrame)
    area.setWidgetResizable(True)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    area.setWidget(inner)
    return area

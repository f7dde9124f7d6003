"""What the detail pane of a run is made of: texts to read, facts in two columns, events."""

from __future__ import annotations

from collections.abc import Sequence

from PySide6.QtCore import Qt
from PySide6.QtGui import QFontMetrics, QResizeEvent
from PySide6.QtWidgets import QFrame, QGridLayout, QLabel, QPlainTextEdit, QWidget

from app.figures import clock
from app.registry import EventLevel
from app.runs.run import RunEvent
from app.runs.telling import Passage, Section, event_text
from app.ui import make
from app.ui.icons import mark
from app.ui.looks import EVENTS
from app.ui.theme import SPACING, ThemeKeeper

PROMPT_LINES, ANSWER_LINES = 6, 14
"""A passage grows with its text up to so many lines, then it scrolls."""


class PassageView(QWidget):
    """A heading and a text that can be selected."""

    def __init__(self, lines: int, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._lines = lines
        self.heading = make.label("", "heading", self)
        self.text = QPlainTextEdit(self)
        self.text.setReadOnly(True)
        self.text.setTabChangesFocus(True)
        make.column(self.heading, self.text, within=self, spacing=SPACING // 2)

    def show_passage(self, passage: Passage) -> None:
        self.heading.setText(passage.title)
        self.text.setAccessibleName(passage.title)
        shown = "\n".join(part for part in passage.shown() if part)
        if shown != self.text.toPlainText():
            self.text.setPlainText(shown)
        self._fit()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        # The layout of plain text measures its height in lines.
        lines = min(self._lines, max(1, int(self.text.document().size().height())))
        frame = 2 * self.text.frameWidth() + 2 * int(self.text.document().documentMargin()) + SPACING
        self.text.setFixedHeight(lines * QFontMetrics(self.text.font()).lineSpacing() + frame)


class SectionView(QWidget):
    """A heading and facts: their names at the left, their values at the right of them."""

    def __init__(self, section: Section, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        grid = make.grid(within=self, down=SPACING // 2)
        heading = make.label(section.title, "heading", self)
        grid.addWidget(heading, 0, 0, 1, 2)
        for row, (name, fact) in enumerate(section.facts, start=1):
            value = fact if isinstance(fact, str) else clock(fact)
            label = make.label(name, "muted", self)
            label.setAlignment(Qt.AlignmentFlag.AlignTop | Qt.AlignmentFlag.AlignLeft)
            label.setMinimumWidth(label.fontMetrics().horizontalAdvance("Memory at the end"))
            shown = make.label(value, "", self, is_plain=True, selectable=True, wraps=True)
            shown.setToolTip(value if len(value) > 40 else "")
            grid.addWidget(label, row, 0)
            grid.addWidget(shown, row, 1)


MOST_EVENTS = 200
"""So many are shown; an export has all that were recorded."""


class EventsView(QWidget):
    """What happened meanwhile, to the run and to its nodes, the newest first."""

    def __init__(self, events: Sequence[RunEvent], theme: ThemeKeeper, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        layout = make.column(within=self, spacing=SPACING // 2)
        if len(events) > MOST_EVENTS:
            more = make.label(
                f"The last {MOST_EVENTS} of {len(events):,} events; an export has all of them.", "muted", self
            )
            layout.addWidget(more)
        grid = make.grid(across=SPACING, down=SPACING // 2, wide=2)
        for row, event in enumerate(reversed(events[-MOST_EVENTS:])):
            self._add_row(grid, row, event, theme)
        layout.addLayout(grid)

    def _add_row(self, grid: QGridLayout, row: int, event: RunEvent, theme: ThemeKeeper) -> None:
        look = EVENTS[EventLevel(event.level)]
        shown = make.dressed(QLabel(self), name=look.word, tip=look.word)
        shown.setPixmap(look.mark(theme.colors))
        at = make.label(clock(event.at), "muted", self)
        text = make.label(event_text(event), "", self, is_plain=True, wraps=True, selectable=True)
        for column, widget in enumerate((shown, at, text)):
            grid.addWidget(widget, row, column, Qt.AlignmentFlag.AlignTop)


class ErrorCard(QFrame):
    """What went wrong, and what to do."""

    def __init__(self, theme: ThemeKeeper, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._theme = theme
        self.setObjectName("run-error")
        self._mark = QLabel(self)
        self._text = make.label("", "", self, is_plain=True, wraps=True, selectable=True)
        self._advice = make.label("", "muted", self, is_plain=True, wraps=True, selectable=True)
        words = make.column(self._text, self._advice, spacing=SPACING // 2)
        make.row(
            (self._mark, 0, Qt.AlignmentFlag.AlignTop), (words, 1), within=self,
            margins=(int(1.5 * SPACING), SPACING, int(1.5 * SPACING), SPACING),
        )  # fmt: skip
        theme.changed.connect(self._paint)
        self._paint()

    def say(self, error: str | None, advice: str) -> None:
        self._text.setText(error or "")
        self._advice.setText(advice)
        self._advice.setVisible(bool(advice))
        self.setAccessibleName(f"Error: {error}" if error else "")
        self.setVisible(bool(error))

    def _paint(self) -> None:
        colors = self._theme.colors
        self.setStyleSheet(
            f"#run-error {{ background: {colors.error_soft.name()}; border: 1px solid {colors.error.name()}; "
            "border-radius: 6px; }"
        )
        self._mark.setPixmap(mark("circle-alert", colors.error))

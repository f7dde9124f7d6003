"""What was said, as one document with a frame for each message.

While an answer streams its text is appended as it comes; its Markdown is rendered once, when it is complete. A long
conversation is written from its end backwards, in slices of a few milliseconds, and only as far as one scrolls up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PySide6.QtCore import QElapsedTimer, QRectF, Qt, QUrl, Signal, Slot
from PySide6.QtGui import (
    QContextMenuEvent,
    QFont,
    QGuiApplication,
    QPainter,
    QPaintEvent,
    QResizeEvent,
    QShowEvent,
    QTextCursor,
    QTextFrame,
)
from PySide6.QtWidgets import QFrame, QTextBrowser, QWidget

from app.ui import make
from app.ui.chat.conversation import Conversation, Message, Outcome
from app.ui.chat.message_writer import COLUMN, SURFACE, MessageWriter, Surface, frame_format
from app.ui.chat.segments import code_blocks
from app.ui.theme import RADIUS, ThemeKeeper

SLICE_MILLISECONDS = 8
AT_ONCE = 16
"""Messages written when a conversation is opened, and each time its beginning is reached."""
EDGE = 24
FOLLOW_PIXELS = 4


@dataclass
class _Unit:
    """A message in the document."""

    message: Message
    prompt: Message | None
    """The text that it continues, which stands in the same frame."""
    body: QTextFrame
    footer: QTextFrame | None = None
    problem: QTextFrame | None = None
    shown: int = 0
    """Characters of the message that stand in the document."""
    thought: int = 0
    """The same of its thinking; those that are folded away count."""


class Transcript(QTextBrowser):
    """Shows a conversation. The desk tells it what happens; it tells what the user wants done."""

    wanted = Signal(str, str)
    """An action (retry, continue, edit, run, details, log) and the id of the message."""
    link_wanted = Signal(QUrl)
    """The user clicked on a link of the model's."""
    copied = Signal(str)
    """What has gone to the clipboard, in words."""

    def __init__(self, theme: ThemeKeeper, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setObjectName("chat-transcript")
        self.setAccessibleName("Conversation")
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setStyleSheet("QTextBrowser { border: none; padding: 0; background: transparent; }")
        self.setOpenLinks(False)
        self.setUndoRedoEnabled(False)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.document().setDocumentMargin(0)
        self._theme = theme
        self._writer = MessageWriter(theme.colors, self._text_font())
        self._conversation: Conversation | None = None
        self._units: list[_Unit] = []
        self._missing: list[tuple[Message, Message | None]] = []
        """Earlier messages that are not written yet, the oldest first."""
        self._wanted_missing = 0
        self._unfolded: set[str] = set()
        """Messages whose thinking is shown."""
        self._work: deque[Iterator[None]] = deque()
        self._follows = True
        self._is_writing = False
        self._writes_above = False
        self._column = 0.0
        self._timer = make.timer(self, self._write_on, 0, once=False)
        self.anchorClicked.connect(self._on_anchor)
        self.verticalScrollBar().rangeChanged.connect(self._on_range_changed)
        self.verticalScrollBar().valueChanged.connect(self._on_scrolled)
        theme.changed.connect(self._on_theme_changed)

    def _text_font(self) -> QFont:
        font = QFont(QGuiApplication.font())
        font.setPointSizeF(font.pointSizeF() * 1.05)
        return font

    # --- what the desk tells ---

    @property
    def is_written(self) -> bool:
        """Whether all that is wanted now stands in the document."""
        return not self._work and not self._wanted_missing

    def show_conversation(self, conversation: Conversation) -> None:
        """Write another conversation, its end first."""
        self._conversation = conversation
        self._timer.stop()
        self._work.clear()
        self._units.clear()
        self._follows = True
        with self._staying():
            self.document().clear()
            self.document().setDefaultFont(self._writer.font)
            self._column = 0.0
            self._fit()
            self._writer.gap(QTextCursor(self.document()))
        self._missing = _pairs(conversation.messages)
        self._wanted_missing = min(AT_ONCE, len(self._missing))
        self._write_on()

    def sync(self) -> None:
        """Messages came or went at the end of the conversation."""
        if self._conversation is None:
            return
        self._follows = True
        with self._staying():
            self._finish_work()
            self._sync_units(_pairs(self._conversation.messages))
        self._write_on()

    def _sync_units(self, pairs: list[tuple[Message, Message | None]]) -> None:
        wanted = {message.id for message, _ in pairs}
        while self._units and self._units[-1].message.id not in wanted:
            self._remove(self._units.pop())
        written = {unit.message.id for unit in self._units} | {message.id for message, _ in self._missing}
        if self._units:
            self._write_end(self._units[-1])
        for message, prompt in pairs:
            if message.id not in written:
                unit = self._insert(message, prompt, self.document().characterCount() - 1)
                self._units.append(unit)
                self._queue(self._write(unit))

    def add_text(self, message: Message) -> None:
        """An answer has got more text than is shown."""
        unit = self._unit(message.id)
        if unit is None:
            return
        with self._staying():
            self._finish_work()
            if (message.thinking and not unit.thought) or (unit.thought and message.text and not unit.shown):
                self._clear(unit.body)  # the thinking's line comes, or the answer behind it
                self._queue(self._write(unit))
                self._finish_work()
                return
            if message.id in self._unfolded and len(message.thinking) > unit.thought:
                self._writer.add(unit.body, message.thinking[unit.thought :], is_thinking=True)
            self._writer.add(unit.body, message.text[unit.shown :])
            unit.shown, unit.thought = len(message.text), len(message.thinking)

    def finish(self, message: Message) -> None:
        """An answer is complete: write it with its Markdown, its figures, or why it failed."""
        unit = self._unit(message.id)
        if unit is None:
            return
        with self._staying():
            self._finish_work()
            if unit.shown != len(message.text) or message.thinking or (message.text and not message.raw):
                self._clear(unit.body)
                self._queue(self._write(unit))
            else:
                self._write_end(unit)
        self._write_on()

    # --- writing ---

    def _queue(self, work: Iterator[None]) -> None:
        self._work.append(work)

    @Slot()
    def _write_on(self) -> None:
        """Write for one slice; the rest comes with the next turn of the event loop."""
        clock = QElapsedTimer()
        clock.start()
        with self._staying(from_end=self._wanted_missing > 0 or self._writes_above):
            while clock.elapsed() < SLICE_MILLISECONDS and self._write_piece():
                pass
        if self.is_written:
            self._timer.stop()
        elif not self._timer.isActive():
            self._timer.start()

    def _write_piece(self) -> bool:
        """One piece; whether there was one."""
        if self._work:
            try:
                next(self._work[0])
            except StopIteration:
                self._work.popleft()
            return True
        if self._wanted_missing and self._missing:
            self._wanted_missing -= 1
            message, prompt = self._missing.pop()
            unit = self._insert(message, prompt, 0)
            self._units.insert(0, unit)
            self._queue(self._write(unit))
            self._writes_above = True
            return True
        self._wanted_missing = 0
        self._writes_above = False
        return False

    def _finish_work(self) -> None:
        """What was begun is written to its end, so that what follows finds frames in order."""
        while self._work:
            for _ in self._work.popleft():
                pass

    def _write(self, unit: _Unit) -> Iterator[None]:
        if unit.message.is_answer:
            prompt = unit.prompt.text if unit.prompt is not None else ""
            unit.shown, unit.thought = len(unit.message.text), len(unit.message.thinking)
            shows_thinking = unit.message.id in self._unfolded
            yield from self._writer.answer(unit.body, unit.message, prompt, shows_thinking=shows_thinking)
            self._write_end(unit)
        else:
            yield from self._writer.question(unit.body, unit.message)

    def _write_end(self, unit: _Unit) -> None:
        message = unit.message
        if not message.is_answer:
            return
        if message.outcome is Outcome.FAILED and unit.problem is None:
            unit.problem = self._insert_frame(unit.body.lastPosition() + 1, Surface.PROBLEM)
            self._writer.problem(unit.problem, message)
        elif message.outcome is not Outcome.FAILED and unit.problem is not None:
            self._remove_frame(unit.problem)
            unit.problem = None
        self._write_footer(unit)

    def _write_footer(self, unit: _Unit) -> None:
        after = unit.problem if unit.problem is not None else unit.body
        if unit.footer is None:
            unit.footer = self._insert_frame(after.lastPosition() + 1, Surface.NONE)
        messages = self._conversation.messages if self._conversation is not None else []
        is_last = bool(messages) and messages[-1].id == unit.message.id
        self._writer.footer(unit.footer, unit.message, is_last=is_last)

    def _insert(self, message: Message, prompt: Message | None, position: int) -> _Unit:
        surface = Surface.NONE if message.is_answer else Surface.BUBBLE
        unit = _Unit(message, prompt, self._insert_frame(position, surface))
        if surface is Surface.BUBBLE:
            self._place_bubble(unit)
        return unit

    def _insert_frame(self, position: int, surface: Surface) -> QTextFrame:
        """A frame at the empty block at `position`; another empty block stands behind it then."""
        cursor = QTextCursor(self.document())
        cursor.setPosition(position)
        frame = cursor.insertFrame(frame_format(surface))
        for gap in (frame.firstPosition() - 1, frame.lastPosition() + 1):
            cursor.setPosition(gap)
            self._writer.gap(cursor)
        return frame

    def _remove(self, unit: _Unit) -> None:
        for frame in (unit.footer, unit.problem, unit.body):
            if frame is not None:
                self._remove_frame(frame)

    def _remove_frame(self, frame: QTextFrame) -> None:
        cursor = QTextCursor(self.document())
        cursor.setPosition(frame.firstPosition() - 1)
        cursor.setPosition(frame.lastPosition() + 1, QTextCursor.MoveMode.KeepAnchor)
        cursor.removeSelectedText()
        self._writer.gap(cursor)

    def _clear(self, frame: QTextFrame) -> None:
        cursor = frame.firstCursorPosition()
        cursor.setPosition(frame.lastPosition(), QTextCursor.MoveMode.KeepAnchor)
        cursor.removeSelectedText()

    def _unit(self, id: str) -> _Unit | None:
        return next((unit for unit in reversed(self._units) if unit.message.id == id), None)

    def _message(self, id: str) -> Message | None:
        messages = self._conversation.messages if self._conversation is not None else []
        return next((message for message in messages if message.id == id), None)

    @Slot()
    def _on_theme_changed(self) -> None:
        self._writer = MessageWriter(self._theme.colors, self._text_font())
        if self._conversation is not None:
            self.show_conversation(self._conversation)

    # --- where things stand ---

    def resizeEvent(self, event: QResizeEvent) -> None:
        if self._follows and len(self._units) > AT_ONCE and self._conversation is not None:
            super().resizeEvent(event)
            self.show_conversation(self._conversation)  # quicker than laying out all that was once scrolled to
            return
        with self._staying():
            super().resizeEvent(event)
            self._fit()

    def showEvent(self, event: QShowEvent) -> None:
        with self._staying():  # when it is first shown Qt scrolls to its text cursor
            super().showEvent(event)

    def _fit(self) -> None:
        """Keep lines readable: a column in the middle, however wide the window is."""
        width = self.viewport().width()
        column = float(min(COLUMN, max(120, width - 2 * EDGE)))
        root = self.document().rootFrame()
        format = root.frameFormat()
        side = (width - column) / 2
        edit = QTextCursor(self.document())
        edit.beginEditBlock()  # one layout for all of it
        if format.leftMargin() != side or self._column != column:
            format.setLeftMargin(side)
            format.setRightMargin(side)
            format.setTopMargin(EDGE)
            format.setBottomMargin(EDGE / 2)
            root.setFrameFormat(format)
        if self._column != column:
            self._column = column
            for unit in self._units:
                self._place_bubble(unit)
        edit.endEditBlock()

    def _place_bubble(self, unit: _Unit) -> None:
        if not unit.message.is_answer:
            format = frame_format(Surface.BUBBLE)
            format.setLeftMargin(self._writer.bubble_margin(unit.message.text, self._column))
            unit.body.setFrameFormat(format)

    @contextmanager
    def _staying(self, *, from_end: bool = False) -> Iterator[None]:
        """Change the document while what the user reads stays where it is.

        Qt would scroll to its own text cursor. `from_end`: what changes lies above what is read.
        """
        bar = self.verticalScrollBar()
        value = bar.value() - (bar.maximum() if from_end else 0)
        self._is_writing = True
        try:
            yield
            if self._follows or from_end:
                self.document().size()  # lays out to the end, which Qt would do later
            if not self._follows:
                bar.setValue(value + (bar.maximum() if from_end else 0))
        finally:
            self._is_writing = False
        self._stay_at_end()

    @Slot(int, int)
    def _on_range_changed(self, least: int, most: int) -> None:
        if not self._is_writing:
            self._stay_at_end()

    def _stay_at_end(self) -> None:
        if self._follows:
            bar = self.verticalScrollBar()
            bar.setValue(bar.maximum())

    @Slot(int)
    def _on_scrolled(self, value: int) -> None:
        if self._is_writing:
            return
        bar = self.verticalScrollBar()
        self._follows = value >= bar.maximum() - FOLLOW_PIXELS
        if value < bar.pageStep() and self._missing and not self._wanted_missing and not self._follows:
            self._wanted_missing = min(AT_ONCE, len(self._missing))
            self._timer.start()

    # --- what is painted behind the frames ---

    def paintEvent(self, event: QPaintEvent) -> None:
        painter = QPainter(self.viewport())
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.translate(0, -self.verticalScrollBar().value())
        visible = QRectF(event.rect()).translated(0, self.verticalScrollBar().value())
        self._paint_frames(painter, self.document().rootFrame(), visible)
        painter.end()
        super().paintEvent(event)

    def _paint_frames(self, painter: QPainter, parent: QTextFrame, visible: QRectF) -> None:
        colors = self._theme.colors
        brushes = {
            Surface.BUBBLE: colors.accent_soft, Surface.CODE: colors.sunken, Surface.PROBLEM: colors.error_soft,
        }  # fmt: skip
        layout = self.document().documentLayout()
        for frame in parent.childFrames():
            rect = layout.frameBoundingRect(frame)
            if not rect.intersects(visible):
                continue
            format = frame.frameFormat()
            surface = format.property(SURFACE)
            if surface in brushes:
                painter.setBrush(brushes[Surface(surface)])
                painter.drawRoundedRect(
                    rect.adjusted(format.leftMargin(), 0, 0, -format.bottomMargin()), RADIUS, RADIUS
                )
            elif surface == Surface.NONE:
                self._paint_frames(painter, frame, visible)

    # --- what the user does ---

    @Slot(QUrl)
    def _on_anchor(self, url: QUrl) -> None:
        if url.scheme() != "chat":
            self.link_wanted.emit(url)
            return
        action, _, rest = url.path().partition("/")
        id, _, number = rest.partition("/")
        if action == "copy":
            self.copy_message(id)
        elif action == "thinking":
            self.fold_thinking(id)
        elif action == "code":
            self.copy_code(id, int(number))
        else:
            self.wanted.emit(action, id)

    def copy_message(self, id: str) -> None:
        if (message := self._message(id)) is not None:
            QGuiApplication.clipboard().setText(message.text)
            self.copied.emit("Answer copied." if message.is_answer else "Question copied.")

    def fold_thinking(self, id: str) -> None:
        """Show what the model thought, or hide it again."""
        unit = self._unit(id)
        if unit is None:
            return
        self._unfolded ^= {id}
        follows, self._follows = self._follows, False  # what was clicked on stays where it is
        with self._staying():
            self._finish_work()
            self._clear(unit.body)
            self._queue(self._write(unit))
            self._finish_work()
        self._follows = follows and not unit.message.is_over

    def copy_code(self, id: str, number: int) -> None:
        message = self._message(id)
        blocks = code_blocks(message.text) if message is not None else []
        if number < len(blocks):
            QGuiApplication.clipboard().setText(blocks[number])
            self.copied.emit("Code copied.")

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        menu = self.createStandardContextMenu(event.pos())
        position = self.cursorForPosition(event.pos()).position()
        for unit in self._units:
            if unit.body.firstPosition() <= position <= unit.body.lastPosition():
                text = "Copy answer" if unit.message.is_answer else "Copy question"
                action = menu.addAction(text)
                action.triggered.connect(lambda checked=False, id=unit.message.id: self.copy_message(id))
        menu.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        menu.popup(event.globalPos())

    def loadResource(self, type: int, name: QUrl | str) -> object:
        """Nothing is ever fetched for a text, neither from the network nor from the disk."""
        return None


def _pairs(messages: list[Message]) -> list[tuple[Message, Message | None]]:
    """The messages that get a frame; a completion with the text that it continues, which gets none of its own."""
    pairs: list[tuple[Message, Message | None]] = []
    for number, message in enumerate(messages):
        following = messages[number + 1] if number + 1 < len(messages) else None
        if message.raw and not message.is_answer and following is not None and following.is_answer:
            continue
        before = messages[number - 1] if number and message.raw and message.is_answer else None
        pairs.append((message, before))
    return pairs

"""Writes messages into frames of a document, in pieces that take a few milliseconds each.

A frame's SURFACE says what is painted behind it; the transcript paints it. Links of the program's own begin with
`chat:`, which no link of a model can (see `markdown`).
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum

from PySide6.QtGui import (
    QColor,
    QFont,
    QFontMetricsF,
    QTextBlockFormat,
    QTextCharFormat,
    QTextCursor,
    QTextFormat,
    QTextFrame,
    QTextFrameFormat,
)

from app.figures import duration, short, token_rate
from app.ui.chat.conversation import Message, Outcome
from app.ui.chat.markdown import LINE_HEIGHT, PARAGRAPH_GAP, code_format, rendered
from app.ui.chat.segments import Code, Prose, segments
from app.ui.theme import Colors

SURFACE = QTextFormat.Property.UserProperty.value + 1
COLUMN = 760
"""Widest text, in pixels at 100 %: some 90 characters to a line."""
PADDING = 12
GAP = 8
TURN_GAP = 12
"""Between the frames of messages."""
BUBBLE_LINE_HEIGHT = 120
BUBBLE_SHARE = 0.8
"""Of the column's width, that a question may take."""
PLAIN_PIECE = 20_000
"""Characters of plain text inserted at once."""


class Surface(IntEnum):
    """What is painted behind a frame."""

    NONE = 0
    BUBBLE = 1
    CODE = 2
    PROBLEM = 3


def frame_format(surface: Surface) -> QTextFrameFormat:
    format = QTextFrameFormat()
    format.setProperty(SURFACE, int(surface))
    format.setBorder(0)
    format.setPadding(0 if surface is Surface.NONE else PADDING)
    if surface is Surface.CODE:
        format.setBottomMargin(GAP)
    return format


class MessageWriter:
    """Writes in one theme and font; a change of either makes a new writer."""

    def __init__(self, colors: Colors, font: QFont) -> None:
        self.colors, self.font = colors, font
        self._small = font.pointSizeF() * 0.9

    # --- the frames ---

    def bubble_margin(self, text: str, column: float) -> float:
        """How far a question's bubble begins from the column's left edge: it is as wide as its longest line."""
        widest = column * BUBBLE_SHARE
        metrics = QFontMetricsF(self.font)
        lines = text[:4000].splitlines() or [""]
        longest = max(metrics.horizontalAdvance(line[:400]) for line in lines[:60])
        return max(0.0, column - min(widest, longest + 2 * PADDING + 4))

    def gap(self, cursor: QTextCursor, height: float = TURN_GAP) -> None:
        """Make the empty block at the cursor, which Qt wants beside each frame, as high as the distance wanted."""
        block = QTextBlockFormat()
        block.setLineHeight(height, QTextBlockFormat.LineHeightTypes.FixedHeight.value)
        cursor.setBlockFormat(block)
        tiny = QTextCharFormat()
        tiny.setFontPointSize(1)
        cursor.setBlockCharFormat(tiny)

    # --- what stands in them ---

    def question(self, frame: QTextFrame, message: Message) -> Iterator[None]:
        """Plain text, just as it was typed."""
        cursor = frame.lastCursorPosition()
        yield from self._plain(cursor, message.text, self._text(), BUBBLE_LINE_HEIGHT)

    def answer(
        self, frame: QTextFrame, message: Message, prompt: str = "", *, shows_thinking: bool = False
    ) -> Iterator[None]:
        """Who answers and what; Markdown once it is complete. A completion stands behind the text it continues."""
        cursor, text = frame.lastCursorPosition(), message.text
        self._header(cursor, message)
        if message.thinking:
            yield from self._thinking(cursor, message, shows_thinking)
            if not text:
                return
        if message.raw:
            yield from self._plain(cursor, prompt, self._text(self.colors.muted))
            yield from self._plain(cursor, text, self._text())
        elif not message.is_over:
            yield from self._plain(cursor, text, self._text())
        else:
            yield from self._markdown(frame, message)

    def add(self, frame: QTextFrame, text: str, *, is_thinking: bool = False) -> None:
        """Append what has just come, as it is."""
        cursor = frame.lastCursorPosition()
        cursor.insertText(text, self._text(self.colors.muted if is_thinking else None))

    def footer(self, frame: QTextFrame, message: Message, *, is_last: bool) -> None:
        """What can be done with an answer, and how it went."""
        cursor = frame.firstCursorPosition()
        cursor.setPosition(frame.lastPosition(), QTextCursor.MoveMode.KeepAnchor)
        cursor.removeSelectedText()
        block = QTextBlockFormat()
        block.setBottomMargin(GAP)
        cursor.setBlockFormat(block)
        if not message.is_over:
            self.gap(cursor, 1)
            return
        first = True
        for action, text in self._actions(message, is_last):
            if not first:
                cursor.insertText("   ", self._muted())
            first = False
            cursor.insertText(text, self.link(f"chat:{action}/{message.id}", self.colors.muted))
        # The last answer's figures stand above the input, where they were while it was written.
        if (figures := figures_text(message)) and not is_last:
            cursor.insertText(f"   {figures}" if not first else figures, self._muted())

    def problem(self, frame: QTextFrame, message: Message) -> None:
        """Why an answer failed, and what to do."""
        cursor = frame.lastCursorPosition()
        block = self._block()
        cursor.setBlockFormat(block)
        bold = self._text(self.colors.error)
        bold.setFontWeight(QFont.Weight.DemiBold)
        has_text = "The answer broke off" if message.text else "There is no answer"
        cursor.insertText(has_text, bold)
        if message.problem is not None:
            for line in (message.problem.message, message.problem.advice):
                if line:
                    cursor.insertBlock(block)
                    cursor.insertText(line, self._text())
        cursor.insertBlock(self._block(bottom=0))
        for number, (action, text) in enumerate((("retry", "Retry"), ("details", "Copy details"), ("log", "Show log"))):
            if number:
                cursor.insertText("    ", self._muted())
            cursor.insertText(text, self.link(f"chat:{action}/{message.id}", self.colors.accent))

    # --- within ---

    def _actions(self, message: Message, is_last: bool) -> list[tuple[str, str]]:
        actions = [("copy", "Copy")] if message.text else []
        if is_last:
            if message.outcome is not Outcome.FAILED:
                actions.append(("retry", "Regenerate"))
            if message.raw and message.text:
                actions.append(("continue", "Continue"))
            actions.append(("edit", "Edit prompt" if message.raw else "Edit question"))
        if message.request_id is not None and not is_last:
            actions.append(("run", "Show run"))
        return actions

    def _header(self, cursor: QTextCursor, message: Message) -> None:
        block = QTextBlockFormat()
        block.setBottomMargin(4)
        cursor.setBlockFormat(block)
        who = self._muted()
        who.setFontWeight(QFont.Weight.DemiBold)
        cursor.insertText(message.model or "Answer", who)
        cursor.insertBlock(self._block(), self._text())

    def _thinking(self, cursor: QTextCursor, message: Message, is_shown: bool) -> Iterator[None]:
        """A quiet line that opens and closes what the model thought."""
        is_under_way = not message.is_over and not message.text
        if is_under_way:
            cursor.insertText("Thinking…   ", self._muted())
        text = f"{'Hide' if is_shown else 'Show'}{'' if is_under_way else ' thinking'}"
        cursor.insertText(text, self.link(f"chat:thinking/{message.id}", self.colors.muted))
        if is_shown:
            cursor.insertBlock()
            yield from self._plain(cursor, message.thinking, self._text(self.colors.muted))
            cursor.setBlockFormat(self._block())
        if message.text:
            cursor.insertBlock(self._block(), self._text())

    def _markdown(self, frame: QTextFrame, message: Message) -> Iterator[None]:
        fresh = True  # whether the last block is still empty and waits to be written into
        code: QTextFrame | None = None
        for segment in segments(message.text):
            match segment:
                case Prose(text):
                    cursor = frame.lastCursorPosition()
                    if not fresh:
                        cursor.insertBlock(self._block(), self._text())
                    cursor.insertFragment(rendered(text, self.colors, self.font))
                    fresh = False
                case Code(text, continues=True) if code is not None:
                    code.lastCursorPosition().insertText("\n" + text, code_format(self.font, self.colors))
                case Code():
                    cursor = frame.lastCursorPosition()
                    if fresh:
                        self.gap(cursor, 4)
                    code = self._code(cursor, message, segment)
                    fresh = True
            yield
        if fresh and code is not None:
            self.gap(frame.lastCursorPosition(), 4)

    def _code(self, cursor: QTextCursor, message: Message, segment: Code) -> QTextFrame:
        frame = cursor.insertFrame(frame_format(Surface.CODE))
        after = QTextCursor(cursor.document())
        after.setPosition(frame.lastPosition() + 1)
        after.setBlockFormat(self._block())
        after.setBlockCharFormat(self._text())
        inside = frame.firstCursorPosition()
        inside.setBlockFormat(self._block(bottom=4))
        if segment.language:
            inside.insertText(f"{short(segment.language, 24)}    ", self._muted())
        inside.insertText("Copy code", self.link(f"chat:code/{message.id}/{segment.block}", self.colors.muted))
        lines = QTextBlockFormat()
        lines.setLineHeight(130, QTextBlockFormat.LineHeightTypes.ProportionalHeight.value)
        inside.insertBlock(lines)
        inside.insertText(segment.text, code_format(self.font, self.colors))
        return frame

    def _plain(
        self, cursor: QTextCursor, text: str, format: QTextCharFormat, line_height: float = LINE_HEIGHT
    ) -> Iterator[None]:
        cursor.setBlockFormat(self._block(bottom=0, line_height=line_height))
        for start in range(0, len(text), PLAIN_PIECE):
            cursor.insertText(text[start : start + PLAIN_PIECE], format)
            yield

    def _block(self, bottom: float = PARAGRAPH_GAP, line_height: float = LINE_HEIGHT) -> QTextBlockFormat:
        block = QTextBlockFormat()
        block.setLineHeight(line_height, QTextBlockFormat.LineHeightTypes.ProportionalHeight.value)
        block.setBottomMargin(bottom)
        return block

    def _text(self, color: QColor | None = None) -> QTextCharFormat:
        format = QTextCharFormat()
        format.setFontPointSize(self.font.pointSizeF())
        format.setForeground(color or self.colors.text)
        return format

    def _muted(self) -> QTextCharFormat:
        format = QTextCharFormat()
        format.setFontPointSize(self._small)
        format.setForeground(self.colors.muted)
        return format

    def link(self, href: str, color: QColor) -> QTextCharFormat:
        format = QTextCharFormat()
        format.setFontPointSize(self._small)
        format.setAnchor(True)
        format.setAnchorHref(href)
        format.setForeground(color)
        format.setFontWeight(QFont.Weight.Medium)
        return format


def figures_text(message: Message) -> str:
    """How an answer went, on one line."""
    parts = []
    if message.outcome is Outcome.STOPPED:
        parts.append("stopped")
    elif message.outcome is Outcome.INTERRUPTED:
        parts.append("interrupted when the window was closed")
    if (figures := message.figures) is not None:
        if figures.tokens:
            parts.append(f"{figures.tokens:,} token{'' if figures.tokens == 1 else 's'}")
        if figures.tokens_per_second is not None:
            parts.append(token_rate(figures.tokens_per_second))
        if figures.first_token is not None:
            parts.append(f"first after {duration(figures.first_token)}")
        parts += figures.interruptions
    return " · ".join(parts)

"""Prose from a model as a piece of a document: Markdown without HTML, without images, with links one can trust."""

from __future__ import annotations

from urllib.parse import urlsplit

from PySide6.QtGui import (
    QFont,
    QTextBlockFormat,
    QTextCharFormat,
    QTextCursor,
    QTextDocument,
    QTextDocumentFragment,
    QTextFrameFormat,
    QTextLength,
    QTextTable,
)

from app.ui.theme import Colors

SAFE_SCHEMES = ("http", "https", "mailto")
LINE_HEIGHT = 145
"""Percent."""
PARAGRAPH_GAP = 8
CODE_SHARE = 0.94
"""Size of the fixed-width font beside the text's."""
LONGEST_PARAGRAPH = 20_000
"""A paragraph longer than this is no Markdown that anybody wrote; parsing it would stall the window."""


def is_safe(link: str) -> bool:
    """Whether a link may be offered at all: to the web or a mail address, never to a file or to the program itself."""
    return _scheme(link) in SAFE_SCHEMES


def _scheme(link: str) -> str:
    try:
        return urlsplit(link).scheme.lower()
    except ValueError:
        return ""


def rendered(markdown: str, colors: Colors, font: QFont) -> QTextDocumentFragment:
    """A fragment to insert. HTML stays text, images become their description, unsafe links become plain text."""
    document = QTextDocument()
    document.setUndoRedoEnabled(False)
    document.setDefaultFont(font)
    if len(markdown) > LONGEST_PARAGRAPH:
        document.setPlainText(markdown)
    else:
        features = QTextDocument.MarkdownFeature
        document.setMarkdown(markdown, features.MarkdownDialectGitHub | features.MarkdownNoHTML)
    _mend_characters(document, colors, font)
    _mend_blocks(document, colors, font)
    return QTextDocumentFragment(document)


def code_format(font: QFont, colors: Colors, *, inline: bool = False) -> QTextCharFormat:
    format = QTextCharFormat()
    format.setFontFamilies(["JetBrains Mono", "monospace"])
    format.setFontPointSize(font.pointSizeF() * CODE_SHARE)
    format.setForeground(colors.text)
    if inline:
        format.setBackground(colors.sunken)
    return format


def _mend_characters(document: QTextDocument, colors: Colors, font: QFont) -> None:
    changes: list[tuple[int, int, QTextCharFormat, str | None]] = []
    block = document.begin()
    while block.isValid():
        iterator = block.begin()
        while not iterator.atEnd():
            fragment = iterator.fragment()
            format = fragment.charFormat()
            if format.isImageFormat():
                alt = format.stringProperty(QTextCharFormat.Property.ImageAltText) or "no description"
                plain = QTextCharFormat()
                plain.setForeground(colors.muted)
                changes.append((fragment.position(), fragment.length(), plain, f"[image: {alt}]"))
            elif format.isAnchor():
                changes.append((fragment.position(), fragment.length(), _link(format, colors), None))
            elif format.fontFixedPitch():
                code = QTextCharFormat(format)
                code.merge(code_format(font, colors, inline=True))
                changes.append((fragment.position(), fragment.length(), code, None))
            iterator += 1
        block = block.next()
    cursor = QTextCursor(document)
    for position, length, format, text in reversed(changes):  # from the end, so that positions stay true
        cursor.setPosition(position)
        cursor.setPosition(position + length, QTextCursor.MoveMode.KeepAnchor)
        if text is None:
            cursor.setCharFormat(format)
        else:
            cursor.insertText(text, format)


def _link(format: QTextCharFormat, colors: Colors) -> QTextCharFormat:
    link = QTextCharFormat(format)
    if is_safe(format.anchorHref()):
        link.setForeground(colors.accent)
        link.setToolTip(format.anchorHref())
        link.setFontUnderline(True)
        return link
    for name in (QTextCharFormat.Property.IsAnchor, QTextCharFormat.Property.AnchorHref):
        link.clearProperty(name)
    link.setFontUnderline(False)
    link.setForeground(colors.text)
    return link


def _mend_blocks(document: QTextDocument, colors: Colors, font: QFont) -> None:
    for frame in document.rootFrame().childFrames():
        if isinstance(frame, QTextTable):
            table = frame.format()
            table.setBorderCollapse(True)
            table.setBorderStyle(QTextFrameFormat.BorderStyle.BorderStyle_Solid)
            table.setBorder(1)
            table.setBorderBrush(colors.border)
            table.setCellPadding(8)
            table.setCellSpacing(0)
            table.setTopMargin(PARAGRAPH_GAP)
            table.setBottomMargin(PARAGRAPH_GAP)
            table.setWidth(QTextLength())
            frame.setFormat(table)
    cursor = QTextCursor(document)
    block = document.begin()
    while block.isValid():
        cursor.setPosition(block.position())
        format = QTextBlockFormat(block.blockFormat())
        level = format.headingLevel()
        in_table = cursor.currentTable() is not None
        format.setLineHeight(
            100 if in_table else LINE_HEIGHT, QTextBlockFormat.LineHeightTypes.ProportionalHeight.value
        )
        format.setTopMargin(2 * PARAGRAPH_GAP if level else 0)
        listed = block.textList() is not None
        format.setBottomMargin(0 if in_table else PARAGRAPH_GAP / 2 if listed else PARAGRAPH_GAP)
        if int(format.property(QTextBlockFormat.Property.BlockQuoteLevel) or 0):
            format.setLeftMargin(2 * PARAGRAPH_GAP)
            cursor.select(QTextCursor.SelectionType.BlockUnderCursor)
            muted = QTextCharFormat()
            muted.setForeground(colors.muted)
            muted.setFontItalic(True)
            cursor.mergeCharFormat(muted)
            cursor.setPosition(block.position())
        format.setNonBreakableLines(False)
        cursor.setBlockFormat(format)
        if level:
            _mend_heading(cursor, level, font)
        block = block.next()


def _mend_heading(cursor: QTextCursor, level: int, font: QFont) -> None:
    """Headings within an answer stay close to its text: they order it, they are no titles of a page."""
    cursor.movePosition(QTextCursor.MoveOperation.EndOfBlock, QTextCursor.MoveMode.KeepAnchor)
    format = QTextCharFormat()
    format.setProperty(QTextCharFormat.Property.FontSizeAdjustment, 0)
    format.setFontPointSize(font.pointSizeF() * {1: 1.4, 2: 1.2, 3: 1.08}.get(level, 1.0))
    format.setFontWeight(QFont.Weight.DemiBold)
    cursor.mergeCharFormat(format)
    cursor.clearSelection()

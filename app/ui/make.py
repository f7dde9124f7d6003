"""Makes what every screen is built of: rows, columns and grids of widgets, labels, fields, buttons, commands, timers.

A screen says here in one expression what stands where and how it looks; Qt takes a call for each of these. Used with
the module's name: `make.row(title, make.STRETCH, export)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

from PySide6.QtCore import QObject, Qt, QTimer, SignalInstance
from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import (
    QBoxLayout,
    QDoubleSpinBox,
    QFrame,
    QGridLayout,
    QHBoxLayout,
    QLabel,
    QLayout,
    QLineEdit,
    QPlainTextEdit,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QSpinBox,
    QSplitter,
    QStackedWidget,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from app.ui.icons import icon
from app.ui.theme import SPACING, monospace

Box = TypeVar("Box", bound=QBoxLayout)
Dressed = TypeVar("Dressed", bound=QWidget)
Number = TypeVar("Number", QSpinBox, QDoubleSpinBox)


class Stretch(NamedTuple):
    """Nothing, which takes a share of the room that is left over."""

    share: int = 1


STRETCH = Stretch()
Item = QWidget | QLayout | Stretch | int | tuple[QWidget | QLayout, int] | tuple[QWidget, int, Qt.AlignmentFlag]
"""What stands in a row or column: a widget or a layout, with its share of the room that is left over and its place
where it does not fill its own; nothing, with a share; or a gap in device-independent pixels."""
Margins = int | tuple[int, int, int, int]
"""The same on all sides, or left, top, right, bottom."""
DIALOG: Margins = (3 * SPACING, 3 * SPACING, 3 * SPACING, 2 * SPACING)
"""Around what stands in a dialog."""
Run = Callable[..., object] | SignalInstance
"""What is called, or a signal that is emitted instead."""


def row(
    *items: Item, within: QWidget | None = None, margins: Margins | None = 0, spacing: int | None = SPACING
) -> QHBoxLayout:
    """Side by side.

    Args:
        within: the widget whose layout it becomes; None for a part of another layout.
        margins: around it, in device-independent pixels; None for the style's.
        spacing: between two items, likewise.
    """
    return _filled(QHBoxLayout() if within is None else QHBoxLayout(within), items, margins, spacing)


def column(
    *items: Item, within: QWidget | None = None, margins: Margins | None = 0, spacing: int | None = SPACING
) -> QVBoxLayout:
    """One below the other; all else as for `row`."""
    return _filled(QVBoxLayout() if within is None else QVBoxLayout(within), items, margins, spacing)


def _filled(layout: Box, items: tuple[Item, ...], margins: Margins | None, spacing: int | None) -> Box:
    if margins is not None:
        layout.setContentsMargins(*((margins,) * 4 if isinstance(margins, int) else margins))
    if spacing is not None:
        layout.setSpacing(spacing)
    for item in items:
        if isinstance(item, Stretch):
            layout.addStretch(item.share)
        elif isinstance(item, int):
            layout.addSpacing(item)
        else:
            thing, share, *place = item if isinstance(item, tuple) else (item, 0)
            if isinstance(thing, QLayout):
                layout.addLayout(thing, share)
            else:
                layout.addWidget(thing, share, *place)
    return layout


def grid(
    *,
    within: QWidget | None = None,
    margins: Margins = 0,
    across: int = 2 * SPACING,
    down: int = SPACING,
    wide: int = 1,
) -> QGridLayout:
    """Cells, which the caller fills.

    Args:
        across: between two columns, in device-independent pixels.
        down: between two rows, likewise.
        wide: number of the column that takes the room that is left over.
    """
    made = QGridLayout() if within is None else QGridLayout(within)
    made.setContentsMargins(*((margins,) * 4 if isinstance(margins, int) else margins))
    made.setHorizontalSpacing(across)
    made.setVerticalSpacing(down)
    made.setColumnStretch(wide, 1)
    return made


def scrolled(inside: QWidget, *, sideways: bool = True) -> QScrollArea:
    """A part that scrolls where it has no room, without a frame."""
    made = QScrollArea()
    made.setWidgetResizable(True)
    made.setFrameShape(QFrame.Shape.NoFrame)
    if not sideways:
        made.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    made.setWidget(inside)
    return made


def label(
    text: str = "",
    role: str = "",
    parent: QWidget | None = None,
    *,
    name: str = "",
    wraps: bool = False,
    is_plain: bool = False,
    selectable: bool = False,
    hidden: bool = False,
) -> QLabel:
    """Words.

    Args:
        role: how they look, by the style sheet (`theme.py`).
        name: what a screen reader calls them.
        is_plain: what looks like markup is shown as it is: for texts that others wrote.
        selectable: with the mouse.
    """
    made = QLabel(text, parent)
    if is_plain:
        made.setTextFormat(Qt.TextFormat.PlainText)
    if selectable:
        made.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    if hidden:
        made.hide()
    made.setWordWrap(wraps)
    return dressed(made, role, name=name)


def label_of(field: QWidget, text: str) -> QLabel:
    """Says what a field is for; with an & in it, its letter leads into the field."""
    made = QLabel(text)
    made.setBuddy(field)
    return made


def button(
    text: str = "",
    run: Run | None = None,
    parent: QWidget | None = None,
    *,
    picture: str = "",
    role: str = "",
    tip: str = "",
    key: str = "",
    name: str = "",
    by_return: bool | None = None,
) -> QPushButton:
    """A button that runs something when it is pressed.

    Args:
        picture: an icon's name.
        by_return: Return presses it in a dialog: wherever the focus is, nowhere, or while it has the focus (None).
    """
    made = QPushButton(icon(picture), text, parent) if picture else QPushButton(text, parent)
    if by_return is not None:
        made.setAutoDefault(by_return)
        made.setDefault(by_return)
    if run is not None:
        made.clicked.connect(run)
    return dressed(made, role, key=key, name=name, tip=tip)


def field(hint: str, name: str, parent: QWidget | None = None, *, key: str = "", searches: bool = False) -> QLineEdit:
    """A line to type in.

    Args:
        hint: stands in it while it is empty.
        searches: has a magnifying glass, and a button that empties it.
    """
    made = QLineEdit(parent)
    made.setPlaceholderText(hint)
    if searches:
        made.setClearButtonEnabled(True)
        made.addAction(icon("search"), QLineEdit.ActionPosition.LeadingPosition)
    return dressed(made, key=key, name=name)


def reading(name: str, parent: QWidget | None = None, *, wraps: bool = True) -> QPlainTextEdit:
    """A text of many lines in the fixed-width font, to be read and copied from."""
    made = QPlainTextEdit(parent)
    made.setReadOnly(True)
    made.setTabChangesFocus(True)
    made.setFont(monospace())
    if not wraps:
        made.setLineWrapMode(QPlainTextEdit.LineWrapMode.NoWrap)
    return dressed(made, name=name)


def progress(name: str, parent: QWidget | None = None, *, most: int = 100) -> QProgressBar:
    """A bar without words; one whose `most` is 0 moves to and fro."""
    made = QProgressBar(parent)
    made.setRange(0, most)
    made.setTextVisible(False)
    return dressed(made, name=name)


def tool(
    picture: str, tip: str, run: Run | None = None, parent: QWidget | None = None, *, name: str = ""
) -> QToolButton:
    """A small button with an icon alone; `name` is what a screen reader calls it, its hint where none is given."""
    made = QToolButton(parent)
    made.setIcon(icon(picture))
    if run is not None:
        made.clicked.connect(run)
    return dressed(made, name=name or tip, tip=tip)


def tool_of(action: QAction, *, words: bool = False, key: str = "") -> QToolButton:
    """A small button for a command, with its icon alone or with its words; a click leaves the focus where it is."""
    made = QToolButton()
    made.setDefaultAction(action)
    style = Qt.ToolButtonStyle
    made.setToolButtonStyle(style.ToolButtonTextBesideIcon if words else style.ToolButtonIconOnly)
    made.setFocusPolicy(Qt.FocusPolicy.TabFocus)
    return dressed(made, key=key, name=action.text())


def stack(*pages: QWidget) -> QStackedWidget:
    """Pages of which one is shown, the first one at first."""
    made = QStackedWidget()
    for page in pages:
        made.addWidget(page)
    return made


def splitter(
    direction: Qt.Orientation,
    *parts: QWidget,
    sizes: Sequence[int],
    growing: Sequence[int] = (),
    parent: QWidget | None = None,
) -> QSplitter:
    """Parts whose shares the user may change, down to their smallest size.

    Args:
        sizes: of the parts at first, in device-independent pixels.
        growing: numbers of the parts that take the room which a larger window brings; none for all alike.
    """
    made = QSplitter(direction, parent)
    for part in parts:
        made.addWidget(part)
    made.setChildrenCollapsible(False)
    for number in growing:
        made.setStretchFactor(number, 1)
    made.setSizes(list(sizes))
    return made


def command(
    parent: QObject,
    picture: str,
    text: str,
    run: Run | None = None,
    *,
    keys: QKeySequence | QKeySequence.StandardKey | str = "",
    tip: str = "",
) -> QAction:
    """A command of a screen; its keys work wherever the focus is within the screen, and stand in its hint."""
    made = QAction(icon(picture), text, parent)
    if keys:
        made.setShortcut(QKeySequence(keys))
        made.setShortcutContext(Qt.ShortcutContext.WidgetWithChildrenShortcut)
    if tip:
        written = made.shortcut().toString(QKeySequence.SequenceFormat.NativeText)
        made.setToolTip(f"{tip} ({written})" if written else tip)
    if run is not None:
        made.triggered.connect(run)
    return made


def timer(parent: QObject, run: Run, milliseconds: int = 0, *, once: bool = True) -> QTimer:
    """A timer that is not started yet: `once` after each start, or again and again."""
    made = QTimer(parent)
    made.setSingleShot(once)
    made.setInterval(milliseconds)
    made.timeout.connect(run)
    return made


def dressed(widget: Dressed, role: str = "", *, key: str = "", name: str = "", tip: str = "") -> Dressed:
    """The widget itself, with its look by the style sheet, its object name, what a screen reader calls it, its hint."""
    if key:
        widget.setObjectName(key)
    if role:
        widget.setProperty("role", role)
    if name:
        widget.setAccessibleName(name)
    if tip:
        widget.setToolTip(tip)
    return widget


def number_field(made: Number) -> Number:
    """The field itself, its text as far from the border as in other fields: the style sheet does not reach into it."""
    made.lineEdit().setTextMargins(SPACING, 0, 0, 0)
    return made


def change_role(widget: QWidget, role: str | None) -> None:
    """Give a widget that is shown already another look; None for no role."""
    if widget.property("role") != role:
        widget.setProperty("role", role)
        widget.style().unpolish(widget)
        widget.style().polish(widget)

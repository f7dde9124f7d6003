"""What screens are built of: rows and columns, labels, buttons and commands, and tables of columns."""

from __future__ import annotations

from PySide6.QtCore import QModelIndex, Qt
from PySide6.QtGui import QKeySequence
from PySide6.QtWidgets import QLabel, QWidget
from pytestqt.qtbot import QtBot

from app.ui import make
from app.ui.tables import Column, RowsModel, Table
from app.ui.theme import SPACING, ThemeKeeper

Role = Qt.ItemDataRole
COLUMNS = (
    Column("Name", lambda row: row[0], hint=lambda row: row[0] * 2 or None),
    Column("Size", lambda row: f"{row[1]:,}", "1,000,000", True, tip="In bytes"),
)


def test_a_row_holds_its_items_in_order_with_gaps_and_shares(qtbot: QtBot) -> None:
    whole = QWidget()
    qtbot.addWidget(whole)
    first, second, below = QLabel("first"), QLabel("second"), QLabel("below")
    top = make.row(first, 30, (second, 1), make.STRETCH, spacing=0)
    make.column(top, (below, 0, Qt.AlignmentFlag.AlignRight), make.Stretch(2), within=whole, margins=(7, 5, 3, 1))
    whole.resize(400, 300)
    whole.show()
    assert first.x() == 7 and second.x() == first.geometry().right() + 1 + 30
    assert abs(second.width() - (400 - 10 - first.width() - 30) // 2) <= 1, "label and stretch share what is left"
    assert below.y() == first.geometry().bottom() + 1 + SPACING
    assert below.geometry().right() == 400 - 3 - 1
    assert {first.parent(), second.parent(), below.parent()} == {whole}


def test_a_hidden_label_opens_no_window_of_its_own_and_shown_ones_wait_for_their_parent(qtbot: QtBot) -> None:
    for made in (make.label("a", hidden=True), make.label("b", "muted", wraps=True, name="B")):
        qtbot.addWidget(made)
        assert not made.isVisible()
    assert (made.property("role"), made.wordWrap(), made.accessibleName()) == ("muted", True, "B")


def test_the_keys_of_a_command_stand_in_its_hint(qtbot: QtBot) -> None:
    pressed: list[str] = []
    screen = QWidget()
    qtbot.addWidget(screen)
    plain = make.command(screen, "copy", "Copy", lambda: pressed.append("copy"), tip="Take it along")
    found = make.command(screen, "search", "Find", lambda: pressed.append("find"), keys="Ctrl+F", tip="Look for it")
    assert (plain.toolTip(), found.toolTip()) == ("Take it along", "Look for it (Ctrl+F)")
    assert plain.shortcut() == QKeySequence()
    button = make.button("Find", found.trigger, screen, role="primary")
    button.click()
    assert pressed == ["find"]


def test_a_column_says_what_stands_in_it_and_on_which_side(theme: ThemeKeeper, qtbot: QtBot) -> None:
    model = RowsModel(COLUMNS)
    table = Table(model, theme, "Things", key="things")
    qtbot.addWidget(table)
    model.setParent(table)
    table.size_columns(COLUMNS)
    model.show_rows([("a", 1), ("bb", 2_000)])
    assert [model.headerData(n, Qt.Orientation.Horizontal) for n in range(2)] == ["Name", "Size"]
    assert model.headerData(1, Qt.Orientation.Horizontal, Role.ToolTipRole) == "In bytes"
    assert [model.index(1, n).data() for n in range(2)] == ["bb", "2,000"]
    assert model.index(1, 0).data(Role.ToolTipRole) == "bbbb" and model.index(1, 1).data(Role.ToolTipRole) is None
    sides = [model.index(0, n).data(Role.TextAlignmentRole) & Qt.AlignmentFlag.AlignHorizontal_Mask for n in range(2)]
    assert sides == [Qt.AlignmentFlag.AlignLeft, Qt.AlignmentFlag.AlignRight]
    assert model.rowCount(model.index(0, 0)) == 0 and model.data(QModelIndex()) is None
    assert table.columnWidth(1) >= table.fontMetrics().horizontalAdvance("1,000,000")

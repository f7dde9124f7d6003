"""What screens are built of: rows and columns, labels, buttons and commands, and tables of columns."""

from __future__ import annotations

from PySide6.QtCore import QModelIndex, Qt
from PySide6.QtGui import QKeySequence
from PySide6.QtWidgets import QDialog, QLabel, QWidget
from pytestqt.modeltest import ModelTester
from pytestqt.qtbot import QtBot

from app.ui import make
from app.ui.list_delegate import Index
from app.ui.list_model import ListModel
from app.ui.tables import Column, RowsModel, Table
from app.ui.theme import SPACING, ThemeKeeper, monospace

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


def test_fields_texts_bars_and_grids_are_made_with_what_screens_want_of_them(qtbot: QtBot) -> None:
    whole = QWidget()
    qtbot.addWidget(whole)
    field, text = make.field("a name", "Name", key="name", searches=True), make.reading("Log", wraps=False)
    assert (field.placeholderText(), field.accessibleName(), field.objectName()) == ("a name", "Name", "name")
    assert field.isClearButtonEnabled() and not make.field("", "Plain").isClearButtonEnabled()
    assert text.isReadOnly() and text.tabChangesFocus() and text.font().family() == monospace().family()
    assert make.progress("Work", most=0).maximum() == 0
    label = make.label_of(field, "Name")
    grid = make.grid(within=whole, across=10, wide=1)
    for column, widget in enumerate((label, field)):
        grid.addWidget(widget, 0, column)
    grid.addWidget(text, 1, 1)
    whole.resize(400, 300)
    whole.show()
    assert label.buddy() is field and field.x() == label.geometry().right() + 1 + 10
    assert field.geometry().right() == 399 and text.y() == field.geometry().bottom() + 1 + SPACING


def test_return_presses_the_button_that_it_is_meant_for(qtbot: QtBot) -> None:
    pressed: list[str] = []
    dialog = QDialog()
    qtbot.addWidget(dialog)
    no = make.button("No", lambda: pressed.append("no"), by_return=False)
    yes = make.button("Yes", lambda: pressed.append("yes"), by_return=True)
    field = make.field("", "Something")
    make.column(field, no, yes, within=dialog)
    dialog.show()
    field.setFocus()
    qtbot.keyClick(field, Qt.Key.Key_Return)
    assert pressed == ["yes"]


def test_a_list_of_rows_tells_its_views_of_every_change(qtmodeltester: ModelTester) -> None:
    class Names(ListModel[str]):
        def data(self, index: Index, role: int = Role.DisplayRole) -> str | None:
            return self.row(index) if role == Role.DisplayRole else None

    names = Names(("b",))
    qtmodeltester.check(names)
    names.insert(1, "c", "e")
    names.insert(0, "a")
    names.replace(3, "d")
    assert [names.index(row).data() for row in range(names.rowCount())] == ["a", "b", "c", "d"]
    names.remove(1, 2)
    assert names.rows == ["a", "d"] and names.row(names.index(5)) is None
    names.reset(())
    assert names.rowCount() == 0


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

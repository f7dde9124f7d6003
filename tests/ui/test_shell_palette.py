"""The command palette: ranking, running, what cannot be run, what was used last."""

from __future__ import annotations

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QIcon
from PySide6.QtWidgets import QWidget
from pytestqt.modeltest import ModelTester
from pytestqt.qtbot import QtBot

from app.ui.shell.command_palette import CommandPalette, PaletteEntry
from app.ui.shell.fuzzy import fit
from app.ui.shell.palette_model import PaletteModel, PaletteProxy
from app.ui.theme import ThemeKeeper


def entry(text: str, hint: str = "Board", *, ran: list[str] | None = None, why_not: str = "") -> PaletteEntry:
    log = ran if ran is not None else []
    return PaletteEntry(text, hint, QIcon(), "", lambda: log.append(text), not why_not, why_not)


ENTRIES = (
    entry("Undo"), entry("Deploy"), entry("Add a node", "Nodes"), entry("Show nodes", "Go to"),
    entry("Start agents on this machine", "Nodes"),
)  # fmt: skip


@pytest.fixture
def palette(qtbot: QtBot, theme: ThemeKeeper) -> CommandPalette:
    window = QWidget()
    window.resize(900, 600)
    qtbot.addWidget(window)
    window.show()
    return CommandPalette(theme, window)


def shown(palette: CommandPalette) -> list[str]:
    return [palette.proxy.entry(row).text for row in range(palette.proxy.rowCount())]


@pytest.mark.parametrize("query", ["start", "agents", "sa", "start machine", "STARt"])
def test_a_text_is_found_by_its_beginnings_words_and_initials(query: str) -> None:
    assert fit(query, "Start agents on this machine") is not None


@pytest.mark.parametrize("query", ["stop", "agents stop", "xyz", "rtge"])
def test_what_is_not_in_a_text_does_not_find_it(query: str) -> None:
    assert fit(query, "Start agents on this machine") is None


def test_the_beginning_of_a_text_beats_a_word_and_a_word_its_inside() -> None:
    texts = ["Undo a node", "Node", "Annodes of a node list", "Unnoded"]
    ranked = sorted(texts, key=lambda text: -(fit("node", text) or 0))
    assert ranked == ["Node", "Undo a node", "Annodes of a node list", "Unnoded"]


@pytest.mark.parametrize("which", ["model", "proxy"])
@pytest.mark.parametrize("force_py", [False, True])
def test_model_and_proxy_keep_the_rules_while_entries_come_change_and_go(
    qtmodeltester: ModelTester, force_py: bool, which: str
) -> None:
    model = PaletteModel()
    proxy = PaletteProxy(model)
    qtmodeltester.check(proxy if which == "proxy" else model, force_py=force_py)
    model.reset(ENTRIES)
    model.used(ENTRIES[2])
    proxy.set_query("no")
    proxy.set_query("")
    assert proxy.entry(0) is ENTRIES[2]
    model.reset(ENTRIES[:2])
    model.reset(())
    model.reset(ENTRIES)


def test_typing_filters_and_enter_runs_the_best(palette: CommandPalette, qtbot: QtBot) -> None:
    ran: list[str] = []
    palette.set_entries([entry("Redo", ran=ran), entry("Add a node", "Nodes", ran=ran), entry("Remove", ran=ran)])
    palette.open()
    qtbot.keyClicks(palette.input, "add")
    assert shown(palette) == ["Add a node"]
    qtbot.keyClick(palette.input, Qt.Key.Key_Return)
    assert ran == ["Add a node"] and not palette.isVisible()


def test_a_command_is_found_by_where_it_belongs(palette: CommandPalette, qtbot: QtBot) -> None:
    palette.set_entries(ENTRIES)
    palette.open()
    qtbot.keyClicks(palette.input, "nodes add")
    assert shown(palette) == ["Add a node"]


def test_arrows_go_round_and_escape_closes(palette: CommandPalette, qtbot: QtBot) -> None:
    palette.set_entries(ENTRIES)
    palette.open()
    qtbot.keyClick(palette.input, Qt.Key.Key_Up)
    assert palette.list.currentIndex().row() == len(ENTRIES) - 1
    qtbot.keyClick(palette.input, Qt.Key.Key_Down)
    assert palette.list.currentIndex().row() == 0
    qtbot.keyClick(palette.input, Qt.Key.Key_Escape)
    assert not palette.isVisible()


def test_what_was_used_last_stands_at_the_top_also_among_new_entries(palette: CommandPalette, qtbot: QtBot) -> None:
    palette.set_entries(ENTRIES)
    palette.open()
    qtbot.keyClicks(palette.input, "agents")
    qtbot.keyClick(palette.input, Qt.Key.Key_Return)
    palette.set_entries([entry("New one"), *ENTRIES])
    palette.open()
    assert shown(palette)[0] == "Start agents on this machine" and palette.input.text() == ""


def test_what_cannot_be_run_says_why_and_keeps_the_palette_open(palette: CommandPalette, qtbot: QtBot) -> None:
    ran: list[str] = []
    palette.set_entries([entry("Deploy", ran=ran, why_not="Two stages are not placed yet"), entry("Undo", ran=ran)])
    palette.open()
    assert shown(palette) == ["Undo", "Deploy"]
    qtbot.keyClicks(palette.input, "deploy")
    index = palette.proxy.index(0, 0)
    assert "Two stages are not placed yet" in index.data(Qt.ItemDataRole.AccessibleTextRole)
    qtbot.keyClick(palette.input, Qt.Key.Key_Return)
    assert ran == [] and palette.isVisible()
    palette.hide()


def test_nothing_found_is_said(palette: CommandPalette, qtbot: QtBot) -> None:
    palette.set_entries(ENTRIES)
    palette.open()
    qtbot.keyClicks(palette.input, "zzz")
    assert palette.empty.isVisible() and not palette.list.isVisible()
    qtbot.keyClick(palette.input, Qt.Key.Key_Return)
    assert palette.isVisible()
    palette.hide()

"""What is said of a run, and the bar of where its time went."""

from __future__ import annotations

from PySide6.QtGui import QColor
from pytestqt.qtbot import QtBot

from app.cluster.node_state import NodeState
from app.registry import RequestStatus
from app.runs.telling import LONGEST_TEXT, Passage, state_word, times_told
from app.ui.looks import NODES, rank, run_look
from app.ui.runs.detail_parts import PROMPT_LINES, PassageView
from app.ui.runs.timing_bar import TimingBar, request_phases
from app.ui.theme import LIGHT, ThemeKeeper

TIMINGS = {"prepare": 1.0, "first_token": 3.0, "decode": 6.0, "total": 9.0, "tokens_per_second": 20.0}


def test_the_bar_is_drawn_to_scale(theme: ThemeKeeper, qtbot: QtBot) -> None:
    bar = TimingBar(theme)
    qtbot.addWidget(bar)
    bar.show_phases(request_phases(times_told(TIMINGS)))
    bar.resize(900, bar.heightForWidth(900))
    image = bar.grab().toImage()
    middle = {x: QColor(image.pixel(x, 8)) for x in (200, 600)}
    assert middle == {200: LIGHT.of(1), 600: LIGHT.of(0)}
    assert "Answering  6 s, 67 %" in bar.accessibleDescription()
    assert bar.heightForWidth(200) > bar.heightForWidth(900), "a narrow legend takes more lines"
    bar.show_phases(())
    assert bar.isHidden()


def test_every_state_has_an_icon_and_a_word() -> None:
    words = {state_word(status) for status in RequestStatus}
    assert words == {"Waiting", "Running", "Done", "Failed", "Cancelled"}
    assert len({run_look(status).icon for status in RequestStatus}) == len(words)
    assert (state_word("unheard of"), run_look("unheard of").icon) == ("unheard of", "circle-help")


def test_every_state_of_a_node_has_a_look_by_itself() -> None:
    assert set(NODES) == set(NodeState)
    assert min(NodeState, key=rank) is NodeState.DOWN and max(NodeState, key=rank) is NodeState.UP
    assert len({(look.icon, look.color) for look in NODES.values()}) == len(NODES)


def test_a_very_long_text_is_cut_for_the_eye_only(qtbot: QtBot, theme: ThemeKeeper) -> None:
    view = PassageView(PROMPT_LINES)
    qtbot.addWidget(view)
    view.resize(400, 300)
    view.show()
    view.show_passage(Passage("Prompt", "word " * LONGEST_TEXT))
    assert len(view.text.toPlainText()) < LONGEST_TEXT + 100
    assert "more characters" in view.text.toPlainText()
    long = view.text.height()
    view.show_passage(Passage("Prompt", "word"))
    assert view.text.height() < long

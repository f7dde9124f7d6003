"""What is said of a run, and the bar of where its time went."""

from __future__ import annotations

from PySide6.QtGui import QColor
from pytestqt.qtbot import QtBot

from app.registry import RequestStatus
from app.ui.runs.detail_parts import PROMPT_LINES, SHOWN_CHARACTERS, PassageView
from app.ui.runs.state_look import look_of
from app.ui.runs.story import Passage
from app.ui.runs.timing_bar import TimingBar, phases_of
from app.ui.theme import LIGHT, ThemeKeeper

TIMINGS = {"prepare": 1.0, "first_token": 3.0, "decode": 6.0, "total": 9.0, "tokens_per_second": 20.0}


def test_the_phases_of_a_request_add_up_to_its_time() -> None:
    phases = phases_of(TIMINGS)
    assert [(each.name.split(",")[0], each.seconds) for each in phases] == [
        ("Getting ready", 1.0), ("Prompt", 2.0), ("Answer", 6.0),
    ]  # fmt: skip


def test_a_request_that_never_began_has_waited_and_one_without_timings_has_no_bar() -> None:
    assert [each.name for each in phases_of({"prepare": 1.0, "total": 4.0})] == ["Getting ready", "Waiting"]
    assert phases_of({}) == ()


def test_the_bar_is_drawn_to_scale(theme: ThemeKeeper, qtbot: QtBot) -> None:
    bar = TimingBar(theme)
    qtbot.addWidget(bar)
    bar.show_phases(phases_of(TIMINGS))
    bar.resize(900, bar.heightForWidth(900))
    image = bar.grab().toImage()
    middle = {x: QColor(image.pixel(x, 8)) for x in (50, 200, 600)}
    assert middle == {50: LIGHT.of(4), 200: LIGHT.of(1), 600: LIGHT.of(0)}
    assert "Answer  6 s · 67 %" in bar.accessibleDescription()
    assert bar.heightForWidth(200) > bar.heightForWidth(900), "a narrow legend takes more lines"
    bar.show_phases(())
    assert bar.isHidden()


def test_every_state_has_an_icon_and_a_word() -> None:
    assert {look_of(status).word for status in RequestStatus} == {"Waiting", "Running", "Done", "Failed", "Cancelled"}
    assert look_of("unheard of").word == "unheard of"


def test_a_very_long_text_is_cut_for_the_eye_only(qtbot: QtBot, theme: ThemeKeeper) -> None:
    view = PassageView(PROMPT_LINES)
    qtbot.addWidget(view)
    view.resize(400, 300)
    view.show()
    view.show_passage(Passage("Prompt", "word " * SHOWN_CHARACTERS))
    assert len(view.text.toPlainText()) < SHOWN_CHARACTERS + 100
    assert "more characters" in view.text.toPlainText()
    long = view.text.height()
    view.show_passage(Passage("Prompt", "word"))
    assert view.text.height() < long

"""The Chat screen, driven by the events that a request posts, and once by a real controller without a node."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from PySide6.QtCore import Qt
from PySide6.QtGui import QGuiApplication
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QLabel, QLineEdit, QMessageBox, QPlainTextEdit, QPushButton, QWidget
from pytestqt.qtbot import QtBot

from app.errors import NodeError
from app.inference.events import Continued, Interrupted, Preparing, PromptProgress, Started
from app.inference.model_defaults import ModelDefaults
from app.inference.parameters import GenerationParameters
from app.inference.prompt import TextPrompt
from app.models.library import ModelLibrary
from app.paths import Home
from app.registry.records import RequestStatus
from app.ui.bridge import Bridge
from app.ui.chat.answer import Answer
from app.ui.chat.chat_screen import ChatScreen
from app.ui.chat.conversation import Outcome
from app.ui.settings import Settings
from app.ui.theme import ThemeKeeper
from app.ui.workbench import Workbench
from tests.conftest import CACHE
from tests.ui import simulated
from tests.ui.chat_events import converse, finish, post, stream


@pytest.fixture
def screen(quiet_workbench: Workbench, qtbot: QtBot) -> Iterator[ChatScreen]:
    """Two models, of which made-up-8b is deployed over two nodes."""
    models = simulated.model(), simulated.model("another-3b")
    deployed = simulated.deployment("d1", models[0], [(1, 0, 6), (2, 6, 12)])
    simulated.fill(quiet_workbench.cluster, models=models, deployments=(deployed,))
    widget = ChatScreen(quiet_workbench)
    qtbot.addWidget(widget)
    widget.resize(1100, 700)
    with qtbot.waitExposed(widget):
        widget.show()
    yield widget


def begin(screen: ChatScreen, text: str) -> Answer:
    assert screen.ask(text)
    assert screen.desk.answer is not None
    return screen.desk.answer


def figures(screen: ChatScreen) -> str:
    return screen.findChild(QLabel, "chat-figures").text()


def shown(screen: ChatScreen, qtbot: QtBot) -> str:
    qtbot.waitUntil(lambda: screen.transcript.is_written)
    return screen.transcript.toPlainText()


def test_an_answer_goes_through_its_phases_and_ends_with_its_figures(screen: ChatScreen, qtbot: QtBot) -> None:
    answer = begin(screen, "Tell me")
    assert screen.is_streaming and screen.busy_with() == ["an answer of made-up-8b"]
    post(answer, 5, Preparing("Loading made-up-8b on node-1"))
    assert "Loading made-up-8b on node-1" in figures(screen)
    post(answer, Started(5, 1030), PromptProgress(412, 1030))
    assert "Processing prompt, 412 of 1,030 tokens" in figures(screen)
    assert screen.strip.bar.isVisible() and screen.strip.bar.value() == 412
    stream(answer, "One ", "two ", "three", id=5)
    qtbot.waitUntil(lambda: "3 tokens" in figures(screen))
    assert screen.answer_text == "One two three" and not screen.strip.bar.isVisible()
    finish(answer, id=5)
    assert not screen.is_streaming and screen.busy_with() == []
    assert "20.5 tokens/s" in figures(screen) and "first after 250 ms" in figures(screen)
    assert "One two three" in shown(screen, qtbot)
    with qtbot.waitSignal(screen.workbench.navigate) as went:
        QTest.mouseClick(screen.strip.show_run, Qt.MouseButton.LeftButton)
    assert went.args == ["runs", 5]


def test_what_comes_while_another_screen_is_shown_is_written_when_it_comes_back(
    screen: ChatScreen, qtbot: QtBot
) -> None:
    answer = begin(screen, "Tell me")
    stream(answer, "One ", id=5)
    assert "One" in shown(screen, qtbot)
    screen.hide()
    stream(answer, "two ", id=5)
    stream(answer, "three ", id=5)
    assert screen.answer_text == "One two three " and "two" not in screen.transcript.toPlainText()
    screen.show()
    assert "One two three" in shown(screen, qtbot)
    screen.hide()
    stream(answer, "four ", id=5)
    finish(answer, id=5)
    screen.show()
    assert shown(screen, qtbot).count("One two three four") == 1, "and what ended meanwhile stands there once"


def test_an_interruption_is_told_while_it_lasts_and_with_the_answer(screen: ChatScreen, qtbot: QtBot) -> None:
    answer = begin(screen, "Tell me")
    post(answer, Started(5, 10))
    stream(answer, "One ", id=5)
    post(answer, Interrupted("node 2 (rack-2) was lost: nothing listens there. The answer goes on soon"))
    assert "node 2 (rack-2) was lost" in figures(screen) and screen.strip.bar.isVisible()
    told = "node 2 (rack-2) lost at token 1; layers 4–7 went to laptop; 310 ms; continued, not bit-exact. (Killed.)"
    post(answer, Continued(told, exact=False, seconds=0.31))
    stream(answer, "two", id=5)
    finish(answer, id=5)
    assert "interrupted 310 ms, not bit-exact" in figures(screen)


def test_enter_sends_shift_enter_breaks_the_line_and_escape_stops(
    screen: ChatScreen, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = screen.findChild(QPlainTextEdit, "chat-input")
    height = box.height()
    QTest.keyClicks(box, "Hello")
    QTest.keyClick(box, Qt.Key.Key_Return, Qt.KeyboardModifier.ShiftModifier)
    QTest.keyClicks(box, "there")
    assert box.toPlainText() == "Hello\nthere" and box.height() > height
    QTest.keyClick(box, Qt.Key.Key_Return)
    answer = screen.desk.answer
    assert answer is not None and box.toPlainText() == "" and box.height() == height
    assert screen.desk.conversation.messages[0].text == "Hello\nthere"
    assert screen.findChild(QPushButton, "chat-send").text() == "Stop"
    stream(answer, "Half")
    QTest.keyClick(box, Qt.Key.Key_Escape)
    assert answer.is_stopping
    finish(answer, RequestStatus.CANCELLED)
    assert screen.desk.conversation.messages[-1].outcome is Outcome.STOPPED
    assert screen.answer_text == "Half" and "stopped" in figures(screen)
    assert screen.findChild(QPushButton, "chat-send").text() == "Send"


def test_a_suggestion_is_asked_with_one_click(screen: ChatScreen, qtbot: QtBot) -> None:
    assert screen.pages.currentWidget() is screen.suggestions
    chip = next(button for button in screen.suggestions.findChildren(QPushButton) if "France" in button.text())
    QTest.mouseClick(chip, Qt.MouseButton.LeftButton)
    assert screen.is_streaming and screen.pages.currentWidget() is screen.transcript


def test_a_failed_answer_keeps_its_text_says_why_and_can_be_tried_again(screen: ChatScreen, qtbot: QtBot) -> None:
    answer = begin(screen, "Go on")
    stream(answer, "Half an ans")
    finish(answer, RequestStatus.FAILED, error="node-2 was lost. Ask again.")
    text = shown(screen, qtbot)
    assert "Half an ans" in text and "node-2 was lost. Ask again." in text and "Retry" in text
    assert screen.error_text == "node-2 was lost. Ask again."
    id = screen.desk.conversation.messages[-1].id
    screen.transcript.wanted.emit("details", id)
    assert "node-2 was lost" in QGuiApplication.clipboard().text() and "d1" in QGuiApplication.clipboard().text()
    screen.transcript.wanted.emit("retry", id)
    assert screen.is_streaming and screen.answer_text == ""
    assert [message.text for message in screen.desk.conversation.messages] == ["Go on", ""]
    again = screen.desk.answer
    assert again is not None
    stream(again, "Whole.")
    finish(again)
    text = shown(screen, qtbot)
    assert "Whole." in text and "Half" not in text and "Retry" not in text and screen.error_text == ""


def test_a_request_that_could_not_begin_is_said_in_its_place(screen: ChatScreen, qtbot: QtBot) -> None:
    answer = begin(screen, "Anybody?")
    answer.refuse(NodeError("node-1 does not answer.", "Start its agent.", kind="timeout", node="node-1"))
    text = shown(screen, qtbot)
    assert "There is no answer" in text and "node-1 does not answer." in text and "Start its agent." in text
    assert not screen.is_streaming
    assert screen.workbench.notices.banners == [], "it is said where it happened, and nowhere else"


def test_two_conversations_stream_at_once_and_lose_nothing_while_one_switches(screen: ChatScreen, qtbot: QtBot) -> None:
    first = begin(screen, "First")
    stream(first, "alpha ", id=1)
    screen.desk.new()
    second = begin(screen, "Second")
    stream(second, "one ", id=2)
    stream(first, "beta ", id=1)
    stream(second, "two", id=2)
    assert len(screen.busy_with()) == 2 and "alpha" not in shown(screen, qtbot)
    screen.desk.open(first.conversation.id)
    stream(first, "gamma", id=1)
    assert "alpha beta gamma" in shown(screen, qtbot) and "one" not in shown(screen, qtbot)
    with qtbot.waitSignal(screen.workbench.notices.toasted) as toasted:
        finish(second, id=2)
    assert "Second" in toasted.args[0].text
    finish(first, id=1)
    screen.desk.open(second.conversation.id)
    assert shown(screen, qtbot).count("one two") == 1 and screen.answer_text == "one two"


def test_regenerate_writes_the_last_answer_anew(screen: ChatScreen, qtbot: QtBot) -> None:
    converse(screen, "One?", "First answer.")
    screen.actions_.regenerate.trigger()
    answer = screen.desk.answer
    assert answer is not None and len(screen.desk.conversation.messages) == 2
    stream(answer, "Another answer.")
    finish(answer)
    text = shown(screen, qtbot)
    assert "Another answer." in text and "First answer." not in text


def test_the_last_question_can_be_edited_and_sent_again(screen: ChatScreen, qtbot: QtBot) -> None:
    converse(screen, "What is 2 + 2?", "4")
    converse(screen, "And 3 + 3?", "6")
    screen.transcript.wanted.emit("edit", screen.desk.conversation.messages[-1].id)
    box = screen.composer.input
    assert box.toPlainText() == "And 3 + 3?" and screen.composer.is_editing
    QTest.keyClick(box, Qt.Key.Key_Escape)
    assert not screen.composer.is_editing and box.toPlainText() == "" and screen.answer_text == "6"
    screen.transcript.wanted.emit("edit", screen.desk.conversation.messages[-1].id)
    box.setPlainText("And 5 + 5?")
    QTest.keyClick(box, Qt.Key.Key_Return)
    assert [message.text for message in screen.desk.conversation.messages] == ["What is 2 + 2?", "4", "And 5 + 5?", ""]
    assert "And 3 + 3?" not in shown(screen, qtbot)


def test_parameters_that_cannot_be_used_are_said_at_their_field_and_nothing_is_sent(screen: ChatScreen) -> None:
    screen.actions_.parameters.trigger()
    edit = screen.parameters.findChild(QWidget, "chat-top_p")
    edit.clear()
    QTest.keyClicks(edit, "3")
    assert "top_p is 3" in screen.parameters.error_of("top_p") and screen.parameters.error_of("temperature") == ""
    screen.actions_.parameters.trigger()
    assert not screen.ask("Hello") and not screen.is_streaming
    assert screen.parameters.isVisible()
    edit.clear()
    QTest.keyClicks(edit, "0.5")
    assert screen.parameters.error_of("top_p") == "" and screen.desk.conversation.options.top_p == 0.5
    assert screen.ask("Hello")


def test_parameters_belong_to_their_conversation(screen: ChatScreen) -> None:
    first = screen.desk.conversation
    temperature = screen.parameters.findChild(QWidget, "chat-temperature")
    temperature.clear()
    QTest.keyClicks(temperature, "1.5")
    screen.parameters.system.setPlainText("Be brief.")
    converse(screen, "Hello", "Hi.")
    screen.desk.new()
    assert screen.desk.conversation.options.temperature == 1.5, "a new one begins as the last one was"
    temperature.clear()
    QTest.keyClicks(temperature, "0.2")
    screen.desk.open(first.id)
    assert temperature.text() == "1.5" and first.options.system == "Be brief."
    assert first.options.temperature == 1.5


def test_empty_fields_show_what_the_model_asks_for_and_leave_it_to_that(screen: ChatScreen) -> None:
    pane, options = screen.parameters, screen.desk.conversation.options
    screen.actions_.parameters.trigger()
    values = {"temperature": 0.6, "max_tokens": 64, "stop": ["END"]}
    pane.show_defaults(ModelDefaults(values=values, notes=("num_beams 4 is not applied: no beams.",)))

    def field(name: str) -> QLineEdit:
        found = pane.findChild(QLineEdit, f"chat-{name}")
        assert found is not None
        return found

    shown = {name: field(name).placeholderText() for name in ("temperature", "top_p", "max_tokens", "seed")}
    assert shown == {"temperature": "model: 0.6", "top_p": "1", "max_tokens": "model: 64", "seed": "random"}
    assert pane.stops.placeholderText() == "END"
    assert pane.notes.isVisible() and "num_beams 4" in pane.notes.text()
    assert options.parameters() == GenerationParameters(), "nothing is said of what was left empty"

    for name, text in (("temperature", "0"), ("max_tokens", "0")):
        field(name).setText(text)
        field(name).textEdited.emit(text)
    assert options.parameters() == GenerationParameters(temperature=0.0, max_tokens=None)
    pane.show_options(options)
    assert (field("temperature").text(), field("max_tokens").text()) == ("0", "0"), "said is not the same as empty"
    pane.show_defaults(ModelDefaults())
    assert field("temperature").placeholderText() == "0" and not pane.notes.isVisible()


def test_a_completion_is_continued_in_place(screen: ChatScreen, qtbot: QtBot) -> None:
    screen.parameters.raw_mode.setChecked(True)
    answer = begin(screen, "Once upon")
    stream(answer, " a time")
    finish(answer)
    assert "Once upon a time" in shown(screen, qtbot)
    screen.transcript.wanted.emit("continue", screen.desk.conversation.messages[-1].id)
    more = screen.desk.answer
    assert more is not None and screen.desk.conversation.prompt() == TextPrompt("Once upon a time")
    post(more, 2, Started(2, 6))
    stream(more, " there was", id=2)
    assert "Once upon a time there was" in shown(screen, qtbot)


def test_a_model_opens_in_a_conversation_of_its_own(screen: ChatScreen) -> None:
    assert screen.desk.conversation.model == "made-up-8b", "what is deployed is chosen first"
    screen.open_with("another-3b")
    assert screen.desk.conversation.model == "another-3b" and screen.picker.currentText() == "another-3b"
    converse(screen, "Hello", "Hi.")
    talked = screen.desk.conversation
    screen.open_with("another-3b")
    assert screen.desk.conversation is talked
    screen.open_with("made-up-8b")
    assert screen.desk.conversation is not talked and screen.desk.conversation.is_empty
    assert talked.model == "another-3b"


def test_deleting_the_open_conversation_stops_its_answer_and_opens_an_empty_one(screen: ChatScreen) -> None:
    answer = begin(screen, "Forget me")
    stream(answer, "some")
    screen.pane.delete_action.trigger()
    assert answer.is_stopping and screen.desk.list.rowCount() == 0 and screen.desk.conversation.is_empty
    finish(answer, RequestStatus.CANCELLED)
    assert screen.desk.list.rowCount() == 0 and screen.busy_with() == []


def test_the_keyboard_is_enough(screen: ChatScreen, qtbot: QtBot) -> None:
    converse(screen, "Hello", "Good **day**.")
    shortcuts = {action.shortcut().toString() for action in screen.commands()}
    assert {"Ctrl+N", "Ctrl+R", "Ctrl+L"} <= shortcuts
    assert all(action.toolTip() and not action.icon().isNull() for action in screen.commands())
    screen.actions_.copy.trigger()
    assert QGuiApplication.clipboard().text() == "Good **day**."
    screen.actions_.new.trigger()
    assert screen.desk.conversation.is_empty and not screen.actions_.copy.isEnabled()


def test_a_link_is_opened_only_after_a_question(
    screen: ChatScreen, qtbot: QtBot, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr("app.ui.chat.chat_screen.QDesktopServices.openUrl", lambda url: opened.append(url.toString()))
    converse(screen, "Where?", "[here](https://example.org/page)")
    screen.transcript.anchorClicked.emit("https://example.org/page")
    box = screen.findChild(QMessageBox)
    assert "https://example.org/page" in box.informativeText() and opened == []
    box.button(QMessageBox.StandardButton.Cancel).click()
    assert opened == []
    screen.transcript.anchorClicked.emit("https://example.org/page")
    box = next(box for box in screen.findChildren(QMessageBox) if box.isVisible())
    next(each for each in box.buttons() if box.buttonRole(each) == QMessageBox.ButtonRole.AcceptRole).click()
    assert opened == ["https://example.org/page"]


def test_without_any_model_it_shows_the_way_to_one(quiet_workbench: Workbench, qtbot: QtBot) -> None:
    simulated.fill(quiet_workbench.cluster)
    widget = ChatScreen(quiet_workbench)
    qtbot.addWidget(widget)
    assert widget.pages.currentWidget() is widget.nothing
    with qtbot.waitSignal(quiet_workbench.navigate) as went:
        widget.nothing.findChildren(QPushButton)[1].click()
    assert went.args == ["board", None]
    simulated.fill(quiet_workbench.cluster, models=(simulated.model(),))
    assert widget.pages.currentWidget() is widget.suggestions


def test_a_stream_of_200_tokens_a_second_costs_little_of_the_gui_thread(screen: ChatScreen, qtbot: QtBot) -> None:
    answer = begin(screen, "Long, please")
    before = time.thread_time()
    for _ in range(150):  # five seconds' worth
        stream(answer, *(" some words" if number else "\n\nNew" for number in range(7)))
        QGuiApplication.processEvents()
    spent = time.thread_time() - before
    finish(answer)
    assert len(screen.answer_text) > 9000
    assert spent < 2.5, f"half of the thread: {spent:.1f} s for five seconds of text (0.4 s when nothing is amiss)"


def test_what_no_node_can_answer_is_said_in_the_conversation(
    qtbot: QtBot, home: Home, theme: ThemeKeeper, smollm: object
) -> None:
    """A real controller, a real model, no node."""
    library = ModelLibrary(CACHE / "models")
    name = library.list()[0].name
    bridge = Bridge()
    workbench = Workbench(bridge, Settings(home.root / "window.ini"), theme)
    with qtbot.waitSignal(workbench.cluster.loaded, timeout=20_000):
        bridge.start(Home(home.root, CACHE / "models"))
    widget = ChatScreen(workbench)
    qtbot.addWidget(widget)
    widget.show()
    widget.open_with(name)
    assert widget.ask("What is the capital of France?")
    qtbot.waitUntil(lambda: not widget.is_streaming, timeout=30_000)
    assert widget.parameters.findChild(QLineEdit, "chat-temperature").placeholderText() == "0"
    assert name in widget.error_text and "node" in widget.error_text and "Deploy it" in widget.error_text
    text = shown(widget, qtbot)
    assert widget.error_text.strip() in " ".join(text.split()) and "Retry" in text
    assert widget.desk.conversation.messages[-1].request_id is not None, "the registry has the request, too"
    with qtbot.waitSignal(bridge.closed, timeout=20_000):
        bridge.close()
    workbench.deleteLater()
    bridge.deleteLater()

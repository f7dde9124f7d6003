"""What a model thinks stands apart from its answer, folded away; what its template is given is set in the pane."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PySide6.QtCore import QUrl
from pytestqt.qtbot import QtBot

from app.inference.chat_format import ChatFormat
from app.inference.events import Finished, PromptProgress, Started, TextDelta
from app.inference.prompt import ChatPrompt
from app.ui.chat.answer import Answer
from app.ui.chat.chat_screen import ChatScreen
from app.ui.chat.conversation import Conversation, Options, from_json, to_json
from app.ui.workbench import Workbench
from tests.ui import simulated
from tests.ui.chat_events import post, record

THINKER = ChatFormat.of("<think></think>")
WRITTEN = "<think>\nIt is a greeting.\n</think>\n\n**Hello!**"


@pytest.fixture
def screen(quiet_workbench: Workbench, qtbot: QtBot) -> Iterator[ChatScreen]:
    simulated.fill(quiet_workbench.cluster, models=(simulated.model(),), deployments=())
    widget = ChatScreen(quiet_workbench)
    qtbot.addWidget(widget)
    widget.resize(1100, 700)
    with qtbot.waitExposed(widget):
        widget.show()
    yield widget


def begin(screen: ChatScreen, text: str) -> Answer:
    assert screen.ask(text)
    assert screen.desk.answer is not None
    post(screen.desk.answer, 1, Started(1, 42, THINKER), PromptProgress(42, 42))
    return screen.desk.answer


def shown(screen: ChatScreen, qtbot: QtBot) -> str:
    qtbot.waitUntil(lambda: screen.transcript.is_written)
    return screen.transcript.toPlainText()


def test_thinking_is_folded_away_while_it_streams_and_afterwards(screen: ChatScreen, qtbot: QtBot) -> None:
    answer = begin(screen, "Hi")
    for piece in ("<thi", "nk>\nIt is a ", "greet"):
        post(answer, TextDelta(piece, 1))
    assert "Thinking…   Show" in shown(screen, qtbot) and "greet" not in shown(screen, qtbot)
    screen.transcript.anchorClicked.emit(QUrl(f"chat:thinking/{answer.message.id}"))
    assert "It is a greet" in shown(screen, qtbot)
    post(answer, TextDelta("ing.", 2))
    assert "It is a greeting." in shown(screen, qtbot) and "Thinking…   Hide" in shown(screen, qtbot)
    post(answer, TextDelta("\n</think>\n\n**Hel", 3))
    post(answer, TextDelta("lo!**", 4))
    text = shown(screen, qtbot)
    assert "Thinking…" not in text and text.index("It is a greeting.") < text.index("**Hello!**")
    post(answer, Finished(record(WRITTEN)))
    assert "Hello!" in shown(screen, qtbot) and "**" not in shown(screen, qtbot)
    assert (answer.message.thinking, answer.message.text) == ("It is a greeting.", "**Hello!**")
    screen.transcript.anchorClicked.emit(QUrl(f"chat:thinking/{answer.message.id}"))
    text = shown(screen, qtbot)
    assert "Show thinking" in text and "greeting" not in text and "<think>" not in text and "Hello!" in text


def test_thoughts_are_kept_and_go_along_with_the_next_question(screen: ChatScreen) -> None:
    answer = begin(screen, "Hi")
    post(answer, TextDelta(WRITTEN, 9), Finished(record(WRITTEN)))
    kept = from_json(to_json(screen.desk.conversation))
    assert kept.messages[1].thinking == "It is a greeting."
    kept.ask("And now?")
    assert kept.prompt() == ChatPrompt(
        (
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "**Hello!**", "reasoning_content": "It is a greeting."},
            {"role": "user", "content": "And now?"},
        )
    )


def test_the_record_decides_what_was_thought(screen: ChatScreen, qtbot: QtBot) -> None:
    answer = begin(screen, "Hi")
    post(answer, Finished(record("<think>never said")))
    assert (answer.message.thinking, answer.message.text) == ("never said", "")
    assert "Show thinking" in shown(screen, qtbot) and "never said" not in shown(screen, qtbot)


def test_a_template_is_given_what_the_pane_says(screen: ChatScreen) -> None:
    screen.actions_.parameters.trigger()
    pane, options = screen.parameters, screen.desk.conversation.options
    pane.variables.setPlainText('{"enable_thinking": fal')
    assert "No JSON object" in pane.error_of("chat_template_kwargs") and options.chat_template_kwargs == {}
    pane.variables.setPlainText('{"messages": []}')
    assert "chat_template_kwargs.messages" in pane.error_of("chat_template_kwargs")
    pane.variables.setPlainText('{"enable_thinking": false}')
    assert pane.error_of("chat_template_kwargs") == ""
    assert options.parameters().chat_template_kwargs == {"enable_thinking": False}
    fresh = Options(chat_template_kwargs={"thinking": True})
    pane.show_options(fresh)
    assert pane.variables.toPlainText() == '{"thinking": true}'
    pane.raw_mode.setChecked(True)
    assert not pane.variables.isVisible() and fresh.parameters().chat_template_kwargs == {}


def test_conversations_of_before_are_read() -> None:
    conversation = Conversation(model="m")
    conversation.ask("Hi")
    older = to_json(conversation).replace(b',"thinking":""', b"").replace(b',"chat_template_kwargs":{}', b"")
    assert b"thinking" not in older and b"kwargs" not in older
    assert from_json(older).messages[0].thinking == ""

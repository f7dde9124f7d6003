"""The transcript: text as it streams, Markdown when it is complete, nothing of a model's that is interpreted."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from PySide6.QtCore import Qt, QUrl
from PySide6.QtGui import QGuiApplication
from PySide6.QtTest import QTest
from pytestqt.qtbot import QtBot

from app.ui.chat.conversation import Conversation, Outcome, Problem
from app.ui.chat.transcript import AT_ONCE, Transcript
from app.ui.theme import ThemeKeeper

MARKDOWN = """Some **bold** text.

# Title

```python
print("<b>hello</b>")
```

| a | b |
| - | - |
| 1 | 2 |

<script>alert(1)</script> <b>tag</b> ![A cat](http://example.org/cat.png)
[good](https://example.org) [bad](file:///etc/passwd) [own](chat:retry/x)
"""


def answered(*pairs: tuple[str, str]) -> Conversation:
    conversation = Conversation(model="m")
    for question, answer in pairs:
        message = conversation.ask(question)
        message.text, message.outcome = answer, Outcome.COMPLETE
    return conversation


def written(qtbot: QtBot, transcript: Transcript) -> None:
    qtbot.waitUntil(lambda: transcript.is_written)


def links(transcript: Transcript) -> set[str]:
    """All that can be clicked on."""
    found = set()
    block = transcript.document().begin()
    while block.isValid():
        iterator = block.begin()
        while not iterator.atEnd():
            format = iterator.fragment().charFormat()
            if format.isAnchor():
                found.add(format.anchorHref())
            assert not format.isImageFormat()
            iterator += 1
        block = block.next()
    return found


@pytest.fixture
def transcript(qtbot: QtBot, theme: ThemeKeeper) -> Iterator[Transcript]:
    widget = Transcript(theme)
    qtbot.addWidget(widget)
    widget.resize(900, 500)
    with qtbot.waitExposed(widget):
        widget.show()
    yield widget


def test_markdown_is_rendered_and_html_stays_text(transcript: Transcript, qtbot: QtBot) -> None:
    transcript.show_conversation(answered(("Show me", MARKDOWN)))
    written(qtbot, transcript)
    text = transcript.toPlainText()
    assert "Some bold text." in text and "**" not in text and "# Title" not in text
    assert "<script>alert(1)</script>" in text and "<b>tag</b>" in text and 'print("<b>hello</b>")' in text
    assert "[image: A cat]" in text


def test_only_links_to_the_web_can_be_clicked_and_none_of_the_programs_own_can_be_forged(
    transcript: Transcript, qtbot: QtBot
) -> None:
    transcript.show_conversation(answered(("Show me", MARKDOWN)))
    written(qtbot, transcript)
    found = links(transcript)
    assert "https://example.org" in found
    assert not any("passwd" in link or link == "chat:retry/x" or "cat.png" in link for link in found)


def test_a_click_on_a_link_asks_and_opens_nothing(transcript: Transcript, qtbot: QtBot) -> None:
    transcript.show_conversation(answered(("Where?", "[there](https://example.org)")))
    written(qtbot, transcript)
    with qtbot.waitSignal(transcript.link_wanted) as wanted:
        transcript.anchorClicked.emit(QUrl("https://example.org"))
    assert wanted.args == [QUrl("https://example.org")]


def test_code_and_messages_are_copied_as_they_were_written(transcript: Transcript, qtbot: QtBot) -> None:
    conversation = answered(("Show me", MARKDOWN))
    transcript.show_conversation(conversation)
    written(qtbot, transcript)
    id = conversation.messages[-1].id
    transcript.anchorClicked.emit(QUrl(f"chat:code/{id}/0"))
    assert QGuiApplication.clipboard().text() == 'print("<b>hello</b>")'
    transcript.anchorClicked.emit(QUrl(f"chat:copy/{id}"))
    assert QGuiApplication.clipboard().text() == MARKDOWN


def test_text_that_streams_stays_plain_until_it_is_complete(transcript: Transcript, qtbot: QtBot) -> None:
    conversation = Conversation(model="m")
    transcript.show_conversation(conversation)
    message = conversation.ask("Go")
    transcript.sync()
    written(qtbot, transcript)
    for piece in ("One **bo", "ld** word\n\n", "* and more"):
        message.text += piece
        transcript.add_text(message)
    assert "One **bold** word" in transcript.toPlainText()
    message.outcome = Outcome.COMPLETE
    transcript.finish(message)
    written(qtbot, transcript)
    text = transcript.toPlainText()
    assert "One bold word" in text and text.count("and more") == 1 and "Regenerate" in text


def test_an_answer_that_streams_while_its_conversation_is_opened_has_each_word_once(
    transcript: Transcript, qtbot: QtBot
) -> None:
    conversation = Conversation(model="m")
    message = conversation.ask("Go")
    message.text = "first "
    transcript.show_conversation(conversation)
    for word in ("second ", "third "):
        message.text += word
        transcript.add_text(message)
    written(qtbot, transcript)
    assert transcript.toPlainText().count("first second third") == 1


def test_a_failed_answer_keeps_its_text_and_says_why_below_it(transcript: Transcript, qtbot: QtBot) -> None:
    conversation = answered(("Go", "Half an ans"))
    message = conversation.messages[-1]
    message.outcome, message.problem = Outcome.FAILED, Problem(message="node-2 was lost.", advice="Ask again.")
    transcript.show_conversation(conversation)
    written(qtbot, transcript)
    text = transcript.toPlainText()
    assert text.index("Half an ans") < text.index("node-2 was lost.") < text.index("Ask again.") < text.index("Retry")


def test_messages_that_were_taken_back_vanish(transcript: Transcript, qtbot: QtBot) -> None:
    conversation = answered(("One", "first answer"), ("Two", "second answer"))
    transcript.show_conversation(conversation)
    written(qtbot, transcript)
    conversation.take_back()
    transcript.sync()
    written(qtbot, transcript)
    text = transcript.toPlainText()
    assert "first answer" in text and "second answer" not in text and "Two" not in text
    blocks = transcript.document().blockCount()
    for _ in range(3):
        conversation.ask("Two").outcome = Outcome.COMPLETE
        transcript.sync()
        conversation.take_back()
        transcript.sync()
    assert transcript.document().blockCount() == blocks, "nothing is left behind by what is taken back"


def test_it_follows_the_text_only_while_the_reader_is_at_the_end(transcript: Transcript, qtbot: QtBot) -> None:
    conversation = answered(*((f"Question {number}", "line\n\n" * 12) for number in range(5)))
    message = conversation.ask("Go on")
    transcript.show_conversation(conversation)
    written(qtbot, transcript)
    bar = transcript.verticalScrollBar()
    assert bar.maximum() > 0 and bar.value() == bar.maximum()
    before = bar.maximum()
    message.text += "word\n" * 40
    transcript.add_text(message)
    assert bar.maximum() > before and bar.value() == bar.maximum()
    bar.setValue(bar.maximum() - 300)
    stays = bar.value()
    message.text += "word\n" * 40
    transcript.add_text(message)
    assert bar.value() == stays < bar.maximum()


def test_the_beginning_of_a_long_conversation_is_written_when_one_scrolls_to_it(
    transcript: Transcript, qtbot: QtBot
) -> None:
    conversation = answered(*((f"Question {number}.", f"Answer {number}.\n\n" + MARKDOWN) for number in range(30)))
    transcript.show_conversation(conversation)
    written(qtbot, transcript)
    assert "Answer 29." in transcript.toPlainText() and "Answer 3." not in transcript.toPlainText()
    bar = transcript.verticalScrollBar()

    def in_view() -> str:
        return transcript.cursorForPosition(transcript.viewport().rect().center()).block().text()

    for _ in range(60 // AT_ONCE + 1):
        bar.setValue(40)
        reads = in_view()
        written(qtbot, transcript)
        assert in_view() == reads, "what one reads stays where it is"
    text = transcript.toPlainText()
    assert [text.count(f"Answer {number}.") for number in range(30)] == [1] * 30
    assert text.index("Question 0.") < text.index("Answer 0.") < text.index("Question 1.") < text.index("Answer 29.")


def test_a_completion_stands_behind_the_text_it_continues(transcript: Transcript, qtbot: QtBot) -> None:
    conversation = Conversation(model="m")
    conversation.options.raw = True
    message = conversation.ask("Once upon")
    transcript.show_conversation(conversation)
    message.text = " a **time**"
    transcript.add_text(message)
    message.outcome = Outcome.COMPLETE
    transcript.finish(message)
    written(qtbot, transcript)
    assert "Once upon a **time**" in transcript.toPlainText()


def test_links_are_reached_by_keyboard(transcript: Transcript, qtbot: QtBot) -> None:
    transcript.show_conversation(answered(("Hello", "Good day.")))
    written(qtbot, transcript)
    transcript.setFocus()
    QTest.keyClick(transcript, Qt.Key.Key_Tab)
    with qtbot.waitSignal(transcript.copied):
        QTest.keyClick(transcript, Qt.Key.Key_Return)
    assert QGuiApplication.clipboard().text() == "Good day."


def test_a_change_of_theme_repaints_everything_in_its_colours(
    transcript: Transcript, qtbot: QtBot, theme: ThemeKeeper
) -> None:
    transcript.show_conversation(answered(("Hello", "Good day.")))
    written(qtbot, transcript)
    try:
        theme.apply("dark")
        written(qtbot, transcript)
        found = transcript.document().find("Copy")
        assert found.charFormat().foreground().color() == theme.colors.muted
        assert transcript.toPlainText().count("Good day.") == 1
    finally:
        theme.apply("light")


def test_the_column_stays_readable_in_a_wide_window_and_fits_a_narrow_one(transcript: Transcript, qtbot: QtBot) -> None:
    transcript.show_conversation(answered(("Hello", "word " * 200)))
    written(qtbot, transcript)
    for width in (1600, 420):
        transcript.resize(width, 500)
        root = transcript.document().rootFrame().frameFormat()
        column = transcript.viewport().width() - root.leftMargin() - root.rightMargin()
        assert 120 < column <= 760 and transcript.horizontalScrollBar().maximum() == 0

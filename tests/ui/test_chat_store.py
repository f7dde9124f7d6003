"""Conversations on disk, through a real controller: saved, set aside when damaged, deleted and brought back."""

from __future__ import annotations

import pytest
from pytestqt.qtbot import QtBot

from app.paths import Home
from app.ui.bridge import Bridge
from app.ui.chat.chat_desk import ChatDesk
from app.ui.chat.chat_screen import ChatScreen
from app.ui.chat.chat_store import ChatStore, Found
from app.ui.chat.conversation import Conversation, Outcome, from_json
from app.ui.notices import Notice
from app.ui.settings import Settings
from app.ui.theme import ThemeKeeper
from app.ui.workbench import Workbench
from tests.ui.chat_events import finish, stream


def conversation(text: str = "Hello?") -> Conversation:
    made = Conversation(model="m")
    made.ask(text).outcome = Outcome.COMPLETE
    return made


@pytest.fixture
def store(workbench: Workbench) -> ChatStore:
    return ChatStore(workbench.bridge, workbench.settings, workbench)


def found(store: ChatStore, qtbot: QtBot) -> Found:
    with qtbot.waitSignal(store.found) as signal:
        store.load()
    result = signal.args[0]
    assert isinstance(result, Found)
    return result


def test_what_is_saved_is_found_and_opened_again(store: ChatStore, qtbot: QtBot, home: Home) -> None:
    first, second = conversation("One?"), conversation("Two?")
    with qtbot.waitSignals([store.saved, store.saved]):
        store.save(first, now=True)
        store.save(second, now=True)
    assert [summary.title for summary in found(store, qtbot).summaries] == ["Two?", "One?"]
    with qtbot.waitSignal(store.open(first.id).done) as opened:
        pass
    assert opened.args == [first]
    assert (home.root / "chats").stat().st_mode & 0o077 == 0, "conversations are for the user alone"


def test_changes_within_two_seconds_become_one_write_that_has_the_last_of_them(
    store: ChatStore, qtbot: QtBot, home: Home
) -> None:
    saved: list[str] = []
    store.saved.connect(saved.append)
    chat = conversation()
    store.save(chat, now=True)
    qtbot.waitUntil(lambda: len(saved) == 1)
    for number in range(50):
        chat.messages[-1].text = f"word {number}"
        store.save(chat)
    with qtbot.waitSignal(store.saved, timeout=5000):
        pass
    kept = from_json((home.root / "chats" / f"{chat.id}.json").read_bytes())
    assert len(saved) == 2 and kept.messages[-1].text == "word 49"


def test_a_damaged_file_is_set_aside_and_said(workbench: Workbench, qtbot: QtBot, home: Home) -> None:
    folder = home.root / "chats"
    folder.mkdir()
    (folder / "broken.json").write_bytes(b'{"id": "bro')
    desk = ChatDesk(workbench, workbench)
    with qtbot.waitSignal(workbench.notices.banners_changed):
        desk.load()
    banner = workbench.notices.banners[-1]
    assert "could not be read" in banner.text and str(folder) in banner.advice
    assert (folder / "broken.json.damaged").read_bytes() == b'{"id": "bro'
    assert not (folder / "broken.json").exists() and desk.list.rowCount() == 0


def test_a_deleted_conversation_comes_back_by_undo(workbench: Workbench, qtbot: QtBot, home: Home) -> None:
    desk = ChatDesk(workbench, workbench)
    chat = conversation("Keep me?")
    path = home.root / "chats" / f"{chat.id}.json"
    with qtbot.waitSignal(desk.store.saved):
        desk.store.save(chat, now=True)
    with qtbot.waitSignal(desk.store.found):
        desk.load()
    with qtbot.waitSignal(workbench.notices.toasted) as toasted:
        desk.delete(chat.id)
    assert desk.list.rowCount() == 0
    qtbot.waitUntil(lambda: not path.exists())
    notice = toasted.args[0]
    assert isinstance(notice, Notice) and notice.actions[0].text == "Undo"
    notice.actions[0].run()
    assert desk.list.row_of(chat.id) == 0
    qtbot.waitUntil(path.exists)
    qtbot.waitUntil(lambda: desk.conversation.id == chat.id)
    assert desk.conversation.messages[0].text == "Keep me?"


def test_a_conversation_that_was_not_open_can_be_renamed(workbench: Workbench, qtbot: QtBot, home: Home) -> None:
    desk = ChatDesk(workbench, workbench)
    chat = conversation("Old name?")
    with qtbot.waitSignal(desk.store.saved):
        desk.store.save(chat, now=True)
    with qtbot.waitSignal(desk.store.found):
        desk.load()
    with qtbot.waitSignal(desk.store.saved):
        desk.list.setData(desk.list.index(0), "New name")
    kept = from_json((home.root / "chats" / f"{chat.id}.json").read_bytes())
    assert kept.title == "New name" and kept.messages == chat.messages


def test_nothing_is_stored_when_the_user_does_not_want_it(workbench: Workbench, store: ChatStore, qtbot: QtBot) -> None:
    workbench.settings.set("chat/keep_history", False)
    store.save(conversation(), now=True)
    assert found(store, qtbot).summaries == ()


def test_what_streams_while_the_window_closes_is_on_disk(qtbot: QtBot, home: Home, theme: ThemeKeeper) -> None:
    bridge = Bridge()
    workbench = Workbench(bridge, Settings(home.root / "window.ini"), theme)
    with qtbot.waitSignal(workbench.cluster.loaded, timeout=20_000):
        bridge.start(home)
    screen = ChatScreen(workbench)
    qtbot.addWidget(screen)
    screen.open_with("nowhere")
    assert screen.ask("Tell me a story")
    answer = screen.desk.answer
    assert answer is not None
    stream(answer, "Once upon a")
    screen.save()
    stream(answer, " time")
    with qtbot.waitSignal(bridge.closed, timeout=20_000):
        bridge.close()
    if screen.is_streaming:
        finish(answer)
    kept = from_json((home.root / "chats" / f"{screen.desk.conversation.id}.json").read_bytes())
    assert kept.messages[-1].text.startswith("Once upon a time") and kept.messages[-1].outcome is not Outcome.STREAMING
    workbench.deleteLater()
    bridge.deleteLater()


def test_a_change_that_waited_for_a_write_is_on_disk_when_the_window_closes_just_after(
    qtbot: QtBot, home: Home, theme: ThemeKeeper
) -> None:
    bridge = Bridge()
    workbench = Workbench(bridge, Settings(home.root / "window.ini"), theme)
    with qtbot.waitSignal(workbench.cluster.loaded, timeout=20_000):
        bridge.start(home)
    store, chat = ChatStore(bridge, workbench.settings, workbench), conversation()
    store.save(chat, now=True)
    chat.messages[-1].text = "the last word"
    store.save(chat, now=True)
    with qtbot.waitSignal(store.saved):
        pass
    with qtbot.waitSignal(bridge.closed, timeout=20_000):
        bridge.close()
    kept = from_json((home.root / "chats" / f"{chat.id}.json").read_bytes())
    assert kept.messages[-1].text == "the last word"
    workbench.deleteLater()
    bridge.deleteLater()

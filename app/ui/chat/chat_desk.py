"""Everything about chats but their looks: the conversations, which one is open, and the answers under way."""

from __future__ import annotations

import copy

from PySide6.QtCore import QObject, Signal, Slot

from app.errors import ShardboardError
from app.ui.chat.answer import Answer
from app.ui.chat.chat_store import ChatStore, Found
from app.ui.chat.conversation import Conversation, Message, Outcome
from app.ui.chat.conversation_list import ConversationList
from app.ui.notices import Level, NoticeAction
from app.ui.workbench import Workbench

DAMAGED_KEY = "chat/damaged"
UNSAVED_KEY = "chat/unsaved"


class ChatDesk(QObject):
    """Asks, follows, stops and keeps. One conversation is open; answers go on in those that are not."""

    opened = Signal(object)
    """The Conversation that is open now."""
    messages_changed = Signal()
    """Messages of the open conversation came or went."""
    answer_moved = Signal(object)
    """An Answer of any conversation: its phase or its prompt's progress."""
    text_added = Signal(object, str)
    """An Answer of any conversation, and a batch of its text."""
    answer_ended = Signal(object)
    """An Answer of any conversation."""
    options_refused = Signal(object)
    """A RequestError: the parameters of the open conversation cannot be used."""

    def __init__(self, workbench: Workbench, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._workbench = workbench
        self.store = ChatStore(workbench.bridge, workbench.settings, self)
        self.list = ConversationList(self)
        self.conversation = Conversation()
        self._open: dict[str, Conversation] = {}
        self._answers: dict[str, Answer] = {}
        self._wanted = self._open_later = ""
        self.store.found.connect(self._on_found)
        self.store.save_failed.connect(self._on_save_failed)
        self.store.saved.connect(self._on_saved)
        self.list.renamed.connect(self._on_renamed)

    # --- answers under way ---

    @property
    def answer(self) -> Answer | None:
        """The one under way in the open conversation."""
        return self._answers.get(self.conversation.id)

    def answers(self) -> list[Answer]:
        """All that are under way."""
        return list(self._answers.values())

    def ask(self, text: str) -> Answer | None:
        """Ask the open conversation's model. None when the parameters are refused or an answer is under way."""
        if self.answer is not None or not text.strip() or not self._options_are_valid():
            return None
        return self._begin(self.conversation.ask(text))

    def ask_again(self) -> Answer | None:
        """Have the last answer written anew: after an error, or because another one is wanted."""
        messages = self.conversation.messages
        if self.answer is not None or not messages or not self._options_are_valid():
            return None
        if messages[-1].is_answer:
            messages.pop()
        return self._begin(self.conversation.await_answer())

    def go_on(self) -> Answer | None:
        """Have the last text continued where it ends; for raw completions."""
        last = self.conversation.last_answer
        if self.answer is not None or last is None or not last.raw or not self._options_are_valid():
            return None
        last.outcome, last.problem = Outcome.STREAMING, None
        return self._begin(last)

    def ask_instead(self, text: str) -> Answer | None:
        """Put another question in the place of the last one."""
        if self.answer is not None or not text.strip() or not self._options_are_valid():
            return None
        self.conversation.take_back()
        return self.ask(text)

    def stop(self) -> None:
        if self.answer is not None:
            self.answer.stop()

    def _options_are_valid(self) -> bool:
        try:
            self.conversation.options.parameters()
        except ShardboardError as error:
            self.options_refused.emit(error)
            return False
        return True

    def _begin(self, message: Message) -> Answer:
        conversation = self.conversation
        message.model = conversation.model
        answer = Answer(conversation, message, self)
        self._open[conversation.id] = conversation
        self._answers[conversation.id] = answer
        self.list.set_streaming(conversation.id, True)
        self.list.put(conversation, on_top=True)
        answer.moved.connect(self.answer_moved)
        answer.text_added.connect(self._on_text)
        answer.ended.connect(self._on_ended)
        stream = self._workbench.bridge.generate(
            conversation.model, conversation.prompt(), conversation.options.parameters()
        )
        answer.follow(stream)
        self.store.save(conversation)
        self.messages_changed.emit()
        self.answer_moved.emit(answer)
        return answer

    @Slot(object, str)
    def _on_text(self, answer: Answer, text: str) -> None:
        self.store.save(answer.conversation)
        self.text_added.emit(answer, text)

    @Slot(object)
    def _on_ended(self, answer: Answer) -> None:
        conversation = answer.conversation
        self._answers.pop(conversation.id, None)
        self.list.set_streaming(conversation.id, False)
        if self.list.row_of(conversation.id) >= 0:  # else it was deleted meanwhile
            self.list.put(conversation)
            self.store.save(conversation, now=True)
        self.answer_ended.emit(answer)
        answer.deleteLater()

    # --- conversations ---

    def load(self) -> None:
        """Read what there is on disk; once."""
        self.store.load()

    def new(self, model: str | None = None) -> None:
        """Begin another conversation, with the parameters of the one before."""
        before = self.conversation
        self._wanted = ""
        chosen = before.model if model is None else model
        self.conversation = Conversation(model=chosen, options=copy.copy(before.options))
        self.opened.emit(self.conversation)

    def open(self, id: str) -> None:
        """Show a conversation; one that is not in memory is read first."""
        if id == self.conversation.id:
            self._wanted = ""
            return
        if (known := self._open.get(id)) is not None:
            self._wanted = ""
            self.conversation = known
            self.opened.emit(known)
            return
        self._wanted = id
        call = self.store.open(id)
        call.done.connect(self._on_read)
        call.failed.connect(self._on_unreadable)

    def open_again(self, id: str) -> None:
        """Open what was open at the end of the last session, once the list is there and still has it."""
        if self.list.row_of(id) >= 0:
            self.open(id)
        else:
            self._open_later = id

    @Slot(object)
    def _on_read(self, conversation: Conversation) -> None:
        known = self._open.setdefault(conversation.id, conversation)
        known.title = title.title if (title := self.list.summary(known.id)) is not None else known.title
        if self.list.row_of(known.id) >= 0:
            self.list.put(known)
        if self._wanted == known.id:
            self._wanted = ""
            self.conversation = known
            self.opened.emit(known)

    @Slot(object)
    def _on_unreadable(self, error: ShardboardError) -> None:
        if self._wanted:
            self.list.take(self._wanted)
            self._wanted = ""
        self._workbench.notices.error("Opening a conversation", error)

    def choose_model(self, model: str) -> None:
        self.conversation.model = model
        if self.list.row_of(self.conversation.id) >= 0:
            self.list.put(self.conversation)
            self.store.save(self.conversation)

    def options_changed(self) -> None:
        """The open conversation's options are others now."""
        self.store.save(self.conversation)

    def delete(self, id: str) -> None:
        """Take a conversation away, with a way back for as long as the toast stands."""
        row, summary = self.list.row_of(id), self.list.summary(id)
        if summary is None:
            return
        if (answer := self._answers.get(id)) is not None:
            answer.stop()
        self.list.take(id)
        self.store.delete(id)
        if id == self.conversation.id:
            self.new()

        def undo() -> None:
            if self.list.row_of(id) < 0:
                self.list.restore(summary, row)
                back = self.store.bring_back(id)
                if (conversation := self._open.get(id)) is not None:
                    self.store.save(conversation)
                    self.open(id)
                else:
                    self._wanted = id
                    back.done.connect(self._on_back)

        self._workbench.notices.toast(f"Deleted “{summary.title}”.", Level.INFO, NoticeAction("Undo", undo))

    @Slot()
    def _on_back(self) -> None:
        if self._wanted:
            self.open(self._wanted)

    @Slot(str, str)
    def _on_renamed(self, id: str, title: str) -> None:
        if (conversation := self._open.get(id)) is not None:
            conversation.title = title
            self.store.save(conversation, now=True)
            return
        call = self.store.open(id)
        call.done.connect(self._on_read_to_rename)

    @Slot(object)
    def _on_read_to_rename(self, conversation: Conversation) -> None:
        self._on_read(conversation)
        self.store.save(self._open[conversation.id], now=True)

    @Slot(object)
    def _on_found(self, found: Found) -> None:
        listed = [self._open.get(summary.id, summary) for summary in found.summaries]
        known = {summary.id for summary in listed}
        begun = [each for each in self._open.values() if each.id not in known and not each.is_empty]
        self.list.reset([*begun, *listed])
        if self._open_later in known and self.conversation.is_empty:
            self.open(self._open_later)
        self._open_later = ""
        if found.damaged:
            count = len(found.damaged)
            text = "A conversation could not be read." if count == 1 else f"{count} conversations could not be read."
            files = "\n".join(str(path) for path in found.damaged)
            self._workbench.notices.banner(
                DAMAGED_KEY, Level.WARNING, text,
                advice=f"The files were set aside in {found.damaged[0].parent}; nothing was deleted.", details=files,
            )  # fmt: skip

    @Slot(object)
    def _on_save_failed(self, error: ShardboardError) -> None:
        self._workbench.notices.error("Saving conversations", error, key=UNSAVED_KEY)

    @Slot(str)
    def _on_saved(self, id: str) -> None:
        self._workbench.notices.withdraw(UNSAVED_KEY)

"""The Chat screen: puts the list, the transcript, the input and the parameters around the desk."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from PySide6.QtCore import Qt, QUrl, Slot
from PySide6.QtGui import QAction, QDesktopServices, QGuiApplication, QResizeEvent
from PySide6.QtWidgets import QToolButton, QWidget

from app.errors import ShardboardError
from app.inference.model_defaults import ModelDefaults
from app.ui import make
from app.ui.ask import ask
from app.ui.chat.answer import Answer
from app.ui.chat.chat_actions import ChatActions
from app.ui.chat.chat_desk import ChatDesk
from app.ui.chat.composer import Composer
from app.ui.chat.conversation import Conversation, Message, Outcome
from app.ui.chat.conversation_pane import ConversationPane
from app.ui.chat.markdown import is_safe
from app.ui.chat.message_writer import COLUMN
from app.ui.chat.model_choices import ModelChoices
from app.ui.chat.model_picker import ModelPicker
from app.ui.chat.parameters_pane import ParametersPane
from app.ui.chat.progress_strip import ProgressStrip
from app.ui.chat.transcript import Transcript
from app.ui.chat.welcome import Suggestions
from app.ui.empty_state import EmptyState
from app.ui.notices import Level
from app.ui.screen import Screen
from app.ui.theme import SPACING
from app.ui.workbench import Workbench

if TYPE_CHECKING:
    from app.controller import Controller

LIST_WIDTH = 224
PARAMETERS_WIDTH = 280
ROOM_FOR_LIST = 640
"""In a narrower screen the list of conversations gives way."""


class ChatScreen(Screen):
    key: ClassVar[str] = "chat"
    title: ClassVar[str] = "Chat"
    icon: ClassVar[str] = "message-square"

    def __init__(self, workbench: Workbench, parent: QWidget | None = None) -> None:
        super().__init__(workbench, parent)
        self._is_quiet = False
        self._unwritten: Message | None = None
        """The answer that has got text while nobody looked."""
        self.desk = ChatDesk(workbench, self)
        self.choices = ModelChoices(workbench.cluster, self)
        self.actions_ = ChatActions(self)
        self._defaults_of = ""
        self._build()
        self._connect()
        self.choices.refresh()
        self._on_opened(self.desk.conversation)
        self.desk.load()

    # --- the parts ---

    def _build(self) -> None:
        theme = self.workbench.theme
        self.pane = ConversationPane(self.desk.list, theme, self.actions_.new)
        self.parameters = ParametersPane()
        self.parameters.hide()
        self.picker = ModelPicker(self.choices, theme)
        self.transcript = Transcript(theme)
        self.suggestions = Suggestions(theme)
        self.nothing = EmptyState(theme)
        self.nothing.say(
            "message-square",
            "No model to talk to yet",
            "Put a model on the Board and deploy it, or let the first steps set up a small one here.",
        )
        self.nothing.offer("First steps", self._go_to_welcome, "rocket", primary=True)
        self.nothing.offer("Go to Board", self._go_to_board, "layout-dashboard")
        self.pages = make.stack(self.transcript, self.suggestions, self.nothing)
        self.strip = ProgressStrip()
        self.composer = Composer(theme)
        self.splitter = make.splitter(
            Qt.Orientation.Horizontal, self.pane, self._middle(), self.parameters,
            sizes=(LIST_WIDTH, COLUMN, PARAMETERS_WIDTH), growing=(1,),
        )  # fmt: skip
        make.row(self.splitter, within=self, spacing=None)
        QWidget.setTabOrder(self.picker, self.composer.input)
        QWidget.setTabOrder(self.composer.input, self.composer.button)

    def _middle(self) -> QWidget:
        middle = QWidget()
        middle.setMinimumWidth(320)
        self.where = make.label("", "muted")
        self.where.setSizePolicy(self.sizePolicy().horizontalPolicy().Ignored, self.sizePolicy().verticalPolicy())
        toggle = QToolButton()
        toggle.setDefaultAction(self.actions_.parameters)
        toggle.setAccessibleName("Parameters")
        header = make.row(self.picker, (self.where, 1), toggle, margins=(2 * SPACING, SPACING, SPACING, SPACING))
        column = make.column(self.strip, self.composer, spacing=SPACING // 2)
        bottom = make.row(margins=(2 * SPACING, 0, 2 * SPACING, 2 * SPACING), spacing=None)
        self._foot = QWidget()
        self._foot.setLayout(column)
        self._foot.setMaximumWidth(COLUMN + 2 * SPACING)
        bottom.addStretch(1)
        bottom.addWidget(self._foot, 1000)
        bottom.addStretch(1)
        make.column(header, (self.pages, 1), bottom, within=middle, spacing=0)
        return middle

    def _connect(self) -> None:
        desk = self.desk
        desk.opened.connect(self._on_opened)
        desk.messages_changed.connect(self._on_messages_changed)
        desk.text_added.connect(self._on_text_added)
        desk.answer_moved.connect(self._on_answer_moved)
        desk.answer_ended.connect(self._on_answer_ended)
        desk.options_refused.connect(self._on_options_refused)
        desk.list.modelReset.connect(self._mark_open)
        self.pane.opened.connect(desk.open)
        self.pane.deleted.connect(desk.delete)
        self.picker.chosen.connect(self._on_model_chosen)
        self.choices.modelReset.connect(self._on_choices_changed)
        self.choices.dataChanged.connect(self._on_choices_changed)
        self.transcript.wanted.connect(self._on_wanted)
        self.transcript.link_wanted.connect(self._on_link_wanted)
        self.transcript.copied.connect(self._on_copied)
        self.suggestions.asked.connect(self.ask)
        self.strip.run_wanted.connect(self._go_to_run)
        actions = self.actions_
        actions.new.triggered.connect(self.new_chat)
        actions.stop.triggered.connect(self.stop)
        actions.regenerate.triggered.connect(self.regenerate)
        actions.focus.triggered.connect(self.focus_input)
        actions.copy.triggered.connect(self.copy_last_answer)
        actions.parameters.toggled.connect(self.show_parameters)
        self.composer.sent.connect(self._on_sent)
        self.composer.stop_wanted.connect(self.stop)
        self.parameters.changed.connect(self._on_options_changed)
        self.parameters.close_wanted.connect(self._hide_parameters)
        self.workbench.cluster.loaded.connect(self._on_choices_changed)
        self.workbench.settings.changed.connect(self._on_setting)
        self._on_setting("chat/keep_history")

    # --- what tests and other screens use ---

    @property
    def answer_text(self) -> str:
        """The last answer as the model wrote it."""
        last = self.desk.conversation.last_answer
        return last.text if last is not None else ""

    @property
    def error_text(self) -> str:
        """Why the last answer failed, and what to do; empty when it did not."""
        last = self.desk.conversation.last_answer
        if last is None or last.problem is None:
            return ""
        return f"{last.problem.message} {last.problem.advice}".strip()

    @property
    def is_streaming(self) -> bool:
        return self.desk.answer is not None

    @Slot(str)
    def ask(self, text: str) -> bool:
        """Ask the chosen model; whether it was taken."""
        if not self._parameters_are_valid():
            return False
        return self.desk.ask(text) is not None

    @Slot()
    def stop(self) -> None:
        self.desk.stop()

    @Slot()
    def regenerate(self) -> None:
        if self._parameters_are_valid():
            self.desk.ask_again()

    # --- a screen ---

    def commands(self) -> list[QAction]:
        return self.actions_.all()

    def open_with(self, what: object) -> None:
        if isinstance(what, str) and what:
            if not self.desk.conversation.is_empty and self.desk.conversation.model != what:
                self.desk.new(what)
            else:
                self.desk.choose_model(what)
                self._show_model()
        self.composer.input.setFocus()

    def busy_with(self) -> list[str]:
        return [f"an answer of {answer.message.model}" for answer in self.desk.answers()]

    def save(self) -> dict[str, Any]:
        self.desk.store.flush()
        return {
            "conversation": self.desk.conversation.id if not self.desk.conversation.is_empty else "",
            "model": self.desk.conversation.model,
            "parameters": not self.parameters.isHidden(),
            "sizes": self.splitter.sizes(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        if isinstance(model := state.get("model"), str) and model and self.desk.conversation.is_empty:
            self.desk.choose_model(model)
            self._show_model()
        if isinstance(id := state.get("conversation"), str) and id and self.workbench.settings.get("chat/keep_history"):
            self.desk.open_again(id)
        self.actions_.parameters.setChecked(bool(state.get("parameters")))
        sizes = state.get("sizes")
        if isinstance(sizes, list) and len(sizes) == 3 and all(isinstance(size, int) for size in sizes):
            self.splitter.setSizes(sizes)

    def went_live(self) -> None:
        self.choices.is_live = True
        self._is_quiet = False
        if self._unwritten is not None:
            self.transcript.add_text(self._unwritten)
            self._unwritten = None
        self.choices.refresh()
        self.pane.set_live(True)
        self.composer.input.setFocus()

    def went_quiet(self) -> None:
        self._is_quiet = True
        self.choices.is_live = False
        self.pane.set_live(False)

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self.pane.setVisible(self.width() >= ROOM_FOR_LIST)

    # --- what the desk tells ---

    @Slot(object)
    def _on_opened(self, conversation: Conversation) -> None:
        self._unwritten = None
        self.composer.end_edit()
        self.parameters.show_options(conversation.options)
        self.transcript.show_conversation(conversation)
        self._mark_open()
        self._show_model()
        self._show_state()

    @Slot()
    def _mark_open(self) -> None:
        self.pane.select(self.desk.conversation.id)

    @Slot()
    def _on_messages_changed(self) -> None:
        self.transcript.sync()
        self._mark_open()
        self._show_state()

    @Slot(object, str)
    def _on_text_added(self, answer: Answer, text: str) -> None:
        if answer.conversation is self.desk.conversation:
            if self._is_quiet:  # laying out a long answer takes its time, and nobody sees it
                self._unwritten = answer.message
            else:
                self.transcript.add_text(answer.message)

    @Slot(object)
    def _on_answer_moved(self, answer: Answer) -> None:
        if answer.conversation is self.desk.conversation:
            self._show_state()

    @Slot(object)
    def _on_answer_ended(self, answer: Answer) -> None:
        if answer.conversation is self.desk.conversation:
            self._unwritten = None
            self.transcript.finish(answer.message)
            self._show_state()
        elif answer.message.outcome is not Outcome.INTERRUPTED:
            failed = answer.message.outcome is Outcome.FAILED
            text = f"“{answer.conversation.title}”: the answer {'failed' if failed else 'is complete'}."
            self.workbench.notices.toast(text, Level.WARNING if failed else Level.INFO)

    @Slot(object)
    def _on_options_refused(self, error: ShardboardError) -> None:
        self.actions_.parameters.setChecked(True)
        self.workbench.notices.toast(str(error), Level.WARNING)

    def _show_model(self) -> None:
        self.picker.choose(self.desk.conversation.model)
        self._on_choices_changed()

    @Slot()
    def _on_choices_changed(self) -> None:
        conversation = self.desk.conversation
        if not conversation.model:
            first = next((choice for choice in self.choices.rows if choice.usable), None)
            if first is not None:
                self.desk.choose_model(first.name)
                self.picker.choose(first.name)
        self._ask_defaults(conversation.model)
        self.where.setText(self.picker.note)
        self.where.setToolTip(self.picker.note)
        self._show_state()

    def _ask_defaults(self, model: str) -> None:
        """Have the parameters show what the model asks for where they are left empty."""
        if model == self._defaults_of:
            return
        self._defaults_of = model
        self.parameters.show_defaults(ModelDefaults())
        if model:
            call = self.workbench.bridge.call(partial(_defaults, model), "reading the model's parameters")
            call.done.connect(self._on_defaults)

    @Slot(object)
    def _on_defaults(self, told: tuple[str, ModelDefaults]) -> None:
        if told[0] == self._defaults_of:
            self.parameters.show_defaults(told[1])

    def _show_state(self) -> None:
        """Page, button and figures as they must be now."""
        conversation, answer = self.desk.conversation, self.desk.answer
        can_ask = bool(conversation.model)
        if not conversation.is_empty:
            self.pages.setCurrentWidget(self.transcript)
        elif self.workbench.cluster.is_loaded and not any(choice.usable for choice in self.choices.rows):
            self.pages.setCurrentWidget(self.nothing)
        else:
            self.suggestions.show_for(conversation.model, self.picker.note, raw=conversation.options.raw)
            self.suggestions.set_can_ask(can_ask)
            self.pages.setCurrentWidget(self.suggestions)
        self.composer.set_can_send(can_ask)
        self.composer.set_streaming(answer is not None)
        who = conversation.model or "a model"
        self.composer.set_placeholder(f"A text for {who} to continue" if conversation.options.raw else f"Ask {who}")
        if answer is not None:
            self.strip.follow(answer)
        else:
            self.strip.rest(conversation.last_answer)
        self.actions_.show_state(
            streaming=answer is not None,
            answered=conversation.last_answer is not None,
            text=bool(self.answer_text),
        )

    # --- what the user does ---

    def _parameters_are_valid(self) -> bool:
        if self.parameters.check():
            return True
        self.actions_.parameters.setChecked(True)
        self.parameters.focus_problem()
        return False

    @Slot(str)
    def _on_sent(self, text: str) -> None:
        if not self._parameters_are_valid():
            return
        taken = self.desk.ask_instead(text) if self.composer.is_editing else self.desk.ask(text)
        if taken is not None:
            self.composer.accept()

    @Slot(str)
    def _on_model_chosen(self, name: str) -> None:
        self.desk.choose_model(name)
        self._show_model()
        self.composer.input.setFocus()

    @Slot()
    def _on_options_changed(self) -> None:
        self.desk.options_changed()
        self._show_state()

    @Slot(str, str)
    def _on_wanted(self, action: str, id: str) -> None:
        message = next((each for each in self.desk.conversation.messages if each.id == id), None)
        if message is None:
            return
        match action:
            case "retry":
                self.regenerate()
            case "continue":
                self.desk.go_on()
            case "edit" if not self.is_streaming:
                question = self.desk.conversation.question_of(message)
                self.composer.edit(question.text if question is not None else "")
            case "run" if message.request_id is not None:
                self._go_to_run(message.request_id)
            case "log":
                self.workbench.navigate.emit("log", None)
            case "details" if message.problem is not None:
                details = message.problem.details or self.error_text
                QGuiApplication.clipboard().setText(details)
                self._on_copied("Details copied.")

    @Slot()
    def new_chat(self) -> None:
        self.desk.new()
        self.composer.input.setFocus()

    @Slot()
    def focus_input(self) -> None:
        self.composer.input.setFocus()

    @Slot()
    def copy_last_answer(self) -> None:
        if (last := self.desk.conversation.last_answer) is not None:
            self.transcript.copy_message(last.id)

    @Slot(bool)
    def show_parameters(self, visible: bool) -> None:
        self.parameters.setVisible(visible)

    @Slot()
    def _hide_parameters(self) -> None:
        self.actions_.parameters.setChecked(False)
        self.composer.input.setFocus()

    @Slot(str)
    def _on_copied(self, text: str) -> None:
        self.workbench.notices.toast(text)

    @Slot(QUrl)
    def _on_link_wanted(self, url: QUrl) -> None:
        """A link comes from a model: the user sees where it leads before it is opened."""
        if not is_safe(url.toString()):
            return
        question = "Open this link in the browser? The model wrote it; it may lead anywhere."
        proceed = partial(QDesktopServices.openUrl, url)
        ask(self, "Open link", question, "Open", proceed, more=url.toDisplayString(), is_harmless=True)

    @Slot()
    def _go_to_board(self) -> None:
        self.workbench.navigate.emit("board", None)

    @Slot()
    def _go_to_welcome(self) -> None:
        self.workbench.navigate.emit("welcome", None)

    @Slot(int)
    def _go_to_run(self, request_id: int) -> None:
        self.workbench.navigate.emit("runs", request_id)

    @Slot(str)
    def _on_setting(self, key: str) -> None:
        if key == "chat/keep_history":
            kept = self.workbench.settings.get(key)
            self.pane.note.setText(
                "Conversations are kept on this computer only."
                if kept
                else "Conversations are not kept: they end with this window."
            )


async def _defaults(model: str, controller: Controller, report: object) -> tuple[str, ModelDefaults]:
    return model, await asyncio.to_thread(controller.inference.defaults, model)

"""The line above the input: what an answer is waiting for, how far its prompt is, then how fast it streams."""

from __future__ import annotations

from PySide6.QtCore import Signal, Slot
from PySide6.QtWidgets import QWidget

from app.figures import duration, token_rate
from app.ui import make
from app.ui.chat.answer import Answer, Phase, Progress
from app.ui.chat.conversation import Message
from app.ui.chat.message_writer import figures_text
from app.ui.giving_way import ElidedLabel
from app.ui.theme import SPACING

UPDATE_MILLISECONDS = 100


class ProgressStrip(QWidget):
    """Looks at an answer ten times a second while there is one, and is still otherwise."""

    run_wanted = Signal(int)
    """Show this request in Runs."""

    def __init__(self, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._answer: Answer | None = None
        self._request: int | None = None
        layout = make.column(within=self, spacing=SPACING // 2)
        self.bar = make.progress("Progress of the prompt")
        keeps = self.bar.sizePolicy()
        keeps.setRetainSizeWhenHidden(True)
        self.bar.setSizePolicy(keeps)
        self.bar.setStyleSheet("QProgressBar { min-height: 3px; max-height: 3px; border-radius: 1px; }")
        self.text = ElidedLabel()
        self.text.setProperty("role", "muted")
        self.text.setObjectName("chat-figures")
        self.text.setAccessibleName("Progress of the answer")
        self.show_run = make.button("Show run", self._on_show_run, role="link", tip="See where each token's time went")
        row = make.row((self.text, 1), self.show_run, margins=(SPACING // 2, 0, SPACING // 2, 0), spacing=None)
        layout.addWidget(self.bar)
        layout.addLayout(row)
        self._timer = make.timer(self, self._update, UPDATE_MILLISECONDS, once=False)
        self.rest(None)

    def follow(self, answer: Answer) -> None:
        """Show this answer's progress from now on."""
        self._answer = answer
        self.show_run.hide()
        self._timer.start()
        self._update()

    def rest(self, message: Message | None) -> None:
        """Nothing is under way; the figures of the last answer stay."""
        self._answer = None
        self._timer.stop()
        self.bar.hide()
        self._request = message.request_id if message is not None and message.is_over else None
        self.text.say(_final(message) if message is not None else "")
        self.show_run.setVisible(self._request is not None)

    @Slot()
    def _update(self) -> None:
        if self._answer is None:
            return
        progress = self._answer.progress
        text = "Stopping" if self._answer.is_stopping else words(progress)
        self.text.say(text)
        self.bar.setVisible(progress.phase in (Phase.PREPARING, Phase.PROMPT) and not self._answer.is_stopping)
        if progress.phase is Phase.PROMPT and progress.prompt_total:
            self.bar.setRange(0, progress.prompt_total)
            self.bar.setValue(progress.prompt_done)
        else:
            self.bar.setRange(0, 0)

    @Slot()
    def _on_show_run(self) -> None:
        if self._request is not None:
            self.run_wanted.emit(self._request)


def words(progress: Progress) -> str:
    """An answer's phase in a few words."""
    elapsed = duration(progress.elapsed)
    match progress.phase:
        case Phase.WAITING:
            return f"Sent · {elapsed}"
        case Phase.PREPARING:
            return f"{progress.what} · {elapsed}"
        case Phase.PROMPT:
            return f"Processing prompt, {progress.prompt_done:,} of {progress.prompt_total:,} tokens · {elapsed}"
    figures = progress.figures
    parts = [token_rate(figures.tokens_per_second) if figures.tokens_per_second is not None else "Answering"]
    if figures.first_token is not None:
        parts.append(f"first token after {duration(figures.first_token)}")
    parts.append(f"{figures.tokens:,} tokens")
    parts.append(elapsed)
    return " · ".join(parts)


def _final(message: Message) -> str:
    text = figures_text(message)
    if message.figures is not None and message.figures.total is not None:
        text = " · ".join(part for part in (text, duration(message.figures.total)) if part)
    return text

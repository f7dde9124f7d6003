"""Under the plan bar while something is deployed, and after it failed: how far, how fast, why not, what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from PySide6.QtCore import Slot
from PySide6.QtWidgets import QFrame, QLabel, QWidget

from app.progress import progress_words
from app.ui import make
from app.ui.giving_way import ElidedLabel, FlowLayout
from app.ui.icons import mark
from app.ui.theme import SPACING

if TYPE_CHECKING:
    from app.ui.board.state.board_model import BoardModel

STEPS = 1000


class DeployPanel(QFrame):
    """Follows a deployment. Hidden while there is nothing to say."""

    def __init__(self, board: BoardModel, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.setProperty("role", "panel")
        self._board, self._deploying = board, board.deploying
        self.head = make.dressed(ElidedLabel(), "heading")
        self.bar = make.progress("Progress of the deployment")
        self.text = make.dressed(ElidedLabel(), "muted")
        self.reason = make.label(wraps=True, selectable=True, is_plain=True)
        self._icon = QLabel()
        self.cancel = make.button("Cancel", self._deploying.cancel, key="board-cancel")
        self.retry = make.button(
            "Retry",
            self._deploying.retry,
            role="primary",
            tip="What the nodes have received already is not sent again.",
        )
        self.previous = make.button("Deploy the previous placement again", self._deploying.restore_previous)
        self.anew = make.button("Take it down and deploy", self._deploying.deploy_anew)
        self.dismiss = make.button("Dismiss", self._deploying.dismiss)
        head = make.row(self._icon, (self.head, 1), self.cancel)
        foot = FlowLayout(SPACING)
        for button in (self.retry, self.anew, self.previous, self.dismiss):
            foot.addWidget(button)
        make.column(
            head, self.bar, self.text, self.reason, foot, within=self,
            margins=(2 * SPACING, SPACING, 2 * SPACING, SPACING + 4),
        )  # fmt: skip
        self._deploying.changed.connect(self.show_state)
        board.workbench.theme.changed.connect(self.show_state)
        self.show_state()

    @Slot()
    def show_state(self) -> None:
        failure, active = self._deploying.failure, self._deploying.is_active
        self.setVisible(active or failure is not None)
        whole: tuple[QWidget, ...] = (self.bar, self.text, self.cancel)
        for widget in whole:
            widget.setVisible(active)
        broken: tuple[QWidget, ...] = (self.reason, self.retry, self.dismiss)
        for widget in broken:
            widget.setVisible(not active and failure is not None)
        gone = not active and failure is not None and failure.previous is not None and not failure.live
        self.previous.setVisible(gone)
        self.anew.setVisible(not active and failure is not None and failure.live)
        colors = self._board.workbench.theme.colors
        if active:
            self._icon.setPixmap(mark("rocket", colors.accent))
            self._show_progress()
        elif failure is not None:
            self._icon.setPixmap(mark("circle-alert", colors.error))
            self.head.say(failure.title)
            advice = f"\n{failure.error.advice}" if failure.error.advice else ""
            self.reason.setText(failure.text + advice)

    def _show_progress(self) -> None:
        overall = self._deploying.overall
        self.head.say(f"{'Moving' if self._deploying.is_live else 'Deploying'} {self._deploying.model_name}")
        self.text.say("Cancelling…" if self._deploying.is_cancelling else progress_words(overall))
        self.cancel.setEnabled(not self._deploying.is_cancelling)
        if overall.total_bytes:
            self.bar.setRange(0, STEPS)
            self.bar.setValue(min(STEPS, overall.done_bytes * STEPS // overall.total_bytes))
        else:
            self.bar.setRange(0, 0)

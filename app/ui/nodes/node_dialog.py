"""What the dialogs that bring nodes in have in common: an introduction, work under way, and a problem said inline."""

from __future__ import annotations

from PySide6.QtCore import QElapsedTimer, QEvent, Slot
from PySide6.QtGui import QResizeEvent
from PySide6.QtWidgets import QDialog, QHBoxLayout, QLabel, QSizePolicy, QWidget

from app.errors import ShardboardError
from app.ui import make
from app.ui.bridge import Call
from app.ui.nodes.problem_card import ProblemCard
from app.ui.theme import SPACING
from app.ui.workbench import Workbench


class FittedDialog(QDialog):
    """Qt leaves the height of wrapped text out of a dialog's minimum, and would cut it off."""

    def event(self, event: QEvent) -> bool:
        handled = super().event(event)
        if event.type() in (QEvent.Type.LayoutRequest, QEvent.Type.Show):
            self._fit()
        return handled

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        if event.size().width() != event.oldSize().width():
            self._fit()

    def _fit(self) -> None:
        layout = self.layout()
        if layout is None:
            return
        needed = layout.totalHeightForWidth(self.width()) if layout.hasHeightForWidth() else layout.sizeHint().height()
        if needed != self.minimumHeight():
            self.setMinimumHeight(needed)
            self.resize(self.width(), needed)


class NodeDialog(FittedDialog):
    """A form over one call on the controller. It stays open, with what was typed, until the call has succeeded."""

    def __init__(self, workbench: Workbench, title: str, introduction: str, accept_text: str, parent: QWidget) -> None:
        super().__init__(parent)
        self.workbench = workbench
        self.setWindowTitle(title)
        self.setModal(True)
        self._call: Call | None = None
        self._doing = ""
        self._since = QElapsedTimer()
        self._ticker = make.timer(self, self._tick, 1000, once=False)
        heading = make.label(title, "title")
        self.body = make.column(spacing=2 * SPACING)
        self.problem = ProblemCard(workbench.theme)
        make.column(
            heading, wrapped(introduction), self.body, self.problem, make.STRETCH, self._make_busy(),
            self._make_buttons(accept_text), within=self,
            margins=make.DIALOG, spacing=2 * SPACING,
        )  # fmt: skip
        self.setMinimumWidth(self.fontMetrics().averageCharWidth() * 84)

    @property
    def is_busy(self) -> bool:
        return self._call is not None

    def follow(self, call: Call, doing: str) -> None:
        """Show that a call is under way, and its end."""
        self.problem.clear()
        self._call = call
        self._doing = doing
        self._since.start()
        self._ticker.start()
        self._show_busy(True)
        self._tick()
        call.done.connect(self._on_done)
        call.failed.connect(self._on_failed)
        call.ended.connect(self._on_ended)

    def cancel_call(self) -> None:
        """End the call under way, if there is one; the form can be used again when it has ended."""
        if self._call is not None:
            self._doing = "Cancelling"
            self._tick()
            self._call.cancel()

    # --- for subclasses ---

    def begin(self) -> None:
        """The primary button was pressed: check the form and `follow` a call."""
        raise NotImplementedError

    def succeeded(self, result: object) -> None:
        """The call has done what it was to do."""
        raise NotImplementedError

    def set_form_enabled(self, enabled: bool) -> None:
        """The form cannot be changed while its call is under way."""

    def show_doing(self, text: str) -> None:
        """Say what is under way."""
        self._busy_text.setText(text)

    def show_problem(self, error: ShardboardError) -> None:
        self.problem.show_error(error)

    # --- within ---

    def _make_busy(self) -> QWidget:
        self.busy = QWidget()
        self._busy_text = make.label("", "muted")
        bar = make.progress("Work is under way", most=0 if self.workbench.settings.get("appearance/animations") else 1)
        make.column(self._busy_text, bar, within=self.busy, spacing=SPACING // 2)
        self.busy.hide()
        return self.busy

    def _make_buttons(self, accept_text: str) -> QHBoxLayout:
        self.cancel_button = make.button("Cancel", self.reject, by_return=False)
        self.accept_button = make.button(accept_text, self.begin, role="primary", by_return=True)
        return make.row(make.STRETCH, self.cancel_button, self.accept_button)

    def _show_busy(self, busy: bool) -> None:
        self.busy.setVisible(busy)
        self.set_form_enabled(not busy)
        self.accept_button.setEnabled(not busy)

    @Slot()
    def _tick(self) -> None:
        seconds = self._since.elapsed() // 1000
        self.show_doing(f"{self._doing} … {seconds} s" if seconds else f"{self._doing} …")

    @Slot(object)
    def _on_done(self, result: object) -> None:
        self.succeeded(result)

    @Slot(object)
    def _on_failed(self, error: ShardboardError) -> None:
        self.show_problem(error)

    @Slot()
    def _on_ended(self) -> None:
        self._call = None
        self._ticker.stop()
        self._show_busy(False)

    def reject(self) -> None:
        """The first Cancel ends the work and leaves the form; the next one, or one without work, closes it."""
        if self._call is not None:
            self.cancel_call()
            return
        super().reject()


def wrapped(text: str, role: str = "muted") -> QLabel:
    """A label of as many lines as its text needs."""
    label = make.label(text, role, wraps=True)
    label.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Preferred)
    return label

"""A step of the first page as a card: what it does, how far it is, what went wrong, and its own button."""

from __future__ import annotations

from PySide6.QtCore import Qt, Signal, Slot
from PySide6.QtGui import QHideEvent, QShowEvent
from PySide6.QtWidgets import QFrame, QLabel, QSizePolicy, QWidget

from app.figures import amount_text, time_left
from app.ui import make
from app.ui.icons import icon
from app.ui.shell.error_dialog import ErrorDialog
from app.ui.shell.setup_step import SetupStep, StepState
from app.ui.shell.step_badge import StepBadge
from app.ui.theme import SPACING

BAR_STEPS = 1000


class StepCard(QFrame):
    """Shows one SetupStep. Its page calls `refresh` whenever anything may have changed."""

    wanted = Signal()
    """Its button was pressed while the step was waiting or had failed."""

    def __init__(
        self, number: int, step: SetupStep, description: str, button: str, parent: QWidget | None = None
    ) -> None:
        super().__init__(parent)
        self.step = step
        self._button_text = button
        theme = step.workbench.theme
        animated = bool(step.workbench.settings.get("appearance/animations"))
        self.setProperty("role", "card")
        self.setObjectName(f"welcome-step-{number}")
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        self.badge = StepBadge(number, theme, animated, self)
        title = make.label(step.title, "heading", self)
        font = title.font()
        font.setPointSizeF(font.pointSizeF() * 1.15)
        title.setFont(font)
        head = make.row(self.badge, (title, 1), spacing=SPACING + 4)
        self._description = self._words(description, "muted")
        self.status = self._words("", "")
        self.status.setMinimumHeight(2 * self.fontMetrics().lineSpacing())
        self.status.setAlignment(Qt.AlignmentFlag.AlignBottom | Qt.AlignmentFlag.AlignLeft)
        self.bar = make.progress(f"{step.title}: progress", self)
        self.button = make.button(button, self._on_pressed, self, key=f"welcome-step-{number}-button")
        self.details = make.button("Details", self._show_details, self, role="quiet")
        for part in (self.bar, self.button):  # the card keeps its height while they come and go
            policy = part.sizePolicy()
            policy.setRetainSizeWhenHidden(True)
            part.setSizePolicy(policy)
        foot = make.row(self.button, self.details, make.STRETCH)
        make.column(
            head, self._description, make.STRETCH, self.status, self.bar, foot, within=self, margins=2 * SPACING + 4,
            spacing=SPACING + 4,
        )  # fmt: skip
        self._clock = make.timer(self, self.refresh, 1000, once=False)
        theme.changed.connect(self.refresh)
        self.refresh()

    def _words(self, text: str, role: str) -> QLabel:
        return make.label(text, role, self, wraps=True, is_plain=True)

    @Slot()
    def refresh(self) -> None:
        """Show the step as it is now."""
        step, state = self.step, self.step.state
        self.badge.show_state(state)
        self.status.setText(self._status(state))
        make.change_role(self.status, {StepState.DONE: "ok", StepState.FAILED: "error"}.get(state, "muted"))
        self.bar.setVisible(state is StepState.RUNNING)
        progress = step.progress
        self.bar.setRange(0, BAR_STEPS if progress.total else 0)
        self.bar.setValue(round(BAR_STEPS * progress.done / progress.total) if progress.total else 0)
        self.button.setVisible(state is not StepState.DONE)
        self.button.setText({StepState.RUNNING: "Cancel", StepState.FAILED: "Retry"}.get(state, self._button_text))
        self.button.setIcon(icon({StepState.RUNNING: "x", StepState.FAILED: "rotate-ccw"}.get(state, "play")))
        why_not = step.why_not() if state in (StepState.WAITING, StepState.FAILED) else ""
        self.button.setEnabled(not why_not)
        self.button.setToolTip(why_not)
        self.button.setAccessibleName(f"{self.button.text()}: {step.title}")
        self.details.setVisible(state is StepState.FAILED)
        self.setAccessibleName(f"{step.title}, {state.value}. {self.status.text()}")
        self._run_clock()

    def _status(self, state: StepState) -> str:
        step, progress = self.step, self.step.progress
        match state:
            case StepState.DONE:
                return step.result()
            case StepState.FAILED if step.error is not None:
                return f"{step.error.message} {step.error.advice}".strip()
            case StepState.RUNNING:
                parts = [progress.text or "Beginning"]
                if progress.total:
                    parts.append(amount_text(progress.done, progress.total))
                if progress.seconds_left is not None and progress.total:
                    parts.append(f"about {time_left(progress.seconds_left)} left")
                else:
                    parts.append(f"{int(step.elapsed)} s")
                return " · ".join(parts)
        return ""

    def _run_clock(self) -> None:
        wanted = self.step.state is StepState.RUNNING and self.isVisible()
        if wanted and not self._clock.isActive():
            self._clock.start()
        elif not wanted:
            self._clock.stop()

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._run_clock()

    def hideEvent(self, event: QHideEvent) -> None:
        super().hideEvent(event)
        self._run_clock()

    @Slot()
    def _on_pressed(self) -> None:
        if self.step.state is StepState.RUNNING:
            self.step.cancel()
        else:
            self.wanted.emit()

    @Slot()
    def _show_details(self) -> None:
        if self.step.error is not None:
            ErrorDialog.of_error(self.step.what, self.step.error, self.step.workbench.theme, self.window()).open()

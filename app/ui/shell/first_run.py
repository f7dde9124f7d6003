"""The first page: from nothing to an answer of a model split over two agents, with one button."""

from __future__ import annotations

from PySide6.QtCore import Qt, Slot
from PySide6.QtGui import QResizeEvent, QShowEvent
from PySide6.QtWidgets import QBoxLayout, QFrame, QHBoxLayout, QScrollArea, QWidget

from app.ui import make
from app.ui.icons import icon
from app.ui.shell.pipeline_picture import LAYERS, PictureState, PipelinePicture
from app.ui.shell.setup import Setup, SetupState
from app.ui.shell.setup_step import StepState
from app.ui.shell.setup_steps import DOWNLOAD_BYTES, LICENCE, MODEL, usable_nodes
from app.ui.shell.step_card import StepCard
from app.ui.theme import SPACING
from app.ui.workbench import Workbench

WIDEST = 1040
NARROW_IN_CHARACTERS = 110
"""Below this width the cards stand one below the other."""

AGENTS_WORDS = (
    "An agent is the program that holds layers and computes. On this machine they stand in for two separate ones."
)
MODEL_WORDS = (
    f"{MODEL}: a download of {DOWNLOAD_BYTES // 1_000_000}\u00a0MB, free to use ({LICENCE}). It is kept for later."
)
SPLIT_WORDS = f"Each agent gets half of the {LAYERS} layers. Neither could answer alone; together they do."


class WelcomePage(QScrollArea):
    """Shown while there are no nodes and no models, or when asked for."""

    def __init__(self, workbench: Workbench, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.workbench = workbench
        self.setup = Setup(workbench, self)
        self.setObjectName("welcome")
        self.setAccessibleName("Welcome")
        self.setWidgetResizable(True)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.picture = PipelinePicture(workbench.theme)
        self.cards = (
            StepCard(1, self.setup.agents, AGENTS_WORDS, "Start agents"),
            StepCard(2, self.setup.model, MODEL_WORDS, "Get the model"),
            StepCard(3, self.setup.split, SPLIT_WORDS, "Split the model"),
        )
        for card in self.cards:
            card.wanted.connect(self._on_step_wanted)
        self.primary = make.button(run=self._on_primary, role="primary")
        self.cancel = make.button("Cancel", self.setup.cancel, tip="Stop here; what is done stays")
        font = self.primary.font()
        font.setPointSizeF(font.pointSizeF() * 1.15)
        for button in (self.primary, self.cancel):
            button.setFont(font)
            button.setMinimumHeight(self.fontMetrics().height() * 5 // 2)
        self.primary.setMinimumWidth(self.fontMetrics().averageCharWidth() * 24)
        self.note = make.label("", "muted", wraps=True)
        self.note.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        self._cards_row = QBoxLayout(QBoxLayout.Direction.LeftToRight)
        self._build()
        self.setup.changed.connect(self.refresh)
        self.refresh()

    def _build(self) -> None:
        title = make.label("One model, several machines", "title")
        font = title.font()
        font.setPointSizeF(22)
        font.setWeight(font.Weight.DemiBold)
        title.setFont(font)
        title.setStyleSheet("font-size: 22pt;")
        title.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        lead = make.label(
            "Shardboard cuts a language model into parts and runs them as a pipeline. "
            "Try it here first: two agents on this machine share a small model, and you talk to it.",
            "muted",
            wraps=True,
        )
        lead.setAlignment(Qt.AlignmentFlag.AlignHCenter)
        self._cards_row.setSpacing(2 * SPACING)
        for card in self.cards:
            self._cards_row.addWidget(card, 1)
        buttons = make.row(make.STRETCH, self.primary, self.cancel, make.STRETCH)
        inside = QWidget()
        inside.setMaximumWidth(WIDEST)
        column = make.column(
            make.STRETCH, within=inside, margins=(3 * SPACING, 4 * SPACING, 3 * SPACING, 3 * SPACING), spacing=0
        )
        for part, space in ((title, 1), (lead, 4), (self.picture, 3)):
            column.addWidget(part)
            column.addSpacing(space * SPACING)
        column.addLayout(self._cards_row)
        column.addSpacing(4 * SPACING)
        column.addLayout(buttons)
        column.addSpacing(SPACING + 4)
        column.addWidget(self.note)
        column.addSpacing(3 * SPACING)
        column.addLayout(self._links())
        column.addStretch(2)
        outer = QWidget()
        make.row(make.STRETCH, (inside, 100), make.STRETCH, within=outer, spacing=None)
        self.setWidget(outer)

    def _links(self) -> QHBoxLayout:
        own = make.button("I have machines and a model already", self._on_own)
        invite = make.button("Invite another machine", self._on_invite)
        row = make.row(make.STRETCH, spacing=3 * SPACING)
        for link, name in ((own, "welcome-own"), (invite, "welcome-invite")):
            link.setProperty("role", "link")
            link.setObjectName(name)
            link.setCursor(Qt.CursorShape.PointingHandCursor)
            row.addWidget(link)
        row.addStretch(1)
        return row

    @Slot()
    def refresh(self) -> None:
        """Show how far the set-up is."""
        state = self.setup.state
        ready = state is SetupState.READY
        text, name, sign = {
            SetupState.READY: ("Open chat", "welcome-chat", "message-square"),
            SetupState.RUNNING: ("Setting it up…", "welcome-setup", "loader"),
            SetupState.FAILED: ("Try again", "welcome-setup", "rotate-ccw"),
            SetupState.IDLE: ("Set it up", "welcome-setup", "wand-sparkles"),
        }[state]
        self.primary.setText(text)
        self.primary.setObjectName(name)
        self.primary.setIcon(icon(sign, self.workbench.theme.colors.on_accent))
        self.primary.setEnabled(state is not SetupState.RUNNING)
        if self.cancel.hasFocus() and state is not SetupState.RUNNING:
            self.primary.setFocus()  # before the button that has it vanishes
        self.cancel.setVisible(state is SetupState.RUNNING)
        self.note.setText(
            "Ready. Ask it something." if ready
            else "Takes about a minute, most of it the download. Nothing you write leaves this machine."
        )  # fmt: skip
        for card in self.cards:
            card.refresh()
        self.picture.show_state(self._picture())

    def busy_with(self) -> list[str]:
        """What closing the window would interrupt, as screens say it. The other steps are jobs and ask themselves."""
        return ["starting the agents"] if self.setup.agents.state is StepState.RUNNING else []

    def _picture(self) -> PictureState:
        names = tuple(view.name for view in usable_nodes(self.workbench)[:2])
        deployment = self.setup.split.deployment()
        boundary = (
            deployment.shards[0].end_layer if deployment is not None and len(deployment.shards) > 1 else LAYERS // 2
        )
        return PictureState(names, self.setup.model.is_done(), deployment is not None, boundary)

    @Slot()
    def _on_primary(self) -> None:
        if self.setup.state is SetupState.READY:
            self.workbench.navigate.emit("chat", MODEL)
        else:
            self.setup.run()
            self.cancel.setFocus()

    @Slot()
    def _on_step_wanted(self) -> None:
        card = self.sender()
        if not isinstance(card, StepCard):
            return
        if card.step.state is StepState.FAILED and self.setup.was_run:
            self.setup.run()  # the user asked for all of it
        else:
            card.step.start()

    @Slot()
    def _on_own(self) -> None:
        self.workbench.navigate.emit("board", None)

    @Slot()
    def _on_invite(self) -> None:
        self.workbench.navigate.emit("nodes", "invite")

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        if self.primary.isEnabled():
            self.primary.setFocus()

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        narrow = event.size().width() < self.fontMetrics().averageCharWidth() * NARROW_IN_CHARACTERS
        direction = QBoxLayout.Direction.TopToBottom if narrow else QBoxLayout.Direction.LeftToRight
        if self._cards_row.direction() is not direction:
            self._cards_row.setDirection(direction)

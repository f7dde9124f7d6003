"""What can be done with a model of the library."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from PySide6.QtGui import QAction
from PySide6.QtWidgets import QMenu, QWidget

from app.errors import ShardboardError
from app.ui.ask import ask
from app.ui.board.state.lanes import Selection
from app.ui.icons import icon
from app.ui.notices import Level

if TYPE_CHECKING:
    from app.controller import Controller
    from app.ui.board.state.board_model import BoardModel


class LibraryMenu(QMenu):
    """Everything that can be done with one model. What is not possible is shown and says why."""

    def __init__(self, board: BoardModel, name: str, parent: QWidget) -> None:
        super().__init__(parent)
        self.setToolTipsVisible(True)
        self.aboutToHide.connect(self.deleteLater)
        self._board, self._name, self._parent = board, name, parent
        workbench = board.workbench
        verdict = board.judge_model(name, None)
        self._entry(
            self, "Propose a plan", "wand-sparkles", partial(board.propose, name), verdict.text, verdict.allowed
        )  # fmt: skip
        place = self.addMenu(icon("server"), "Place on node")
        place.setToolTipsVisible(True)
        for view in workbench.cluster.nodes.values():
            judged = board.judge_model(name, view.id)
            text = view.name if judged.allowed else f"{view.name} – {judged.text}"
            self._entry(place, text, "server", partial(board.place_model, name, view.id), judged.text, judged.allowed)
        place.setEnabled(not place.isEmpty())
        self.addSeparator()
        self._entry(self, "Cut into shards…", "scissors", self._cut)
        self._entry(self, "Inspect", "info", self._inspect)
        deployed = workbench.cluster.deployment_of(name) is not None
        if deployed:
            self._entry(self, "Open chat", "message-square", partial(workbench.navigate.emit, "chat", name))
        self.addSeparator()
        self._entry(
            self, "Remove from the library…", "trash-2", self._remove,
            "It is deployed; take it down first." if deployed else "", not deployed,
        )  # fmt: skip

    def _entry(
        self, menu: QMenu, text: str, picture: str, work: Callable[[], object], tip: str = "", enabled: bool = True
    ) -> None:
        action = QAction(icon(picture), text.replace("&", "&&"), menu)
        action.setEnabled(enabled)
        if tip:
            action.setToolTip(tip[:1].upper() + tip[1:])
        action.triggered.connect(lambda: self._attempt(work))
        menu.addAction(action)

    def _attempt(self, work: Callable[[], object]) -> None:
        try:
            work()
        except ShardboardError as error:
            self._board.workbench.notices.toast(str(error), Level.WARNING)

    def _cut(self) -> None:
        from app.ui.jobs.cut_dialog import CutDialog

        CutDialog(self._board.workbench, self._name, parent=self._parent).open()

    def _inspect(self) -> None:
        self._board.choose_model(self._name)
        self._board.select(Selection(model=self._name))

    def _remove(self) -> None:
        ask(
            self._parent,
            "Remove a model",
            f"Remove {self._name} from the library? What the library downloaded or converted for it is deleted; "
            "your own files stay.",
            "Remove",
            partial(remove_model, self._board, self._name),
        )


def remove_model(board: BoardModel, name: str) -> None:
    """Have the controller forget a model."""

    async def work(controller: Controller, report: object) -> None:
        await controller.remove_model(name)

    notices = board.workbench.notices
    call = board.workbench.bridge.call(work, f"removing {name}")
    call.done.connect(lambda _: notices.toast(f"{name} was removed from the library."))
    call.failed.connect(lambda error: notices.error(f"{name} could not be removed", error))

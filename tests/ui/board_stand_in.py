"""A board with made-up nodes and a model, as the tests of the scene need it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from PySide6.QtCore import QMimeData, QPoint, Qt
from PySide6.QtGui import QDragEnterEvent, QDragLeaveEvent, QDragMoveEvent, QDropEvent
from PySide6.QtWidgets import QApplication
from pytestqt.qtbot import QtBot

from app.models.description import ModelDescription
from app.sharding.planning.aims import FITS
from app.ui.board.scene.view import BoardView
from app.ui.board.state.board_model import BoardModel
from app.ui.board.state.lanes import MIME_MODEL, MIME_SHARD
from app.ui.lists import Lists
from app.ui.snapshots import DeploymentSnapshot
from app.ui.workbench import Workbench
from tests.ui import simulated

MB = simulated.MB


@dataclass
class Stand:
    """A view on a board, shown."""

    workbench: Workbench
    board: BoardModel
    view: BoardView
    model: ModelDescription

    def mouse(self, at: QPoint) -> QPoint:
        """A point of the screen as the viewport counts."""
        return self.view.viewport().mapFromGlobal(at)

    def drag_to(self, data: QMimeData, at: QPoint) -> bool:
        """Enter the board and move to a point of the screen; whether a drop would be taken there."""
        viewport, where = self.view.viewport(), self.mouse(at)
        QApplication.sendEvent(viewport, QDragEnterEvent(where, *_drag(data)))
        move = QDragMoveEvent(where, *_drag(data))
        QApplication.sendEvent(viewport, move)
        return move.isAccepted()

    def drop(self, data: QMimeData, at: QPoint) -> None:
        QApplication.sendEvent(self.view.viewport(), QDropEvent(self.mouse(at).toPointF(), *_drag(data)))

    def leave(self) -> None:
        QApplication.sendEvent(self.view.viewport(), QDragLeaveEvent())

    def load(self) -> DeploymentSnapshot:
        """Have the draft said to be deployed as it is."""
        draft = self.board.arrangement
        assert draft is not None
        stages = [(piece.node_id or 0, piece.start, piece.end) for piece in draft.pieces]
        view = simulated.deployment("made-up", self.model, stages)
        record = replace(view.record, **asdict(draft.serving))
        view = replace(view, record=record)
        self.workbench.cluster.take_lists(Lists(deployments=(view,)))
        return view


def _drag(data: QMimeData) -> tuple[Qt.DropAction, QMimeData, Qt.MouseButton, Qt.KeyboardModifier]:
    actions = Qt.DropAction.MoveAction | Qt.DropAction.CopyAction
    return actions, data, Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier


def model_data(name: str) -> QMimeData:
    data = QMimeData()
    data.setData(MIME_MODEL, name.encode())
    return data


def shard_data(stage: int) -> QMimeData:
    data = QMimeData()
    data.setData(MIME_SHARD, str(stage).encode())
    return data


def stand(
    qtbot: QtBot,
    workbench: Workbench,
    *,
    nodes: int = 2,
    budget: int = 2_000 * MB,
    layers: int = 12,
    choose: bool = True,
) -> Stand:
    """Nodes that have `budget` each, and a model of about 100 MB a layer that is chosen and not placed."""
    model = simulated.model(layers=layers)
    simulated.fill(workbench.cluster, nodes=nodes, models=(model,), budget=budget)
    board = BoardModel(workbench, workbench)
    board.aim_at(FITS)  # which shares out what one node could hold
    view = BoardView(workbench, board)
    qtbot.addWidget(view)
    view.resize(760, 640)
    view.show()
    if choose:
        board.choose_model(model.name)
    return Stand(workbench, board, view, model)

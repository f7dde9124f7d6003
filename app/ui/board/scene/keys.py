"""The board by keyboard: the focus goes from card to card and from block to block, and keys do what drags do."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from PySide6.QtCore import Qt
from PySide6.QtGui import QKeyEvent

from app.ui.board.scene.board_scene import BoardScene, Spot
from app.ui.board.scene.spot_menu import next_cut
from app.ui.board.state.lanes import Selection

if TYPE_CHECKING:
    from app.ui.board.state.board_model import BoardModel

Key = Qt.Key


class Shown(Protocol):
    """What keys want of the view in which the scene is shown."""

    zoom: float

    def set_zoom(self, zoom: float) -> None: ...

    def fit(self) -> None: ...

    def focus_spot(self, spot: Spot) -> None: ...

    def say(self, text: str) -> None: ...

    def attempt(self, what: str, work: Callable[[], object]) -> bool: ...


class BoardKeys:
    """Moves the focus, and does for what has it what a drag would do."""

    def __init__(self, scene: BoardScene, board: BoardModel, view: Shown) -> None:
        self._scene, self._board, self._view = scene, board, view

    def step(self, forward: bool) -> bool:
        """Tab: to the next spot; False at the end, where the focus leaves the board."""
        spots = self._scene.spots()
        focus = self._scene.focus
        if not spots:
            return False
        if focus not in spots:
            self._view.focus_spot(spots[0 if forward else -1])
            return True
        index = spots.index(focus) + (1 if forward else -1)
        if not 0 <= index < len(spots):
            return False
        self._view.focus_spot(spots[index])
        return True

    def press(self, event: QKeyEvent) -> bool:
        """Whether the key meant something here."""
        view, scene = self._view, self._scene
        key, control = Key(event.key()), bool(event.modifiers() & Qt.KeyboardModifier.ControlModifier)
        if control:
            return self._press_control(key)
        spots = scene.spots()
        match key:
            case Key.Key_Right | Key.Key_Left:
                return self.step(key == Key.Key_Right) or bool(spots)
            case Key.Key_Down | Key.Key_Up:
                return self._row(1 if key == Key.Key_Down else -1)
            case Key.Key_Home | Key.Key_End if spots:
                view.focus_spot(spots[0 if key == Key.Key_Home else -1])
                return True
            case Key.Key_Return | Key.Key_Enter | Key.Key_Space if scene.focus is not None:
                self._select(scene.focus)
                return True
            case Key.Key_Delete | Key.Key_Backspace:
                return self._unplace()
        return False

    def _press_control(self, key: Key) -> bool:
        view = self._view
        match key:
            case Key.Key_Left | Key.Key_Right:
                return self._move_boundary(1 if key == Key.Key_Right else -1)
            case Key.Key_Plus | Key.Key_Equal:
                view.set_zoom(view.zoom * 1.15)
            case Key.Key_Minus:
                view.set_zoom(view.zoom / 1.15)
            case Key.Key_0:
                view.set_zoom(1.0)
            case Key.Key_9:
                view.fit()
            case _:
                return False
        return True

    def _row(self, direction: int) -> bool:
        """Up and down: the card in the row above or below."""
        scene = self._scene
        nodes = list(scene.cards)
        if not nodes:
            return False
        if scene.focus is None or scene.focus.node_id not in nodes:
            self._view.focus_spot(Spot(nodes[0]))
            return True
        index = nodes.index(scene.focus.node_id) + direction * scene.columns
        if 0 <= index < len(nodes):
            self._view.focus_spot(Spot(nodes[index]))
        return True

    def _select(self, spot: Spot) -> None:
        self._board.select(Selection(spot.node_id, spot.stage, self._board.model_name))

    def _unplace(self) -> bool:
        spot, view = self._scene.focus, self._view
        if spot is None or spot.stage is None:
            return False
        stage = spot.stage
        view.attempt("The shard could not be taken off", lambda: self._board.unplace(stage))
        view.focus_spot(Spot(spot.node_id))
        return True

    def _move_boundary(self, direction: int) -> bool:
        """Move the end of the focused stage by a layer (of the last stage its begin, which is all it has)."""
        view, board = self._view, self._board
        spot = self._scene.focus
        boundaries = board.boundaries()
        if spot is None or spot.stage is None or not boundaries:
            return False
        boundary = min(spot.stage, len(boundaries) - 1)
        layer = next_cut(board.allowed_cuts(boundary), boundaries[boundary], direction)
        if layer is None:
            return True
        target = layer
        if view.attempt("The boundary could not be moved", lambda: board.move_boundary(boundary, target)):
            view.say(board.judge_boundary(boundary, target).text)
        return True

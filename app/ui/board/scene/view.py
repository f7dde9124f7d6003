"""The middle of the Board: the scene with its mouse, its drops, its keys, its zoom and its words."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from PySide6.QtCore import QEvent, QPoint, QPointF, QSize, Qt, Signal, Slot
from PySide6.QtGui import (
    QAccessible,
    QAccessibleAnnouncementEvent,
    QContextMenuEvent,
    QDragEnterEvent,
    QDragLeaveEvent,
    QDragMoveEvent,
    QDropEvent,
    QFocusEvent,
    QHideEvent,
    QKeyEvent,
    QMouseEvent,
    QPainter,
    QResizeEvent,
    QShowEvent,
    QWheelEvent,
)
from PySide6.QtWidgets import QApplication, QFrame, QGraphicsView, QWidget

from app.errors import ShardboardError
from app.ui.board.scene.board_scene import BoardScene, Spot
from app.ui.board.scene.drag import BoundaryDrag, Load, preview, preview_text, read, shard_drag
from app.ui.board.scene.keys import BoardKeys
from app.ui.board.scene.overlays import Bubble, no_nodes
from app.ui.board.scene.spot_menu import SpotMenu
from app.ui.board.scene.words import board_text, lane_text
from app.ui.board.state.lanes import Selection, Verdict
from app.ui.notices import Level

if TYPE_CHECKING:
    from app.ui.board.state.board_model import BoardModel
    from app.ui.cluster import Activity
    from app.ui.workbench import Workbench

LEAST_ZOOM, LARGEST_ZOOM = 0.35, 2.0
SCROLL_EDGE = 28
"""So near to the upper or lower edge a drag scrolls."""


class BoardView(QGraphicsView):
    """Shows the scene, and turns mouse and keys into changes of the board."""

    dropped = Signal(str)
    """A drop was carried out: model, shard or boundary."""

    def __init__(self, workbench: Workbench, board: BoardModel, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.workbench = workbench
        self.board = board
        self.board_scene = BoardScene(workbench, board, self)
        self.zoom = 1.0
        self._keys = BoardKeys(self.board_scene, board, self)
        self._stale = True
        self._load: Load | None = None
        self._verdicts: dict[int, Verdict] = {}
        self._pressed: tuple[int, QPoint] | None = None
        """A stage under the pressed mouse, and where it was pressed."""
        self._boundary: BoundaryDrag | None = None
        self._boundary_layer = 0
        self._no_nodes = no_nodes(workbench, self.viewport())
        self.hint = Bubble(self.viewport())
        """What to do next, or what a drop beside the cards would do."""
        self.figures = Bubble(self.viewport())
        """Beside a boundary that is dragged."""
        self.setScene(self.board_scene)
        self.setFrameShape(QFrame.Shape.NoFrame)
        self.setAlignment(Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignTop)
        self.setRenderHint(QPainter.RenderHint.Antialiasing)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setTransformationAnchor(QGraphicsView.ViewportAnchor.NoAnchor)
        self.setFocusPolicy(Qt.FocusPolicy.StrongFocus)
        self.setAcceptDrops(True)
        self.setMouseTracking(True)
        self.setAccessibleName("Board")
        board.changed.connect(self._on_changed)
        board.selection_changed.connect(self._on_selection)
        workbench.cluster.activity.connect(self._on_activity)
        workbench.cluster.loaded.connect(self._on_changed)
        workbench.theme.changed.connect(self._on_theme)
        workbench.settings.changed.connect(self._on_setting)
        self.board_scene.pulse.animated = bool(workbench.settings.get("appearance/animations"))
        self._on_theme()

    # --- following ---

    @Slot()
    def _on_changed(self) -> None:
        if not self.isVisible():  # what nobody sees is drawn when it is shown
            self._stale = True
            return
        self._stale = False
        self.board_scene.sync()
        if self._load is not None:
            self._verdicts = self._judge_all(self._load)
        self._show_state()

    def _show_state(self) -> None:
        lanes = self.board.lanes()
        self._no_nodes.setVisible(not lanes and self.workbench.cluster.is_loaded)
        self._show_hint()
        text = board_text(lanes, self.board.model_name)
        if text != self.accessibleDescription():
            self.setAccessibleDescription(text)
        self._place_overlays()

    def _show_hint(self) -> None:
        pipeline = self.board.pipeline()
        if self._load is not None or self._boundary is not None:
            return
        if self.board_scene.cards and self.board.model_name is None:
            self.hint.say("Drag a model here or choose one on the left")
        elif self.board_scene.cards and pipeline and all(node is None for node in pipeline):
            self.hint.say("Nothing is placed yet", "Propose a plan, or drag a shard or the whole model onto a node.")
        else:
            self.hint.hide()

    def _place_overlays(self) -> None:
        room = self.viewport().rect()
        self._no_nodes.setGeometry(room)
        self.hint.move_to_foot(room)

    @Slot()
    def _on_selection(self) -> None:
        self.board_scene.show_marks(self.board.selection)

    @Slot(object)
    def _on_activity(self, activities: tuple[Activity, ...]) -> None:
        if not self.isVisible() or self.window().isMinimized() or self.board.model_name is None:
            return
        shown = self.workbench.cluster.deployment_of(self.board.model_name)
        if shown is None or not self.board_scene.shows_deployed:
            return
        if any(activity.deployment == shown.record.id for activity in activities):
            self.board_scene.pulse.beat()

    @Slot()
    def _on_theme(self) -> None:
        colors = self.workbench.theme.colors
        self.board_scene.look.refresh(colors)
        self.setBackgroundBrush(colors.background)
        self.board_scene.rebuild()
        self.viewport().update()

    @Slot(str)
    def _on_setting(self, key: str) -> None:
        if key == "appearance/animations":
            self.board_scene.pulse.stop()
            self.board_scene.pulse.animated = bool(self.workbench.settings.get(key))

    def showEvent(self, event: QShowEvent) -> None:
        super().showEvent(event)
        self._lay_out()
        if self._stale:
            self._on_changed()

    def hideEvent(self, event: QHideEvent) -> None:
        super().hideEvent(event)
        self.board_scene.pulse.stop()
        self._end_boundary()

    # --- size ---

    def resizeEvent(self, event: QResizeEvent) -> None:
        super().resizeEvent(event)
        self._lay_out()
        self._place_overlays()

    def _lay_out(self) -> None:
        # The scroll bar's room is always left free: else it would come and go with the number of columns it makes.
        room = self.maximumViewportSize().width() - self.verticalScrollBar().sizeHint().width()
        self.board_scene.lay_out(float(int(max(room, 120) / self.zoom)))

    def set_zoom(self, zoom: float) -> None:
        """Show everything larger or smaller; the cards go on filling the width."""
        zoom = min(LARGEST_ZOOM, max(LEAST_ZOOM, zoom))
        if zoom != self.zoom:
            self.zoom = zoom
            self.resetTransform()
            self.scale(zoom, zoom)
            self._lay_out()

    def fit(self) -> None:
        """The largest zoom, 1 at most, at which the whole board is seen."""
        for percent in range(100, int(LEAST_ZOOM * 100) - 1, -5):
            self.set_zoom(percent / 100)
            if self.board_scene.sceneRect().height() * self.zoom <= self.viewport().height():
                return

    def wheelEvent(self, event: QWheelEvent) -> None:
        if event.modifiers() & Qt.KeyboardModifier.ControlModifier:
            self.set_zoom(self.zoom * (1.0015 ** event.angleDelta().y()))
            event.accept()
        else:
            super().wheelEvent(event)

    # --- the mouse ---

    def mousePressEvent(self, event: QMouseEvent) -> None:
        if event.button() is not Qt.MouseButton.LeftButton:
            super().mousePressEvent(event)
            return
        at = self.mapToScene(event.position().toPoint())
        if (handle := self.board_scene.handle_at(at)) is not None:
            self._begin_boundary(handle.boundary, at)
        elif (block := self.board_scene.block_at(at)) is not None and block.block.stage is not None:
            card = self.board_scene.card_at(at)
            assert card is not None  # blocks are within cards
            self._pressed = (block.block.stage, event.position().toPoint())
            self._pick(Spot(card.lane.node.id, block.block.stage))
        elif (card := self.board_scene.card_at(at)) is not None:
            self._pick(Spot(card.lane.node.id))
        else:
            self.board_scene.focus = None
            self.board.select(Selection(model=self.board.model_name))
            self._on_selection()
        event.accept()

    def _pick(self, spot: Spot) -> None:
        self.board_scene.focus = spot
        self.board.select(Selection(spot.node_id, spot.stage, self.board.model_name))
        self._on_selection()

    def mouseMoveEvent(self, event: QMouseEvent) -> None:
        if self._boundary is not None:
            self._move_boundary(self.mapToScene(event.position().toPoint()))
        elif self._pressed is not None and event.buttons() & Qt.MouseButton.LeftButton:
            stage, start = self._pressed
            if (event.position().toPoint() - start).manhattanLength() >= QApplication.startDragDistance():
                self._pressed = None
                self._drag_shard(stage)
        else:
            super().mouseMoveEvent(event)

    def mouseReleaseEvent(self, event: QMouseEvent) -> None:
        if event.button() is not Qt.MouseButton.LeftButton:
            super().mouseReleaseEvent(event)
            return
        self._pressed = None
        if self._boundary is not None:
            self._drop_boundary()
        event.accept()

    def _drag_shard(self, stage: int) -> None:
        item = self.board_scene.stage_blocks().get(stage)
        if item is None:
            return
        size = QSize(round(item.rect.width()), round(item.rect.height()))
        drag = shard_drag(self, self.board_scene.look, item.block, size)
        item.set_taken(True)
        drag.exec(Qt.DropAction.MoveAction)
        for each in self.board_scene.stage_blocks().values():  # the board may have drawn itself anew meanwhile
            each.set_taken(False)

    # --- boundaries ---

    def _begin_boundary(self, boundary: int, at: QPointF) -> None:
        handle = self.board_scene.handles[boundary]
        cuts = self.board.allowed_cuts(boundary)
        self._boundary = BoundaryDrag(boundary, handle.layer, at.x(), handle.step, cuts)
        self._move_boundary(at)

    def _move_boundary(self, at: QPointF) -> None:
        drag, draft = self._boundary, self.board.arrangement
        if drag is None:
            return
        if draft is None or drag.boundary >= len(draft.boundaries):  # it was changed from elsewhere
            self._end_boundary()
            return
        layer = drag.layer_at(at.x())
        verdict = self.board.judge_boundary(drag.boundary, layer)
        try:
            made = draft.with_boundary(drag.boundary, layer)
        except ShardboardError:
            return
        self._boundary_layer = layer
        lanes = self.board.lanes()
        blocks = preview(lanes, made, drag.boundary)
        self.board_scene.handles[drag.boundary].set_dragged(True, refused=not verdict.allowed)
        self.board_scene.show_preview(blocks)
        head, body = preview_text(lanes, made, drag.boundary, blocks)
        self.figures.say(head, body, "" if verdict.allowed else verdict.text[:1].upper() + verdict.text[1:])
        self.figures.move_below(self.mapFromScene(at), self.viewport().rect())
        self.hint.hide()

    def _drop_boundary(self) -> None:
        drag, layer = self._boundary, self._boundary_layer
        self._end_boundary()
        if drag is None or layer == drag.layer:
            return
        if self.attempt("The boundary could not be moved", lambda: self.board.move_boundary(drag.boundary, layer)):
            self.dropped.emit("boundary")

    def _end_boundary(self) -> None:
        if self._boundary is not None:
            self._boundary = None
            self.figures.hide()
            for handle in self.board_scene.handles:
                handle.set_dragged(False)
            self.board_scene.show_preview({})
            self._show_hint()

    # --- drops ---

    def dragEnterEvent(self, event: QDragEnterEvent) -> None:
        self._load = read(event.mimeData())
        if self._load is None:
            event.ignore()
            return
        self._verdicts = self._judge_all(self._load)
        self._show_target(event)
        event.acceptProposedAction()  # it may be let go elsewhere on the board, even if not here

    def dragMoveEvent(self, event: QDragMoveEvent) -> None:
        if self._load is None:
            event.ignore()
            return
        y, bar = event.position().y(), self.verticalScrollBar()
        if y < SCROLL_EDGE or y > self.viewport().height() - SCROLL_EDGE:
            bar.setValue(bar.value() + (-16 if y < SCROLL_EDGE else 16))
        self._show_target(event)

    def dragLeaveEvent(self, event: QDragLeaveEvent) -> None:
        self._end_load()
        event.accept()

    def dropEvent(self, event: QDropEvent) -> None:
        load = self._load or read(event.mimeData())
        node_id = self._node_at(event.position().toPoint())
        self._end_load()
        if load is None:
            event.ignore()
            return
        verdict = load.judge(self.board, node_id)
        if not verdict.allowed:
            event.ignore()
            self.workbench.notices.toast(f"{load.failure}: {verdict.text}.", Level.WARNING)
            return
        event.acceptProposedAction()
        if self.attempt(load.failure, lambda: load.drop(self.board, node_id)):
            self.dropped.emit(load.kind)

    def _judge_all(self, load: Load) -> dict[int, Verdict]:
        return {node_id: load.judge(self.board, node_id) for node_id in self.board_scene.cards}

    def _show_target(self, event: QDragMoveEvent) -> None:
        """Show what dropping here would do; the drag's cursor says whether it can be."""
        if self._load is None:
            return
        node_id = self._node_at(event.position().toPoint())
        verdict = self._load.judge(self.board, None) if node_id is None else self._verdicts.get(node_id)
        home = self._load.home(self.board)
        shown = {node: each for node, each in self._verdicts.items() if node != home or node == node_id}
        self.board_scene.show_verdicts(shown, node_id)
        if node_id is None and verdict is not None:
            text = verdict.text[:1].upper() + verdict.text[1:]
            self.hint.say(text if verdict.allowed else "", "", "" if verdict.allowed else text)
            self._place_overlays()
        else:
            self.hint.hide()
        if verdict is not None and verdict.allowed:
            event.acceptProposedAction()
        else:
            event.ignore()

    def _node_at(self, at: QPoint) -> int | None:
        card = self.board_scene.card_at(self.mapToScene(at))
        return card.lane.node.id if card is not None else None

    def _end_load(self) -> None:
        self._load, self._verdicts = None, {}
        self.board_scene.show_verdicts({}, None)
        self._show_hint()
        self._place_overlays()

    # --- keys, menus, words ---

    def keyPressEvent(self, event: QKeyEvent) -> None:
        if event.key() == Qt.Key.Key_Escape and self._boundary is not None:
            self._end_boundary()
        elif not self._keys.press(event):
            super().keyPressEvent(event)

    def focusNextPrevChild(self, forward: bool) -> bool:
        return self._keys.step(forward) or super().focusNextPrevChild(forward)

    def focusInEvent(self, event: QFocusEvent) -> None:
        super().focusInEvent(event)
        spots = self.board_scene.spots()
        by_key = event.reason() in (Qt.FocusReason.TabFocusReason, Qt.FocusReason.BacktabFocusReason)
        if by_key and spots:
            self.focus_spot(spots[0 if event.reason() is Qt.FocusReason.TabFocusReason else -1])

    def focusOutEvent(self, event: QFocusEvent) -> None:
        super().focusOutEvent(event)
        if event.reason() is not Qt.FocusReason.PopupFocusReason:
            self.board_scene.focus = None
            self._on_selection()

    def focus_spot(self, spot: Spot) -> None:
        """Give a card or a block the focus, bring it into sight and say what it is."""
        self.board_scene.focus = spot
        self._on_selection()
        self.ensureVisible(self.board_scene.rect_of(spot), 16, 48)
        card = self.board_scene.cards.get(spot.node_id)
        if card is None:
            return
        item = self.board_scene.stage_blocks().get(spot.stage) if spot.stage is not None else None
        self.say(item.toolTip() if item is not None else lane_text(card.lane))

    def say(self, text: str) -> None:
        """To those who listen to the screen."""
        QAccessible.updateAccessibility(QAccessibleAnnouncementEvent(self, text))

    def contextMenuEvent(self, event: QContextMenuEvent) -> None:
        if event.reason() is QContextMenuEvent.Reason.Keyboard:
            spot = self.board_scene.focus
        else:
            spot = self._spot_at(self.mapToScene(event.pos()))
        if spot is None:
            event.ignore()
            return
        self._pick(spot)
        by_mouse = event.reason() is not QContextMenuEvent.Reason.Keyboard
        middle = self.mapFromScene(self.board_scene.rect_of(spot).center())
        self.menu_for(spot).popup(event.globalPos() if by_mouse else self.viewport().mapToGlobal(middle))
        event.accept()

    def menu_for(self, spot: Spot) -> SpotMenu:
        """What can be done with a card or a block."""
        menu = self.stage_menu(spot.stage) if spot.stage is not None else SpotMenu(self.board, self.attempt, self)
        menu.add_node(spot.node_id)
        return menu

    def stage_menu(self, stage: int) -> SpotMenu:
        """What can be done with a shard, wherever it is."""
        menu = SpotMenu(self.board, self.attempt, self)
        menu.add_stage(stage)
        return menu

    def _spot_at(self, at: QPointF) -> Spot | None:
        card, block = self.board_scene.card_at(at), self.board_scene.block_at(at)
        if card is None:
            return None
        return Spot(card.lane.node.id, block.block.stage if block is not None else None)

    def attempt(self, what: str, work: Callable[[], object]) -> bool:
        """Do something with the board; a refusal is told. Whether it was done."""
        try:
            work()
        except ShardboardError as error:
            self.workbench.notices.error(what, error)
            return False
        return True

    def viewportEvent(self, event: QEvent) -> bool:
        if event.type() is QEvent.Type.ToolTip and self._boundary is not None:
            return True  # the figures beside the drag say it
        return super().viewportEvent(event)

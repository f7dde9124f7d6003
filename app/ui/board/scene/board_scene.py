"""The picture of the board: cards in a grid, blocks in them, handles between stages, arrows along the pipeline.

It follows the BoardModel and changes only what is another now. Mouse, keys and drops are the view's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, QPointF, QRectF
from PySide6.QtWidgets import QGraphicsScene

from app.ui.board.scene.arrows import ArrowItem, Port, Pulse, routes
from app.ui.board.scene.block_item import BlockItem
from app.ui.board.scene.boundary_item import BoundaryItem
from app.ui.board.scene.layout import Density, Grid, card_height, card_shape, grid
from app.ui.board.scene.look import Look
from app.ui.board.scene.node_item import NodeItem
from app.ui.board.state.lanes import Block, BlockKind, LaneSnapshot, Selection, Verdict

if TYPE_CHECKING:
    from app.ui.board.state.board_model import BoardModel
    from app.ui.workbench import Workbench

ENTER, LEAVE = 0.32, 0.68
"""Where arrows touch a block, in parts of its width."""


@dataclass(frozen=True)
class Spot:
    """What has the keyboard's focus: a card, or a stage's block in it."""

    node_id: int
    stage: int | None = None


class BoardScene(QGraphicsScene):
    """Cards, blocks, handles and arrows, kept in step with the board."""

    def __init__(self, workbench: Workbench, board: BoardModel, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.setItemIndexMethod(QGraphicsScene.ItemIndexMethod.NoIndex)
        self.board = board
        self.cards: dict[int, NodeItem] = {}
        """By node, in the registry's order."""
        self.handles: list[BoundaryItem] = []
        self.arrows: list[ArrowItem] = []
        self.look = Look(workbench.theme.colors)
        self.pulse = Pulse(lambda: self.arrows, self)
        self.focus: Spot | None = None
        self._cluster = workbench.cluster
        self._grid: Grid | None = None
        self._width = 800.0
        self._preview: Mapping[int, tuple[Block, ...]] = {}
        self._density = Density.ROOMY
        self._deploying = False
        self._ported: tuple[Grid | None, tuple[Port | None, ...]] = (None, ())
        """What the arrows were made from."""

    # --- following the model ---

    def sync(self) -> None:
        """Take over what is another now."""
        lanes = self.board.lanes()
        deploying = any(lane.progress is not None for lane in lanes)
        if deploying != self._deploying or [lane.node.id for lane in lanes] != list(self.cards):
            self._deploying = deploying
            self._rebuild(lanes)
            return
        for lane in lanes:
            card = self.cards[lane.node.id]
            if lane.node is not card.lane.node or lane != card.lane:  # each report makes another NodeSnapshot
                card.show_lane(lane, self._cluster.history(lane.node.id))
        self._finish()

    def rebuild(self) -> None:
        """Draw everything anew: colours or fonts are others."""
        self._rebuild(self.board.lanes())

    def lay_out(self, width: float) -> None:
        """Take another width."""
        if width != self._width:
            self._width = width
            self._place()
            self._finish()

    def _rebuild(self, lanes: Sequence[LaneSnapshot]) -> None:
        wanted = {lane.node.id: lane for lane in lanes}
        for gone in [card for node_id, card in self.cards.items() if node_id not in wanted]:
            self.removeItem(gone)
        self._density = Density.of(len(lanes))
        shape = card_shape(self.look, self._density, self._deploying, 300)
        known, self.cards = self.cards, {}
        for node_id, lane in wanted.items():
            card = known.get(node_id)
            if card is None:
                card = NodeItem(self.look, lane, shape)
                self.addItem(card)
            self.cards[node_id] = card
            card.lane = lane
        self._place()
        self._finish()

    def _place(self) -> None:
        if not self.cards:
            self._grid = None
            self.setSceneRect(QRectF(0, 0, self._width, 1))
            return
        height = card_height(self.look, self._density, self._deploying)
        self._grid = grid(len(self.cards), self._width, height, self._density)
        shape = card_shape(self.look, self._density, self._deploying, self._grid.cards[0].width())
        for card, rect in zip(self.cards.values(), self._grid.cards, strict=True):
            card.setPos(rect.topLeft())
            card.set_shape(shape, self._cluster.history(card.lane.node.id))
        self.setSceneRect(self._grid.scene)

    def _finish(self) -> None:
        """What hangs on more than one card."""
        for node_id, blocks in self._preview.items():
            if (card := self.cards.get(node_id)) is not None:
                card.show_blocks(blocks)
        self._connect()
        self.show_marks(self.board.selection)

    def _connect(self) -> None:
        found = self.stage_blocks()
        pipeline = self.board.pipeline()
        order = {node_id: index for index, node_id in enumerate(self.cards)}
        ports: list[Port | None] = []
        for stage, node_id in enumerate(pipeline):
            item = found.get(stage)
            if item is None or node_id is None:
                ports.append(None)
                continue
            rect = item.mapRectToScene(item.rect)
            left, width = rect.left(), rect.width()
            ports.append(Port(order[node_id], left + width * ENTER, left + width * LEAVE, rect.bottom()))
        if (self._grid, tuple(ports)) != self._ported:
            self._ported = (self._grid, tuple(ports))
            made = routes(self._grid, ports) if self._grid is not None else []
            for arrow in self.arrows:
                self.removeItem(arrow)
            self.arrows = [ArrowItem(self.look, route) for route in made]
            for arrow in self.arrows:
                self.addItem(arrow)
            if self.pulse.is_lit:
                self.pulse.light()
        self._place_handles(found)

    def _place_handles(self, found: Mapping[int, BlockItem]) -> None:
        boundaries = self.board.boundaries()
        while len(self.handles) > len(boundaries):
            self.removeItem(self.handles.pop())
        while len(self.handles) < len(boundaries):
            handle = BoundaryItem(self.look, len(self.handles))
            self.addItem(handle)
            self.handles.append(handle)
        for handle, layer in zip(self.handles, boundaries, strict=True):
            item = found.get(handle.boundary)
            handle.setVisible(item is not None and handle.boundary + 1 in found)
            if item is not None:
                rect = item.mapRectToScene(item.rect)
                layers = max(1, item.block.end - item.block.start)
                step = handle.step if handle.is_dragged else rect.width() / layers
                edge = QPointF(rect.right(), rect.center().y())
                handle.show_boundary(layer, edge, rect.height(), step)

    # --- what is where ---

    def stage_blocks(self) -> dict[int, BlockItem]:
        """The blocks of the draft's stages."""
        return {
            item.block.stage: item
            for card in self.cards.values()
            for item in card.blocks
            if item.block.stage is not None
        }

    def card_at(self, at: QPointF) -> NodeItem | None:
        return next((card for card in self.cards.values() if card.shape().contains(card.mapFromScene(at))), None)

    def block_at(self, at: QPointF) -> BlockItem | None:
        """A stage's block there."""
        card = self.card_at(at)
        if card is None:
            return None
        inside = card.mapFromScene(at)
        return next((item for item in card.blocks if item.block.stage is not None and item.rect.contains(inside)), None)

    def handle_at(self, at: QPointF) -> BoundaryItem | None:
        return next(
            (each for each in self.handles if each.isVisible() and each.shape().contains(each.mapFromScene(at))), None
        )

    def spots(self) -> list[Spot]:
        """What can take the focus, in order: each card, then the blocks in it."""
        found = []
        for node_id, card in self.cards.items():
            found.append(Spot(node_id))
            found += [Spot(node_id, item.block.stage) for item in card.blocks if item.block.stage is not None]
        return found

    def rect_of(self, spot: Spot) -> QRectF:
        """Where the focus is, in the scene; empty when it is gone."""
        card = self.cards.get(spot.node_id)
        if card is None:
            return QRectF()
        if spot.stage is not None and (item := self.stage_blocks().get(spot.stage)) is not None:
            return item.mapRectToScene(item.rect)
        return card.mapRectToScene(card.shape().boundingRect())

    @property
    def columns(self) -> int:
        return self._grid.columns if self._grid is not None else 1

    # --- marks ---

    def show_marks(self, selection: Selection) -> None:
        """Show what is selected and what has the focus."""
        focus = self.focus
        for node_id, card in self.cards.items():
            here = focus is not None and focus.node_id == node_id
            card.set_marks(
                focused=here and focus is not None and focus.stage is None,
                selected=selection.node_id == node_id and selection.stage is None,
            )
            for item in card.blocks:
                stage = item.block.stage
                item.set_marks(
                    focused=stage is not None and focus is not None and focus.stage == stage and here,
                    selected=stage is not None and selection.stage == stage,
                )

    def show_verdicts(self, verdicts: Mapping[int, Verdict], target: int | None) -> None:
        """Show what a drop would mean on each card; nothing for an empty mapping."""
        for node_id, card in self.cards.items():
            card.set_verdict(verdicts.get(node_id), target is not None and node_id == target)

    def show_preview(self, blocks: Mapping[int, tuple[Block, ...]]) -> None:
        """Draw other blocks than the draft's into some cards, while a boundary is dragged."""
        ended = [node_id for node_id in self._preview if node_id not in blocks]
        self._preview = dict(blocks)
        for node_id in ended:
            if (card := self.cards.get(node_id)) is not None:
                card.show_blocks(card.lane.blocks)
        self._finish()

    @property
    def shows_deployed(self) -> bool:
        """Whether the arrows are those of something that is loaded."""
        blocks = self.stage_blocks().values()
        return bool(blocks) and all(item.block.kind is BlockKind.DEPLOYED for item in blocks)

"""What is dragged over the board, what a drop would mean, and what it does. Pictures that follow the mouse too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from PySide6.QtCore import QByteArray, QMimeData, QPoint, QRectF, QSize, Qt
from PySide6.QtGui import QDrag, QPainter, QPixmap
from PySide6.QtWidgets import QWidget

from app.figures import layers_text, size_text
from app.ui.board.scene.block_item import paint_block
from app.ui.board.scene.look import Look
from app.ui.board.state.lanes import MIME_MODEL, MIME_SHARD, Block, BlockKind, LaneSnapshot, Verdict

if TYPE_CHECKING:
    from app.sharding.arrangement import Arrangement
    from app.ui.board.state.board_model import BoardModel

PICTURE_WIDTHS = (72, 220)


class Load(Protocol):
    """Something under the mouse."""

    @property
    def kind(self) -> str:
        """model or shard"""

    @property
    def failure(self) -> str:
        """What failed if it cannot be dropped, as a heading."""

    def home(self, board: BoardModel) -> int | None:
        """The node it lies on now: no drop, and no refusal either."""

    def judge(self, board: BoardModel, node_id: int | None) -> Verdict:
        """What dropping it on a node would mean; None is the board beside the cards."""

    def drop(self, board: BoardModel, node_id: int | None) -> None:
        """Carry it out. Raises a ShardboardError when it is refused."""


@dataclass(frozen=True)
class ModelLoad:
    """A model from the library: on the board a plan is proposed, on a card it goes there whole."""

    name: str
    kind = "model"

    @property
    def failure(self) -> str:
        return f"{self.name} could not be placed"

    def home(self, board: BoardModel) -> int | None:
        return None

    def judge(self, board: BoardModel, node_id: int | None) -> Verdict:
        return board.judge_model(self.name, node_id)

    def drop(self, board: BoardModel, node_id: int | None) -> None:
        if node_id is None:
            board.propose(self.name)
        else:
            board.place_model(self.name, node_id)


@dataclass(frozen=True)
class ShardLoad:
    """A shard from the shelf or from another card."""

    stage: int
    kind = "shard"

    @property
    def failure(self) -> str:
        return f"Shard {self.stage + 1} could not be moved"

    def home(self, board: BoardModel) -> int | None:
        pipeline = board.pipeline()
        return pipeline[self.stage] if self.stage < len(pipeline) else None

    def judge(self, board: BoardModel, node_id: int | None) -> Verdict:
        if node_id is None:
            return Verdict(False, "drop it onto a node")
        return board.judge_shard(self.stage, node_id)

    def drop(self, board: BoardModel, node_id: int | None) -> None:
        if node_id is not None:
            board.move_shard(self.stage, node_id)


def read(mime: QMimeData) -> Load | None:
    """What a drag brings; None for what the board does not take."""
    if mime.hasFormat(MIME_MODEL):
        return ModelLoad(bytes(mime.data(MIME_MODEL).data()).decode("utf-8", "replace"))
    if mime.hasFormat(MIME_SHARD):
        number = bytes(mime.data(MIME_SHARD).data())
        return ShardLoad(int(number)) if number.isdigit() else None
    return None


def shard_drag(source: QWidget, look: Look, block: Block, size: QSize) -> QDrag:
    """A drag of a block that can be dropped on another card or on the shelf."""
    mime = QMimeData()
    mime.setData(MIME_SHARD, QByteArray(str(block.stage).encode("ascii")))
    drag = QDrag(source)
    drag.setMimeData(mime)
    picture = _picture(look, block, size, source.devicePixelRatioF())
    drag.setPixmap(picture)
    drag.setHotSpot(QPoint(round(picture.deviceIndependentSize().width() / 2), 16))
    return drag


def _picture(look: Look, block: Block, size: QSize, ratio: float) -> QPixmap:
    """The block itself, a little translucent, no wider than a hand."""
    least, most = PICTURE_WIDTHS
    width = min(max(size.width(), least), most)
    picture = QPixmap(QSize(width + 8, size.height() + 8) * ratio)
    picture.setDevicePixelRatio(ratio)
    picture.fill(Qt.GlobalColor.transparent)
    painter = QPainter(picture)
    painter.setRenderHint(QPainter.RenderHint.Antialiasing)
    painter.setOpacity(0.92)
    kv = width * block.kv_bytes / block.memory if block.memory else 0.0
    solid = replace(block, kind=BlockKind.DEPLOYED)
    paint_block(painter, look, solid, QRectF(4, 4, width, size.height()), kv)
    painter.end()
    return picture


@dataclass(frozen=True)
class BoundaryDrag:
    """A boundary in the hand. The mouse moves in pixels of the scene, the boundary from one allowed cut to the next."""

    boundary: int
    layer: int
    """Where it stood when it was taken."""
    start_x: float
    step: float
    """Pixels per layer."""
    cuts: tuple[int, ...]

    def layer_at(self, x: float) -> int:
        """The allowed cut that is nearest to the mouse."""
        wanted = self.layer + (x - self.start_x) / self.step
        return min(self.cuts, key=lambda cut: (abs(cut - wanted), abs(cut - self.layer)), default=self.layer)


def preview(lanes: Sequence[LaneSnapshot], made: Arrangement, boundary: int) -> dict[int, tuple[Block, ...]]:
    """The blocks of both neighbours' nodes, as they would be in the arrangement `made`; by node."""
    found: dict[int, tuple[Block, ...]] = {}
    for lane in lanes:
        if any(block.stage in (boundary, boundary + 1) for block in lane.blocks):
            found[lane.node.id] = tuple(_as_in(made, block, boundary) for block in lane.blocks)
    return found


def _as_in(made: Arrangement, block: Block, boundary: int) -> Block:
    if block.stage is None or block.stage not in (boundary, boundary + 1):
        return block
    piece = made.pieces[block.stage]
    if (piece.start, piece.end) == (block.start, block.end):
        return block
    return replace(
        block, kind=BlockKind.PROPOSED, start=piece.start, end=piece.end,
        weight_bytes=made.weights(block.stage), kv_bytes=made.kv(block.stage),
    )  # fmt: skip


def preview_text(
    lanes: Sequence[LaneSnapshot], made: Arrangement, boundary: int, blocks: dict[int, tuple[Block, ...]]
) -> tuple[str, str]:
    """'Layers 0–16 | 17–29', and what both nodes would hold."""
    one, other = made.pieces[boundary], made.pieces[boundary + 1]
    head = f"Layers {layers_text(one.start, one.end)} | {layers_text(other.start, other.end)}"
    figures = []
    for lane in sorted(lanes, key=lambda lane: lane.node.id != one.node_id):
        if lane.node.id in blocks:
            needed = sum(block.memory for block in blocks[lane.node.id])
            figures.append(f"{lane.node.name}: {size_text(needed)} of {size_text(lane.budget)}")
    return head, "\n".join(figures)

"""Where things are on the board, on the screen: for a mouse that is moved there."""

from __future__ import annotations

from PySide6.QtCore import QPoint, QPointF, QRectF

from app.ui.board.scene.view import SCROLL_EDGE, BoardView


def block_point(view: BoardView, stage: int) -> QPoint:
    """The middle of a stage's block. Raises LookupError when the stage is not placed."""
    item = view.board_scene.stage_blocks()[stage]
    rect = item.mapRectToScene(item.rect)
    view.ensureVisible(rect, 8, 8)
    return _on_screen(view, rect.center())


def card_point(view: BoardView, node_id: int, *, scroll: bool = True) -> QPoint:
    """In a node's card, beside its blocks, and not where a drag would scroll the board away under the hand.

    Args:
        scroll: whether the board is scrolled until the card is in sight; what was taken before lies elsewhere then.

    Raises LookupError for a node without a card.
    """
    card = view.board_scene.cards[node_id]
    rect: QRectF = card.mapRectToScene(card.shape().boundingRect())
    if scroll:
        view.ensureVisible(rect, 8, 8)
    at = view.mapFromScene(rect.topLeft() + QPointF(rect.width() / 2, 16))
    at.setY(max(at.y(), min(SCROLL_EDGE + 4, view.mapFromScene(rect.bottomLeft()).y() - 8)))
    return view.viewport().mapToGlobal(at)


def boundary_point(view: BoardView, boundary: int, layer: int | None = None) -> QPoint:
    """A boundary's handle, or where it must be dragged to stand before `layer`."""
    handle = view.board_scene.handles[boundary]
    if not handle.isVisible():
        raise LookupError(f"boundary {boundary} has no handle: a neighbour is not placed")
    view.ensureVisible(handle.mapRectToScene(handle.boundingRect()), 8, 8)
    ahead = (layer - handle.layer) * handle.step if layer is not None else 0.0
    return _on_screen(view, handle.pos() + QPointF(ahead, 0.0))


def _on_screen(view: BoardView, at: QPointF) -> QPoint:
    return view.viewport().mapToGlobal(view.mapFromScene(at))

"""A shard in a node's memory, drawn to scale: its weights, and the part that is kept for keys and values."""

from __future__ import annotations

from PySide6.QtCore import QRectF, Qt
from PySide6.QtGui import QColor, QPainter, QPainterPath, QPen
from PySide6.QtWidgets import QGraphicsItem, QStyleOptionGraphicsItem, QWidget

from app.figures import layers_text, size_text
from app.ui.board.scene.layout import BlockPlace
from app.ui.board.scene.look import Look, faded, mixed, shrunk
from app.ui.board.state.lanes import Block, BlockKind
from app.ui.icons import draw_icon

RADIUS = 6.0
HATCH_STEP = 6.0
MARK = 12.0
"""Side of the quiet mark of a shard that runs slower than it might."""
MARK_ROOM = 40.0
SEAM = 1.0
"""Half of the gap between two blocks."""


class BlockItem(QGraphicsItem):
    """A shard, or what another deployment holds. Its mouse and keys are the view's business; here it is only drawn."""

    def __init__(self, look: Look, card: QGraphicsItem) -> None:
        super().__init__(card)
        self.setZValue(2)
        self.setAcceptedMouseButtons(Qt.MouseButton.NoButton)
        self.setAcceptHoverEvents(True)
        self.block = Block(BlockKind.OTHER, None, 0, 0, 0, 0, "")
        self.place = BlockPlace(0, 0, 0, True)
        self.rect = QRectF()
        self.short = False
        self.focused = False
        self.selected = False
        self.taken = False
        """It is being dragged away."""
        self._hovered = False
        self._look = look

    def show_block(self, block: Block, place: BlockPlace, bar: QRectF, *, short: bool) -> None:
        """Take another content and another place in the card's bar."""
        rect = QRectF(bar.left() + place.left, bar.top(), place.width, bar.height())
        if rect != self.rect:
            self.prepareGeometryChange()
        if block != self.block or place != self.place:
            self.setToolTip(tool_tip(block, place))
            is_stage = block.stage is not None
            self.setCursor(Qt.CursorShape.OpenHandCursor if is_stage else Qt.CursorShape.ArrowCursor)
        self.block, self.place, self.rect, self.short = block, place, rect, short
        self.update()

    def set_marks(self, *, focused: bool, selected: bool) -> None:
        if (focused, selected) != (self.focused, self.selected):
            self.focused, self.selected = focused, selected
            self.setZValue(3 if focused or selected else 2)
            self.update()

    def set_taken(self, taken: bool) -> None:
        self.taken = taken
        self.update()

    def boundingRect(self) -> QRectF:
        return self.rect.adjusted(-4, -4, 4, 4)

    def shape(self) -> QPainterPath:
        path = QPainterPath()
        path.addRect(self.rect)
        return path

    def hoverEnterEvent(self, event: object) -> None:
        self._hovered = True
        self.update()

    def hoverLeaveEvent(self, event: object) -> None:
        self._hovered = False
        self.update()

    def paint(self, painter: QPainter, option: QStyleOptionGraphicsItem, widget: QWidget | None = None) -> None:
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        if self.taken:
            painter.setOpacity(0.35)
        paint_block(painter, self._look, self.block, self.rect, self.place.kv_width, short=self.short)
        colors = self._look.colors
        body = self.rect.adjusted(SEAM, 0, -SEAM, 0)
        if self.selected or self.focused or (self._hovered and self.block.stage is not None):
            pen = QPen(colors.text if self.selected else colors.accent, 2.0)
            if not self.selected and not self.focused:
                pen = QPen(mixed(colors.text, self._color(), 0.45), 1.5)
            painter.setPen(pen)
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(shrunk(body, 0.5), RADIUS, RADIUS)
        if self.focused:
            painter.setPen(QPen(colors.accent, 2.0))
            painter.drawRoundedRect(shrunk(body, -2.5), RADIUS + 2, RADIUS + 2)

    def _color(self) -> QColor:
        return self._look.colors.of(self.block.stage or 0)


def paint_block(
    painter: QPainter, look: Look, block: Block, rect: QRectF, kv_width: float, *, short: bool = False
) -> None:
    """Draw a block; also onto the picture that follows the mouse."""
    colors = look.colors
    number = block.stage if block.stage is not None else block.echoes
    own = colors.of(number) if number is not None else colors.kv
    ghost = block.kind is BlockKind.PROPOSED
    body = rect.adjusted(SEAM, 0, -SEAM, 0)
    radius = min(RADIUS, body.width() / 2)
    outline = QPainterPath()
    outline.addRoundedRect(body, radius, radius)
    weights, kv = _fills(look, block, own)
    painter.save()
    painter.setPen(Qt.PenStyle.NoPen)
    painter.fillPath(outline, weights)
    kv_part = QRectF(body.right() - kv_width, body.top(), kv_width, body.height()) & body
    if kv_part.width() >= 1 and block.kind is not BlockKind.OTHER:
        painter.setClipPath(outline, Qt.ClipOperation.IntersectClip)
        painter.setClipRect(kv_part, Qt.ClipOperation.IntersectClip)
        painter.fillRect(kv_part, kv)
        painter.setPen(QPen(faded(own, 0.55 if ghost else 0.9), 1.2))
        x = kv_part.left() - kv_part.height()
        while x < kv_part.right():
            painter.drawLine(int(x), int(kv_part.bottom()), int(x + kv_part.height()), int(kv_part.top()))
            x += HATCH_STEP
    painter.restore()
    painter.setBrush(Qt.BrushStyle.NoBrush)
    if short:
        painter.setPen(QPen(colors.error, 2.0))
        painter.drawPath(outline)
    elif ghost:
        pen = QPen(own, 1.6)
        pen.setDashPattern([4.0, 2.5])
        painter.setPen(pen)
        painter.drawRoundedRect(shrunk(body, 0.8), radius, radius)
    _write(painter, look, block, body, kv_part.width(), own)
    if block.slower and body.width() >= MARK_ROOM:
        ink = colors.on_accent if block.kind is BlockKind.DEPLOYED else colors.text
        draw_icon(painter, "gauge", QRectF(body.left() + 5, body.top() + 5, MARK, MARK), ink)


def _fills(look: Look, block: Block, own: QColor) -> tuple[QColor, QColor]:
    """Of the weights and of what is kept for keys and values."""
    colors = look.colors
    match block.kind:
        case BlockKind.DEPLOYED:
            return own, mixed(own, colors.raised, 0.35)
        case BlockKind.PROPOSED:
            return mixed(own, colors.raised, 0.24), mixed(own, colors.raised, 0.08)
        case BlockKind.REPLICA:
            return mixed(own, colors.sunken, 0.4), mixed(own, colors.sunken, 0.2)
        case BlockKind.OTHER:
            return mixed(colors.kv, colors.sunken, 0.55), mixed(colors.kv, colors.sunken, 0.55)


def _write(painter: QPainter, look: Look, block: Block, body: QRectF, kv_width: float, own: QColor) -> None:
    """Layers and size, as far as there is room."""
    colors = look.colors
    color = colors.on_accent if block.kind is BlockKind.DEPLOYED else colors.text
    if block.stage is None:
        place = body.adjusted(0, 0, -kv_width, 0) if block.kind is BlockKind.REPLICA else body
        text = look.small_metrics.elidedText(block.label, Qt.TextElideMode.ElideRight, place.width() - 12)
        if len(text) > 2:
            painter.setFont(look.small)
            painter.setPen(colors.text)
            painter.drawText(place, Qt.AlignmentFlag.AlignCenter, text)
        return
    layers = layers_text(block.start, block.end)
    solid = QRectF(body.left(), body.top(), body.width() - kv_width, body.height())
    wide = f"Layers {layers}" if block.end - block.start > 1 else f"Layer {layers}"
    for text, place in ((wide, solid), (layers, solid), (layers, body)):
        width = look.bold_metrics.horizontalAdvance(text)
        if width + 10 <= place.width() or (place is body and width <= place.width() - 2):
            break
    else:
        return
    painter.setFont(look.bold)
    size = size_text(block.memory)
    two_lines = (
        place is solid
        and body.height() >= look.line + look.small_line + 6
        and look.small_metrics.horizontalAdvance(size) + 10 <= place.width()
    )
    if place is body and kv_width > 0:  # it lies on the hatching: give it a ground to stand on
        ground = QRectF(0, 0, min(width + 8, body.width() - 2), look.line + 2)
        ground.moveCenter(body.center())
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(_fills(look, block, own)[0])
        painter.drawRoundedRect(ground, 4, 4)
    painter.setPen(color)
    if not two_lines:
        painter.drawText(place, Qt.AlignmentFlag.AlignCenter, text)
        return
    top = place.center().y() - (look.line + look.small_line) / 2
    painter.drawText(QRectF(place.left(), top, place.width(), look.line), Qt.AlignmentFlag.AlignCenter, text)
    painter.setFont(look.small)
    under = QRectF(place.left(), top + look.line, place.width(), look.small_line)
    painter.drawText(under, Qt.AlignmentFlag.AlignCenter, size)


def tool_tip(block: Block, place: BlockPlace) -> str:
    """All that is known of a block."""
    if block.kind is BlockKind.REPLICA:
        return (
            f"Layers {layers_text(block.start, block.end)} once more: it shares the requests, and takes over when a "
            f"stage is lost\n{size_text(block.memory)}"
        )
    if block.stage is None:
        return f"{block.label}, another deployment\n{size_text(block.memory)}"
    state = "loaded" if block.kind is BlockKind.DEPLOYED else "proposed, not loaded yet"
    lines = [
        f"Shard {block.stage + 1} of {block.label}: layers {layers_text(block.start, block.end)}, {state}",
        f"Weights {size_text(block.weight_bytes)}, keys and values {size_text(block.kv_bytes)}",
        "Drag it to another node, or right-click for more",
    ]
    if block.slower:
        lines.insert(2, f"Slower than it might be: {block.slower}")
    if not place.to_scale:
        lines.append("Drawn wider than it is, so that it can be taken in the hand")
    return "\n".join(lines)

"""A node's card: name, state, chip, live load, its memory as a bar with blocks in it, and how far deploying is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PySide6.QtCore import QPointF, QRectF, Qt
from PySide6.QtGui import QColor, QPainter, QPainterPath, QPen, QPolygonF
from PySide6.QtWidgets import QGraphicsItem, QStyleOptionGraphicsItem, QWidget

from app.cluster.node_state import NodeState
from app.figures import size_text
from app.progress import figures_words, phase_words
from app.ui.board.scene.block_item import BlockItem
from app.ui.board.scene.layout import BarPlaces, CardShape, bar_places
from app.ui.board.scene.look import Look, faded, mixed, shrunk
from app.ui.board.scene.words import caption, state_text
from app.ui.board.state.lanes import Block, LaneSnapshot, Verdict
from app.ui.cluster import Sample
from app.ui.icons import draw_icon
from app.ui.looks import NODES
from app.ui.nodes.node_words import process_text
from app.ui.theme import RADIUS

SAMPLES = 60
LOAD_TEXT = 36.0
"""Width of the percentage beside the line of the load."""
FAR = 0.55
"""At a smaller zoom what cannot be read is left out."""
FREE_MARGIN = 10.0
"""Beside the size of free memory: a boundary's handle may stand there."""
LEFT = Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter
RIGHT = Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter


class NodeItem(QGraphicsItem):
    """One node's card. Texts and lines are made once for each change, and only for cards that are in sight."""

    def __init__(self, look: Look, lane: LaneSnapshot, shape: CardShape) -> None:
        super().__init__()
        self.setZValue(1)
        self.setAcceptedMouseButtons(Qt.MouseButton.NoButton)
        self.lane = lane
        self.places = BarPlaces((), 0.0, 0.0)
        self.blocks: list[BlockItem] = []
        self.verdict: Verdict | None = None
        self.is_target = False
        """The mouse would drop here."""
        self.focused = False
        self.selected = False
        self._look = look
        self._places = shape
        self._samples: tuple[Sample, ...] = ()
        self._line: tuple[QPolygonF, QPolygonF] | None = None
        self._measured: _Texts | None = None
        self._drawn: tuple[object, ...] = ()
        """What the blocks were made from the last time."""

    # --- what it shows ---

    def set_shape(self, shape: CardShape, samples: Sequence[Sample]) -> None:
        """Take another size."""
        self.prepareGeometryChange()
        self._places = shape
        self.show_lane(self.lane, samples)

    def show_lane(self, lane: LaneSnapshot, samples: Sequence[Sample]) -> None:
        """Take what is known now."""
        self.lane = lane
        self._samples = tuple(samples[-SAMPLES:])
        self._line = None
        self.show_blocks(lane.blocks)
        self._measured = None
        self.update()

    def show_blocks(self, blocks: Sequence[Block]) -> None:
        """Draw these blocks into the bar: the lane's own, or what they would be after a drag."""
        drawn = (tuple(blocks), self.lane.budget, self.lane.shortage, self.bar)
        if drawn == self._drawn:
            return
        self._drawn = drawn
        self.places = bar_places(blocks, self.lane.budget, self.bar.width())
        while len(self.blocks) > len(blocks):
            item = self.blocks.pop()
            item.setParentItem(None)  # type: ignore[arg-type]
            if (scene := self.scene()) is not None:
                scene.removeItem(item)
        while len(self.blocks) < len(blocks):
            self.blocks.append(BlockItem(self._look, self))
        short = sum(block.memory for block in blocks) > self.lane.budget or self.lane.shortage > 0
        for item, block, place in zip(self.blocks, blocks, self.places.blocks, strict=True):
            item.show_block(block, place, self.bar, short=short and block.stage is not None)

    def set_verdict(self, verdict: Verdict | None, is_target: bool = False) -> None:
        """Show what a drop here would mean; None when nothing is dragged."""
        if (verdict, is_target) != (self.verdict, self.is_target):
            self.verdict, self.is_target = verdict, is_target
            self._measured = None
            self.update()

    def set_marks(self, *, focused: bool, selected: bool) -> None:
        if (focused, selected) != (self.focused, self.selected):
            self.focused, self.selected = focused, selected
            self.update()

    @property
    def bar(self) -> QRectF:
        return self._places.bar

    @property
    def _texts(self) -> _Texts:
        """Cut to what fits; like the line of the load, only when they are needed."""
        if self._measured is None:
            self._measured = self._measure()
        return self._measured

    def _measure(self) -> _Texts:
        look, places = self._look, self._places
        lane = self.lane
        elide = Qt.TextElideMode.ElideRight
        name = look.bold_metrics.elidedText(lane.node.name, elide, places.header.width() - 24)
        details = f"{state_text(lane.node)} · {lane.node.chip}"
        if lane.node.state is not NodeState.UP:  # why it is not there matters more than what it computes on
            details = state_text(lane.node)
        details = look.small_metrics.elidedText(details, elide, max(0.0, places.details.width()))
        free = f"{size_text(max(0, lane.free))} free"
        room = places.bar.width() - self.places.end
        fits = look.small_metrics.horizontalAdvance(free) + 2 * FREE_MARGIN <= room
        text = self.verdict.text if self.verdict is not None else caption(lane)
        if self.verdict is None and not fits and not lane.shortage:
            text += f" · {free}"
        indent = 20.0 if self.verdict is not None or lane.shortage else 0.0
        cut = look.small_bold_metrics if indent else look.small_metrics
        text = cut.elidedText(text, elide, places.caption.width() - indent)
        lines = (lane.node.name, lane.node.chip, state_text(lane.node), f"{caption(lane)}, {free}")
        self.setToolTip("\n".join(filter(None, (*lines, process_text(lane.node), lane.node.memory_problem))))
        return _Texts(name, details, text, free if fits and not lane.shortage else "")

    def _trace(self) -> tuple[QPolygonF, QPolygonF]:
        """The last minute of CPU as a line, and the area below it; made when it is painted."""
        if self._line is None:
            place = self._places.sparkline
            width, height, bottom = max(0.0, place.width() - LOAD_TEXT), place.height(), place.bottom()
            step, last = width / (SAMPLES - 1), len(self._samples) - 1
            right = place.left() + width
            points = [
                QPointF(right - (last - number) * step, bottom - min(100.0, max(0.0, cpu)) / 100 * height)
                for number, cpu in enumerate(sample.cpu or 0.0 for sample in self._samples)
            ]
            corners = [QPointF(right, bottom), QPointF(right - last * step, bottom)]
            self._line = (QPolygonF(points), QPolygonF([*points, *corners]))
        return self._line

    # --- how it is drawn ---

    def boundingRect(self) -> QRectF:
        return self._places.size.adjusted(-4, -4, 4, 6)

    def shape(self) -> QPainterPath:
        path = QPainterPath()
        path.addRect(self._places.size)
        return path

    def paint(self, painter: QPainter, option: QStyleOptionGraphicsItem, widget: QWidget | None = None) -> None:
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        self._paint_ground(painter)
        painter.setOpacity(1.0 if self.lane.available or self.lane.progress is not None else 0.75)
        self._paint_head(painter)
        near = option.levelOfDetailFromTransform(painter.worldTransform()) >= FAR
        if near:
            self._paint_load(painter)
        if self.lane.progress is not None and not self._places.progress.isEmpty():
            self._paint_progress(painter)
        self._paint_memory(painter, near or self.verdict is not None or self.lane.shortage > 0)

    def _paint_ground(self, painter: QPainter) -> None:
        colors = self._look.colors
        size = self._places.size
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(faded(QColor(0, 0, 0), 0.035))
        painter.drawRoundedRect(size.translated(0, 2).adjusted(-1, 0, 1, 1), RADIUS + 2, RADIUS + 2)
        ground, edge, width = colors.raised, colors.border, 1.0
        if self.verdict is not None:
            edge = colors.accent if self.verdict.allowed else colors.error
            width = 2.5 if self.is_target else 1.5
            if self.is_target:
                soft = colors.accent_soft if self.verdict.allowed else colors.error_soft
                ground = mixed(soft, colors.raised, 0.7)
        elif self.selected:
            edge, width = colors.accent, 2.0
        elif self.lane.shortage:
            edge, width = colors.error, 1.5
        painter.setPen(QPen(edge, width))
        painter.setBrush(ground)
        painter.drawRoundedRect(shrunk(size, 0.5), RADIUS, RADIUS)
        if self.focused:
            painter.setPen(QPen(colors.accent, 2.0))
            painter.setBrush(Qt.BrushStyle.NoBrush)
            painter.drawRoundedRect(shrunk(size, -2.5), RADIUS + 3, RADIUS + 3)

    def _paint_head(self, painter: QPainter) -> None:
        look, colors, places = self._look, self._look.colors, self._places
        state = self.lane.node.state
        side = min(16.0, places.header.height())
        icon = QRectF(places.header.left(), places.header.center().y() - side / 2, side, side)
        shown = NODES[state]
        draw_icon(painter, shown.icon, icon, shown.of(colors))
        painter.setFont(look.bold)
        painter.setPen(colors.text)
        painter.drawText(places.header.adjusted(24, 0, 0, 0), LEFT, self._texts.name)
        if not places.details.isEmpty():
            painter.setFont(look.small)
            painter.setPen(colors.muted if state in (NodeState.UP, NodeState.STOPPED) else shown.of(colors))
            painter.drawText(places.details, LEFT, self._texts.details)

    def _paint_load(self, painter: QPainter) -> None:
        look, colors, place = self._look, self._look.colors, self._places.sparkline
        if not self._samples:
            return
        line, area = self._trace()
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(faded(colors.accent, 0.12))
        painter.drawPolygon(area)
        painter.setPen(QPen(colors.accent, 1.3))
        painter.drawPolyline(line)
        cpu = self._samples[-1].cpu
        if cpu is not None:
            painter.setFont(look.small)
            painter.setPen(colors.muted)
            painter.drawText(
                QRectF(place.right() - LOAD_TEXT, place.top(), LOAD_TEXT, look.line), RIGHT, f"{cpu:.0f} %"
            )

    def _paint_progress(self, painter: QPainter) -> None:
        look, colors, place = self._look, self._look.colors, self._places.progress
        progress = self.lane.progress
        assert progress is not None
        line = look.small_line
        amount, *rest = figures_words(progress) or [""]
        pace = " · ".join(rest)
        painter.setFont(look.small)
        painter.setPen(colors.muted)
        painter.drawText(QRectF(place.left(), place.top(), place.width(), line), RIGHT, pace)
        room = place.width() - look.small_metrics.horizontalAdvance(pace) - 8
        painter.setFont(look.small_bold)
        painter.setPen(colors.text)
        phase = look.small_bold_metrics.elidedText(phase_words(progress.phase), Qt.TextElideMode.ElideRight, room)
        painter.drawText(QRectF(place.left(), place.top(), room, line), LEFT, phase)
        track = QRectF(place.left(), place.top() + line + 3, place.width(), 6)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(colors.sunken)
        painter.drawRoundedRect(track, 3, 3)
        total = max(progress.total_bytes, 1)
        painter.setBrush(colors.accent)
        done = min(1.0, progress.done_bytes / total)
        if done * track.width() >= 1:
            painter.drawRoundedRect(QRectF(track.left(), track.top(), track.width() * done, 6), 3, 3)
        already = min(done, progress.already_bytes / total)
        if already * track.width() >= 1:
            painter.setBrush(colors.ok)
            painter.drawRoundedRect(QRectF(track.left(), track.top(), track.width() * already, 6), 3, 3)
        painter.setFont(look.small)
        painter.setPen(colors.muted)
        text = look.small_metrics.elidedText(amount, Qt.TextElideMode.ElideRight, place.width())
        painter.drawText(QRectF(place.left(), track.bottom() + 3, place.width(), line), LEFT, text)

    def _paint_memory(self, painter: QPainter, with_words: bool) -> None:
        look, colors, places = self._look, self._look.colors, self._places
        mark, color = "", colors.muted
        if self.verdict is not None:
            mark = "circle-check" if self.verdict.allowed else "circle-x"
            color = colors.accent if self.verdict.allowed else colors.error
        elif self.lane.shortage:
            mark, color = "triangle-alert", colors.error
        text = places.caption
        if mark:
            side = 14.0
            square = QRectF(text.left(), text.center().y() - side / 2, side, side)
            draw_icon(painter, mark, square, color)
            text = text.adjusted(20, 0, 0, 0)
        painter.setFont(look.small_bold if mark else look.small)
        painter.setPen(color)
        if with_words:
            painter.drawText(text, LEFT, self._texts.caption)
        bar = places.bar
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(colors.sunken)
        painter.drawRoundedRect(bar, 6, 6)
        if with_words and self._texts.free:
            painter.setFont(look.small)
            painter.setPen(colors.muted)
            painter.drawText(
                QRectF(bar.left() + self.places.end, bar.top(), bar.width() - self.places.end, bar.height()),
                Qt.AlignmentFlag.AlignCenter,
                self._texts.free,
            )
        if self.places.budget < bar.width() - 1:  # more is wanted than there is: show where the memory ends
            x = bar.left() + self.places.budget
            painter.setPen(QPen(colors.error, 2.0))
            painter.drawLine(QPointF(x, bar.top() - 4), QPointF(x, bar.top()))
            painter.drawLine(QPointF(x, bar.bottom()), QPointF(x, bar.bottom() + 4))


@dataclass(frozen=True)
class _Texts:
    """Of a card, cut to what fits."""

    name: str
    details: str
    caption: str
    free: str

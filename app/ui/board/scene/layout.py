"""Where cards, bars and blocks lie. Pure geometry: sizes in, rectangles out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from PySide6.QtCore import QRectF

from app.ui.board.scene.look import Look
from app.ui.board.state.lanes import Block

MARGIN = 24.0
COLUMN_GAP = 32.0
GUTTER = 48.0
"""Between two rows of cards: the arrows run here."""
PADDING = 12.0
GRIP_WIDTH = 48.0
"""A stage's block is never narrower, or nobody could take it in the hand."""
OTHER_WIDTH = 4.0
PROGRESS_BAR = 6.0


class Density(IntEnum):
    """How much a card shows: the more nodes, the less."""

    ROOMY = 0
    NORMAL = 1
    DENSE = 2

    @classmethod
    def of(cls, nodes: int) -> Density:
        return cls.ROOMY if nodes <= 4 else cls.NORMAL if nodes <= 12 else cls.DENSE

    @property
    def bar_height(self) -> float:
        return (68.0, 44.0, 32.0)[self]

    @property
    def card_width(self) -> tuple[float, float]:
        """Smallest and largest."""
        return ((288.0, 640.0), (264.0, 520.0), (208.0, 360.0))[self]


@dataclass(frozen=True)
class CardShape:
    """Where things lie in a card; its top left corner is the origin."""

    size: QRectF
    header: QRectF
    details: QRectF
    """Chip, state and round trip; empty in a dense card."""
    sparkline: QRectF
    progress: QRectF
    """Empty unless something is being deployed."""
    caption: QRectF
    bar: QRectF


def card_height(look: Look, density: Density, deploying: bool) -> float:
    height = PADDING * 2 + look.line + 8 + look.small_line + 6 + density.bar_height
    if density is not Density.DENSE:
        height += look.small_line + 6
    if deploying:
        height += progress_height(look) + 8
    return math.ceil(height)


def progress_height(look: Look) -> float:
    return 2 * look.small_line + PROGRESS_BAR + 6


def card_shape(look: Look, density: Density, deploying: bool, width: float) -> CardShape:
    """The places in a card of this width."""
    inner = width - 2 * PADDING
    y = PADDING
    spark_width = min(112.0, inner * 0.3)
    head_height = look.line + (look.small_line + 4 if density is not Density.DENSE else 0)
    sparkline = QRectF(width - PADDING - spark_width, y, spark_width, head_height)
    header = QRectF(PADDING, y, inner - spark_width - 8, look.line)
    y += look.line
    details = QRectF()
    if density is not Density.DENSE:
        details = QRectF(PADDING, y + 4, inner - spark_width - 8, look.small_line)
        y += 6 + look.small_line
    y += 8
    progress = QRectF()
    if deploying:
        progress = QRectF(PADDING, y, inner, progress_height(look))
        y = progress.bottom() + 8
    caption = QRectF(PADDING, y, inner, look.small_line)
    bar = QRectF(PADDING, caption.bottom() + 6, inner, density.bar_height)
    size = QRectF(0, 0, width, card_height(look, density, deploying))
    return CardShape(size, header, details, sparkline, progress, caption, bar)


@dataclass(frozen=True)
class Grid:
    """The cards of the board, row by row."""

    columns: int
    cards: tuple[QRectF, ...]
    scene: QRectF

    def row(self, index: int) -> int:
        return index // self.columns

    def column(self, index: int) -> int:
        return index % self.columns

    def gutter_top(self, row: int) -> float:
        """Where the room below the cards of a row begins."""
        return self.cards[row * self.columns].bottom()

    def lane_x(self, lane: int) -> float:
        """The middle of the room left of column `lane`; `columns` is the room right of the last."""
        if lane >= self.columns:
            return self.cards[self.columns - 1].right() + COLUMN_GAP / 2
        return self.cards[lane].left() - COLUMN_GAP / 2


def grid(count: int, width: float, height: float, density: Density) -> Grid:
    """Place `count` cards of a height in a board of a width, as many beside each other as are readable."""
    smallest, largest = density.card_width
    room = max(width - 2 * MARGIN, smallest)
    columns = max(1, min(count, int((room + COLUMN_GAP) // (smallest + COLUMN_GAP))))
    card = min(largest, math.floor((room - (columns - 1) * COLUMN_GAP) / columns))
    left = math.floor(max(MARGIN, (width - columns * card - (columns - 1) * COLUMN_GAP) / 2))
    cards = tuple(
        QRectF(
            left + (index % columns) * (card + COLUMN_GAP),
            MARGIN + (index // columns) * (height + GUTTER),
            card,
            height,
        )
        for index in range(count)
    )
    rows = math.ceil(count / columns)
    return Grid(columns, cards, QRectF(0, 0, max(width, left + card + MARGIN), MARGIN + rows * (height + GUTTER)))


@dataclass(frozen=True)
class BlockPlace:
    """A block in its bar, in pixels from the bar's left end."""

    left: float
    width: float
    kv_width: float
    """Of the right end of the block."""
    to_scale: bool
    """False for a block that would be too narrow to take in the hand."""


@dataclass(frozen=True)
class BarPlaces:
    """All blocks of a bar, and where its budget ends."""

    blocks: tuple[BlockPlace, ...]
    end: float
    """Where free memory begins."""
    budget: float
    """Where the budget ends: the bar's right end unless something is missing."""


def bar_places(blocks: Sequence[Block], budget: int, width: float) -> BarPlaces:
    """Divide a bar: widths in proportion to bytes, the whole bar being the budget (or what is needed, if more)."""
    needed = [block.weight_bytes + block.kv_bytes for block in blocks]
    total = max(budget, sum(needed), 1)
    exact = [width * nbytes / total for nbytes in needed]
    least = [OTHER_WIDTH if block.stage is None else GRIP_WIDTH for block in blocks]
    widths = [max(each, minimum) for each, minimum in zip(exact, least, strict=True)]
    if (taken := sum(widths)) > width:
        widths = _squeezed(exact, least, width) if sum(least) <= width else [each * width / taken for each in widths]
    places, x = [], 0.0
    for block, each, wanted, nbytes in zip(blocks, widths, exact, needed, strict=True):
        kv = each * block.kv_bytes / nbytes if nbytes else 0.0
        places.append(BlockPlace(x, each, kv, abs(each - wanted) < 0.5))
        x += each
    return BarPlaces(tuple(places), min(x, width), width * budget / total)


def _squeezed(exact: Sequence[float], least: Sequence[float], width: float) -> list[float]:
    """Widths that fill the bar with none below its least: what the small ones take, the large ones give."""
    small = [each < minimum for each, minimum in zip(exact, least, strict=True)]
    taken = sum(minimum for minimum, is_small in zip(least, small, strict=True) if is_small)
    rest = sum(each for each, is_small in zip(exact, small, strict=True) if not is_small)
    factor = (width - taken) / rest if rest else 1.0
    return [
        minimum if is_small else max(minimum, each * factor)
        for each, minimum, is_small in zip(exact, least, small, strict=True)
    ]

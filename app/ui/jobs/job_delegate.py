"""Paints a job's row: icon and title, a bar while it runs, figures, and what came of it."""

from __future__ import annotations

from PySide6.QtCore import QModelIndex, QObject, QPersistentModelIndex, QRect, QRectF, QSize, Qt
from PySide6.QtGui import QColor, QFont, QFontMetrics, QPainter
from PySide6.QtWidgets import QStyle, QStyledItemDelegate, QStyleOptionViewItem

from app.figures import clock
from app.jobs.job import JobView
from app.registry.records import JobStatus
from app.ui.icons import draw_icon
from app.ui.jobs.job_words import ICONS, KIND_ICONS, figures_text, outcome_text, phase_text
from app.ui.jobs.jobs_model import JobRole
from app.ui.theme import SPACING, Colors, ThemeKeeper

Index = QModelIndex | QPersistentModelIndex
BAR = 6
"""Height of the progress bar in device-independent pixels; no text has to fit into it."""
LINE = 4


class JobDelegate(QStyledItemDelegate):
    """Two lines of text with a bar between them. The whole text of an error is in the row's details."""

    def __init__(self, theme: ThemeKeeper, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._theme = theme

    def sizeHint(self, option: QStyleOptionViewItem, index: Index) -> QSize:
        line = QFontMetrics(option.font).height()
        return QSize(40 * QFontMetrics(option.font).averageCharWidth(), 2 * line + BAR + 2 * LINE + 2 * SPACING)

    def paint(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        view = index.data(JobRole.VIEW)
        if not isinstance(view, JobView):
            return
        colors = self._theme.colors
        painter.save()
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        self._paint_background(painter, option, colors)
        box = option.rect.adjusted(2 * SPACING, SPACING, -2 * SPACING, -SPACING)
        side = QFontMetrics(option.font).height()
        mark = QRectF(box.left(), box.top(), side, side)
        draw_icon(painter, KIND_ICONS.get(view.kind, "briefcase"), mark, colors.muted)
        text = box.adjusted(side + SPACING + LINE, 0, 0, 0)
        if option.direction == Qt.LayoutDirection.RightToLeft:
            text = box.adjusted(0, 0, -(side + SPACING + LINE), 0)
        self._paint_title(painter, option, view, text)
        self._paint_middle(painter, option, view, text, colors)
        self._paint_foot(painter, option, view, text, colors)
        painter.restore()

    def _paint_background(self, painter: QPainter, option: QStyleOptionViewItem, colors: Colors) -> None:
        state = option.state
        if state & QStyle.StateFlag.State_Selected:
            painter.fillRect(option.rect, colors.accent_soft)
        elif state & QStyle.StateFlag.State_MouseOver:
            painter.fillRect(option.rect, colors.background)
        painter.fillRect(QRect(option.rect.left(), option.rect.bottom(), option.rect.width(), 1), colors.border)
        if state & QStyle.StateFlag.State_HasFocus and state & QStyle.StateFlag.State_Selected:
            painter.fillRect(QRect(option.rect.left(), option.rect.top(), 3, option.rect.height()), colors.accent)

    def _paint_title(self, painter: QPainter, option: QStyleOptionViewItem, view: JobView, box: QRect) -> None:
        colors = self._theme.colors
        metrics = QFontMetrics(option.font)
        state_text = phase_text(view)
        if view.status.is_over and view.ended_at is not None:
            state_text += f" · {clock(view.ended_at)}"
        side = metrics.height()
        width = metrics.horizontalAdvance(state_text)
        line = QRect(box.left(), box.top(), box.width(), side)
        color = state_color(view, colors)
        painter.setFont(option.font)
        painter.setPen(color)
        painter.drawText(line, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, state_text)
        icon_side = round(side * 0.85)
        left = line.right() - width - SPACING // 2 - icon_side
        draw_icon(
            painter, ICONS[view.status], QRectF(left, line.top() + (side - icon_side) / 2, icon_side, icon_side), color
        )
        bold = QFont(option.font)
        bold.setWeight(QFont.Weight.DemiBold)
        painter.setFont(bold)
        painter.setPen(colors.text)
        room = max(0, left - line.left() - 2 * SPACING)
        title = QFontMetrics(bold).elidedText(view.title, Qt.TextElideMode.ElideMiddle, room)
        painter.drawText(line, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, title)

    def _paint_middle(
        self, painter: QPainter, option: QStyleOptionViewItem, view: JobView, box: QRect, colors: Colors
    ) -> None:
        """The bar while it runs; nothing stands there when it is over."""
        if view.status is not JobStatus.RUNNING:
            return
        line = QFontMetrics(option.font).height()
        selected = bool(option.state & QStyle.StateFlag.State_Selected)
        track = QRectF(box.left(), box.top() + line + LINE, box.width(), BAR)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(colors.surface if selected else colors.sunken)
        painter.drawRoundedRect(track, BAR / 2, BAR / 2)
        done = view.fraction
        if done is not None and done > 0:
            painter.setBrush(colors.muted if view.is_ending else colors.accent)
            filled = QRectF(track.left(), track.top(), max(float(BAR), track.width() * done), BAR)
            painter.drawRoundedRect(filled, BAR / 2, BAR / 2)

    def _paint_foot(
        self, painter: QPainter, option: QStyleOptionViewItem, view: JobView, box: QRect, colors: Colors
    ) -> None:
        metrics = QFontMetrics(option.font)
        line = metrics.height()
        if view.status is JobStatus.RUNNING:
            top = box.top() + line + BAR + 2 * LINE
            text, color = figures_text(view) or "…", colors.muted
            if view.is_ending:
                text = "Cleaning up what is half-written"
        else:
            top = box.top() + line + LINE + BAR // 2
            text = outcome_text(view) or _nothing_to_say(view)
            color = colors.error if view.error is not None else colors.muted
        rect = QRect(box.left(), top, box.width(), line)
        painter.setFont(option.font)
        painter.setPen(color)
        fraction = view.fraction
        if view.status is JobStatus.RUNNING and fraction is not None:
            percent = f"{100 * fraction:.0f} %"
            painter.drawText(rect, Qt.AlignmentFlag.AlignRight | Qt.AlignmentFlag.AlignVCenter, percent)
            rect.adjust(0, 0, -metrics.horizontalAdvance(percent) - 2 * SPACING, 0)
        shown = metrics.elidedText(text, Qt.TextElideMode.ElideRight, rect.width())
        painter.drawText(rect, Qt.AlignmentFlag.AlignLeft | Qt.AlignmentFlag.AlignVCenter, shown)


def _nothing_to_say(view: JobView) -> str:
    if view.status is JobStatus.QUEUED:
        return "Begins when the one before it is over"
    return "Nothing was left half-written" if view.status is JobStatus.CANCELLED else ""


def state_color(view: JobView, colors: Colors) -> QColor:
    """The colour of a state's icon and word, which both say the same."""
    if view.status is JobStatus.RUNNING:
        return colors.muted if view.is_ending else colors.accent
    return {JobStatus.DONE: colors.ok, JobStatus.FAILED: colors.error}.get(view.status, colors.muted)

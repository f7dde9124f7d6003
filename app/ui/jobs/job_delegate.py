"""Paints a job's row: icon and title, a bar while it runs, figures, and what came of it."""

from __future__ import annotations

from PySide6.QtCore import QRect, QRectF, QSize, Qt
from PySide6.QtGui import QFontMetrics, QPainter
from PySide6.QtWidgets import QStyle, QStyleOptionViewItem

from app.figures import clock
from app.jobs.job import JobSnapshot
from app.registry.records import JobStatus
from app.ui.icons import draw_icon
from app.ui.jobs.job_words import KIND_ICONS, figures_text, outcome_text, phase_text
from app.ui.jobs.jobs_model import JobRole
from app.ui.list_delegate import RIGHT, Index, ListDelegate, strong, write
from app.ui.looks import run_look
from app.ui.theme import SPACING

BAR = 6
"""Height of the progress bar in device-independent pixels; no text has to fit into it."""
LINE = 4


class JobDelegate(ListDelegate):
    """Two lines of text with a bar between them. The whole text of an error is in the row's details."""

    def sizeHint(self, option: QStyleOptionViewItem, index: Index) -> QSize:
        line = QFontMetrics(option.font).height()
        return QSize(40 * QFontMetrics(option.font).averageCharWidth(), 2 * line + BAR + 2 * LINE + 2 * SPACING)

    def paint_row(self, painter: QPainter, option: QStyleOptionViewItem, index: Index) -> None:
        view = index.data(JobRole.VIEW)
        if not isinstance(view, JobSnapshot):
            return
        box = option.rect.adjusted(2 * SPACING, SPACING, -2 * SPACING, -SPACING)
        side = QFontMetrics(option.font).height()
        mark = QRectF(box.left(), box.top(), side, side)
        draw_icon(painter, KIND_ICONS.get(view.kind, "briefcase"), mark, self._theme.colors.muted)
        text = box.adjusted(side + SPACING + LINE, 0, 0, 0)
        if option.direction == Qt.LayoutDirection.RightToLeft:
            text = box.adjusted(0, 0, -(side + SPACING + LINE), 0)
        self._paint_title(painter, option, view, text)
        if view.status is JobStatus.RUNNING:
            self._paint_bar(painter, option, view, text)
        self._paint_foot(painter, option, view, text)

    def _paint_title(self, painter: QPainter, option: QStyleOptionViewItem, view: JobSnapshot, box: QRect) -> None:
        colors, metrics = self._theme.colors, QFontMetrics(option.font)
        state, side = phase_text(view), metrics.height()
        if view.status.is_over and view.ended_at is not None:
            state += f" · {clock(view.ended_at)}"
        line = QRect(box.left(), box.top(), box.width(), side)
        look = run_look(view.status)
        color = colors.muted if view.is_ending else look.of(colors)
        write(painter, line, state, option.font, color, align=RIGHT)
        small = round(side * 0.85)
        left = line.right() - metrics.horizontalAdvance(state) - SPACING // 2 - small
        draw_icon(painter, look.icon, QRectF(left, line.top() + (side - small) / 2, small, small), color)
        line.setRight(left - 2 * SPACING)
        middle = Qt.TextElideMode.ElideMiddle
        write(painter, line, view.title, strong(option.font), colors.text, cut=middle)

    def _paint_bar(self, painter: QPainter, option: QStyleOptionViewItem, view: JobSnapshot, box: QRect) -> None:
        colors, done = self._theme.colors, view.fraction
        selected = bool(option.state & QStyle.StateFlag.State_Selected)
        track = QRectF(box.left(), box.top() + QFontMetrics(option.font).height() + LINE, box.width(), BAR)
        painter.setPen(Qt.PenStyle.NoPen)
        painter.setBrush(colors.surface if selected else colors.sunken)
        painter.drawRoundedRect(track, BAR / 2, BAR / 2)
        if done is not None and done > 0:
            painter.setBrush(colors.muted if view.is_ending else colors.accent)
            track.setWidth(max(float(BAR), track.width() * done))
            painter.drawRoundedRect(track, BAR / 2, BAR / 2)

    def _paint_foot(self, painter: QPainter, option: QStyleOptionViewItem, view: JobSnapshot, box: QRect) -> None:
        colors, metrics = self._theme.colors, QFontMetrics(option.font)
        runs, height = view.status is JobStatus.RUNNING, metrics.height()
        top = box.top() + height + (BAR + 2 * LINE if runs else LINE + BAR // 2)
        line = QRect(box.left(), top, box.width(), height)
        if runs:
            text = "Cleaning up what is half-written" if view.is_ending else figures_text(view) or "…"
        else:
            text = outcome_text(view) or _nothing_to_say(view)
        color = colors.error if view.error is not None else colors.muted
        if runs and view.fraction is not None:
            percent = f"{100 * view.fraction:.0f} %"
            write(painter, line, percent, option.font, color, align=RIGHT)
            line.adjust(0, 0, -metrics.horizontalAdvance(percent) - 2 * SPACING, 0)
        write(painter, line, text, option.font, color)


def _nothing_to_say(view: JobSnapshot) -> str:
    if view.status is JobStatus.QUEUED:
        return "Begins when the one before it is over"
    return "Nothing was left half-written" if view.status is JobStatus.CANCELLED else ""

"""Toasts: short notes at the window's lower right that pass by themselves."""

from __future__ import annotations

from PySide6.QtCore import QEvent, QObject, Qt, QVariantAnimation, Signal, Slot
from PySide6.QtGui import QAccessible, QAccessibleEvent, QColor
from PySide6.QtWidgets import (
    QApplication,
    QFrame,
    QGraphicsDropShadowEffect,
    QGraphicsOpacityEffect,
    QHBoxLayout,
    QVBoxLayout,
    QWidget,
)

from app.ui import make
from app.ui.looks import NOTICES, LookIcon
from app.ui.notices import Notice, NoticeAction, Notices
from app.ui.settings import Settings
from app.ui.theme import SPACING, ThemeKeeper

MOST_SHOWN = 4
SECONDS = 6.0
SECONDS_WITH_ACTIONS = 12.0
"""Longer, since something can be done about it."""
FADE_MILLISECONDS = 140
WIDTH_IN_CHARACTERS = 46
MARGIN = 2 * SPACING

FOOT = 72
"""Pixels left free below: there stand the buttons that finish what a screen is for."""


class Toast(QFrame):
    """One note. Deletes itself when it passes or is closed."""

    passed = Signal()

    def __init__(self, notice: Notice, theme: ThemeKeeper, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.notice = notice
        self._theme = theme
        self.setProperty("role", "card")
        self.setObjectName("toast")
        self._icon = LookIcon(self)
        self._text = make.label(notice.text, "", self, wraps=True, is_plain=True)
        self._close = make.tool("x", "Close", self.leave, self, name="Close this note")
        self._close.setAutoRaise(True)
        row = make.row(
            (self._icon, 0, Qt.AlignmentFlag.AlignVCenter), (self._text, 1),
            (self._close, 0, Qt.AlignmentFlag.AlignVCenter), spacing=SPACING + SPACING // 2,
        )  # fmt: skip
        column = make.column(row, within=self, margins=(MARGIN, SPACING + 4, SPACING, SPACING + 4))
        if notice.actions:
            column.addLayout(self._buttons(notice.actions))
        self._timer = make.timer(self, self._on_time)
        self._timer.start(int(1000 * (SECONDS_WITH_ACTIONS if notice.actions else SECONDS)))
        self._apply_theme()
        theme.changed.connect(self._apply_theme)

    def _buttons(self, actions: tuple[NoticeAction, ...]) -> QHBoxLayout:
        row = make.row(margins=(self._icon.width() + SPACING + SPACING // 2, 0, 0, 0))
        for action in actions:
            button = make.button(action.text, action.run, self)
            button.clicked.connect(self.leave)
            row.addWidget(button)
        row.addStretch(1)
        return row

    @property
    def is_attended(self) -> bool:
        """Whether somebody is at it: the pointer is over it, or the keyboard's focus is in it."""
        focused = QApplication.focusWidget()
        return self.underMouse() or (focused is not None and self.isAncestorOf(focused))

    @Slot()
    def leave(self) -> None:
        """Go now."""
        self._timer.stop()
        self.hide()
        self.passed.emit()
        self.deleteLater()

    @Slot()
    def _on_time(self) -> None:
        if self.is_attended:
            self._timer.start(1000)
        else:
            self.leave()

    @Slot()
    def _apply_theme(self) -> None:
        look, colors = NOTICES[self.notice.level], self._theme.colors
        self._icon.show_look(look, colors)
        self.setAccessibleName(f"{look.word}: {self.notice.text}")

    def cast_shadow(self) -> None:
        """Stand out from what lies below."""
        shadow = QGraphicsDropShadowEffect(self)
        shadow.setBlurRadius(24)
        shadow.setOffset(0, 4)
        shadow.setColor(QColor(0, 0, 0, 130 if self._theme.is_dark else 50))
        self.setGraphicsEffect(shadow)

    def fade_in(self) -> None:
        """Appear softly, then cast the shadow: a widget has one effect at a time."""
        opacity = QGraphicsOpacityEffect(self)
        opacity.setOpacity(0.0)
        self.setGraphicsEffect(opacity)
        fade = QVariantAnimation(self)
        fade.setDuration(FADE_MILLISECONDS)
        fade.setStartValue(0.0)
        fade.setEndValue(1.0)
        fade.valueChanged.connect(opacity.setOpacity)
        fade.finished.connect(self.cast_shadow)
        fade.start(QVariantAnimation.DeletionPolicy.DeleteWhenStopped)


class ToastArea(QWidget):
    """Shows what `Notices.toasted` says, over the lower right corner of its parent; the newest lowest."""

    def __init__(self, notices: Notices, theme: ThemeKeeper, parent: QWidget, settings: Settings | None = None) -> None:
        super().__init__(parent)
        self._over, self._theme, self._settings = parent, theme, settings
        self._toasts: list[Toast] = []
        self.setObjectName("toasts")
        self.setAccessibleName("Notes")
        self._column = QVBoxLayout(self)
        self._column.setContentsMargins(MARGIN, MARGIN, MARGIN, MARGIN)  # room for the shadows
        self._column.setSpacing(SPACING)
        notices.toasted.connect(self.add)
        parent.installEventFilter(self)
        self.hide()

    @property
    def toasts(self) -> tuple[Toast, ...]:
        """Shown now, oldest first."""
        return tuple(self._toasts)

    @Slot(object)
    def add(self, notice: Notice) -> None:
        """Show a note; the oldest goes when there are too many."""
        if len(self._toasts) >= MOST_SHOWN:
            self._toasts[0].leave()
        toast = Toast(notice, self._theme, self)
        toast.passed.connect(self._on_passed)
        self._toasts.append(toast)
        self._column.addWidget(toast)
        if self._settings is None or self._settings.get("appearance/animations"):
            toast.fade_in()
        else:
            toast.cast_shadow()
        toast.show()  # a layout counts only what is shown
        self.show()
        self.raise_()
        self._place()
        QAccessible.updateAccessibility(QAccessibleEvent(toast, QAccessible.Event.Alert))

    @Slot()
    def _on_passed(self) -> None:
        self._toasts = [toast for toast in self._toasts if toast is not self.sender()]
        for index in range(self._column.count() - 1, -1, -1):
            item = self._column.itemAt(index)
            if item is not None and item.widget() not in self._toasts:
                self._column.takeAt(index)
        self.setVisible(bool(self._toasts))
        self._place()

    def event(self, event: QEvent) -> bool:
        if event.type() is QEvent.Type.LayoutRequest:  # a text has got its font, or a note has gone
            self._place()
        return super().event(event)

    def _place(self) -> None:
        parent = self._over
        wanted = self.fontMetrics().averageCharWidth() * WIDTH_IN_CHARACTERS + 2 * MARGIN
        width = min(wanted, parent.width())
        height = min(self._column.totalHeightForWidth(width), parent.height())
        top = max(0, parent.height() - height - FOOT)
        self.setGeometry(parent.width() - width, top, width, height)

    def eventFilter(self, watched: QObject, event: QEvent) -> bool:
        if event.type() is QEvent.Type.Resize and watched is self._over:
            self._place()
        return super().eventFilter(watched, event)

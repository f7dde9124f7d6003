"""Banners: what stays until it is closed or not true any more, in a stack over the screens."""

from __future__ import annotations

from PySide6.QtCore import QSize, Qt, Signal, Slot
from PySide6.QtWidgets import QFrame, QSizePolicy, QVBoxLayout, QWidget

from app.ui import make
from app.ui.icons import icon
from app.ui.looks import NOTICES, LookIcon
from app.ui.notices import Notice, Notices
from app.ui.shell.error_dialog import ErrorDialog
from app.ui.theme import SPACING, ThemeKeeper

MOST_SHOWN = 3


class Banner(QFrame):
    """One notice: icon, text, advice, what can be done."""

    closed = Signal(int)
    """The notice's number."""

    def __init__(self, notice: Notice, theme: ThemeKeeper, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self.notice = notice
        self._theme = theme
        self.setObjectName("banner")
        self._icon = LookIcon(self)
        row = make.row(
            (self._icon, 0, Qt.AlignmentFlag.AlignVCenter), SPACING // 2, (self._words(), 1), within=self,
            margins=(2 * SPACING, SPACING, SPACING, SPACING),
        )  # fmt: skip
        for action in notice.actions:
            button = make.button(action.text, action.run, self)
            row.addWidget(button)
        if notice.details:
            self.details_button = make.button(
                "Details", self.show_details, self, role="quiet", tip="All that is known of it, to read or to copy"
            )
            row.addWidget(self.details_button)
        self.close_button = make.tool("x", "Close", self._on_close, self, name="Close this banner")
        self.close_button.setIconSize(QSize(16, 16))
        row.addWidget(self.close_button)
        self._apply_theme()
        theme.changed.connect(self._apply_theme)

    def _words(self) -> QVBoxLayout:
        column = make.column(spacing=2)
        for text, role in ((self.notice.text, "heading"), (self.notice.advice, "muted")):
            if not text:
                continue
            label = make.label(text, role, self, wraps=True, is_plain=True, selectable=True)
            column.addWidget(label)
        return column

    @Slot()
    def show_details(self) -> None:
        ErrorDialog(self.notice, self._theme, self.window()).open()

    @Slot()
    def _on_close(self) -> None:
        self.closed.emit(self.notice.number)

    @Slot()
    def _apply_theme(self) -> None:
        look, colors = NOTICES[self.notice.level], self._theme.colors
        self._icon.show_look(look, colors)
        self.setAccessibleName(f"{look.word}: {self.notice.text} {self.notice.advice}".strip())
        # The muted grey is made for surfaces; on a coloured ground the text's own colour is what stays readable.
        self.setStyleSheet(
            f"#banner {{ background: {look.soft(colors).name()}; border: none; border-radius: 0;"
            f" border-left: 3px solid {look.of(colors).name()}; }} #banner QLabel {{ color: {colors.text.name()}; }}"
        )


class BannerBar(QWidget):
    """The newest banners, the newest on top; the rest behind a button."""

    def __init__(self, notices: Notices, theme: ThemeKeeper, parent: QWidget | None = None) -> None:
        super().__init__(parent)
        self._notices, self._theme = notices, theme
        self._shown: dict[int, Banner] = {}
        self._is_expanded = False
        self.setObjectName("banners")
        self.setAccessibleName("Banners")
        self.setSizePolicy(QSizePolicy.Policy.Preferred, QSizePolicy.Policy.Maximum)
        self.more = make.button("", self._on_more, self, role="quiet")
        self._column = make.column((self.more, 0, Qt.AlignmentFlag.AlignHCenter), within=self, spacing=1)
        notices.banners_changed.connect(self._show)
        self._show()

    @property
    def banners(self) -> tuple[Banner, ...]:
        """Shown now, from the top."""
        return tuple(self._shown[notice.number] for notice in self._visible())

    def _visible(self) -> list[Notice]:
        newest = self._notices.banners[::-1]
        return newest if self._is_expanded else newest[:MOST_SHOWN]

    @Slot()
    def _show(self) -> None:
        self._is_expanded = self._is_expanded and len(self._notices.banners) > MOST_SHOWN
        wanted = self._visible()
        numbers = {notice.number for notice in wanted}
        for number in [number for number in self._shown if number not in numbers]:
            gone = self._shown.pop(number)
            self._column.removeWidget(gone)
            gone.hide()
            gone.deleteLater()
        for place, notice in enumerate(wanted):
            if notice.number not in self._shown:  # those that stay keep their widget, and with it the focus
                banner = Banner(notice, self._theme, self)
                banner.closed.connect(self._notices.close)
                self._shown[notice.number] = banner
                self._column.insertWidget(place, banner)
        hidden = len(self._notices.banners) - MOST_SHOWN
        self.more.setVisible(hidden > 0)
        self.more.setText("Show fewer" if self._is_expanded else f"{hidden} more")
        self.more.setIcon(icon("chevron-up" if self._is_expanded else "chevron-down"))
        self.setVisible(bool(wanted))

    @Slot()
    def _on_more(self) -> None:
        self._is_expanded = not self._is_expanded
        self._show()

"""The menu bar, and with it every command of the window in one place: menus, palette and shortcut list agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PySide6.QtCore import QObject
from PySide6.QtGui import QAction, QKeySequence
from PySide6.QtWidgets import QMenu, QMenuBar

from app.ui.icons import icon


@dataclass(frozen=True)
class Command:
    """An action and the menu it belongs to."""

    group: str
    action: QAction


def action(
    parent: QObject,
    text: str,
    icon_name: str,
    run: Callable[[], object],
    shortcut: str | QKeySequence.StandardKey | None = None,
) -> QAction:
    """An action of the window itself."""
    made = QAction(icon(icon_name), text, parent)
    made.setIconText(text.rstrip("…"))
    if shortcut is not None:
        made.setShortcut(QKeySequence(shortcut))
    made.triggered.connect(lambda: run())
    return made


class Menus:
    """Menus by name, in the order they are first asked for."""

    def __init__(self, bar: QMenuBar) -> None:
        self._bar = bar
        self._menus: dict[str, QMenu] = {}

    def menu(self, name: str) -> QMenu:
        if name not in self._menus:
            self._menus[name] = self._bar.addMenu(f"&{name}")
        return self._menus[name]

    def commands(self) -> Iterator[Command]:
        """All there are, submenus included."""
        for name, menu in self._menus.items():
            yield from _of_menu(name, menu)


def _of_menu(group: str, menu: QMenu) -> Iterator[Command]:
    for each in menu.actions():
        submenu = each.menu()
        if isinstance(submenu, QMenu):
            yield from _of_menu(group, submenu)
        elif not each.isSeparator() and each.text():
            yield Command(group, each)

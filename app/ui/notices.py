"""What the window has to say to its user: toasts for what passes, banners for what stays. Widgets show them."""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from PySide6.QtCore import QObject, Signal

from app.errors import NodeError, ShardboardError


class Level(StrEnum):
    INFO = "info"
    SUCCESS = "success"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True)
class NoticeAction:
    """A button on a notice."""

    text: str
    run: Callable[[], object]


@dataclass(frozen=True)
class Notice:
    """One thing said. `details` is what can be copied: all that is known."""

    number: int
    level: Level
    text: str
    advice: str = ""
    details: str = ""
    actions: tuple[NoticeAction, ...] = ()
    key: str = ""
    """A banner with the key of an earlier one replaces it."""


class Notices(QObject):
    """Says things. All methods belong to the GUI thread."""

    toasted = Signal(object)
    """A Notice that passes."""
    banners_changed = Signal()

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.banners: list[Notice] = []
        """Newest last."""
        self._numbers = itertools.count(1)

    def toast(self, text: str, level: Level = Level.INFO, *actions: NoticeAction) -> None:
        """Say something that passes by itself."""
        self.toasted.emit(Notice(next(self._numbers), level, text, actions=actions))

    def banner(
        self, key: str, level: Level, text: str, *actions: NoticeAction, advice: str = "", details: str = ""
    ) -> None:
        """Say something that stays until it is closed or `withdraw`n."""
        notice = Notice(next(self._numbers), level, text, advice, details, actions, key)
        kept = [banner for banner in self.banners if not key or banner.key != key]
        self.banners = [*kept, notice]
        self.banners_changed.emit()

    def error(self, what: str, error: ShardboardError, *actions: NoticeAction, key: str = "") -> None:
        """Say that something failed: what, on which node, why, what to do; details can be copied."""
        self.banner(
            key or what, Level.ERROR, f"{what}: {error.message}", *actions,
            advice=error.advice, details=details_of(what, error),
        )  # fmt: skip

    def withdraw(self, key: str) -> None:
        """A banner is not true any more."""
        self._keep([banner for banner in self.banners if banner.key != key])

    def close(self, number: int) -> None:
        """The user has read a banner."""
        self._keep([banner for banner in self.banners if banner.number != number])

    def _keep(self, banners: list[Notice]) -> None:
        if banners != self.banners:
            self.banners = banners
            self.banners_changed.emit()


def details_of(what: str, error: ShardboardError) -> str:
    """All that is known of an error, as text to copy."""
    lines = [f"{what}", f"error: {error.message}", f"advice: {error.advice}", further_details(error)]
    return "\n".join(line for line in lines if not line.endswith(": "))


def further_details(error: ShardboardError) -> str:
    """What is known of an error besides its sentences: its kind, the node, what caused it."""
    lines = [f"kind: {error.kind}"]
    if isinstance(error, NodeError) and error.node:
        lines.append(f"node: {error.node}")
    if error.__cause__ is not None:
        lines += ["", *(line.rstrip() for line in traceback.format_exception(error.__cause__))]
    return "\n".join(lines)

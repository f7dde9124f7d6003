"""The tokens of an answer as a table: when each came, where its time went, how likely it was, what else was likely."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

from PySide6.QtCore import QAbstractTableModel, QModelIndex, QObject, QPersistentModelIndex, Qt

from app.figures import micros, percent
from app.runs.trace import TokenLogprob, TokenTime

Index = QModelIndex | QPersistentModelIndex
Role = Qt.ItemDataRole


class TokenColumn(IntEnum):
    NUMBER = 0
    TEXT = 1
    AT = 2
    TOOK = 3
    COMPUTE = 4
    QUEUE = 5
    WIRE = 6
    BATCH = 7
    PROBABILITY = 8
    INSTEAD = 9


HEADERS = ("", "Token", "After", "Took", "Computing", "Waiting", "On the way", "In step", "Probability", "Also likely")
HINTS = {
    TokenColumn.AT: "Since the request was made",
    TokenColumn.TOOK: "Since the token before it",
    TokenColumn.BATCH: "How many tokens, of how many requests, the same step brought",
    TokenColumn.PROBABILITY: "As the model gave it; kept when log probabilities were asked for",
}
_LEFT = frozenset({TokenColumn.TEXT, TokenColumn.INSTEAD})


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One token of the answer. Texts are None for what the tokenizer could not tell."""

    id: int
    text: str | None
    time: TokenTime | None = None
    logprob: TokenLogprob | None = None
    others: tuple[tuple[str, float], ...] = ()
    """The likeliest in its place with their log probabilities, itself left out."""


class TokensModel(QAbstractTableModel):
    """Rows in the order of the answer; read-only."""

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._rows: tuple[TokenRow, ...] = ()

    def show_rows(self, rows: Sequence[TokenRow]) -> None:
        if tuple(rows) != self._rows:
            self.beginResetModel()
            self._rows = tuple(rows)
            self.endResetModel()

    @property
    def has_times(self) -> bool:
        return any(row.time is not None for row in self._rows[:1])

    @property
    def has_logprobs(self) -> bool:
        return any(row.logprob is not None for row in self._rows[:1])

    def rowCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008 - as Qt has it
        return 0 if parent.isValid() else len(self._rows)

    def columnCount(self, parent: Index = QModelIndex()) -> int:  # noqa: B008 - as Qt has it
        return 0 if parent.isValid() else len(TokenColumn)

    def headerData(self, section: int, orientation: Qt.Orientation, role: int = Role.DisplayRole) -> Any:
        if orientation != Qt.Orientation.Horizontal or not 0 <= section < len(HEADERS):
            return None
        if role == Role.DisplayRole:
            return HEADERS[section]
        if role == Role.TextAlignmentRole:
            return _side(TokenColumn(section))
        return HINTS.get(TokenColumn(section)) if role == Role.ToolTipRole else None

    def data(self, index: Index, role: int = Role.DisplayRole) -> Any:
        if not index.isValid() or not 0 <= index.row() < len(self._rows):
            return None
        column = TokenColumn(index.column())
        if role == Role.DisplayRole:
            return self._text(index.row(), column)
        if role == Role.ToolTipRole and column is TokenColumn.TEXT:
            return f"Token id {self._rows[index.row()].id}"
        if role == Role.TextAlignmentRole:
            return _side(column)
        return None

    def _text(self, number: int, column: TokenColumn) -> str:
        row = self._rows[number]
        time = row.time
        match column:
            case TokenColumn.NUMBER:
                return f"{number + 1:,}"
            case TokenColumn.TEXT:
                return visible(row.text) if row.text is not None else f"id {row.id}"
            case TokenColumn.PROBABILITY:
                return "–" if row.logprob is None else percent(math.exp(row.logprob.logprob))
            case TokenColumn.INSTEAD:
                return ", ".join(f"{visible(text)} {percent(math.exp(logprob))}" for text, logprob in row.others)
        if time is None:
            return "–"
        match column:
            case TokenColumn.AT:
                return micros(time.at_us)
            case TokenColumn.TOOK:
                return micros(time.took_us)
            case TokenColumn.COMPUTE:
                return micros(time.compute_us)
            case TokenColumn.QUEUE:
                return micros(time.queue_us)
            case TokenColumn.WIRE:
                return micros(time.wire_us)
        return str(time.batch)


def _side(column: TokenColumn) -> Qt.AlignmentFlag:
    side = Qt.AlignmentFlag.AlignLeft if column in _LEFT else Qt.AlignmentFlag.AlignRight
    return side | Qt.AlignmentFlag.AlignVCenter


def visible(text: str) -> str:
    """A token's text with what cannot be seen made visible."""
    return text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥") or "(nothing)"

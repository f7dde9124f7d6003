"""The tokens of an answer as a table: when each came, where its time went, how likely it was, what else was likely."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PySide6.QtGui import QGuiApplication, QKeyEvent, QKeySequence
from PySide6.QtWidgets import QWidget

from app.figures import micros, percent
from app.runs.trace import TokenLogprob, TokenTime
from app.ui.tables import Column, RowsModel, Table
from app.ui.theme import SPACING, ThemeKeeper


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One token of the answer. Texts are None for what the tokenizer could not tell."""

    number: int
    """From 0."""
    id: int
    text: str | None
    time: TokenTime | None = None
    logprob: TokenLogprob | None = None
    others: tuple[tuple[str, float], ...] = ()
    """The likeliest in its place with their log probabilities, itself left out."""


def visible(text: str) -> str:
    """A token's text with what cannot be seen made visible."""
    return text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥") or "(nothing)"


def _of_time(figure: Callable[[TokenTime], str]) -> Callable[[TokenRow], str]:
    return lambda row: "–" if row.time is None else figure(row.time)


def _probability(row: TokenRow) -> str:
    return "–" if row.logprob is None else percent(math.exp(row.logprob.logprob))


def _others(row: TokenRow) -> str:
    return ", ".join(f"{visible(text)} {percent(math.exp(logprob))}" for text, logprob in row.others)


TIMES = (
    Column("After", _of_time(lambda time: micros(time.at_us)), "59.99 min", True, tip="Since the request was made"),
    Column("Took", _of_time(lambda time: micros(time.took_us)), "999.9 ms", True, tip="Since the token before it"),
    Column("Computing", _of_time(lambda time: micros(time.compute_us)), "Computing__", True),
    Column("Waiting", _of_time(lambda time: micros(time.queue_us)), "Waiting____", True),
    Column("On the way", _of_time(lambda time: micros(time.wire_us)), "On the way__", True),
    Column(
        "In step", _of_time(lambda time: str(time.batch)), "In step_", True,
        tip="How many tokens, of how many requests, the same step brought",
    ),
)  # fmt: skip
PROBABILITY = Column(
    "Probability", _probability, "Probability__", True,
    tip="As the model gave it; kept when log probabilities were asked for",
)  # fmt: skip
COLUMNS = (
    Column("", lambda row: f"{row.number + 1:,}", "20,000", True),
    Column(
        "Token", lambda row: f"id {row.id}" if row.text is None else visible(row.text), "␣understanding",
        hint=lambda row: f"Token id {row.id}",
    ),
    *TIMES,
    PROBABILITY,
    Column("Also likely", _others),
)  # fmt: skip


class TokensView(Table):
    """Shows TokenRows; columns of what was not kept are hidden."""

    def __init__(self, theme: ThemeKeeper, parent: QWidget | None = None) -> None:
        tokens = RowsModel(COLUMNS)
        super().__init__(tokens, theme, "Tokens of the answer", parent=parent)
        tokens.setParent(self)
        self.tokens = tokens
        self.size_columns(COLUMNS, 2 * SPACING)

    def show_rows(self, rows: Sequence[TokenRow]) -> None:
        self.tokens.show_rows(rows)
        for number, column in enumerate(COLUMNS):
            if column in TIMES:
                self.setColumnHidden(number, not rows or rows[0].time is None)
            elif column is PROBABILITY:
                self.setColumnHidden(number, not rows or rows[0].logprob is None)

    def keyPressEvent(self, event: QKeyEvent) -> None:
        """Copying takes the whole selected rows, with tabs between the cells."""
        if not event.matches(QKeySequence.StandardKey.Copy):
            super().keyPressEvent(event)
            return
        rows = sorted(index.row() for index in self.selectionModel().selectedRows())
        shown = [column for number, column in enumerate(COLUMNS) if not self.isColumnHidden(number)]
        lines = ["\t".join(column.text(self.tokens.rows[row]) for column in shown) for row in rows]
        if lines:
            QGuiApplication.clipboard().setText("\n".join(lines))

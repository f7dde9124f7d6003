"""Reads all of one run for the detail pane, in a thread; the latest wish counts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Signal, Slot

from app.errors import RegistryError, ShardboardError
from app.runs.run import Run, RunKind
from app.runs.telling import Telling, tell
from app.runs.waterfall import Shares, shares
from app.ui.bridge import Bridge
from app.ui.paging.listing import RowId
from app.ui.runs.timeline import Timeline
from app.ui.runs.tokens_view import TokenRow

if TYPE_CHECKING:
    from app.controller import Controller
    from app.inference.tokenizer import Tokenizer
    from app.ui.bridge import Report

MOST_TOKENS = 20_000
"""So many rows the table of tokens has at most."""

Spell = Callable[[int], str | None]
"""What a token's id stands for."""


@dataclass(frozen=True, eq=False)
class Reading:
    """All there is to show of a run."""

    told: Telling
    timeline: Timeline | None = None
    """Of a request that is over and whose times were kept."""
    shares: Shares | None = None
    tokens: tuple[TokenRow, ...] = ()


class DetailReader(QObject):
    """`read` brings the Reading of a run, or None for one that is gone."""

    read_done = Signal(object)
    failed = Signal(object)

    def __init__(self, bridge: Bridge, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._bridge = bridge
        self._number = 0

    def read(self, kind: RunKind, id: RowId) -> None:
        self._number += 1
        number = self._number

        async def work(controller: Controller, report: Report) -> tuple[int, Reading | None]:
            try:
                run = await controller.registry.call(lambda _: controller.runs.find(kind, str(id)))
            except RegistryError:  # removed meanwhile
                return number, None
            live = controller.find_request(int(id)) if kind == "request" else None
            run = run if live is None else live.as_of_now(run)
            return number, await asyncio.to_thread(_read, controller, run)

        call = self._bridge.call(work, "reading the run")
        call.done.connect(self._on_done)
        call.failed.connect(self.failed)

    def forget(self) -> None:
        """What is being read is not wanted any more."""
        self._number += 1

    @Slot(object)
    def _on_done(self, answer: tuple[int, Reading | None]) -> None:
        number, reading = answer
        if number == self._number:
            self.read_done.emit(reading)


def _read(controller: Controller, run: Run) -> Reading:
    told, trace = tell(run), run.request_trace
    rows = token_rows(run, _spelling(controller, run.model)) if told.is_over else ()
    if not told.is_over or trace is None or not (trace.tokens or trace.chunks):
        return Reading(told, tokens=rows)
    return Reading(told, Timeline.of(trace), shares(trace), rows)


def _spelling(controller: Controller, model: str | None) -> Spell:
    """By the model's tokenizer, if the library still has it."""
    try:
        tokenizer: Tokenizer = controller.inference.tokenizer(model or "")
    except ShardboardError:
        return lambda id: None

    def spell(id: int) -> str | None:
        text = tokenizer.decode([id], skip_special_tokens=False)
        return text if "\ufffd" not in text else tokenizer.text_of(id)  # a part of a character

    return spell


def token_rows(run: Run, spell: Spell) -> tuple[TokenRow, ...]:
    """The answer's tokens with what is known of each; none where neither ids nor times were kept."""
    facts, trace = run.request, run.request_trace
    if facts is None:
        return ()
    known: dict[int, str | None] = {}

    def text_of(id: int) -> str | None:
        if id not in known:
            known[id] = spell(id)
        return known[id]

    def others(top: Sequence[tuple[int, float]], chosen: int) -> tuple[tuple[str, float], ...]:
        return tuple((text_of(id) or f"id {id}", logprob) for id, logprob in top if id != chosen)

    rows = []
    for number, id in enumerate(facts.token_ids[:MOST_TOKENS]):
        time = trace.tokens[number] if trace is not None and number < len(trace.tokens) else None
        logprob = trace.logprobs[number] if trace is not None and number < len(trace.logprobs) else None
        likely = others(logprob.top, id) if logprob is not None else ()
        rows.append(TokenRow(number, id, text_of(id), time, logprob, likely))
    return tuple(rows)

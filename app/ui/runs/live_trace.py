"""Follows where the time of a request under way goes: a few times a second, and each time only what is new."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Signal, Slot

from app.runs.bottleneck import explain
from app.runs.trace import RequestTrace
from app.runs.waterfall import Shares, shares
from app.ui import make
from app.ui.bridge import Bridge
from app.ui.runs.timeline import Growth

if TYPE_CHECKING:
    from app.controller import Controller
    from app.ui.bridge import Report

EVERY_MILLISECONDS = 400


@dataclass(frozen=True)
class LiveNews:
    """What has come, and what all of it means."""

    request: int
    growth: Growth
    shares: Shares
    sentence: str


class LiveTrace(QObject):
    """`follow` a request until it is over or another is followed."""

    grown = Signal(object)
    """LiveNews; the first has all that there was until then."""

    def __init__(self, bridge: Bridge, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._bridge = bridge
        self.request: int | None = None
        self._chunks = self._tokens = 0
        self._asking = False
        self._timer = make.timer(self, self._ask, EVERY_MILLISECONDS, once=False)

    def follow(self, request: int) -> None:
        """From its beginning."""
        if self.request != request:
            self.request = request
            self._chunks = self._tokens = 0
        if not self._timer.isActive():
            self._timer.start()
            self._ask()

    def stop(self) -> None:
        self.request = None
        self._timer.stop()

    @Slot()
    def _ask(self) -> None:
        if self._asking or self.request is None:
            return
        self._asking = True
        request, chunks, tokens = self.request, self._chunks, self._tokens

        async def work(controller: Controller, report: Report) -> LiveNews | None:
            run = controller.find_request(request)
            if run is None:
                return None
            return await asyncio.to_thread(_news, request, run.trace(), run.record.prompt_tokens, chunks, tokens)

        call = self._bridge.call(work, "following the request")
        call.done.connect(self._on_news)
        call.ended.connect(self._on_asked)

    @Slot(object)
    def _on_news(self, news: LiveNews | None) -> None:
        if news is None:  # it is over: its record tells the rest
            self._timer.stop()
        elif news.request == self.request:
            self._chunks += len(news.growth.chunks)
            self._tokens += len(news.growth.tokens)
            self.grown.emit(news)

    @Slot()
    def _on_asked(self) -> None:
        self._asking = False


def _news(request: int, trace: RequestTrace, prompt_tokens: int, chunks: int, tokens: int) -> LiveNews:
    growth = Growth(trace.first_step_us, trace.chunks[chunks:], trace.tokens[tokens:], trace.plan)
    found = explain(trace, prompt_tokens or None)
    return LiveNews(request, growth, shares(trace), found.sentence if found.kind != "none" else "")

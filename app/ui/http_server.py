"""The HTTP server of this window: on or off, where it listens, why it does not. It runs on the controller's loop.

What serves HTTP is loaded with the first server that is switched on: FastAPI takes 25 MB and half a second.
"""

from __future__ import annotations

import asyncio
import importlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from PySide6.QtCore import QObject, Signal, Slot

from app.controller_settings import ServerSettings
from app.errors import ShardboardError
from app.ui.bridge import Bridge, explained
from app.ui.settings_desk import SettingsDesk

if TYPE_CHECKING:
    from app.api.server import ApiServer
    from app.controller import Controller
    from app.ui.bridge import Report

DRAIN_SECONDS = 3.0
"""For answers that are being streamed when it is switched off or moves. Who closes the window was asked about them."""


class ServerState(StrEnum):
    OFF = "off"
    CHANGING = "changing"
    ON = "on"
    FAILED = "failed"
    """It should be on, and is not: `error` says why."""


@dataclass(frozen=True)
class _Now:
    """How it is after a change."""

    settings: ServerSettings
    url: str = ""
    error: ShardboardError | None = None


class HttpServer(QObject):
    """On or off as the settings say, from the moment the controller is open."""

    changed = Signal()

    def __init__(self, bridge: Bridge, desk: SettingsDesk, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._bridge = bridge
        self._room = _Room(bridge, desk)
        self._pending = 0
        self.settings = ServerSettings()
        self.state = self._last = ServerState.OFF
        """As it is; and as the last change has left it, before the next one is done."""
        self.url = ""
        self.error: ShardboardError | None = None
        bridge.opened.connect(self._on_opened)

    @Slot()
    def _on_opened(self) -> None:
        self.change()

    def change(self, **fields: object) -> None:
        """Save other settings and follow them: enabled, host, port, demand_key. Without any, follow what is saved."""
        self._pending += 1
        if self.settings.enabled or fields.get("enabled"):
            self.state = ServerState.CHANGING
            self.changed.emit()
        room = self._room

        async def work(controller: Controller, report: Report) -> _Now:
            return await room.change(controller, fields)

        call = self._bridge.call(work, "changing the HTTP server")
        call.done.connect(self._on_changed)
        call.failed.connect(self._on_failed)
        call.ended.connect(self._on_ended)

    def try_again(self) -> None:
        """Something else may have changed: a key was made, a port is free now."""
        self.change()

    @Slot(object)
    def _on_changed(self, now: _Now) -> None:
        self.settings, self.url, self.error = now.settings, now.url, now.error
        if now.error is not None:
            self._last = ServerState.FAILED
        else:
            self._last = ServerState.ON if now.url else ServerState.OFF

    @Slot(object)
    def _on_failed(self, error: ShardboardError) -> None:
        """The settings could not be saved; the server is as it was."""
        self.error = error
        self._last = ServerState.ON if self.url else ServerState.FAILED

    @Slot()
    def _on_ended(self) -> None:
        self._pending -= 1
        if not self._pending:  # else more was asked for since, and is not done yet
            self.state = self._last
            self.changed.emit()


class _Room:
    """On the controller's loop: the server that runs, if any. One change after another."""

    def __init__(self, bridge: Bridge, desk: SettingsDesk) -> None:
        self._bridge, self._desk = bridge, desk
        self._server: ApiServer | None = None
        self._settings = ServerSettings()
        self._turn: asyncio.Lock | None = None
        self._is_door = False

    async def change(self, controller: Controller, fields: dict[str, object]) -> _Now:
        if self._turn is None:
            self._turn = asyncio.Lock()
        async with self._turn:
            settings = (await self._desk.change(controller, "server", fields)).server
            if self._server is not None and self._server.is_running and settings == self._settings:
                return _Now(settings, self._server.url)
            await self._stop(DRAIN_SECONDS)
            if not settings.enabled:
                return _Now(settings)
            try:
                return _Now(settings, await self._start(controller, settings))
            except Exception as error:  # whatever it is, the preferences must say why nothing listens
                return _Now(settings, error=explained(error, "starting the HTTP server"))

    async def _start(self, controller: Controller, settings: ServerSettings) -> str:
        module = await asyncio.to_thread(importlib.import_module, "app.api.server")
        server: ApiServer = module.ApiServer(controller, settings)
        await server.start()
        self._server, self._settings = server, settings
        if not self._is_door:
            self._is_door = True
            self._bridge.add_door(self._close)
        return server.url

    async def _stop(self, deadline: float) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.stop(deadline)

    async def _close(self) -> None:
        self._is_door = False
        await self._stop(0.0)

"""Changes of the controller's settings, one after another: two that are made at once must not undo each other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Literal

from msgspec.structs import replace

from app.controller_settings import ControllerSettings

if TYPE_CHECKING:
    from app.controller import Controller


class SettingsDesk:
    """On the controller's loop; one for a window."""

    def __init__(self) -> None:
        self._turn: asyncio.Lock | None = None

    async def change(
        self, controller: Controller, group: Literal["server", "records"], fields: dict[str, object]
    ) -> ControllerSettings:
        """Change fields of a group and save; what is in force then. Raises BadInput, OSError."""
        if self._turn is None:  # it belongs to the loop that it is made on
            self._turn = asyncio.Lock()
        async with self._turn:
            known = controller.settings
            changed = replace(known, **{group: replace(getattr(known, group), **fields)})
            if changed != known:
                await controller.change_settings(changed)
            return controller.settings

"""What the window remembers between two starts: preferences, geometry, what was open. One file in the home."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PySide6.QtCore import QByteArray, QObject, QSettings, Signal

DEFAULTS: dict[str, Any] = {
    "appearance/theme": "system",  # system, light, dark
    "appearance/animations": True,
    "agents/stop_with_window": True,
    "agents/start_with_window": True,
    "chat/keep_history": True,
    "board/dtype": "",
    "board/context": 0,
}
"""Preferences by key; the type of the default is the type of the value."""


class Settings(QObject):
    """Typed access to the window's file. `changed` tells the key of a preference that was set."""

    changed = Signal(str)

    def __init__(self, file: Path, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._store = QSettings(str(file), QSettings.Format.IniFormat)

    def get(self, key: str) -> Any:
        """A preference, or its default. Raises KeyError for one that DEFAULTS does not have."""
        default = DEFAULTS[key]
        value = self._store.value(key, default)
        try:
            if isinstance(default, bool):
                return value if isinstance(value, bool) else str(value).lower() == "true"
            return type(default)(value)
        except (TypeError, ValueError):  # the file was edited by hand
            return default

    def set(self, key: str, value: Any) -> None:
        if self.get(key) != value:
            self._store.setValue(key, value)
            self.changed.emit(key)

    def state(self, name: str) -> dict[str, Any]:
        """What a screen has saved of itself; empty when there is nothing, or nothing that can be read."""
        try:
            found = json.loads(str(self._store.value(f"state/{name}", "{}")))
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}

    def save_state(self, name: str, state: dict[str, Any]) -> None:
        """Keep what a screen wants to find again; JSON only."""
        self._store.setValue(f"state/{name}", json.dumps(state))

    def bytes(self, name: str) -> QByteArray:
        """Geometry, as Qt packs it."""
        value = self._store.value(f"window/{name}")
        return value if isinstance(value, QByteArray) else QByteArray()

    def save_bytes(self, name: str, value: QByteArray) -> None:
        self._store.setValue(f"window/{name}", value)

    def flush(self) -> None:
        """Write the file now."""
        self._store.sync()

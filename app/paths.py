"""Where Shardboard keeps its state: one folder, `SHARDBOARD_HOME`, else the platform's own place for it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs


@dataclass(frozen=True)
class Home:
    """The folders and files under the one state folder. Nothing is created until `create` is called."""

    root: Path
    models: Path

    @classmethod
    def find(cls) -> Home:
        """The home named by the environment: `SHARDBOARD_HOME`; `MODEL_CACHE_DIR` moves the weights."""
        named = os.environ.get("SHARDBOARD_HOME")
        root = Path(named).expanduser() if named else Path(platformdirs.user_data_dir("shardboard", appauthor=False))
        cache = os.environ.get("MODEL_CACHE_DIR")
        return cls(
            root=root.resolve(), models=(Path(cache).expanduser().resolve() if cache else root.resolve() / "models")
        )

    @property
    def registry(self) -> Path:
        return self.root / "registry.sqlite3"

    @property
    def settings(self) -> Path:
        """What the controller is told to do on its own: `app.controller_settings`."""
        return self.root / "settings.json"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def agents(self) -> Path:
        """State of the agents that were launched on this machine, a folder each."""
        return self.root / "agents"

    def create(self) -> Home:
        """Make the folders, private to the user where the system knows such a thing."""
        for folder in (self.root, self.models, self.keys, self.logs, self.agents):
            folder.mkdir(parents=True, exist_ok=True)
        for folder in (self.root, self.keys):
            folder.chmod(0o700)
        return self

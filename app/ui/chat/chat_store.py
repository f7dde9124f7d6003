"""Conversations on disk: a JSON file each in the home's `chats`, written whole or not at all, never in the GUI thread.

A conversation that changes is written at most every two seconds and once more at the end. A file that cannot be read
is set aside under another name, never written over. A deleted one waits under another name until the next start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PySide6.QtCore import QElapsedTimer, QObject, Signal, Slot

from app.atomic_file import write_atomically
from app.errors import BadInput, DiskFullError, ShardboardError
from app.ui import make
from app.ui.bridge import Bridge, Call
from app.ui.chat.conversation import Conversation, Summary, from_json, summary_from_json, to_json
from app.ui.settings import Settings

log = logging.getLogger(__name__)

SAVE_MILLISECONDS = 2000
DAMAGED = ".damaged"
DELETED = ".deleted"


@dataclass(frozen=True)
class Found:
    """What the folder held."""

    summaries: tuple[Summary, ...]
    """The one that changed last comes first."""
    damaged: tuple[Path, ...]
    """Where files were set aside that could not be read."""


@dataclass(frozen=True)
class _Written:
    """How a write ended; None is well."""

    conversation: str
    error: OSError | None


class ChatStore(QObject):
    """Reads and writes conversations. Lives in the GUI thread; files are touched on the bridge's side."""

    found = Signal(object)
    """A Found: the folder was read."""
    save_failed = Signal(object)
    """A ShardboardError: what was said is in the window, and not on disk."""
    saved = Signal(str)
    """The id of a conversation that is on disk now as it was when it was given."""

    def __init__(self, bridge: Bridge, settings: Settings, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._bridge, self._settings = bridge, settings
        self._changed: dict[str, Conversation] = {}
        self._writing: set[str] = set()
        self._deleted: set[str] = set()
        self._since = QElapsedTimer()
        self._timer = make.timer(self, self.flush)
        bridge.closed.connect(self.flush)  # a change that waited for a write, which ended just before

    # --- reading ---

    def load(self) -> None:
        """Read the folder, once the controller is open; `found` comes."""
        call = self._in_thread(_read_folder, "reading the conversations")
        call.done.connect(self.found)
        call.failed.connect(self.save_failed)

    def open(self, id: str) -> Call:
        """Read one; the call's result is the Conversation. A damaged file is set aside and the call fails."""
        return self._in_thread(lambda folder: _read(folder / f"{id}.json"), "opening the conversation")

    # --- writing ---

    def save(self, conversation: Conversation, *, now: bool = False) -> None:
        """Write it soon, or at once. Nothing is written when the user does not want conversations to be kept."""
        if not self._settings.get("chat/keep_history") or conversation.is_empty:
            return
        self._changed[conversation.id] = conversation
        if now:
            self.flush()
        elif not self._timer.isActive():
            passed = self._since.elapsed() if self._since.isValid() else SAVE_MILLISECONDS
            self._timer.start(max(0, SAVE_MILLISECONDS - passed))

    @Slot()
    def flush(self) -> None:
        """Write all that changed, now. While the bridge closes there is no thread left to do it, so it is done here."""
        self._timer.stop()
        self._since.restart()
        for id, conversation in list(self._changed.items()):
            if id in self._writing:
                continue  # the end of that write starts the next one
            del self._changed[id]
            content = to_json(conversation)
            if self._bridge.is_open:
                self._writing.add(id)
                self._bridge.in_loop(lambda id=id, content=content: self._submit(id, content))  # type: ignore[misc]
            elif self._bridge.home is not None:
                self.deliver([_write(self._bridge.home.root, id, content)])

    def _submit(self, id: str, content: bytes) -> None:
        """On the loop: hand the write to a thread at once, so that closing the controller waits for it."""
        home = self._bridge.home
        if home is None:
            return

        def write() -> None:
            self._bridge.post(self, _write(home.root, id, content))

        try:
            asyncio.get_running_loop().run_in_executor(None, write)
        except RuntimeError:  # the controller is closing: its threads have ended, this one is free
            write()

    def deliver(self, batch: list[Any]) -> None:
        """In the GUI thread: writes have ended."""
        for written in batch:
            self._writing.discard(written.conversation)
            if written.conversation in self._deleted:  # the write came after the deletion and undid it
                self.delete(written.conversation)
            elif written.error is None:
                self.saved.emit(written.conversation)
            else:
                self.save_failed.emit(_explained(written.error))
        if not self._bridge.is_open:
            self.flush()  # the window closes: there will be no later
        elif self._changed and not self._timer.isActive():
            self._timer.start(SAVE_MILLISECONDS)

    def delete(self, id: str) -> None:
        """Take a conversation away; `bring_back` undoes it until the program ends."""
        self._changed.pop(id, None)
        self._deleted.add(id)
        self._in_thread(lambda folder: _rename(folder / f"{id}.json", folder / f"{id}.json{DELETED}"), "deleting")

    def bring_back(self, id: str) -> Call:
        """Undo a deletion."""
        self._deleted.discard(id)
        return self._in_thread(
            lambda folder: _rename(folder / f"{id}.json{DELETED}", folder / f"{id}.json"), "restoring"
        )

    def _in_thread(self, work: Callable[[Path], Any], what: str) -> Call:
        def run() -> Any:
            home = self._bridge.home
            assert home is not None  # the bridge runs work when the controller is open
            return work(_folder(home.root))

        return self._bridge.call(lambda controller, report: asyncio.to_thread(run), what)


def _folder(root: Path) -> Path:
    """The conversations' folder, for the user alone: they may be private."""
    folder = root / "chats"
    if not folder.is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)
    return folder


def _read_folder(folder: Path) -> Found:
    for left in folder.glob(f"*.json{DELETED}"):
        left.unlink(missing_ok=True)
    summaries, damaged = [], []
    for path in folder.glob("*.json"):
        try:
            summary = summary_from_json(path.read_bytes())
            if summary.id != path.stem:
                raise BadInput(f"{path} holds another conversation.")
            summaries.append(summary)
        except (OSError, BadInput) as error:
            log.warning("%s: %s", path, error)
            damaged.append(_set_aside(path))
    summaries.sort(key=lambda summary: summary.updated_at, reverse=True)
    return Found(tuple(summaries), tuple(damaged))


def _read(path: Path) -> Conversation:
    try:
        return from_json(path.read_bytes())
    except OSError as error:
        raise BadInput(f"The conversation cannot be read: {error}.", f"Look at {path}.") from error
    except BadInput as error:
        aside = _set_aside(path)
        raise BadInput(error.message, f"The file was set aside as {aside}.") from error


def _set_aside(path: Path) -> Path:
    aside = path.with_name(path.name + DAMAGED)
    _rename(path, aside)
    return aside


def _rename(old: Path, new: Path) -> None:
    if old.exists():
        old.replace(new)


def _write(root: Path, id: str, content: bytes) -> _Written:
    try:
        write_atomically(_folder(root) / f"{id}.json", content)
    except OSError as error:
        return _Written(id, error)
    return _Written(id, None)


def _explained(error: OSError) -> ShardboardError:
    return DiskFullError(
        f"The conversation could not be saved: {error.strerror or error}.",
        "It is still in this window. Make room on the disk; it is saved again with its next change.",
    )

"""One window for each home: a second start tells the first to come to the front."""

from __future__ import annotations

import hashlib
from pathlib import Path

from PySide6.QtCore import QLockFile, QObject, Signal, Slot
from PySide6.QtNetwork import QLocalServer, QLocalSocket

ANSWER_MILLISECONDS = 2000
"""How long the running window may take to take the call; it may be busy starting."""
RAISE = b"raise\n"


class SingleInstance(QObject):
    """Keeps the lock for as long as it lives. The lock decides; the socket only carries the call."""

    raised = Signal()
    """Somebody started the program again: show the window."""

    def __init__(self, home_root: Path, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.name = "shardboard-" + hashlib.sha256(str(home_root.resolve()).encode()).hexdigest()[:24]
        self._lock = QLockFile(str(home_root / "window.lock"))
        # A lock never gets old by itself: the window may run for weeks. Qt breaks it when its process is gone.
        self._lock.setStaleLockTime(0)
        self._server: QLocalServer | None = None

    def claim(self) -> bool:
        """Whether this is the one window of its home; if not, the other has been told to come to the front.

        When the lock cannot be made at all (a read-only home), this answers yes: the registry's own lock
        decides then, and says what is wrong.
        """
        if self._lock.tryLock(0):
            self._listen()
            return True
        if self._lock.error() is not QLockFile.LockError.LockFailedError:
            return True
        self._call()
        return False

    def release(self) -> None:
        """Let another window have the home."""
        if self._server is not None:
            self._server.close()
            self._server = None
        self._lock.unlock()

    def _listen(self) -> None:
        QLocalServer.removeServer(self.name)  # what a crashed one left; nobody listens there, since the lock is ours
        self._server = QLocalServer(self)
        self._server.setSocketOptions(QLocalServer.SocketOption.UserAccessOption)
        self._server.newConnection.connect(self._on_connection)
        self._server.listen(self.name)

    @Slot()
    def _on_connection(self) -> None:
        while self._server is not None and self._server.hasPendingConnections():
            caller = self._server.nextPendingConnection()
            caller.disconnected.connect(caller.deleteLater)
            self.raised.emit()

    def _call(self) -> None:
        socket = QLocalSocket(self)
        socket.connectToServer(self.name)
        if socket.waitForConnected(ANSWER_MILLISECONDS):
            socket.write(RAISE)
            socket.waitForBytesWritten(ANSWER_MILLISECONDS)
            socket.disconnectFromServer()

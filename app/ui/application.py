"""The window as a program: one instance for a home, opened fast, ended in good order whatever ends it."""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from PySide6.QtCore import QObject, QSocketNotifier, QTimer, Slot
from PySide6.QtWidgets import QApplication

from app.paths import Home
from app.ui.bridge import Bridge
from app.ui.garbage import GuiGarbage
from app.ui.settings import Settings
from app.ui.theme import ThemeKeeper
from app.ui.workbench import Workbench

log = logging.getLogger(__name__)


class Application(QObject):
    """Everything of one window, put together. Needs a QApplication."""

    def __init__(self, application: QApplication, home: Home) -> None:
        super().__init__(application)
        self._began = time.monotonic()
        self.home = home
        self.settings = Settings(home.root / "window.ini", self)
        self.theme = ThemeKeeper(application)
        self.theme.apply(self.settings.get("appearance/theme"))
        self.bridge = Bridge(self)
        self.workbench = Workbench(self.bridge, self.settings, self.theme, self)
        from app.ui.window.local_agents import LocalAgents
        from app.ui.window.main_window import MainWindow

        self.window = MainWindow(self.workbench)
        self.window.opening.try_again.connect(self._open_again)
        self.window.usable.connect(self._on_usable)
        self.local_agents = LocalAgents(self.workbench, self)
        self.node_watch: QObject | None = None
        self._shown_after = 0.0

    def start(self) -> None:
        """Show the window, then open the controller behind it."""
        self.window.show()
        self._shown_after = time.monotonic() - self._began
        QTimer.singleShot(0, self._open)

    @Slot()
    def _open(self) -> None:
        self.bridge.start(self.home)

    @Slot()
    def _open_again(self) -> None:
        self.window.opening.clear()
        self._open()

    @Slot()
    def _on_usable(self) -> None:
        from app.ui.nodes.node_watch import NodeWatch

        self.node_watch = NodeWatch(self.workbench)
        log.info(
            "window shown after %.0f ms and usable after %.0f ms; %.0f ms since the process began",
            self._shown_after * 1000, (time.monotonic() - self._began) * 1000, _process_age() * 1000,
        )  # fmt: skip


class _Signals(QObject):
    """SIGTERM and Ctrl-C end the window as closing it does, without a question. Works where Qt sleeps in C++."""

    def __init__(self, application: Application) -> None:
        super().__init__(application)
        self._application = application
        self._reader, self._writer = socket.socketpair()
        self._reader.setblocking(False)
        self._writer.setblocking(False)
        signal.set_wakeup_fd(self._writer.fileno())
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: None)
        self._notifier = QSocketNotifier(self._reader.fileno(), QSocketNotifier.Type.Read, self)
        self._notifier.activated.connect(self._on_signal)

    @Slot()
    def _on_signal(self) -> None:
        try:
            self._reader.recv(64)
        except BlockingIOError:
            return
        self._application.window.end()

    def close(self) -> None:
        signal.set_wakeup_fd(-1)
        self._notifier.setEnabled(False)
        self._reader.close()
        self._writer.close()


def run(arguments: Sequence[str] = ()) -> int:
    """Open the window and run until it is closed; the exit code. A second start of the same home raises the first.

    Raises BadInput when there is no display.
    """
    check_display()
    application = QApplication(["shardboard", *arguments])
    application.setApplicationName("Shardboard")
    application.setDesktopFileName("shardboard")
    application.setQuitOnLastWindowClosed(False)
    home = Home.find().create()
    from app.ui.shell.single_instance import SingleInstance

    instance = SingleInstance(home.root)
    if not instance.claim():
        print("Shardboard is open already; its window was brought to the front.")
        return 0
    from app.logs import log_to_file

    log_to_file(home)
    garbage = GuiGarbage(application)
    made = Application(application, home)
    instance.raised.connect(made.window.bring_to_front)
    made.window.gone.connect(application.quit)
    signals = _Signals(made)
    made.start()
    code = application.exec()
    signals.close()
    instance.release()
    made.window.deleteLater()
    garbage.close()
    return code


def check_display() -> None:
    """Raise BadInput where Qt would end the process because there is no screen."""
    from app.errors import BadInput

    graphical = any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"))
    if sys.platform.startswith("linux") and not graphical:
        raise BadInput(
            "There is no display to open a window on.",
            "Use it in the terminal: ./run --headless, or see ./run --help. Over SSH: ssh -X.",
        )


def _process_age() -> float:
    """Seconds since this process was started by the system."""
    told = Path("/proc/self/stat")
    if told.exists() and hasattr(time, "CLOCK_BOOTTIME"):
        # psutil adds the time of the boot, which the kernel tells in whole seconds.
        ticks = told.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[19]
        return time.clock_gettime(time.CLOCK_BOOTTIME) - int(ticks) / os.sysconf("SC_CLK_TCK")
    import psutil

    return float(time.time() - psutil.Process().create_time())

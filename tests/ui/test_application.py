"""The window as a program: one for a home, what it says when it cannot open, and that it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from PySide6.QtWidgets import QApplication, QPushButton
from pytestqt.qtbot import QtBot

from app.paths import Home
from app.registry import Registry
from app.ui.application import Application, check_display

ROOT = Path(__file__).resolve().parent.parent.parent


class Program:
    """`main.py` without arguments, offscreen, in a process of its own."""

    def __init__(self, home: Home) -> None:
        environment = {**os.environ, "SHARDBOARD_HOME": str(home.root), "QT_QPA_PLATFORM": "offscreen"}
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "main.py")],
            env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        self.log = home.logs / "controller.log"

    def wait_usable(self) -> None:
        deadline = time.monotonic() + 30
        while "usable after" not in (self.log.read_text() if self.log.exists() else ""):
            assert self.process.poll() is None, self.output()
            assert time.monotonic() < deadline, "the window did not open"
            time.sleep(0.05)

    def output(self) -> str:
        """All it printed, but for what the offscreen platform says of every window."""
        lines = self.process.communicate(timeout=30)[0].splitlines()
        return "\n".join(line for line in lines if "propagateSizeHints" not in line)


@pytest.fixture
def program(home: Home) -> Iterator[Program]:
    made = Program(home)
    yield made
    if made.process.poll() is None:
        made.process.kill()
        made.process.wait()


def test_a_terminated_window_ends_in_good_order(program: Program) -> None:
    program.wait_usable()
    children = psutil.Process(program.process.pid).children(recursive=True)
    program.process.send_signal(signal.SIGTERM)
    assert program.output() == ""
    assert program.process.returncode == 0
    assert not [child for child in children if child.is_running()]


def test_a_second_start_raises_the_first_and_ends(program: Program, home: Home) -> None:
    program.wait_usable()
    second = Program(home)
    assert "open already" in second.output()
    assert second.process.returncode == 0
    assert program.process.poll() is None


def test_a_registry_in_use_is_said_and_can_be_tried_again(qtbot: QtBot, qapp: QApplication, home: Home) -> None:
    holder = Registry.open(home.registry)
    application = Application(qapp, home)
    with qtbot.waitSignal(application.bridge.open_failed, timeout=20_000):
        application.start()
    page = application.window.opening
    again = page.findChild(QPushButton)
    assert again.isVisible() and application.window.pages.currentWidget() is page
    holder.close()
    with qtbot.waitSignal(application.window.usable, timeout=20_000):
        again.click()
    assert application.window.current_key == "welcome"
    with qtbot.waitSignal(application.window.gone, timeout=20_000):
        application.window.close()


def test_a_missing_display_is_an_error_with_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    if not sys.platform.startswith("linux"):
        pytest.skip("other systems have a display or none that can be asked for")
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "QT_QPA_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(Exception, match="--headless"):
        check_display()


def test_every_screen_opens_and_is_found_again_at_the_next_start(qtbot: QtBot, qapp: QApplication, home: Home) -> None:
    for expected in ("welcome", "runs"):
        application = Application(qapp, home)
        with qtbot.waitSignal(application.window.usable, timeout=20_000):
            application.start()
        window = application.window
        assert window.current_key == expected
        for key in ("board", "chat", "nodes", "log", "runs"):
            window.show_screen(key)
            assert window.current_key == key
        window.show_palette()
        qtbot.waitUntil(lambda window=window: window._palette is not None and window._palette.isVisible())
        window._palette.close()
        with qtbot.waitSignal(window.gone, timeout=20_000):
            window.close()
        if expected == "welcome":
            with Registry.open(home.registry) as registry:
                registry.nodes.add(hostname="far", ip_address="127.0.0.1", port=9, public_key="k" * 40)

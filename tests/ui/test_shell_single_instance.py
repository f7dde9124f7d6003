"""One window for each home, also after a crash. The other window is a real process."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

from app.ui.shell.single_instance import SingleInstance

ROOT = Path(__file__).parent.parent.parent
OTHER = """
import sys
from pathlib import Path
from PySide6.QtCore import QCoreApplication, QTimer
from app.ui.shell.single_instance import SingleInstance
application = QCoreApplication([])
instance = SingleInstance(Path(sys.argv[1]))
print("one" if instance.claim() else "other", flush=True)
if sys.argv[2] == "stay":
    instance.raised.connect(lambda: print("raised", flush=True))
    application.exec()
"""


def start(home: Path, what: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", OTHER, str(home), what]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


@pytest.fixture
def first(qapp: object, tmp_path: Path) -> Iterator[SingleInstance]:
    instance = SingleInstance(tmp_path)
    yield instance
    instance.release()


def test_a_second_start_is_refused_and_raises_the_first(first: SingleInstance, qtbot: QtBot, tmp_path: Path) -> None:
    assert first.claim()
    with qtbot.waitSignal(first.raised, timeout=20_000):
        second = start(tmp_path, "leave")
    out, _ = second.communicate(timeout=20)
    assert out == "other\n"


def test_another_home_has_a_window_of_its_own(first: SingleInstance, qtbot: QtBot, tmp_path: Path) -> None:
    assert first.claim()
    (tmp_path / "elsewhere").mkdir()
    elsewhere = SingleInstance(tmp_path / "elsewhere")
    assert elsewhere.claim()
    elsewhere.release()


def test_what_a_killed_window_leaves_behind_is_no_obstacle(first: SingleInstance, qtbot: QtBot, tmp_path: Path) -> None:
    killed = start(tmp_path, "stay")
    assert killed.stdout is not None and killed.stdout.readline() == "one\n"
    assert not first.claim()
    assert killed.stdout.readline() == "raised\n"
    killed.send_signal(signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    killed.communicate(timeout=20)
    assert (tmp_path / "window.lock").exists()
    assert first.claim()
    with qtbot.waitSignal(first.raised, timeout=20_000):
        other = start(tmp_path, "leave")
    assert other.communicate(timeout=20)[0] == "other\n"

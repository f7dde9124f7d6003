"""What tests of the window share: Qt without a screen, a workbench on a real controller, and made-up nodes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pytestqt.qtbot import QtBot

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

from PySide6.QtWidgets import QApplication

from app.models.library import ModelLibrary
from app.paths import Home
from app.ui.bridge import Bridge
from app.ui.garbage import GuiGarbage
from app.ui.settings import Settings
from app.ui.theme import ThemeKeeper
from app.ui.workbench import Workbench
from tests.tiny_model import make_model


@pytest.fixture(scope="package")
def gui_garbage(qapp: QApplication) -> Iterator[GuiGarbage]:
    """The collector as in the window: what one test leaves behind is never freed by another thread."""
    garbage = GuiGarbage()
    yield garbage
    garbage.close()


@pytest.fixture(autouse=True)
def _collect(gui_garbage: GuiGarbage) -> Iterator[None]:
    yield
    gui_garbage.collect_due()


@pytest.fixture(scope="session")
def theme(qapp: QApplication) -> ThemeKeeper:
    keeper = ThemeKeeper(qapp)
    keeper.apply("light")
    return keeper


@pytest.fixture
def quiet_workbench(qtbot: QtBot, home: Home, theme: ThemeKeeper) -> Iterator[Workbench]:
    """A workbench whose controller is never opened: for screens that are fed by the test."""
    bridge = Bridge()
    workbench = Workbench(bridge, Settings(home.root / "window.ini"), theme)
    yield workbench
    workbench.deleteLater()
    bridge.deleteLater()


@pytest.fixture
def workbench(qtbot: QtBot, home: Home, theme: ThemeKeeper) -> Iterator[Workbench]:
    """A workbench on a real controller with a registry of its own and no nodes."""
    bridge = Bridge()
    workbench = Workbench(bridge, Settings(home.root / "window.ini"), theme)
    with qtbot.waitSignal(workbench.cluster.loaded, timeout=20_000):
        bridge.start(home)
    yield workbench
    with qtbot.waitSignal(bridge.closed, timeout=20_000):
        bridge.close()
    workbench.deleteLater()
    bridge.deleteLater()


@pytest.fixture(scope="package")
def tiny_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library that holds "tiny", a model of four layers without a tokenizer, inspected once."""
    folder = tmp_path_factory.mktemp("models")
    make_model("llama", folder / "tiny", num_hidden_layers=4)
    ModelLibrary(folder / "library").add(str(folder / "tiny"))
    return folder / "library"


@pytest.fixture
def now() -> Callable[[], datetime]:
    return lambda: datetime.now(UTC)

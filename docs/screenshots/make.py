"""Makes the pictures of this folder: each screen, empty and full, light and dark, at 1280x800 and at 200 %.

    python docs/screenshots/make.py [FOLDER]

Qt draws offscreen, so no display is needed. Nodes are made up; registry, requests, log and window are real.
Each appearance is a process of its own, since Qt's scale cannot change within one.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
APPEARANCES = (("light", 1), ("dark", 1), ("light", 2), ("dark", 2))


def main() -> None:
    target = Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "docs" / "screenshots").resolve()
    target.mkdir(parents=True, exist_ok=True)
    for theme, scale in APPEARANCES:
        for state in ("empty", "full"):
            environment = {
                **os.environ, "QT_QPA_PLATFORM": "offscreen", "QT_SCALE_FACTOR": str(scale), "PYTHONPATH": str(ROOT),
                "SHARDBOARD_PICTURES": f"{theme} {scale} {state} {target}",
            }  # fmt: skip
            subprocess.run([sys.executable, __file__], env=environment, check=True)


def take(theme: str, scale: str, state: str, target: str) -> None:
    """One process: open the program on a fresh home, go through the screens, grab each."""
    from PySide6.QtCore import QTimer
    from PySide6.QtWidgets import QApplication

    from app.paths import Home
    from app.ui.application import Application

    qt = QApplication(["shardboard"])
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder), Path(folder) / "models").create()
        if state == "full":
            from past_week import fill_home

            fill_home(home)
        application = Application(qt, home)
        application.settings.set("appearance/theme", theme)
        application.settings.set("appearance/animations", False)
        application.theme.apply(theme)
        window = application.window
        window.resize(1280, 800)
        suffix = f"{'' if state == 'full' else 'empty-'}{theme}{'' if scale == '1' else '-200'}"
        steps: list[Callable[[], None]] = []

        def picture(name: str) -> Callable[[], None]:
            return lambda: save(window, Path(target) / f"{name}-{suffix}.png")

        if state == "full":
            from five_machines import fill_cluster

            steps.append(lambda: fill_cluster(application))
        else:
            steps += [window.show_welcome, picture("welcome")]
        for key in ("board", "chat", "nodes", "runs", "log"):
            steps.append(lambda key=key: show(application, key, state))  # type: ignore[misc]
            if state == "full" and key == "chat":
                steps.append(lambda: open_conversation(application))
            steps.append(picture(key))
            if state == "full" and key == "nodes":
                steps += [lambda: open_machines(application), picture("machines"), close_dialogs]
            if state == "full" and key == "runs":
                steps += [lambda: open_waterfall(application), picture("waterfall")]
        if state == "full":
            steps += [lambda: window.show_screen("board"), window.show_palette, picture("palette")]
        steps.append(window.end)

        def following() -> None:
            if steps:
                steps.pop(0)()
                QTimer.singleShot(700, following)

        window.usable.connect(following)
        window.gone.connect(qt.quit)
        application.start()
        qt.exec()


def save(window: object, path: Path) -> None:
    """The window as it is drawn, with what lies over it."""
    from PySide6.QtCore import QPoint
    from PySide6.QtGui import QPainter
    from PySide6.QtWidgets import QApplication, QWidget

    assert isinstance(window, QWidget)
    picture = window.grab()
    painter = QPainter(picture)
    for other in QApplication.topLevelWidgets():
        if other is not window and other.isVisible():
            painter.drawPixmap(other.pos() - window.pos() + QPoint(0, 0), other.grab())
    painter.end()
    picture.save(str(path), "PNG", 0)  # the smallest file


def show(application: object, key: str, state: str) -> None:
    from app.ui.application import Application

    assert isinstance(application, Application)
    application.window.show_screen(key)
    if state == "full" and key == "board":
        application.workbench.navigate.emit("board", "Qwen3-14B")


def open_machines(application: object) -> None:
    """All ways to machines, over the screen."""
    from app.ui.application import Application
    from app.ui.nodes.nodes_screen import NodesScreen

    assert isinstance(application, Application)
    screen = application.window.findChild(NodesScreen)
    assert screen is not None
    dialog = screen.node_actions.open_machines()
    dialog.move(application.window.geometry().center() - dialog.rect().center())


def close_dialogs() -> None:
    from PySide6.QtWidgets import QApplication, QDialog

    for dialog in QApplication.topLevelWidgets():
        if isinstance(dialog, QDialog):
            dialog.reject()


def open_waterfall(application: object) -> None:
    """The chosen run's, with room for it."""
    from PySide6.QtWidgets import QSplitter

    from app.ui.application import Application
    from app.ui.runs.run_detail import RunDetail

    assert isinstance(application, Application)
    detail = application.window.findChild(RunDetail)
    assert detail is not None
    detail.tabs.setCurrentIndex(next(k for k in range(detail.tabs.count()) if detail.tabs.tabText(k) == "Waterfall"))
    splitter = detail.parentWidget()
    assert isinstance(splitter, QSplitter)
    splitter.setSizes([200, 500])


def open_conversation(application: object) -> None:
    """The newest, now that the list has been read."""
    from PySide6.QtWidgets import QAbstractItemView

    from app.ui.application import Application

    assert isinstance(application, Application)
    conversations = application.window.findChild(QAbstractItemView, "chat-conversations")
    assert conversations is not None
    conversations.setCurrentIndex(conversations.model().index(0, 0))


if __name__ == "__main__":
    if wanted := os.environ.get("SHARDBOARD_PICTURES"):
        take(*wanted.split(" ", 3))
    else:
        main()

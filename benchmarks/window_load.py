"""The window under load: 100 nodes, or as many as are asked for, that report each second and a stream of 200 tokens/s,
each screen in turn.

A thread posts into the bridge's inbox what the controller would; a timer in the GUI thread notes how late it
comes. One JSON line a figure. `benchmarks/window.py` runs it.
"""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
from PySide6.QtCore import QObject, QTimer, Slot
from PySide6.QtWidgets import QApplication

from app.inference.events import Started, StepPassed, TextDelta
from app.paths import Home
from app.ui.application import Application
from app.ui.bridge import RequestStream, SeenStep
from tests.ui.simulated import deployment, fill, health, model
from worker_agent.wire.messages import StageTime

NODES = int(sys.argv[1]) if len(sys.argv) > 1 else 100
TOKENS_PER_SECOND = 200
SECONDS = 8.0
SETTLE_SECONDS = 3.0
PROBE_MILLISECONDS = 2


class StallProbe(QObject):
    """How long the GUI thread is away at worst, beyond the timer's own period."""

    def __init__(self) -> None:
        super().__init__()
        self.worst, self.computed = 0.0, 0.0
        """Seconds, and the most of its own CPU time at once, which other programs do not lengthen."""
        self._last, self._used = time.perf_counter(), time.thread_time()
        self._timer = QTimer(self)
        self._timer.setInterval(PROBE_MILLISECONDS)
        self._timer.timeout.connect(self._tick)
        self._timer.start()

    def reset(self) -> None:
        self.worst, self.computed = 0.0, 0.0
        self._last, self._used = time.perf_counter(), time.thread_time()

    @Slot()
    def _tick(self) -> None:
        now = time.perf_counter()
        self.worst = max(self.worst, now - self._last - PROBE_MILLISECONDS / 1000)
        used = time.thread_time()
        self.computed = max(self.computed, used - self._used)
        self._last, self._used = now, used


class Load(threading.Thread):
    """Posts news as the controller's thread does, evenly over the second."""

    def __init__(self, application: Application, stream: RequestStream) -> None:
        super().__init__(daemon=True)
        self._bridge, self._stream = application.bridge, stream
        self.over = threading.Event()

    def run(self) -> None:
        began, token, node = time.perf_counter(), 0, 0
        self._bridge.post(self._stream, Started(1, 20))
        times = (StageTime(0, 100, 9000), StageTime(1, 150, 9500))
        while not self.over.wait(0.002):
            now = time.perf_counter() - began
            while token < now * TOKENS_PER_SECOND:
                token += 1
                self._bridge.post(self._stream, TextDelta(f"word{token % 97} ", token))
                step = StepPassed("deadbeef", 1, 0, times)
                self._bridge.post(self._bridge._step_feed, SeenStep(time.monotonic_ns() // 1000, step))
            while node < now * NODES:
                self._bridge.post(self._bridge._node_feed, health(node % NODES + 1, cpu=float(node % 90)))
                node += 1


def main() -> None:
    qt = QApplication(sys.argv[:1])
    with tempfile.TemporaryDirectory(prefix="shardboard-load-") as folder:
        home = Home(Path(folder), Path(folder) / "models").create()
        application = Application(qt, home)
        application.window.usable.connect(lambda: QTimer.singleShot(0, lambda: run(application)))
        application.window.gone.connect(qt.quit)
        application.start()
        qt.exec()


def run(application: Application) -> None:
    """Each screen for a while, then the figures."""
    description = model(layers=32)
    fill(
        application.workbench.cluster, nodes=NODES, models=(description,),
        deployments=(deployment("deadbeef", description, [(1, 0, 16), (2, 16, 32)]),),
    )  # fmt: skip
    chat = application.window.screen_of("chat")
    stream = RequestStream(application.bridge)
    # There are no agents: the request that Chat begins is the stream that the load posts to.
    application.bridge.generate = lambda *_, **__: stream  # type: ignore[method-assign]
    chat.open_with(description.name)
    chat.ask("Tell me a long story.")  # type: ignore[attr-defined]
    probe, load = StallProbe(), Load(application, stream)
    load.start()
    screens = ["chat", "board", "nodes", "runs", "log"]
    application.workbench.navigate.emit("board", description.name)

    def following() -> None:
        if not screens:
            finish()
            return
        application.window.show_screen(screens[0])
        QTimer.singleShot(int(SETTLE_SECONDS * 1000), begin)

    def begin() -> None:
        probe.reset()
        QTimer.singleShot(int(SECONDS * 1000), note)

    def note() -> None:
        stall = f"{probe.worst * 1000:.1f} ms, {probe.computed * 1000:.1f} of CPU"
        say(f"worst stall, {screens.pop(0)} shown", stall, "< 50 ms")
        following()

    def finish() -> None:
        load.over.set()
        load.join()
        process = psutil.Process()
        say("memory under load, all screens open", f"{process.memory_info().rss / 1e6:.0f} MB", "< 250 MB")
        heavy = sorted({"torch", "transformers"} & set(sys.modules))
        say("torch, transformers loaded", ", ".join(heavy) or "no", "no")
        application.window.end()

    following()


def say(what: str, figure: str, aim: str) -> None:
    print(json.dumps({"what": what, "figure": figure, "aim": aim}), flush=True)


if __name__ == "__main__":
    main()

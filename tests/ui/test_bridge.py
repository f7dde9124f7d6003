"""The bridge between window and controller: results, progress, cancelling, and that the GUI thread gets them."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from PySide6.QtCore import QThread
from pytestqt.qtbot import QtBot

from app.errors import BadInput, ShardboardError
from app.paths import Home
from app.registry import EventLevel, Registry
from app.ui.bridge import Bridge
from app.ui.workbench import Workbench


def test_work_runs_beside_the_gui_thread_and_its_result_comes_home(workbench: Workbench, qtbot: QtBot) -> None:
    seen: list[Any] = []

    async def work(controller: Any, report: Any) -> str:
        return threading.current_thread().name

    call = workbench.bridge.call(work, "working")
    call.done.connect(lambda result: seen.append((result, QThread.currentThread() is workbench.thread())))
    qtbot.waitUntil(lambda: bool(seen))
    assert seen == [("controller", True)]


def test_progress_comes_in_order_and_before_the_end(workbench: Workbench, qtbot: QtBot) -> None:
    told: list[Any] = []

    async def work(controller: Any, report: Any) -> str:
        for number in range(500):
            report(number)
            if number % 100 == 0:
                await asyncio.sleep(0.01)
        return "end"

    call = workbench.bridge.call(work, "counting")
    call.progressed.connect(told.extend)
    call.done.connect(told.append)
    qtbot.waitUntil(lambda: "end" in told)
    assert told == [*range(500), "end"]


def test_a_cancelled_call_ends_after_it_has_cleaned_up(workbench: Workbench, qtbot: QtBot) -> None:
    order: list[str] = []

    async def work(controller: Any, report: Any) -> None:
        report("began")
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            order.append("cleaned")

    call = workbench.bridge.call(work, "sleeping")
    call.cancelled.connect(lambda: order.append("cancelled"))
    call.ended.connect(lambda: order.append("ended"))
    with qtbot.waitSignal(call.progressed):
        pass
    call.cancel()
    qtbot.waitUntil(lambda: "ended" in order)
    assert order == ["cleaned", "cancelled", "ended"]


def test_an_error_of_the_users_comes_as_it_is_and_a_bug_is_called_one(workbench: Workbench, qtbot: QtBot) -> None:
    errors: list[ShardboardError] = []

    async def refuse(controller: Any, report: Any) -> None:
        raise BadInput("This is no address.", "Write host:port.")

    async def break_down(controller: Any, report: Any) -> None:
        raise KeyError("oops")

    workbench.bridge.call(refuse, "adding").failed.connect(errors.append)
    workbench.bridge.call(break_down, "adding").failed.connect(errors.append)
    qtbot.waitUntil(lambda: len(errors) == 2)
    assert isinstance(errors[0], BadInput) and errors[0].advice == "Write host:port."
    assert "oops" in errors[1].message and "bug" in errors[1].advice


def test_what_is_written_to_the_registry_is_told(workbench: Workbench, qtbot: QtBot) -> None:
    def write(registry: Registry) -> None:
        registry.events.add(EventLevel.INFO, "test", "Something happened.")

    with qtbot.waitSignal(workbench.bridge.tables_changed) as told:
        workbench.bridge.read(write, "writing")
    assert told.args == [frozenset({"event"})]


def test_a_second_controller_of_a_home_is_refused_and_can_try_again(
    workbench: Workbench, qtbot: QtBot, home: Home
) -> None:
    second = Bridge()
    with qtbot.waitSignal(second.open_failed) as failed:
        second.start(home)
    assert "in use" in str(failed.args[0]) or "another" in str(failed.args[0]).lower()
    with qtbot.waitSignal(second.closed):
        second.close()
    second.deleteLater()

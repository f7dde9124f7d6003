"""Commands wait in the main thread for a loop in another: results, errors and Ctrl-C come through."""

from __future__ import annotations

import _thread
import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.cli.session import Session, open_controller
from app.errors import BadInput, Cancelled, RegistryError
from app.paths import Home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("SHARDBOARD_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MODEL_CACHE_DIR", raising=False)
    return Home.find()


@pytest.fixture
def settled() -> Iterator[None]:
    """This process as a program of ours is, which hears Ctrl-C even where the tests were started without."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_results_and_errors_come_through(home: Home) -> None:
    async def work(value: int) -> int:
        await asyncio.sleep(0)
        if value < 0:
            raise BadInput("negative")
        return value

    with open_controller(home, monitor=False) as session:
        assert session.run(work(5)) == 5
        with pytest.raises(BadInput, match="negative"):
            session.run(work(-1))


@pytest.mark.signals
@pytest.mark.usefixtures("settled")
def test_ctrl_c_cancels_the_work_and_lets_it_clean_up(home: Home) -> None:
    cleaned = threading.Event()

    async def work() -> None:
        threading.Timer(0.3, _thread.interrupt_main).start()
        try:
            await asyncio.sleep(60)
        finally:
            cleaned.set()

    began = time.monotonic()
    with pytest.raises(Cancelled), open_controller(home, monitor=False) as session:
        session.run(work())
    assert cleaned.is_set()
    assert time.monotonic() - began < 10


def test_the_loops_thread_ends_with_the_block(home: Home) -> None:
    before = set(threading.enumerate())
    with open_controller(home, monitor=False) as session:
        assert isinstance(session, Session)
        assert any(thread.name == "controller" for thread in threading.enumerate())
    assert not [t for t in set(threading.enumerate()) - before if t.name == "controller"]


def test_a_second_controller_is_refused(home: Home) -> None:
    with (
        open_controller(home, monitor=False),
        pytest.raises(RegistryError),
        open_controller(home, monitor=False),
    ):
        pass

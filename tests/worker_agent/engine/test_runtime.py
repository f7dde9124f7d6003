"""How many threads an agent computes with."""

from __future__ import annotations

import os
import sys

import pytest

from worker_agent.engine.runtime import Runtime

CORES = os.cpu_count() or 1


@pytest.fixture(autouse=True)
def unsaid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def threads(threads: int | None = None, borrowed: int | None = None) -> tuple[int, int]:
    """An agent's share, and what it may borrow."""
    runtime = Runtime.choose("cpu", threads, borrowed)
    return runtime.threads, runtime.borrowed


@pytest.mark.skipif(sys.platform != "linux", reason="no system in which a process is kept to some cores")
def test_it_takes_the_cores_that_its_process_may_use_and_not_those_of_the_machine() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, [min(before)])
        assert threads() == (1, 1)
        os.sched_setaffinity(0, range(CORES))
        assert threads() == (CORES, CORES) and threads(1) == (1, CORES)
    finally:
        os.sched_setaffinity(0, before)


def test_openmps_own_variable_is_a_wish_and_an_option_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert threads() == (1, 1) and threads(1, CORES) == (1, CORES) and threads(CORES) == (CORES, CORES)
    monkeypatch.setenv("OMP_NUM_THREADS", "100000")
    assert threads() == (CORES, CORES)


def test_more_threads_than_cores_help_nobody() -> None:
    assert threads(CORES + 5, CORES + 7) == (CORES, CORES)

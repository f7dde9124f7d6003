"""The desk: queues, cancelling once and twice, retrying, following, one record for each job whatever becomes of it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from app.children.work import JobChain, JobProgress, ProgressCallback
from app.controller import Controller
from app.errors import BadInput, Cancelled, Conflict, RegistryError, ShardboardError
from app.jobs import desk as desks
from app.jobs.desk import BY_USER, JobDesk
from app.jobs.job import Job, JobSnapshot, Means, Outcome
from app.jobs.works import CutWork
from app.paths import Home
from app.registry import JobRecord, JobStatus, Registry
from app.runs.reader import RunReader
from app.runs.trace import Origin

WINDOW, HTTP = Origin(via="window", user="ada"), Origin(via="http", user="key")

Test = Callable[[JobDesk, Registry], Awaitable[None]]


@dataclass(frozen=True)
class Chore:
    """Goes on in a thread until it is let go or cancelled; then cleans up, for as long as the test says."""

    title: str = "Do a chore"
    queue: str = "chore"
    kind: str = "test"
    model: str = "tiny"
    go: threading.Event = field(default_factory=threading.Event)
    clean: threading.Event = field(default_factory=threading.Event)
    begun: threading.Event = field(default_factory=threading.Event)
    told: list[str] = field(default_factory=list)
    error: Exception | None = None

    async def do(self, job: Job, means: Means) -> Outcome[str]:
        def work(report: ProgressCallback, chain: JobChain) -> str:
            return chain.run(_Waiting(self, report))

        value = await job.in_thread(work)
        job.past_return()
        await asyncio.sleep(0)
        job.details["bytes"] = 10
        return Outcome(value, "tiny", "It is done.")


class _Waiting:
    def __init__(self, chore: Chore, report: ProgressCallback) -> None:
        self._chore, self._report, self._cancelled = chore, report, threading.Event()

    def cancel(self) -> None:
        self._chore.told.append("cancel")
        self._cancelled.set()
        self._chore.go.set()

    def run(self) -> str:
        self._report(JobProgress("waiting", 5, 10))
        self._chore.begun.set()
        assert self._chore.go.wait(20)
        if self._cancelled.is_set():
            assert self._chore.clean.wait(20)
            self._chore.told.append("clean")
            raise Cancelled("The chore was cancelled.")
        if self._chore.error is not None:
            raise self._chore.error
        return "value"


@pytest.fixture
def on_desk(home: Home) -> Callable[[Test], None]:
    """Runs a test's coroutine with the desk of a controller."""

    async def run(test: Test) -> None:
        controller = await Controller.open(home, monitor=False)
        try:
            async with asyncio.timeout(60):
                await test(controller.jobs, controller.registry)
        finally:
            await controller.close()

    return lambda test: asyncio.run(run(test))


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 20)


def test_jobs_have_their_numbers_and_their_turns_in_the_order_of_asking_though_the_registry_is_slow_once(
    on_desk: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(desk: JobDesk, registry: Registry) -> None:
        chores = [Chore(title) for title in ("first", "second", "third")]
        add, running = registry.jobs.add, []

        def slow_for_the_first(**record: Any) -> JobRecord:
            if record["title"] == "first":
                time.sleep(0.3)
            return add(**record)

        def note(view: JobSnapshot) -> None:
            if view.status is JobStatus.RUNNING and view.title not in running:
                running.append(view.title)

        monkeypatch.setattr(registry.jobs, "add", slow_for_the_first)
        desk.on_changed(note)
        for chore in chores:
            chore.go.set()
        await asyncio.gather(*(desk.do(chore, WINDOW) for chore in chores))
        assert running == ["first", "second", "third"]
        assert [record.title for record in sorted(registry.jobs.list(), key=lambda record: record.id)] == running

    on_desk(test)


def test_a_job_is_written_down_told_and_brings_what_its_work_does(on_desk: Callable[[Test], None]) -> None:
    async def test(desk: JobDesk, registry: Registry) -> None:
        views: list[JobSnapshot] = []
        told: list[JobProgress] = []
        desk.on_changed(views.append)
        chore = Chore()
        chore.go.set()
        assert await desk.do(chore, WINDOW, told.append) == "value"
        assert [view.status.value for view in views] == ["queued", "running", "running", "done"]
        assert (views[2].phase, views[2].fraction, views[2].work) == ("waiting", 0.5, chore)
        assert (views[-1].result, views[-1].model, views[-1].can_retry) == ("It is done.", "tiny", False)
        assert told == [JobProgress("waiting", 5, 10)]
        (record,) = registry.jobs.list()
        assert (record.id, record.status, record.details) == (views[-1].id, JobStatus.DONE, {"bytes": 10})
        (run,) = await registry.call(lambda known: list(RunReader(known).select(kinds=("job",))))
        assert run.origin == WINDOW and [phase.name for phase in run.trace.phases] == ["waiting"]

    on_desk(test)


def test_jobs_of_a_queue_wait_for_each_other_and_who_waits_is_cancelled_at_once(
    on_desk: Callable[[Test], None],
) -> None:
    async def test(desk: JobDesk, registry: Registry) -> None:
        first, second, third = Chore(), Chore(), Chore(queue="other")
        jobs = [await desk.submit(chore, WINDOW) for chore in (first, second, third)]
        await until(first.begun)
        await until(third.begun)
        assert jobs[1].view.status is JobStatus.QUEUED and not second.begun.is_set()
        cancelled = await desk.cancel(jobs[1].id)
        assert (cancelled.status, cancelled.error) == (JobStatus.CANCELLED, BY_USER)
        assert desk.under_way == (jobs[0], jobs[2]) and desk.find(jobs[1].id) is None
        for chore in (first, third):
            chore.go.set()
        assert (await desk.follow(jobs[0].id, lambda progress: None)).status is JobStatus.DONE

    on_desk(test)


def test_whoever_cancels_a_second_time_waits_for_the_first_cleaning_up(on_desk: Callable[[Test], None]) -> None:
    async def test(desk: JobDesk, registry: Registry) -> None:
        chore = Chore()
        waiting = asyncio.create_task(desk.do(chore, HTTP))
        await until(chore.begun)
        (job,) = desk.under_way
        cancellations = [asyncio.create_task(desk.cancel(job.id)) for _ in range(2)]
        await asyncio.sleep(0.05)
        waiting.cancel()  # as does who began it, and once more
        await asyncio.sleep(0.05)
        waiting.cancel()
        closing = asyncio.create_task(desk.close())
        await asyncio.sleep(0.05)
        assert job.view.is_ending and not any(task.done() for task in (*cancellations, waiting, closing))
        assert registry.jobs.get(job.id).status is JobStatus.RUNNING
        chore.clean.set()
        assert [record.status for record in await asyncio.gather(*cancellations)] == [JobStatus.CANCELLED] * 2
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await closing
        assert chore.told == ["cancel", "clean"]
        assert registry.jobs.get(job.id).error == BY_USER

    on_desk(test)


def test_what_was_done_before_it_heard_of_the_cancellation_is_done(on_desk: Callable[[Test], None]) -> None:
    async def test(desk: JobDesk, registry: Registry) -> None:
        @dataclass(frozen=True)
        class Deaf(Chore):
            async def do(self, job: Job, means: Means) -> Outcome[str]:
                def work(report: ProgressCallback, chain: JobChain) -> str:
                    self.begun.set()
                    assert self.go.wait(20)
                    return "value"

                return Outcome(await job.in_thread(work), "tiny")

        chore = Deaf()
        job = await desk.submit(chore, WINDOW)
        await until(chore.begun)
        cancelling = asyncio.create_task(desk.cancel(job.id))
        await asyncio.sleep(0.05)
        chore.go.set()
        assert (await cancelling).status is JobStatus.DONE

    on_desk(test)


def test_who_cancels_before_the_job_has_its_number_leaves_no_record_under_way(on_desk: Callable[[Test], None]) -> None:
    async def test(desk: JobDesk, registry: Registry) -> None:
        for moments in range(3):
            chore = Chore()
            chore.clean.set()
            asking = asyncio.create_task(desk.do(chore, WINDOW))
            for _ in range(moments):
                await asyncio.sleep(0)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        await desk.cancel_all()
        assert {record.status for record in registry.jobs.list()} <= {JobStatus.CANCELLED}

    on_desk(test)


def test_what_failed_is_begun_again_as_another_job_and_what_is_done_is_not(on_desk: Callable[[Test], None]) -> None:
    async def test(desk: JobDesk, registry: Registry) -> None:
        chore = Chore(error=BadInput("It does not fit.", "Take a smaller one."))
        chore.go.set()
        with pytest.raises(BadInput, match="does not fit"):
            await desk.do(chore, WINDOW)
        (failed,) = registry.jobs.list()
        assert (failed.status, failed.error) == (JobStatus.FAILED, "It does not fit. Take a smaller one.")
        chore.go.clear()
        chore.begun.clear()
        again = await desk.retry(failed.id, HTTP)
        assert again.id != failed.id and again.title == failed.title
        await until(chore.begun)
        with pytest.raises(Conflict, match="is running"):
            await desk.retry(again.id, HTTP)
        chore.clean.set()
        await desk.cancel(again.id)
        with pytest.raises(Conflict, match="is over: cancelled"):
            await desk.cancel(again.id)
        with pytest.raises(RegistryError, match="no job 99"):
            await desk.retry(99, HTTP)
        earlier = registry.jobs.add(kind="test", title="Of an earlier start")
        with pytest.raises(Conflict, match="not under way here"):
            await desk.cancel(earlier.id)
        registry.jobs.update(earlier.id, status=JobStatus.FAILED)
        with pytest.raises(Conflict, match="not known any more"):
            await desk.retry(earlier.id, HTTP)

    on_desk(test)


def test_who_looks_away_does_not_end_the_job(on_desk: Callable[[Test], None]) -> None:
    async def test(desk: JobDesk, registry: Registry) -> None:
        chore = Chore()
        job = await desk.submit(chore, WINDOW)
        following = asyncio.create_task(desk.follow(job.id, lambda progress: None))
        await until(chore.begun)
        following.cancel()
        with pytest.raises(asyncio.CancelledError):
            await following
        assert not job.is_ending and job.followers == []
        chore.go.set()
        assert (await desk.follow(job.id, lambda progress: None)).status is JobStatus.DONE

    on_desk(test)


def test_a_job_whose_work_has_a_bug_ends_and_says_so(on_desk: Callable[[Test], None]) -> None:
    async def test(desk: JobDesk, registry: Registry) -> None:
        chore = Chore(error=ZeroDivisionError("nobody foresaw this"))
        chore.go.set()
        with pytest.raises(ZeroDivisionError):
            await desk.do(chore, WINDOW)
        (record,) = registry.jobs.list()
        assert record.status is JobStatus.FAILED
        assert record.error == "ZeroDivisionError: nobody foresaw this. This is a bug. The log has the details."

    on_desk(test)


def test_a_record_that_cannot_be_written_does_not_fail_the_work(
    on_desk: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(desk: JobDesk, registry: Registry) -> None:
        def full(*arguments: object, **named: object) -> None:
            raise ShardboardError("The disk is full.")

        chore = Chore()
        job = await desk.submit(chore, WINDOW)
        await until(chore.begun)
        monkeypatch.setattr(registry.jobs, "update", full)
        chore.go.set()
        assert (await desk.follow(job.id, lambda progress: None)).status is JobStatus.DONE
        monkeypatch.setattr(registry.jobs, "add", full)
        with pytest.raises(ShardboardError, match="disk is full"):
            await desk.do(chore, WINDOW)
        assert desk.under_way == ()

    on_desk(test)


def test_a_desk_that_is_closed_begins_nothing(on_desk: Callable[[Test], None]) -> None:
    async def test(desk: JobDesk, registry: Registry) -> None:
        await desk.close()
        with pytest.raises(Cancelled):
            await desk.submit(Chore(), WINDOW)
        assert registry.jobs.count() == 0

    on_desk(test)


def test_what_can_be_begun_again_is_kept_for_the_newest_only(
    on_desk: Callable[[Test], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(desk: JobDesk, registry: Registry) -> None:
        monkeypatch.setattr(desks, "MOST_KEPT", 1)
        chore = Chore(error=BadInput("No."))
        chore.go.set()
        for _ in range(2):
            with pytest.raises(BadInput):
                await desk.do(chore, WINDOW)
        newest, oldest = registry.jobs.list()
        with pytest.raises(Conflict):
            await desk.retry(oldest.id, WINDOW)
        assert (await desk.retry(newest.id, WINDOW)).id > newest.id

    on_desk(test)


def test_an_unknown_node_is_found_out_before_anything_is_cut(on_desk: Callable[[Test], None], tmp_path: Path) -> None:
    async def test(desk: JobDesk, registry: Registry) -> None:
        with pytest.raises(RegistryError, match="99"):
            await desk.do(CutWork("tiny", tmp_path / "out", 2, register=True, node_id=99), WINDOW)
        assert not (tmp_path / "out").exists()

    on_desk(test)


@pytest.mark.parametrize(
    ("work", "title"),
    [
        (CutWork("/models/tiny", Path("out"), num_shards=1), "Cut tiny into 1 shard"),
        (CutWork("tiny", Path("out"), layers="0-1,2,3"), "Cut tiny into 3 shards"),
        (CutWork("tiny", Path("out")), "Cut tiny"),
    ],
)
def test_a_cut_says_what_it_is(work: CutWork, title: str) -> None:
    assert (work.title, work.model) == (title, "tiny")

"""Links between real agents are measured as a job, kept, and told by command and over HTTP."""

from __future__ import annotations

import asyncio

import pytest

from app.children.work import JobProgress
from app.errors import BadInput
from app.jobs import probing
from app.registry import JobStatus
from app.runs.trace import UNKNOWN
from tests.e2e.conftest import System

_CALM = {"pings": 5, "bytes": 2**21}


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "PINGS", _CALM["pings"])
    monkeypatch.setattr(probing, "TOTAL_BYTES", _CALM["bytes"])


def test_both_directions_between_two_agents_are_measured_and_kept(shared: System) -> None:
    told: list[JobProgress] = []
    records = shared.run(shared.controller.measure_links(on_progress=told.append))
    ids = {node.id for node in shared.nodes}
    assert {(each.source_id, each.target_id) for each in records} == {(a, b) for a in ids for b in ids if a != b}
    for each in records:
        assert each.is_measured and each.rtt and each.bytes_per_second
        assert abs(each.clock_offset or 0.0) < 1
    assert {progress.unit for progress in told} == {"links"}
    assert {progress.total_bytes for progress in told} == {len(records)}
    assert {each.id for each in shared.controller.registry.links.list()} >= {each.id for each in records}
    job = shared.controller.registry.jobs.list(limit=1)[0]
    assert (job.kind, job.status, job.details["failed"]) == ("links", JobStatus.DONE, 0)
    findings = shared.run(shared.controller.link_findings())
    assert [finding.link.id for finding in findings] == sorted(each.id for each in records)


def test_measuring_links_can_be_cancelled_and_begun_again_at_once(shared: System) -> None:
    async def cancel_the_first() -> JobStatus:
        desk = shared.controller.jobs
        begun = asyncio.Event()
        job = await desk.submit(probing.LinksWork(), UNKNOWN)
        job.followers.append(lambda progress: begun.set())
        await begun.wait()
        return (await desk.cancel(job.id)).status

    assert shared.run(cancel_the_first()) is JobStatus.CANCELLED
    assert all(each.is_measured for each in shared.run(shared.controller.measure_links()))


def test_one_node_alone_has_no_links(shared: System) -> None:
    with pytest.raises(BadInput, match="two nodes"):
        shared.run(shared.controller.measure_links([shared.nodes[0].id]))

"""What is recorded of requests and deployments that really ran, read back as runs."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from app.controller_settings import ControllerSettings, RecordSettings
from app.errors import BadInput, RegistryError
from app.inference.prompt import TokenPrompt
from app.inference.request_run import RequestRun
from app.registry import RequestStatus
from app.runs.retention import prune
from app.runs.trace import DeploymentTrace, JobTrace, Origin
from tests.e2e.conftest import System

LAYERS = "0-3,4-6"


@pytest.fixture(scope="module")
def deployed(shared: System, tiny: Path) -> Iterator[System]:
    shared.run(shared.controller.add_model(str(tiny), name="tiny"))
    shared.run(shared.controller.deploy("tiny", layers=LAYERS, origin=Origin(via="command", user="ada")))
    yield shared
    shared.run(shared.controller.undeploy("tiny"))
    shared.run(shared.controller.remove_model("tiny"))


def test_a_run_says_where_each_tokens_time_went(deployed: System) -> None:
    request = deployed.answer("tiny", [3] * 697, max_tokens=12, ignore_eos=True, logprobs=1)
    run = deployed.controller.runs.request(request.id)
    trace = run.request_trace
    assert trace is not None and run.request is not None
    assert run.request.token_ids == request.token_ids and run.request.prompt_token_ids == (3,) * 697
    assert len(trace.tokens) == len(trace.logprobs) == 12
    # 697 tokens of prompt in chunks of 256: two and a rest, which is the first token's.
    assert [chunk.done for chunk in trace.chunks] == [256, 512]
    last = trace.first_step_us
    for step in (*trace.chunks, *trace.tokens):
        assert step.at_us >= last and len(step.stages) == 2
        assert step.took_us == pytest.approx(step.at_us - last, abs=2)
        assert all(share.compute_us > 0 for share in step.stages)
        last = step.at_us
    # One request alone: its shares cannot be more than its time. Only together: a token is here a little sooner or
    # later than at the first stage, where the next step begins.
    alone = trace.tokens[1:]
    assert all(token.batch == 1 for token in alone)
    assert sum(token.compute_us + token.queue_us for token in alone) <= sum(token.took_us for token in alone) + 20_000
    assert last <= request.timings["total"] * 1_000_000


def test_a_run_says_what_it_ran_on(deployed: System) -> None:
    origin = Origin(via="http", user="laptop", client="curl 127.0.0.1")
    begun = deployed.run(deployed.controller.generate("tiny", TokenPrompt((3, 4, 5)), origin=origin))
    request = deployed.finish(begun)
    run = deployed.controller.runs.request(request.id)
    trace = run.request_trace
    assert trace is not None and trace.plan is not None and trace.model is not None and trace.versions is not None
    assert run.origin == origin and request.origin["user"] == "laptop"
    (deployment,) = deployed.run(deployed.controller.deployments.ready("tiny"))
    assert (trace.plan.deployment, trace.plan.plan_hash) == (deployment.id, deployment.plan_hash)
    assert [(stage.start, stage.end) for stage in trace.plan.stages] == [(0, 4), (4, 7)]
    assert all(stage.weight_bytes > 0 and stage.kv_bytes > 0 for stage in trace.plan.stages)
    assert [node.node_id for node in trace.nodes] == [stage.node_id for stage in trace.plan.stages]
    assert all(node.torch and node.transformers and node.threads for node in trace.nodes)
    assert len(trace.model.content) == 64 and trace.versions.wire >= 2
    assert {memory.node_id for memory in trace.memory} == {node.node_id for node in trace.nodes}


def test_a_deployment_leaves_its_phases(deployed: System) -> None:
    (deployment,) = deployed.run(deployed.controller.deployments.ready("tiny"))
    run = deployed.controller.runs.deployment(deployment.id)
    assert isinstance(run.trace, DeploymentTrace) and run.plan is not None
    assert (run.status, run.error, run.origin.user) == ("ready", None, "ada")
    names = [phase.name for phase in run.trace.phases]
    assert names[0] == "hashing"
    assert [names.count(name) for name in ("sending", "loading", "linking", "ready")] == [2, 2, 2, 2]
    assert all(0 <= phase.began_us <= phase.ended_us <= run.trace.took_us for phase in run.trace.phases)
    assert any("is deployed" in event.message for event in run.events)


def test_a_cancelled_and_a_failed_request_leave_a_trace_too(deployed: System) -> None:
    begun = deployed.begin("tiny", [3] * 8, max_tokens=3000, ignore_eos=True)
    deployed.run(_some(begun))
    deployed.run(begun.cancel())
    cancelled = deployed.controller.runs.request(begun.id)
    assert cancelled.status == RequestStatus.CANCELLED and cancelled.request_trace is not None
    assert len(cancelled.request_trace.tokens) == len(cancelled.request.token_ids) > 0  # type: ignore[union-attr]
    failed = deployed.answer("tiny", [3] * 5000)
    run = deployed.controller.runs.request(failed.id)
    assert run.status == RequestStatus.FAILED and "context" in (run.error or "")
    assert run.trace is not None and run.plan is None


async def _some(run: RequestRun) -> None:
    while len(run.token_ids) < 3:
        await asyncio.sleep(0.01)


def test_settings_say_what_is_kept(deployed: System) -> None:
    before = deployed.controller.settings
    quiet = RecordSettings(keep_text=False, keep_token_times=False)
    deployed.run(deployed.controller.change_settings(replace(before, records=quiet)))
    try:
        request = deployed.answer("tiny", [3, 4, 5], max_tokens=4, logprobs=0)
    finally:
        deployed.run(deployed.controller.change_settings(before))
    run = deployed.controller.runs.request(request.id)
    assert run.request is not None and run.request_trace is not None
    assert (run.request.prompt_token_ids, run.request.token_ids, run.request.result) == ((), (), "")
    assert run.request.completion_tokens == 4 and run.request.timings["total"] > 0
    assert (run.request_trace.tokens, run.request_trace.logprobs, run.request_trace.prompt_kept) == ((), (), False)
    assert ControllerSettings.load(deployed.home.settings) == before


def test_runs_are_selected_by_kind_time_and_id(deployed: System) -> None:
    first, second = (deployed.answer("tiny", [3, 4, number], max_tokens=2).id for number in (5, 6))
    reader = deployed.controller.runs
    assert [run.id for run in reader.select(limit=2)] == [str(second), str(first)]
    assert [run.id for run in reader.select(ids=[first, second])] == [str(first), str(second)]
    assert [run.kind for run in reader.select(kinds=("deployment",), model="tiny", limit=1)] == ["deployment"]
    assert list(reader.select(until=datetime.now(UTC) - timedelta(days=1))) == []
    assert len(list(reader.select(since=datetime.now(UTC) - timedelta(hours=1)))) >= 2
    with pytest.raises(RegistryError, match="no request 0"):
        reader.find("request", "../1")


def test_the_oldest_are_forgotten_first_and_nothing_that_is_under_way(deployed: System) -> None:
    registry = deployed.controller.registry
    ids = [deployed.answer("tiny", [3, 4, number], max_tokens=2).id for number in range(5, 10)]
    running = deployed.begin("tiny", [3] * 8, max_tokens=3000, ignore_eos=True)
    deployed.run(_some(running))
    kept = registry.traces.total_bytes()
    assert not prune(registry, RecordSettings()).anything
    room = registry.requests.total_bytes() + kept // 2
    assert prune(registry, RecordSettings(keep_bytes=room)).traces > 0
    assert registry.traces.total_bytes() <= kept // 2
    assert registry.traces.get("request", str(ids[-1])) is not None
    pruned = prune(registry, RecordSettings(keep_days=1), at=datetime.now(UTC) + timedelta(days=2))
    assert pruned.requests >= 5 and pruned.traces > 0
    assert [request.id for request in registry.requests.list()] == [running.id]
    deployed.run(running.cancel())
    assert registry.requests.get(running.id).status is RequestStatus.CANCELLED


def test_a_job_of_a_command_is_recorded_whether_it_succeeds_or_not(
    deployed: System, tiny: Path, tmp_path: Path
) -> None:
    controller, origin = deployed.controller, Origin(via="command", user="ada")
    deployed.run(controller.cut_model("tiny", num_shards=2, output_dir=tmp_path / "shards", origin=origin))
    with pytest.raises(BadInput):
        deployed.run(controller.add_model(str(tmp_path / "shards" / "nothing"), name="none", origin=origin))
    failed, done = (run for run in controller.runs.select(kinds=("job",), limit=2))
    assert isinstance(done.trace, JobTrace) and isinstance(failed.trace, JobTrace)
    assert (done.status, done.model, done.origin) == ("done", "tiny", origin)
    assert done.job is not None and done.job.details["layers"] == "0-3,4-6"
    assert done.trace.phases and done.trace.phases[-1].ended_us <= done.trace.took_us
    assert (failed.status, failed.error) == ("failed", failed.trace.error) and "nothing" in (failed.error or "")

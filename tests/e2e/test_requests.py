"""Requests over real agents: cancelling, stopping, limits, and where a model without a deployment goes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from app.cluster.agent_link import AgentLink
from app.errors import PlacementError
from app.inference.deployments import Deployments
from app.inference.events import Finished, Preparing, PromptProgress, RequestEvent, Started, TextDelta
from app.inference.parameters import GenerationParameters
from app.inference.pipeline import Pipeline
from app.inference.prompt import ChatPrompt, TokenPrompt
from app.inference.request_run import RequestRun
from app.jobs.works import DeployWork
from app.registry import DeploymentStatus, RequestRecord, RequestStatus
from app.runs.trace import UNKNOWN
from app.serving import Serving, ServingWish
from tests.e2e.conftest import System
from tests.waiting import wait_until
from worker_agent.wire.messages import Cancel, Health, Start


@pytest.fixture(scope="module")
def deployed(shared: System, tiny: Path) -> Iterator[System]:
    shared.run(shared.controller.add_model(str(tiny), name="tiny"))
    nodes = [node.id for node in shared.nodes[:2]]
    shared.run(shared.controller.deploy("tiny", nodes=nodes, serving=ServingWish(context=4096, kv_tokens=4096)))
    yield shared
    shared.run(shared.controller.undeploy("tiny"))
    shared.run(shared.controller.remove_model("tiny"))


def sequences_held(system: System) -> int:
    """Sequences that the agents hold memory for, on all stages together."""

    async def ask() -> int:
        links = system.controller.nodes.links().values()
        reports = [await link.call(Health(call=0)) for link in links]
        return sum(stage.sequences for report in reports for stage in report.stages)

    return system.run(ask())


def test_cancelling_keeps_the_text_so_far_and_frees_the_memory_on_every_stage(deployed: System) -> None:
    run = deployed.begin("tiny", [3, 4, 5], max_tokens=3000, ignore_eos=True)
    wait_until(lambda: len(run.token_ids) > 5)
    assert sequences_held(deployed) == 2
    deployed.run(run.cancel())
    assert run.record.status is RequestStatus.CANCELLED
    assert len(run.record.token_ids) > 5
    wait_until(lambda: sequences_held(deployed) == 0)


@pytest.fixture
def slow_answers(monkeypatch: pytest.MonkeyPatch) -> asyncio.Event:
    """Agents' answers to Start, which come on another connection than tokens, are held back until this is set."""
    may_come, call = asyncio.Event(), AgentLink.call

    async def held_back(link: AgentLink, message: Any, *arguments: Any, **options: Any) -> Any:
        answer = await call(link, message, *arguments, **options)
        if isinstance(message, Start):
            await may_come.wait()
        return answer

    monkeypatch.setattr(AgentLink, "call", held_back)
    return may_come


@pytest.mark.parametrize("kept", [True, False])
def test_a_prompt_waits_on_the_disk_for_the_next_controller_only_where_texts_are_kept(
    deployed: System, slow_answers: asyncio.Event, kept: bool
) -> None:
    async def scenario() -> dict[str, Any]:
        inference, prompt = deployed.controller.inference, TokenPrompt((3, 4, 5))
        run = await inference.submit("tiny", prompt, GenerationParameters(max_tokens=2), keep_text=kept)
        await run.recorded()
        waiting: RequestRecord = await deployed.controller.registry.call(lambda known: known.requests.get(run.id))
        slow_answers.set()
        assert (await run.wait()).status is RequestStatus.COMPLETED
        return waiting.sequence

    assert ("prompt" in deployed.run(scenario())) is kept


def test_tokens_that_overtake_the_answer_to_their_start_are_told_after_it(
    deployed: System, slow_answers: asyncio.Event
) -> None:
    async def told(run: RequestRun) -> list[RequestEvent]:
        return [event async for event in run]

    run = deployed.begin("tiny", [3, 4, 5], max_tokens=30, ignore_eos=True)
    wait_until(lambda: len(run.token_ids) == 30)
    deployed.call(slow_answers.set)
    events = [event for event in deployed.run(told(run)) if not isinstance(event, Preparing)]
    assert isinstance(events[0], Started) and isinstance(events[-1], Finished)
    assert sum(isinstance(event, Started) for event in events) == 1
    times = run.recorder.tokens
    assert times[0].took_us > times[0].compute_us > 0, "the first token counts from when it was asked for"


def test_cancelling_before_an_agent_has_answered_leaves_nothing_there(
    deployed: System, slow_answers: asyncio.Event
) -> None:
    run = deployed.begin("tiny", [3, 4, 5], max_tokens=3000, ignore_eos=True)
    wait_until(lambda: len(run.token_ids) > 3)
    assert sequences_held(deployed) == 2
    deployed.run(run.cancel())
    wait_until(lambda: sequences_held(deployed) == 0)


def test_cancelling_in_the_moment_of_the_first_token_is_heard(
    deployed: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampled = RequestRun.sampled

    def cancelled_with_the_first(run: RequestRun, *given: Any) -> None:
        sampled(run, *given)
        if len(run.token_ids) == 1 and run.task is not None:
            run.task.cancel()

    monkeypatch.setattr(RequestRun, "sampled", cancelled_with_the_first)
    run = deployed.begin("tiny", [3, 4, 5], max_tokens=3000, ignore_eos=True)
    wait_until(lambda: run.is_over)
    assert run.record.status is RequestStatus.CANCELLED and len(run.token_ids) < 3000
    wait_until(lambda: sequences_held(deployed) == 0)


def test_a_prediction_that_fails_gives_up_no_answer(deployed: System, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Deployments, "foretell", broken)
    run = deployed.begin("tiny", [3, 4, 5], max_tokens=4, ignore_eos=True)
    wait_until(lambda: run.is_over)
    assert run.record.status is RequestStatus.COMPLETED and len(run.token_ids) == 4
    assert run.trace().nodes and run.trace().foreseen is None


def test_what_nobody_foresaw_ends_a_request_on_the_agents_too(
    deployed: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RequestRun, "finished", broken)
    run = deployed.begin("tiny", [3, 4, 5], max_tokens=3000, ignore_eos=True)
    wait_until(lambda: run.is_over)
    assert run.record.status is RequestStatus.FAILED and "This is a bug" in (run.record.error or "")
    wait_until(lambda: sequences_held(deployed) == 0)


async def broken(*_: Any) -> None:
    raise KeyError("not there")


@pytest.mark.parametrize("kept", [True, False])
def test_a_request_that_waits_for_the_agents_is_written_down_as_under_way(
    deployed: System, monkeypatch: pytest.MonkeyPatch, kept: bool
) -> None:
    async def never(*_: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(Pipeline, "start", never)
    registry = deployed.controller.registry

    async def scenario() -> RequestRecord:
        run = await deployed.controller.inference.submit(
            "tiny", TokenPrompt((3, 4, 5)), GenerationParameters(), keep_text=kept
        )
        await run.recorded()
        try:
            async with asyncio.timeout(30):
                while True:
                    written: RequestRecord = await registry.call(lambda known: known.requests.get(run.id))
                    if written.status is RequestStatus.PROCESSING:
                        return written
                    await asyncio.sleep(0.01)
        finally:
            await run.cancel()

    assert bool(deployed.run(scenario()).prompt_token_ids) is kept


def test_cancelling_twice_ends_it_once_and_both_are_told(
    deployed: System, slow_answers: asyncio.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    freeing, held_back = asyncio.Event(), AgentLink.call

    async def slow_to_free(link: AgentLink, message: Any, *arguments: Any, **options: Any) -> Any:
        if isinstance(message, Cancel):
            freeing.set()
            await slow_answers.wait()
        return await held_back(link, message, *arguments, **options)

    async def twice() -> None:
        async with asyncio.timeout(20):
            first = asyncio.create_task(run.cancel())
            await freeing.wait()
            second = asyncio.create_task(run.cancel())
            await asyncio.sleep(0.05)
            assert not first.done() and not second.done(), "its memory is not free yet"
            slow_answers.set()
            await asyncio.gather(first, second)

    monkeypatch.setattr(AgentLink, "call", slow_to_free)
    deployed.call(slow_answers.set)
    run = deployed.begin("tiny", [3, 4, 5], max_tokens=3000, ignore_eos=True)
    wait_until(lambda: len(run.token_ids) > 3)
    deployed.call(slow_answers.clear)
    deployed.run(twice())
    assert run.record.status is RequestStatus.CANCELLED
    wait_until(lambda: sequences_held(deployed) == 0)


def test_a_request_cancelled_before_its_first_step_is_over(deployed: System) -> None:
    async def begun_and_cancelled() -> RequestRun:
        run = await deployed.controller.generate("tiny", TokenPrompt((3, 4, 5)), GenerationParameters(max_tokens=3))
        async with asyncio.timeout(20):
            await run.cancel()
        return run

    run = deployed.run(begun_and_cancelled())
    assert run.record.status is RequestStatus.CANCELLED
    assert run not in deployed.controller.inference.running()


def test_a_finished_request_leaves_no_memory_behind(deployed: System) -> None:
    record = deployed.answer("tiny", [3, 4, 5], max_tokens=10, ignore_eos=True)
    assert (record.status, record.finish_reason, record.completion_tokens) == (RequestStatus.COMPLETED, "length", 10)
    wait_until(lambda: sequences_held(deployed) == 0)


def test_log_probabilities_are_those_of_the_likeliest_tokens(deployed: System) -> None:
    run = deployed.begin("tiny", [3, 4, 5], max_tokens=4, logprobs=3)
    record = deployed.finish(run)
    assert [entry.token for entry in run.logprobs] == list(record.token_ids)
    for entry in run.logprobs:
        assert entry.top[0] == (entry.token, pytest.approx(entry.logprob))
        assert len(entry.top) == 3


def test_a_repetition_penalty_changes_a_repetitive_answer(deployed: System) -> None:
    plain = deployed.answer("tiny", [7] * 8, max_tokens=40, ignore_eos=True)
    penalized = deployed.answer("tiny", [7] * 8, max_tokens=40, ignore_eos=True, repetition_penalty=5.0)
    assert len(set(penalized.token_ids)) > len(set(plain.token_ids))


def test_a_long_prompt_tells_how_far_it_is(deployed: System) -> None:
    async def follow() -> list[PromptProgress]:
        run = await deployed.controller.generate("tiny", TokenPrompt(tuple((i % 190) + 3 for i in range(900))))
        return [event async for event in run if isinstance(event, PromptProgress)]

    progress = deployed.run(follow())
    assert [event.total for event in progress] == [900] * len(progress)
    assert len(progress) >= 3
    assert [event.done for event in progress] == sorted(event.done for event in progress)


def test_a_prompt_longer_than_the_context_is_refused_before_it_runs(deployed: System) -> None:
    record = deployed.answer("tiny", [3] * 4096)
    assert record.status is RequestStatus.FAILED
    assert "4096 tokens; the context holds 4096" in (record.error or "")
    wait_until(lambda: sequences_held(deployed) == 0)  # the last test's sequence may just be leaving


def test_a_token_outside_the_vocabulary_is_named(deployed: System) -> None:
    record = deployed.answer("tiny", [3, 4000])
    assert "Token id 4000 is outside the vocabulary" in (record.error or "")


def test_more_requests_than_memory_wait_for_their_turn(deployed: System, tiny: Path) -> None:
    shared, nodes = deployed, [node.id for node in deployed.nodes[:2]]
    shared.run(shared.controller.add_model(str(tiny), name="cramped"))
    shared.run(shared.controller.deploy("cramped", nodes=nodes, serving=ServingWish(context=1024, kv_tokens=1024)))
    try:
        # Each comes to 375 tokens of 1,024: two have room to their end, and six begin.
        records = shared.answers("cramped", [[3 + i, 4, 5] for i in range(6)], max_tokens=372, ignore_eos=True)
        assert [record.error for record in records] == [None] * 6
        assert all(record.completion_tokens == 372 for record in records)
    finally:
        shared.run(shared.controller.undeploy("cramped"))
        shared.run(shared.controller.remove_model("cramped"))


def test_a_prompt_without_a_token_is_refused(deployed: System) -> None:
    record = deployed.finish(deployed.run(deployed.controller.generate("tiny", TokenPrompt(()))))
    assert record.status is RequestStatus.FAILED
    assert "The prompt is empty" in (record.error or "")


def test_a_model_without_a_deployment_is_loaded_whole_on_one_node_by_one_job_however_many_ask(
    shared: System, tiny: Path
) -> None:
    shared.run(shared.controller.add_model(str(tiny), name="alone"))
    records = shared.answers("alone", [[3, 4, 5], [3, 4, 6], [3, 4, 7]], max_tokens=5)
    assert {record.status for record in records} == {RequestStatus.COMPLETED}
    (job,) = [job for job in shared.controller.registry.jobs.list(model_name="alone") if job.kind == "deploy"]
    assert job.title.startswith("Deploy alone on ") and job.title.endswith(" for a request")
    (deployment,) = shared.run(shared.controller.deployments.ready("alone"))
    (shard,) = shared.controller.registry.shards.list(deployment_id=deployment.id)
    assert (shard.start_layer, shard.end_layer) == (0, 7)
    shared.run(shared.controller.undeploy("alone"))
    assert shared.controller.registry.deployments.get(deployment.id).status is DeploymentStatus.UNLOADED


def test_a_model_that_fits_no_node_says_which_node_lacks_how_much(shared: System, tiny: Path) -> None:
    name = "too-large"
    shared.run(shared.controller.add_model(str(tiny), name=name))
    with pytest.raises(PlacementError, match=r"\(node \d+\) needs .* GB .* are missing"):
        shared.run(shared.controller.plan(name, serving=ServingWish(kv_tokens=500_000_000)))


def test_what_a_node_would_not_hold_is_refused_by_the_node_itself(shared: System, tiny: Path) -> None:
    """A plan made from old figures: the agent checks its budget before it allocates."""
    from app.errors import NodeError
    from app.sharding.capacity import NodeCapacity
    from app.sharding.placement import place_ranges

    shared.run(shared.controller.add_model(str(tiny), name="overbooked"))
    description = shared.controller.library.get("overbooked")
    fantasy = [NodeCapacity(node.id, node.hostname, 10**15) for node in shared.nodes[:2]]
    placement = place_ranges(description, fantasy, [(0, 3), (3, 7)], Serving("float32", 4096, 2_000_000_000))
    with pytest.raises(NodeError, match=r"node \d+ .*need .* GB .* are free") as caught:
        shared.run(shared.controller.jobs.do(DeployWork(placement), UNKNOWN))
    assert caught.value.kind == "memory"
    assert shared.run(shared.controller.deployments.ready("overbooked")) == []


def test_deltas_join_to_the_result(shared: System, sensible: str) -> None:
    async def follow(stop: tuple[str, ...]) -> tuple[str, RequestRecord]:
        prompt = ChatPrompt.of("What is the capital of France?")
        run = await shared.controller.generate(sensible, prompt, GenerationParameters(stop=stop))
        text = "".join([event.text async for event in run if isinstance(event, TextDelta)])
        return text, run.record

    text, record = shared.run(follow(()))
    assert text == record.result == "The capital of France is Paris."
    text, record = shared.run(follow((" Paris",)))
    assert text == record.result == "The capital of France is"
    assert record.finish_reason == "stop"

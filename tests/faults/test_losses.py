"""A stage is lost while answers are under way: they go on with the tokens that they would have had."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest

from app.errors import NodeError
from app.inference import deployer
from app.inference.request_run import RequestRun
from app.registry import NodeRecord, RequestRecord, RequestStatus
from tests.e2e.conftest import System
from tests.faults.conftest import LONGER, MODEL, as_undisturbed, deploy
from tests.waiting import wait_until
from worker_agent.wire.messages import Link

PROMPT = [3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
TOKENS = 48
LONG = {"max_tokens": TOKENS, "ignore_eos": True}

on_posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows cannot stop a process the way SIGSTOP does")


def kill(system: System, *nodes: int) -> None:
    """The agents of these nodes, by their place in the list, at once."""
    for process in [system.process(system.nodes[node]) for node in nodes]:
        process.kill()


def node_names(system: System, *nodes: int) -> list[str]:
    return [f"node {system.nodes[node].id} " for node in nodes]


def interrupted(run: RequestRun) -> str:
    """What is told of a run's one interruption."""
    (interruption,) = run.trace().interruptions
    return interruption.what


def check(record: RequestRecord, expected: RequestRecord) -> None:
    assert (record.status, record.error) == (RequestStatus.COMPLETED, None)
    assert record.token_ids == expected.token_ids
    assert record.finish_reason == expected.finish_reason


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_killed_stage_goes_to_another_node_and_the_tokens_are_the_same(four: System, victim: int) -> None:
    deploy(four, 0, 1, 2)
    expected = four.answer(MODEL, PROMPT, **LONG)
    assert len(expected.token_ids) == TOKENS
    run = four.begin(MODEL, PROMPT, **LONG)
    wait_until(lambda: len(run.token_ids) >= 7)
    kill(four, victim)
    check(four.finish(run), expected)
    (interruption,) = run.trace().interruptions
    assert interruption.what.startswith(f"layers {2 * victim}–{2 * victim + 1} went to ")
    assert four.nodes[victim].hostname not in interruption.what
    assert interruption.exact and interruption.tokens >= 7
    assert f"node {four.nodes[victim].id} " in interruption.node


def test_several_answers_go_on_each_with_its_own_wishes(four: System) -> None:
    """Sampled by seed, held to penalties, with log probabilities, ended by a stop token, sharing a beginning."""
    deploy(four, 0, 1, 2)
    wishes: list[tuple[Sequence[int], dict[str, Any]]] = [
        (PROMPT, LONG),
        (PROMPT, {**LONG, "temperature": 1.0, "seed": 7}),
        (PROMPT * 5, {**LONG, "repetition_penalty": 1.3, "presence_penalty": 0.5, "temperature": 0.8, "seed": 3}),
        ([*PROMPT * 5, 20, 21], {**LONG, "logprobs": 3, "prompt_logprobs": 2}),
        ([*PROMPT * 5, 20, 22, 23], {**LONG, "no_repeat_ngram_size": 3, "max_tokens": 30}),
        ([30, 31], {"max_tokens": 25, "ignore_eos": True}),
    ]
    expected = [four.begin(MODEL, prompt, **wish) for prompt, wish in wishes]
    for run in expected:
        four.finish(run)
    runs = [four.begin(MODEL, prompt, **wish) for prompt, wish in wishes]
    wait_until(lambda: len(runs[0].token_ids) >= 12)
    kill(four, 1)
    for run, before in zip(runs, expected, strict=True):
        check(four.finish(run), before.record)
        assert len(run.logprobs) == len(before.logprobs)
        for one, other in zip(run.logprobs, before.logprobs, strict=True):
            assert one.token == other.token and abs(one.logprob - other.logprob) < 1e-3
        assert [each and each.token for each in run.prompt_logprobs] == [
            each and each.token for each in before.prompt_logprobs
        ]


def test_a_stage_is_lost_while_a_prompt_is_read(four: System) -> None:
    deploy(four, 0, 1, 2, context=4096)
    prompt = [3 + (7 * place) % 90 for place in range(3000)]
    expected = four.answer(MODEL, prompt, max_tokens=8, ignore_eos=True)
    prompt[0] = 99  # nothing of it is in the caches
    run = four.begin(MODEL, prompt, max_tokens=8, ignore_eos=True)
    wait_until(lambda: run.chunks)
    assert not run.token_ids
    kill(four, 0)
    record = four.finish(run)
    assert interrupted(run)
    again = four.answer(MODEL, prompt, max_tokens=8, ignore_eos=True)
    check(record, again)
    assert len(record.token_ids) == len(expected.token_ids)


def test_two_stages_are_lost_at_once(four: System) -> None:
    deploy(four, 0, 1, 2)
    expected = four.answer(MODEL, PROMPT, **LONG)
    run = four.begin(MODEL, PROMPT, **LONG)
    wait_until(lambda: len(run.token_ids) >= 7)
    kill(four, 0, 1)
    check(four.finish(run), expected)


@pytest.mark.parametrize("second", [3, 2], ids=["who takes over", "another"])
def test_one_more_is_lost_while_a_lost_stage_is_loaded(
    four: System, monkeypatch: pytest.MonkeyPatch, second: int
) -> None:
    deploy(four, 0, 1, 2)
    expected = four.answer(MODEL, PROMPT, **LONG)
    deployer = four.controller.deployments._deployer
    reload, taken = deployer.reload, []

    async def reload_and_die(*arguments: Any, **named: Any) -> Any:
        if not taken:
            taken.append(True)
            kill(four, second)
        return await reload(*arguments, **named)

    monkeypatch.setattr(deployer, "reload", reload_and_die)
    run = four.begin(MODEL, PROMPT, **LONG)
    wait_until(lambda: len(run.token_ids) >= 7)
    kill(four, 1)
    check(four.finish(run), expected)
    assert taken and four.nodes[second].hostname not in run.trace().interruptions[-1].what


@pytest.mark.parametrize("second", [3, 0], ids=["who took over", "another"])
def test_one_more_is_lost_while_the_ring_is_linked(four: System, monkeypatch: pytest.MonkeyPatch, second: int) -> None:
    record = deploy(four, 0, 1, 2)
    expected = four.answer(MODEL, PROMPT, **LONG)
    run = four.begin(MODEL, PROMPT, **LONG)
    wait_until(lambda: len(run.token_ids) >= 7)
    pipeline = four.controller.deployments.pipeline(record.id)
    assert pipeline is not None
    link, taken = pipeline.link, []

    async def link_and_die(*arguments: Any, **named: Any) -> None:
        await link(*arguments, **named)
        if not taken:
            taken.append(True)
            kill(four, second)

    monkeypatch.setattr(pipeline, "link", link_and_die)
    kill(four, 1)
    check(four.finish(run), expected)
    assert taken


def test_without_room_anywhere_it_fails_with_node_and_memory_named_and_the_text_kept(four: System) -> None:
    deploy(four, 0, 1, 2, wait_seconds=0)
    run = four.begin(MODEL, PROMPT, **LONGER)
    wait_until(lambda: len(run.token_ids) >= 7)
    for node in (0, 2, 3):
        four.run(four.controller.drain_node(str(four.nodes[node].id)))
    began = time.monotonic()
    kill(four, 1)
    record = four.finish(run)
    for node in (0, 2, 3):
        four.run(four.controller.drain_node(str(four.nodes[node].id), False))
    assert record.status is RequestStatus.FAILED and len(record.token_ids) >= 7
    assert node_names(four, 1)[0] in (record.error or "") and "layers 2–3" in (record.error or "")
    assert time.monotonic() - began < 10


def test_it_waits_for_its_node_where_no_other_has_room(four: System) -> None:
    deploy(four, 0, 1, 2, wait_seconds=60)
    run = four.begin(MODEL, PROMPT, **LONGER)
    wait_until(lambda: len(run.token_ids) >= 7)
    others = [four.nodes[node] for node in (0, 2, 3)]
    for node in others:
        four.run(four.controller.drain_node(str(node.id)))
    kill(four, 1)
    wait_until(lambda: four.controller.deployments.mender.doing(run.record.deployment_id or ""))
    time.sleep(1.0)
    assert not run.is_over
    four.run(four.controller.nodes.revive(four.nodes[1].id))
    wait_until(lambda: run.trace().interruptions)
    for node in others:
        four.run(four.controller.drain_node(str(node.id), False))
    as_undisturbed(four, [run], [(PROMPT, LONGER)])
    assert interrupted(run) == f"layers 2–3 loaded again on {four.nodes[1].hostname}"


@on_posix
def test_an_agent_that_is_slow_for_a_moment_is_not_lost(four: System) -> None:
    deploy(four, 0, 1, 2)
    expected = four.answer(MODEL, PROMPT, **LONG)
    run = four.begin(MODEL, PROMPT, **LONG)
    wait_until(lambda: len(run.token_ids) >= 7)
    freeze(four, four.nodes[1], 2.0)
    check(four.finish(run), expected)
    assert run.trace().interruptions == ()


@on_posix
def test_a_frozen_agent_is_given_up_and_what_it_does_when_it_wakes_changes_nothing(four: System) -> None:
    deploy(four, 0, 1, 2)
    expected = four.answer(MODEL, PROMPT, **LONG)
    run = four.begin(MODEL, PROMPT, **LONG)
    wait_until(lambda: len(run.token_ids) >= 7)
    freeze(four, four.nodes[1], 15.0)
    check(four.finish(run), expected)
    assert "layers 2–3 went to " in interrupted(run)
    check(four.answer(MODEL, PROMPT, **LONG), expected)
    wait_until(lambda: four.controller.nodes.health.is_alive(four.nodes[1].id), 30)
    check(four.answer(MODEL, PROMPT, **LONG), expected)
    held = four.controller.nodes.health.latest
    wait_until(lambda: (beat := held(four.nodes[1].id)) is not None and not beat.report.stages, 20)


def freeze(system: System, node: NodeRecord, seconds: float) -> None:
    """Stop an agent's process for so long, while the test goes on."""
    pid = system.process(node).pid
    os.kill(pid, signal.SIGSTOP)
    timer = threading.Timer(seconds, os.kill, (pid, signal.SIGCONT))
    timer.daemon = True
    timer.start()


def test_half_precision_goes_on_and_says_that_it_is_not_bit_exact(four: System) -> None:
    deploy(four, 0, 1, 2, dtype="bfloat16")
    run = four.begin(MODEL, PROMPT, **LONG)
    wait_until(lambda: len(run.token_ids) >= 7)
    seen = list(run.token_ids)
    kill(four, 1)
    record = four.finish(run)
    assert record.error is None and len(record.token_ids) == TOKENS
    assert list(record.token_ids[: len(seen)]) == seen, "what was shown stays"
    (interruption,) = run.trace().interruptions
    assert not interruption.exact


def test_a_request_that_brings_a_stage_down_each_time_is_given_up(
    four: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(four, 0, 1)
    run = four.begin(MODEL, PROMPT, **LONG)
    wait_until(lambda: len(run.token_ids) >= 7)
    pipeline = four.controller.deployments.pipeline(run.record.deployment_id or "")
    assert pipeline is not None
    hand_over, times = pipeline._hand_over, []

    async def hand_over_and_break(sequence: Any) -> None:
        times.append(sequence.number)
        await pipeline.stages[0].link.call(four_message(pipeline))
        await hand_over(sequence)

    def four_message(pipeline: Any) -> Any:
        return Link(call=0, deployment=pipeline.deployment, stage=0, epoch=pipeline.epoch + 1)

    monkeypatch.setattr(pipeline, "_hand_over", hand_over_and_break)
    kill(four, 1)
    record = four.finish(run)
    assert record.status is RequestStatus.FAILED and len(record.token_ids) >= 7
    assert 2 <= len(times) <= 8


@on_posix
def test_stages_that_are_all_there_again_keep_their_states_so_half_precision_goes_on_to_the_bit(four: System) -> None:
    """A node that could not be replaced comes back with what it held: nothing is computed anew."""
    deploy(four, 0, 1, 2, dtype="bfloat16", wait_seconds=60)
    wish = {"max_tokens": 500, "ignore_eos": True}
    expected = four.answer(MODEL, PROMPT, **wish)
    others = [four.nodes[node] for node in (0, 2, 3)]
    run = four.begin(MODEL, PROMPT, **wish)
    wait_until(lambda: len(run.token_ids) >= 7)
    for node in others:
        four.run(four.controller.drain_node(str(node.id)))
    freeze(four, four.nodes[1], 8.0)
    record = four.finish(run)
    for node in others:
        four.run(four.controller.drain_node(str(node.id), False))
    check(record, expected)
    (interruption,) = run.trace().interruptions
    assert interruption.exact and interruption.what == "connected anew"


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_in_exact_mode_half_precision_goes_on_to_the_bit(four: System, victim: int) -> None:
    """The lost layers alone are computed again, in the steps in which they once were."""
    deploy(four, 0, 1, 2, dtype="bfloat16", recovery="exact")
    expected = four.answer(MODEL, PROMPT, **LONG)
    run = four.begin(MODEL, PROMPT, **LONG)
    wait_until(lambda: len(run.token_ids) >= 12)
    kill(four, victim)
    check(four.finish(run), expected)
    (interruption,) = run.trace().interruptions
    assert interruption.exact and "went to" in interruption.what


def test_an_answer_that_a_journal_does_not_cover_begins_anew_and_says_that_it_is_not_bit_exact(
    four: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deployer, "journal_bytes", lambda description, serving: 1000)
    deploy(four, 0, 1, 2, dtype="bfloat16", recovery="exact")
    run = four.begin(MODEL, PROMPT, **LONG)
    wait_until(lambda: len(run.token_ids) >= 12)
    kill(four, 2)
    record = four.finish(run)
    assert record.error is None and len(record.token_ids) == TOKENS
    assert not run.trace().interruptions[0].exact


def test_in_exact_mode_two_neighbours_are_computed_again_one_after_the_other(four: System) -> None:
    deploy(four, 0, 1, 2, dtype="bfloat16", recovery="exact")
    expected = four.answer(MODEL, PROMPT, **LONG)
    run = four.begin(MODEL, PROMPT, **LONG)
    wait_until(lambda: len(run.token_ids) >= 12)
    kill(four, 0, 1)
    check(four.finish(run), expected)
    assert run.trace().interruptions[0].exact


def test_a_node_that_answers_and_does_no_work_is_passed_over(four: System, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its compute thread hangs: beats are answered, it has its stage, and the ring cannot be linked with it."""
    record = deploy(four, 0, 1, 2)
    expected = four.answer(MODEL, PROMPT, **LONG)
    run = four.begin(MODEL, PROMPT, **LONG)
    wait_until(lambda: len(run.token_ids) >= 7)
    victim = four.nodes[1]
    link = four.controller.nodes.link(victim.id)
    call, refused = link.call, []

    async def call_unless_linking(message: Any, *arguments: Any, **named: Any) -> Any:
        if isinstance(message, Link):
            refused.append(message)
            raise NodeError("It did not answer in time.", kind="timeout", node=link.node)
        return await call(message, *arguments, **named)

    monkeypatch.setattr(link, "call", call_unless_linking)
    pipeline = four.controller.deployments.pipeline(record.id)
    assert pipeline is not None
    four.call(lambda: pipeline.interrupt(NodeError(f"{link.node} hangs.", kind="lost", node=link.node)))
    check(four.finish(run), expected)
    assert len(refused) == 1 and "layers 2–3 went to " in interrupted(run)
    assert victim.hostname not in interrupted(run)

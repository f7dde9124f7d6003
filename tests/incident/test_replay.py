"""A request runs again from its bundle: the same tokens on any split, and a change is found where it is."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from app.children.work import JobProgress
from app.errors import ModelError, PlacementError, RequestError
from app.incident.bundle import Bundle
from app.incident.contents import REQUEST
from app.incident.replay import replay
from app.registry import RequestStatus
from app.runs.trace import RequestTrace, unpack
from tests.e2e.conftest import System
from tests.e2e.test_requests import wait_until
from tests.incident.conftest import MODEL, again, bundled, deploy, forged

PROMPT = [5, 6, 7, 8, 9]
SAMPLED = {"temperature": 0.9, "top_p": 0.95, "seed": 42, "ignore_eos": True, "repetition_penalty": 1.1}


@pytest.mark.parametrize("parameters", [{"ignore_eos": True}, SAMPLED], ids=["greedy", "sampled"])
def test_the_same_tokens_come_on_the_same_and_on_another_split(pair: System, parameters: dict[str, Any]) -> None:
    record = pair.answer(MODEL, PROMPT, max_tokens=40, logprobs=2, **parameters)
    data = bundled(pair, record)
    here = again(pair, data)
    assert here.same
    assert (here.got, here.compared, here.first_difference) == (record.token_ids, 40, None)
    assert here.deployment == record.deployment_id
    assert here.differences_of_conditions == ()
    assert here.promise == "exact"
    assert here.largest_logprob_difference == 0
    assert here.replay_request != record.id
    before = pair.run(pair.controller.deployments.ready(MODEL))
    pair.run(pair.controller.undeploy(MODEL))
    deploy(pair, "0-4,5-6")
    try:
        elsewhere = again(pair, data)
    finally:
        pair.run(pair.controller.undeploy(MODEL))
        deploy(pair)
    assert elsewhere.same
    assert elsewhere.got == record.token_ids
    assert elsewhere.deployment not in [each.id for each in before]
    assert any(text.startswith("Layers: 0-2 on ") for text in elsewhere.differences_of_conditions)
    assert elsewhere.promise == "exact", "float32 promises as much on any split"


def test_keys_and_values_in_8_bits_promise_less_and_are_not_compared_with_others(pair: System) -> None:
    pair.run(pair.controller.undeploy(MODEL))
    try:
        deploy(pair, kv_dtype="int8")
        record = pair.answer(MODEL, PROMPT, max_tokens=20, logprobs=2, ignore_eos=True)
        data = bundled(pair, record)
        here = again(pair, data)
        pair.run(pair.controller.undeploy(MODEL))
    finally:
        deploy(pair)
    assert here.same and here.promise == "expected" and "keys and values in int8" in here.promise_text
    elsewhere = again(pair, data)
    assert elsewhere.promise == "none"
    assert "computed in float32, keys and values in int8 and now in float32" in elsewhere.promise_text


def test_a_changed_token_is_found_where_it_is_with_its_text_and_likelihood(pair: System) -> None:
    record = pair.answer(MODEL, PROMPT, max_tokens=40, ignore_eos=True, logprobs=0)
    true = record.token_ids[17]

    def tamper(request: Any) -> None:
        request["token_ids"][17] = true + 1

    found = again(pair, forged(bundled(pair, record), REQUEST, tamper))
    assert (found.same, found.first_difference, found.compared) == (False, 17, 18)
    assert found.difference is not None
    expected, got = found.difference.expected, found.difference.got
    assert (expected.token, got.token) == (true + 1, true)
    tokenizer = pair.run(pair.controller.tokenizer(MODEL))
    assert got.text == tokenizer.decode([true], skip_special_tokens=False)
    assert found.difference.before == tokenizer.decode(record.token_ids[5:17], skip_special_tokens=False)
    assert got.logprob_now == got.logprob_then
    assert got.logprob_now is not None and got.logprob_now < 0
    assert found.got[:17] == record.token_ids[:17]


def test_an_answer_that_ended_by_itself_and_goes_on_now_is_a_difference(pair: System) -> None:
    record = pair.answer(MODEL, PROMPT, max_tokens=40, ignore_eos=True)

    def shorten(request: Any) -> None:
        request["token_ids"] = request["token_ids"][:10]
        request["finish_reason"] = "stop"

    found = again(pair, forged(bundled(pair, record), REQUEST, shorten))
    assert (found.first_difference, len(found.got)) == (10, 11)
    assert found.difference is not None
    assert found.difference.expected.token is None


def test_a_cancelled_request_is_compared_as_far_as_it_came(pair: System) -> None:
    run = pair.begin(MODEL, PROMPT, max_tokens=3000, ignore_eos=True, min_tokens=2000)
    wait_until(lambda: len(run.token_ids) > 20)
    pair.run(run.cancel())
    found = again(pair, bundled(pair, run.record))
    assert found.same
    assert found.compared == len(run.record.token_ids) == len(found.got)
    assert (found.finish_then, found.finish_now) == ("cancelled", "length")


def test_a_request_under_way_is_bundled_as_it_is(pair: System) -> None:
    run = pair.begin(MODEL, PROMPT, max_tokens=3000, ignore_eos=True)
    wait_until(lambda: len(run.token_ids) > 20)
    opened = Bundle.read(bundled(pair, run.record))
    pair.run(run.cancel())
    assert opened.request.status == RequestStatus.PROCESSING
    there = opened.request.token_ids
    assert len(there) > 20
    assert there == run.record.token_ids[: len(there)]
    assert pair.run(replay(pair.controller, opened)).same


def test_the_failed_request_of_a_killed_agent_is_bundled_with_a_remark_and_replayed_when_it_is_back(
    pair: System,
) -> None:
    victim = pair.nodes[1]
    run = pair.begin(MODEL, PROMPT, max_tokens=3000, ignore_eos=True)
    wait_until(lambda: len(run.token_ids) > 20)
    pair.run(pair.controller.drain_node(str(pair.nodes[0].id)))  # nobody takes the lost layers
    pair.signal(victim, signal.SIGKILL)
    record = pair.finish(run)
    pair.run(pair.controller.drain_node(str(pair.nodes[0].id), False))
    assert record.status is RequestStatus.FAILED
    told = pair.controller.registry.events.list
    # That it is there was told when it came.
    wait_until(lambda: any(event.node_id == victim.id and event.at >= record.created_at for event in told()))
    data = bundled(pair, record)
    opened = Bundle.read(data)
    lost, alive = (next(text for name, text in opened.contents.logs.items() if node.hostname in name)
                   for node in (victim, pair.nodes[0]))  # fmt: skip
    assert lost.startswith("# The log of ")
    assert "could not be had" in lost
    assert not alive.startswith("#")
    assert any(event.node_id == victim.id for event in opened.contents.events)
    pair.run(pair.controller.nodes.revive(victim.id))
    wait_until(lambda: pair.controller.nodes.health.is_alive(victim.id), 15)
    found = again(pair, data)
    assert found.same
    assert found.got == record.token_ids


def test_deploying_puts_the_layers_where_they_were_and_takes_them_down_again(pair: System) -> None:
    record = pair.answer(MODEL, PROMPT, max_tokens=10, ignore_eos=True)
    data = bundled(pair, record)
    pair.run(pair.controller.undeploy(MODEL))
    try:
        with pytest.raises(RequestError, match=r"not deployed.*--deploy"):
            again(pair, data)
        told: list[JobProgress] = []
        found = again(pair, data, deploy=True, on_progress=told.append)
        assert pair.run(pair.controller.deployments.ready(MODEL)) == []
        deploy(pair, "0-6")
        beside = again(pair, data, deploy=True)
        left = pair.run(pair.controller.deployments.ready(MODEL))
    finally:
        pair.run(pair.controller.undeploy(MODEL))
        deploy(pair)
    assert found.same and found.deployed
    assert found.differences_of_conditions == (), "the same plan, on the same nodes"
    units = {each.phase: each.unit for each in told}
    assert (units["loading"], units["replaying"]) == ("bytes", "tokens")
    assert beside.same and beside.deployed
    assert beside.deployment not in [each.id for each in left]
    assert len(left) == 1


def test_of_several_deployments_the_one_with_the_same_plan_is_taken(pair: System) -> None:
    record = pair.answer(MODEL, PROMPT, max_tokens=5, ignore_eos=True)
    data = bundled(pair, record)
    deploy(pair, "0-6")
    newest = pair.run(pair.controller.deployments.ready(MODEL))[0]
    try:
        found = again(pair, data)
    finally:
        pair.run(pair.controller.undeploy(newest.id))
    assert newest.id != record.deployment_id
    assert found.deployment == record.deployment_id


def test_a_deployment_that_is_too_small_is_refused_before_anything_runs(pair: System) -> None:
    record = pair.answer(MODEL, PROMPT, max_tokens=5, ignore_eos=True)

    def lengthen(request: Any) -> None:
        request["prompt_token_ids"] = PROMPT * 1000

    with pytest.raises(RequestError, match=r"room for 4096 tokens; the request needs 5005"):
        again(pair, forged(bundled(pair, record), REQUEST, lengthen))


def test_a_model_is_found_by_its_weights_under_another_name_and_else_said_to_be_missing(pair: System) -> None:
    record = pair.answer(MODEL, PROMPT, max_tokens=5, ignore_eos=True)
    data = bundled(pair, record)

    def rename(request: Any) -> None:
        request["model"] = "stranger"

    def replace(request: Any) -> None:
        request["model"], request["content"] = "stranger", "0" * 64

    def reweigh(request: Any) -> None:
        request["content"] = "0" * 64

    renamed = again(pair, forged(data, REQUEST, rename))
    assert renamed.same
    assert renamed.model == MODEL
    assert renamed.differences_of_conditions == (f"The model is called stranger there and {MODEL} here.",)
    with pytest.raises(ModelError, match=r"ran on stranger.*model add"):
        again(pair, forged(data, REQUEST, replace))
    with pytest.raises(ModelError, match=rf"other weights.*--model {MODEL}"):
        again(pair, forged(data, REQUEST, reweigh))
    named = again(pair, forged(data, REQUEST, reweigh), model=MODEL)
    assert named.same
    assert named.promise == "none", "the weights are not those that the bundle tells of"


def test_a_plan_of_more_stages_than_nodes_says_so(pair: System) -> None:
    record = pair.answer(MODEL, PROMPT, max_tokens=5, ignore_eos=True)

    def split(plan: Any) -> None:
        plan["plan_hash"] = "another"
        plan["stages"] = [plan["stages"][0] | {"start": start, "end": start + 1} for start in range(7)]

    with pytest.raises(PlacementError, match=r"7 stages, and 2 nodes"):
        again(pair, forged(bundled(pair, record), "plan.json", split), deploy=True)


def test_what_was_lost_and_handed_over_is_lost_and_handed_over_again_at_the_same_token(pair: System) -> None:
    """The whole model on one agent, so that the other one takes it."""
    one, other = pair.nodes
    pair.run(pair.controller.undeploy(MODEL))
    deploy(pair, "0-6")
    try:
        run = pair.begin(MODEL, PROMPT, max_tokens=400, ignore_eos=True)
        wait_until(lambda: len(run.token_ids) > 20)
        pair.process(one).kill()
        wait_until(lambda: run.trace().interruptions)
        pair.run(pair.controller.start_agent(one.id))
        after = len(run.token_ids)
        wait_until(lambda: len(run.token_ids) > after + 20)
        if not run.is_over:  # as it may be on a fast machine, then and in the replay
            pair.run(pair.controller.hand_over(MODEL, nodes=[one.id]))
        record = pair.finish(run)
        lost, *handed = run.trace().interruptions
        (gone,) = lost.layers
        assert (gone.start, gone.end, gone.node, gone.went) == (0, 7, one.hostname, other.hostname)
        for each in handed:
            assert (each.planned, [(gone.node, gone.went) for gone in each.layers]) == (
                True, [(other.hostname, one.hostname)]
            )  # fmt: skip
        found = again(pair, bundled(pair, record), with_faults=True)
        assert found.same and found.promise == "exact"
        assert len(found.interruptions_then) == 1 + len(handed)
        assert other.hostname in found.interruptions_now[0]
        repeated = unpack(pair.controller.registry.traces.get("request", str(found.replay_request)) or b"")
        assert isinstance(repeated, RequestTrace)
        for then, now in zip((lost, *handed), repeated.interruptions, strict=False):
            assert now.tokens >= then.tokens
            assert now.layers == then.layers
        for node in (one, other):
            wait_until(lambda id=node.id: pair.controller.nodes.health.is_alive(id), 30)
        undisturbed = pair.answer(MODEL, PROMPT, max_tokens=5, ignore_eos=True)
        with pytest.raises(RequestError, match="nothing to repeat"):
            again(pair, bundled(pair, undisturbed), with_faults=True)
    finally:
        pair.run(pair.controller.undeploy(MODEL))
        deploy(pair)

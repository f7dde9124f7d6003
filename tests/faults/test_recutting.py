"""A deployment is cut anew while answers are under way."""

from __future__ import annotations

import asyncio

import pytest

from app.errors import NodeError, PlacementError
from app.inference.deployer import PREFILL_CHUNK
from app.inference.events import StepPassed
from app.inference.recutting import Recutting
from app.registry import DeploymentRecord, RequestStatus
from app.serving import ServingWish
from tests.e2e.conftest import System
from tests.faults.conftest import LONGER, MODEL, as_undisturbed, deploy, got_on
from tests.faults.test_handover import WISHES, begun, stages_on
from tests.faults.test_losses import PROMPT, kill
from tests.waiting import wait_until


def cut(system: System, layers: str, *nodes: int) -> DeploymentRecord:
    """What is deployed in another cut, on these nodes by their place in the list, or where it is."""
    ids = [system.nodes[index].id for index in nodes] or None
    return system.run(system.controller.hand_over(MODEL, nodes=ids, layers=layers)).record


def test_boundaries_move_while_it_answers_and_the_tokens_are_the_same(four: System) -> None:
    first = deploy(four, 0, 1)
    runs = begun(four, WISHES)
    second = cut(four, "0-0,1-5")
    got_on(runs)
    third = cut(four, "0-1,2-3,4-5", 2, 3, 0)
    as_undisturbed(four, runs, WISHES)
    for run in runs:
        cuts = run.trace().interruptions
        assert len(cuts) == 2 and all(each.planned and each.exact for each in cuts)
        assert all(each.what.startswith("cut anew into layers ") for each in cuts)
        assert run.record.deployment_id == third.id
    assert len({first.id, second.id, third.id}) == 3
    assert [each.id for each in four.run(four.controller.deployments.ready())] == [third.id]
    wait_until(lambda: not stages_on(four, 1), 15)
    told = [event.message for event in four.controller.registry.events.list()]
    cut_anew = [sentence for sentence in told if "is cut into layers" in sentence]
    assert any("0-1,2-3,4-5" in sentence for sentence in cut_anew)
    assert all("paused for" in sentence for sentence in cut_anew)


def test_what_was_read_ahead_is_not_read_again(four: System) -> None:
    first = deploy(four, 0, 1, context=4096)
    prompt = [3 + (7 * place) % 90 for place in range(1500)]
    (run,) = begun(four, [(prompt, {"max_tokens": 2000, "ignore_eos": True})])
    passed: list[StepPassed] = []
    four.call(lambda: four.controller.deployments.on_step(passed.append))
    cut(four, "0-3,4-5")
    four.run(run.cancel())
    assert four.finish(run).status is RequestStatus.CANCELLED and run.trace().interruptions
    parts = sum(step.prefilled for step in passed if step.deployment != first.id)
    assert len(prompt) // PREFILL_CHUNK <= parts < 2 * (len(prompt) // PREFILL_CHUNK), "once, not twice"


def test_a_node_that_dies_while_the_new_cut_reads_leaves_the_old_one_at_work(
    four: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = deploy(four, 0, 1)
    runs = begun(four, WISHES[:2])
    reading = Recutting._read_ahead

    async def dying(*arguments: object) -> None:
        prompt, wish = WISHES[2]
        runs.append(await asyncio.to_thread(four.begin, MODEL, prompt, **wish))
        while len(runs[2].token_ids) < 5:
            await asyncio.sleep(0.01)
        assert runs[2].record.deployment_id != first.id, "who asks meanwhile is answered by the new cut"
        await asyncio.to_thread(kill, four, 3)
        await reading(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Recutting, "_read_ahead", dying)
    with pytest.raises(NodeError):
        cut(four, "0-3,4-5", 2, 3)
    as_undisturbed(four, runs, WISHES[:3])
    assert [len(run.trace().interruptions) for run in runs] == [0, 0, 1] and runs[2].record.deployment_id == first.id
    assert [each.id for each in four.run(four.controller.deployments.ready())] == [first.id]


def test_in_exact_mode_a_loss_right_after_the_cut_goes_on_to_the_bit(
    four: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cut itself is not bit-exact in half precision, and says so. What comes after it is what the new cut answers
    to the tokens of then."""

    async def nothing(*arguments: object) -> None:
        """So that they are read in the steps of a prompt, as they are when they are asked for."""

    monkeypatch.setattr(Recutting, "_read_ahead", nothing)
    exact = {"dtype": "bfloat16", "recovery": "exact"}
    deploy(four, 0, 1, **exact)
    (run,) = begun(four, [(PROMPT, LONGER)])
    cut(four, "0-3,4-5", 0, 1)
    got_on([run], 2)
    kill(four, 1)
    wait_until(lambda: len(run.trace().interruptions) == 2)
    got_on([run])
    four.run(run.cancel())
    record = four.finish(run)
    changed, lost = run.trace().interruptions
    assert (changed.planned, changed.exact, lost.planned, lost.exact) == (True, False, False, True)
    four.run(four.controller.undeploy(MODEL))
    four.run(
        four.controller.deploy(
            MODEL,
            nodes=[four.nodes[index].id for index in (0, 2)],
            layers="0-3,4-5",
            serving=ServingWish(context=4096, kv_tokens=8192, **exact),
        )
    )
    known, coming = record.token_ids[: changed.tokens], record.token_ids[changed.tokens :]
    again = four.answer(MODEL, [*PROMPT, *known], max_tokens=len(coming), ignore_eos=True)
    assert again.token_ids == coming


def test_a_cut_that_does_not_fit_beside_the_old_one_is_refused(four: System) -> None:
    deploy(four, 0, 1, kv_tokens=8192)
    budget = four.call(lambda: four.controller.nodes.health.latest(four.nodes[0].id)).report.memory_budget  # type: ignore[union-attr]
    token = 6 * 2 * 4 * 32
    with pytest.raises(PlacementError, match="beside the old one"):
        four.run(four.controller.undeploy(MODEL))
        deploy(four, 0, 1, kv_tokens=int(0.9 * budget / token))
        cut(four, "0-4,5-5")

"""Stages are handed over to other nodes while answers are under way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from app.cluster import fetching
from app.cluster.agent_link import AgentLink
from app.cluster.weights import send_parts
from app.errors import BadInput, NodeError, PlacementError
from app.inference import deployer
from app.inference.request_run import RequestRun
from app.registry import EventRecord, NodeRecord
from app.serving import ServingWish
from tests.e2e.conftest import System
from tests.faults.conftest import LONGER, MODEL, as_undisturbed, deploy, got_on
from tests.faults.test_losses import PROMPT, check, kill
from tests.waiting import wait_until
from worker_agent.wire.messages import Health, ReadStates, WriteStates


def move(system: System, *nodes: int) -> None:
    """Have the stages on these nodes, by their place in the list, while answers go on."""
    ids = [system.nodes[index].id for index in nodes]
    system.run(system.controller.hand_over(MODEL, nodes=ids))


def begun(system: System, wishes: Sequence[tuple[Sequence[int], dict[str, Any]]], tokens: int = 5) -> list[RequestRun]:
    runs = [system.begin(MODEL, prompt, **wish) for prompt, wish in wishes]
    got_on(runs, tokens)
    return runs


def stages_on(system: System, index: int) -> int:
    latest = system.controller.nodes.health.latest(system.nodes[index].id)
    return 0 if latest is None else len(latest.report.stages)


WISHES: list[tuple[Sequence[int], dict[str, Any]]] = [
    (PROMPT, LONGER),
    (PROMPT[3:], {**LONGER, "temperature": 1.0, "seed": 7}),
    (PROMPT * 5, {**LONGER, "repetition_penalty": 1.3, "temperature": 0.8, "seed": 11}),
    ([*PROMPT * 5, 20, 21], {**LONGER, "logprobs": 3}),
]


@pytest.mark.parametrize(
    ("count", "serving"),
    [(4, {"dtype": "float32"}), (1, {"dtype": "bfloat16"}), (1, {"dtype": "bfloat16", "kv_dtype": "int8"})],
)
def test_stage_after_stage_moves_and_the_answers_go_on_to_the_bit(
    four: System, count: int, serving: dict[str, Any]
) -> None:
    deploy(four, 0, 1, 2, **serving)
    runs = begun(four, WISHES[:count])
    for nodes in ((3, 1, 2), (3, 0, 2), (3, 0, 1)):
        move(four, *nodes)
        got_on(runs)
    as_undisturbed(four, runs, WISHES[:count])
    for run in runs:
        moves = run.trace().interruptions
        assert all(each.planned and each.exact and each.tokens for each in moves)
        told = [each.what.partition(" went from ")[0] for each in moves]
        assert told == ["layers 0–1", "layers 2–3", "layers 4–5"]


def test_two_stages_move_at_once_while_a_prompt_is_read_and_what_was_kept_of_others_stays(four: System) -> None:
    deploy(four, 0, 1, 2, context=4096)
    prompt = [3 + (7 * place) % 90 for place in range(3000)]
    expected = four.answer(MODEL, prompt, max_tokens=8, ignore_eos=True)
    shared = four.answer(MODEL, PROMPT * 20, max_tokens=3, ignore_eos=True)
    prompt[0] = 99  # nothing of it is in the caches
    run = four.begin(MODEL, prompt, max_tokens=8, ignore_eos=True)
    wait_until(lambda: run.chunks)
    move(four, 0, 3, 1)
    record = four.finish(run)
    again = four.begin(MODEL, PROMPT * 20, max_tokens=3, ignore_eos=True)
    check(four.finish(again), shared)
    assert again.cached_tokens > 100
    check(record, four.answer(MODEL, prompt, max_tokens=8, ignore_eos=True))
    assert len(record.token_ids) == len(expected.token_ids)


def test_a_drained_node_hands_over_what_it_holds(four: System) -> None:
    deploy(four, 0, 1)
    runs = begun(four, WISHES[:2])
    node = four.nodes[1]
    drained = four.run(four.controller.drain_node(str(node.id), True, move=True))
    assert drained.draining
    as_undisturbed(four, runs, WISHES[:2])
    assert all(run.trace().interruptions[0].planned for run in runs)
    wait_until(lambda: not stages_on(four, 1), 15)
    four.run(four.controller.drain_node(str(node.id), False))


def test_a_node_that_dies_while_it_takes_over_leaves_everything_as_it_was(
    four: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(four, 0, 1, 2)
    runs = begun(four, WISHES[:2])
    killed_when(four, monkeypatch, lambda asked: isinstance(asked, WriteStates), 3)
    with pytest.raises(NodeError):
        move(four, 0, 3, 2)
    as_undisturbed(four, runs, WISHES[:2])
    assert not any(run.trace().interruptions for run in runs)


@pytest.mark.parametrize("victim", [1, 3])
def test_a_node_that_dies_in_the_midst_of_it_costs_no_answer(
    four: System, monkeypatch: pytest.MonkeyPatch, victim: int
) -> None:
    """The one that hands over, or the one that takes over, when nothing runs any more and nothing runs yet."""
    deploy(four, 0, 1, 2)
    runs = begun(four, WISHES[:2])
    killed_when(four, monkeypatch, lambda asked: isinstance(asked, ReadStates) and asked.whole, victim)
    with pytest.raises(NodeError):
        move(four, 0, 3, 2)
    as_undisturbed(four, runs, WISHES[:2])
    assert [len(run.trace().interruptions) for run in runs] == [1, 1]


@pytest.mark.parametrize("moment", ["right after it", "in the midst of it"])
def test_in_exact_mode_half_precision_goes_on_to_the_bit_where_the_stage_behind_one_that_moves_is_lost(
    four: System, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Its states are computed again from the journal of the stage that moved, which came along."""
    deploy(four, 0, 1, 2, dtype="bfloat16", recovery="exact")
    runs = begun(four, WISHES[:1])
    if moment == "right after it":
        move(four, 0, 3, 2)
        got_on(runs, 2)
        kill(four, 2)
    else:
        killed_when(four, monkeypatch, lambda asked: isinstance(asked, ReadStates) and asked.whole, 2)
        with pytest.raises(NodeError):
            move(four, 0, 3, 2)
    as_undisturbed(four, runs, WISHES[:1])
    told = runs[0].trace().interruptions
    assert told and all(each.exact for each in told) and told[-1].what.startswith("layers 4–5 went to ")


def test_what_cannot_be_handed_over_is_said(four: System) -> None:
    with pytest.raises(PlacementError, match="not deployed"):
        move(four, 0, 1)
    deploy(four, 0, 1)
    with pytest.raises(PlacementError, match="2 stages"):
        move(four, 3)
    with pytest.raises(PlacementError, match="there already"):
        move(four, 0, 1)
    ids = [node.id for node in four.nodes[:2]]
    with pytest.raises(PlacementError, match="2 ranges of layers are given for 1 nodes"):
        four.run(four.controller.hand_over(MODEL, nodes=ids[:1], layers="0-1,2-5"))
    with pytest.raises(BadInput, match="dtype"):
        four.run(four.controller.hand_over(MODEL, nodes=ids, serving=ServingWish(dtype="bfloat16")))
    with pytest.raises(BadInput, match="where the stages"):
        four.run(four.controller.hand_over(MODEL))


def killed_when(system: System, monkeypatch: pytest.MonkeyPatch, moment: Callable[[object], bool], victim: int) -> None:
    """Kill an agent just before any of them is asked something for the first time."""
    dead: list[bool] = []
    ask = AgentLink._ask_frames

    async def ask_or_kill(link: AgentLink, channel: Any, message: Any, *arguments: Any, **named: Any) -> Any:
        if moment(message) and not dead:
            dead.append(True)
            process = system.process(system.nodes[victim])
            process.kill()
            process.wait()
        return await ask(link, channel, message, *arguments, **named)

    monkeypatch.setattr(AgentLink, "_ask_frames", ask_or_kill)


def test_a_node_whose_owner_needs_it_hands_over_and_says_so_where_there_is_no_room(
    four: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(four, 0, 1)
    runs = begun(four, WISHES[:2])
    needed: set[int] = set()
    call = AgentLink.call

    async def call_with_rules(link: AgentLink, message: Any, *arguments: Any, **named: Any) -> Any:
        answer = await call(link, message, *arguments, **named)
        here = [node.id for node in four.nodes if four.controller.nodes.link(node.id) is link]
        return (
            replace(answer, yields="Its owner is back.") if isinstance(message, Health) and needed & {*here} else answer
        )

    monkeypatch.setattr(AgentLink, "call", call_with_rules)
    needed.add(four.nodes[1].id)
    wait_until(lambda: all(run.trace().interruptions for run in runs), 30)
    as_undisturbed(four, runs, WISHES[:2])
    wait_until(lambda: not stages_on(four, 1), 15)
    assert four.controller.nodes.heard(four.nodes[1].id).yields
    needed |= {node.id for node in four.nodes}
    wait_until(lambda: any("goes on there, slowly" in event.message for event in events(four)), 30)
    needed.clear()
    wait_until(lambda: any("takes new work again" in event.message for event in events(four)), 15)


def events(system: System) -> list[EventRecord]:
    return system.call(lambda: system.controller.registry.events.list(limit=50))


def test_weights_go_from_the_agent_that_has_them_to_the_one_that_lacks_them(
    four: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the agents were on machines of their own: then the controller sends nothing that one of them has."""
    sent: list[int] = []

    async def counted(*arguments: Any, **named: Any) -> int:
        sent.append(await send_parts(*arguments, **named))
        return sent[-1]

    deploy(four, 0, 1, 2)
    agent = four.run(four.controller.nodes.local())[four.nodes[3].id].agent
    parts = Path(agent.folder) / "parts"
    for part in parts.iterdir():
        part.unlink()
    monkeypatch.setattr(deployer, "send_parts", counted)
    monkeypatch.setattr(fetching, "LEAST_BYTES", 1)
    monkeypatch.setattr(NodeRecord, "is_loopback", property(lambda record: False))
    (run,) = begun(four, WISHES[:1])
    move(four, 0, 1, 3)
    as_undisturbed(four, [run], WISHES[:1])
    assert sent == [0]
    assert any(parts.iterdir())

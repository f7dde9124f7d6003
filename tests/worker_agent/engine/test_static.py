"""Steps in fixed shapes over pages: the same as steps that come as they are, and nothing in them decided by Python.

Here they run without a GPU. What a CUDA graph is there, a graph of operations is here that was captured by watching one
step and is run again, over the same tensors, for others.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from tests.worker_agent.ring import CutModel, Ring, cut_model, random_prompt
from tests.worker_agent.tiny_models import VOCABULARY, greedy, make_model
from worker_agent.engine import attention, executor, static
from worker_agent.engine.attention import Segment, ragged_step
from worker_agent.engine.capture import Pass
from worker_agent.engine.memory.pages import NOBODYS, PagedState, PagePool
from worker_agent.engine.memory.rows import RowPool, RowState
from worker_agent.engine.paged_attention import Decoding, attend_decoding
from worker_agent.wire.errors import OutOfMemory
from worker_agent.wire.messages import Way

KINDS: list[dict[str, Any]] = [
    {}, {"window": 9}, {"window": 5, "scaling": 0.2}, {"softcap": 20.0},
    {"sinks": torch.linspace(-1, 2, 6), "window": 7},
]  # fmt: skip


@pytest.fixture(autouse=True)
def fixed_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDBOARD_CAPTURED", "static")


def captured(run: Pass) -> Pass:
    """A graph of the operations that a pass does, over the tensors that it does them with."""
    nothing = torch.zeros(())
    graph = make_fx(lambda _: run())(nothing)
    return lambda: graph(nothing)


@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_attention_over_pages_is_attention_over_rows(kind: dict[str, Any], int8: bool) -> None:
    torch.manual_seed(3)
    arguments = {"scaling": None, "window": None, "softcap": None, "sinks": None, **kind}
    pages = PagePool(4, 40, 100, int8=int8, page_tokens=4)
    rows = RowPool(4, 40, int8=int8)
    used = pages.state()  # what a page held before shows nowhere
    with ragged_step([Segment(used, 0, 30)]):
        query, key, value = (torch.full((1, heads, 30, 16), float("nan")) for heads in (6, 2, 2))
        attention._attend_segments(query, key, value, 0, **arguments)
    used.release()
    pairs: list[tuple[RowState, RowState]] = [(pages.state(), rows.state()) for _ in range(3)]
    for count, pair in zip((1, 13, 22), pairs, strict=True):
        query, key, value = (torch.randn(1, heads, count, 16) for heads in (6, 2, 2))
        found = []
        for state in pair:
            with ragged_step([Segment(state, 0, count)]):
                found.append(attention._attend_segments(query, key, value, 0, **arguments))
        torch.testing.assert_close(*found)
    for _ in range(3):
        query, key, value = (torch.randn(1, heads, 4, 16) for heads in (6, 2, 2))
        with ragged_step([Segment(state, at, at + 1) for at, (_, state) in enumerate(pairs)]):
            expected = attention._attend_segments(query[:, :, :3], key[:, :, :3], value[:, :, :3], 0, **arguments)
        paged = [pair[0] for pair in pairs]
        lengths = torch.tensor([*(state.length for state in paged), 0])
        for state in paged:
            assert isinstance(state, PagedState)
            state.reach(state.length + 1)
        table = torch.cat([pages.table[[state.slot for state in paged]], torch.full((1, 10), NOBODYS)])
        step = Decoding(pages, table[range(4), lengths // 4], lengths % 4, lengths + 1, table)
        output = attend_decoding(query, key, value, 0, **arguments, step=step)
        near = 2e-5 if not int8 else 1e-4
        torch.testing.assert_close(output[:, :3], expected, atol=near, rtol=near)
        for state in paged:
            state.length += 1


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[CutModel, Any]:
    """A layer with a sliding window, and one without."""
    folder = tmp_path_factory.mktemp("gemma3")
    layers = {"num_hidden_layers": 2, "layer_types": ["sliding_attention", "full_attention"]}
    made = make_model("gemma3_text", folder / "model", **layers)
    return cut_model(folder / "model", folder / "parts"), made


def test_answers_are_the_same_when_a_graph_of_one_step_runs_for_all_of_its_shape(
    model: tuple[CutModel, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, made = model
    monkeypatch.setattr(executor, "capture_for", lambda device: captured)
    monkeypatch.setattr(static, "LEAST_PAGES", 1)
    ring = Ring.build(cut, [1], lanes=1, prefill_chunk=64)
    prompts = {number: random_prompt(5 + 13 * number, VOCABULARY, number) for number in range(5)}
    for number, prompt in prompts.items():
        ring.start(number, prompt, 30 - 5 * number)
    ring.finish()
    assert not ring.faults
    for number, prompt in prompts.items():
        assert ring.answer(number) == greedy(made, prompt, 30 - 5 * number), f"sequence {number}"
    for runner in ring.runners:
        steps = runner._executor.static
        assert steps is not None
        assert len(steps.shapes) >= 4, "of so many sequences, and of so many pages"
        (way,) = (way for way in runner.stage.ways.report() if way.name == "captured")
        assert way == Way("captured", 1, 1, "operation by operation: cpu has no graphs to run again")


def test_a_fault_in_fixed_shapes_is_found_and_they_are_not_taken(
    model: tuple[CutModel, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def one_too_few(*given: Any) -> torch.Tensor:
        step: Decoding = given[-1]
        step._seen = step._seen - 1
        return attend_decoding(*given)

    monkeypatch.setattr(attention, "attend_decoding", one_too_few)
    stage = Ring.build(model[0], []).runners[0].stage
    (way,) = (way for way in stage.ways.report() if way.name == "captured")
    assert (stage.static, way.used, way.possible) == (False, 0, 1)
    assert way.why.startswith("steps of fixed shapes give something else: token ")


def test_a_step_that_cannot_be_captured_runs_all_the_same_and_the_log_says_so(
    model: tuple[CutModel, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(run: Pass) -> Pass:
        run()  # it may have got half way
        raise RuntimeError("out of memory")

    monkeypatch.setattr(executor, "capture_for", lambda device: full)
    ring, prompt = Ring.build(model[0], []), random_prompt(9, VOCABULARY, 1)
    ring.start(1, prompt, 5)
    ring.finish()
    assert ring.answer(1) == greedy(model[1], prompt, 5)
    why = "steps of one shape could not be captured and run operation by operation: RuntimeError: out of memory"
    assert why in caplog.text
    (way,) = (way for way in ring.runners[0]._executor.info(1, 0).ways if way.name == "captured")
    assert way == Way("captured", 0, 1, why), "and so does every report from then on"


def test_the_pages_are_those_that_were_set_aside_and_come_back() -> None:
    pool = PagePool(8, 64, 96)
    rows = torch.randn(2, 33, 4)
    one, other, third = pool.state(), pool.state(), pool.state()
    for state in (one, other):
        state.append(0, rows[:, :31], rows[:, :31])
        state.length = 31
    one.append(0, rows[:, :2], rows[:, :2])
    one.length = 33
    with pytest.raises(OutOfMemory, match="all 3 pages of 32 tokens of the KV cache are taken"):
        third.append(0, rows, rows)
    one.truncate(30)
    third.append(0, rows[:, :5], rows[:, :5])
    assert (one.nbytes, third.nbytes, pool.page_bytes) == (2048, 2048, 2048)
    for state in (one, other, third):
        state.release()
    assert sorted(pool._unused) == [1, 2, 3]
    assert not any(bool(each.any()) for kept in pool.layers.values() for each in kept)
    with pytest.raises(OutOfMemory, match="a sequence came to 65 tokens, its rows have room for 64"):
        pool.state().append(0, torch.zeros(2, 65, 4), torch.zeros(2, 65, 4))


def test_who_has_switched_them_off_is_not_told_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model("llama", tmp_path / "model")
    monkeypatch.delenv("SHARDBOARD_CAPTURED")
    stage = Ring.build(cut_model(tmp_path / "model", tmp_path / "parts"), []).runners[0].stage
    assert not stage.static
    assert not any(way.name == "captured" for way in stage.ways.report())

"""Keys and values in 8 bits: what they mean is what is attended to, what they cost is told, and who cannot says why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worker_agent.causal_types import make_model as make_type
from tests.worker_agent.ring import RUNTIME, Ring, cut_model, load_message, random_prompt
from tests.worker_agent.tiny_models import VOCABULARY, greedy, make_model
from worker_agent.engine import attention, trial
from worker_agent.engine.attention import Segment, attend_one, ragged_step
from worker_agent.engine.loading import load_stage
from worker_agent.engine.memory.own import Int8Cache
from worker_agent.engine.memory.rows import Kept, RowPool, from_int8, in_int8
from worker_agent.engine.stage import Stage
from worker_agent.wire.errors import OutOfMemory
from worker_agent.wire.messages import Way


def told(stage: Stage) -> Way:
    (way,) = (way for way in stage.ways.report() if way.name == "kv_int8")
    return way


def test_each_number_is_kept_to_half_a_step_of_its_heads_scale() -> None:
    rows = torch.randn(3, 50, 16) * torch.logspace(-6, 6, 50)[:, None]
    rows[1, 7] = 0
    kept, scales = in_int8(rows)
    assert (kept.dtype, tuple(kept.shape), tuple(scales.shape)) == (torch.int8, (3, 50, 16), (1, 50, 3))
    assert int(kept.min()) == -127 and int(kept.max()) == 127
    apart = (from_int8(kept, scales, torch.float32) - rows).abs()
    assert bool((apart <= rows.abs().amax(-1, keepdim=True) / 127 * 0.5001).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "kind", [{}, {"window": 9}, {"softcap": 20.0}, {"sinks": torch.linspace(-1, 2, 6)}, {"scaling": 0.2, "window": 200}]
)
@pytest.mark.parametrize("pieces", [(40, 1, 1), (150, 1, 5, 1), (7, 160, 1)])
def test_what_is_attended_to_is_what_the_8_bits_mean(
    pieces: tuple[int, ...], kind: dict[str, object], dtype: torch.dtype
) -> None:
    torch.manual_seed(1)
    states = [RowPool(1, 400, int8=True).state(), trial.RoundedPool(1, 400, reserved=False).state()]
    arguments = {"scaling": None, "window": None, "softcap": None, "sinks": None, **kind}
    for count in pieces:
        query, key, value = (torch.randn(1, heads, count, 16, dtype=dtype) for heads in (6, 2, 2))
        outputs = []
        for state in states:
            with ragged_step([Segment(state, 0, count)]):
                outputs.append(attention._attend_segments(query, key, value, 0, **arguments))  # type: ignore[arg-type]
        near = 1e-5 if dtype is torch.float32 else 2e-2
        torch.testing.assert_close(*outputs, atol=near, rtol=near)
    assert states[0].exported()["0.keys"].dtype == torch.int8


def test_a_stage_keeps_a_quarter_and_tells_what_that_costs(tmp_path: Path) -> None:
    model = make_model("llama", tmp_path / "model")
    cut = cut_model(tmp_path / "model", tmp_path / "parts")
    ring, plain = Ring.build(cut, [3], kv_dtype="int8"), Ring.build(cut, [3])
    for runner, other in zip(ring.runners, plain.runners, strict=True):
        stage, layers = runner.stage, runner.load.end - runner.load.start
        assert stage.kv_bytes == 4096 * layers * (64 + 4 * 4) == other.stage.kv_bytes * 80 // 256
        assert 0.001 < stage.kv_error < 0.05, "8 bits of a random model"
        assert (told(stage).used, told(stage).possible) == (layers, layers)
        assert f"by {100 * stage.kv_error:.2g} % of their size" in told(stage).why
        info = runner.info()
        assert (info.kv_dtype, info.kv_error, info.kv_bytes) == ("int8", stage.kv_error, stage.kv_bytes)
        assert (other.info().kv_dtype, other.info().kv_error) == ("computed", 0.0)
        assert not any(way.name == "kv_int8" for way in other.info().ways)
    prompts = {number: random_prompt(30 + 9 * number, VOCABULARY, number) for number in range(6)}
    for number, prompt in prompts.items():
        ring.start(number, prompt, 16)
    ring.finish()
    assert not ring.faults
    likeliest = [ring.answer(number)[0] == greedy(model, prompt, 1)[0] for number, prompt in prompts.items()]
    assert sum(likeliest) >= 4, "a model of random weights has many tokens that are nearly as likely as each other"


@pytest.mark.parametrize("kind", ["llama", "bloom"])
def test_a_prompt_in_pieces_and_one_from_memory_see_what_a_whole_one_sees(kind: str, tmp_path: Path) -> None:
    """A token attends to what is kept, its own piece included, so where prompts are cut makes no difference."""
    make_model(kind, tmp_path / "model")
    cut = cut_model(tmp_path / "model", tmp_path / "parts")
    prompt, more = random_prompt(60, VOCABULARY, 1), random_prompt(9, VOCABULARY, 2)
    answers = []
    for chunk in (512, 7):
        ring = Ring.build(cut, [3], kv_dtype="int8", prefill_chunk=chunk)
        for number, given in ((1, prompt), (2, [*prompt, *more])):
            ring.start(number, given, 8)
            ring.finish()
        assert ring.cached == {2: 60}
        answers.append([ring.answer(1), ring.answer(2)])
    assert answers[0] == answers[1]


@pytest.mark.parametrize(("kind", "layers"), [("bloom", 7), ("falcon_h1", 7), ("glm_moe_dsa", 7), ("lfm2", 3)])
def test_transformers_own_caches_keep_8_bits_too_and_nothing_else_of_them_changes(
    kind: str, layers: int, tmp_path: Path
) -> None:
    (make_model if kind == "bloom" else make_type)(kind, tmp_path / "model")
    cut = cut_model(tmp_path / "model", tmp_path / "parts")
    ring = Ring.build(cut, [], kv_dtype="int8", kv_tokens=64, max_context=64, max_sequences=2)
    stage = ring.runners[0].stage
    assert not stage.batched and (told(stage).used, told(stage).possible) == (layers, layers)
    assert stage.kv_dtype == "int8" and 0.001 < stage.kv_error < 0.2
    assert f"by {100 * stage.kv_error:.2g} % of their size" in told(stage).why
    ring.start(1, random_prompt(40, 190, 1), 20)
    for _ in range(10):
        ring.turn()
    state = ring.runners[0]._executor.memory[1].exported()
    for name, tensor in state.items():
        in_8_bits = name.endswith(("/keys", "/values"))
        assert (tensor.dtype == torch.int8) == in_8_bits or name == "plain", name
    assert sum(name.endswith("/keys") for name in state) == layers


def test_what_has_no_keys_and_values_says_that_there_is_nothing_to_keep_in_8_bits(tmp_path: Path) -> None:
    make_type("mamba2", tmp_path / "model")
    stage = Ring.build(cut_model(tmp_path / "model", tmp_path / "parts"), [], kv_dtype="int8").runners[0].stage
    assert (stage.kv_dtype, stage.kv_error) == ("computed", 0.0)
    assert told(stage) == Way("kv_int8", 0, 0, "its layers keep no keys and values"), "and so nothing is lost"


def test_a_fault_in_the_8_bits_of_own_caches_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("bloom", tmp_path / "model")
    sound = Int8Cache.update

    def too_large(*arguments: Any, **named: Any) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = sound(*arguments, **named)
        return keys, values * 1.01

    monkeypatch.setattr(Int8Cache, "update", too_large)
    ring = Ring.build(cut_model(tmp_path / "model", tmp_path / "parts"), [], kv_dtype="int8")
    stage = ring.runners[0].stage
    assert (stage.kv_dtype, told(stage).used, told(stage).possible) == ("computed", 0, 7)
    assert told(stage).why.startswith("layer 0 gives something else than what the 8 bits mean (token ")
    prompt = random_prompt(40, VOCABULARY, 1)
    ring.start(1, prompt, 6)
    ring.finish()
    assert ring.answer(1) == greedy(model, prompt, 6), "with keys and values as they are computed"


def wrong_scale(query: torch.Tensor, kept: Kept, scaling: float | None, at_once: int) -> torch.Tensor:
    """Stands in for `attend_one`, with the scales of values a percent too large."""
    return attend_one(query, (*kept[:3], kept[3] * 1.01), scaling, at_once)


def test_a_fault_in_8_bits_is_found_and_they_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("llama", tmp_path / "model")
    cut = cut_model(tmp_path / "model", tmp_path / "parts")
    sound = Ring.build(cut, [], kv_dtype="int8").runners[0].stage
    monkeypatch.setattr(attention, "attend_one", wrong_scale)
    ring = Ring.build(cut, [], kv_dtype="int8")
    stage = ring.runners[0].stage
    assert (stage.kv_dtype, told(stage).used) == ("computed", 0)
    assert told(stage).why.startswith("layer 0 gives something else than what the 8 bits mean (token ")
    prompt = random_prompt(40, VOCABULARY, 1)
    ring.start(1, prompt, 12)
    ring.finish()
    assert ring.answer(1) == greedy(model, prompt, 12), "with keys and values as they are computed"
    load = load_message(cut, 0, 7, 0, 1, kv_dtype="int8")
    with pytest.raises(OutOfMemory, match=r"layers 0-6 of tiny cannot be kept in int8 \(layer 0 gives"):
        load_stage(
            load, cut.config, cut.parts_for(0, 7), lambda digest: cut.folder / digest, RUNTIME,
            sound.weight_bytes + sound.kv_bytes, lambda done, total: None,
        )  # fmt: skip


def test_the_error_grows_with_coarser_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is told is measured: rows in 5 bits cost eight times what rows in 8 bits do."""
    make_model("llama", tmp_path / "model")
    cut = cut_model(tmp_path / "model", tmp_path / "parts")
    fine = Ring.build(cut, [], kv_dtype="int8").runners[0].stage.kv_error

    def coarse(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        kept, scales = in_int8(rows)
        return (kept.float() / 8).round().mul(8).clamp(-127, 127).to(torch.int8), scales

    for module in ("worker_agent.engine.memory.rows.in_int8", "worker_agent.engine.trial.in_int8"):
        monkeypatch.setattr(module, coarse)
    assert 4 * fine < Ring.build(cut, [], kv_dtype="int8").runners[0].stage.kv_error < 16 * fine

"""What counts as the same result, and what becomes of a way that gives another one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch.nn.functional import rms_norm

from tests.worker_agent.ring import CutModel, Ring, cut_model, random_prompt
from tests.worker_agent.tiny_models import CONFIGS, VOCABULARY, greedy, make_model
from worker_agent.engine import attention, trial
from worker_agent.engine.recorded import Recording
from worker_agent.model.linears import fused, packed
from worker_agent.model.proof import TOLERANCES, difference
from worker_agent.wire.messages import Way

PROMPTS = [random_prompt(length, VOCABULARY, seed) for seed, length in enumerate((5, 23, 40))]
ANSWER = 12
DTYPES = sorted(TOLERANCES, key=str)


def sums(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Of one matrix product: its terms in one order, in another one, and what went in."""
    generator = torch.Generator().manual_seed(1)
    given = torch.randn(22, 512, generator=generator).to(dtype)
    weight = (torch.randn(512, 512, generator=generator) / 512**0.5).to(dtype)
    order = torch.randperm(512, generator=generator)
    return given @ weight, given[:, order] @ weight[order], given


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_in_another_order_are_the_same(dtype: torch.dtype) -> None:
    one, other, given = sums(dtype)
    assert difference(one, other, dtype) == ""
    assert difference(given + one, given + other, dtype, given) == ""


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("skew", [1.005, 0.995])
def test_numbers_that_are_off_by_half_a_percent_are_not(dtype: torch.dtype, skew: float) -> None:
    one, _, given = sums(dtype)
    assert difference(one, one * skew, dtype)
    assert difference(given + one, given + one * skew, dtype, given)


def test_in_float32_half_a_percent_is_far_more_than_is_allowed() -> None:
    one, _, _ = sums(torch.float32)
    assert difference(one, one * 1.005, torch.float32, factor=50)
    assert difference(one, one * (1 + 5e-5), torch.float32) != "", "so is a hundredth of it, which leans to one side"


def test_single_tokens_may_differ_in_half_precision_alone() -> None:
    for dtype in DTYPES:
        one, _, _ = sums(dtype)
        other = one.clone()
        other[3] = -other[3]
        assert bool(difference(one, other, dtype)) == (dtype == torch.float32)


def test_numbers_that_are_none_are_never_the_same() -> None:
    one = torch.ones(4, 8)
    other = one.clone()
    other[0, 0] = torch.nan
    assert "finite" in difference(one, other, torch.float32)
    assert "(4, 7)" in difference(one, one[:, :7], torch.float32)


def answers_of(ring: Ring) -> list[list[int]]:
    for number, prompt in enumerate(PROMPTS):
        ring.start(number, prompt, ANSWER)
    ring.finish()
    assert not ring.faults
    return [ring.answer(number) for number in range(len(PROMPTS))]


def ways_of(ring: Ring) -> list[dict[str, Way]]:
    return [{way.name: way for way in runner.stage.ways.report()} for runner in ring.runners]


def skew_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    """Norms that are half a percent too large wherever they are used, and pass where they are looked at alone."""
    monkeypatch.setattr(fused, "_same", lambda *_: True)

    def skewed(norm: fused.FusedNorm, rows: torch.Tensor) -> torch.Tensor:
        return 1.005 * rms_norm(rows, norm.weight.shape, norm.weight, norm.epsilon)

    monkeypatch.setattr(fused.FusedNorm, "forward", skewed)


def skew_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = packed._packed_linear
    monkeypatch.setattr(packed, "_differs", lambda *_: "")
    monkeypatch.setattr(packed, "_packed_linear", lambda rows, handle, bias: 1.005 * exact(rows, handle, bias))


def swap_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each member gets its numbers in reverse."""
    exact = fused.SiblingGroup.output
    monkeypatch.setattr(fused.SiblingGroup, "output", lambda group, *given: exact(group, *given).flip(-1))
    monkeypatch.setattr(fused, "_differ", lambda *_: "")


def forget_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = attention.visible
    monkeypatch.setattr(attention, "visible", lambda new, total, window, device: exact(new, total, None, device))


def forget_how_long_each_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """One call for many sequences, in which each sees as much as the longest."""
    monkeypatch.setattr(attention.Batch, "mask", lambda batch, window, dtype: None)


def skew_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = Recording.__call__
    monkeypatch.setattr(Recording, "__call__", lambda recording, *given: 1.005 * exact(recording, *given))


BREAKS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "norms": skew_norms,
    "packed": skew_packed,
    "joined": swap_joined,
    "batched": forget_the_window,
    "batched in one call": forget_how_long_each_is,
    "recorded": skew_recording,
}


@pytest.fixture
def small_packs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices of tiny models are packed too."""
    if not packed.can_pack(torch.device("cpu"), torch.float32):
        pytest.skip("this machine has no kernels for packed weights")
    monkeypatch.setitem(packed.LEAST_ELEMENTS, torch.float32, 1)


@dataclass(frozen=True)
class Sound:
    """A model before anything in it is broken: its parts, what transformers answers, and the ways of two stages."""

    cut: CutModel
    expected: list[list[int]]
    ways: list[dict[str, Way]]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Sound:
    folder = tmp_path_factory.mktemp("sound")
    model = make_model("mistral", folder / "model", num_hidden_layers=4, tie_word_embeddings=False)
    expected = [greedy(model, prompt, ANSWER) for prompt in PROMPTS]
    cut = cut_model(folder / "model", folder / "parts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(packed.LEAST_ELEMENTS, torch.float32, 1)
        return Sound(cut, expected, ways_of(Ring.build(cut, [2])))


@pytest.mark.usefixtures("small_packs")
@pytest.mark.parametrize("fault", BREAKS)
def test_a_way_that_gives_something_else_is_not_taken_and_the_answers_stay(
    fault: str, sound: Sound, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = fault.partition(" ")[0]
    for ways in sound.ways:
        assert all(each.used == each.possible > 0 and not each.why for each in ways.values()), ways
        assert way in ways
    BREAKS[fault](monkeypatch)
    ring = Ring.build(sound.cut, [2], prefill_chunk=16)
    for ways in ways_of(ring):
        assert ways[way].used == 0 < ways[way].possible, ways
        assert ways[way].why
        apart = ("recorded",) if way == "batched" else ()  # which is of the passes that are shared
        others = [each for name, each in ways.items() if name not in (way, "pieces", "reused", *apart)]
        # The model's end, a norm and a matrix, falls back as one; in the layers the others are taken as before.
        assert all(each.used >= each.possible - 1 > 0 or each.used == each.possible for each in others), ways
    assert answers_of(ring) == sound.expected


@pytest.mark.parametrize(("way", "switch"), [("packed", "SHARDBOARD_PACKED"), ("norms", "SHARDBOARD_FUSED")])
def test_a_way_that_gives_something_else_in_bfloat16_is_not_taken_either(
    way: str, switch: str, sound: Sound, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What rounds to eight bits may be off by more, and half a percent in every layer is still told from that."""
    if not packed.can_pack(torch.device("cpu"), torch.bfloat16):
        pytest.skip("this machine has no kernels for packed weights in bfloat16")
    monkeypatch.setitem(packed.LEAST_ELEMENTS, torch.bfloat16, 1)
    if way == "packed":  # torch's own norm rounds otherwise there, and is not taken on its own account
        exact = ways_of(Ring.build(sound.cut, [2], dtype="bfloat16"))
        assert all(ways[way].used == ways[way].possible > 0 for ways in exact), exact
    with monkeypatch.context() as patch:
        BREAKS[way](patch)
        ring = Ring.build(sound.cut, [2], dtype="bfloat16", prefill_chunk=16)
        for ways in ways_of(ring):
            assert ways[way].used == 0 < ways[way].possible, ways
            assert "to one side" in ways[way].why, ways[way]
        found = answers_of(ring)
    monkeypatch.setenv(switch, "0")
    assert found == answers_of(Ring.build(sound.cut, [2], dtype="bfloat16", prefill_chunk=16))


@pytest.mark.usefixtures("small_packs")
def test_a_fault_in_one_layer_costs_that_layer_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("llama", tmp_path / "model", num_hidden_layers=4, tie_word_embeddings=False)
    expected = [greedy(model, prompt, ANSWER) for prompt in PROMPTS]
    made: list[int] = []
    exact = packed.PackedLinear.__init__

    def spoil_the_ninth(linear: packed.PackedLinear, plain: torch.nn.Linear) -> None:
        made.append(len(made))
        if len(made) == 9:
            plain = torch.nn.Linear(plain.in_features, plain.out_features, bias=plain.bias is not None)
        exact(linear, plain)

    monkeypatch.setattr(packed.PackedLinear, "__init__", spoil_the_ninth)
    ring = Ring.build(cut_model(tmp_path / "model", tmp_path / "parts"), [], prefill_chunk=16)
    way = ways_of(ring)[0]["packed"]
    assert way.used == way.possible - 1 and "differs" in way.why
    assert answers_of(ring) == expected


@pytest.mark.usefixtures("small_packs")
@pytest.mark.parametrize("model_type", CONFIGS)
def test_packed_weights_answer_as_transformers_in_every_architecture(model_type: str, tmp_path: Path) -> None:
    model = make_model(
        model_type, tmp_path / "model", **({} if "n_layer" in CONFIGS[model_type] else {"num_hidden_layers": 3})
    )
    expected = [greedy(model, prompt, ANSWER) for prompt in PROMPTS]
    ring = Ring.build(cut_model(tmp_path / "model", tmp_path / "parts"), [1], prefill_chunk=16)
    # These two keep their matrices in modules of their own, which are not packed.
    assert sum(ways["packed"].used for ways in ways_of(ring)) > 0 or model_type in ("gpt2", "falcon")
    assert answers_of(ring) == expected


def test_the_trial_passes_windows_and_cache_growths_and_has_several_texts_at_once() -> None:
    plan = trial.steps(trial.TEXTS)
    assert max(trial.TEXTS) > 2 * trial.WINDOW and max(trial.TEXTS) > 2 * trial.GROWTH
    assert any(len(step) > 1 for step in plan)
    pieces = [end - start for step in plan for text, start, end in step if text == 0]
    assert len([count for count in pieces if count > 1]) >= 3 and pieces[-trial.ANSWER :] == [1] * trial.ANSWER
    for text, length in enumerate(trial.TEXTS):
        covered = [place for step in plan for each, start, end in step if each == text for place in range(start, end)]
        assert covered == list(range(length))

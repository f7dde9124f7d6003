"""A state that was cut back, copied, set aside and taken back is what it would have been, whatever its layers keep.

The measure is a state computed from scratch. Real stages of tiny models: rows of the ragged batch, transformers' own
keys and values, convolutions, recurrent states, and mixtures.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.worker_agent.causal_types import make_model as make_type
from tests.worker_agent.ring import RUNTIME, CutModel, Ring, cut_model, load_message, random_prompt
from tests.worker_agent.tiny_models import VOCABULARY, greedy, make_model
from worker_agent.engine.attention import Segment, _attend_segments, ragged_step
from worker_agent.engine.copying import as_frames
from worker_agent.engine.executor import Admitted, Executor, StepPlan, Turn
from worker_agent.engine.loading import load_stage
from worker_agent.engine.memory.own import OwnState
from worker_agent.engine.memory.pages import PagePool
from worker_agent.engine.memory.pool import StatePool
from worker_agent.engine.memory.region import Region, reserve, reserves
from worker_agent.engine.memory.rows import RowPool
from worker_agent.engine.paged_attention import Decoding, attend_decoding
from worker_agent.engine.stage import Stage
from worker_agent.model.linears import packed
from worker_agent.wire.errors import OutOfStep
from worker_agent.wire.messages import Resumed, Sampling, Shared

TYPES = {
    "rows": "llama", "rows that grow": "mistral", "own": "bloom", "convolutions": "lfm2", "recurrent": "mamba2",
    "mixed": "bamba", "whole prompts": "jamba", "rows in int8": "llama", "rows in int8 that grow": "mistral",
    "rows in pages": "mistral", "rows in int8 in pages": "llama", "windows": "lfm3", "an index": "glm_moe_dsa",
    "own in int8": "bloom", "an index and int8": "glm_moe_dsa", "mixed in int8": "bamba",
    "one tensor for both": "deepseek_v4", "convolutions and a window in one": "inkling_text",
    "recurrent and rows in one": "falcon_h1", "layers that keep nothing": "gemma4_text",
}  # fmt: skip


FIRST = {"one tensor for both": 2, "convolutions and a window in one": 1, "recurrent and rows in one": 1}
"""Of these so many layers, which have what is wanted; the others say nothing that they do not."""
BEGINS = (5, 12)
"""With so many tokens a sequence begins: within a window, and beyond it."""


def whole_stage(cut: CutModel, **changes: object) -> Stage:
    layers = cut.anatomy.num_layers
    return load_stage(
        load_message(cut, 0, layers, 0, 1, max_context=256, **changes), cut.config, cut.parts_for(0, layers),
        lambda digest: cut.folder / digest, RUNTIME, 10**12, lambda done, total: None,
    )  # fmt: skip


@pytest.fixture(scope="module", params=TYPES)
def executor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Executor:
    folder = tmp_path_factory.mktemp(TYPES[request.param])
    rows, int8 = request.param.startswith("rows"), "int8" in request.param
    make: Callable[..., object] = make_model if rows or request.param.startswith("own") else make_type
    if request.param in FIRST:
        make_type(TYPES[request.param], folder / "model", FIRST[request.param])
    else:
        make(TYPES[request.param], folder / "model")
    if request.param == "whole prompts":  # all experts: of two that weigh the same, the last bits would choose
        config = folder / "model" / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "num_experts_per_tok": 4}))
    with pytest.MonkeyPatch.context() as patch:
        if request.param.endswith("in pages"):
            patch.setenv("SHARDBOARD_CAPTURED", "static")
        cut, kept = cut_model(folder / "model", folder / "parts"), "int8" if int8 else "computed"
        stage = whole_stage(cut, kv_dtype=kept)
    made = Executor(stage, folder / "aside")
    assert isinstance(made._rows, PagePool) == request.param.endswith("in pages")
    assert (made.stage.batched, made._rows.int8) == (rows, int8)
    if request.param.endswith("that grow"):
        made._rows = RowPool(128, 256, growth=3, reserved=False, int8=int8)
    return made


class Driver:
    """Sequences that run through an executor, and what each has been given."""

    def __init__(self, executor: Executor) -> None:
        self.executor, self.given, self.numbers = executor, dict[int, list[int]](), 0

    def step(self, number: int, position: int, tokens: list[int], **plan: object) -> torch.Tensor:
        """Logits [vocabulary] after the last of these tokens."""
        if len(tokens) > 1 and position and not self.executor.stage.in_pieces:
            self.step(number, position, tokens[:-1], **plan)
            plan, position, tokens = {}, position + len(tokens) - 1, tokens[-1:]
        turn = Turn(number, position, len(tokens), range(len(tokens) - 1, len(tokens)))
        self.given[number] = [*self.given.get(number, [])[:position], *tokens]
        return self.executor.step(StepPlan((turn,), torch.tensor(tokens), **plan))[-1]  # type: ignore[arg-type]

    def begin(self, tokens: list[int], shared: Shared | None = None) -> tuple[int, torch.Tensor]:
        """A new sequence of these tokens, of which the first come from another one where they are shared."""
        self.numbers += 1
        number, position = self.numbers, 0 if shared is None else shared.tokens
        if shared is not None:
            self.given[number] = tokens[:position]
        admitted = (Admitted(number, len(tokens), shared),)
        return number, self.step(number, position, tokens[position:], admitted=admitted)


def hand_over(pool: StatePool, number: int, seed: int) -> None:
    """Have a state leave the pool as another agent gets it, as bytes, in two parts where it takes parts, and come in
    again; then go on over a new link, in another place."""
    (whole,) = (part for part in pool.parts() if part.sequence == number)
    middle = seed % whole.end if pool[number].takes_parts else 0
    parts = [replace(whole, end=middle), replace(whole, start=middle)] if middle else [whole]
    came = [(part, safetensors.torch.load(b"".join(as_frames(pool.exported(part))))) for part in parts]
    pool.release(number)
    for part, tensors in came:
        pool.put(part, tensors)
    slot = pool[number].slot
    pool.resume([Resumed(number, whole.end, slot=slot + 1 if slot >= 0 else -1)])
    assert pool[number].slot == (slot + 1 if slot >= 0 else -1)


ops = st.lists(
    st.tuples(
        st.sampled_from(["go on", "cut", "copy", "take", "aside", "hand over"]), st.integers(0, 2**31),
        st.integers(1, 9),
    ),
    min_size=1, max_size=7,
)  # fmt: skip


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(begins=st.sampled_from(BEGINS), steps=ops)
@example(begins=12, steps=[("cut", 0, 3)])
@example(begins=5, steps=[("cut", 3, 3), ("hand over", 2, 1), ("aside", 0, 3)])
def test_whatever_was_done_to_a_state_it_goes_on_as_one_from_scratch(
    executor: Executor, begins: int, steps: list[tuple[str, int, int]]
) -> None:
    executor.clear()
    driver = Driver(executor)
    number, _ = driver.begin(random_prompt(begins, 190, 1))
    for what, seed, count in steps:
        held, more = driver.given[number], random_prompt(count, 190, seed)
        state = executor.memory[number]
        cut = seed % len(held) if state.can_be_cut(seed % len(held)) else len(held)
        if what == "cut" and cut < len(held):
            driver.step(number, cut, more)
        elif what == "copy" and cut:
            number, _ = driver.begin([*held[:cut], *more], Shared(number, cut, False))
        elif what == "take" and cut:
            number, _ = driver.begin([*held[:cut], *more], Shared(number, cut, True))
        elif what == "aside":
            executor.step(StepPlan((), torch.empty(0), aside=(number,)))
            assert executor.memory.sequences == sum(n != number for n in executor.memory._states)
            driver.step(number, len(held), more)
        elif what == "hand over":
            hand_over(executor.memory, number, seed)
            driver.step(number, len(held), more)
        else:
            driver.step(number, len(held), more)
        assert executor.memory.nbytes == sum(state.nbytes for state in executor.memory._states.values())
    found = driver.step(number, len(driver.given[number]), [5])
    _, expected = driver.begin(driver.given[number])
    # A difference in the last bits may be kept as the next number of the 8 bits.
    # In another order of sums (step by step, and at once) logits of about 1 come out up to 2.2e-4 apart.
    near = 2e-2 if executor._rows.int8 else 1e-3
    torch.testing.assert_close(found, expected, atol=near, rtol=near)


@pytest.mark.parametrize("kept", ["computed", "int8"])
def test_prompts_of_many_lengths_have_few_numbers_of_rows_and_what_fills_up_changes_nothing(
    kept: str, tmp_path: Path
) -> None:
    make_model("mixtral", tmp_path / "model")
    stage = whole_stage(cut_model(tmp_path / "model", tmp_path / "parts"), dtype="bfloat16", kv_dtype=kept)
    passes: list[int] = []

    def watched(module: object, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        passes.append(kwargs["position_ids"].shape[1])

    def logits(lengths: tuple[int, ...]) -> torch.Tensor:
        """After every token of prompts that come in one step."""
        executor = Executor(stage, tmp_path / "aside")
        given = torch.tensor([token for length in lengths for token in random_prompt(length, 190, length)])
        admitted = tuple(Admitted(number, length) for number, length in enumerate(lengths))
        turns = tuple(Turn(number, 0, length, range(length)) for number, length in enumerate(lengths))
        return executor.step(StepPlan(turns, given, admitted=admitted))

    stage.recording = None  # so that Python sees how many there are
    stage.slice.model.base_model.register_forward_pre_hook(watched, with_kwargs=True)
    cases = ((45,), (30, 9, 1), (10,), (131,), (7,), (1, 1, 1))
    found = [logits(lengths) for lengths in cases]
    fills_up = stage.slice.fills_up
    assert fills_up == packed.can_pack(stage.device, stage.dtype)
    assert passes == ([48, 48, 12, 160, 7, 3] if fills_up else [45, 40, 10, 131, 7, 3])
    stage.slice.fills_up = False
    for lengths, each in zip(cases, found, strict=True):
        assert len(each) == sum(lengths)
        torch.testing.assert_close(each, logits(lengths), atol=2e-2, rtol=2e-2)


def test_a_recurrent_state_is_not_cut_back_without_a_word(tmp_path: Path) -> None:
    make_type("mamba2", tmp_path / "model")
    driver = Driver(Executor(whole_stage(cut_model(tmp_path / "model", tmp_path / "parts"))))
    number, _ = driver.begin(random_prompt(12, 190, 1))
    with pytest.raises(OutOfStep, match="cannot be cut back from 12 tokens to 5"):
        driver.step(number, 5, [1, 2])
    with pytest.raises(OutOfStep, match="came to a KV cache of 12 tokens"):
        driver.step(number, 20, [1, 2])


def test_what_was_set_aside_comes_back_to_the_device_of_its_stage(tmp_path: Path) -> None:
    """On disk, and on its way from another agent, it is in main memory."""
    make_type("falcon_h1", tmp_path / "model", 1)
    stage = whole_stage(cut_model(tmp_path / "model", tmp_path / "parts"))
    driver = Driver(Executor(stage))
    number, _ = driver.begin(random_prompt(12, 190, 1))
    elsewhere = OwnState(stage.slice.model.config, range(1), device=torch.device("meta"))
    elsewhere.imported(driver.executor.memory[number].exported(), 12)
    (layer,) = elsewhere.cache.kept()
    assert {each.device.type for each in (layer.keys, *layer.conv_states.values(), layer)} == {"meta"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_numbers_that_are_none_spoil_nobody_who_shares_what_came_before_them(dtype: torch.dtype) -> None:
    """What is hidden behind a sequence's end is multiplied by nothing, and nothing times infinity is no number."""

    def numbers(heads: int, tokens: int, sound: int) -> torch.Tensor:
        made = torch.randn(1, heads, tokens, 16, dtype=dtype)
        made[:, :, sound:] = float("nan")
        return made

    def attend(segments: list[Segment], tokens: int, sound: int) -> torch.Tensor:
        with ragged_step(segments, many=2):
            rows = (numbers(heads, tokens, sound) for heads in (6, 2, 2))
            return _attend_segments(*rows, 0, None, None, None, None)

    pages = PagePool(4, 64, 128)
    donor, shares, cut = pages.state(), pages.state(), pages.state()
    for state in (donor, cut):
        attend([Segment(state, 0, 30)], 30, 25)
    shares.copy_from(donor, 20)
    cut.truncate(20)
    for state in (shares, cut):
        state.reach(21)
        own = pages.table[[state.slot]]
        step = Decoding(pages, own[:, 0], torch.tensor([20]), torch.tensor([21]), own)
        found = attend_decoding(*(numbers(heads, 1, 1) for heads in (6, 2, 2)), 0, None, None, None, None, step)
        assert torch.isfinite(found).all()

    rows = RowPool(8, 64)
    together = [rows.state() for _ in range(5)]
    for number, each in enumerate(together):
        attend([Segment(each, 0, 30)], 30, 30 if number else 25)
    together[0].truncate(20)
    assert torch.isfinite(attend([Segment(each, at, at + 1) for at, each in enumerate(together)], 5, 5)).all()


def test_what_a_sequence_has_left_goes_back_to_the_system(tmp_path: Path) -> None:
    """Rows take memory page by page, and none when they are released or set aside."""
    make_model("llama", tmp_path / "model")
    executor = Executor(whole_stage(cut_model(tmp_path / "model", tmp_path / "parts")), tmp_path / "aside")
    driver = Driver(executor)
    number, _ = driver.begin(random_prompt(100, VOCABULARY, 1))
    held = executor.memory.nbytes
    assert 100 * 7 * 2 * 32 * 4 <= held < 2**20 < 128 * 256 * 7 * 2 * 32 * 4, "not what it might come to"
    executor.step(StepPlan((), torch.empty(0), aside=(number,)))
    assert executor.memory.nbytes == 0
    assert len(list((tmp_path / "aside").iterdir())) == 1
    executor.step(StepPlan((), torch.empty(0), released=(number,)))
    assert not list((tmp_path / "aside").iterdir())


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
@pytest.mark.parametrize("back", [Region.give_back, Region._map_anew])
def test_address_space_takes_memory_only_where_it_is_written(back: Callable[[Region, int, int], None]) -> None:
    began = resident()
    region = reserve((16, 1024, 1024, 16), torch.float32)
    assert region is not None
    assert resident() - began < 8 << 20
    region.tensor[3].fill_(1.0)
    assert resident() - began > 56 << 20
    region.tensor[2, -1, -1, -1] = region.tensor[4, 0, 0, 0] = 1.0
    back(region, 3 * region.tensor[0].nbytes, region.tensor[0].nbytes)
    assert resident() - began < 8 << 20
    assert not region.tensor[3].any() and region.tensor[2:5].sum() == 2


@pytest.mark.skipif(not reserves(), reason="rows grow by copying")
@pytest.mark.parametrize("int8", [False, True])
def test_what_is_cut_back_goes_back_to_the_system_and_what_stays_is_as_it_was(int8: bool) -> None:
    torch.manual_seed(1)
    pool = RowPool(3, 2048, int8=int8)
    other, state = pool.state(), pool.state()
    rows = [torch.randn(2, 1500, 16) for _ in range(2)]
    for each in (other, state):
        each.keep(0, *rows)
        each.length = 1500
    before, held = state.exported(0, 700), state.nbytes
    state.truncate(700)
    assert state.nbytes < 0.6 * held
    for name, tensor in state.exported().items():
        assert torch.equal(tensor, before[name])
    for kept in state._rows.values():
        for each in kept:
            assert not each[0, :, 700:].any(), "nobody multiplies what was there by nothing"
    assert all(torch.equal(each, before[name]) for name, each in other.exported(0, 700).items())
    assert all(each.any() for each in other.exported(1400, 1500).values()), "the next slot is another one's"


@pytest.mark.parametrize(("kept", "length"), [("computed", 5), ("computed", 40), ("int8", 5), ("int8", 70)])
def test_many_short_sequences_take_no_more_memory_than_was_set_aside(kept: str, length: int, tmp_path: Path) -> None:
    """Each has pages of its own, of which the last ones are not full."""
    make_model("llama", tmp_path / "model", num_hidden_layers=2)
    ring = Ring.build(cut_model(tmp_path / "model", tmp_path / "parts"), [1], kv_tokens=2048, kv_dtype=kept)
    for number in range(40):
        ring.start(number, random_prompt(length, VOCABULARY, number), 3)
    most = [0, 0]
    while ring.turn():
        most = [max(before, runner.info().kv_held_bytes) for before, runner in zip(most, ring.runners, strict=True)]
    assert len(ring.finished) == 40 and not ring.faults
    for held, runner in zip(most, ring.runners, strict=True):
        assert 0.25 * runner.stage.kv_bytes < held <= runner.stage.kv_bytes


def test_a_state_stays_in_memory_when_the_disk_does_not_take_it(tmp_path: Path) -> None:
    make_model("llama", tmp_path / "model")
    (tmp_path / "aside").write_text("a file where the folder should be")
    executor = Executor(whole_stage(cut_model(tmp_path / "model", tmp_path / "parts")), tmp_path / "aside")
    driver = Driver(executor)
    prompt = random_prompt(20, VOCABULARY, 1)
    number, _ = driver.begin(prompt)
    executor.step(StepPlan((), torch.empty(0), aside=(number,)))
    found = driver.step(number, 20, [7])
    torch.testing.assert_close(found, driver.begin([*prompt, 7])[1], rtol=1e-4, atol=1e-4)  # other shapes: other sums


# --- over a ring ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["rows", "own", "recurrent", "rows in pages", "rows that grow", "windows", "an index"])
def test_a_prompt_that_begins_as_an_earlier_one_is_answered_as_if_it_came_first(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kinds as of TYPES; here rows that may grow are those of a sliding window."""
    if kind.endswith("in pages"):
        monkeypatch.setenv("SHARDBOARD_CAPTURED", "static")
    model = make_type(TYPES[kind], tmp_path / "model", 3)
    cut = cut_model(tmp_path / "model", tmp_path / "parts")
    ring = Ring.build(cut, cut.anatomy.cuts, prefill_chunk=16)
    assert all(runner.stage.static == kind.endswith("in pages") for runner in ring.runners)
    first = random_prompt(50, 190, 1)
    ring.start(1, first, 12)
    ring.finish()
    going_on = [*first, *ring.answer(1), *random_prompt(9, 190, 2)]
    other = [*first[:30], *random_prompt(20, 190, 3)]
    for number, prompt in ((2, going_on), (3, other), (4, going_on)):
        ring.start(number, prompt, 12)
        ring.finish()
        assert ring.answer(number) == greedy(model, prompt, 12), f"prompt {number}"
    assert not ring.faults
    # A recurrent state serves only what goes on from all of it, and so does a window that has moved on.
    cached = {1: 0, 2: 61, 3: 0, 4: 0} if kind in ("recurrent", "windows") else {1: 0, 2: 61, 3: 30, 4: 70}
    assert {number: ring.cached.get(number, 0) for number in range(1, 5)} == cached


def test_a_prompt_begins_as_one_that_is_under_way(tmp_path: Path) -> None:
    model = make_model("llama", tmp_path / "model")
    ring = Ring.build(cut_model(tmp_path / "model", tmp_path / "parts"), [3])
    first = random_prompt(40, VOCABULARY, 1)
    ring.start(1, first, 30)
    for _ in range(9):
        ring.turn()
    second = [*first, *random_prompt(3, VOCABULARY, 2)]
    ring.start(2, second, 12)
    ring.finish()
    assert ring.cached == {2: 40}
    assert ring.answer(1) == greedy(model, first, 30)
    assert ring.answer(2) == greedy(model, second, 12)


def test_chats_that_come_to_more_than_there_is_all_run_at_once_and_all_end(tmp_path: Path) -> None:
    """32 of them in a pool for four, none of which says how long its answer may be: some yield, nobody waits for
    another's end to begin, and each gets the tokens that it gets alone."""
    make_model("llama", tmp_path / "model", num_hidden_layers=2)
    cut = cut_model(tmp_path / "model", tmp_path / "parts")
    wide, ring = Ring.build(cut, []), Ring.build(cut, [1], kv_tokens=2048, max_context=512, block=32)
    prompts = {number: random_prompt(5 + number % 8, VOCABULARY, number) for number in range(32)}
    wishes = {number: Sampling(temperature=1.5, seed=number) for number in prompts}
    for number, prompt in prompts.items():
        wide.start(number, prompt, 90, wishes[number])
    wide.finish()
    answers: dict[int, list[int]] = {}
    for number, prompt in prompts.items():
        # The answer ends by a token that the model chooses, not by a limit: the one that comes last for the first time.
        answer = wide.answer(number)
        stop = max(set(answer), key=answer.index)
        answers[number] = answer[: answer.index(stop) + 1]
        ring.start(number, prompt, 512 - len(prompt), wishes[number], stops=(stop,))
    assert sum(len(prompt) + len(answers[number]) for number, prompt in prompts.items()) > 2048
    most = 0
    while ring.turn():
        most = max(most, ring.runners[0].info().sequences)
        assert not ring.finished or len(ring.tokens) == 32, "nobody waited for another's end"
    assert most == 32
    assert {number: ring.answer(number) for number in prompts} == answers
    yielded = {number for step in ring.steps for number in step.aside}
    assert yielded, "somebody had to"
    for number in {0, *sorted(yielded)[:3]}:
        wide.start(100 + number, prompts[number], len(answers[number]), wishes[number])
        wide.finish()
        assert wide.answer(100 + number) == answers[number], "what it gets alone"
    assert not ring.faults


@pytest.mark.parametrize("kind", ["rows", "own", "recurrent"])
def test_who_yields_goes_on_with_the_tokens_that_it_would_have_had(kind: str, tmp_path: Path) -> None:
    make = make_model if kind != "recurrent" else make_type
    model = make(TYPES[kind], tmp_path / "model")
    cut = cut_model(tmp_path / "model", tmp_path / "parts")
    ring = Ring.build(cut, [3], kv_tokens=256, max_context=200, prefill_chunk=32)
    prompts = {number: random_prompt(20 + 7 * number, 190, number) for number in range(4)}
    for number, prompt in prompts.items():
        ring.start(number, prompt, 100)
    ring.finish()
    assert not ring.faults
    assert any(step.aside for step in ring.steps), "somebody had to yield"
    for number, prompt in prompts.items():
        assert ring.answer(number) == greedy(model, prompt, 100), f"sequence {number}"
    for runner in ring.runners:
        assert runner.info().sequences == 0


@pytest.mark.parametrize("numbers", [{"dtype": "bfloat16"}, {"kv_dtype": "int8"}])
def test_what_rounds_goes_on_to_the_bit_after_it_yielded(numbers: dict[str, str], tmp_path: Path) -> None:
    """Its state was kept, not computed again, so not even rounding differs."""
    make_model("llama", tmp_path / "model")
    driver = Driver(
        Executor(whole_stage(cut_model(tmp_path / "model", tmp_path / "parts"), **numbers), tmp_path / "aside")
    )
    prompt = random_prompt(40, VOCABULARY, 1)
    undisturbed, _ = driver.begin(prompt)
    yields, _ = driver.begin(prompt)
    for token in random_prompt(12, VOCABULARY, 2):
        expected = driver.step(undisturbed, len(driver.given[undisturbed]), [token])
        driver.executor.step(StepPlan((), torch.empty(0), aside=(yields,)))
        assert torch.equal(driver.step(yields, len(driver.given[yields]), [token]), expected)

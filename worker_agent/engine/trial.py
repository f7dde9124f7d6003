"""The trial of a stage: short texts run in the way in which steps will come later, and as transformers runs them.

What is expected is transformers' own pass over each text as a whole, without a cache. What is tried has several texts
at once, prompts in pieces, answers token by token, caches that grow, and texts longer than a sliding window. Windows
are thousands of tokens wide, so for the trial they are made small: the code that minds them is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch

from worker_agent.engine.attention import Segment, filled_up, ragged_step
from worker_agent.engine.lockstep import Lockstep
from worker_agent.engine.memory.own import Int8Cache, OwnCache, OwnState, RoundedCache
from worker_agent.engine.memory.rows import Pair, RaggedCache, RowPool, RowState, from_int8, in_int8
from worker_agent.engine.memory.states import SequenceState
from worker_agent.engine.soundness import overflow
from worker_agent.engine.stage import Stage
from worker_agent.engine.static import StaticSteps
from worker_agent.model import rotary
from worker_agent.model.proof import TOLERANCES, difference
from worker_agent.model.slicing import FAULTS, Slice, describe
from worker_agent.wire.errors import AgentError, CannotSplit, NotFinite
from worker_agent.wire.messages import Reuse

TEXTS = (14, 8)
"""Tokens of each text of the trial. Few, since a trial costs as much as computing them four times over."""
ANSWER = 3
"""How many of them, at the end, come one by one."""
PIECES = (5, 3, 4)
"""In what sizes the others come, in turn."""
WINDOW = 5
"""Sliding windows are no wider in the trial."""
GROWTH = 4
"""Rows that grow by copying grow by so many tokens in the trial, so that they do so several times."""
COPIED = 3
"""Before this step of the trial states are copied, as for a prompt that begins as an earlier one did."""
_TIME_STEPS = "time_step_limit"
"""What modules call the range within which they keep the time steps of a prompt (Mamba's second kind)."""
_WINDOW_NAMES = ("sliding_window", "attention_chunk_size")


@dataclass(frozen=True)
class Texts:
    """What goes into a pass: for each text its token ids [tokens], or hidden states [tokens, hidden]."""

    rows: tuple[torch.Tensor, ...]

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(len(each) for each in self.rows)

    @property
    def joined(self) -> torch.Tensor | None:
        """All hidden states, end to end; None for token ids."""
        return torch.cat(self.rows) if self.rows[0].dim() == 2 else None


def make_texts(cut: Slice, device: torch.device, dtype: torch.dtype, seed: int = 7, *, hidden: bool = False) -> Texts:
    """Random tokens; on a later stage, or where that is wanted, random hidden states."""
    generator = torch.Generator().manual_seed(seed)
    anatomy = cut.anatomy
    rows = []
    for wanted in TEXTS:
        length = max(2, min(wanted, anatomy.max_context))
        if cut.is_first and not hidden:
            row = torch.randint(0, anatomy.vocab_size, (length,), generator=generator)
        else:
            row = torch.randn(length, anatomy.hidden_size, generator=generator).to(dtype)
        rows.append(row.to(device))
    return Texts(tuple(rows))


def steps(lengths: Sequence[int], *, in_pieces: bool = True) -> list[list[tuple[int, int, int]]]:
    """The steps of the trial: in each, the tokens `[start, end)` of some texts, as (text, start, end)."""
    done, plan, turn = [0] * len(lengths), [], 0
    prompts = [max(1, length - ANSWER) for length in lengths]
    while any(at < prompt for at, prompt in zip(done, prompts, strict=True)):
        step = []
        for text, (at, prompt) in enumerate(zip(done, prompts, strict=True)):
            if at >= prompt or text > turn:  # a text joins with each step
                continue
            end = min(prompt, at + PIECES[(turn + text) % len(PIECES)]) if in_pieces else prompt
            step.append((text, at, end))
            done[text] = end
        plan.append(step)
        turn += 1
    while any(at < length for at, length in zip(done, lengths, strict=True)):
        plan.append([(text, at, at + 1) for text, at in enumerate(done) if at < lengths[text]])
        done = [min(at + 1, length) for at, length in zip(done, lengths, strict=True)]
    return plan


Outputs = tuple[torch.Tensor, ...]
"""Of each text [tokens, hidden] or [tokens, vocabulary]."""


@torch.inference_mode()
def run_whole(cut: Slice, texts: Texts) -> Outputs:
    """Each text in one pass, as transformers does it; [tokens, hidden] or [tokens, vocabulary]."""
    outputs = []
    for row in texts.rows:
        places = torch.arange(len(row), device=row.device)
        outputs.append(cut.run(row[None], places[None], places, None)[0])
    return tuple(outputs)


class RoundedPool(RowPool):
    """Keys and values as they are computed, rounded to what they mean in int8: what rows in int8 are compared with."""

    def state(self, slot: int = -1) -> RowState:
        made = super().state(slot)
        return _RoundedState(self, made.slot)


class _RoundedState(RowState):
    def append(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> Pair:
        rounded = (from_int8(*in_int8(each), each.dtype) for each in (key, value))
        return super().append(layer, *rounded)

    def append_one(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> Pair:
        return self.append(layer, key[0], value[0])


def pool_for(texts: Texts, *, int8: bool = False, rounded: bool = False) -> RowPool:
    """Room for the texts of a trial, which must grow where it grows by copying."""
    kind = RoundedPool if rounded else RowPool
    return kind(2 * len(texts.rows), max(texts.lengths), growth=GROWTH, reserved=not rounded, int8=int8)


@torch.inference_mode()
def run_ragged(
    cut: Slice, texts: Texts, recording: Callable[..., torch.Tensor] | None = None, pool: RowPool | None = None,
    static: StaticSteps | None = None,
) -> Outputs:  # fmt: skip
    """All texts together, in pieces, then token by token; the same shapes as `run_whole`.

    Half way to the answer a text goes on from a copy of its state, as a prompt does that begins as an earlier one did.

    Args:
        pool: what keeps keys and values, and is closed here; else they are kept as they are computed.
        static: runs the steps that are of its shapes, over this pool.
    """
    pool = pool or pool_for(texts)
    states = [pool.state() for _ in texts.rows]
    outputs: list[list[torch.Tensor]] = [[] for _ in texts.rows]
    try:
        for number, step in enumerate(steps(texts.lengths)):
            if number == COPIED:
                for text, _, _ in step:
                    states[text] = _copied(states[text], pool.state())
            given = torch.cat([texts.rows[text][start:end] for text, start, end in step])
            if static is not None and static.takes([end - start for _, start, end in step]):
                found = static.run(given, [states[text] for text, _, _ in step])
                for (text, _, _), row in zip(step, found, strict=True):
                    outputs[text].append(row[None])
                continue
            positions = [place for _, start, end in step for place in range(start, end)]
            if cut.fills_up:
                given = filled_up(given, positions, len(positions) == len(step))
            places = torch.tensor([positions], device=given.device)
            segments, at = [], 0
            for text, start, end in step:
                segments.append(Segment(states[text], at, at + end - start))
                at += end - start
            with ragged_step(segments, many=2):
                rows = torch.arange(at, device=given.device)
                if recording is None:
                    output = cut.run(given[None], places, rows, RaggedCache())[0]
                else:
                    output = recording(given[None], places, rows)[0]
            for (text, _, _), segment in zip(step, segments, strict=True):
                outputs[text].append(output[segment.start : segment.end])
    finally:
        pool.close()
    return tuple(torch.cat(parts) for parts in outputs)


State = TypeVar("State", bound=SequenceState)


def _copied(state: State, empty: State) -> State:
    empty.copy_from(state, state.length)
    state.release()
    return empty


@torch.inference_mode()
def run_alone(
    cut: Slice, texts: Texts, owned: Sequence[int], *, in_pieces: bool, reuse: Reuse = "no",
    lockstep: Lockstep | None = None, last_alone: bool = False, kept: type[OwnCache] = OwnCache,
) -> Outputs:  # fmt: skip
    """One text after another with transformers' own cache; the same shapes as `run_whole`.

    Args:
        reuse: what is tried on the way: to go on from a copy, or from one that was cut back by a token.
        lockstep: goes through the texts of a step side by side.
        last_alone: of each text's tokens in a step, logits are wanted of the last one only.
        kept: how keys and values are kept.
    """
    lockstep = lockstep or Lockstep()
    config = cut.model.config
    states = [OwnState(config, owned, kept) for _ in texts.rows]
    outputs: list[list[torch.Tensor]] = [[] for _ in texts.rows]
    for step in steps(texts.lengths, in_pieces=in_pieces):
        passes = []
        for text, start, end in step:
            state = states[text]
            if reuse != "no" and end - start == 1 and start > 1:
                state = states[text] = _copied(state, OwnState(config, owned, kept))
                if reuse == "any":
                    state.truncate(start - 1)
                    _pass(cut, texts.rows[text][start - 1 : start], state)
            passes.append(partial(_pass, cut, texts.rows[text][start:end], state, last_alone=last_alone))
        for (text, _, _), output in zip(step, lockstep.run(passes), strict=True):
            outputs[text].append(output)
    for state in states:
        if isinstance(state.cache, Int8Cache):
            state.cache.check()
    return tuple(torch.cat(parts) for parts in outputs)


def _pass(cut: Slice, row: torch.Tensor, state: OwnState, *, last_alone: bool = False) -> torch.Tensor:
    """The next tokens of a sequence, alone."""
    wanted = torch.arange(len(row) - 1 if last_alone else 0, len(row), device=row.device)
    places = torch.arange(state.length, state.length + len(row), device=row.device)
    output = cut.run(row[None], places[None], wanted, state.cache)[0]
    state.length += len(row)
    return output


def expected(stage: Stage, texts: Texts, where: str) -> Outputs:
    """What transformers' own pass gives. Raises CannotSplit, NotFinite."""
    try:
        outputs = run_whole(stage.slice, texts)
    except FAULTS as error:
        raise CannotSplit(f"{where} cannot be run by itself ({describe(error)})") from error
    if not all(bool(torch.isfinite(output).all()) for output in outputs):
        raise NotFinite(overflow(where, stage.load.dtype))
    return outputs


def differs(
    stage: Stage,
    wanted: Outputs,
    run: Callable[[], Outputs],
    given: torch.Tensor | None,
    factor: float = 1.0,
) -> str:
    """Why what `run` gives is not what is wanted; empty if it is."""
    try:
        found = run()
    except (*FAULTS, AgentError) as error:
        return describe(error)
    return difference(torch.cat(wanted), torch.cat(found), stage.dtype, given, factor)


def int8_differs(stage: Stage, texts: Texts) -> str:
    """Why what stands connected gives something else with keys and values in int8 than with the numbers that these
    mean; empty if it does not."""
    rounded = partial(run_ragged, stage.slice, texts, pool=pool_for(texts, rounded=True))
    return _unlike(stage, texts, rounded, partial(run_ragged, stage.slice, texts, pool=pool_for(texts, int8=True)))


def own_int8_differs(stage: Stage, texts: Texts, block: range, reuse: Reuse, *, in_pieces: bool) -> str:
    """The same of sequences that have a pass of their own."""
    run = partial(run_alone, stage.slice, texts, block, in_pieces=in_pieces, reuse=reuse)
    return _unlike(stage, texts, partial(run, kept=RoundedCache), partial(run, kept=Int8Cache))


def _unlike(stage: Stage, texts: Texts, rounded: Callable[[], Outputs], in_int8: Callable[[], Outputs]) -> str:
    try:
        wanted = rounded()
    except (*FAULTS, AgentError) as error:
        return describe(error)
    return differs(stage, wanted, in_int8, texts.joined)


def measure_int8(stage: Stage, texts: Texts) -> None:
    """Have a stage tell how far what comes out with keys and values in int8 is from what comes out with them as they
    are computed, relative to its size (RMS)."""
    if stage.batched:
        exact = run_ragged(stage.slice, texts)
        found = run_ragged(stage.slice, texts, pool=pool_for(texts, int8=True))
    else:
        run = partial(run_alone, stage.slice, texts, range(stage.load.start, stage.load.end), in_pieces=stage.in_pieces)
        exact, found = run(), run(kept=Int8Cache)
    computed = torch.cat(exact).double()
    apart = (torch.cat(found).double() - computed).norm()
    stage.kv_error = float(apart / computed.norm().clamp_min(torch.finfo(torch.float64).tiny))
    what = "logits" if stage.is_last else "hidden states"
    stage.ways["kv_int8"].why = f"which changed its {what} by {100 * stage.kv_error:.2g} % of their size (RMS)"


def connect(cut: Slice, block: range, with_head: range | None) -> None:
    """Have passes run through a block of layers, and what stands behind them if it is proven `with_head`."""
    cut.connect(block.start, block.stop, head=block is with_head)


def connect_head(cut: Slice) -> None:
    """Have passes begin behind the layers."""
    cut.place()
    cut.connect(cut.end - 1, cut.end, head=True, inside=True)


def whole_factor(stage: Stage) -> float:
    """How many times the difference of one layer all of a stage's may come to."""
    # Differences of layers add up, and grow on their way; what would be wrong here is wrong altogether.
    return min(6.0 * (stage.load.end - stage.load.start + 1), 0.5 / TOLERANCES[stage.dtype].spread)


def named(block: range) -> str:
    return f"layer {block.start}" if len(block) == 1 else f"layers {block.start}-{block.stop - 1}"


@contextmanager
def trial_of(cut: Slice) -> Iterator[bool]:
    """Within this block windows are small, and rotary embeddings take every text to be equally long; gives whether
    any window is smaller than it is.

    (What depends on a text's length would differ between a text as a whole and one that grows, as it does in
    transformers; `rotary.py` gives each sequence what is its own.)
    """
    config = cut.model.config
    configs = {id(each): each for each in (config, config.get_text_config(decoder=True))}
    # A window as wide as the context is never seen, whatever the layers do with it.
    narrowed = range(WINDOW + 1, cut.anatomy.max_context)
    changed = [
        (each, name, value) for each in configs.values() for name, value in _windows(each) if value in narrowed
    ]  # fmt: skip
    # The slice's layers may stand in the model now, or wait outside; one may be made anew in the meantime.
    parts: dict[int | None, torch.nn.Module] = {index: layer for index, layer in cut.own.items()}
    parts[None] = cut.model
    inside = [
        (index, path, name, value)
        for index, part in parts.items()
        for path, module in part.named_modules()
        for name, value in _windows(module)
        if value in narrowed
    ]
    for holder, name, _ in changed:
        setattr(holder, name, WINDOW)
    for index, path, name, _ in inside:
        setattr(parts[index].get_submodule(path), name, WINDOW)
    try:
        with rotary.one_length(max(TEXTS)):
            yield bool(changed or inside)
    finally:
        for holder, name, value in changed:
            setattr(holder, name, value)
        for index, path, name, value in inside:
            part = cut.model if index is None else cut.own.get(index)
            module = dict(part.named_modules()).get(path) if part is not None else None
            if module is not None and name in vars(module):
                setattr(module, name, value)


def bounds_time_steps(cut: Slice, block: range) -> bool:
    """Whether layers of a block keep the time steps of a prompt within a range, and not those of the tokens that come
    one by one after it."""
    return bool(_bounded(module for index in block for module in cut.own[index].modules()))


def _bounded(modules: Iterable[torch.nn.Module]) -> list[tuple[torch.nn.Module, tuple[float, float]]]:
    found = [(module, vars(module)[_TIME_STEPS]) for module in modules if _TIME_STEPS in vars(module)]
    return [(module, limits) for module, limits in found if tuple(limits) != (0.0, math.inf)]


@contextmanager
def time_steps_unbounded(cut: Slice) -> Iterator[bool]:
    """Within this block time steps are not kept within a range; gives whether any were.

    transformers bounds those of a prompt, and not those of the tokens that come one by one after it: an answer goes on
    so there, and here as well, but nothing that goes on token by token is then as a text is as a whole.
    """
    bounded = _bounded(module for layer in cut.own.values() for module in layer.modules())
    for module, _ in bounded:
        setattr(module, _TIME_STEPS, (0.0, math.inf))
    try:
        yield bool(bounded)
    finally:
        for module, limits in bounded:
            setattr(module, _TIME_STEPS, limits)


def _windows(holder: object) -> list[tuple[str, int]]:
    """The windows that a config or a module knows of."""
    found = ((name, vars(holder).get(name)) for name in _WINDOW_NAMES)
    return [(name, value) for name, value in found if isinstance(value, int) and not isinstance(value, bool)]

"""The trial of a stage: short texts run in the way in which steps will come later, and as transformers runs them.

What is expected is transformers' own pass over each text as a whole, without a cache. What is tried has several texts
at once, prompts in pieces, answers token by token, caches that grow, and texts longer than a sliding window. Windows
are thousands of tokens wide, so for the trial they are made small: the code that minds them is the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from worker_agent.engine.attention import Piece, ragged_step
from worker_agent.engine.memory.caches import OwnCache, RaggedCache, RowCache
from worker_agent.model import rotary
from worker_agent.model.slicing import Slice

TEXTS = (14, 8)
"""Tokens of each text of the trial. Few, since a trial costs as much as computing them four times over."""
ANSWER = 3
"""How many of them, at the end, come one by one."""
PIECES = (5, 3, 4)
"""In what sizes the others come, in turn."""
WINDOW = 5
"""Sliding windows are no wider in the trial."""
GROWTH = 4
"""Caches grow by so many tokens in the trial, so that they grow several times."""
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


@torch.inference_mode()
def run_whole(cut: Slice, texts: Texts) -> tuple[torch.Tensor, ...]:
    """Each text in one pass, as transformers does it; [tokens, hidden] or [tokens, vocabulary]."""
    outputs = []
    for row in texts.rows:
        places = torch.arange(len(row), device=row.device)
        outputs.append(cut.run(row[None], places[None], places, None)[0])
    return tuple(outputs)


@torch.inference_mode()
def run_ragged(
    cut: Slice, texts: Texts, recording: Callable[..., torch.Tensor] | None = None
) -> tuple[torch.Tensor, ...]:
    """All texts together, in pieces, then token by token; the same shapes as `run_whole`."""
    caches = [RowCache(length, GROWTH) for length in texts.lengths]
    outputs: list[list[torch.Tensor]] = [[] for _ in texts.rows]
    for step in steps(texts.lengths):
        given = torch.cat([texts.rows[text][start:end] for text, start, end in step])
        positions = [place for _, start, end in step for place in range(start, end)]
        places = torch.tensor([positions], device=given.device)
        pieces, at = [], 0
        for text, start, end in step:
            pieces.append(Piece(caches[text], at, at + end - start))
            at += end - start
        with ragged_step(pieces):
            rows = torch.arange(at, device=given.device)
            if recording is None:
                output = cut.run(given[None], places, rows, RaggedCache())[0]
            else:
                output = recording(given[None], places, rows)[0]
        for (text, _, _), piece in zip(step, pieces, strict=True):
            outputs[text].append(output[piece.start : piece.end])
    return tuple(torch.cat(parts) for parts in outputs)


@torch.inference_mode()
def run_alone(cut: Slice, texts: Texts, owned: Sequence[int], *, in_pieces: bool) -> tuple[torch.Tensor, ...]:
    """One text after another with transformers' own cache; the same shapes as `run_whole`."""
    caches = [OwnCache(cut.model.config, owned) for _ in texts.rows]
    outputs: list[list[torch.Tensor]] = [[] for _ in texts.rows]
    for step in steps(texts.lengths, in_pieces=in_pieces):
        for text, start, end in step:
            row = texts.rows[text][start:end]
            places = torch.arange(start, end, device=row.device)
            outputs[text].append(
                cut.run(row[None], places[None], torch.arange(end - start, device=row.device), caches[text])[0]
            )
            caches[text].length += end - start
    return tuple(torch.cat(parts) for parts in outputs)


@contextmanager
def trial_of(cut: Slice) -> Iterator[None]:
    """Within this block windows are small, and rotary embeddings take every text to be equally long.

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
            yield
    finally:
        for holder, name, value in changed:
            setattr(holder, name, value)
        for index, path, name, value in inside:
            part = cut.model if index is None else cut.own.get(index)
            module = dict(part.named_modules()).get(path) if part is not None else None
            if module is not None and name in vars(module):
                setattr(module, name, value)


@contextmanager
def time_steps_unbounded(cut: Slice) -> Iterator[bool]:
    """Within this block time steps are not kept within a range; gives whether any were.

    transformers bounds those of a prompt, and not those of the tokens that come one by one after it: an answer goes on
    so there, and here as well, but nothing that goes on token by token is then as a text is as a whole.
    """
    modules = [module for layer in cut.own.values() for module in layer.modules()]
    bounded = [(module, vars(module)[_TIME_STEPS]) for module in modules if _TIME_STEPS in vars(module)]
    bounded = [(module, limits) for module, limits in bounded if tuple(limits) != (0.0, math.inf)]
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

"""Whether a model answers, cut over one, two and three uneven stages, as transformers' own `generate` does.

The measure is the whole model as transformers loads it, greedy, in float32: each answer's tokens, and the log
probabilities of the likeliest at each of them, so that a small difference is seen before it turns a token. Prompts
come in chunks and together, and one comes alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedModel

from app.errors import ModelError
from app.models.inspect_process import InspectRequest, inspect
from tests.worker_agent.causal_types import VOCABULARY, make_model
from tests.worker_agent.references import identity, kept
from tests.worker_agent.ring import CutModel, Ring, cut_model, random_prompt
from worker_agent.wire.errors import AgentError, CannotSplit
from worker_agent.wire.messages import Sampling

PROMPTS = [random_prompt(length, VOCABULARY, seed) for seed, length in enumerate((1, 5, 23, 60))]
ANSWER = 12
CHUNK = 16
"""Tokens of a prompt in a step: longer than the models' windows, shorter than the longer prompts."""
TOP = 3
TOLERANCE = 5e-3
"""Largest difference of log probabilities that the order of float32 sums makes."""

Kind = Literal["exact", "refused", "failed", "wrong"]
Way = Literal["batched", "lockstep", "alone", "whole prompts only", ""]


@dataclass(frozen=True)
class Verdict:
    """What became of one type."""

    kind: Kind
    way: Way = ""
    """How its stages run, where they are exact."""
    why: str = ""
    """The reason, where they are not; else where the model may not be cut."""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.kind, self.way))) + (f": {self.why}" if self.why else "")


@dataclass(frozen=True)
class Answer:
    """An answer's tokens, and for each the likeliest tokens' log probabilities."""

    tokens: list[int]
    top: list[list[float]]


def judge(model_type: str, folder: Path, *, thorough: bool = True) -> Verdict:
    """Make a tiny model of a type in an empty folder, run it cut, and say how its answers compare.

    Where it need not be thorough, it is run over two stages (or one, if it cannot be cut), and one prompt alone.
    """
    try:
        model = make_model(model_type, folder / "model")
        expected = [reference(model, prompt) for prompt in PROMPTS]
    except Exception as error:
        # Whatever stops transformers itself from answering is the verdict, not this program's fault.
        return _without_reference(folder, f"transformers itself: {_said(error)}")
    try:
        if thorough:
            inspect(InspectRequest("tiny", str(folder / "model"), "folder", ""), lambda progress: None)
        cut = cut_model(folder / "model", folder / "parts")
    except (ModelError, CannotSplit) as error:
        return Verdict("refused", "", _said(error))
    ways: set[Way] = set()
    troubles: list[Verdict] = []
    for boundaries in _boundaries(cut) if thorough else _boundaries(cut)[:2][-1:]:
        try:
            ring = Ring.build(cut, boundaries, prefill_chunk=CHUNK)
        except CannotSplit as error:
            return Verdict("refused", "", f"cut at {boundaries}: {_said(error)}")
        except AgentError as error:
            return Verdict("failed", "", f"cut at {boundaries}: {_said(error)}")
        ways.add(_way(ring))
        troubles += [
            Verdict(each.kind, "", f"cut at {boundaries}: {each.why}") for each in _compare(ring, expected, thorough)
        ]
    if troubles:
        kind: Kind = "wrong" if any(each.kind == "wrong" for each in troubles) else "failed"
        return Verdict(kind, "", "; ".join(dict.fromkeys(each.why for each in troubles if each.kind == kind)))
    way: Way = next(way for way in ("whole prompts only", "alone", "lockstep", "batched") if way in ways)  # type: ignore[assignment]
    return Verdict("exact", way, "; ".join(cut.anatomy.cut_notes))


def reference(model: PreTrainedModel, prompt: list[int], count: int = ANSWER) -> Answer:
    """What transformers' own generate answers."""

    def generated() -> tuple[list[int], list[list[float]]]:
        tokens = torch.tensor([prompt])
        with torch.no_grad():
            made = model.generate(
                tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=count, do_sample=False,
                eos_token_id=None, pad_token_id=0, output_logits=True, return_dict_in_generate=True,
            )  # fmt: skip
        rows = [torch.log_softmax(logits[0].float(), dim=-1) for logits in made.logits]
        return made.sequences[0, len(prompt) :].tolist(), [row.topk(TOP).values.tolist() for row in rows]

    return Answer(*kept(["reference", identity(model), prompt, count, TOP], generated))


def _without_reference(folder: Path, why: str) -> Verdict:
    if (folder / "model" / "config.json").exists():
        try:
            inspect(InspectRequest("tiny", str(folder / "model"), "folder", ""), lambda progress: None)
        except ModelError as error:
            return Verdict("refused", "", f"{_said(error)} ({why})")
        return Verdict("failed", "", f"{why} (but it can be added)")
    return Verdict("failed", "", why)


def _boundaries(cut: CutModel) -> list[list[int]]:
    """One, two and three uneven stages, as far as the model may be cut so."""
    cuts, layers = cut.anatomy.cuts, cut.anatomy.num_layers
    if not cuts:
        return [[]]
    first = min(cuts, key=lambda each: abs(each - 2))
    pair = [min(cuts, key=lambda each: abs(each - wanted)) for wanted in (1, max(2, layers - 2))]
    return [[], [first], pair] if pair[0] < pair[1] else [[], [first]]


def _way(ring: Ring) -> Way:
    stages = [runner.stage for runner in ring.runners]
    if not all(stage.in_pieces for stage in stages):
        return "whole prompts only"
    if all(stage.batched for stage in stages):
        return "batched"
    tallies = [stage.ways["lockstep"] for stage in stages if not stage.batched]
    return "lockstep" if all(tally.taken == tally.possible for tally in tallies) else "alone"


def _compare(ring: Ring, expected: list[Answer], thorough: bool) -> list[Verdict]:
    """All prompts at once, then each alone (or the one before the longest); what is wrong."""
    sampling = Sampling(logprobs=TOP)
    for number, prompt in enumerate(PROMPTS):
        ring.start(number, prompt, ANSWER, sampling)
    ring.finish()
    troubles = []
    for number, answer in enumerate(expected):
        if (found := _differs(ring, number, answer)) is not None:
            troubles.append(Verdict(found.kind, "", f"{len(PROMPTS[number])} tokens beside others: {found.why}"))
    for number, prompt in enumerate(PROMPTS):
        if not thorough and number != len(PROMPTS) - 2:
            continue
        if ring.faults:
            ring.faults.clear()
            ring.link()
        ring.start(100 + number, prompt, ANSWER, sampling)
        ring.finish()
        if (found := _differs(ring, 100 + number, expected[number])) is not None:
            troubles.append(Verdict(found.kind, "", f"{len(prompt)} tokens alone: {found.why}"))
    return troubles


def _differs(ring: Ring, number: int, answer: Answer) -> Verdict | None:
    if ring.faults:
        return Verdict("failed", "", ring.faults[0].message[:300])
    tokens = ring.answer(number)
    if len(tokens) < len(answer.tokens):
        return Verdict("failed", "", "the answer does not end")
    if tokens != answer.tokens:
        same = next((i for i, (a, b) in enumerate(zip(tokens, answer.tokens, strict=False)) if a != b), len(tokens))
        return Verdict("wrong", "", f"other tokens from number {same} of the answer on")
    for place, (token, top) in enumerate(zip(ring.tokens[number], answer.top, strict=True)):
        off = max(abs(found.logprob - other) for found, other in zip(token.top, top, strict=True))
        if off > TOLERANCE:
            return Verdict("wrong", "", f"log probabilities differ by {off:.2g} at number {place} of the answer")
    return None


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:400]

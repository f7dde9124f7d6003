"""What a model's numbers cost, in two figures: how well it predicts a text, and how often it says the same.

**Perplexity**: the text (`texts/`) is cut into windows of so many tokens, each of which is computed by itself; the
exponential of the mean surprise of all tokens that have one before them.

**Greedy tokens**: a reference goes on from some passages of the text, always with the likeliest token. The other model
reads the same passages with these answers, and it is counted where it finds the same token likeliest. So every token is
asked for in the same place: of answers that are generated side by side all tokens differ behind the first that does.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from app.errors import ModelError, RequestError, ShardboardError
from app.inference.parameters import NEUTRAL, GenerationParameters
from app.inference.prompt import TokenPrompt
from app.inference.request_run import RequestRun
from app.inference.service import InferenceService
from app.inference.tokenizer import Tokenizer
from app.registry import DeploymentRecord, RequestStatus
from app.runs.trace import Origin

TEXTS = Path(__file__).parent / "texts"
TEXT = "plain-english-1"
"""The name of the text. Another text needs another name: figures of two texts cannot be compared."""

WINDOW = 512
MOST_TOKENS = 5 * WINDOW
"""Of a text that a model reads in more tokens, as those do that read bytes, the beginning is taken."""
PASSAGES = 8
PASSAGE_TOKENS = 64
ANSWER_TOKENS = 64

GREEDY = GenerationParameters.from_json({**NEUTRAL, "ignore_eos": True})
"""Whatever the model's own files ask for."""

OnTokens = Callable[[int, int], None]
"""Told how many tokens are done, and of how many."""


@dataclass(frozen=True)
class Passages:
    """A text as a model's tokens, ready to be measured with."""

    beginning: tuple[int, ...]
    """What the tokenizer puts before every text; part of each window and passage."""
    windows: tuple[tuple[int, ...], ...]
    """To be predicted."""
    openings: tuple[tuple[int, ...], ...]
    """To go on from."""

    @property
    def context(self) -> int:
        """Tokens that a sequence has to have room for."""
        return max(*(len(window) + 1 for window in self.windows), len(self.openings[0]) + ANSWER_TOKENS + 1)

    @property
    def window_tokens(self) -> int:
        return sum(map(len, self.windows))

    @property
    def greedy_tokens(self) -> int:
        return len(self.openings) * ANSWER_TOKENS


def read_text(name: str = TEXT) -> str:
    """A text by its name. Blocks."""
    return (TEXTS / f"{name}.txt").read_text("utf-8")


def cut_up(text: str, tokenizer: Tokenizer, max_context: int) -> Passages:
    """Windows and openings of a text for a model that reads so many tokens at most.

    Raises:
        ModelError: it reads too few.
    """
    beginning = _beginning(tokenizer)
    tokens = tuple(tokenizer.encode(text, add_special_tokens=False)[:MOST_TOKENS])
    least = len(beginning) + PASSAGE_TOKENS + ANSWER_TOKENS + 1
    if max_context < least:
        raise ModelError(
            f"The model reads {max_context} tokens at most, and what it costs is measured with sequences of {least}.",
            "There is nothing to be done about that.",
        )
    step = min(WINDOW, max_context - 1 - len(beginning))
    windows = tuple(beginning + tokens[start : start + step] for start in range(0, len(tokens), step))
    apart = max(1, (len(tokens) - PASSAGE_TOKENS) // PASSAGES)
    starts = range(0, apart * PASSAGES, apart)
    openings = tuple(beginning + tokens[start : start + PASSAGE_TOKENS] for start in starts)
    return Passages(beginning, tuple(window for window in windows if len(window) > 1), openings)


def _beginning(tokenizer: Tokenizer) -> tuple[int, ...]:
    """What a tokenizer puts before a text: nothing, or a token that marks the beginning."""
    plain, whole = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
    return tuple(whole[: next((at for at in range(len(whole)) if whole[at : at + len(plain)] == plain), 0)])


@dataclass(frozen=True)
class Surprise:
    """Of the text's tokens, all together."""

    tokens: int
    nats: float

    @property
    def perplexity(self) -> float:
        """Finite in any case: a registry and JSON have no infinity."""
        return math.exp(min(self.nats / self.tokens, 700.0))


class Measuring:
    """Asks one deployment. What it asks are requests like all others, and stand among the runs.

    Args:
        on_tokens: told of each window and each answer.
    """

    def __init__(
        self, inference: InferenceService, deployment: DeploymentRecord, passages: Passages, origin: Origin,
        on_tokens: OnTokens,
    ) -> None:  # fmt: skip
        self._inference, self._deployment, self._passages = inference, deployment, passages
        self._origin, self._on_tokens = origin, on_tokens
        self._done, self._total = 0, passages.window_tokens + passages.greedy_tokens

    async def surprise(self) -> Surprise:
        """How well the text is predicted."""
        surprise, skipped = Surprise(0, 0.0), max(1, len(self._passages.beginning))
        for window in self._passages.windows:
            (run,) = await self._ask([window], replace(GREEDY, max_tokens=1, prompt_logprobs=0))
            scores = [scored.logprob for scored in run.prompt_logprobs[skipped:] if scored is not None]
            if len(scores) != len(window) - skipped:
                raise RequestError(f"Request {run.id} brought {len(scores)} scores for {len(window)} tokens.")
            surprise = Surprise(surprise.tokens + len(scores), surprise.nats - sum(scores))
            self._count(len(window))
        return surprise

    async def answers(self) -> tuple[tuple[int, ...], ...]:
        """How it goes on from each opening, always with the likeliest token."""
        runs = await self._ask(self._passages.openings, replace(GREEDY, max_tokens=ANSWER_TOKENS))
        self._count(self._passages.greedy_tokens)
        return tuple(tuple(run.token_ids) for run in runs)

    async def agreements(self, answers: Sequence[Sequence[int]]) -> int:
        """How many tokens of a reference's answers it finds likeliest in their places itself."""
        same = 0
        for opening, answer in zip(self._passages.openings, answers, strict=True):
            (run,) = await self._ask([(*opening, *answer)], replace(GREEDY, max_tokens=1, prompt_logprobs=1))
            scored = run.prompt_logprobs[len(opening) :]
            likeliest = [None if each is None else each.top[0][0] for each in scored]
            same += sum(token == other for token, other in zip(answer, likeliest, strict=True))
            self._count(len(answer))
        return same

    async def _ask(self, prompts: Sequence[Sequence[int]], parameters: GenerationParameters) -> list[RequestRun]:
        """All at once, until all are over. Raises what one failed with; the others end with it."""
        runs: list[RequestRun] = []
        try:
            for prompt in prompts:
                runs.append(
                    await self._inference.submit(
                        self._deployment.model_name, TokenPrompt(tuple(prompt)), parameters,
                        origin=self._origin, deployment=self._deployment.id, apart=True,
                    )
                )  # fmt: skip
            for run in runs:
                record = await run.wait()
                if record.status is not RequestStatus.COMPLETED:
                    raise run.error or ShardboardError(f"Request {run.id} was ended: {record.error}")
        finally:
            for run in runs:
                await run.cancel()
        return runs

    def _count(self, tokens: int) -> None:
        self._done += tokens
        self._on_tokens(self._done, self._total)

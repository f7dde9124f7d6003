"""Logits to a token: a pure function of (logits, parameters, seed, position), so that a replay continues alike.

Order of processing: logit bias, ends held back until `min_tokens`, repetition, presence and frequency penalties, what
may not come (suppressed tokens, repeated n-grams, bad words), the grammar, temperature, top-k, top-p, min-p, typical-p,
epsilon and eta cutoffs: that of transformers' `generate`, whose logits processors these are. Repetition and n-grams
look at prompt and answer (as transformers does), presence and frequency at the answer alone (as the OpenAI API does).
Reported log probabilities are those of the unprocessed logits.

Nothing is chosen from logits that are no numbers: the likeliest of them would be token 0, for ever.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch

from worker_agent.engine.grammars import Follower, Grammars
from worker_agent.wire.errors import NotFinite
from worker_agent.wire.messages import Admission, Finish, Piece, Sampling, Scored, ScoredToken, Token, TopToken


@dataclass
class Sampler:
    """What sampling must remember of one sequence."""

    admission: Admission
    generated: Counter[int] = field(default_factory=Counter)
    """How often each token stands in the answer so far."""
    seen: set[int] = field(default_factory=set)
    """Tokens of prompt and answer, for the repetition penalty."""
    follower: Follower | None = None
    """The way through the grammar that the answer has to follow."""
    history: list[int] = field(default_factory=list)
    """Prompt and answer in order, where what may not come again depends on that."""

    def __post_init__(self) -> None:
        tokens = self.admission.tokens
        self.history.extend(tokens if self.sampling.needs_order else ())
        self.seen.update(tokens)
        self.generated.update(tokens[self.admission.prompt_tokens :])
        if self.follower is not None:
            for token in tokens[self.admission.prompt_tokens :]:
                self.follower.took(token)

    @property
    def sampling(self) -> Sampling:
        return self.admission.sampling

    def token(self, sequence: int, position: int, logits: torch.Tensor) -> Token:
        """Choose token number `position` of a sequence from its logits [vocabulary]. Raises NotFinite."""
        sampling, budget = self.sampling, self.admission.budget
        check_finite(logits, f"token {position}")
        count = position - self.admission.prompt_tokens  # tokens generated before this one
        scores = self._allowed(self._penalized(logits, count), logits)
        if float(scores.max()) == -math.inf:
            return Token(sequence, position, 0, "barred")
        chosen = int(scores.argmax()) if sampling.temperature == 0 else draw(scores, sampling, position)
        self.generated[chosen] += 1
        self.seen.add(chosen)
        if sampling.needs_order:
            self.history.append(chosen)
        finish: Finish = ""
        if (chosen in budget.eos or chosen in budget.stops) and count >= budget.min_tokens:
            finish = "eos"
        elif self.follower is not None and (ended := self._followed(chosen)):
            finish = ended
        elif count + 1 >= budget.max_tokens:
            finish = "length"
        logprob, top = (None, ()) if sampling.logprobs < 0 else likelihoods(logits, chosen, sampling.logprobs)
        return Token(sequence, position, chosen, finish, logprob, top)

    def prompt_scores(self, position: int, logits: torch.Tensor) -> tuple[ScoredToken, ...]:
        """Log probabilities of the prompt's tokens from `position` on; logits [tokens, vocabulary] of those before.

        What comes after the prompt has no say: the last row is left out when it is of the first generated token.
        Raises NotFinite.
        """
        for row, logit in enumerate(logits):
            check_finite(logit, f"token {position + row}")
        tokens = self.admission.tokens[position : min(position + len(logits), self.admission.prompt_tokens)]
        found = (
            likelihoods(row, token, self.sampling.prompt_logprobs) for row, token in zip(logits, tokens, strict=False)
        )
        return tuple(ScoredToken(token, logprob, top) for token, (logprob, top) in zip(tokens, found, strict=True))

    def _allowed(self, scores: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Only what the grammar allows. It goes before an end of text that is held back: else nothing might be left."""
        if self.follower is None or self.follower.failure:
            return scores
        narrowed = self.follower.narrow(scores)
        return narrowed if bool(torch.isfinite(narrowed).any()) else self.follower.narrow(logits.float())

    def _followed(self, chosen: int) -> Finish:
        """Go on in the grammar; how the answer ends by that, if it does."""
        assert self.follower is not None
        self.follower.took(chosen)
        if self.follower.failure:
            return "constraint"
        return "eos" if self.follower.is_complete else ""

    def _penalized(self, logits: torch.Tensor, count: int) -> torch.Tensor:
        sampling = self.sampling
        scores = logits.float()
        barred = set(self._barred(count))
        plain = sampling.repetition_penalty == 1 and not sampling.presence_penalty and not sampling.frequency_penalty
        if plain and not sampling.logit_bias and not barred:
            return scores
        scores = scores.clone()
        if sampling.logit_bias:
            ids = torch.tensor([token for token in sampling.logit_bias if token < len(scores)], device=scores.device)
            bias = [value for token, value in sampling.logit_bias.items() if token < len(scores)]
            scores[ids] += torch.tensor(bias, dtype=scores.dtype, device=scores.device)
        if sampling.repetition_penalty != 1 and self.seen:
            ids = torch.tensor(sorted(self.seen), device=scores.device)
            picked = scores[ids]
            penalty = sampling.repetition_penalty
            scores[ids] = torch.where(picked < 0, picked * penalty, picked / penalty)
        if (sampling.presence_penalty or sampling.frequency_penalty) and self.generated:
            ids = torch.tensor(list(self.generated), device=scores.device)
            counts = torch.tensor(list(self.generated.values()), dtype=torch.float32, device=scores.device)
            scores[ids] -= sampling.presence_penalty + sampling.frequency_penalty * counts
        if barred := {token for token in barred if token < len(scores)}:
            scores[torch.tensor(sorted(barred), device=scores.device)] = -torch.inf
        return scores

    def _barred(self, count: int) -> Iterator[int]:
        """Tokens that may not come now, `count` tokens after the prompt."""
        sampling, budget = self.sampling, self.admission.budget
        if count < budget.min_tokens:
            yield from (*budget.eos, *budget.stops)
        yield from sampling.suppress_tokens
        if count == 0:
            yield from sampling.begin_suppress_tokens
        if sampling.no_repeat_ngram_size:
            yield from repeating(self.history, sampling.no_repeat_ngram_size)
        for word in sampling.bad_words_ids:
            before = list(word[:-1])
            if len(word) <= len(self.history) + 1 and self.history[len(self.history) - len(before) :] == before:
                yield word[-1]


@dataclass(frozen=True)
class Chosen:
    """What a step has brought on the last stage; the fields are those of `Tokens`."""

    tokens: tuple[Token, ...]
    prefilled: tuple[tuple[int, int], ...]
    scored: tuple[Scored, ...]
    lost: tuple[tuple[int, str], ...]
    """Sequences whose logits are no numbers, and what is wrong with them."""


class Samplers:
    """Those of all sequences on the last stage of a deployment."""

    def __init__(self, deployment: str, grammars: Grammars) -> None:
        self._deployment, self._grammars = deployment, grammars
        self._samplers: dict[int, Sampler] = {}

    def begin(self, pieces: Iterable[Piece]) -> None:
        """Make the samplers of sequences that begin with these pieces, or go on with them after a stage was lost.

        One that goes on may have been further here: its sampler is made anew from the tokens that are certain.
        """
        for piece in pieces:
            if (admission := piece.admission) is not None:
                name, follower = admission.sampling.constraint, None
                if name is not None:
                    follower = self._grammars.follower(self._deployment, name, admission.budget.eos)
                self._samplers[piece.sequence] = Sampler(admission, follower=follower)

    def forget(self, sequence: int) -> None:
        self._samplers.pop(sequence, None)

    def clear(self) -> None:
        self._samplers.clear()

    def wanted(self, piece: Piece) -> range:
        """After which of a piece's tokens, counted from 0, logits are wanted."""
        scores = self._scores(piece)
        return range(0 if scores else piece.count - 1, piece.count if piece.sample or scores else 0)

    def choose(self, pieces: Iterable[Piece], logits: torch.Tensor, unsound: Container[int]) -> Chosen:
        """Sample and score what a step's pieces want.

        Args:
            logits: [wanted of all pieces, vocabulary].
            unsound: sequences whose numbers are known to be none any more.
        """
        tokens: list[Token] = []
        prefilled: list[tuple[int, int]] = []
        scored: list[Scored] = []
        lost: list[tuple[int, str]] = []
        at = 0
        for piece in pieces:
            end = piece.position + piece.count
            sampler = self._samplers[piece.sequence]
            wanted = logits[at : at + len(self.wanted(piece))]
            at += len(wanted)
            if piece.sequence in unsound:
                if piece.sample:
                    tokens.append(Token(piece.sequence, end, 0, "numbers"))
                continue
            try:
                if self._scores(piece):
                    scores = sampler.prompt_scores(piece.position + 1, wanted)
                    scored.append(Scored(piece.sequence, piece.position + 1, scores))
                if piece.sample:
                    tokens.append(sampler.token(piece.sequence, end, wanted[-1]))
            except NotFinite as error:
                lost.append((piece.sequence, str(error)))
                if piece.sample:
                    tokens.append(Token(piece.sequence, end, 0, "numbers"))
            if not piece.sample:
                prefilled.append((piece.sequence, end))
        return Chosen(tuple(tokens), tuple(prefilled), tuple(scored), tuple(lost))

    def _scores(self, piece: Piece) -> bool:
        """Whether the log probabilities of a piece of a prompt are wanted here."""
        sampler = self._samplers.get(piece.sequence)
        if sampler is None or sampler.sampling.prompt_logprobs < 0:
            return False
        return piece.position + 1 < sampler.admission.prompt_tokens


def check_finite(logits: torch.Tensor, what: str) -> None:
    """Raises NotFinite unless the likeliest of some logits [vocabulary] is a finite number.

    Its logit is NaN when any is, infinite when any is; minus infinity, only when all are, which leaves nothing to
    choose. A single one at minus infinity is how a model rules a token out.
    """
    largest = float(logits.max())
    if not math.isfinite(largest):
        found = {math.inf: "infinite", -math.inf: "all minus infinity"}.get(largest, "NaN")
        raise NotFinite(f"numbers stopped being finite: the logits of {what} are {found}")


def repeating(history: list[int], size: int) -> Iterable[int]:
    """Tokens that would make the last `size` tokens a sequence that was there before.

    transformers' NoRepeatNGramLogitsProcessor.
    """
    start = len(history) - size + 1
    if start < 1:
        return ()
    suffix = history[start:]
    return (history[at + size - 1] for at in range(start) if history[at : at + size - 1] == suffix)


def draw(scores: torch.Tensor, sampling: Sampling, position: int) -> int:
    """Draw a token from processed scores [vocabulary]; the random numbers belong to (seed, position) alone.

    Each token that stays waits for a time that is distributed by its share, and the first to come is drawn: the same
    shares as by one random number along the sum of all, and where scores differ in their last bits, as they do when the
    same tokens went through in other steps, only two that come at nearly the same time can change places.
    """
    ranked, order = torch.sort(_heated(scores, sampling.temperature), descending=True, stable=True)
    if 0 < sampling.top_k < len(ranked):
        ranked = ranked[: int((ranked >= ranked[sampling.top_k - 1]).sum())]  # as likely as the k-th: it stays, too
    # In float64 and on the CPU, so that the sum does not depend on the device's order of additions.
    likely = torch.softmax(ranked.double().cpu(), dim=0)
    if sampling.top_p < 1:
        before = likely.cumsum(0) - likely
        likely = likely[: max(1, int((before < sampling.top_p).sum()))]
    if sampling.min_p > 0:
        likely = likely[: max(1, int((likely >= sampling.min_p * likely[0]).sum()))]
    places = torch.arange(len(likely))
    if sampling.typical_p < 1:
        places = places[_typical(likely[places], sampling.typical_p)]
    if sampling.epsilon_cutoff > 0:
        places = places[_above(likely[places], sampling.epsilon_cutoff)]
    if sampling.eta_cutoff > 0:
        shares = likely[places] / likely[places].sum()
        spread = math.exp(float(torch.special.entr(shares).sum().neg()))
        cutoff = min(sampling.eta_cutoff, math.sqrt(sampling.eta_cutoff) * spread)
        places = places[_above(likely[places], cutoff)]
    staying = order.cpu()[places]
    with np.errstate(divide="ignore"):  # who has no share at all waits for ever
        waits = -np.log(uniforms(sampling.seed, position, staying.numpy())) / likely[places].numpy()
    return int(staying[int(waits.argmin())])


def _heated(scores: torch.Tensor, temperature: float) -> torch.Tensor:
    """Scores over the temperature. One so small that they leave what 32 bits hold is the likeliest token's alone."""
    heated = scores / temperature
    if bool(torch.isfinite(heated.max())):
        return heated
    return (scores.double() - scores.max().double()) / temperature


def _typical(likely: torch.Tensor, mass: float) -> torch.Tensor:
    """Which of these stay: those whose surprise is nearest to the entropy, up to this share.

    transformers' TypicalLogitsWarper (Meister et al. 2022).
    """
    shares = likely / likely.sum()
    surprise = -shares.log()
    away = (surprise - torch.special.entr(shares).sum()).abs()
    nearest, order = torch.sort(away, stable=True)
    last = min(int((shares[order].cumsum(0) < mass).sum()), len(shares) - 1)
    stays: torch.Tensor = away <= nearest[last]
    stays[order[0]] = True
    return stays


def _above(likely: torch.Tensor, cutoff: float) -> torch.Tensor:
    """Which of these stay: those with at least this share, and the likeliest in any case."""
    shares: torch.Tensor = likely / likely.sum()
    return torch.logical_or(shares >= cutoff, shares == shares.max())


def uniforms(seed: int, position: int, tokens: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Numbers between 0 and 1 that belong to (seed, position, token), the same on every machine."""
    key = int.from_bytes(hashlib.blake2b(f"{seed}:{position}".encode(), digest_size=16).digest(), "little")
    numbers = np.random.Philox(key=key).random_raw(int(tokens.max()) + 1)[tokens]
    return ((numbers >> np.uint64(11)).astype(np.float64) + 0.5) / (1 << 53)


def likelihoods(logits: torch.Tensor, chosen: int, count: int) -> tuple[float, tuple[TopToken, ...]]:
    """Log probability of the chosen token, and the `count` likeliest tokens with theirs."""
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    top: tuple[TopToken, ...] = ()
    if count:
        values, ids = logprobs.topk(min(count, len(logprobs)))
        top = tuple(TopToken(int(token), float(value)) for token, value in zip(ids, values, strict=True))
    return float(logprobs[chosen]), top

"""Logits to a token: a pure function of (logits, parameters, seed, position), so that a replay continues alike.

Order of processing: logit bias, end-of-sequence held back until `min_tokens`, repetition, presence and
frequency penalties, the grammar, temperature, top-k, top-p, min-p. Repetition looks at prompt and answer (as
transformers does), presence and frequency at the answer alone (as the OpenAI API does). Reported log
probabilities are those of the unprocessed logits.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, field

import torch

from worker_agent.constraints import Follower
from worker_agent.messages import Admission, Finish, Sampling, ScoredToken, Token, TopToken


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

    def __post_init__(self) -> None:
        tokens = self.admission.tokens
        self.seen.update(tokens)
        self.generated.update(tokens[self.admission.prompt_tokens :])
        if self.follower is not None:
            for token in tokens[self.admission.prompt_tokens :]:
                self.follower.took(token)

    @property
    def sampling(self) -> Sampling:
        return self.admission.sampling

    def token(self, sequence: int, position: int, logits: torch.Tensor) -> Token:
        """Choose token number `position` of a sequence from its logits [vocabulary]."""
        sampling, budget = self.sampling, self.admission.budget
        count = position - self.admission.prompt_tokens  # tokens generated before this one
        scores = self._allowed(self._penalized(logits, count), logits)
        chosen = int(scores.argmax()) if sampling.temperature == 0 else draw(scores, sampling, position)
        self.generated[chosen] += 1
        self.seen.add(chosen)
        finish: Finish = ""
        if chosen in budget.eos and count >= budget.min_tokens:
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
        """
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
        sampling, budget = self.sampling, self.admission.budget
        scores = logits.float()
        held_back = count < budget.min_tokens and bool(budget.eos)
        plain = sampling.repetition_penalty == 1 and not sampling.presence_penalty and not sampling.frequency_penalty
        if plain and not sampling.logit_bias and not held_back:
            return scores
        scores = scores.clone()
        if sampling.logit_bias:
            ids = torch.tensor([token for token in sampling.logit_bias if token < len(scores)], device=scores.device)
            bias = [value for token, value in sampling.logit_bias.items() if token < len(scores)]
            scores[ids] += torch.tensor(bias, device=scores.device)
        if held_back:
            scores[
                torch.tensor([token for token in budget.eos if token < len(scores)], device=scores.device)
            ] = -torch.inf
        if sampling.repetition_penalty != 1 and self.seen:
            ids = torch.tensor(sorted(self.seen), device=scores.device)
            picked = scores[ids]
            penalty = sampling.repetition_penalty
            scores[ids] = torch.where(picked < 0, picked * penalty, picked / penalty)
        if (sampling.presence_penalty or sampling.frequency_penalty) and self.generated:
            ids = torch.tensor(list(self.generated), device=scores.device)
            counts = torch.tensor(list(self.generated.values()), dtype=torch.float32, device=scores.device)
            scores[ids] -= sampling.presence_penalty + sampling.frequency_penalty * counts
        return scores


def draw(scores: torch.Tensor, sampling: Sampling, position: int) -> int:
    """Draw a token from processed scores [vocabulary]; the random number belongs to (seed, position) alone."""
    ranked, order = torch.sort(scores / sampling.temperature, descending=True, stable=True)
    keep = len(ranked) if sampling.top_k == 0 else min(sampling.top_k, len(ranked))
    ranked = ranked[:keep]
    # In float64 and on the CPU, so that the sum does not depend on the device's order of additions.
    likely = torch.softmax(ranked.double().cpu(), dim=0)
    if sampling.top_p < 1:
        before = likely.cumsum(0) - likely
        likely = likely[: max(1, int((before < sampling.top_p).sum()))]
    if sampling.min_p > 0:
        likely = likely[: max(1, int((likely >= sampling.min_p * likely[0]).sum()))]
    running = likely.cumsum(0)
    point = uniform(sampling.seed, position) * float(running[-1])
    index = int(torch.searchsorted(running, torch.tensor(point, dtype=torch.float64), right=True))
    return int(order[min(index, len(likely) - 1)])


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) that belongs to (seed, position), the same on every machine."""
    digest = hashlib.blake2b(f"{seed}:{position}".encode(), digest_size=8).digest()
    return (int.from_bytes(digest, "little") >> 11) / (1 << 53)


def likelihoods(logits: torch.Tensor, chosen: int, count: int) -> tuple[float, tuple[TopToken, ...]]:
    """Log probability of the chosen token, and the `count` likeliest tokens with theirs."""
    logprobs = torch.log_softmax(logits.float(), dim=-1)
    top: tuple[TopToken, ...] = ()
    if count:
        values, ids = logprobs.topk(min(count, len(logprobs)))
        top = tuple(TopToken(int(token), float(value)) for token, value in zip(ids, values, strict=True))
    return float(logprobs[chosen]), top

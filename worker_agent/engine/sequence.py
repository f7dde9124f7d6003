"""A sequence as the first stage sees it, what it takes of the pool, and whether it can run at all. Pure.

Parts of the scheduler (`scheduler.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from worker_agent.wire.errors import AgentError, OutOfMemory
from worker_agent.wire.messages import LEAST_BLOCK_TOKENS, MAX_LOOKED_BACK, Budget, Sampling, Shared

SCORED_CHUNK = 64
"""Of prompts whose tokens' log probabilities are wanted, so many tokens in one step at most: each needs the logits of
the whole vocabulary, 40 MB for 64 tokens of a large one."""
BLOCK = LEAST_BLOCK_TOKENS
"""Tokens are counted in blocks of so many at least: as many as the pages of a GPU's pool have. Stages whose rows take
memory by larger pages want larger blocks (`Stage.block_tokens`)."""
SOON = 32
"""Who is admitted finds room for so many tokens more than it has, and leaves as many to each that runs already."""


@dataclass
class Sequence:
    """A request inside the pipeline, as the first stage sees it."""

    number: int
    tokens: list[int]
    """Prompt and answer so far."""
    prompt_tokens: int
    sampling: Sampling
    budget: Budget
    group: str = ""
    """Only sequences of one group share tokens."""
    sent: int = 0
    """How many of `tokens` have been put into a step, or came from another sequence."""
    in_flight: int = 0
    admitted: bool = False
    """Whether the stages hold something of it."""
    introduced: bool = False
    """Whether the last stage knows how to sample it."""
    held: int = 0
    """Of one that goes on after a stage was lost: how many of its first tokens the stages hold."""
    arrival: int = 0
    """Who came before whom."""
    shared: Shared | None = None

    given: int = field(init=False)
    """How many tokens Start brought: the prompt, and in a recovery what was generated before."""

    def __post_init__(self) -> None:
        self.given = len(self.tokens)
        if self.held:
            self.sent, self.admitted = self.held, True
            if self.held == len(self.tokens) - 1 and self.held >= self.prompt_tokens:
                self.given = self.held  # it was decoding, and goes on so, in the steps of those that decode

    @property
    def pending(self) -> int:
        """Tokens known but not yet put into a step."""
        return len(self.tokens) - self.sent

    @property
    def is_decoding(self) -> bool:
        return self.sent >= self.given

    @property
    def capacity(self) -> int:
        """KV tokens it may come to hold: what Start brought and what may still be generated."""
        return self.prompt_tokens + self.budget.max_tokens

    def used(self, block: int) -> int:
        """KV tokens that it takes, when all that it has is computed."""
        return in_blocks(len(self.tokens), block)

    def soon(self, block: int) -> int:
        """KV tokens that it will take before long."""
        return in_blocks(min(len(self.tokens) + SOON, self.capacity), block)

    @property
    def looks_back(self) -> bool:
        """Whether the last stage needs its tokens, and not only those to come."""
        # What was generated before has led some way into the grammar.
        return self.sampling.looks_back or (
            self.sampling.constraint is not None and len(self.tokens) > self.prompt_tokens
        )


def in_blocks(tokens: int, block: int = BLOCK) -> int:
    return -(-tokens // block) * block


def check_looked_back(sequence: Sequence) -> None:
    """Whether the tokens of a sequence that begins can go along for the last stage to look back at. Raises AgentError.

    Those of one that goes on after a stage was lost are its prompt and what was answered.
    """
    if sequence.looks_back and len(sequence.tokens) > MAX_LOOKED_BACK:
        answered = len(sequence.tokens) - sequence.prompt_tokens
        own = f"{sequence.prompt_tokens:,} of prompt" + (f" and {answered:,} answered so far" if answered else "")
        raise AgentError(
            f"the sequence has {len(sequence.tokens):,} tokens ({own}), and penalties, log probabilities of a prompt "
            f"and a grammar that goes on behind earlier tokens can look back at {MAX_LOOKED_BACK:,} at most: more do "
            "not fit into the message that takes them to the last stage; leave these parameters out, or shorten the "
            "prompt"
        )


def check_whole_prompt(sequence: Sequence, widest: int, *, answers_alone: bool = False) -> None:
    """Whether a prompt can go through the stages in one step, of `widest` tokens at most. Raises AgentError.

    Args:
        answers_alone: what was answered before a stage was lost does not go along with it.
    """
    whole = sequence.prompt_tokens if answers_alone else sequence.given
    if whole > widest:
        raise OutOfMemory(
            f"this architecture takes prompts as a whole only, and one of {whole:,} tokens is longer than "
            f"the {widest:,} that can go from stage to stage at once"
        )
    if sequence.sampling.prompt_logprobs >= 0 and sequence.prompt_tokens > SCORED_CHUNK:
        raise AgentError(
            "this architecture takes prompts as a whole only; log probabilities of a prompt's tokens can be had "
            f"for up to {SCORED_CHUNK} of them then"
        )

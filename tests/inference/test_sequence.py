"""What a sequence takes of what the pipeline brings: everything once, in order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from app.errors import NodeError, ShardboardError
from app.inference.sequence import VAIN_RECOVERIES, Sequence
from worker_agent.wire.messages import Budget, Sampling, Scored, ScoredToken, Token


@dataclass
class Listener:
    """Who waits for a sequence."""

    tokens: list[int] = field(default_factory=list)
    scored: list[int] = field(default_factory=list)
    progress: list[int] = field(default_factory=list)

    def handed_over(self, deployment: str, number: int, epoch: int) -> None: ...
    def cached(self, tokens: int) -> None: ...
    def interrupted(self, error: NodeError) -> None: ...
    def resumed(self, what: str, exact: bool, stages: Any) -> None: ...
    def failed(self, error: ShardboardError) -> None: ...

    def sampled(self, token: Token, times: Any, batch: int) -> None:
        self.tokens.append(token.token)

    def prefilled(self, done: int, times: Any) -> None:
        self.progress.append(done)

    def prompt_scored(self, scored: Scored) -> None:
        self.scored += [token.token for token in scored.tokens]


def sequence(prompt: int = 3, **sampling: Any) -> tuple[Sequence, Listener]:
    listener = Listener()
    return Sequence(list(range(prompt)), prompt, Sampling(**sampling), Budget(max_tokens=9), listener), listener


def token(position: int, finish: str = "") -> Token:
    return Token(0, position, 100 + position, finish)  # type: ignore[arg-type]


def test_a_token_that_comes_twice_is_taken_once_and_one_too_early_is_asked_for() -> None:
    mine, listener = sequence()
    assert mine.sampled(token(3), (), 1) and mine.sampled(token(3), (), 1)
    assert not mine.sampled(token(5), (), 1), "position 4 is missing"
    assert mine.sampled(token(4), (), 1) and mine.sampled(token(5), (), 1)
    assert listener.tokens == [103, 104, 105] == mine.tokens[3:]
    assert mine.wanted[1] == 6


def test_what_follows_the_end_is_not_taken() -> None:
    mine, listener = sequence()
    mine.sampled(token(3, "length"), (), 1)
    assert mine.is_over and mine.sampled(token(4), (), 1)
    assert listener.tokens == [103]


def test_of_a_prompt_scored_again_in_other_pieces_only_the_rest_is_taken() -> None:
    mine, listener = sequence(6, prompt_logprobs=0)

    def scored(position: int, count: int) -> Scored:
        return Scored(0, position, tuple(ScoredToken(position + each, -1.0) for each in range(count)))

    assert mine.scored(scored(1, 2)) and mine.scored(scored(1, 4))
    assert listener.scored == [1, 2, 3, 4]
    assert not mine.scored(scored(6, 1)), "5 is missing"
    assert mine.sampling_left().prompt_logprobs == 0
    mine.scored(scored(5, 1))
    assert mine.sampling_left().prompt_logprobs == -1, "nothing of it has to be scored again"


def test_progress_only_grows_and_ends_with_the_first_token() -> None:
    mine, listener = sequence(10)
    for done in (4, 8, 4, 9):
        mine.prefilled(done, ())
    assert listener.progress == [4, 8, 9] and mine.certain == 9
    mine.sampled(token(10), (), 1)
    mine.prefilled(10, ())
    assert listener.progress == [4, 8, 9] and mine.certain == 10


def test_it_is_given_up_when_it_was_interrupted_often_without_getting_on() -> None:
    mine, _ = sequence()
    assert all(mine.gets_on() for _ in range(VAIN_RECOVERIES))
    mine.sampled(token(3), (), 1)
    assert mine.gets_on(), "a token in between begins the count anew"
    assert not all(mine.gets_on() for _ in range(VAIN_RECOVERIES))

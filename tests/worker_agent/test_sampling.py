"""Logits to a token: what each parameter does, and that a seed and a position settle the rest."""

from __future__ import annotations

import pytest
import torch

from worker_agent.messages import Admission, Budget, Sampling
from worker_agent.sampling import Sampler, draw, likelihoods, uniform

LOGITS = torch.tensor([1.0, 4.0, 3.0, -2.0, 3.5])


def sampler(sampling: Sampling, tokens: tuple[int, ...] = (), prompt: int = 2, **budget: object) -> Sampler:
    limits = Budget(**{"max_tokens": 10, **budget})  # type: ignore[arg-type]
    return Sampler(Admission(tokens, prompt, prompt, prompt + 10, sampling, limits))


def test_greedy_takes_the_likeliest() -> None:
    assert sampler(Sampling()).token(1, 2, LOGITS).token == 1


def test_a_bias_can_make_any_token_win_and_tokens_outside_the_vocabulary_are_passed_over() -> None:
    assert sampler(Sampling(logit_bias={3: 50.0, 99: 100.0})).token(1, 2, LOGITS).token == 3


def test_the_repetition_penalty_counts_the_prompt_too() -> None:
    assert sampler(Sampling(repetition_penalty=2.0), tokens=(1, 0)).token(1, 2, LOGITS).token == 4


def test_presence_and_frequency_penalties_look_at_the_answer_alone() -> None:
    chosen = sampler(Sampling(presence_penalty=2.0), tokens=(1, 1))
    assert [chosen.token(1, 2 + i, LOGITS).token for i in range(3)] == [1, 4, 2]
    frequent = sampler(Sampling(frequency_penalty=0.3))
    assert [frequent.token(1, 2 + i, LOGITS).token for i in range(4)] == [1, 1, 4, 1]


def test_the_end_is_held_back_until_enough_tokens_have_come() -> None:
    held = sampler(Sampling(), eos=(1,), min_tokens=2)
    found = [held.token(1, 2 + i, LOGITS) for i in range(3)]
    assert [(token.token, token.finish) for token in found] == [(4, ""), (4, ""), (1, "eos")]


def test_the_last_token_allowed_says_so() -> None:
    assert sampler(Sampling(), max_tokens=1).token(1, 2, LOGITS).finish == "length"


@pytest.mark.parametrize(
    ("sampling", "allowed"),
    [
        (Sampling(temperature=1.0, top_k=2), {1, 4}),
        (Sampling(temperature=1.0, top_p=0.5), {1, 4}),
        (Sampling(temperature=1.0, min_p=0.5), {1, 4}),
        (Sampling(temperature=0.01), {1}),
    ],
)
def test_only_the_allowed_tokens_are_drawn(sampling: Sampling, allowed: set[int]) -> None:
    assert {draw(LOGITS, sampling, position) for position in range(200)} == allowed


def test_draws_follow_the_probabilities() -> None:
    count = 4000
    drawn = [draw(LOGITS, Sampling(temperature=1.0, seed=5), position) for position in range(count)]
    expected = torch.softmax(LOGITS, 0)
    for token, probability in enumerate(expected.tolist()):
        assert drawn.count(token) / count == pytest.approx(probability, abs=0.03)


def test_the_random_number_belongs_to_seed_and_position_on_every_machine() -> None:
    assert uniform(42, 7) == uniform(42, 7)
    assert uniform(42, 7) != uniform(42, 8)


def test_log_probabilities_are_those_of_the_unprocessed_logits() -> None:
    logprob, top = likelihoods(LOGITS, 2, 2)
    expected = torch.log_softmax(LOGITS, 0)
    assert logprob == pytest.approx(float(expected[2]))
    assert [entry.token for entry in top] == [1, 4]

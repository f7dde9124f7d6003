"""Logits to a token: what each parameter does, and that a seed and a position settle the rest."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.generation.logits_process import (
    EpsilonLogitsWarper,
    EtaLogitsWarper,
    LogitsProcessor,
    MinPLogitsWarper,
    NoBadWordsLogitsProcessor,
    NoRepeatNGramLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
    TypicalLogitsWarper,
)

from worker_agent.engine.sampling import Sampler, draw, likelihoods, repeating, uniforms
from worker_agent.wire.errors import NotFinite
from worker_agent.wire.messages import Admission, Budget, Sampling

LOGITS = torch.tensor([1.0, 4.0, 3.0, -2.0, 3.5])


def sampler(sampling: Sampling, tokens: tuple[int, ...] = (), prompt: int = 2, **budget: object) -> Sampler:
    limits = Budget(**{"max_tokens": 10, **budget})  # type: ignore[arg-type]
    return Sampler(Admission(tokens, prompt, prompt, sampling, limits))


def test_greedy_takes_the_likeliest() -> None:
    assert sampler(Sampling()).token(1, 2, LOGITS).token == 1


@pytest.mark.parametrize("temperature", [1e-30, 1e-39, 1e-46, 5e-324])
@pytest.mark.parametrize("logits", [LOGITS, LOGITS - 20, torch.tensor([0.0, 0.0, -1.0])])
def test_a_temperature_that_no_float_holds_is_as_greedy_as_can_be(temperature: float, logits: torch.Tensor) -> None:
    likeliest = {int(token) for token in (logits == logits.max()).nonzero()}
    drawn = {draw(logits, Sampling(temperature=temperature, seed=3), position) for position in range(20)}
    assert drawn == likeliest


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


def test_the_random_numbers_belong_to_seed_position_and_token_on_every_machine() -> None:
    some = uniforms(42, 7, np.array([3, 1]))
    assert (
        some.tolist() == uniforms(42, 7, np.arange(9))[[3, 1]].tolist() == [0.04225358763476056, 0.008952550993202635]
    )
    assert not set(some.tolist()) & set(uniforms(42, 8, np.arange(9)).tolist())


def test_what_is_drawn_does_not_hang_on_the_last_bits_of_the_scores() -> None:
    chance, sampling, changed = torch.Generator().manual_seed(3), Sampling(temperature=1.0, seed=1), 0
    for position in range(2000):
        scores = torch.randn(200, generator=chance)
        nearly = scores + 1e-4 * torch.randn(200, generator=chance)
        changed += draw(scores, sampling, position) != draw(nearly, sampling, position)
    assert changed <= 1, "along the sum of all shares it would be some ten"


def test_log_probabilities_are_those_of_the_unprocessed_logits() -> None:
    logprob, top = likelihoods(LOGITS, 2, 2)
    expected = torch.log_softmax(LOGITS, 0)
    assert logprob == pytest.approx(float(expected[2]))
    assert [entry.token for entry in top] == [1, 4]


# --- what transformers' generate does, by its own logits processors ---


def allowed_by(sampling: Sampling, scores: torch.Tensor) -> set[int]:
    """Tokens that are drawn, of so many draws that none that is allowed is missed."""
    return {draw(scores, sampling, position) for position in range(1200)}


def left_by(scores: torch.Tensor, *processors: LogitsProcessor) -> set[int]:
    """Tokens that transformers leaves."""
    row = scores[None]
    for processor in processors:
        row = processor(torch.zeros((1, 0), dtype=torch.long), row)
    return {int(token) for token in torch.isfinite(row[0]).nonzero()}


@pytest.mark.parametrize(
    ("sampling", "processors"),
    [
        ({"top_k": 3}, [TopKLogitsWarper(3)]),
        ({"top_p": 0.7}, [TopPLogitsWarper(0.7)]),
        ({"min_p": 0.3}, [MinPLogitsWarper(0.3)]),
        ({"typical_p": 0.5}, [TypicalLogitsWarper(0.5)]),
        ({"typical_p": 0.1}, [TypicalLogitsWarper(0.1)]),
        ({"epsilon_cutoff": 0.1}, [EpsilonLogitsWarper(0.1)]),
        ({"epsilon_cutoff": 0.9}, [EpsilonLogitsWarper(0.9)]),
        ({"eta_cutoff": 0.2}, [EtaLogitsWarper(0.2)]),
        (
            {"top_k": 7, "top_p": 0.95, "min_p": 0.05, "typical_p": 0.8, "epsilon_cutoff": 0.1, "eta_cutoff": 0.25},
            [
                TopKLogitsWarper(7),
                TopPLogitsWarper(0.95),
                MinPLogitsWarper(0.05),
                TypicalLogitsWarper(0.8),
                EpsilonLogitsWarper(0.1),
                EtaLogitsWarper(0.25),
            ],
        ),
    ],
)
def test_sampling_leaves_the_tokens_that_transformers_leaves(
    sampling: dict[str, float], processors: list[LogitsProcessor]
) -> None:
    torch.manual_seed(3)
    for scores in (torch.randn(12), torch.randn(12) * 0.3, torch.tensor([2.0, 2.0, 2.0, 2.0, 1.9, 0.0, -1.0])):
        assert allowed_by(Sampling(temperature=1.0, **sampling), scores) == left_by(scores, *processors)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [1, 2, 3])
def test_no_sequence_of_tokens_comes_twice_as_in_transformers(size: int) -> None:
    torch.manual_seed(5)
    for _ in range(20):
        history = torch.randint(0, 4, (12,)).tolist()
        processor = NoRepeatNGramLogitsProcessor(size)
        (row,) = processor(torch.tensor([history]), torch.zeros(1, 5))
        expected = {int(token) for token in torch.isinf(row).nonzero()}
        assert set(repeating(history, size)) == expected
        chosen = sampler(Sampling(no_repeat_ngram_size=size), tuple(history), 12).token(1, 12, LOGITS)
        assert chosen.token not in expected


def test_bad_words_are_not_completed_as_in_transformers() -> None:
    words = ((3,), (1, 4), (0, 1, 2))
    processor = NoBadWordsLogitsProcessor([list(word) for word in words])
    for history in ([0, 1], [1, 1], [2, 0]):
        (row,) = processor(torch.tensor([history]), LOGITS[None])
        for bias in range(5):  # each token would win, but for being barred
            expected = row + torch.nn.functional.one_hot(torch.tensor(bias), 5) * 50
            barred = sampler(Sampling(bad_words_ids=words, logit_bias={bias: 50.0}), tuple(history))
            assert barred.token(1, 2, LOGITS).token == int(expected.argmax())


def test_a_sequence_of_tokens_counts_what_the_answer_has_had() -> None:
    chosen = sampler(Sampling(no_repeat_ngram_size=2), tokens=(1, 1))
    assert [chosen.token(1, 2 + i, LOGITS).token for i in range(4)] == [4, 1, 2, 1]


def test_suppressed_tokens_do_not_come_and_some_only_not_at_the_beginning() -> None:
    chosen = sampler(Sampling(suppress_tokens=(1, 77), begin_suppress_tokens=(4,)))
    assert [chosen.token(1, 2 + i, LOGITS).token for i in range(2)] == [2, 4]


def test_a_further_end_ends_the_answer_and_is_held_back_as_the_others_are() -> None:
    assert sampler(Sampling(), stops=(1,)).token(1, 2, LOGITS).finish == "eos"
    held = sampler(Sampling(), eos=(4,), stops=(1,), min_tokens=1)
    assert [held.token(1, 2 + i, LOGITS).token for i in range(2)] == [2, 1]


# --- numbers that are none ---

NOT_FINITE = [
    ([1.0, float("nan"), 3.0, 0.0, 0.0], "NaN"),
    ([1.0, float("inf"), 3.0, 0.0, 0.0], "infinite"),
    ([float("-inf")] * 5, "all minus infinity"),
    ([float("nan")] * 5, "NaN"),
]


@pytest.mark.parametrize(("values", "found"), NOT_FINITE)
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0), Sampling(logprobs=3)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_nothing_is_chosen_from_logits_that_are_no_numbers(
    values: list[float], found: str, sampling: Sampling, dtype: torch.dtype
) -> None:
    logits = torch.tensor(values, dtype=dtype)
    with pytest.raises(NotFinite, match=f"logits of token 2 are {found}"):
        sampler(sampling).token(1, 2, logits)


def test_a_prompt_is_not_scored_by_logits_that_are_no_numbers() -> None:
    logits = torch.stack([LOGITS, torch.full((5,), float("nan"))])
    with pytest.raises(NotFinite, match="token 2"):
        sampler(Sampling(prompt_logprobs=0), tokens=(1, 2, 3), prompt=3).prompt_scores(1, logits)


def test_a_token_that_the_model_itself_rules_out_is_no_fault() -> None:
    assert sampler(Sampling()).token(1, 2, torch.tensor([float("-inf"), 1.0, 0.0])).token == 1


def test_parameters_that_leave_no_token_end_the_answer_and_say_so() -> None:
    barred = sampler(Sampling(suppress_tokens=(0, 1, 2, 3, 4)))
    assert barred.token(1, 2, LOGITS).finish == "barred"

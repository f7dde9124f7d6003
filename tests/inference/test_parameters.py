"""Sampling parameters: what is allowed, what is said of what is not, and what the agents get."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import RequestError
from app.inference.parameters import NEUTRAL, GenerationParameters
from worker_agent.wire.messages import Budget, Sampling


def test_the_default_is_greedy_and_needs_no_seed() -> None:
    parameters = GenerationParameters().resolved()
    assert parameters.temperature == 0 and parameters.seed is None
    assert parameters.sampling() == GenerationParameters().sampling() == Sampling()


def test_sampling_without_a_seed_gets_one_that_is_recorded() -> None:
    parameters = GenerationParameters(temperature=0.8)
    assert parameters.seed is not None
    assert parameters.to_json()["seed"] == parameters.seed == parameters.sampling().seed
    assert GenerationParameters(temperature=0.8, seed=0).seed == 0
    assert len({GenerationParameters(temperature=1).seed for _ in range(8)}) > 1


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("temperature", -0.1, "from 0 to 100"),
        ("temperature", float("nan"), "from 0 to 100"),
        ("temperature", "hot", "from 0 to 100"),
        ("temperature", True, "from 0 to 100"),
        ("top_p", 0, "above 0 and at most 1"),
        ("top_p", 1.01, "above 0 and at most 1"),
        ("min_p", 2, "from 0 to 1"),
        ("top_k", -1, "from 0 to 2147483647"),
        ("top_k", 1.5, "whole number"),
        ("repetition_penalty", 0.0, "above 0 and at most 100"),
        ("presence_penalty", float("inf"), "from -100 to 100"),
        ("frequency_penalty", -101, "from -100 to 100"),
        ("seed", -1, "from 0 to"),
        ("max_tokens", 0, "from 1 to"),
        ("min_tokens", -1, "from 0 to"),
        ("logprobs", 101, "from 0 to 100"),
        ("stop", ("",), "1 to 500 characters"),
        ("stop", "text", "tuple of texts"),
        ("stop", ("x",) * 33, "at most 32"),
        ("typical_p", 0, "above 0 and at most 1"),
        ("epsilon_cutoff", 1, "from 0 to below 1"),
        ("eta_cutoff", -0.1, "from 0 to below 1"),
        ("no_repeat_ngram_size", 1.5, "whole number"),
        ("stop_token_ids", (-1,), "from 0 to 2147483647"),
        ("stop_token_ids", [1], "tuple of token ids"),
        ("stop_token_ids", (1,) * 257, "at most 256"),
        ("suppress_tokens", (1,) * 2049, "at most 2048"),
        ("bad_words_ids", ((),), "lists of token ids"),
        ("bad_words_ids", ((1,),) * 257, "at most 256"),
        ("logit_bias", {-1: 1.0}, "from 0 to 2147483647"),
        ("logit_bias", {1: 101.0}, "from -100 to 100"),
        ("logit_bias", dict.fromkeys(range(2049), 1.0), "at most 2048"),
    ],
)
def test_a_refusal_names_the_parameter_the_value_and_what_is_allowed(name: str, value: Any, allowed: str) -> None:
    with pytest.raises(RequestError) as caught:
        GenerationParameters(**{name: value})
    assert name in caught.value.message and allowed in caught.value.message


def test_a_minimum_above_the_maximum_is_refused() -> None:
    with pytest.raises(RequestError, match="min_tokens is 9"):
        GenerationParameters(min_tokens=9, max_tokens=8)


VALID: st.SearchStrategy[GenerationParameters] = st.builds(
    GenerationParameters,
    temperature=st.floats(0, 100),
    top_k=st.integers(0, 2**31 - 1),
    top_p=st.floats(0, 1, exclude_min=True),
    min_p=st.floats(0, 1),
    repetition_penalty=st.floats(0, 100, exclude_min=True),
    presence_penalty=st.floats(-100, 100),
    frequency_penalty=st.floats(-100, 100),
    logit_bias=st.dictionaries(st.integers(0, 2**31 - 1), st.floats(-100, 100), max_size=4),
    seed=st.none() | st.integers(0, 2**63 - 1),
    stop=st.lists(st.text(min_size=1, max_size=500), max_size=3).map(tuple),
    max_tokens=st.none() | st.integers(1, 2**31 - 1),
    stop_token_ids=st.lists(st.integers(0, 2**31 - 1), max_size=3).map(tuple),
    include_stop_str_in_output=st.booleans(),
    skip_special_tokens=st.booleans(),
    ignore_eos=st.booleans(),
    logprobs=st.none() | st.integers(0, 100),
)


@given(VALID)
def test_parameters_survive_the_registry_and_the_wire(parameters: GenerationParameters) -> None:
    assert GenerationParameters.from_json(json.loads(json.dumps(parameters.to_json()))) == parameters
    sampling = parameters.sampling()
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(sampling), type=Sampling) == sampling
    budget = parameters.budget([2], prompt_tokens=10, context=4096)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(budget), type=Budget) == budget


@pytest.mark.parametrize("values", [{"temprature": 1}, {"temperature": "1"}, [], {"logit_bias": {"a": 1}}])
def test_json_that_is_no_set_of_parameters_is_refused(values: object) -> None:
    with pytest.raises(RequestError, match="cannot be used"):
        GenerationParameters.from_json(values)


def test_json_may_hold_one_stop_string_as_a_text() -> None:
    assert GenerationParameters.from_json({"stop": "END"}).stop == ("END",)


def test_the_answer_never_goes_past_the_context() -> None:
    assert GenerationParameters(max_tokens=100).budget([2], 90, 128).max_tokens == 38
    assert GenerationParameters(max_tokens=None).budget([2], 28, 128).max_tokens == 100
    assert GenerationParameters(max_tokens=5).budget([2, 3], 28, 128) == Budget(max_tokens=5, eos=(2, 3))
    assert GenerationParameters(ignore_eos=True).budget([2], 28, 128).eos == ()


@pytest.mark.parametrize(("prompt", "says"), [(128, "prompt has 128 tokens; the context holds 128"), (0, "no tokens")])
def test_a_prompt_without_room_or_without_tokens_is_refused(prompt: int, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        GenerationParameters().budget([2], prompt, 128)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logit_bias", {500: 1.0}),
        ("suppress_tokens", (3, 500)),
        ("begin_suppress_tokens", (500,)),
        ("bad_words_ids", ((1,), (2, 500))),
    ],
)
def test_a_token_that_the_model_lacks_is_refused(name: str, value: Any) -> None:
    parameters = GenerationParameters(**{name: value})
    with pytest.raises(RequestError, match=f"{name} names token 500; the model has tokens 0 to 499"):
        parameters.sampling(vocab_size=500)
    assert getattr(parameters.sampling(vocab_size=501), name) == value


DEFAULTS: dict[str, Any] = {
    "temperature": 0.6,
    "top_k": 20,
    "repetition_penalty": 1.3,
    "stop": ["END"],
    "max_tokens": 8,
    "min_tokens": 2,
}


def test_what_is_left_unset_is_as_the_model_has_it_and_all_else_neutral() -> None:
    resolved = GenerationParameters(top_k=0, repetition_penalty=1.1).resolved(DEFAULTS)
    assert (resolved.temperature, resolved.top_k, resolved.repetition_penalty) == (0.6, 0, 1.1)
    assert (resolved.stop, resolved.max_tokens, resolved.min_tokens, resolved.top_p) == (("END",), 8, 2, 1.0)
    assert resolved.seed is not None
    assert resolved.resolved({"top_p": 0.5}) == resolved, "it is settled once"
    neutral = GenerationParameters(**{name: tuple(v) if isinstance(v, list) else v for name, v in NEUTRAL.items()})
    assert neutral.resolved(DEFAULTS) == neutral.resolved(), "each can be overridden"


def test_the_least_tokens_of_a_model_give_way_to_the_most_of_a_request() -> None:
    assert GenerationParameters(max_tokens=1).resolved(DEFAULTS).min_tokens == 1


def test_further_ends_stop_an_answer_that_ignores_those_of_the_model() -> None:
    parameters = GenerationParameters(ignore_eos=True, stop_token_ids=(7,))
    assert parameters.budget([2], 10, 4096) == Budget(max_tokens=512, stops=(7,))
    with pytest.raises(RequestError, match="stop_token_ids names token 7; the model has tokens 0 to 6"):
        parameters.sampling(vocab_size=7)

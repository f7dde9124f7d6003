"""Sampling parameters: what is allowed, what is said of what is not, and what the agents get."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.errors import RequestError
from app.inference.parameters import GenerationParameters
from worker_agent.messages import Budget, Sampling


def test_the_default_is_greedy_and_needs_no_seed() -> None:
    parameters = GenerationParameters()
    assert parameters.temperature == 0 and parameters.seed is None
    assert parameters.sampling() == Sampling()


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


def test_a_bias_of_a_token_that_the_model_lacks_is_refused() -> None:
    parameters = GenerationParameters(logit_bias={500: 1.0})
    with pytest.raises(RequestError, match="names token 500; the model has tokens 0 to 499"):
        parameters.sampling(vocab_size=500)
    assert parameters.sampling(vocab_size=501).logit_bias == {500: 1.0}

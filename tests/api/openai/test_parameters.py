"""Parameters beside the OpenAI API's own: they work, or are refused by their names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import openai
import pytest

from app.registry import RequestStatus
from tests.api.openai.conftest import Served
from tests.e2e.test_meanings import half, make
from tests.waiting import wait_until

QUESTION: list[Any] = [{"role": "user", "content": "Name a planet and how many moons it has."}]
SHORT: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]
"""Answered in eight tokens."""
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "moons": {"type": "integer", "maximum": 200}},
    "required": ["name", "moons"],
    "additionalProperties": False,
}
GBNF = 'root ::= "Mars" | "Venus"\n'


def ask(client: openai.OpenAI, question: list[Any] = QUESTION, **extra: Any) -> str:
    answer = client.chat.completions.create(
        model="smollm", messages=question, max_tokens=80, temperature=0, extra_body=extra
    )
    return answer.choices[0].message.content or ""


# --- what the answer must look like, however it is said ---

NAMED: dict[str, Any] = {"name": "it", "schema": SCHEMA}


@pytest.mark.parametrize(
    "asked",
    [
        {"response_format": {"type": "json_object", "schema": SCHEMA}},
        {"structured_outputs": {"json": SCHEMA}},
        {"structured_outputs": {"json": json.dumps(SCHEMA), "backend": "auto"}},
        {"guided_json": SCHEMA},
        {"guided_json": json.dumps(SCHEMA)},
        {"json_schema": SCHEMA},
    ],
)
def test_a_schema_is_followed_however_a_client_names_it(client: openai.OpenAI, asked: dict[str, Any]) -> None:
    jsonschema.validate(json.loads(ask(client, **asked)), SCHEMA)


@pytest.mark.parametrize(
    "asked",
    [
        {"guided_choice": ["Mars", "Venus"]},
        {"structured_outputs": {"choice": ["Mars", "Venus"]}},
        {"guided_regex": "Mars|Venus"},
        {"structured_outputs": {"regex": "Mars|Venus"}},
        {"guided_grammar": 'start: "Mars" | "Venus"'},
        {"structured_outputs": {"grammar": GBNF}},
        {"grammar": GBNF},
    ],
)
def test_choices_expressions_and_grammars_are_followed(client: openai.OpenAI, asked: dict[str, Any]) -> None:
    assert ask(client, **asked) in ("Mars", "Venus")


def test_choices_may_hold_quotes_and_slashes(client: openai.OpenAI) -> None:
    choices = ['say "é"\n', "a\\b/c"]
    assert ask(client, guided_choice=choices) in choices


def test_a_completion_is_held_to_a_form_too(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="smollm", prompt="A year:", extra_body={"guided_regex": "[0-9]{4}"})
    assert re.fullmatch("[0-9]{4}", answer.choices[0].text)


# --- what is refused ---


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"n_predict": 5}, "n_predict"),
        ({"repeat_penalty": 1.2}, "repeat_penalty"),
        ({"use_beam_search": True}, "use_beam_search"),
        ({"bad_words": ["no"]}, "bad_words"),
        ({"verbosity": "low"}, "verbosity"),
        ({"temprature": 0.5}, "temprature"),
        ({"something_new": {"a": 1}}, "something_new"),
        ({"response_format": {"type": "text", "schema": SCHEMA}}, "response_format.schema"),
        ({"response_format": {"type": "text", "json_schema": {"schema": SCHEMA}}}, "response_format.json_schema"),
        (
            {"response_format": {"type": "json_object", "json_schema": {"schema": SCHEMA}}},
            "response_format.json_schema",
        ),
        ({"response_format": {"type": "json_object", "pattern": "x"}}, "response_format.pattern"),
        ({"response_format": {"type": "json_object", "schema": {"type": "no-such"}}}, "response_format.schema"),
        ({"structured_outputs": {"structural_tag": "{}"}}, "structured_outputs.structural_tag"),
        ({"structured_outputs": {"regex": "("}}, "structured_outputs.regex"),
        ({"guided_choice": []}, "guided_choice"),
        ({"guided_json": "{"}, "guided_json"),
        ({"guided_grammar": "root ::= ("}, "guided_grammar"),
        ({"grammar": "start: nowhere"}, "grammar"),
        ({"guided_regex": "a", "json_schema": SCHEMA}, "json_schema"),
        ({"response_format": {"type": "json_object"}, "guided_choice": ["a"]}, "guided_choice"),
        ({"stop_token_ids": [999_999_999]}, "stop_token_ids"),
        ({"suppress_tokens": [999_999_999]}, "suppress_tokens"),
        ({"bad_words_ids": [[1], [2, 999_999_999]]}, "bad_words_ids"),
        ({"stop_token_ids": [-1]}, "stop_token_ids[0]"),
        ({"typical_p": 0}, "typical_p"),
        ({"stream": True, "stream_options": {"continuous_usage_stats": True}}, "stream_options.continuous_usage_stats"),
    ],
)
@pytest.mark.parametrize("path", ["/chat/completions", "/completions"])
def test_what_would_change_the_answer_and_cannot_is_refused_by_name(
    client: openai.OpenAI, path: str, extra: dict[str, Any], param: str
) -> None:
    body = {"model": "smollm", "max_tokens": 3, **extra}
    body |= {"messages": QUESTION} if "chat" in path else {"prompt": "Hello"}
    with pytest.raises(openai.BadRequestError) as caught:
        client.post(path, body=body, cast_to=object)
    assert caught.value.param == param
    assert param.split(".")[0].split("[")[0] in caught.value.message


def test_a_misspelt_parameter_is_recognised_and_another_name_for_one_is_told(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="did you mean temperature\\?"):
        ask(client, temprature=0.5)
    with pytest.raises(openai.BadRequestError, match="use max_tokens"):
        ask(client, n_predict=5)


def test_tools_and_a_form_of_the_whole_answer_exclude_each_other(client: openai.OpenAI, toolsmith: str) -> None:
    tool: Any = {"type": "function", "function": {"name": "f"}}
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(
            model=toolsmith, messages=QUESTION, tools=[tool], extra_body={"guided_choice": ["a"]}
        )
    assert caught.value.param == "guided_choice"


def test_what_changes_nothing_is_accepted_and_so_is_what_asks_for_nothing(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model="smollm", messages=QUESTION, max_tokens=2, user="somebody", metadata={"a": "b"}, store=False,
        service_tier="auto", prompt_cache_key="x", safety_identifier="y",
        extra_body={
            "priority": 3, "cache_prompt": True, "n_predict": -1, "use_beam_search": False, "repeat_penalty": 1.0,
            "something_new": None, "bad_words": [], "guided_json": None, "grammar": "",
        },
    )  # fmt: skip
    assert answer.usage is not None and answer.usage.completion_tokens == 2


# --- ends ---


def test_stop_tokens_and_special_stop_strings_end_an_answer(client: openai.OpenAI, served: Served) -> None:
    tokenizer = served.system.run(served.system.controller.tokenizer("smollm"))
    whole = ask(client, SHORT, stop=[])
    (paris,) = tokenizer.encode(" the", add_special_tokens=False)
    stopped = ask(client, SHORT, stop_token_ids=[paris], logit_bias={str(paris): 100})
    assert stopped == ""
    assert (
        ask(client, SHORT, stop_token_ids=[paris], logit_bias={str(paris): 100}, include_stop_str_in_output=True)
        == " the"
    )
    end = tokenizer.id_of("<|im_end|>")
    assert end is not None
    told = ask(client, SHORT, ignore_eos=True, stop=["<|im_end|>"])
    assert told == whole
    shown = ask(
        client, SHORT, ignore_eos=True, stop=["<|im_end|>"], skip_special_tokens=False, include_stop_str_in_output=True
    )
    assert shown == f"{whole}<|im_end|>"


# --- the model's own defaults ---


@pytest.fixture(scope="module")
def odd(served: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A model with its own generation_config, a template that writes a token which it lacks, and one broken row."""
    settings = {"chat_template": "{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}"}
    folder = make(tmp_path_factory.mktemp("odd") / "odd", "<|im_start|>", settings=settings, tie_word_embeddings=False)
    half(folder, 350, float("nan"))
    (folder / "generation_config.json").write_text(
        json.dumps({"do_sample": False, "repetition_penalty": 1.3, "num_beams": 2, "max_new_tokens": 3})
    )
    system = served.system
    system.run(system.controller.add_model(str(folder), name="odd"))
    nodes = [node.id for node in system.nodes]
    system.run(system.controller.deploy("odd", nodes=nodes, layers="0-1,2-3"))
    yield "odd"
    system.run(system.controller.undeploy("odd"))
    system.run(system.controller.remove_model("odd"))


def recorded(served: Served, id: str) -> dict[str, Any]:
    return served.system.controller.registry.requests.get(int(id.removeprefix("cmpl-"))).parameters


def test_a_models_own_parameters_are_shown_and_hold_where_a_client_says_nothing(
    client: openai.OpenAI, served: Served, odd: str
) -> None:
    shown: Any = client.models.retrieve(odd)
    assert shown.default_parameters == {"repetition_penalty": 1.3, "max_tokens": 3}
    assert shown.warnings == ["num_beams 2 is not applied: answers are made token by token, without beams."]

    silent = recorded(served, client.completions.create(model=odd, prompt=[5, 6]).id)
    assert (silent["temperature"], silent["repetition_penalty"]) == (0.0, 1.3), "it says that it is not sampled"
    own = client.completions.create(
        model=odd, prompt=[5, 6], temperature=0.5, extra_body={"repetition_penalty": 1.0, "top_k": -1}
    )
    said = recorded(served, own.id)
    assert (said["temperature"], said["repetition_penalty"], said["top_k"]) == (0.5, 1.0, 0)


def test_without_a_word_of_the_model_the_temperature_is_one(client: openai.OpenAI, served: Served) -> None:
    answer = client.completions.create(model="smollm", prompt="Hello", max_tokens=2)
    assert recorded(served, answer.id)["temperature"] == 1.0


# --- failures that no retry helps ---


def test_a_template_of_another_model_is_a_bad_request_at_once(served: Served, odd: str) -> None:
    with served.client(max_retries=2) as client, pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model=odd, messages=[{"role": "user", "content": "Hello"}])
    assert "Token id 400 is outside the vocabulary" in caught.value.message
    assert "the chat template writes '<|im_start|>'" in caught.value.message
    assert "retry-after" not in caught.value.response.headers


@pytest.mark.parametrize("stream", [False, True])
def test_numbers_that_are_none_fail_once_with_the_stage_named(served: Served, odd: str, stream: bool) -> None:
    before = len(served.system.controller.registry.requests.list(limit=1000))
    with served.client(max_retries=2) as client, pytest.raises(openai.APIError) as caught:
        list(client.completions.create(model=odd, prompt=[5, 350, 7], stream=stream))
    assert caught.value.code == "node_numbers"
    assert "(layers 0-1)" in caught.value.message and "bfloat16 or float32" in caught.value.message
    if isinstance(caught.value, openai.APIStatusError):
        assert caught.value.status_code == 500
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert "retry-after" not in caught.value.response.headers
    listed = served.system.controller.registry.requests.list
    wait_until(lambda: listed(limit=1)[0].status is RequestStatus.FAILED)
    assert len(listed(limit=1000)) == before + 1, "it was not tried again"
    assert client is not None and served.system.run(served.system.controller.deployments.ready(odd))

"""What a request means, down to the token: ends, stop strings, the model's own defaults, numbers that are none."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken
from transformers import AutoModelForCausalLM

from app.errors import NodeError, RequestError
from app.inference.pipeline import Pipeline
from app.registry import RequestRecord, RequestStatus
from tests.e2e.conftest import System
from tests.inference.tiny_tokenizers import byte_level
from tests.waiting import wait_until
from tests.worker_agent.tiny_models import make_model
from worker_agent.wire.messages import Health, StageFault

PROMPT = list(range(20, 40))
END = 401
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)


def make(folder: Path, *specials: str, settings: dict[str, Any] | None = None, **changes: Any) -> Path:
    """A tiny Llama with a tokenizer of 400 tokens and these special ones behind them."""
    make_model("llama", folder, **{"vocab_size": 400, "num_hidden_layers": 4, **changes})
    tokenizer = byte_level()
    tokenizer.add_special_tokens([AddedToken(each, special=True, normalized=False) for each in specials])
    tokenizer.save(str(folder / "tokenizer.json"))
    base = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<bos>", "eos_token": "<eos>"}
    (folder / "tokenizer_config.json").write_text(json.dumps({**base, **(settings or {})}), encoding="utf-8")
    return folder


@pytest.fixture
def deploy(shared: System, tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Add a model and deploy it over two nodes; its name. It is taken away afterwards."""
    names = []

    def deploy(folder: Path, **options: Any) -> str:
        name = folder.name
        shared.run(shared.controller.add_model(str(folder), name=name))
        names.append(name)
        nodes = [node.id for node in shared.nodes[:2]]
        shared.run(shared.controller.deploy(name, nodes=nodes, layers="0-1,2-3", **options))
        return name

    yield deploy
    for name in names:
        shared.run(shared.controller.undeploy(name))
        shared.run(shared.controller.remove_model(name))


def reference(folder: Path, count: int, **settings: Any) -> list[int]:
    """What transformers' own generate answers, by the model's own generation_config.json."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    answer = model.generate(torch.tensor([PROMPT]), max_new_tokens=count, pad_token_id=0, **settings)
    return [int(token) for token in answer[0, len(PROMPT) :]]


# --- ends of sequence ---


@pytest.fixture
def ending(deploy: Callable[..., str], tmp_path: Path) -> str:
    """Its config has one end, its tokenizer another, which a template puts behind each message."""
    settings = {"eos_token": "<|im_end|>", "chat_template": CHATML}
    folder = make(tmp_path / "ending", "<|im_start|>", "<|im_end|>", settings=settings, vocab_size=402, eos_token_id=1)
    return deploy(folder)


def test_every_end_of_text_ends_an_answer_and_stop_strings_see_special_tokens(shared: System, ending: str) -> None:
    bias = {"logit_bias": {END: 100.0}, "max_tokens": 6}

    def outcome(**parameters: Any) -> tuple[str | None, int, str | None]:
        record = shared.answer(ending, "Hello", True, **{**bias, **parameters})
        return record.finish_reason, record.completion_tokens, record.result

    assert outcome() == ("stop", 1, ""), "the tokenizer's end"
    assert outcome(logit_bias={1: 100.0}) == ("stop", 1, ""), "the config's end"
    assert outcome(ignore_eos=True) == ("length", 6, "")
    assert outcome(ignore_eos=True, skip_special_tokens=False) == ("length", 6, "<|im_end|>" * 6)
    assert outcome(ignore_eos=True, stop_token_ids=(END,)) == ("stop", 1, "")
    assert outcome(ignore_eos=True, stop=("<|im_end|>",)) == ("stop", 1, "")
    assert outcome(ignore_eos=True, stop=("<|im_end|>",), min_tokens=3) == ("stop", 4, "")
    assert outcome(ignore_eos=True, stop=("<|im_end|>",), include_stop_str_in_output=True)[2] == "<|im_end|>"
    first, *_ = shared.answer(ending, PROMPT, max_tokens=1, ignore_eos=True).token_ids
    stopped = shared.answer(ending, PROMPT, max_tokens=9, stop_token_ids=(first,))
    assert (stopped.finish_reason, stopped.token_ids, stopped.result) == ("stop", (first,), "")
    told = shared.answer(ending, PROMPT, max_tokens=9, stop_token_ids=(first,), include_stop_str_in_output=True)
    assert told.result


def test_the_ends_of_a_model_without_a_tokenizer_are_those_of_its_config(
    shared: System, deploy: Callable[..., str], tmp_path: Path
) -> None:
    make_model("llama", tmp_path / "wordless", num_hidden_layers=4)
    name = deploy(tmp_path / "wordless")
    record = shared.answer(name, [3, 4, 5], max_tokens=5, logit_bias={2: 100.0})
    assert (record.finish_reason, record.token_ids) == ("stop", (2,))


# --- the model's own generation_config.json ---


@pytest.mark.parametrize(
    "asked",
    [
        {"repetition_penalty": 1.3},
        {"no_repeat_ngram_size": 1, "min_new_tokens": 10},
        {"suppress_tokens": [332], "begin_suppress_tokens": [253], "bad_words_ids": [[9], [25, 357]]},
        {"do_sample": False, "temperature": 0.3, "top_k": 4, "repetition_penalty": 1.1},
    ],
)
def test_a_request_that_says_nothing_is_answered_as_generate_answers(
    shared: System, deploy: Callable[..., str], tmp_path: Path, asked: dict[str, Any]
) -> None:
    folder = make(tmp_path / "opinionated")
    plain = reference(folder, 60)
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **asked}), encoding="utf-8")
    expected = reference(folder, 60)
    assert expected != plain, "the settings make a difference"
    name = deploy(folder)
    record = shared.answer(name, PROMPT, max_tokens=60)
    assert list(record.token_ids) == expected
    recorded = {"min_new_tokens": "min_tokens"}
    for setting, value in asked.items():
        if setting not in ("do_sample", "temperature"):
            kept = json.loads(json.dumps(record.parameters[recorded.get(setting, setting)]))
            assert kept == value, "what it was asked with is recorded"
    neutral = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0, "min_tokens": 0, "suppress_tokens": (),
               "begin_suppress_tokens": (), "bad_words_ids": ()}  # fmt: skip
    assert list(shared.answer(name, PROMPT, max_tokens=60, **neutral).token_ids) == plain, "each can be overridden"


def test_a_model_that_samples_is_sampled_and_a_request_can_have_it_greedy(
    shared: System, deploy: Callable[..., str], tmp_path: Path
) -> None:
    folder = make(tmp_path / "lively")
    plain = reference(folder, 20)
    asked = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "num_beams": 4, "max_new_tokens": 20}
    (folder / "generation_config.json").write_text(json.dumps(asked), encoding="utf-8")
    name = deploy(folder)
    first = shared.answer(name, PROMPT)
    assert {key: first.parameters[key] for key in ("temperature", "top_p", "top_k")} == {
        "temperature": 0.7, "top_p": 0.9, "top_k": 50,
    }  # fmt: skip
    assert first.completion_tokens <= 20 and first.parameters["seed"] is not None
    again = shared.answer(name, PROMPT, seed=first.parameters["seed"])
    assert again.token_ids == first.token_ids
    assert list(shared.answer(name, PROMPT, temperature=0.0).token_ids) == plain
    notes = shared.controller.inference.defaults(name).notes
    assert notes == ("num_beams 4 is not applied: answers are made token by token, without beams.",)


# --- tokens that the model does not have ---


def test_a_template_that_writes_tokens_which_the_model_lacks_is_named_at_once(
    shared: System, deploy: Callable[..., str], tmp_path: Path
) -> None:
    settings = {"chat_template": "{% for m in messages %}<|im_start|>{{ m.content }}{% endfor %}"}
    folder = make(tmp_path / "foreign", "<|im_start|>", settings=settings)
    shared.run(shared.controller.add_model(str(folder), name="foreign"))
    said = "Token id 400 is outside the vocabulary of foreign, 0 to 399"
    for prompt, chat, cause in (
        ("Hello", True, "the chat template writes '<|im_start|>'"),
        ("Hello <|im_start|>", False, "the prompt has '<|im_start|>' in it"),
        ([3, 400], False, ""),
    ):
        run = shared.begin("foreign", prompt, chat)
        record = shared.finish(run)
        assert record.status is RequestStatus.FAILED and isinstance(run.error, RequestError)
        assert said in (record.error or "") and cause in (record.error or "")
    assert shared.run(shared.controller.deployments.ready("foreign")) == [], "nothing was loaded for them"
    shared.run(shared.controller.remove_model("foreign"))


# --- numbers that stop being finite ---


def half(folder: Path, row: int, value: float) -> None:
    """The same weights as float16, with one token's embedding so large that its logits overflow."""
    weights = {name: tensor.half() for name, tensor in load_file(folder / "model.safetensors").items()}
    weights["model.embed_tokens.weight"][row] = value
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "float16"}), encoding="utf-8")


def sequences_held(system: System) -> int:
    async def ask() -> int:
        links = system.controller.nodes.links().values()
        reports = [await link.call(Health(call=0)) for link in links]
        return sum(stage.sequences for report in reports for stage in report.stages)

    return system.run(ask())


@pytest.fixture
def overflowing(deploy: Callable[..., str], tmp_path: Path) -> str:
    """Every prompt is answered, but those with token 350 in them."""
    folder = make(tmp_path / "overflowing", tie_word_embeddings=False)
    half(folder, 350, float("nan"))
    return deploy(folder)


@pytest.mark.parametrize("parameters", [{}, {"temperature": 1.0}, {"logprobs": 2}, {"prompt_logprobs": 1}])
def test_logits_that_are_no_numbers_end_that_request_alone_and_name_the_stage(
    shared: System, overflowing: str, parameters: dict[str, Any]
) -> None:
    others = [shared.begin(overflowing, [3 + i, 4, 5], max_tokens=80, ignore_eos=True) for i in range(2)]
    (before,) = shared.run(shared.controller.deployments.ready(overflowing))
    run = shared.begin(overflowing, [5, 350, 7], max_tokens=8, **parameters)
    record: RequestRecord = shared.finish(run)
    assert record.status is RequestStatus.FAILED and record.token_ids == ()
    assert isinstance(run.error, NodeError) and run.error.kind == "numbers"
    assert run.error.node in (record.error or "") and "(layers 0-1)" in (record.error or "")
    for word in ("stop being finite", "float16", "bfloat16 or float32"):
        assert word in (record.error or "")
    for word in ("hash", "SHARDBOARD_", "starts the deployment anew"):
        assert word not in (record.error or "")
    for other in others:
        assert shared.finish(other).completion_tokens == 80
    (after,) = shared.run(shared.controller.deployments.ready(overflowing))
    assert (after.id, after.epoch) == (before.id, before.epoch), "nothing was connected anew"
    wait_until(lambda: sequences_held(shared) == 0)


@pytest.mark.parametrize(("later", "said"), [(0.2, "(layers 0-1)"), (None, "The last stage failed")])
def test_a_stage_is_named_though_its_word_comes_after_the_last_ones(
    shared: System, overflowing: str, monkeypatch: pytest.MonkeyPatch, later: float | None, said: str
) -> None:
    tell = Pipeline._fault

    def slower(pipeline: Pipeline, fault: StageFault) -> None:
        if later is not None:
            asyncio.get_running_loop().call_later(later, tell, pipeline, fault)

    monkeypatch.setattr(Pipeline, "_fault", slower)
    run = shared.begin(overflowing, [5, 350, 7], max_tokens=8)
    record = shared.finish(run)
    assert isinstance(run.error, NodeError) and run.error.kind == "numbers"
    assert record.status is RequestStatus.FAILED and said in (record.error or "")
    wait_until(lambda: sequences_held(shared) == 0)


def test_a_long_prompt_that_is_lost_in_the_middle_is_not_read_on(shared: System, overflowing: str) -> None:
    prompt = [3, 350, *[4 + i % 300 for i in range(400)]]
    run = shared.begin(overflowing, prompt, max_tokens=8, prompt_logprobs=0)
    record = shared.finish(run)
    assert isinstance(run.error, NodeError) and run.error.kind == "numbers"
    assert record.status is RequestStatus.FAILED
    wait_until(lambda: sequences_held(shared) == 0)


def test_parameters_that_leave_no_token_fail_with_a_sentence_about_them(shared: System, overflowing: str) -> None:
    run = shared.begin(overflowing, [3, 4, 5], max_tokens=8, suppress_tokens=tuple(range(400)))
    record = shared.finish(run)
    assert isinstance(run.error, RequestError) and "leave no token to choose" in (record.error or "")

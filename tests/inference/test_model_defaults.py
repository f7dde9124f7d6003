"""A model's generation_config.json: what is taken of it, as transformers takes it, and what is said of the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from app.errors import ModelError
from app.inference.model_defaults import _TAKEN, _UNKNOWN, ModelDefaults


def read(folder: Path, **files: dict[str, Any]) -> ModelDefaults:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return ModelDefaults.open(folder)


def test_a_model_that_says_nothing_asks_for_nothing(tmp_path: Path) -> None:
    assert ModelDefaults.open(tmp_path) == ModelDefaults()
    assert read(tmp_path, generation_config={"eos_token_id": 2, "transformers_version": "4.40.0"}) == ModelDefaults()


def test_a_model_that_samples_is_sampled_as_generate_would(tmp_path: Path) -> None:
    plain = read(tmp_path, generation_config={"do_sample": True})
    assert (plain.samples, plain.values) == (True, {"temperature": 1.0, "top_k": 50})
    told = read(tmp_path, generation_config={"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20})
    assert told.values == {"temperature": 0.6, "top_p": 0.9, "top_k": 20}


@pytest.mark.parametrize("says", [{}, {"do_sample": False}])
def test_a_model_that_does_not_sample_stays_greedy_with_its_penalties(tmp_path: Path, says: dict[str, Any]) -> None:
    asked = {**says, "temperature": 0.6, "top_p": 0.9, "repetition_penalty": 1.3, "no_repeat_ngram_size": 3}
    found = read(tmp_path, generation_config=asked)
    assert found.samples is says.get("do_sample")
    assert found.temperature == 0.6
    assert found.values == {"top_p": 0.9, "repetition_penalty": 1.3, "no_repeat_ngram_size": 3}
    assert found.notes == ()


def test_lengths_ends_and_forbidden_tokens_are_taken(tmp_path: Path) -> None:
    asked = {
        "max_new_tokens": 64, "min_new_tokens": 2, "stop_strings": "END", "bad_words_ids": [[3], [4, 5]],
        "suppress_tokens": [1, 2], "begin_suppress_tokens": [9],
    }  # fmt: skip
    assert read(tmp_path, generation_config=asked).values == {
        "max_tokens": 64, "min_tokens": 2, "stop": ("END",), "bad_words_ids": ((3,), (4, 5)),
        "suppress_tokens": (1, 2), "begin_suppress_tokens": (9,),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("asked", "note"),
    [
        ({"num_beams": 4}, "num_beams 4 is not applied: answers are made token by token, without beams."),
        ({"guidance_scale": 1.5}, "guidance_scale 1.5 is not applied"),
        ({"top_p": 0}, "top_p 0 is not applied: top_p is 0.0; allowed is a number above 0"),
        ({"temperature": 0.0, "top_k": "many"}, "top_k 'many' is not applied"),
        ({"temperature": -1, "do_sample": True}, "temperature -1 is not applied"),
    ],
)
def test_what_cannot_be_applied_is_said(tmp_path: Path, asked: dict[str, Any], note: str) -> None:
    (told,) = read(tmp_path, generation_config=asked).notes
    assert told.startswith(note)


def test_settings_that_change_nothing_need_no_note(tmp_path: Path) -> None:
    usual = {"num_beams": 1, "guidance_scale": None, "length_penalty": 1.0, "use_cache": True, "chat_format": "chatml"}
    assert read(tmp_path, generation_config=usual) == ModelDefaults()


def test_an_old_model_has_them_in_its_config(tmp_path: Path) -> None:
    config = {"model_type": "gpt2", "repetition_penalty": 1.2, "text_config": {"top_p": 0.8}}
    assert read(tmp_path, config=config).values == {"repetition_penalty": 1.2, "top_p": 0.8}
    assert read(tmp_path, config=config, generation_config={}).values == {}, "the file of its own is all that counts"


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(ModelError, match=r"generation_config\.json holds no JSON object"):
        ModelDefaults.open(tmp_path)


HARMLESS = {
    # ends and paddings, read elsewhere or without a meaning for one sequence
    "eos_token_id", "bos_token_id", "pad_token_id", "decoder_start_token_id",
    # the same numbers, faster or in other places
    "use_cache", "cache_implementation", "cache_config", "max_cache_len", "compile_config", "disable_compile",
    "continuous_batching_config", "prefill_chunk_size", "low_memory", "use_mtp",
    # what is given back besides the answer
    "output_attentions", "output_hidden_states", "output_scores", "output_logits", "return_dict_in_generate",
    "num_return_sequences",
    # of encoders
    "encoder_repetition_penalty", "encoder_no_repeat_ngram_size",
    # of beams, without a meaning for one
    "early_stopping", "length_penalty",
    # normalized scores are as likely
    "renormalize_logits",
    # of drafts, which the model itself accepts or refuses
    "is_assistant", "num_assistant_tokens", "num_assistant_tokens_schedule", "assistant_confidence_threshold",
    "prompt_lookup_num_tokens", "max_matching_ngram_size", "assistant_early_exit", "assistant_lookbehind",
    "target_lookbehind", "assistant_ensemble_weight", "speculation_type",
    "transformers_version", "do_sample", "temperature",
}  # fmt: skip


def test_every_setting_that_transformers_knows_is_applied_noted_or_harmless() -> None:
    known = {name for name in vars(GenerationConfig()) if not name.startswith("_")}
    assert known - set(_TAKEN) - set(_UNKNOWN) - HARMLESS == set()

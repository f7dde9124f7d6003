"""Token ids equal transformers', whatever the tokenizer's kind and wherever its special tokens are named."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from app.errors import ModelError
from app.inference.tokenizer import Tokenizer
from tests.inference import tiny_tokenizers

TEXTS = [
    "The capital of France is Paris.",
    "  two spaces, a tab\t and a line\nbreak  ",
    "👩‍👩‍👧 e\u0301 你好 안녕 <eos></s><tool>x",
    "",
    "déjà vu " * 40,
]


@pytest.mark.parametrize("kind", tiny_tokenizers.KINDS)
def test_ids_and_text_equal_transformers(kind: str, tmp_path: Path) -> None:
    folder = tiny_tokenizers.save(tmp_path, tiny_tokenizers.KINDS[kind]())
    ours, theirs = Tokenizer.open(folder), AutoTokenizer.from_pretrained(folder)
    for text in TEXTS:
        for special in (True, False):
            ids = ours.encode(text, add_special_tokens=special)
            assert ids == theirs.encode(text, add_special_tokens=special)
            assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)
            assert ours.decode(ids, skip_special_tokens=False) == theirs.decode(ids)
    assert ours.vocab_size == len(theirs)
    assert ours.special_ids >= set(theirs.all_special_ids)


def test_ids_equal_transformers_on_smollm(smollm: Path) -> None:
    ours, theirs = Tokenizer.open(smollm), AutoTokenizer.from_pretrained(smollm)
    for text in [*TEXTS, *tiny_tokenizers.CORPUS, "<|im_start|>user\nhi<|im_end|>"]:
        assert ours.encode(text) == theirs.encode(text)
    assert ours.eos_ids == (theirs.eos_token_id,)
    assert ours.named_tokens == theirs.special_tokens_map


def test_special_tokens_of_the_config_get_the_ids_that_transformers_gives_them(tmp_path: Path) -> None:
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|end|>",
        "pad_token": {"__type": "AddedToken", "content": "<|pad|>", "normalized": False, "special": True},
        "extra_special_tokens": ["<|x|>", "<|y|>"],
    }
    folder = tiny_tokenizers.save(tmp_path, tiny_tokenizers.byte_level(), tokenizer_config=config)
    ours, theirs = Tokenizer.open(folder), AutoTokenizer.from_pretrained(folder)
    text = "a<|end|>b<|pad|>c<|x|><|y|>"
    assert ours.encode(text) == theirs.encode(text)
    assert ours.eos_ids == (theirs.eos_token_id,)
    assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text), skip_special_tokens=True) == "abc"


def test_added_tokens_of_the_config_are_kept_whole(tmp_path: Path) -> None:
    flags = {"lstrip": False, "normalized": False, "rstrip": True, "single_word": False, "special": False}
    tokenizer = tiny_tokenizers.byte_level()
    size = tokenizer.get_vocab_size() + 1
    listed = {str(size + i): {"content": text, **flags} for i, text in enumerate(["<think>", "</think>"])}
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": listed}
    folder = tiny_tokenizers.save(tmp_path, tokenizer, tokenizer_config=config)
    ours, theirs = Tokenizer.open(folder), AutoTokenizer.from_pretrained(folder)
    text = "<think> hm </think>\nyes"
    assert ours.encode(text) == theirs.encode(text)
    assert size in ours.encode(text)
    assert ours.decode(ours.encode(text)) == theirs.decode(theirs.encode(text), skip_special_tokens=True)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"generation_config": {"eos_token_id": [7, 9]}, "config": {"eos_token_id": 3}}, (7, 9, 3)),
        ({"generation_config": {"eos_token_id": 5}}, (5,)),
        ({"generation_config": {}, "config": {"eos_token_id": 3}}, (3,)),
        ({"config": {"text_config": {"eos_token_id": [4, 4]}}}, (4,)),
        ({"tokenizer_config": {"eos_token": "<eos>"}}, (1,)),
        ({"config": {"eos_token_id": 5}, "tokenizer_config": {"eos_token": "<eos>"}}, (5, 1)),
        ({}, ()),
    ],
)
def test_the_ends_of_text_are_those_of_all_files_together(
    files: dict[str, dict[str, object]], expected: tuple[int, ...], tmp_path: Path
) -> None:
    folder = tiny_tokenizers.save(tmp_path, tiny_tokenizers.byte_level(), **files)
    assert Tokenizer.open(folder).eos_ids == expected


def test_a_stored_truncation_does_not_shorten_prompts(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizers.byte_level()
    tokenizer.enable_truncation(4)
    folder = tiny_tokenizers.save(tmp_path, tokenizer)
    assert len(Tokenizer.open(folder).encode("The quick brown fox jumps over the lazy dog.")) > 4


def test_a_folder_without_a_tokenizer_is_refused_with_advice(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"has no tokenizer\.json") as caught:
        Tokenizer.open(tmp_path)
    assert "save_pretrained" in caught.value.advice and "token ids" in caught.value.advice


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "generation_config.json"])
def test_a_broken_file_is_named(name: str, tmp_path: Path) -> None:
    folder = tiny_tokenizers.save(tmp_path, tiny_tokenizers.words())
    (folder / name).write_text('{"half', encoding="utf-8")
    with pytest.raises(ModelError, match=name.replace(".", r"\.")):
        Tokenizer.open(folder)

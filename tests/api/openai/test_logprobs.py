"""Tokens by their texts: they join to the text, know where they begin, and are never mistaken for one another."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.api.openai.logprobs import (
    LEAST,
    EchoedPrompt,
    TokenNames,
    TokenOffsets,
    chat_logprobs,
    completion_logprobs,
)
from app.inference.tokenizer import Tokenizer
from app.runs.trace import TokenLogprob
from tests.inference import tiny_tokenizers

TEXT = "The dog sleeps; naïve 你好 jumps 🎉"


def opened(kind: str, folder: Path) -> Tokenizer:
    return Tokenizer.open(tiny_tokenizers.save(folder / kind, tiny_tokenizers.KINDS[kind]()))


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback"])
def test_the_bytes_of_tokens_join_to_the_text(kind: str, tmp_path: Path) -> None:
    tokenizer = opened(kind, tmp_path)
    names = TokenNames(tokenizer)
    ids = tokenizer.encode(TEXT, add_special_tokens=False)
    assert b"".join(map(names.bytes_of, ids)).decode().lstrip() == TEXT


def test_half_a_character_is_spelt_in_escapes_and_a_special_token_by_its_name(tmp_path: Path) -> None:
    tokenizer = opened("byte_level", tmp_path)
    names = TokenNames(tokenizer)
    bos, *ids = tokenizer.encode("🎉")
    assert names.name(bos) == "<bos>"
    assert [names.name(token, "bytes:") for token in ids] == [f"bytes:\\x{byte:02x}" for byte in "🎉".encode()]
    assert names.name(ids[0]) == "\\xf0"
    assert names.name(100_000) == "token_id:100000"
    assert TokenNames(None).name(7) == "token_id:7"


@pytest.mark.parametrize("as_ids", [False, True])
def test_an_echoed_prompt_knows_where_its_tokens_begin(as_ids: bool, tmp_path: Path) -> None:
    tokenizer = opened("byte_level", tmp_path)
    ids = tokenizer.encode("The dog")
    echo = EchoedPrompt.of(ids if as_ids else "The dog", ids, tokenizer)
    assert echo.text == ("<bos>The dog" if as_ids else "The dog")
    names = TokenNames(tokenizer)
    assert all(
        echo.text.startswith(names.name(token), at) for token, at in list(zip(ids, echo.offsets, strict=True))[1:]
    )
    assert echo.offsets[0] == 0


def test_offsets_follow_an_answer_and_count_what_is_shown(tmp_path: Path) -> None:
    tokenizer = opened("byte_level", tmp_path)
    ids = [token for text in "ab🎉" for token in tokenizer.encode(text, add_special_tokens=False)]
    end = tokenizer.id_of("<eos>")
    assert end is not None
    offsets = TokenOffsets(tokenizer)
    offsets.follow(ids[:1])
    offsets.follow([*ids, end])
    assert offsets.offsets == [0, 1, 2, 2, 2, 2, 3]
    assert [offsets.count_within(length) for length in (0, 1, 2, 3)] == [0, 1, 2, 6]  # the end shows nothing
    assert TokenOffsets(None).count_within(0) == 0


def test_both_forms_hold_the_same_numbers(tmp_path: Path) -> None:
    tokenizer = opened("byte_level", tmp_path)
    names = TokenNames(tokenizer)
    a, b = (tokenizer.id_of(letter) for letter in "ab")
    assert a is not None and b is not None
    entry = TokenLogprob(b, float("-inf"), ((a, -0.5),))
    lists = completion_logprobs(names, [a, b], [None, entry], [0, 1], offset=10)
    assert lists.model_dump() == {
        "text_offset": [10, 11],
        "token_logprobs": [None, LEAST],
        "tokens": ["a", "b"],
        "top_logprobs": [None, {"a": -0.5, "b": LEAST}],
    }
    (told,) = chat_logprobs(names, [entry], 1).content or []
    assert told.model_dump() == {
        "token": "b",
        "logprob": LEAST,
        "bytes": [98],
        "top_logprobs": [{"token": "a", "logprob": -0.5, "bytes": [97]}],
    }

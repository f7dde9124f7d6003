"""Streamed text equals the text of all tokens at once, and never shows half a character."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.inference import detokenizer
from app.inference.detokenizer import Detokenizer
from app.inference.tokenizer import Tokenizer
from tests.inference import tiny_tokenizers

KINDS = list(tiny_tokenizers.KINDS)


@functools.cache
def opened(kind: str) -> Tokenizer:
    with tempfile.TemporaryDirectory() as folder:
        return Tokenizer.open(tiny_tokenizers.save(Path(folder), tiny_tokenizers.KINDS[kind]()))


def deltas(tokenizer: Tokenizer, ids: list[int], skip_special_tokens: bool = True) -> list[str]:
    stream = Detokenizer(tokenizer, skip_special_tokens)
    return [*(stream.add(token_id) for token_id in ids), stream.flush()]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200, deadline=None)
@given(data=st.data(), skip=st.booleans())
def test_streamed_text_equals_the_whole_for_any_ids(kind: str, data: st.DataObject, skip: bool) -> None:
    tokenizer = opened(kind)
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size + 3), max_size=40))
    assert "".join(deltas(tokenizer, ids, skip)) == tokenizer.decode(ids, skip)


SCRIPTS = st.text(
    st.sampled_from("ab .,!▁\n é ö e\u0301 n\u0303 你好世界 한국어 こんにちは 👩‍👩‍👧 🏳️‍🌈 👍🏽 ⑀ \ufffd \U0001d4b3"),
    max_size=30,
)


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback", "metaspace"])
@settings(max_examples=200, deadline=None)
@given(text=SCRIPTS)
def test_no_delta_shows_a_part_of_a_character(kind: str, text: str) -> None:
    tokenizer = opened(kind)
    ids = tokenizer.encode(text)
    whole = tokenizer.decode(ids)
    pieces = deltas(tokenizer, ids)
    assert "".join(pieces) == whole
    if "\ufffd" not in text:
        assert not any("\ufffd" in piece for piece in pieces)


@settings(max_examples=50, deadline=None)
@given(ids=st.lists(st.integers(0, 49151), max_size=60), text=SCRIPTS)
def test_streaming_is_exact_on_smollm(smollm: Path, ids: list[int], text: str) -> None:
    tokenizer = smollm_tokenizer(smollm)
    for some in (ids, tokenizer.encode(text)):
        assert "".join(deltas(tokenizer, some)) == tokenizer.decode(some)


@functools.cache
def smollm_tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer.open(folder)


def test_leading_spaces_are_kept_between_words_and_dropped_at_the_beginning() -> None:
    tokenizer = opened("byte_fallback")
    pieces = deltas(tokenizer, tokenizer.encode("the fox the dog", add_special_tokens=False))
    assert not pieces[0].startswith(" ")
    assert "".join(pieces) == "the fox the dog"


def test_text_comes_as_soon_as_its_character_is_whole() -> None:
    tokenizer = opened("byte_level")
    ids = tokenizer.encode("👍x", add_special_tokens=False)
    assert deltas(tokenizer, ids) == ["", "", "", "👍", "x", ""]


def test_a_long_run_of_byte_tokens_is_shown_before_it_ends() -> None:
    tokenizer = opened("byte_fallback")
    text = "ខ្មែរ" * 20  # three bytes each, none of them in the vocabulary
    ids = tokenizer.encode(text, add_special_tokens=False)
    pieces = deltas(tokenizer, ids)
    assert "".join(pieces) == text
    shown = [len("".join(pieces[: end + 1]).encode()) for end in range(len(pieces))]
    behind = [end - bytes_ for end, bytes_ in enumerate(shown)]
    assert max(behind) <= detokenizer.MAX_HELD_BYTES + 4


def test_a_broken_character_at_the_end_is_shown_as_one_replacement() -> None:
    tokenizer = opened("byte_level")
    ids = tokenizer.encode("ok 👍", add_special_tokens=False)[:-1]
    assert "".join(deltas(tokenizer, ids)) == "ok \ufffd" == tokenizer.decode(ids)

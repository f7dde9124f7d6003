"""What of an answer's tokens is shown: special tokens, the token that ends it, stop strings of either."""

from __future__ import annotations

import pytest

from app.inference.text_stream import TextRules, TextStream
from app.inference.tokenizer import Tokenizer
from tests.inference import tiny_tokenizers


@pytest.fixture(scope="module", params=["byte_level", "byte_fallback", "metaspace"])
def tokenizer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    folder = tmp_path_factory.mktemp(request.param)
    config = {"additional_special_tokens": ["<|im_end|>", "<|call|>"]}
    made = tiny_tokenizers.KINDS[request.param]()
    return Tokenizer.open(tiny_tokenizers.save(folder, made, tokenizer_config=config))


def told(tokenizer: Tokenizer, text: str, **rules: object) -> tuple[str, bool]:
    """The text of an answer that is `text`, and whether a stop string ended it."""
    stream = TextStream(tokenizer, TextRules(**rules))  # type: ignore[arg-type]
    shown = "".join([stream.add(token) for token in tokenizer.encode(text, add_special_tokens=False)])
    shown += stream.finish()
    assert shown == stream.text
    return shown.strip(), stream.stopped


def test_a_stop_string_that_is_a_special_token_ends_the_answer(tokenizer: Tokenizer) -> None:
    assert told(tokenizer, "The fox<|im_end|> jumps", stops=("<|im_end|>",)) == ("The fox", True)


def test_special_tokens_within_a_longer_stop_string_are_found(tokenizer: Tokenizer) -> None:
    text = "The fox<|call|> jumps<|im_end|> over"
    assert told(tokenizer, text, stops=("jumps<|im_end|>",))[1]
    assert told(tokenizer, text, stops=("sleeps<|im_end|>",)) == (told(tokenizer, text)[0], False)


def test_other_stop_strings_read_past_special_tokens(tokenizer: Tokenizer) -> None:
    tokens = tokenizer.encode("The fox jumps", add_special_tokens=False)
    text, call = tokenizer.decode(tokens), tokenizer.id_of("<|call|>")
    assert call is not None
    stream = TextStream(tokenizer, TextRules(stops=(text[-8:], "<|im_end|>")))
    for token in (*tokens[:-1], call, tokens[-1]):
        stream.add(token)
    stream.finish()
    assert stream.stopped and stream.text == text[:-8]


def test_special_tokens_are_shown_where_that_is_wanted(tokenizer: Tokenizer) -> None:
    text = "The fox<|call|>"
    assert told(tokenizer, text)[0] == "The fox"
    assert "<|call|>" in told(tokenizer, text, skip_special=False)[0]
    assert told(tokenizer, text, skip_special=False, stops=("<|call|>",)) == ("The fox", True)


def test_what_ended_the_answer_belongs_to_it_where_that_is_wanted(tokenizer: Tokenizer) -> None:
    text = "The fox<|im_end|>"
    shown, stopped = told(tokenizer, text, stops=("<|im_end|>",), include_stop=True)
    assert stopped and shown == "The fox<|im_end|>"


@pytest.mark.parametrize("include", [False, True])
def test_a_token_that_ends_the_answer_is_no_part_of_it_unless_that_is_wanted(
    tokenizer: Tokenizer, include: bool
) -> None:
    tokens = tokenizer.encode("The fox jumps", add_special_tokens=False)
    stream = TextStream(tokenizer, TextRules(include_stop=include))
    for token in tokens[:-1]:
        stream.add(token)
    stream.add(tokens[-1], ends=True)
    stream.finish()
    assert stream.text == tokenizer.decode(tokens if include else tokens[:-1])


def test_no_stop_string_counts_before_the_least_number_of_tokens(tokenizer: Tokenizer) -> None:
    count = len(tokenizer.encode("The fox", add_special_tokens=False))
    assert told(tokenizer, "The fox fox", stops=("fox",), min_tokens=0) == ("The", True)
    assert told(tokenizer, "The fox fox", stops=("fox",), min_tokens=count) == ("The fox", True)

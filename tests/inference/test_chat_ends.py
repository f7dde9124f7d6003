"""A chat model's answers end where its template ends an assistant's message, whatever its configs name."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import AddedToken

from app.inference.chat_ends import chat_end, with_chat_ends
from app.inference.chat_template import ChatTemplate
from app.inference.tokenizer import Tokenizer
from tests.inference.tiny_tokenizers import byte_level, save

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


@pytest.fixture
def tokenizer(tmp_path: Path) -> Tokenizer:
    """With a token each for the beginning and the end of a message, and configs that name another end."""
    made = byte_level()
    made.add_special_tokens([AddedToken(text, special=True) for text in ("<|im_start|>", "<|im_end|>")])
    config = {"eos_token": "<eos>", "bos_token": "<bos>"}
    return Tokenizer.open(save(tmp_path, made, tokenizer_config=config, config={"eos_token_id": 1}))


def chat(source: str, tokenizer: Tokenizer) -> ChatTemplate:
    return ChatTemplate({"default": source}, tokenizer.named_tokens)


@pytest.mark.parametrize(
    ("source", "end"),
    [
        (CHATML, "<|im_end|>"),
        ("{% for m in messages %}{{ m.content }} {{ eos_token }}{% endfor %}", "<eos>"),
        ("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}", None),
        ("{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}{% endfor %}", None),
        ("{% for m in messages %}{{ m.content }} <tool>{% endfor %}", None),
        ("<|im_end|>{{ messages[0].content }}<|im_end|>", None),
        ("{{ raise_exception('no') }}", None),
        ("{{ broken", None),
    ],
)
def test_the_end_is_the_special_token_behind_an_answer(source: str, end: str | None, tokenizer: Tokenizer) -> None:
    expected = None if end is None else tokenizer.id_of(end)
    assert chat_end(tokenizer, chat(source, tokenizer)) == expected


def test_the_end_of_a_message_is_added_to_those_that_the_configs_name(tokenizer: Tokenizer) -> None:
    found = with_chat_ends(tokenizer, chat(CHATML, tokenizer))
    assert found.eos_ids == (1, tokenizer.id_of("<|im_end|>"))
    assert with_chat_ends(found, chat(CHATML, tokenizer)) is found
    assert with_chat_ends(tokenizer, None) is tokenizer

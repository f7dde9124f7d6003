"""The files of a tokenizer, looked at without transformers: which there are, and whether their ids fit the model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tokenizers

from app.errors import ModelError
from app.models.checkpoint import TOKENIZER, TOKENIZER_CONFIG, read_json

VOCABULARY, MERGES, WORDS = "vocab.json", "merges.txt", "vocab.txt"
SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "spm.model")
OLDER = (*SENTENCEPIECE, "tiktoken.model", VOCABULARY, WORDS)
"""Files that a tokenizer.json can be made of, the more telling ones first: SentencePiece's may come with a vocab.json
that holds nothing new."""


def tokenizer_source(folder: Path) -> str | None:
    """The file that a tokenizer.json can be made of; None where there is none, or a tokenizer.json already."""
    if (folder / TOKENIZER).is_file():
        return None
    return next((name for name in OLDER if (folder / name).is_file()), None)


def tokens_outside(folder: Path, rows: int) -> tuple[tuple[int, str], ...]:
    """Tokens of a tokenizer.json, and of the tokenizer_config.json beside it, with ids of `rows` or more.

    Raises:
        ModelError: one of the two cannot be read.
    """
    path = folder / TOKENIZER
    try:
        known = tokenizers.Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    except Exception as error:  # the Rust side raises plain Exception for whatever it cannot parse
        raise ModelError(f"{path} cannot be read: {error}.", "Get the file again from where the model came.") from error
    config = read_json(folder / TOKENIZER_CONFIG) if (folder / TOKENIZER_CONFIG).is_file() else {}
    for text in _named(config):
        known.setdefault(text, max(known.values(), default=-1) + 1)  # as transformers adds them
    return tuple(sorted((index, text) for text, index in known.items() if index >= rows))


def _named(config: Mapping[str, Any]) -> Iterator[str]:
    """Texts of the tokens that tokenizer_config.json adds, in transformers' order."""
    listed = config.get("added_tokens_decoder")
    if isinstance(listed, Mapping):
        yield from (text for key in sorted(listed, key=_number) if (text := _text(listed[key])))
    for name, value in config.items():
        if name.endswith("_token") and (text := _text(value)):
            yield text


def _number(key: str) -> int:
    return int(key) if key.isdecimal() else 0


def _text(value: Any) -> str:
    content = value.get("content") if isinstance(value, Mapping) else value
    return content if isinstance(content, str) else ""

"""The files of a tokenizer, looked at without transformers: which there are, and whether their ids fit the model."""

from __future__ import annotations

from pathlib import Path

from app.models.checkpoint import TOKENIZER
from app.models.tokenizer_reading import read_tokenizer

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
    """Tokens of a tokenizer.json, and of what the files beside it add, with ids of `rows` or more.

    Raises:
        ModelError: one of the two cannot be read.
    """
    backend, _ = read_tokenizer(folder)
    known = backend.get_vocab(with_added_tokens=True)
    return tuple(sorted((index, text) for text, index in known.items() if index >= rows))

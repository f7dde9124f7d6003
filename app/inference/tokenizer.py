"""A model's tokenizer, read with `tokenizers` alone, so that the controller never imports transformers.

Text in, token ids out and back, and the ids that have a meaning of their own (end of text, specials). The ids are those
of the file, or those of the class that is named for it in transformers where that class knows better: what
`AutoTokenizer` makes of it was kept when the model was added, unless it leaves out what a tokenizer of bytes does to a
text (`models/tokenizer_conversion.py`). A model that was added under another rule keeps the tokenizer that it got.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from app.models.tokenizer_reading import read_json, read_tokenizer


@dataclass(frozen=True)
class Tokenizer:
    """Made by `open`. Safe to use from several threads: encoding and decoding change nothing."""

    backend: tokenizers.Tokenizer
    named_tokens: Mapping[str, str]
    """`bos_token`, `eos_token`, … -> the token's text; what a chat template gets as variables."""
    eos_ids: tuple[int, ...]
    """Generation ends with any of these: generation_config's, config's and the tokenizer's own."""
    special_ids: frozenset[int]

    @classmethod
    def open(cls, folder: Path, tokenizer_folder: Path | None = None) -> Tokenizer:
        """Read `tokenizer.json` and what the other JSON files of a model folder say about tokens.

        Args:
            folder: the model's, whose configs say which tokens end a text.
            tokenizer_folder: where the tokenizer's own files lie; None for the model's folder.

        Raises:
            ModelError: there is no `tokenizer.json`, or one of the files cannot be read.
        """
        backend, named = read_tokenizer(tokenizer_folder or folder)
        special = frozenset(index for index, token in backend.get_added_tokens_decoder().items() if token.special)
        own = backend.token_to_id(named["eos_token"]) if "eos_token" in named else None
        return cls(backend, named, end_ids(folder, own), special)

    @cached_property
    def special_texts(self) -> tuple[str, ...]:
        """How the special tokens are spelt."""
        return tuple(text for token in sorted(self.special_ids) if (text := self.text_of(token)))

    @property
    def vocab_size(self) -> int:
        """How many ids the tokenizer knows, added tokens included; the model's matrix may have more rows."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def to_json(self) -> bytes:
        """The whole tokenizer, with what other files added to it, as a `tokenizer.json`."""
        return str(self.backend.to_str()).encode()

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`. Without special tokens for text that a chat template has rendered."""
        return list(self.backend.encode(text, add_special_tokens=add_special_tokens).ids)

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Text of the ids. Ids that the tokenizer does not know (padding rows of the matrix) show nothing."""
        return self.backend.decode(list(ids), skip_special_tokens=skip_special_tokens)

    def text_of(self, token_id: int) -> str | None:
        """The vocabulary's own spelling of one token, or None when there is no such token."""
        return self.backend.id_to_token(token_id)

    def id_of(self, token: str) -> int | None:
        """The id of a token by its spelling in the vocabulary."""
        return self.backend.token_to_id(token)


def end_ids(folder: Path, of_tokenizer: int | None = None) -> tuple[int, ...]:
    """All ends of text that a model folder names, in generation_config, config and the tokenizer.

    Any of them may lack one: a chat model's config often has the end of a document alone, its tokenizer the end of
    a message. Raises ModelError when a file cannot be read.
    """
    config = read_json(folder / "config.json")
    sources = (read_json(folder / "generation_config.json"), config, config.get("text_config"))
    found = [end for source in sources if isinstance(source, Mapping) for end in _ids(source.get("eos_token_id"))]
    return tuple(dict.fromkeys([*found, *_ids(of_tokenizer)]))


def _ids(value: Any) -> tuple[int, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(dict.fromkeys(v for v in values if isinstance(v, int) and not isinstance(v, bool) and v >= 0))

"""A model's tokenizer, read with `tokenizers` alone, so that the controller never imports transformers.

Text in, token ids out and back, and the ids that have a meaning of their own (end of text, specials). The ids equal
those of transformers' `AutoTokenizer` for a folder with a `tokenizer.json`: that file's post-processor decides about
bos and eos, and the special tokens that only `tokenizer_config.json` names are added in the same order.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import tokenizers

from app.errors import ModelError

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""transformers' standard names; a chat template sees those that the model sets."""


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
        place = tokenizer_folder or folder
        backend = _read_backend(place / "tokenizer.json")
        config = read_json(place / "tokenizer_config.json")
        if "added_tokens_decoder" not in config:
            config |= read_json(place / "special_tokens_map.json")
        _add_tokens(backend, config)
        named = {name: text for name in NAMED_TOKENS if (text := _token_text(config.get(name)))}
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


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file, empty when there is none. Raises ModelError when it cannot be read."""
    try:
        content = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path} cannot be read: {error}.", "Get the file again from where the model came.") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path} holds no JSON object.", "Get the file again from where the model came.")
    return content


def _read_backend(path: Path) -> tokenizers.Tokenizer:
    if not path.is_file():
        raise ModelError(
            f"{path.parent} has no tokenizer.json, so text cannot be turned into tokens.",
            "Save the tokenizer there with transformers (AutoTokenizer.from_pretrained(…).save_pretrained(folder)), "
            "or give the prompt as token ids.",
        )
    try:
        backend = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the Rust side raises plain Exception for whatever it cannot parse
        raise ModelError(f"{path} cannot be read: {error}.", "Get the file again from where the model came.") from error
    backend.no_truncation()  # a stored truncation would silently shorten prompts
    backend.no_padding()
    return backend


def _add_tokens(backend: tokenizers.Tokenizer, config: Mapping[str, Any]) -> None:
    """Add what `tokenizer_config.json` names and `tokenizer.json` lacks, in transformers' order: it sets the ids."""
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    listed = config.get("added_tokens_decoder")
    if isinstance(listed, Mapping):
        for _, entry in sorted(listed.items(), key=lambda item: int(item[0])):
            token = _added_token(entry)
            if token is not None and token.content not in known:
                backend.add_tokens([token])
                known.add(token.content)
    for value in _special_values(config):
        text = _token_text(value)
        if text and text not in known:
            token = _added_token(value) or tokenizers.AddedToken(text, normalized=False)
            token.special = True
            backend.add_special_tokens([token])
            known.add(text)


def _special_values(config: Mapping[str, Any]) -> Iterable[Any]:
    """Named tokens first, then the lists of further ones, then a model's own `…_token` entries."""
    for name in NAMED_TOKENS:
        yield config.get(name)
    extra = config.get("extra_special_tokens") or config.get("additional_special_tokens") or ()
    yield from extra.values() if isinstance(extra, Mapping) else extra
    for name, value in config.items():
        if name.endswith("_token") and name not in NAMED_TOKENS and isinstance(value, str):
            yield value


def _token_text(value: Any) -> str:
    """tokenizer_config.json has a token as its text or as an object with flags."""
    if isinstance(value, Mapping):
        value = value.get("content")
    return value if isinstance(value, str) else ""


def _added_token(entry: Any) -> tokenizers.AddedToken | None:
    if not isinstance(entry, Mapping) or not _token_text(entry):
        return None
    flags = {
        name: bool(entry[name])
        for name in ("single_word", "lstrip", "rstrip", "normalized", "special")
        if isinstance(entry.get(name), bool)
    }
    return tokenizers.AddedToken(_token_text(entry), **flags)


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

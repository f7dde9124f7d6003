"""Reads a tokenizer of a model's folder with `tokenizers` alone, as transformers' plain class does: the special tokens
that only `tokenizer_config.json` names are added in the same order, since that sets their ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tokenizers

from app.errors import ModelError
from app.models.checkpoint import TOKENIZER, TOKENIZER_CONFIG

NAMED_TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""transformers' standard names; a chat template sees those that the model sets."""


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


def read_tokenizer(folder: Path) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """The tokenizer of a folder's `tokenizer.json` and of what the files beside it add, and its named tokens' texts.

    Raises ModelError when there is no such file, or one of them cannot be read.
    """
    backend = _read_backend(folder / TOKENIZER)
    config = read_json(folder / TOKENIZER_CONFIG)
    if "added_tokens_decoder" not in config:
        config |= read_json(folder / "special_tokens_map.json")
    try:
        _add_tokens(backend, config)
    except ValueError as error:
        raise ModelError(
            f"{folder / TOKENIZER_CONFIG} lists added tokens (added_tokens_decoder) by what is no number: {error}.",
            "Get the file again from where the model came.",
        ) from error
    return backend, {name: text for name in NAMED_TOKENS if (text := _token_text(config.get(name)))}


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

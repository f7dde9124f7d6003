"""Token ids to text while they stream in, never showing half a character.

`add` returns the text that is certain now; all that it returned plus `flush` equals `Tokenizer.decode` of all ids.
Three ways, chosen by the decoder that `tokenizer.json` names:

- byte-level BPE: tokens are bytes, an incremental UTF-8 decoder holds back an unfinished character;
- SentencePiece's kind (`▁` for a space, byte tokens `<0xE2>`): token by token; a run of byte tokens is shown when it
  ends, for only then `tokenizers` knows whether the run is valid UTF-8;
- any other (WordPiece, none, …): the last tokens are decoded again together with the new one and the difference is
  shown (the prefix offset technique of text-generation-inference and vLLM).
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from app.inference.tokenizer import Tokenizer

MAX_HELD_BYTES = 64
"""A longer run of byte tokens (a script that the vocabulary lacks) is shown as it comes, character by character.

Should such a run turn out to be broken UTF-8 in the end, then its good characters stay, where `tokenizers` would turn
the whole run into replacement characters.
"""
MAX_HELD_TOKENS = 16
"""How long the third way waits for a replacement character at the end to become a real one."""
REPLACEMENT = "\ufffd"
_BYTE_TOKEN = re.compile("<0x([0-9a-fA-F]{2})>")


class _Stream(Protocol):
    def add(self, token: str) -> str: ...

    def flush(self) -> str: ...

    def bytes_of(self, token: str) -> bytes: ...


class Detokenizer:
    """The text of one sequence. Special tokens, but for those in `shown`, and ids without a token show nothing."""

    def __init__(
        self, tokenizer: Tokenizer, skip_special_tokens: bool = True, shown: frozenset[int] = frozenset()
    ) -> None:
        self._tokenizer = tokenizer
        self._skipped = tokenizer.special_ids - shown if skip_special_tokens else frozenset[int]()
        self._stream = _open_stream(tokenizer)

    def add(self, token_id: int) -> str:
        """Take the next token; the text that may be shown now."""
        if token_id in self._skipped:
            return ""
        token = self._tokenizer.text_of(token_id)
        return "" if token is None else self._stream.add(token)

    def flush(self) -> str:
        """The sequence is over: what was held back, an unfinished character as U+FFFD."""
        return self._stream.flush()

    def bytes_of(self, token_id: int) -> bytes:
        """The UTF-8 bytes that a token puts into the middle of a text, perhaps a part of a character.

        Special tokens by their spelling, though they show nothing; nothing for an id without a token.
        """
        token = self._tokenizer.text_of(token_id)
        if token is None:
            return b""
        return (
            token.encode("utf-8", "replace")
            if token_id in self._tokenizer.special_ids
            else self._stream.bytes_of(token)
        )


def _open_stream(tokenizer: Tokenizer) -> _Stream:
    decoder = tokenizer.backend.decoder
    # Its pickled state is its JSON: a hundred times faster to get than the whole tokenizer's.
    steps = _flatten(None if decoder is None else json.loads(decoder.__getstate__()))
    if [step["type"] for step in steps] == ["ByteLevel"]:
        return _ByteLevelStream()
    pieces = _read_pieces(steps)
    return _WindowStream(tokenizer) if pieces is None else _PieceStream(pieces)


def _flatten(decoder: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if decoder is None:
        return []
    if decoder["type"] != "Sequence":
        return [decoder]
    return [step for inner in decoder["decoders"] for step in _flatten(inner)]


# --- byte-level BPE ---


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + index): byte for index, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()


class _ByteLevelStream:
    def __init__(self) -> None:
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def add(self, token: str) -> str:
        return self._utf8.decode(self.bytes_of(token))

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)

    def bytes_of(self, token: str) -> bytes:
        try:
            return bytes([_BYTE_OF[character] for character in token])
        except KeyError:  # an added token, spelt as it is
            return token.encode("utf-8", "replace")


# --- SentencePiece's kind ---


@dataclass(frozen=True)
class _Pieces:
    """How a decoder of this kind turns tokens into text."""

    replace: tuple[tuple[str, str], ...] = ()
    byte_fallback: bool = False
    strip: str = ""
    strip_count: int = 0
    """Up to so many `strip` characters are taken off the beginning of the whole text."""
    drop_first: str = ""
    """All of these characters are dropped from the first token (Metaspace)."""


def _read_pieces(steps: list[Mapping[str, Any]]) -> _Pieces | None:
    """Understand `Metaspace` or `Replace*, ByteFallback?, Fuse?, Strip?`; None for anything else."""
    if not steps:
        return None
    if [step["type"] for step in steps] == ["Metaspace"]:
        mark = steps[0]["replacement"]
        drop = "" if steps[0].get("prepend_scheme", "always") == "never" else mark
        return _Pieces(replace=((mark, " "),), drop_first=drop)
    remaining = list(steps)
    replace: list[tuple[str, str]] = []
    while remaining and remaining[0]["type"] == "Replace" and "String" in remaining[0]["pattern"]:
        step = remaining.pop(0)
        replace.append((step["pattern"]["String"], step["content"]))
    byte_fallback = _take(remaining, "ByteFallback") is not None
    fused = _take(remaining, "Fuse") is not None
    strip = _take(remaining, "Strip") if fused else None
    if remaining or (strip is not None and strip["stop"]):
        return None
    return _Pieces(tuple(replace), byte_fallback, strip["content"] if strip else "", strip["start"] if strip else 0)


def _take(steps: list[Mapping[str, Any]], kind: str) -> Mapping[str, Any] | None:
    return steps.pop(0) if steps and steps[0]["type"] == kind else None


class _PieceStream:
    def __init__(self, pieces: _Pieces) -> None:
        self._pieces = pieces
        self._first = True
        self._to_strip = pieces.strip_count
        self._run = bytearray()
        self._long_run: codecs.IncrementalDecoder | None = None

    def add(self, token: str) -> str:
        first, self._first = self._first, False
        for old, new in (*((self._pieces.drop_first, ""),) * first, *self._pieces.replace):
            token = token.replace(old, new) if old else token
        if self._pieces.byte_fallback and (match := _BYTE_TOKEN.fullmatch(token)):
            return self._strip(self._add_byte(int(match[1], 16)))
        return self._strip(self._end_run() + token)

    def flush(self) -> str:
        return self._strip(self._end_run())

    def bytes_of(self, token: str) -> bytes:
        for old, new in self._pieces.replace:
            token = token.replace(old, new)
        if self._pieces.byte_fallback and (match := _BYTE_TOKEN.fullmatch(token)):
            return bytes((int(match[1], 16),))
        return token.encode("utf-8", "replace")

    def _add_byte(self, byte: int) -> str:
        if self._long_run is not None:
            return self._long_run.decode(bytes((byte,)))
        self._run.append(byte)
        if len(self._run) < MAX_HELD_BYTES:
            return ""
        self._long_run = codecs.getincrementaldecoder("utf-8")(errors="replace")
        text = self._long_run.decode(bytes(self._run))
        self._run.clear()
        return text

    def _end_run(self) -> str:
        if self._long_run is not None:
            text = self._long_run.decode(b"", True)
            self._long_run = None
            return text
        run = bytes(self._run)
        self._run.clear()
        try:
            return run.decode("utf-8")
        except UnicodeDecodeError:
            return REPLACEMENT * len(run)

    def _strip(self, text: str) -> str:
        while self._to_strip and text:
            if not text.startswith(self._pieces.strip):
                self._to_strip = 0
                break
            text = text[len(self._pieces.strip) :]
            self._to_strip -= 1
        return text


# --- any other ---


class _WindowStream:
    def __init__(self, tokenizer: Tokenizer) -> None:
        self._decoder = tokenizer.backend.decoder
        self._context: list[str] = []
        """Tokens that are shown already; decoded along, for a token's text may depend on the one before."""
        self._pending: list[str] = []

    def add(self, token: str) -> str:
        self._pending.append(token)
        return self._show(hold=len(self._pending) < MAX_HELD_TOKENS)

    def flush(self) -> str:
        return self._show(hold=False)

    def bytes_of(self, token: str) -> bytes:
        before = self._context or [token]
        return self._decode([*before, token])[len(self._decode(before)) :].encode("utf-8", "replace")

    def _show(self, hold: bool) -> str:
        before = self._decode(self._context)
        text = self._decode(self._context + self._pending)
        if hold and (text.endswith(REPLACEMENT) or len(text) <= len(before)):
            return ""
        self._context, self._pending = (self._pending or self._context), []
        return text[len(before) :]

    def _decode(self, tokens: list[str]) -> str:
        return " ".join(tokens) if self._decoder is None else self._decoder.decode(tokens)

"""Makes a tokenizer.json of the older files of a tokenizer, by transformers' own converters: `vocab.json` with
`merges.txt`, SentencePiece models, tiktoken's tables; and where there is one that transformers reads otherwise than it
says. Needs transformers: child processes only.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import AutoTokenizer, GPT2Tokenizer, TokenizersBackend
from transformers.utils import logging
from transformers.utils.import_utils import is_protobuf_available, is_sentencepiece_available

from app.models.checkpoint import CHAT_TEMPLATES, MORE_CHAT_TEMPLATES, TOKENIZER_CONFIG, TOKENIZER_FILES, read_json
from app.models.tokenizer_files import MERGES, SENTENCEPIECE, VOCABULARY, WORDS, tokenizer_source
from app.models.tokenizer_reading import read_tokenizer

GPT2_SPECIAL = "<|endoftext|>"

BYTES = "ByteLevel"
"""The step that writes a text as its bytes, in tokenizer.json."""

KNOWN = 0.95
"""Share of the files' tokens that a converted tokenizer must have. transformers makes one of three tokens where it
finds no file under the name that the model's usual tokenizer has; some leave out tokens that mean nothing."""


def convert_tokenizer(folder: Path, target: Path) -> str:
    """Write the tokenizer in a model's folder to the folder `target`, as transformers saves it.

    Special tokens, added tokens and chat templates come with it.

    Returns:
        Why not, as a sentence; empty when there is one now.
    """
    source = tokenizer_source(folder)
    if source is None:
        return ""
    logging.set_verbosity_error()  # what it says about the files is told by the return value
    if source in SENTENCEPIECE and not (is_sentencepiece_available() and is_protobuf_available()):
        return (
            f"Reading the tokenizer in {source} needs the packages sentencepiece and protobuf, which are not installed."
        )
    tokens = _tokens(folder / source)
    reasons: list[str] = []
    for make in _ways(folder, source, tokens):
        try:
            made = make()
            backend: Tokenizer = made.backend_tokenizer
        except Exception as error:  # files can be broken in any way, and the Rust side raises plain Exception
            reasons.append(f"{type(error).__name__}: {error}".splitlines()[0])
            continue
        if lacking := _lacking(backend, tokens):
            reasons.append(f"{type(made).__name__} does not know its tokens, {lacking!r} for one")
            continue
        _save(made, folder, target)
        return ""
    return f"The tokenizer in {source} cannot be read: {reasons[0][:300]}."


def tokenizer_as_made(folder: Path, target: Path) -> bool:
    """Write to the folder `target` what transformers makes of a model's tokenizer.json, if that is another tokenizer.

    Many classes take the file's vocabulary alone and bring their own ways of dividing a text: Llama's for one puts no
    space behind a special token, whatever the file says. Some add a beginning or an end that tokenizer_config.json
    wants and the file does not. Where such a class leaves out a step of a tokenizer of bytes, as GPT-2's does with a
    division of numbers into digits, that is no better knowledge but a loss: the model was made with the step.

    Returns:
        Whether there is another now, to be used instead of the file. Not where transformers cannot read the file, and
        not where it leaves out a step.

    Raises:
        ModelError: there is no tokenizer.json, or it cannot be read.
    """
    logging.set_verbosity_error()
    said, _ = read_tokenizer(folder)
    try:
        made = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        backend: Tokenizer = made.backend_tokenizer
    except Exception:  # files can be broken in any way, and the Rust side raises plain Exception
        return False
    if _parts(backend) == _parts(said) or _leaves_out_steps(backend, said):
        return False
    _save(made, folder, target)
    return True


def _leaves_out_steps(made: Tokenizer, said: Tokenizer) -> bool:
    """Whether a tokenizer lacks a step by which the file's, one of bytes, changes or divides a text.

    Of other kinds nothing can be told by this: what a SentencePiece model does is written as a normalizer by some and
    as a pre-tokenizer by others. Of the step of bytes itself the class may know better: it brings a division by a
    pattern where the file leaves that to the step, and a prefix may be wanted by tokenizer_config.json.
    """
    wanted = _steps(said.pre_tokenizer)
    if BYTES not in wanted:
        return False
    return not (wanted <= _steps(made.pre_tokenizer) and _steps(said.normalizer) <= _steps(made.normalizer))


def _steps(part: Any) -> frozenset[str]:
    """The steps of a normalizer or a pre-tokenizer, sequences taken apart: each as its JSON, but bytes as a word."""
    found: set[str] = set()
    rest = [] if part is None else [json.loads(part.__getstate__())]
    while rest:
        step = rest.pop()
        if step["type"] == "Sequence":
            rest += step.get("pretokenizers") or step.get("normalizers") or []
        else:
            found.add(BYTES if step["type"] == BYTES else json.dumps(step, sort_keys=True))
    return frozenset(found)


def _parts(tokenizer: Tokenizer) -> tuple[object, ...]:
    """All that decides about ids and texts."""
    parts = (
        tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.model, tokenizer.post_processor, tokenizer.decoder
    )  # fmt: skip
    added = {index: token.__getstate__() for index, token in tokenizer.get_added_tokens_decoder().items()}
    return (*(None if part is None else part.__getstate__() for part in parts), added)


def _save(made: Any, folder: Path, target: Path) -> None:
    """With the chat templates of the model's folder."""
    target.mkdir(parents=True, exist_ok=True)
    made.save_pretrained(target)
    for name in CHAT_TEMPLATES:
        if (folder / name).is_file() and not (target / name).exists():
            shutil.copyfile(folder / name, target / name)
    if (folder / MORE_CHAT_TEMPLATES).is_dir():
        for path in sorted((folder / MORE_CHAT_TEMPLATES).glob("*.jinja")):
            (target / MORE_CHAT_TEMPLATES).mkdir(exist_ok=True)
            shutil.copyfile(path, target / MORE_CHAT_TEMPLATES / path.name)


def _ways(folder: Path, source: str, tokens: frozenset[str]) -> Iterator[Callable[[], Any]]:
    """What to try, in order: the tokenizer that transformers would take, then the plain kind of such files."""
    yield lambda: AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    if source == VOCABULARY and (folder / MERGES).is_file():
        yield lambda: _plain_byte_level(folder, tokens)
    if source in SENTENCEPIECE:
        yield lambda: _plain_sentencepiece(folder, source)


def _plain_byte_level(folder: Path, tokens: frozenset[str]) -> Any:
    """GPT-2's kind, which vocab.json and merges.txt are of. Its special token is not added to a vocabulary without."""
    absent: dict[str, Any] = {}
    if GPT2_SPECIAL not in tokens:
        said: set[str] = set()
        for name in (TOKENIZER_CONFIG, "special_tokens_map.json"):
            if (folder / name).is_file():
                said |= read_json(folder / name).keys()
        absent = dict.fromkeys({"bos_token", "eos_token", "unk_token"} - said)
    return GPT2Tokenizer.from_pretrained(folder, local_files_only=True, **absent)


def _plain_sentencepiece(folder: Path, source: str) -> Any:
    """The tokenizer that the SentencePiece model itself describes, whatever its file is called."""
    with tempfile.TemporaryDirectory() as place:
        for name in (*TOKENIZER_FILES, "config.json"):
            if (folder / name).is_file() and name != source:
                shutil.copyfile(folder / name, Path(place) / name)
        shutil.copyfile(folder / source, Path(place) / SENTENCEPIECE[0])
        return TokenizersBackend.from_pretrained(place, local_files_only=True)


def _tokens(path: Path) -> frozenset[str]:
    """The tokens that the file lists; empty for formats that list none by name."""
    if path.name == VOCABULARY:
        with suppress(ValueError, OSError):
            return frozenset(json.loads(path.read_text("utf-8")))
    if path.name == WORDS:
        with suppress(ValueError, OSError):
            return frozenset(path.read_text("utf-8").splitlines())
    if path.name in SENTENCEPIECE:
        from transformers.convert_slow_tokenizer import import_protobuf

        proto = import_protobuf().ModelProto()
        with suppress(Exception):  # protobuf's own error; a tiktoken table has the same name and is no such file
            proto.ParseFromString(path.read_bytes())
            return frozenset(piece.piece for piece in proto.pieces)
    return frozenset()


def _lacking(backend: Tokenizer, tokens: frozenset[str]) -> str:
    """One of the tokens that a converted tokenizer should have and has not, if they are many."""
    lacking = tokens - backend.get_vocab().keys()
    few = max(3, int(len(tokens) * (1 - KNOWN)))
    return min(lacking) if len(lacking) > few else ""

"""Tokenizers of older files become a tokenizer.json, by transformers' own converters, with all that belongs to them."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import sentencepiece
import tokenizers
from tokenizers import Regex
from tokenizers.normalizers import NFC
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence, Split
from transformers import AutoTokenizer

from app.errors import ModelError
from app.inference.chat_template import ChatTemplate
from app.inference.tokenizer import Tokenizer
from app.models.inspect_process import settle_tokenizer
from app.models.library import ModelLibrary
from app.models.tokenizer_conversion import convert_tokenizer
from app.sharding.cutting import CuttingJob
from app.sharding.plan import divide
from tests.inference import tiny_tokenizers
from tests.inference.tiny_tokenizers import CORPUS, byte_level
from tests.models.described import described
from tests.tiny_model import change_json
from tests.worker_agent.tiny_models import make_model

TEXTS = [
    *CORPUS,
    " two  spaces\tand\n\nlines",
    "emoji 🦊 and “quotes”",
    "<|im_start|>user\nhi<|im_end|>",
    "",
]
CHAT = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
CONFIG = {
    "tokenizer_class": "GPT2Tokenizer",
    "bos_token": "<bos>",
    "eos_token": "<|im_end|>",
    "unk_token": None,
    "added_tokens_decoder": {
        "400": {"content": "<|im_start|>", "special": True},
        "401": {"content": "<|im_end|>", "special": True},
    },
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    make_model("llama", folder, num_hidden_layers=2, vocab_size=500)
    return folder


@pytest.fixture
def folder(model: Path, tmp_path: Path) -> Path:
    """A model's folder without a tokenizer."""
    place = tmp_path / "model"
    place.mkdir()
    for name in ("config.json", "generation_config.json", "model.safetensors"):
        (place / name).write_bytes((model / name).read_bytes())
    return place


def write_sentencepiece(path: Path, kind: str) -> sentencepiece.SentencePieceProcessor:
    """A small model as Llama's: bytes for what it lacks, spaces kept as they are."""
    made = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 20), model_writer=made, model_type=kind,
        vocab_size=420 if kind == "bpe" else 330, byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    path.write_bytes(made.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=made.getvalue())


def converted(folder: Path) -> Tokenizer:
    """The tokenizer as a request sees it, once the model was added."""
    target = folder.parent / "tokenizer"
    assert convert_tokenizer(folder, target) == ""
    return Tokenizer.open(folder, target)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "opt"])
def test_vocab_and_merges_alone_give_the_ids_of_the_tokenizer_they_came_from(model_type: str, folder: Path) -> None:
    original = byte_level()
    original.model.save(str(folder))
    change_json(folder / "config.json", model_type=model_type)
    tokenizer = converted(folder)
    for text in TEXTS:
        assert tokenizer.encode(text, add_special_tokens=False) == original.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_added_and_special_tokens_and_the_chat_template_are_kept(folder: Path) -> None:
    byte_level().model.save(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps({**CONFIG, "chat_template": CHAT}))
    tokenizer = converted(folder)
    assert (tokenizer.id_of("<|im_start|>"), tokenizer.id_of("<|im_end|>")) == (400, 401)
    assert tokenizer.encode("<|im_end|>", add_special_tokens=False) == [401]
    assert {400, 401} <= tokenizer.special_ids
    assert tokenizer.named_tokens["eos_token"] == "<|im_end|>"
    reference = AutoTokenizer.from_pretrained(folder)
    assert [tokenizer.encode(text) for text in TEXTS] == [reference.encode(text) for text in TEXTS]
    template = ChatTemplate.open(folder.parent / "tokenizer", tokenizer.named_tokens)
    messages = [{"role": "user", "content": "hi"}]
    assert template is not None
    assert template.render(messages) == reference.apply_chat_template(messages, tokenize=False)


@pytest.mark.parametrize("name", ["chat_template.jinja", "chat_template.json"])
def test_a_chat_template_in_a_file_of_its_own_is_kept(name: str, folder: Path) -> None:
    byte_level().model.save(str(folder))
    (folder / name).write_text(CHAT if name.endswith("jinja") else json.dumps({"chat_template": CHAT}))
    tokenizer = converted(folder)
    template = ChatTemplate.open(folder.parent / "tokenizer", tokenizer.named_tokens)
    assert template is not None
    assert template.source() == CHAT


def test_chat_templates_besides_the_usual_one_are_kept(folder: Path) -> None:
    byte_level().model.save(str(folder))
    (folder / "additional_chat_templates").mkdir()
    for name in ("chat_template.jinja", "additional_chat_templates/tool_use.jinja"):
        (folder / name).write_text(name)
    converted(folder)
    template = ChatTemplate.open(folder.parent / "tokenizer", {})
    assert template is not None and set(template.sources) == {"default", "tool_use"}


@pytest.mark.parametrize("name", ["tokenizer.model", "spiece.model"])
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_sentencepiece_model_gives_its_own_ids_whatever_its_name(kind: str, name: str, folder: Path) -> None:
    original = write_sentencepiece(folder / name, kind)
    tokenizer = converted(folder)
    for text in TEXTS:
        assert tokenizer.encode(text, add_special_tokens=False) == original.encode(text), text
    assert tokenizer.named_tokens == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


@pytest.mark.parametrize("name", ["vocab.json", "spiece.model"])
def test_files_that_the_named_class_does_not_look_for_are_read_all_the_same(name: str, folder: Path) -> None:
    """transformers makes such a class of three tokens."""
    if name == "vocab.json":
        original = byte_level()
        original.model.save(str(folder))

        def encode(text: str) -> list[int]:
            return original.encode(text, add_special_tokens=False).ids
    else:
        encode = write_sentencepiece(folder / name, "bpe").encode
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer"}))
    assert len(AutoTokenizer.from_pretrained(folder)) < 10
    tokenizer = converted(folder)
    for text in TEXTS:
        assert tokenizer.encode(text, add_special_tokens=False) == encode(text), text


def test_a_sentencepiece_model_of_a_known_class_begins_as_that_class_does(folder: Path) -> None:
    write_sentencepiece(folder / "tokenizer.model", "bpe")
    fields = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(fields))
    tokenizer, reference = converted(folder), AutoTokenizer.from_pretrained(folder)
    assert tokenizer.encode("The dog")[0] == tokenizer.id_of("<s>")
    assert [tokenizer.encode(text) for text in TEXTS] == [reference.encode(text) for text in TEXTS]


def test_a_table_of_tiktoken_under_the_same_name_is_told_apart(folder: Path) -> None:
    import base64

    ranks = [bytes([byte]) for byte in range(256)] + [b"th", b"the"]
    lines = (f"{base64.b64encode(token).decode()} {rank}" for rank, token in enumerate(ranks))
    (folder / "tokenizer.model").write_text("\n".join(lines))
    tokenizer = converted(folder)
    assert tokenizer.encode("the", add_special_tokens=False) == [257]
    assert tokenizer.decode([257, 32, 256]) == "the th"


@pytest.mark.parametrize("content", [b"", b"\x00\x01 no model", b"{"])
@pytest.mark.parametrize("name", ["tokenizer.model", "vocab.json"])
def test_a_file_that_cannot_be_read_is_noted_and_the_model_is_taken(name: str, content: bytes, folder: Path) -> None:
    (folder / name).write_bytes(content)
    (folder / "merges.txt").write_text("#version: 0.2\n")
    description = described(folder)
    assert not description.has_tokenizer
    (note,) = description.notes
    assert note.startswith(f"The tokenizer in {name} cannot be read: ")


def test_the_library_keeps_what_was_converted_and_shards_get_it(folder: Path, tmp_path: Path) -> None:
    byte_level().model.save(str(folder))
    (folder / "tokenizer_config.json").write_text(json.dumps({**CONFIG, "chat_template": CHAT}))
    before = sorted(path.name for path in folder.iterdir())
    library = ModelLibrary(tmp_path / "library")
    description = library.add(str(folder), name="older")
    assert description.has_tokenizer
    assert description.tokenizer_path == tmp_path / "library" / "older" / "tokenizer"
    assert sorted(path.name for path in folder.iterdir()) == before, "the model's own folder is left as it was"
    (tmp_path / "library").rename(tmp_path / "moved")
    moved = ModelLibrary(tmp_path / "moved").get("older")
    tokenizer = Tokenizer.open(moved.path, moved.tokenizer_path)
    assert tokenizer.id_of("<|im_end|>") == 401
    CuttingJob(moved, divide(moved, 2), tmp_path / "shards").run()
    reference = AutoTokenizer.from_pretrained(tmp_path / "shards" / "shard_0")
    assert [tokenizer.encode(text) for text in TEXTS] == [reference.encode(text) for text in TEXTS]
    assert reference.chat_template == CHAT


PROBES = [
    *TEXTS,
    "<s>[INST] The dog",
    " x",
    "<s> a</s>b <unk> c",
    "e\u0301 é 12345 don't",
    "<bos>The<eos> dog",
]


@pytest.mark.parametrize(
    ("kind", "model_type", "config", "kept"),
    [
        ("byte_fallback", "llama", {"tokenizer_class": "LlamaTokenizer"}, True),
        ("byte_fallback", "llama", {"tokenizer_class": "LlamaTokenizerFast", "legacy": False}, True),
        ("byte_fallback", "llama", {"tokenizer_class": "LlamaTokenizer", "legacy": True}, True),
        ("byte_fallback", "gemma", {"tokenizer_class": "GemmaTokenizer"}, True),
        ("byte_fallback", "mistral", {"tokenizer_class": "LlamaTokenizer"}, False),
        ("byte_fallback", "phi3", {"tokenizer_class": "LlamaTokenizer"}, False),
        ("byte_fallback", "llama", {"tokenizer_class": "PreTrainedTokenizerFast"}, False),
        ("byte_level", "qwen2", {"tokenizer_class": "Qwen2Tokenizer"}, True),
        ("byte_level", "gpt2", {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<bos>"}, True),
        ("metaspace", "t5", {"tokenizer_class": "T5Tokenizer"}, True),
    ],
)
def test_ids_are_those_of_the_class_that_transformers_takes_for_the_files(
    kind: str, model_type: str, config: dict[str, object], kept: bool, tmp_path: Path
) -> None:
    """Llama's own class for one reads the vocabulary alone and divides texts in its own way."""
    place, target = tmp_path / "model", tmp_path / "kept"
    place.mkdir()
    tokenizer = tiny_tokenizers.KINDS[kind]()
    tiny_tokenizers.save(place, tokenizer, config={"model_type": model_type}, tokenizer_config=config)
    found = settle_tokenizer(place, str(target), rows=10_000)
    assert (found.found, found.notes, found.folder) == (True, (), str(target) if kept else "")
    ours, theirs = Tokenizer.open(place, Path(found.folder or place)), AutoTokenizer.from_pretrained(place)
    for text in PROBES:
        for special in (True, False):
            ids = ours.encode(text, add_special_tokens=special)
            assert ids == theirs.encode(text, add_special_tokens=special), text
            assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


NUMBERS = [*PROBES, "In 1234567 days, at 12:30", "x = 40 + 2", "a  12\n\n345"]
THREE_DIGITS = r" ?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+|\s+"
SPLIT = Sequence([Split(Regex(THREE_DIGITS), "isolated"), ByteLevel(add_prefix_space=False, use_regex=False)])
DIGITS = Sequence([Digits(individual_digits=True), ByteLevel(add_prefix_space=False)])


def byte_level_in_steps(steps: Sequence) -> tokenizers.Tokenizer:
    """A tokenizer of bytes that divides texts in these steps, with numbers of several digits as tokens."""
    tokenizer = byte_level(("1234567", " 12", " 40", "12345"))
    tokenizer.pre_tokenizer = steps
    return tokenizer


@pytest.mark.parametrize(
    ("steps", "model_type", "named"),
    [
        (DIGITS, "llama", "GPT2Tokenizer"),  # SmolLM2's kind
        (DIGITS, "starcoder2", "GPT2Tokenizer"),
        (SPLIT, "llama", "GPT2Tokenizer"),
        (SPLIT, "qwen2", "Qwen2Tokenizer"),  # which brings another one
    ],
)
def test_a_division_that_the_named_class_leaves_out_is_the_files(
    steps: Sequence, model_type: str, named: str, tmp_path: Path
) -> None:
    """The model was made with it: numbers would come as other ids."""
    place, target = tmp_path / "model", tmp_path / "kept"
    place.mkdir()
    said = byte_level_in_steps(steps)
    config = {"tokenizer_class": named}
    tiny_tokenizers.save(place, said, config={"model_type": model_type}, tokenizer_config=config)
    theirs = AutoTokenizer.from_pretrained(place)
    assert any(theirs.encode(text) != said.encode(text).ids for text in NUMBERS), "the class would do as well"
    found = settle_tokenizer(place, str(target), rows=10_000)
    ours = Tokenizer.open(place, Path(found.folder or place))
    assert [ours.encode(text) for text in NUMBERS] == [said.encode(text).ids for text in NUMBERS]
    assert ours.encode("12")[0] == ours.id_of("<bos>")


def test_a_normalizer_that_the_named_class_leaves_out_is_the_files(tmp_path: Path) -> None:
    place, target = tmp_path / "model", tmp_path / "kept"
    place.mkdir()
    said = byte_level_in_steps(Sequence([ByteLevel(add_prefix_space=False)]))
    said.normalizer = NFC()
    config = {"tokenizer_class": "GPT2Tokenizer"}
    tiny_tokenizers.save(place, said, config={"model_type": "llama"}, tokenizer_config=config)
    found = settle_tokenizer(place, str(target), rows=10_000)
    ours = Tokenizer.open(place, Path(found.folder or place))
    assert ours.encode("e\u0301") == ours.encode("é")


def test_a_tokenizer_that_was_made_of_a_gguf_file_is_kept_as_it_is(tmp_path: Path) -> None:
    config = {"tokenizer_class": "LlamaTokenizer"}
    tokenizer = tiny_tokenizers.byte_fallback()
    tiny_tokenizers.save(tmp_path, tokenizer, config={"model_type": "llama"}, tokenizer_config=config)
    assert settle_tokenizer(tmp_path, str(tmp_path / "kept"), rows=10_000, made=True).folder == ""


def test_added_tokens_under_what_is_no_number_are_said_of_the_model(tmp_path: Path) -> None:
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "added_tokens_decoder": {"x": {"content": "<x>"}}}
    tiny_tokenizers.save(tmp_path, tiny_tokenizers.byte_level(), tokenizer_config=config)
    found = settle_tokenizer(tmp_path, "", rows=10_000)
    assert not found.found
    assert "lists added tokens (added_tokens_decoder) by what is no number" in found.notes[0]
    with pytest.raises(ModelError, match="by what is no number"):
        Tokenizer.open(tmp_path)

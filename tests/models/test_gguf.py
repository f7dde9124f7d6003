"""GGUF files become Hugging Face folders, bit for bit as transformers itself would make them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFWriter
from gguf.quants import dequantize, quantize
from safetensors.torch import save_file
from transformers.convert_slow_tokenizer import bytes_to_unicode

from app.errors import BadInput, ModelError
from app.models.gguf import ConvertRequest, model_files
from app.models.gguf_header import read_gguf_header
from app.models.gguf_process import _save_tokenizer, convert
from app.models.library import ModelLibrary
from app.models.safetensors_file import read_header
from app.models.sources import recognise
from app.sharding.cut import cut_model
from tests.models.described import described, ignore_progress, tensors_of

HIDDEN, HEADS, KV_HEADS, FORWARD, WORDS, EXPERTS = 64, 4, 2, 96, 120, 4


def write_llama(
    path: Path,
    *,
    kind: GGMLQuantizationType = GGMLQuantizationType.Q8_0,
    tied: bool = True,
    each: int = 0,
    hidden: int = HIDDEN,
    kv_heads: int = KV_HEADS,
    besides: Callable[[GGUFWriter], object] = lambda _: None,
) -> Path:
    """A tiny llama with random quantized weights and no tokenizer; `each` tensors a file, or all in one for 0.

    With as many heads for keys as for queries it says nothing of them. `besides` writes what else the file has.
    """
    forward = FORWARD if hidden == HIDDEN else 2 * hidden
    writer = GGUFWriter(path, "llama", split_max_tensors=each)
    writer.add_name("tiny")
    writer.add_block_count(3)
    writer.add_context_length(256)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(forward)
    writer.add_head_count(HEADS)
    if kv_heads != HEADS:
        writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(WORDS)
    besides(writer)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd": (WORDS, hidden),
        **({} if tied else {"output": (WORDS, hidden)}),
    }
    for block in range(3):
        prefix = f"blk.{block}."
        shapes |= {
            f"{prefix}attn_q": (hidden, hidden),
            f"{prefix}attn_k": (hidden // HEADS * kv_heads, hidden),
            f"{prefix}attn_v": (hidden // HEADS * kv_heads, hidden),
            f"{prefix}attn_output": (hidden, hidden),
            f"{prefix}ffn_gate": (forward, hidden),
            f"{prefix}ffn_up": (forward, hidden),
            f"{prefix}ffn_down": (hidden, forward),
            f"{prefix}attn_norm": (hidden,),
            f"{prefix}ffn_norm": (hidden,),
        }
    shapes["output_norm"] = (hidden,)
    return write_tensors(writer, path, shapes, kind)


def write_lfm2(path: Path, *, kind: GGMLQuantizationType = GGMLQuantizationType.Q8_0, each: int = 0) -> Path:
    """A tiny LFM2, which transformers reads in its newer way: a convolution, then a layer of attention."""
    writer = GGUFWriter(path, "lfm2", split_max_tensors=each)
    writer.add_block_count(2)
    writer.add_context_length(256)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FORWARD)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv([0, KV_HEADS])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_shortconv_l_cache(3)
    writer.add_token_list([f"word{number}" for number in range(WORDS)])
    shapes: dict[str, tuple[int, ...]] = {"token_embd": (WORDS, HIDDEN), "token_embd_norm": (HIDDEN,)}
    for block in range(2):
        prefix = f"blk.{block}."
        shapes |= {
            f"{prefix}attn_norm": (HIDDEN,),
            f"{prefix}ffn_norm": (HIDDEN,),
            f"{prefix}ffn_gate": (FORWARD, HIDDEN),
            f"{prefix}ffn_up": (FORWARD, HIDDEN),
            f"{prefix}ffn_down": (HIDDEN, FORWARD),
        }
    shapes |= {
        "blk.0.shortconv.in_proj": (3 * HIDDEN, HIDDEN),
        "blk.0.shortconv.out_proj": (HIDDEN, HIDDEN),
        "blk.1.attn_q": (HIDDEN, HIDDEN),
        "blk.1.attn_k": (HIDDEN // HEADS * KV_HEADS, HIDDEN),
        "blk.1.attn_v": (HIDDEN // HEADS * KV_HEADS, HIDDEN),
        "blk.1.attn_output": (HIDDEN, HIDDEN),
        "blk.1.attn_q_norm": (HIDDEN // HEADS,),
        "blk.1.attn_k_norm": (HIDDEN // HEADS,),
    }
    writer.add_tensor(
        "blk.0.shortconv.conv.weight", np.random.default_rng(4).standard_normal((HIDDEN, 3)).astype(np.float32)
    )
    return write_tensors(writer, path, shapes, kind)


def write_qwen3_moe(
    path: Path,
    *,
    kind: GGMLQuantizationType = GGMLQuantizationType.Q8_0,
    each: int = 0,
    hidden: int = HIDDEN,
    forward: int = FORWARD,
    finer: Mapping[str, GGMLQuantizationType] = MappingProxyType({}),
) -> Path:
    """A tiny mixture: what a layer's experts have stands stacked in three tensors, its router in floats."""
    writer = GGUFWriter(path, "qwen3moe", split_max_tensors=each)
    writer.add_block_count(2)
    writer.add_context_length(256)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(forward)
    writer.add_expert_feed_forward_length(forward)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(hidden // HEADS)
    writer.add_value_length(hidden // HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_expert_count(EXPERTS)
    writer.add_expert_used_count(2)
    writer.add_vocab_size(WORDS)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd": (WORDS, hidden), "output": (WORDS, hidden), "output_norm": (hidden,)
    }  # fmt: skip
    for block in range(2):
        prefix = f"blk.{block}."
        shapes |= {
            f"{prefix}attn_norm": (hidden,),
            f"{prefix}ffn_norm": (hidden,),
            f"{prefix}attn_q": (hidden, hidden),
            f"{prefix}attn_k": (hidden // HEADS * KV_HEADS, hidden),
            f"{prefix}attn_v": (hidden // HEADS * KV_HEADS, hidden),
            f"{prefix}attn_output": (hidden, hidden),
            f"{prefix}attn_q_norm": (hidden // HEADS,),
            f"{prefix}attn_k_norm": (hidden // HEADS,),
            f"{prefix}ffn_gate_exps": (EXPERTS, forward, hidden),
            f"{prefix}ffn_up_exps": (EXPERTS, forward, hidden),
            f"{prefix}ffn_down_exps": (EXPERTS, hidden, forward),
        }
        router = np.random.default_rng(block).standard_normal((EXPERTS, hidden)).astype(np.float32)
        writer.add_tensor(f"{prefix}ffn_gate_inp.weight", router)
    return write_tensors(writer, path, shapes, kind, finer)


def write_tensors(
    writer: GGUFWriter,
    path: Path,
    shapes: dict[str, tuple[int, ...]],
    kind: GGMLQuantizationType,
    finer: Mapping[str, GGMLQuantizationType] = MappingProxyType({}),
) -> Path:
    random = np.random.default_rng(3)
    for name, shape in shapes.items():
        weights = random.standard_normal(shape).astype(np.float32)
        if len(shape) == 1 or kind == GGMLQuantizationType.F32:
            writer.add_tensor(f"{name}.weight", weights)
        else:
            of = finer.get(name.rpartition(".")[2], kind)
            writer.add_tensor(f"{name}.weight", quantize(weights, of), raw_dtype=of)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path if path.is_file() else sorted(path.parent.glob(f"{path.stem}-*.gguf"))[0]


def saved_by_transformers(path: Path, target: Path) -> dict[str, torch.Tensor]:
    from transformers import AutoModelForCausalLM, modeling_utils

    # It came without accelerate (conftest.py), which is only asked for here and not used.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(modeling_utils, "is_accelerate_available", lambda: True)
        model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name)
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(target)
    return tensors_of(target)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("kind", [GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q8_0, GGMLQuantizationType.F16])
def test_a_converted_file_equals_what_transformers_saves(
    kind: GGMLQuantizationType, tied: bool, tmp_path: Path
) -> None:
    path = write_llama(tmp_path / "tiny.gguf", kind=kind, tied=tied)
    convert(ConvertRequest(str(path), str(tmp_path / "ours"), dequantize=True), ignore_progress)
    expected = saved_by_transformers(path, tmp_path / "theirs")
    found = tensors_of(tmp_path / "ours")
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor), name
    for name in ("config.json", "generation_config.json"):
        assert (tmp_path / "ours" / name).read_text() == (tmp_path / "theirs" / name).read_text()
    found = described(tmp_path / "ours")
    assert (found.architecture, found.num_layers) == ("LlamaForCausalLM", 3)


def test_a_file_of_the_newer_way_equals_what_transformers_saves(tmp_path: Path) -> None:
    path = write_lfm2(tmp_path / "tiny.gguf")
    convert(ConvertRequest(str(path), str(tmp_path / "ours"), dequantize=True), ignore_progress)
    expected = saved_by_transformers(path, tmp_path / "theirs")
    found = tensors_of(tmp_path / "ours")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("write", [write_llama, write_lfm2])
@pytest.mark.parametrize("number", [0, 1, -1])
def test_any_file_of_a_split_model_stands_for_all_of_them(
    write: Callable[..., Path], number: int, tmp_path: Path
) -> None:
    whole = write(tmp_path / "whole.gguf")
    write(tmp_path / "model.gguf", each=4)
    files = sorted(tmp_path.glob("model-*-of-*.gguf"))
    assert len(files) > 3
    convert(ConvertRequest(str(whole), str(tmp_path / "expected")), ignore_progress)
    convert(ConvertRequest(str(files[number]), str(tmp_path / "found")), ignore_progress)
    expected, found = tensors_of(tmp_path / "expected"), tensors_of(tmp_path / "found")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    config = "config.json"
    assert (tmp_path / "found" / config).read_text() == (tmp_path / "expected" / config).read_text()


def test_a_folder_with_a_split_model_is_that_model(tmp_path: Path) -> None:
    folder = tmp_path / "files"
    folder.mkdir()
    write_llama(folder / "tiny.Q8_0.gguf", each=8)
    (folder / "mmproj-tiny.gguf").write_bytes(b"GGUF")
    description = ModelLibrary(tmp_path / "library").add(str(folder))
    assert (description.name, description.source, description.num_layers) == ("tiny.Q8_0", "gguf", 3)


def test_a_missing_file_of_a_split_model_is_named(tmp_path: Path) -> None:
    first = write_llama(tmp_path / "model.gguf", each=8)
    files = sorted(tmp_path.glob("model-*.gguf"))
    files[1].unlink()
    with pytest.raises(ModelError, match=rf"one of {len(files)} files of a model, and 1 of them .*: {files[1].name}"):
        ModelLibrary(tmp_path / "library").add(str(first))


def test_files_of_two_split_models_are_not_taken_for_one(tmp_path: Path) -> None:
    write_llama(tmp_path / "model.gguf", each=8)
    files = sorted(tmp_path.glob("model-*.gguf"))
    shutil.copy(files[0], files[1])
    with pytest.raises(ModelError, match=f"says that it is file 1 of {len(files)}, and it stands as 2 of {len(files)}"):
        convert(ConvertRequest(str(files[0]), str(tmp_path / "out")), ignore_progress)


def test_a_piece_under_another_name_is_refused_with_the_reason(tmp_path: Path) -> None:
    write_llama(tmp_path / "model.gguf", each=8)
    piece = sorted(tmp_path.glob("model-*.gguf"))[0].rename(tmp_path / "renamed.gguf")
    with pytest.raises(ModelError, match=r"file 1 of \d+, and it stands as 1 of 1\. Give the files the names"):
        convert(ConvertRequest(str(piece), str(tmp_path / "out")), ignore_progress)


def test_a_folder_with_two_gguf_models_asks_for_one(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / f"{name}.gguf").write_bytes(b"GGUF")
    with pytest.raises(BadInput, match="holds 2 models as GGUF files: one, two"):
        recognise(str(tmp_path))


def test_the_library_adds_a_gguf_file_through_a_child_process(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "tiny.Q8_0.gguf")
    library = ModelLibrary(tmp_path / "library")
    description = library.add(str(path))
    assert (description.name, description.source, description.num_layers) == ("tiny.Q8_0", "gguf", 3)
    assert not description.has_tokenizer and "tokenizer cannot be read" in " ".join(description.notes)
    path.unlink()  # the library holds the weights itself
    assert library.digests(description).parts()


@pytest.mark.parametrize(
    ("kind", "name", "noted"),
    [("gpt2", "smollm", True), ("gpt2", "llama-bpe", False), ("gpt2", "gpt-2", False), ("gpt2", "", False),
     ("llama", "smollm", False)],
)  # fmt: skip
def test_a_division_of_texts_that_transformers_has_no_pattern_for_is_noted(
    kind: str, name: str, noted: bool, tmp_path: Path
) -> None:
    letters = [*bytes_to_unicode().values(), '!"']

    def with_tokenizer(writer: GGUFWriter) -> None:
        writer.add_tokenizer_model(kind)
        if name:
            writer.add_tokenizer_pre(name)
        writer.add_token_list(letters)
        writer.add_token_merges(['! "'])
        writer.add_token_scores([0.0] * len(letters))

    path = write_llama(tmp_path / "tiny.gguf", besides=with_tokenizer)
    notes = _save_tokenizer(path, tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.json").is_file()
    assert [("(tokenizer.ggml.pre = smollm)" in note and "other token ids" in note) for note in notes] == [True] * noted


def test_a_truncated_file_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:-1000])
    library = ModelLibrary(tmp_path / "library")
    with pytest.raises(ModelError, match=r"tiny\.gguf is truncated: the tensor '.*' ends at byte"):
        library.add(str(path))
    assert library.list() == ()
    assert [entry.name for entry in (tmp_path / "library" / ".incoming").iterdir() if entry.is_dir()] == []


def test_every_truncation_of_the_header_is_refused(tmp_path: Path) -> None:
    content = write_llama(tmp_path / "tiny.gguf").read_bytes()
    header = read_gguf_header(tmp_path / "tiny.gguf")
    data = sum(tensor.nbytes for tensor in header.tensors)
    for length in range(0, len(content) - data, 37):
        (tmp_path / "tiny.gguf").write_bytes(content[:length])
        with pytest.raises(ModelError, match="truncated"):
            read_gguf_header(tmp_path / "tiny.gguf")


@pytest.mark.parametrize(
    ("offset", "content", "words"),
    [
        (0, b"GGUX", "is no GGUF file"),
        (4, b"\x01", "GGUF version 1; versions 2 and 3"),
        (8, b"\xff" * 8, "tensors and .* keys are announced"),
        (24, b"\xff" * 8, "truncated"),
    ],
)
def test_a_damaged_header_is_refused(tmp_path: Path, offset: int, content: bytes, words: str) -> None:
    path = write_llama(tmp_path / "tiny.gguf")
    whole = bytearray(path.read_bytes())
    whole[offset : offset + len(content)] = content
    path.write_bytes(whole)
    with pytest.raises(ModelError, match=words):
        read_gguf_header(path)


def test_an_architecture_that_transformers_cannot_read_is_named(tmp_path: Path) -> None:
    writer = GGUFWriter(tmp_path / "x.gguf", "nobody_knows_this")
    writer.add_tensor("a.weight", np.zeros((4, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelError, match=r"x\.gguf cannot be converted.*nobody_knows_this"):
        convert(ConvertRequest(str(tmp_path / "x.gguf"), str(tmp_path / "out")), ignore_progress)


def test_a_file_that_only_has_the_ending(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_text("hello")
    with pytest.raises(ModelError, match="is no GGUF file"):
        ModelLibrary(tmp_path / "library").add(str(tmp_path / "x.gguf"))
    (tmp_path / "x.txt").write_text("hello")
    with pytest.raises(BadInput, match="is a file, but no GGUF file"):
        ModelLibrary(tmp_path / "library").add(str(tmp_path / "x.txt"))


@pytest.mark.parametrize("each", [0, 8], ids=["whole", "split"])
@pytest.mark.parametrize("write", [write_llama, write_lfm2, write_qwen3_moe])
@pytest.mark.parametrize("kind", [GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q5_1, GGMLQuantizationType.Q8_0])
def test_matrices_stay_in_their_blocks_and_mean_what_transformers_reads(
    kind: GGMLQuantizationType, write: Callable[..., Path], each: int, tmp_path: Path
) -> None:
    if (write, kind) == (write_lfm2, GGMLQuantizationType.Q5_1):
        pytest.skip("transformers' newer way does not know Q5_1")
    path = write(tmp_path / "tiny.gguf", kind=kind, each=each)
    outcome = convert(ConvertRequest(str(path), str(tmp_path / "ours")), ignore_progress)
    assert "floats were made" not in " ".join(outcome.notes)
    convert(ConvertRequest(str(path), str(tmp_path / "floats"), dequantize=True), ignore_progress)
    description, stored, floats = (
        described(tmp_path / "ours"),
        tensors_of(tmp_path / "ours"),
        tensors_of(tmp_path / "floats"),
    )
    assert stored.keys() == floats.keys()
    kinds = {tensor.name: tensor for part in description.parts for tensor in part.tensors}
    matrices = [
        name
        for name in floats
        if floats[name].dim() >= 2 and not name.endswith(("conv.conv.weight", ".mlp.gate.weight"))
    ]
    assert {name for name, tensor in kinds.items() if tensor.dtype == kind.name} == set(matrices)
    for name, tensor in floats.items():
        if name in matrices:
            assert kinds[name].shape == tuple(tensor.shape)
            assert torch.equal(torch.from_numpy(dequantize(stored[name].numpy(), kind)), tensor), name
        else:
            assert torch.equal(stored[name], tensor)
    file = sum(tensor.nbytes for piece in model_files(path) for tensor in read_gguf_header(piece).tensors)
    assert description.weight_bytes == file
    assert description.parameters == described(tmp_path / "floats").parameters


def test_experts_whose_matrices_are_of_unlike_formats_keep_each_its_own(tmp_path: Path) -> None:
    """As mixtures have them (Q4_K_M): what leads out of an expert is finer than what leads in."""
    fine, coarse = GGMLQuantizationType.Q8_0, GGMLQuantizationType.Q4_0
    path = write_qwen3_moe(tmp_path / "tiny.gguf", kind=coarse, finer={"ffn_down_exps": fine})
    outcome = convert(ConvertRequest(str(path), str(tmp_path / "ours")), ignore_progress)
    assert "floats were made" not in " ".join(outcome.notes)
    kinds = {t.name: t.dtype for part in described(tmp_path / "ours").parts for t in part.tensors}
    names = [f"model.layers.1.mlp.experts.{which}_proj" for which in ("gate_up", "down")]
    assert [kinds[name] for name in names] == ["Q4_0", "Q8_0"]


def test_experts_of_a_format_without_a_kernel_become_floats_and_the_model_says_so(tmp_path: Path) -> None:
    kinds = {"ffn_up_exps": GGMLQuantizationType.TQ2_0}
    path = write_qwen3_moe(tmp_path / "tiny.gguf", forward=256, hidden=256, finer=kinds)
    outcome = convert(ConvertRequest(str(path), str(tmp_path / "ours")), ignore_progress)
    note = next(note for note in outcome.notes if "floats were made" in note)
    assert note.startswith("Of 6 matrices of the file, blk.0.ffn_") and "(Q8_0, TQ2_0)" in note


def test_heads_that_are_permuted_take_their_rows_of_blocks_along(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "tiny.gguf", kind=GGMLQuantizationType.Q8_0)
    convert(ConvertRequest(str(path), str(tmp_path / "ours")), ignore_progress)
    raw = next(tensor for tensor in GGUFReader(path).tensors if tensor.name == "blk.0.attn_q.weight")
    found = tensors_of(tmp_path / "ours")["model.layers.0.self_attn.q_proj.weight"].numpy()
    assert not np.array_equal(found, raw.data)
    assert sorted(map(bytes, found)) == sorted(map(bytes, raw.data))


def test_matrices_without_a_kernel_become_floats_and_the_model_says_so(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "tiny.gguf", kind=GGMLQuantizationType.TQ2_0, hidden=256)
    description = ModelLibrary(tmp_path / "library").add(str(path))
    note = next(note for note in description.notes if "floats were made" in note)
    assert "TQ2_0" in note and "token_embd.weight" in note
    assert all(tensor.dtype == "F32" for part in description.parts for tensor in part.tensors)


def test_a_shard_folder_keeps_blocks_as_they_are(tmp_path: Path) -> None:
    path = write_llama(tmp_path / "tiny.gguf", kind=GGMLQuantizationType.Q4_0)
    library = ModelLibrary(tmp_path / "library")
    description = library.add(str(path))
    result = cut_model(library, description.name, num_shards=2, output_dir=tmp_path / "shards")
    kept = {tensor.name: tensor for part in description.parts for tensor in part.tensors}
    seen = set()
    for shard in result.shards:
        for tensor in read_header(Path(shard.folder), "model.safetensors"):
            assert (tensor.dtype, tensor.shape) == (kept[tensor.name].dtype, kept[tensor.name].shape)
            seen.add(tensor.name)
    assert seen == kept.keys()


@pytest.mark.parametrize(
    ("formats", "words"),
    [
        ('{"a": "Q9_9"}', "in blocks of 'Q9_9'"),
        ('{"b": "Q4_0"}', "'b' in blocks"),
        ('{"a": "Q4_K"}', "its rows of 36 bytes are not"),
        ("[", "corrupted"),
    ],
)
def test_metadata_that_say_wrong_things_of_blocks_are_refused(formats: str, words: str, tmp_path: Path) -> None:
    save_file({"a": torch.zeros(4, 36, dtype=torch.uint8)}, tmp_path / "x.safetensors", {"shardboard.blocks": formats})
    with pytest.raises(ModelError, match=words):
        read_header(tmp_path, "x.safetensors")

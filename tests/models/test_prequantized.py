"""Models that are quantized already keep their matrices in few bits, which mean exactly what their formats say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from app.children.work import JobProgress
from app.errors import BadInput, Cancelled, ModelError
from app.models.library import ModelLibrary
from app.models.prequantized import RepackRequest, prequantized
from app.models.prequantized_process import repack
from tests.models.described import cut_as_added, described, ignore_progress, tensors_of
from tests.models.prequantized_models import (
    FORMATS,
    Packer,
    bitsandbytes,
    fp8,
    gptq,
    hqq,
    packed,
    said_by_hqq,
    write_quantized,
)
from tests.tiny_model import change_json
from tests.worker_agent.ring import Ring, random_prompt
from tests.worker_agent.tiny_models import VOCABULARY, greedy, make_model
from worker_agent.model.linears.blocks.formats import Blocks

GPT_OSS: dict[str, object] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "num_local_experts": 4,
    "num_experts_per_tok": 2, "max_position_embeddings": 512, "sliding_window": 16, "pad_token_id": 0,
    "eos_token_id": 2, "layer_types": ["sliding_attention", "full_attention"], "rope_parameters": None,
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_a_quantized_model_becomes_blocks_that_mean_the_same_to_the_bit(name: str, tmp_path: Path) -> None:
    pack, said, format_ = FORMATS[name]
    _, meant = write_quantized(tmp_path / "model", pack, said)
    outcome = repack(RepackRequest(str(tmp_path / "model"), str(tmp_path / "ours")), ignore_progress)
    stored, description = tensors_of(tmp_path / "ours"), described(tmp_path / "ours")
    kinds = {tensor.name: tensor for part in description.parts for tensor in part.tensors}
    assert stored.keys() == meant.keys() == kinds.keys()
    for each, weight in meant.items():
        if each.endswith("proj.weight"):
            assert (kinds[each].dtype, kinds[each].shape) == (format_, tuple(weight.shape))
            assert torch.equal(Blocks(format_, stored[each], weight.shape[1]).unfolded(), weight), each
        else:
            assert torch.equal(stored[each].float(), weight) and stored[each].dtype == torch.float16
    assert "quantization_config" not in json.loads((tmp_path / "ours" / "config.json").read_text())
    note = next(note for note in outcome.notes if "stored quantized" in note)
    assert f"blocks of {format_}, and mean exactly the same" in note
    assert prequantized({"quantization_config": said}).words in note  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "pack", "format_"),
    [
        ("bitsandbytes, NF4, nested", bitsandbytes("nf4", 64, nested=True), "NF4_32"),
        ("HQQ, 4 bits", hqq(4, 64), "AFFINE4_32"),
    ],
)
def test_blocks_that_rows_end_within_are_halved(name: str, pack: Packer, format_: str, tmp_path: Path) -> None:
    """Codes are counted through the whole matrix there, so with rows of 96 a scale may belong to two rows."""
    said = FORMATS[name][1]
    _, meant = write_quantized(
        tmp_path / "model", pack, said, hidden_size=96, intermediate_size=96, num_hidden_layers=1, head_dim=32,
        num_attention_heads=3, num_key_value_heads=1,
    )  # fmt: skip
    repack(RepackRequest(str(tmp_path / "model"), str(tmp_path / "ours")), ignore_progress)
    stored = tensors_of(tmp_path / "ours")
    for each, weight in meant.items():
        if each.endswith("proj.weight"):
            assert torch.equal(Blocks(format_, stored[each], weight.shape[1]).unfolded(), weight), each


@pytest.mark.parametrize(
    ("pack", "said", "why"),
    [
        (gptq(4, 128, desc_act=True), {"quant_method": "gptq", "bits": 4, "group_size": 128}, "desc_act"),
        (gptq(4, 16), {"quant_method": "gptq", "bits": 4, "group_size": 16}, "groups of 16"),
        (
            packed(8, 64, sym=False, dtype=torch.float32),
            FORMATS["compressed-tensors, 8 bits, asymmetric"][1], "round twice",
        ),
    ],
)  # fmt: skip
def test_what_no_format_of_blocks_holds_exactly_becomes_floats_and_the_model_says_so(
    pack: Any, said: dict[str, Any], why: str, tmp_path: Path
) -> None:
    _, meant = write_quantized(tmp_path / "model", pack, said)
    outcome = repack(RepackRequest(str(tmp_path / "model"), str(tmp_path / "ours")), ignore_progress)
    stored = tensors_of(tmp_path / "ours")
    note = next(note for note in outcome.notes if "floats were made" in note)
    assert why in note and "Of 21 matrices of the files" in note
    assert all(torch.equal(stored[name], weight.half()) for name, weight in meant.items())


def test_the_library_adds_a_quantized_folder_and_holds_its_weights_itself(tmp_path: Path) -> None:
    pack, said, _ = FORMATS["AWQ"]
    write_quantized(tmp_path / "model", pack, said)
    (tmp_path / "model" / "generation_config.json").write_text('{"temperature": 0.5}')
    library = ModelLibrary(tmp_path / "library")
    with pytest.raises(BadInput, match=r"AWQ, 4 bits, groups of 128.*Add the model to the library first"):
        library.describe(str(tmp_path / "model"))
    description = library.add(str(tmp_path / "model"))
    assert (description.source, description.origin) == ("folder", str(tmp_path / "model"))
    assert any("21 matrices are stored quantized (AWQ, 4 bits, groups of 128)" in note for note in description.notes)
    assert (description.path / "generation_config.json").read_text() == '{"temperature": 0.5}'
    for path in (tmp_path / "model").iterdir():
        path.unlink()
    assert library.digests(description).parts()
    assert not description.changed_files()


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path, {"format": "pt"})
    held = {name: path.name for path in folder.glob("*.safetensors") for name in load_file(path)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": held}))


Q = "model.layers.1.self_attn.q_proj"


def replaced(leaf: str, make: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[dict[str, torch.Tensor]], object]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        if f"{Q}.{leaf}" in tensors:
            tensors[f"{Q}.{leaf}"] = make(tensors[f"{Q}.{leaf}"]).contiguous()

    return change


def without(leaf: str) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors.pop(f"{Q}.{leaf}", None)


@pytest.mark.parametrize(
    ("format_", "change", "words"),
    [
        ("AWQ", without("scales"), rf"'{Q}' .* AWQ.*: {Q}\.scales is missing"),
        ("AWQ", without("qweight"), rf"no {Q}\.qweight"),
        ("AWQ", replaced("scales", lambda scales: scales[:1]), r"scales is 1 × 256, and 2 × 256 is what goes"),
        ("AWQ", replaced("qzeros", lambda zeros: zeros[:, :8]), r"qzeros is 2 × 8, and 2 × 32"),
        ("AWQ", replaced("qweight", lambda codes: codes.float()), r"qweight is of the dtype F32"),
        ("AWQ", replaced("scales", lambda scales: scales * torch.inf), r"no finite number in its scales"),
        ("GPTQ, 4 bits, symmetric", without("qzeros"), r"qzeros is missing"),
        ("GPTQ, 4 bits, symmetric", replaced("qweight", lambda codes: codes[:16]), r"scales is 2 × 256, and 1 × 256"),
        ("GPTQ, 4 bits, symmetric", replaced("g_idx", lambda index: index + 1), r"names groups that are not there"),
        ("GPTQ, 4 bits, symmetric", replaced("g_idx", lambda index: index[:9]), r"g_idx is 9, and 256"),
        ("compressed-tensors, 4 bits", without("weight_shape"), r"weight_shape is missing"),
        ("compressed-tensors, 4 bits", replaced("weight_shape", lambda shape: shape * 2), r"the matrix is 512 × 512"),
        ("compressed-tensors, 4 bits", replaced("weight_packed", lambda codes: codes[:, :9]), r"of shape \(256, 9\)"),
        ("compressed-tensors, 4 bits", replaced("weight_scale", lambda scales: scales[:9]), r"weight_scale is 9 × 2"),
        ("FP8 in blocks", without("weight_scale_inv"), r"weight_scale_inv is missing"),
        ("FP8 in blocks", replaced("weight_scale_inv", lambda scales: scales.T[:1]), r"is 1 × 2, and 2 × 2"),
        (
            "FP8 in blocks",
            replaced("weight", lambda codes: (codes.float() * torch.nan).to(torch.float8_e4m3fn)), "no finite number",
        ),
        ("bitsandbytes, NF4, nested", without("weight"), rf"{Q}\.weight is missing"),
        ("bitsandbytes, NF4, nested", without("weight.nested_absmax"), "nested_absmax is missing"),
        ("bitsandbytes, NF4, nested", replaced("weight.quant_map", lambda meant: meant.flip(0)), "not those of NF4"),
        ("bitsandbytes, NF4, nested", replaced("weight.absmax", lambda scales: scales[:9]), "absmax is 9, and 1024"),
        ("HQQ, 4 bits", without("zero"), r"zero is missing"),
        ("HQQ, 4 bits", replaced("axis", torch.zeros_like), r"axis=0"),
        ("HQQ, 4 bits", replaced("nbits", lambda bits: bits - 1), "HQQ with 3 bits"),
        ("HQQ, 4 bits", replaced("W_q", lambda codes: codes[:9]), "has 576 bytes, and its matrix is 256 × 256"),
    ],
)  # fmt: skip
def test_files_that_do_not_go_together_are_refused_with_the_reason_and_nothing_is_left(
    format_: str, change: Callable[[dict[str, torch.Tensor]], object], words: str, tmp_path: Path
) -> None:
    pack, said, _ = FORMATS[format_]
    write_quantized(tmp_path / "model", pack, said)
    change_weights(tmp_path / "model", change)
    library = ModelLibrary(tmp_path / "library")
    with pytest.raises(ModelError, match=words):
        library.add(str(tmp_path / "model"))
    assert library.list() == ()
    assert [entry for entry in (tmp_path / "library" / ".incoming").iterdir() if entry.is_dir()] == []


def test_a_truncated_file_is_refused_and_nothing_is_left(tmp_path: Path) -> None:
    pack, said, _ = FORMATS["AWQ"]
    write_quantized(tmp_path / "model", pack, said)
    file = tmp_path / "model" / "model-00002-of-00002.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(ModelError, match="is too short"):
        ModelLibrary(tmp_path / "library").add(str(tmp_path / "model"))
    assert [entry for entry in (tmp_path / "library" / ".incoming").iterdir() if entry.is_dir()] == []


def test_a_config_that_belongs_to_other_weights_is_refused(tmp_path: Path) -> None:
    write_quantized(tmp_path / "model", fp8((128, 128)), {"quant_method": "awq", "bits": 4, "group_size": 128})
    with pytest.raises(ModelError, match=r"quantized \(AWQ, 4 bits, groups of 128\), and none of the files is"):
        ModelLibrary(tmp_path / "library").add(str(tmp_path / "model"))
    write_quantized(tmp_path / "wide", gptq(4, 128), {"quant_method": "gptq", "bits": 8, "group_size": 128})
    with pytest.raises(ModelError, match=r"not those of a matrix in GPTQ, 8 bits.*scales is 3 × 256, and 2 × 256"):
        ModelLibrary(tmp_path / "library").add(str(tmp_path / "wide"))


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"quant_method": "aqlm"}, "the method is AQLM"),
        ({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 3}}}, "HQQ with 3 bits"),
        (said_by_hqq(4, 64, axis=0), r"HQQ with groups along the matrices' columns \(axis=0\)"),
        ({"quant_method": "never-heard-of"}, "the method is never-heard-of"),
        ({"load_in_4bit": True, "bnb_4bit_quant_type": "int4"}, "bitsandbytes with 4 bits of the kind 'int4'"),
        ({"quant_method": "bitsandbytes"}, "neither load_in_4bit nor load_in_8bit"),
        ({"bits": 4}, "does not say by which method"),
        ({"quant_method": "gptq", "bits": 3, "group_size": 128}, "GPTQ with 3 bits"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "checkpoint_format": "marlin"}, "for marlin kernels"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 0}, "groups of 0 weights"),
        ({"quant_method": "gptq", "group_size": 128}, "does not say bits"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemv"}, "for gemv kernels"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": False}, "without zero points"),
        ({"quant_method": "fp8", "fmt": "e5m2"}, "FP8 as e5m2"),
        ({"quant_method": "fp8", "weight_block_size": [128]}, r"blocks of \[128\]"),
        ({"quant_method": "compressed-tensors", "format": "pack-quantized"}, "without config_groups"),
        (
            {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized",
             "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "float"}}}}, "nvfp4-pack-quantized",
        ),
        (
            {"quant_method": "compressed-tensors", "format": "pack-quantized",
             "config_groups": {"group_0": {"weights": {"num_bits": 2, "type": "int"}}}}, "int weights of 2 bits",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_run_is_refused_by_name_with_advice(said: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words) as refused:
        prequantized({"model_type": "llama", "quantization_config": said})
    assert "Take the model's GPTQ, AWQ" in refused.value.advice
    with pytest.raises(ModelError, match=words):
        prequantized({"model_type": "mistral3", "text_config": {"quantization_config": said}})


def test_a_model_that_cannot_be_run_leaves_nothing_behind(tmp_path: Path) -> None:
    write_quantized(tmp_path / "model", gptq(4, 128), {"quant_method": "quark"})
    library = ModelLibrary(tmp_path / "library")
    with pytest.raises(ModelError, match="Quark"):
        library.add(str(tmp_path / "model"))
    assert library.list() == ()
    assert [entry for entry in (tmp_path / "library" / ".incoming").iterdir() if entry.is_dir()] == []


def write_gpt_oss(folder: Path) -> tuple[PreTrainedModel, dict[str, torch.Tensor]]:
    """A tiny gpt-oss whose experts are in MXFP4, and what transformers makes of them."""
    model = make_model("gpt_oss", folder, **GPT_OSS)
    chance = torch.Generator().manual_seed(9)
    tensors, meant = {}, {}
    for name, tensor in load_file(folder / "model.safetensors").items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            tensors[name] = tensor
            continue
        experts, columns, rows = tensor.shape
        blocks = torch.randint(0, 256, (experts, rows, columns // 32, 16), generator=chance, dtype=torch.uint8)
        scales = torch.randint(120, 124, blocks.shape[:-1], generator=chance, dtype=torch.uint8)
        tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
        meant[name] = convert_moe_packed_tensors(blocks, scales, dtype=torch.float32)
        assert meant[name].shape == tensor.shape
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    change_json(folder / "config.json", quantization_config={"quant_method": "mxfp4"})
    with torch.no_grad():
        for name, weight in meant.items():
            model.get_parameter(name).copy_(weight)
    return model, meant


def test_experts_of_gpt_oss_stay_in_mxfp4_and_answer_as_what_transformers_makes_of_them(tmp_path: Path) -> None:
    model, meant = write_gpt_oss(tmp_path / "model")
    outcome = repack(RepackRequest(str(tmp_path / "model"), str(tmp_path / "ours")), ignore_progress)
    assert "16 matrices are stored quantized (MXFP4, 4 bits, groups of 32)" in outcome.notes[0]
    stored = tensors_of(tmp_path / "ours")
    for name, weight in meant.items():
        experts, columns, rows = weight.shape
        found = Blocks("MXFP4", stored[name].reshape(experts * rows, -1), columns).unfolded()
        assert torch.equal(found.view(experts, rows, columns).transpose(1, 2), weight)
    ring = Ring.build(cut_as_added(tmp_path / "ours", tmp_path / "parts"), [1])
    prompt = random_prompt(9, VOCABULARY, 8)
    ring.start(1, prompt, 8)
    ring.finish()
    assert ring.answer(1) == greedy(model, prompt, 8)
    for runner in ring.runners:
        way = next(way for way in runner.stage.ways.report() if way.name == "blocks")
        assert (way.used, way.possible, way.why) == (1, 1, "")


@pytest.mark.parametrize("kind", ["mixtral", "qwen3_moe"])
def test_matrices_of_experts_stay_in_blocks_too(kind: str, tmp_path: Path) -> None:
    pack, said, format_ = FORMATS["AWQ, groups of 64"]
    names = ("proj.weight", "w1.weight", "w2.weight", "w3.weight")
    model, meant = write_quantized(
        tmp_path / "model", pack, said, kind=kind, names=names, moe_intermediate_size=64, vocab_size=VOCABULARY
    )
    del meant
    outcome = repack(RepackRequest(str(tmp_path / "model"), str(tmp_path / "ours")), ignore_progress)
    assert "48 matrices are stored quantized" in outcome.notes[0] and f"blocks of {format_}" in outcome.notes[0]
    ring = Ring.build(cut_as_added(tmp_path / "ours", tmp_path / "parts"), [1])
    prompt = random_prompt(9, VOCABULARY, 8)
    ring.start(1, prompt, 8)
    ring.finish()
    assert ring.answer(1) == greedy(model, prompt, 8)
    for runner in ring.runners:
        way = next(way for way in runner.stage.ways.report() if way.name == "blocks")
        assert way.used == way.possible and way.why == ""


def test_adding_tells_how_far_it_is_and_leaves_nothing_when_it_is_cancelled(tmp_path: Path) -> None:
    pack, said, _ = FORMATS["AWQ"]
    write_quantized(tmp_path / "model", pack, said)
    seen: list[JobProgress] = []

    def follow(progress: JobProgress) -> None:
        seen.append(progress)
        if progress.phase == "converting":
            job.cancel()

    library = ModelLibrary(tmp_path / "library")
    job = library.add_job(str(tmp_path / "model"), name="x", on_progress=follow)
    with pytest.raises(Cancelled):
        job.run()
    converting = [progress for progress in seen if progress.phase == "converting"]
    nbytes = sum(tensor.nbytes for tensor in tensors_of(tmp_path / "model").values())
    assert converting and converting[-1].total_bytes == nbytes
    assert library.list() == ()
    assert [entry for entry in (tmp_path / "library" / ".incoming").iterdir() if entry.is_dir()] == []

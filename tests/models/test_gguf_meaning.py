"""A GGUF file's metadata change a model's numbers: they are read, or refused by name."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFWriter, RopeScalingType
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from app.errors import ModelError
from app.models.gguf import ConvertRequest
from app.models.gguf_config import settle_config
from app.models.gguf_header import read_gguf
from app.models.gguf_meaning import meaning
from app.models.gguf_process import convert, parse_once
from tests.models.described import described, ignore_progress
from tests.models.test_gguf import FORWARD, HEADS, HIDDEN, KV_HEADS, WORDS, write_llama, write_qwen3_moe

PLAIN = GGMLQuantizationType.F32
WIDTH = HIDDEN // HEADS

ORIGINAL = "original_max_position_embeddings"

Besides = Callable[[GGUFWriter], object]


def converted(path: Path) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The config that comes of a file, and what is said about it."""
    folder = path.with_suffix("")
    outcome = convert(ConvertRequest(str(path), str(folder), dequantize=True), ignore_progress)
    return json.loads((folder / "config.json").read_text()), outcome.notes


def llama(rope: dict[str, Any]) -> LlamaForCausalLM:
    """transformers' own model of what `write_llama` writes, turned like that."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=WORDS, hidden_size=HIDDEN, intermediate_size=FORWARD, num_hidden_layers=3,
            num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, rms_norm_eps=1e-5, max_position_embeddings=256,
            tie_word_embeddings=True, rope_parameters={"rope_theta": 10000.0, **rope},
        )
    )  # fmt: skip


def logits_alike(folder: Path, rope: dict[str, Any], tokens: int) -> None:
    """What was converted answers as transformers' llama does that is turned like that, and not as a plain one."""
    found = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.randint(0, WORDS, (1, tokens), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = {}
        for name, kind in (("meant", rope), ("plain", {"rope_type": "default"})):
            model = llama(kind).eval()
            model.load_state_dict(found.state_dict())
            logits[name] = model(ids).logits
        of_found = found(ids).logits
    assert (of_found - logits["meant"]).abs().max() < 1e-4
    assert (of_found - logits["plain"]).abs().max() > 1e-2


def yarn(writer: GGUFWriter) -> None:
    writer.add_rope_scaling_type(RopeScalingType.YARN)
    writer.add_rope_scaling_factor(4.0)
    writer.add_rope_scaling_orig_ctx_len(64)


def finer_yarn(writer: GGUFWriter) -> None:
    yarn(writer)
    writer.add_rope_scaling_attn_factors(0.75)
    writer.add_float32("llama.rope.scaling.yarn_beta_fast", 8.0)
    writer.add_float32("llama.rope.scaling.yarn_beta_slow", 0.5)


def yarn_and_factors(writer: GGUFWriter) -> None:
    yarn(writer)
    any_factors(writer)


def linear(writer: GGUFWriter) -> None:
    writer.add_rope_scaling_type(RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(2.5)


def older_linear(writer: GGUFWriter) -> None:
    writer.add_float32("llama.rope.scale_linear", 2.5)


LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 512,
}


def factors_of(rope: dict[str, Any], base: float = 10000.0, width: int = WIDTH) -> np.ndarray[Any, Any]:
    """As llama.cpp's converter stores Llama 3's kind: by what each dimension's frequency is divided."""
    low, high, length = (rope[f"{name}"] for name in ("low_freq_factor", "high_freq_factor", ORIGINAL))
    found = []
    for frequency in base ** (-np.arange(0, width, 2, dtype=np.float32) / np.float32(width)):
        wavelength = 2 * math.pi / frequency
        smooth = min(1.0, max(0.0, (length / wavelength - low) / (high - low)))
        found.append(1 / ((1 - smooth) / rope["factor"] + smooth))
    return np.array(found, dtype=np.float32)


def llama3(writer: GGUFWriter) -> None:
    writer.add_tensor("rope_freqs.weight", factors_of(LLAMA3))


def any_factors(writer: GGUFWriter) -> None:
    writer.add_tensor("rope_freqs.weight", FREE)


def long_and_short(writer: GGUFWriter) -> None:
    writer.add_rope_scaling_type(RopeScalingType.LONGROPE)
    writer.add_rope_scaling_attn_factors(1.25)
    writer.add_rope_scaling_orig_ctx_len(64)
    writer.add_tensor("rope_factors_long.weight", 3 * FREE)
    writer.add_tensor("rope_factors_short.weight", FREE)


FREE = np.linspace(1.5, 2.5, WIDTH // 2).astype(np.float32)

TURNED: list[tuple[Besides, dict[str, Any], int]] = [
    (yarn, {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}, 100),
    (
        finer_yarn,
        {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 64,
            "attention_factor": 0.75 * (1 + 0.1 * math.log(4)),
            "beta_fast": 8.0,
            "beta_slow": 0.5,
        },
        100,
    ),
    (linear, {"rope_type": "linear", "factor": 2.5}, 60),
    (older_linear, {"rope_type": "linear", "factor": 2.5}, 60),
    (llama3, LLAMA3, 100),
    (
        any_factors,
        {
            "rope_type": "longrope",
            "short_factor": FREE.tolist(),
            "long_factor": FREE.tolist(),
            "factor": 1.0,
            "attention_factor": 1.0,
            "original_max_position_embeddings": 256,
        },
        60,
    ),
    *(
        (
            long_and_short,
            {
                "rope_type": "longrope",
                "short_factor": FREE.tolist(),
                "long_factor": (3 * FREE).tolist(),
                "factor": 1.0,
                "attention_factor": 1.25,
                "original_max_position_embeddings": 64,
            },
            tokens,
        )
        for tokens in (40, 100)
    ),
]


@pytest.mark.parametrize(("besides", "rope", "tokens"), TURNED)
def test_positions_are_stretched_as_the_file_says(
    besides: Besides, rope: dict[str, Any], tokens: int, tmp_path: Path
) -> None:
    path = write_llama(tmp_path / "tiny.gguf", kind=PLAIN, besides=besides)
    found, _ = converted(path)
    assert found["rope_parameters"]["rope_type"] == rope["rope_type"]
    logits_alike(path.with_suffix(""), rope, tokens)


def test_llama_3_s_own_numbers_are_told_from_the_factors(tmp_path: Path) -> None:
    """Of Llama 3.2's shape: 32 frequencies, the bounds that its config.json has."""
    from app.models.gguf_rope import Scaling, parameters

    wanted = {**LLAMA3, "factor": 32.0, ORIGINAL: 8192}
    factors = tuple(factors_of(wanted, 500000.0, 64).tolist())
    assert parameters(Scaling(short=factors, long=factors), 500000.0, 64, {}) == wanted
    odd = {**wanted, "high_freq_factor": 3.5, ORIGINAL: 6000}
    factors = tuple(factors_of(odd, 500000.0, 64).tolist())
    assert parameters(Scaling(short=factors, long=factors), 500000.0, 64, {}) == odd


@pytest.mark.parametrize(
    ("besides", "words"),
    [
        (lambda writer: writer.add_string("llama.rope.scaling.type", "dynamic"), "rope.scaling.type = dynamic"),
        (yarn_and_factors, "factors per dimension besides"),
        (lambda writer: writer.add_logit_scale(0.25), "logit_scale = 0.25"),
        (lambda writer: writer.add_sliding_window(16), "attention.sliding_window = 16"),
        (lambda writer: writer.add_final_logit_softcapping(30.0), "final_logit_softcapping = 30"),
        (lambda writer: writer.add_causal_attention(False), "attention.causal = False"),
        (lambda writer: writer.add_attention_scale(0.5), "attention.scale = 0.5"),
        (lambda writer: writer.add_expert_count(4), "expert_count = 4"),
        (lambda writer: writer.add_tensor("blk.1.attn_q.bias", FREE), r"'blk.1.attn_q.bias', for which .*Llama"),
        (lambda writer: writer.add_tensor("mystery", FREE), "the tensor 'mystery'"),
    ],
)
def test_what_a_llama_has_no_word_for_is_refused_by_its_name(besides: Besides, words: str, tmp_path: Path) -> None:
    path = write_llama(tmp_path / "tiny.gguf", kind=PLAIN, besides=besides)
    with pytest.raises(ModelError, match=words):
        converted(path)


def test_what_says_the_same_as_the_config_is_no_reason(tmp_path: Path) -> None:
    def besides(writer: GGUFWriter) -> None:
        writer.add_rope_dimension_count(WIDTH)
        writer.add_key_length(WIDTH)
        writer.add_value_length(WIDTH)
        writer.add_attention_scale(WIDTH**-0.5)
        writer.add_sliding_window(256)
        writer.add_rope_scaling_type(RopeScalingType.NONE)
        writer.add_rope_scaling_finetuned(True)
        writer.add_string("llama.made_by", "somebody")

    found, notes = converted(write_llama(tmp_path / "told.gguf", kind=PLAIN, besides=besides))
    plain, none = converted(write_llama(tmp_path / "plain.gguf", kind=PLAIN))
    assert {**found, "head_dim": WIDTH} == {**plain, "head_dim": WIDTH}
    told = [note for note in notes if note not in none]
    assert told == ["The file says what is not known here and has no effect: made_by = somebody."]


def test_a_file_that_counts_no_heads_for_keys_has_as_many_as_for_queries(tmp_path: Path) -> None:
    """Its rows are put back into transformers' order all the same."""
    silent = write_llama(tmp_path / "silent.gguf", kind=PLAIN, kv_heads=HEADS)
    spoken = write_llama(
        tmp_path / "spoken.gguf", kind=PLAIN, kv_heads=HEADS, besides=lambda writer: writer.add_head_count_kv(HEADS)
    )
    assert converted(silent)[0] == converted(spoken)[0]
    models = [AutoModelForCausalLM.from_pretrained(path.with_suffix("")) for path in (silent, spoken)]
    pairs = zip(models[0].parameters(), models[1].parameters(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)


def test_scales_and_caps_are_read_into_the_config_that_has_a_word_for_them() -> None:
    gemma = {
        "model_type": "gemma2", "head_dim": 256, "hidden_size": 4608, "num_attention_heads": 32,
        "num_hidden_layers": 46, "query_pre_attn_scalar": 256, "attn_logit_softcapping": 50.0,
        "final_logit_softcapping": 30.0, "layer_types": ["full_attention"] * 46, "num_key_value_heads": 4,
    }  # fmt: skip
    said = {
        "attention.key_length": 128, "attention.value_length": 128, "attn_logit_softcapping": 40.0,
        "final_logit_softcapping": 30.0, "attention.sliding_window_pattern": 2, "attention.head_count_kv": 4,
    }  # fmt: skip
    found = meaning(said, gemma, frozenset({"attention.head_count_kv"}))
    assert found.changes == {
        "head_dim": 128,
        "attn_logit_softcapping": 40.0,
        "query_pre_attn_scalar": 144,
        "layer_types": ["sliding_attention", "full_attention"] * 23,
    }
    assert not found.notes


def test_experts_weights_are_scaled_as_the_file_says_or_not_at_all(tmp_path: Path) -> None:
    path = write_qwen3_moe(tmp_path / "tiny.gguf")
    assert described_folder(path)["norm_topk_prob"] is True
    said = {"expert_weights_scale": 2.5, "expert_weights_norm": False}
    with pytest.raises(ModelError, match=r"expert_weights_scale = 2\.5.*qwen3_moe has no setting"):
        meaning(said, {"model_type": "qwen3_moe", "norm_topk_prob": True}, frozenset())
    found = meaning(said, {"norm_topk_prob": True, "routed_scaling_factor": 1.0}, frozenset())
    assert found.changes == {"norm_topk_prob": False, "routed_scaling_factor": 2.5}


def described_folder(path: Path) -> dict[str, Any]:
    folder = path.with_suffix("")
    convert(ConvertRequest(str(path), str(folder)), ignore_progress)
    described(folder)
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return config


def gemma3(writer: GGUFWriter) -> None:
    writer.add_key_length(32)
    writer.add_value_length(32)
    writer.add_sliding_window(16)
    writer.add_rope_scaling_type(RopeScalingType.LINEAR)
    writer.add_rope_scaling_factor(8.0)


def gpt_oss(writer: GGUFWriter) -> None:
    yarn(writer)
    writer.add_key_length(16)
    writer.add_expert_count(4)
    writer.add_expert_used_count(2)


DEFAULT = {"rope_type": "default", "rope_theta": 20000.0}
OTHERS: list[tuple[str, Besides, dict[str, Any]]] = [
    (
        "gemma3",
        gemma3,
        {
            "head_dim": 32,
            "query_pre_attn_scalar": 32,
            "rope_parameters": {
                "sliding_attention": {**DEFAULT, "rope_theta": 10000.0},
                "full_attention": {**DEFAULT, "rope_type": "linear", "factor": 8.0},
            },
        },
    ),
    ("qwen3", lambda writer: writer.add_key_length(32), {"head_dim": 32}),
    ("falcon", lambda _: None, {"num_kv_heads": 2, "layer_norm_epsilon": 1e-3}),
    (
        "stablelm",
        lambda writer: writer.add_rope_dimension_count(8),
        {"rope_parameters": {**DEFAULT, "partial_rotary_factor": 0.5}},
    ),
    ("starcoder2", lambda _: None, {"rope_parameters": DEFAULT, "norm_epsilon": 1e-3, "num_key_value_heads": 2}),
    ("mistral", lambda _: None, {"sliding_window": None}),
    (
        "gpt-oss",
        gpt_oss,
        {
            "rope_parameters": {
                "rope_type": "yarn", "factor": 4.0, ORIGINAL: 64, "truncate": False, "rope_theta": 20000.0
            }
        },
    ),
]  # fmt: skip


@pytest.mark.parametrize(("architecture", "besides", "wanted"), OTHERS, ids=[other[0] for other in OTHERS])
def test_other_architectures_mean_what_their_files_say(
    architecture: str, besides: Besides, wanted: dict[str, Any], tmp_path: Path
) -> None:
    """Each of these was another model by transformers' tables alone."""
    path = tmp_path / "tiny.gguf"
    writer = GGUFWriter(path, architecture)
    writer.add_block_count(6)
    writer.add_context_length(256)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_vocab_size(201088 if architecture == "gpt-oss" else WORDS)  # its config has a token to pad with
    writer.add_rope_freq_base(20000.0)
    if architecture in ("falcon", "stablelm", "starcoder2"):
        writer.add_layer_norm_eps(1e-3)
    else:
        writer.add_layer_norm_rms_eps(1e-3)
    besides(writer)
    writer.add_tensor("token_embd.weight", np.zeros((WORDS, 64), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    def build(config: Any) -> Any:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)

    parse_once()
    model, notes = settle_config(path, read_gguf([path]), build)
    found = model.config.to_dict()
    for name, value in wanted.items():
        assert found[name] == (pytest.approx(value) if isinstance(value, float) else value)
    assert not notes

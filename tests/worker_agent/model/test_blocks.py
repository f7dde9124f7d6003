"""Matrices in blocks: every format means what the gguf package says, and a stage computes with exactly that."""

from __future__ import annotations

import copy
import itertools
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import blake3
import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from tests.sparsely import only
from tests.worker_agent.ring import CutModel, Ring, cut_model, random_prompt
from tests.worker_agent.tiny_models import VOCABULARY, greedy, make_model
from worker_agent.engine import loading
from worker_agent.model import filling
from worker_agent.model.linears.blocks import building, experts, formats, layers, making, racing
from worker_agent.model.linears.blocks.experts import has_experts
from worker_agent.model.linears.blocks.formats import NUMBERS, OWN, Blocks
from worker_agent.wire.errors import BadWeights, OutOfMemory
from worker_agent.wire.messages import BLOCK_FORMATS, CODE_TABLES, Part, PartTensor

ROWS, COLUMNS = 24, 512
WIDE = {"hidden_size": 256, "head_dim": 64, "intermediate_size": 512, "num_hidden_layers": 3}
HALVES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82), "Q3_K": (108,),
    "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,), "MXFP4": (),
}  # fmt: skip
"""Where a block of GGUF's formats has numbers in float16, which random bytes would make infinite."""


def random_blocks(format_: str, rows: int, columns: int, seed: int = 3, size: float = 0.05) -> Blocks:
    weights, nbytes = BLOCK_FORMATS[format_]
    chance = np.random.default_rng(seed)
    data = chance.integers(0, 256, (rows * (columns // weights), nbytes), dtype=np.uint8)
    if NUMBERS[format_] >= OWN:
        of_floats = 8 if format_.startswith(("INT8", "AFFINE4")) else 4
        # Of so few digits that INT8's two products and sums are exact, as those of scales in 16 bits are.
        floats = chance.uniform(-size, size, (len(data), of_floats // 4)).astype(np.float16).astype(np.float32)
        data[:, :of_floats] = floats.view(np.uint8)
        if format_.startswith("INT4"):
            data[:, 4] %= 17
        if format_.startswith("FP8"):
            data[:, 4:][data[:, 4:] % 128 == 127] = 56  # no number
    for at in HALVES.get(format_, ()):
        halves = chance.uniform(-size, size, len(data)).astype(np.float16)
        data[:, at : at + 2] = halves.view(np.uint8).reshape(-1, 2)
    if format_ == "MXFP4":
        data[:, 0] = chance.integers(118, 126, len(data))
    return Blocks(format_, torch.from_numpy(data.reshape(rows, -1)), columns)


def meaning(blocks: Blocks) -> torch.Tensor:
    """What the gguf package says; of our own formats what `formats.py` does, number by number."""
    if NUMBERS[blocks.format] >= OWN:
        nbytes = BLOCK_FORMATS[blocks.format][1]
        rows = [_meant(blocks.format, bytes(block)) for block in blocks.data.view(-1, nbytes).numpy()]
        return torch.tensor(rows).view(blocks.rows, blocks.columns)
    kind = gguf.GGMLQuantizationType(NUMBERS[blocks.format])
    return torch.from_numpy(gguf.dequantize(blocks.data.numpy(), kind))


def _meant(format_: str, block: bytes) -> list[float]:
    (scale,) = struct.unpack_from("<f", block)
    if format_.startswith("INT4"):
        zero, codes = block[4], block[5:]
        halves = [codes[at : at + 16] for at in range(0, len(codes), 16)]
        return [(n - zero) * scale for half in halves for n in [*(c & 15 for c in half), *(c >> 4 for c in half)]]
    if format_.startswith(("NF4", "FP4", "AFFINE4")):
        table = CODE_TABLES.get(format_.partition("_")[0])
        least, codes = (0.0, block[4:]) if table else (struct.unpack_from("<f", block, 4)[0], block[8:])
        halves = [codes[at : at + 16] for at in range(0, len(codes), 16)]
        found = [n for half in halves for n in [*(c & 15 for c in half), *(c >> 4 for c in half)]]
        return [(float(table[n]) if table else n) * scale + least for n in found]
    if format_.startswith("INT8"):
        (least,) = struct.unpack_from("<f", block, 4)
        return [n * scale + least for n in struct.unpack_from(f"{len(block) - 8}b", block, 8)]
    found = []
    for code in block[4:]:
        exponent, mantissa = (code >> 3) & 15, code & 7
        size = 2.0**-6 * mantissa / 8 if exponent == 0 else 2.0 ** (exponent - 7) * (1 + mantissa / 8)
        found.append((-size if code & 128 else size) * scale)
    return found


def in_blocks(
    cut: CutModel, folder: Path, choice: dict[str, str], make: Callable[[str, torch.Tensor], Blocks] | None = None
) -> tuple[CutModel, dict[str, torch.Tensor]]:
    """The model with matrices in blocks, by the endings of their names; and what these mean, by name.

    Args:
        make: blocks of a format for a matrix; without it they are as near to the matrix as can be.
    """
    folder.mkdir()
    parts, meant = [], {}
    for part in cut.parts:
        content, tensors, offset = b"", [], 0
        raw = (cut.folder / part.digest).read_bytes()
        for tensor in part.tensors:
            piece = raw[offset : offset + tensor.nbytes]
            offset += tensor.nbytes
            format_ = next((kind for ending, kind in choice.items() if tensor.name.endswith(ending)), "")
            if format_:
                floats = np.frombuffer(piece, dtype=np.float32).reshape(tensor.shape)
                blocks = (make or quantized)(format_, torch.from_numpy(floats.copy()))
                piece, meant[tensor.name] = blocks.data.numpy().tobytes(), meaning(blocks)
                tensor = PartTensor(tensor.name, format_, tensor.shape, len(piece))
            content += piece
            tensors.append(tensor)
        digest = blake3.blake3(content).hexdigest()
        (folder / digest).write_bytes(content)
        parts.append(Part(part.kind, part.index, tuple(tensors), digest))
    return replace(cut, parts=tuple(parts), folder=folder), meant


def quantized(format_: str, weight: torch.Tensor) -> Blocks:
    """A matrix in blocks: by the gguf package or by the product, else random blocks of about its size."""
    if format_ == "Q4_K":
        found = making.made(weight, "int4")
        assert found is not None and found.format == "Q4_K"
        return found
    if NUMBERS[format_] >= OWN:
        return random_blocks(format_, *weight.shape, size=0.01)
    try:
        data = gguf.quantize(weight.numpy(), gguf.GGMLQuantizationType[format_])
    except NotImplementedError:
        return random_blocks(format_, *weight.shape, size=2e-4)
    return Blocks(format_, torch.from_numpy(data.copy()), weight.shape[1])


def with_weights(model: PreTrainedModel, meant: dict[str, torch.Tensor]) -> PreTrainedModel:
    model = copy.deepcopy(model)
    with torch.no_grad():
        for name, weight in meant.items():
            model.get_parameter(name).copy_(weight)
    return model


@pytest.fixture(autouse=True)
def compiled() -> None:
    assert building.kernels() is not None, building.why_not()


@pytest.mark.parametrize("format_", BLOCK_FORMATS)
def test_every_format_means_to_the_bit_what_it_is_said_to_mean(format_: str) -> None:
    blocks = random_blocks(format_, ROWS, COLUMNS)
    expected = meaning(blocks)
    assert torch.equal(blocks.unfolded(), expected)
    assert torch.equal(formats._meaning(format_, blocks.data), expected)  # where there are no kernels
    assert torch.equal(blocks.unfolded(5, 9), expected[5:9])
    chosen = torch.tensor([7, 0, 23, 7])
    assert torch.equal(blocks.chosen(chosen), expected[chosen])


@pytest.mark.parametrize("format_", BLOCK_FORMATS)
def test_a_product_differs_from_that_of_dequantized_weights_in_the_order_of_sums_alone(format_: str) -> None:
    blocks = random_blocks(format_, ROWS, COLUMNS)
    weights = meaning(blocks).double().T
    before = torch.get_num_threads()
    for count, threads in itertools.product((1, 2, 3, 8, 13), (1, 2)):
        given = torch.randn(count, COLUMNS, generator=torch.Generator().manual_seed(count))
        torch.set_num_threads(threads)
        try:
            found = layers.times(blocks, given)
        finally:
            torch.set_num_threads(before)
        expected = given.double() @ weights
        for product in (found, layers.times_unfolded(blocks, given)):
            # 512 products in another order: sqrt(512) roundings of float32, ten times over.
            off = float((product - expected).norm() / expected.norm())
            assert off < 10 * 512**0.5 * 2**-24, f"{count} rows, {threads} threads"


# Each format's kernel is tried above; here a small one, one of superblocks and one of numbers with exponents.
@pytest.mark.parametrize(
    "format_", only(("Q8_0", "Q4_K", "MXFP4"), ("Q4_0", "Q4_1", "Q5_0", "Q8_0", "Q4_K", "Q6_K", "IQ4_NL", "MXFP4"))
)
def test_a_model_in_blocks_answers_as_transformers_does_with_what_the_blocks_mean(format_: str, tmp_path: Path) -> None:
    model = make_model("llama", tmp_path / "model", **WIDE, tie_word_embeddings=False)
    cut = cut_model(tmp_path / "model", tmp_path / "parts")
    stored, meant = in_blocks(cut, tmp_path / "blocks", {"proj.weight": format_, "embed_tokens.weight": format_})
    assert len(meant) == 3 * 7 + 1
    prompt = random_prompt(21, VOCABULARY, 5)
    expected = greedy(with_weights(model, meant), prompt, 12)
    ring = Ring.build(stored, [1])
    ring.start(1, prompt, 12)
    ring.finish()
    assert ring.answer(1) == expected
    for runner, count in zip(ring.runners, (1 * 7 + 1 - 3, 2 * 7 - 2 * 3), strict=True):
        stage = runner.stage
        ways = {way.name: way for way in stage.ways.report()}
        # Queries, keys and values are one matrix, gate and up another one.
        assert (ways["blocks"].used, ways["blocks"].possible) == (count, count), ways["blocks"]
        assert ways["recorded"].used == 1, ways["recorded"]
        parts = stored.parts_for(stage.slice.start, stage.slice.end)
        plain = sum(tensor.nbytes for part in parts for tensor in part.tensors)
        assert stage.weight_bytes == plain  # all is as large as it is stored


def test_formats_may_differ_within_a_layer_and_a_tied_embedding_is_held_once(tmp_path: Path) -> None:
    model = make_model("llama", tmp_path / "model", **WIDE, tie_word_embeddings=True)
    cut = cut_model(tmp_path / "model", tmp_path / "parts")
    choice = {"v_proj.weight": "Q6_K", "down_proj.weight": "Q5_K", "embed_tokens.weight": "Q8_0", "proj.weight": "Q4_K"}
    stored, meant = in_blocks(cut, tmp_path / "blocks", choice)
    prompt = random_prompt(9, VOCABULARY, 6)
    expected = greedy(with_weights(model, meant), prompt, 10)
    ring = Ring.build(stored, [])
    ring.start(1, prompt, 10)
    ring.finish()
    assert ring.answer(1) == expected
    whole = ring.runners[0].stage.slice.model
    first, last = whole.get_input_embeddings(), whole.get_output_embeddings()
    assert isinstance(first, layers.BlockEmbedding) and isinstance(last, layers.BlockLinear)
    assert first.blocks is last.blocks


@pytest.mark.parametrize(("quantize", "most"), [("int8", 0.006), ("int4", 0.08)])
def test_a_float_model_is_quantized_while_it_loads_and_tells_what_that_costs(
    quantize: str, most: float, tmp_path: Path
) -> None:
    make_model("llama", tmp_path / "model", **WIDE, tie_word_embeddings=False)
    cut = cut_model(tmp_path / "model", tmp_path / "parts")
    ring, plain = Ring.build(cut, [1], quantize=quantize), Ring.build(cut, [1])
    for runner, whole in zip(ring.runners, plain.runners, strict=True):
        assert 0 < runner.stage.weights_error < most
        way = next(way for way in runner.stage.ways.report() if way.name == "blocks")
        assert way.used == way.possible and way.why.startswith(f"{quantize}, which changed the weights by ")
        assert whole.stage.weights_error == 0
        assert runner.stage.weight_bytes < 0.75 * whole.stage.weight_bytes
        held = {
            name: module.blocks.unfolded()
            for name, module in runner.stage.slice.model.named_modules()
            if isinstance(module, layers.BlockLinear)
        }
        assert held
    prompt = random_prompt(15, VOCABULARY, 7)
    reference = AutoModelForCausalLM.from_pretrained(tmp_path / "model").eval()
    quantizing = {
        name: made.unfolded()
        for name, weight in reference.named_parameters()
        if name.endswith("proj.weight") and (made := making.made(weight, quantize)) is not None  # type: ignore[arg-type]
    }
    ring.start(1, prompt, 10)
    ring.finish()
    assert ring.answer(1) == greedy(with_weights(reference, quantizing), prompt, 10)


def test_a_stage_whose_floats_do_not_fit_loads_in_int4(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model("llama", tmp_path / "model", **WIDE, tie_word_embeddings=False)
    cut = cut_model(tmp_path / "model", tmp_path / "parts")
    everything = Ring.build(cut, [], quantize="int4", kv_tokens=64).runners[0].stage
    budget = everything.weight_bytes + everything.kv_bytes
    real = loading.load_stage
    monkeypatch.setattr(
        "tests.worker_agent.ring.load_stage", lambda load, config, parts, path, runtime, _free, progress:
        real(load, config, parts, path, runtime, budget, progress),
    )  # fmt: skip
    with pytest.raises(OutOfMemory):
        Ring.build(cut, [], kv_tokens=64)
    assert Ring.build(cut, [], quantize="int4", kv_tokens=64).runners


def test_a_kernel_that_is_wrong_is_found_and_the_layer_runs_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = make_model("llama", tmp_path / "model", **WIDE, tie_word_embeddings=False)
    cut = cut_model(tmp_path / "model", tmp_path / "parts")
    stored, meant = in_blocks(cut, tmp_path / "blocks", {"proj.weight": "Q4_0"})
    right = layers.times
    monkeypatch.setattr(layers, "times", lambda blocks, rows: right(blocks, rows) * 1.005)
    ring = Ring.build(stored, [])
    way = next(way for way in ring.runners[0].stage.ways.report() if way.name == "blocks")
    assert (way.used, way.possible) == (0, 3 * 4) and "differs" in way.why
    prompt = random_prompt(9, VOCABULARY, 8)
    ring.start(1, prompt, 8)
    ring.finish()
    assert ring.answer(1) == greedy(with_weights(model, meant), prompt, 8)


def put(state: dict[str, torch.Tensor], meant: dict[str, torch.Tensor]) -> None:
    """Change a mixture's weights to what matrices in blocks mean, by the names that these have in files."""
    for name, weight in meant.items():
        if name in state:
            state[name] = weight
            continue
        layer, expert, which = re.fullmatch(r"(.*\.layers\.\d+)\..*experts\.(\d+)\.(\w+)\.weight", name).groups()  # type: ignore[union-attr]
        down = which in ("w2", "down_proj")
        joint = state[f"{layer}.mlp.experts.{'down_proj' if down else 'gate_up_proj'}"][int(expert)]
        start = weight.shape[0] if which in ("w3", "up_proj") else 0
        joint[start : start + weight.shape[0]] = weight


@pytest.mark.parametrize(
    ("model_type", "choice"),
    [
        ("mixtral", {"w1.weight": "Q8_0", "w3.weight": "Q8_0", "w2.weight": "Q4_K", "q_proj.weight": "Q8_0"}),
        ("qwen3_moe", {"gate_proj.weight": "Q4_1", "up_proj.weight": "Q4_1", "down_proj.weight": "Q5_0"}),
    ],
)
def test_experts_stay_in_blocks_and_answer_as_transformers_does(
    model_type: str, choice: dict[str, str], tmp_path: Path
) -> None:
    model = make_model(model_type, tmp_path / "model", **WIDE)
    cut = cut_model(tmp_path / "model", tmp_path / "parts")
    stored, meant = in_blocks(cut, tmp_path / "blocks", choice)
    assert len(meant) == 3 * (4 * 3 + (model_type == "mixtral"))
    prompt, other = random_prompt(21, VOCABULARY, 8), random_prompt(9, VOCABULARY, 9)
    state = model.state_dict()
    put(state, meant)
    model.load_state_dict(state)
    ring = Ring.build(stored, [1])
    for runner in ring.runners:
        stage = runner.stage
        way = next(way for way in stage.ways.report() if way.name == "blocks")
        layers_here = stage.slice.end - stage.slice.start
        assert way.used == way.possible == layers_here * (1 + (model_type == "mixtral")), way
        parts = stored.parts_for(stage.slice.start, stage.slice.end)
        assert stage.weight_bytes == sum(tensor.nbytes for part in parts for tensor in part.tensors)
        assert all(module.gate_up_proj is None for module in stage.slice.model.modules() if has_experts(module))
    ring.start(1, prompt, 12)
    ring.start(2, other, 12)
    ring.finish()
    assert (ring.answer(1), ring.answer(2)) == (greedy(model, prompt, 12), greedy(model, other, 12))


@pytest.mark.parametrize(
    ("model_type", "quantize"),
    only(
        (("mixtral", "int8"), ("qwen3_moe", "int4"), ("gpt_oss", "int8")),
        itertools.product(("mixtral", "qwen3_moe", "gpt_oss"), ("int8", "int4")),
    ),
)
def test_experts_are_quantized_with_the_rest_of_a_layer(model_type: str, quantize: str, tmp_path: Path) -> None:
    model = make_model(model_type, tmp_path / "model", **WIDE, num_local_experts=4, num_experts=4)
    cut = cut_model(tmp_path / "model", tmp_path / "parts")
    ring = Ring.build(cut, [1], quantize=quantize)
    state = model.state_dict()
    for name, weight in state.items():
        if name.endswith("_proj") and weight.ndim == 3:
            for number, expert in enumerate(weight):
                matrix = expert.T if model_type == "gpt_oss" else expert  # which multiplies from the other side
                blocks = making.made(matrix, quantize)  # type: ignore[arg-type]
                assert blocks is not None
                state[name][number] = blocks.unfolded().T if model_type == "gpt_oss" else blocks.unfolded()
        elif name.endswith("_proj.weight"):
            blocks = making.made(weight, quantize)  # type: ignore[arg-type]
            assert blocks is not None
            state[name] = blocks.unfolded()
    model.load_state_dict(state)
    for runner in ring.runners:
        stage = runner.stage
        way = next(way for way in stage.ways.report() if way.name == "blocks")
        assert way.used == way.possible and 0 < stage.weights_error < 0.08, way
        parts = cut.parts_for(stage.slice.start, stage.slice.end)
        assert stage.weight_bytes == filling.weight_bytes(parts, torch.float32, quantize)  # type: ignore[arg-type]
    prompt = random_prompt(15, VOCABULARY, 7)
    ring.start(1, prompt, 10)
    ring.finish()
    assert ring.answer(1) == greedy(model, prompt, 10)


def test_experts_that_come_out_otherwise_keep_their_floats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model("qwen3_moe", tmp_path / "model", **WIDE)
    cut = cut_model(tmp_path / "model", tmp_path / "parts")
    right = experts.BlockExperts.run
    monkeypatch.setattr(experts.BlockExperts, "run", lambda *given: right(*given) * 1.005)
    stage = Ring.build(cut, [], quantize="int8").runners[0].stage
    way = next(way for way in stage.ways.report() if way.name == "blocks")
    assert way.possible - way.used == 3 and "a layer's experts: " in way.why
    assert all(module.gate_up_proj is not None for module in stage.slice.model.modules() if has_experts(module))


def test_what_transformers_makes_another_tensor_of_becomes_floats_and_is_named(tmp_path: Path) -> None:
    model = make_model("mixtral", tmp_path / "model", **WIDE)
    cut = cut_model(tmp_path / "model", tmp_path / "parts")
    stored, meant = in_blocks(cut, tmp_path / "blocks", {".w1.weight": "Q8_0", "q_proj.weight": "Q8_0"})
    assert len(meant) == 3 * (4 + 1)
    ring = Ring.build(stored, [])
    way = next(way for way in ring.runners[0].stage.ways.report() if way.name == "blocks")
    assert (way.used, way.possible) == (3, 15) and "became another tensor" in way.why
    assert ring.runners[0].stage.weight_bytes > sum(part.nbytes for part in stored.parts)
    prompt = random_prompt(9, VOCABULARY, 8)
    ring.start(1, prompt, 8)
    ring.finish()
    state = model.state_dict()
    put(state, meant)
    model.load_state_dict(state)
    assert ring.answer(1) == greedy(model, prompt, 8)


def test_blocks_that_do_not_add_up_are_refused(tmp_path: Path) -> None:
    make_model("llama", tmp_path / "model", **WIDE)
    cut = cut_model(tmp_path / "model", tmp_path / "parts")
    stored, _ = in_blocks(cut, tmp_path / "blocks", {"q_proj.weight": "Q8_0"})
    parts = list(stored.parts)
    at = next(number for number, part in enumerate(parts) if part.kind == "layer")
    tensors = tuple(
        PartTensor(tensor.name, "Q4_0", tensor.shape, tensor.nbytes) if tensor.dtype == "Q8_0" else tensor
        for tensor in parts[at].tensors
    )
    parts[at] = Part("layer", parts[at].index, tensors, parts[at].digest)
    with pytest.raises(BadWeights, match="cannot take"):
        Ring.build(replace(stored, parts=tuple(parts)), [])


def test_without_kernels_the_numbers_are_the_same_and_the_stage_says_that_it_is_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHARDBOARD_KERNELS", "0")
    building._loaded.cache_clear()
    try:
        blocks = random_blocks("Q4_K", ROWS, COLUMNS)
        assert torch.equal(blocks.unfolded(), meaning(blocks))
        given = torch.randn(3, COLUMNS)
        assert torch.allclose(layers.times(blocks, given), given @ meaning(blocks).T, rtol=1e-4, atol=1e-4)
        make_model("llama", tmp_path / "model", **WIDE)
        cut = cut_model(tmp_path / "model", tmp_path / "parts")
        ring = Ring.build(cut, [], quantize="int8")
        way = next(way for way in ring.runners[0].stage.ways.report() if way.name == "blocks")
        assert way.used == way.possible and "SHARDBOARD_KERNELS=0" in way.why
    finally:
        building._loaded.cache_clear()


def test_what_was_measured_on_another_machine_of_the_same_home_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(racing, "_file", lambda: tmp_path / "races.json")
    monkeypatch.setattr(racing, "_known", {"Q4_K 8 x 256 float32": 16})
    for machine in ("one", "two"):
        monkeypatch.setattr(racing, "_machine", lambda machine=machine: machine)
        racing._keep()
    assert racing._all_kept() == {name: {"Q4_K 8 x 256 float32": 16} for name in ("one", "two")}
    (tmp_path / "races.json").write_text("[1")
    assert racing._kept() == {}


def test_a_row_of_blocks_has_as_many_bytes_as_the_gguf_package_says() -> None:
    for name in HALVES:
        weights, nbytes = BLOCK_FORMATS[name]
        assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]] == (weights, nbytes)
        assert NUMBERS[name] == gguf.GGMLQuantizationType[name]
    assert HALVES.keys() | {name for name in BLOCK_FORMATS if NUMBERS[name] >= OWN} | {"BF16"} == NUMBERS.keys()


BESIDE_A_LOAD = """
import sys
import torch
from worker_agent.model.linears.blocks import layers
from worker_agent.model.linears.blocks.formats import Blocks
blocks = Blocks("Q8_0", torch.load(sys.argv[1]), 512)
rows = torch.randn(5, 512, generator=torch.Generator().manual_seed(1))
alone = layers.times(blocks, rows), blocks.unfolded(), blocks.chosen(torch.tensor([3, 1]))
torch.set_default_dtype(torch.bfloat16)  # as transformers does for a moment, in another thread, while it builds a model
beside = layers.times(blocks, rows), blocks.unfolded(), blocks.chosen(torch.tensor([3, 1]))
same = [one.dtype == other.dtype and torch.equal(one, other) for one, other in zip(alone, beside)]
print(same)
sys.exit(0 if all(same) else 1)
"""


def test_what_is_multiplied_while_another_model_is_built_is_the_same(tmp_path: Path) -> None:
    torch.save(random_blocks("Q8_0", 24, 512).data, tmp_path / "blocks.pt")
    # a process of its own: kernels that get too little room write over whatever lies behind it
    found = subprocess.run(
        [sys.executable, "-c", BESIDE_A_LOAD, str(tmp_path / "blocks.pt")],
        cwd=Path(__file__).resolve().parents[3],
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stdout + found.stderr[-2000:]

"""A safetensors header is believed only when the file can hold what it says."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from app.errors import ModelError
from app.models.description import TensorSource
from app.models.safetensors_file import aligned_order, read_header, write_header
from tests.models.described import raw_safetensors, tensors_of

GOOD = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}


def with_another_field(value: bytes) -> bytes:
    """A header that tells more of a tensor than is read."""
    return b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"note":' + value + b"}}"


def read(tmp_path: Path, content: bytes) -> tuple[TensorSource, ...]:
    (tmp_path / "model.safetensors").write_bytes(content)
    return read_header(tmp_path, "model.safetensors")


def test_offsets_are_those_of_the_library(tmp_path: Path) -> None:
    tensors = {"x": torch.randn(3, 5), "y": torch.randn(7).to(torch.bfloat16), "empty": torch.zeros(0, 4)}
    save_file(tensors, tmp_path / "model.safetensors")
    content = (tmp_path / "model.safetensors").read_bytes()
    for source in read_header(tmp_path, "model.safetensors"):
        raw = content[source.offset : source.offset + source.nbytes]
        assert raw == tensors[source.name].view(torch.uint8).numpy().tobytes()
        assert source.shape == tuple(tensors[source.name].shape)


def test_a_written_header_is_read_by_the_library(tmp_path: Path) -> None:
    sources = aligned_order(
        (TensorSource("half", "F16", (3,), 6, "", 0), TensorSource("single", "F32", (2, 1), 8, "", 0))
    )
    data = torch.tensor([1.5, 2.5]).numpy().tobytes() + torch.tensor([1, 2, 3], dtype=torch.float16).numpy().tobytes()
    (tmp_path / "model.safetensors").write_bytes(write_header(sources) + data)
    found = tensors_of(tmp_path)
    assert found["single"].tolist() == [[1.5], [2.5]]
    assert found["half"].tolist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no complete safetensors file"),
        (b"\x05\0\0", "no complete safetensors file"),
        (struct.pack("<Q", 2**63) + b"{}", "no complete safetensors file"),
        (raw_safetensors(GOOD)[:20], "no complete safetensors file"),
        (raw_safetensors(b"not JSON"), "corrupted"),
        (raw_safetensors(b"[" * 5000), "corrupted"),
        (raw_safetensors(b'{"a\xff": 1}'), "corrupted"),
        (raw_safetensors([1, 2]), "corrupted"),
        (raw_safetensors(with_another_field(b'"\xdf"'), bytes(8)), "corrupted"),
        (raw_safetensors(with_another_field(b"1" * 5000), bytes(8)), "corrupted"),
        (raw_safetensors({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 8]}}, bytes(8)), "corrupted"),
        (raw_safetensors({"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}, bytes(8)), "cannot take 8"),
        (raw_safetensors({"a": {"dtype": "F32", "shape": [2], "data_offsets": [8, 0]}}, bytes(8)), "corrupted"),
        (raw_safetensors({"a": {"dtype": "X9", "shape": [2], "data_offsets": [0, 8]}}, bytes(8)), "unknown dtype 'X9'"),
        (raw_safetensors(GOOD, bytes(4)), "too short"),
        (
            raw_safetensors({**GOOD, "b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}}, bytes(12)),
            "'a' and 'b' overlap",
        ),
        (
            raw_safetensors(
                b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}',
                bytes(2),
            ),
            "names a tensor twice",
        ),
    ],
)
def test_a_bad_header_is_refused_with_the_reason(tmp_path: Path, content: bytes, words: str) -> None:
    with pytest.raises(ModelError) as caught:
        read(tmp_path, content)
    assert words in str(caught.value)
    assert str(tmp_path / "model.safetensors") in str(caught.value)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(position=st.integers(0, 60), replacement=st.binary(min_size=1, max_size=3), cut=st.integers(0, 20))
def test_no_damage_leads_outside_of_the_file(tmp_path: Path, position: int, replacement: bytes, cut: int) -> None:
    content = raw_safetensors(GOOD, bytes(8))
    damaged = (content[:position] + replacement + content[position + len(replacement) :])[: len(content) - cut]
    try:
        for source in read(tmp_path, damaged):
            assert source.offset + source.nbytes <= len(damaged)
    except ModelError:
        pass

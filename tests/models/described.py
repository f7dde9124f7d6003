"""Tiny models on disk and their descriptions, made in the test's own process, which may import torch."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import torch
from safetensors import safe_open

from app.children.work import JobProgress
from app.models.description import ModelDescription, PartSource, TensorSource
from app.models.digests import PartDigests
from app.models.inspect_process import InspectRequest, inspect
from app.models.part_bytes import part_bytes
from tests.worker_agent.ring import CutModel
from worker_agent.model.anatomy import build_empty, examine


def described(folder: Path, name: str = "tiny") -> ModelDescription:
    """Inspect as the child process does, without the seconds that a child takes to import torch."""
    return inspect(InspectRequest(name, str(folder), "folder", str(folder)), ignore_progress)


def cut_as_added(folder: Path, parts_folder: Path) -> CutModel:
    """The parts and the config of a model in a folder, as a controller that has added it sends them."""
    description = described(folder)
    parts = PartDigests(description).parts()
    parts_folder.mkdir()
    for source, part in zip(description.parts, parts, strict=True):
        (parts_folder / part.digest).write_bytes(b"".join(part_bytes(folder, source)))
    config = description.config_bytes()
    return CutModel(config, examine(build_empty(config)), parts, parts_folder)


def ignore_progress(_: JobProgress) -> None:
    """For whom it does not matter how far it is."""


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of all safetensors files under a folder, read by the safetensors library itself."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118  # it is no dict
                found[key] = file.get_tensor(key)
    return found


def raw_safetensors(header: object, data: bytes = b"") -> bytes:
    """A file with this header, right or wrong."""
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded)) + encoded + data


def invented(
    layers: list[int], *, first: int = 0, last: int = 0, tied: int = 0, common: int = 0, cuts: list[int] | None = None
) -> ModelDescription:
    """A description of a model that does not exist, with parts of these many BF16 elements."""

    def part(kind: str, index: int, count: int) -> PartSource:
        tensor = TensorSource(f"{kind}.{index}", "BF16", (count,), 2 * count, "model.safetensors", 0)
        return PartSource(kind, index, (tensor,))  # type: ignore[arg-type]

    ends = {"first": first, "tied": tied, "common": common, "last": last}
    parts = [part(kind, 0, count) for kind, count in ends.items() if count]
    parts += [part("layer", index, count) for index, count in enumerate(layers)]
    return ModelDescription(
        name="invented",
        folder="/nowhere",
        source="folder",
        architecture="Invented",
        model_type="invented",
        num_layers=len(layers),
        parameters=sum(layers),
        weight_bytes=sum(part.nbytes for part in parts),
        dtype="bfloat16",
        max_context=1000,
        hidden_size=8,
        vocab_size=100,
        kv_elements=(10,) * len(layers),
        cuts=tuple(range(1, len(layers)) if cuts is None else cuts),
        parts=tuple(parts),
    )

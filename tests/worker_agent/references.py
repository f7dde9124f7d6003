"""What transformers answers is kept between runs: with the same versions, model and question it stays the same."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from importlib.metadata import version
from typing import TYPE_CHECKING, TypeVar

import blake3

if TYPE_CHECKING:
    from transformers import PreTrainedModel

from tests.conftest import CACHE

Answer = TypeVar("Answer")

FOLDER = CACHE / "references"
VERSIONS = [version(name) for name in ("torch", "transformers")]


def kept(of: object, make: Callable[[], Answer]) -> Answer:
    """What `make` gives, as JSON has it, and is made once `of` this: all that it depends on, but for the versions."""
    told = json.dumps([VERSIONS, of]).encode()
    path = FOLDER / f"{blake3.blake3(told).hexdigest()}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(f".{os.getpid()}")
        unfinished.write_text(json.dumps(make()), encoding="utf-8")
        unfinished.replace(path)
    answer: Answer = json.loads(path.read_text(encoding="utf-8"))
    return answer


def identity(model: PreTrainedModel) -> str:
    """Hash of all that decides what a model answers: its kind, its configs and each number that it holds."""
    import torch

    told = (type(model).__name__, model.config.to_json_string(), model.generation_config.to_json_string())
    found = blake3.blake3(json.dumps([*told, model.config._attn_implementation, model.training]).encode())
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().reshape(-1).contiguous().view(torch.uint8).numpy().data)
    return found.hexdigest()

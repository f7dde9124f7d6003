"""The config of a GGUF file's model: transformers' own reading, and what that leaves out (`gguf_meaning.py`,
`gguf_rope.py`). Imports torch when used: child processes only.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.errors import ModelError
from app.models.gguf_header import GgufHeader, GgufTensor
from app.models.gguf_meaning import ADVICE, meaning
from app.models.gguf_rope import FACTORS, check_rope, with_rope

_FLOATS = {0: "<f4", 1: "<f2"}
"""numpy's names of GGUF's kinds that factors are stored in."""


def settle_config(path: Path, header: GgufHeader, build: Callable[[Any], Any]) -> tuple[Any, tuple[str, ...]]:
    """The model that the file describes, empty, and what a user should know of what the file says besides.

    Args:
        path: the file, or an outline of all files.
        build: a model of a config, on the meta device.

    Raises:
        ModelError: the file says what transformers has no word for.
    """
    from transformers import AutoConfig

    said = _said(path, header.architecture)
    config = AutoConfig.from_pretrained(path.parent, gguf_file=path.name)
    read = _read_keys(path, header.architecture, config)
    factors = _factors(header)
    model = build(config)
    found = meaning(said, config.to_dict(), read)
    if _has_a_head_of_its_own(header) and config.tie_word_embeddings:
        found.changes["tie_word_embeddings"] = False
    if found.changes:
        model = build(_changed(config, found.changes))
    if turned := with_rope(model.config, model, said, factors):
        model = build(_changed(model.config, turned))
        check_rope(model.config, model, said, factors)
    return model, tuple(found.notes)


def _changed(config: Any, changes: dict[str, Any]) -> Any:
    fields = {**config.to_dict(), **changes}
    if "sliding_window" in changes and "layer_types" not in changes:
        fields.pop("layer_types", None)  # follows from it
    return type(config).from_dict(fields)


def _said(path: Path, architecture: str) -> dict[str, Any]:
    """What the file says of its architecture, without the architecture's name.

    What it says of stretched positions is taken out of the reader, where this process has one for all
    (`gguf_process.py`): transformers reads it of gpt-oss alone, and stumbles over it.
    """
    import gguf

    prefix = f"{architecture}."
    fields: Any = gguf.GGUFReader(str(path)).fields
    said = {key.removeprefix(prefix): field.contents() for key, field in fields.items() if key.startswith(prefix)}
    for key in said:
        if key.startswith("rope.scaling."):
            del fields[f"{prefix}{key}"]
    return said


def _read_keys(path: Path, architecture: str, config: Any) -> frozenset[str]:
    """The keys of the architecture that transformers has read into the config."""
    from transformers.integrations.gguf.gguf_config_mapping import GGUF_CONFIG_ARCHS
    from transformers.integrations.gguf.reader import read_gguf_metadata
    from transformers.modeling_gguf_pytorch_utils import GGUF_TO_TRANSFORMERS_MAPPING

    if architecture in GGUF_CONFIG_ARCHS:
        metadata, names = read_gguf_metadata(str(path))
        watched = _Watched(metadata)
        GGUF_CONFIG_ARCHS[architecture](watched, names)
        return frozenset(key.removeprefix(f"{architecture}.") for key in watched.seen)
    tables: Any = GGUF_TO_TRANSFORMERS_MAPPING["config"]
    like = {architecture, config.model_type, config.model_type.removesuffix("_text")}
    table: dict[str, Any] = next((tables[name] for name in tables if name in like), {})
    return frozenset(key for key, name in table.items() if name is not None)


class _Watched(dict[str, Any]):
    """Metadata that remember which of them were read."""

    def __init__(self, metadata: dict[str, Any]) -> None:
        super().__init__(metadata)
        self.seen: set[str] = set()

    def __getitem__(self, key: str) -> Any:
        self.seen.add(key)
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self.seen.add(key)
        return super().get(key, default)


def _factors(header: GgufHeader) -> dict[str, list[float]]:
    """The tensors by which a rotary embedding's frequencies are divided."""
    import numpy as np

    found = {}
    for tensor in header.tensors:
        if tensor.name in FACTORS:
            (kind,) = struct.unpack("<I", tensor.entry[-4:])
            if kind not in _FLOATS:
                raise ModelError(f"The GGUF file's '{tensor.name}' is in blocks, which nobody writes it in.", ADVICE)
            dtype = np.dtype(_FLOATS[kind])
            content = np.fromfile(tensor.file, dtype, tensor.nbytes // dtype.itemsize, offset=tensor.start)
            found[tensor.name] = content.astype(np.float64).tolist()
    return found


def _has_a_head_of_its_own(header: GgufHeader) -> bool:
    """Whether the file has a head that is not its embedding once more."""
    tensors = {tensor.name: tensor for tensor in header.tensors}
    head, embedding = tensors.get("output.weight"), tensors.get("token_embd.weight")
    if head is None or embedding is None:
        return False
    return head.entry != embedding.entry or head.nbytes != embedding.nbytes or not _same_bytes(head, embedding)


def _same_bytes(one: GgufTensor, other: GgufTensor) -> bool:
    import numpy as np

    sides = [
        np.memmap(tensor.file, mode="r", dtype=np.uint8, offset=tensor.start, shape=(tensor.nbytes,))
        for tensor in (one, other)
    ]
    step = 2**24
    return all(bool((sides[0][at : at + step] == sides[1][at : at + step]).all()) for at in range(0, one.nbytes, step))

"""A stage of a tiny model, built and let go, before the first real one.

The code that any stage needs and nothing before it, 30 MB of torch's libraries and of modules, is so in memory before
the first stage is: what an agent holds without any stage is then what it goes on holding beside them.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections import defaultdict
from pathlib import Path

import blake3
import torch

from worker_agent.engine.loading import drop_stage, load_stage
from worker_agent.engine.runtime import Runtime
from worker_agent.model.anatomy import assign, build_empty, examine
from worker_agent.model.heap import keep_out_of_collections
from worker_agent.wire.messages import Load, Part, PartKind, PartTensor

_CONFIG = {
    "model_type": "llama", "vocab_size": 64, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
_ROOM = 1 << 30
_warm: set[tuple[int, str]] = set()
"""The processes and devices for which it has been done: one that was forked reads all pages anew."""


def warm_up(runtime: Runtime) -> None:
    """Build a stage of random weights as any other is built, and drop it. Takes half a second, and once is enough."""
    if (os.getpid(), runtime.device) in _warm:
        return
    config = json.dumps(_CONFIG).encode()
    model = build_empty(config)
    outline = model.state_dict()
    names: dict[tuple[PartKind, int], list[str]] = defaultdict(list)
    for name, part in assign(model, examine(model), outline).items():
        names[part].append(name)
    load = Load(
        call=0, deployment="warming", plan="warming", epoch=1, stage=0, stages=1, start=0, end=2, model="warming",
        dtype="float32", kv_tokens=64, max_context=64, max_sequences=1, prefill_chunk=16, upstream_key=None,
        ring_key=None,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="shardboard-warming-") as folder:
        parts = tuple(
            _written(Path(folder), kind, index, {name: outline[name] for name in held})
            for (kind, index), held in names.items()
        )
        drop_stage(load_stage(load, config, parts, Path(folder).joinpath, runtime, _ROOM, lambda done, total: None))
    keep_out_of_collections()
    took_in(runtime.device)


def took_in(device: str) -> None:
    """This process holds what stages need. Also for one that was forked of such a process, and has read its pages."""
    _warm.add((os.getpid(), device))


def _written(folder: Path, kind: PartKind, index: int, outline: dict[str, torch.Tensor]) -> Part:
    """A part with random numbers, in a file of its digest's name."""
    tensors = [PartTensor(name, "F32", tuple(each.shape), 4 * each.numel()) for name, each in outline.items()]
    content = b"".join(torch.randn(each.shape).numpy().tobytes() for each in outline.values())
    digest = blake3.blake3(content).hexdigest()
    (folder / digest).write_bytes(content)
    return Part(kind, index, tuple(tensors), digest)

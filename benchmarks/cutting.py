"""Cutting a 2 GB model: peak memory of the whole child tree, and time against a durable copy of the same bytes.

    python benchmarks/cutting.py [--gigabytes 2] [--shards 4] [--folder DIR]

The model is a valid Llama with random bytes for weights. Copy and cut run in the same process one after
the other, each from a source that is not in memory, each with its data on the disk when the clock stops.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from app.models.description import ModelDescription, TensorSource
from app.models.inspect import inspect_job
from app.models.safetensors_file import write_header
from app.sharding.cutting import CuttingJob
from app.sharding.plan import divide

HIDDEN, INTERMEDIATE, VOCABULARY, HEADS = 2048, 5632, 32000, 16
BLOCK = 8 * 1024 * 1024


@dataclass(frozen=True)
class CuttingFigures:
    """What was measured. Bytes and seconds."""

    model_bytes: int
    shards: int
    copy_seconds: float
    cut_seconds: float
    ratio: float
    """Best cut over best copy."""
    cut_peak_bytes: int
    """Highest resident memory of the cutting child and whatever it starts."""
    inspect_seconds: float
    inspect_peak_bytes: int
    """The same of the child that inspects the model; it imports torch."""


def make_model(folder: Path, nbytes: int) -> None:
    """Write a Llama of about `nbytes` in bfloat16 whose weights are random bytes."""
    layer = {
        "input_layernorm.weight": (HIDDEN,),
        "post_attention_layernorm.weight": (HIDDEN,),
        **{f"self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"},
        "mlp.gate_proj.weight": (INTERMEDIATE, HIDDEN),
        "mlp.up_proj.weight": (INTERMEDIATE, HIDDEN),
        "mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
    }
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN)}
    per_layer = sum(_nbytes(shape) for shape in layer.values())
    layers = max(2, round((nbytes - 2 * _nbytes((VOCABULARY, HIDDEN))) / per_layer))
    for number in range(layers):
        shapes |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
    shapes |= {"model.norm.weight": (HIDDEN,), "lm_head.weight": (VOCABULARY, HIDDEN)}
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "dtype": "bfloat16",
        "hidden_size": HIDDEN, "intermediate_size": INTERMEDIATE, "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS, "num_hidden_layers": layers, "vocab_size": VOCABULARY,
        "max_position_embeddings": 4096, "tie_word_embeddings": False,
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    block = os.urandom(BLOCK)
    with (folder / "model.safetensors").open("wb", buffering=0) as file:
        tensors = (TensorSource(name, "BF16", shape, _nbytes(shape), "", 0) for name, shape in shapes.items())
        file.write(write_header(tuple(tensors)))
        for shape in shapes.values():
            left = _nbytes(shape)
            while left:
                left -= file.write(memoryview(block)[: min(left, BLOCK)])
        os.fsync(file.fileno())


def measure_cutting(folder: Path, gigabytes: float = 2.0, shards: int = 4, rounds: int = 3) -> CuttingFigures:
    """Make the model in `folder`, copy it and cut it `rounds` times by turns. Removes what it made."""
    model = folder / "model"
    model.mkdir()
    try:
        make_model(model, int(gigabytes * 1e9))
        inspecting = inspect_job(model, name="benchmark")
        description, inspect_seconds, inspect_peak = _watched(inspecting)
        copies, cuts, peaks = [], [], []
        for _ in range(rounds):
            _forget(model / "model.safetensors")
            copies.append(_copy(model / "model.safetensors", folder / "copy"))
            _forget(model / "model.safetensors")
            seconds, peak = _cut(description, shards, folder / "shards")
            cuts.append(seconds)
            peaks.append(peak)
    finally:
        shutil.rmtree(model)
    return CuttingFigures(
        model_bytes=description.weight_bytes,
        shards=shards,
        copy_seconds=min(copies),
        cut_seconds=min(cuts),
        ratio=min(cuts) / min(copies),
        cut_peak_bytes=max(peaks),
        inspect_seconds=inspect_seconds,
        inspect_peak_bytes=inspect_peak,
    )


def _nbytes(shape: tuple[int, ...]) -> int:
    count = 2
    for extent in shape:
        count *= extent
    return count


def _forget(path: Path) -> None:
    """Drop a file from the page cache, so that it is read from the disk."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _copy(source: Path, target: Path) -> float:
    """Seconds for a plain copy (shutil, which lets the system copy) that is on the disk at the end."""
    began = time.perf_counter()
    shutil.copyfile(source, target)
    with target.open("rb+") as file:
        os.fsync(file.fileno())
    seconds = time.perf_counter() - began
    target.unlink()
    return seconds


def _cut(description: ModelDescription, shards: int, target: Path) -> tuple[float, int]:
    job = CuttingJob(description, divide(description, shards), target)
    _, seconds, peak = _watched(job)
    shutil.rmtree(target)
    return seconds, peak


def _watched(job):  # type: ignore[no-untyped-def]  # any object with run() and pid
    """Run a job and watch the memory of its child tree. Returns its result, seconds, peak bytes."""
    peak = 0
    done = threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.01):
            peak = max(peak, _tree_peak(job.pid))

    watcher = threading.Thread(target=watch)
    watcher.start()
    began = time.perf_counter()
    try:
        result = job.run()
        seconds = time.perf_counter() - began
    finally:
        done.set()
        watcher.join()
    return result, seconds, peak


def _tree_peak(pid: int | None) -> int:
    """Sum of the peak resident memory (VmHWM where the system tells it) of a process and its children."""
    if pid is None:
        return 0
    try:
        process = psutil.Process(pid)
        return sum(_peak(each) for each in (process, *process.children(recursive=True)))
    except psutil.Error:  # it ended between two looks
        return 0


def _peak(process: psutil.Process) -> int:
    status = Path(f"/proc/{process.pid}/status")
    try:
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:  # no /proc, or just gone
        pass
    info = process.memory_info()
    return int(getattr(info, "peak_wset", info.rss))


def table(figures: CuttingFigures) -> Table:
    """The figures for people."""
    rows = Table(title="Cutting")
    for column in ("what", "measured", "goal"):
        rows.add_column(column)
    rows.add_row("model", f"{figures.model_bytes / 1e9:.2f} GB in {figures.shards} shards", "")
    rows.add_row("durable copy", f"{figures.copy_seconds:.2f} s", "")
    rows.add_row("cut, verified", f"{figures.cut_seconds:.2f} s", "")
    rows.add_row("cut / copy", f"{figures.ratio:.2f}", "<= 1.50")
    rows.add_row("peak memory, cutting", f"{figures.cut_peak_bytes / 1e6:.0f} MB", "< 300 MB")
    rows.add_row("peak memory, inspecting", f"{figures.inspect_peak_bytes / 1e6:.0f} MB", "")
    rows.add_row("time, inspecting", f"{figures.inspect_seconds:.1f} s", "")
    return rows


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--gigabytes", type=float, default=2.0)
    arguments.add_argument("--shards", type=int, default=4)
    arguments.add_argument("--folder", type=Path, default=None, help="where to work; needs three times the model")
    arguments.add_argument("--json", action="store_true")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="shardboard-cutting-") as folder:
        figures = measure_cutting(Path(folder), options.gigabytes, options.shards)
    if options.json:
        print(json.dumps(asdict(figures)))
    else:
        Console().print(table(figures))


if __name__ == "__main__":
    main()

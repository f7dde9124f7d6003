"""A decode step by each way of running a pass without the model's own Python, and what each way costs to load.

    python benchmarks/recording.py MODEL_FOLDER [--dtype bfloat16] [--rounds 5] [--tokens 24] [--ways script,fx]

The model, a folder with one `model.safetensors`, runs in two stages of one process. `eager` runs it as it is, `script`
is what `recorded.py` does, `fx` a graph of `make_fx` run by the Python that torch.fx writes for it, `export` the module
of a `torch.export` program, `compiled` such a graph compiled by inductor with its cache on disk, which is loaded twice:
the first time the cache is empty. Memory and time of loading are of a process for each way, speeds of one process in
which the ways take turns. The graphs are not checked as a recording is; they are made to be measured. Reads `/proc`, so
it runs on Linux alone; RECORDING_THREADS says how many threads compute.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

WAYS = ("eager", "script", "fx", "export", "compiled")
PROMPT, STREAMS = 5, (1, 8)
THREADS = int(os.environ.get("RECORDING_THREADS") or os.cpu_count() or 1)


@contextmanager
def through_operators() -> Iterator[None]:
    """Attention and packed matrices are called as operators, as while TorchScript is recorded."""
    import torch

    from worker_agent.engine import attention
    from worker_agent.model.linears import packed

    kept = attention._attend_segments, packed._packed_linear
    attention._attend_segments, packed._packed_linear = torch.ops.shardboard.attend, torch.ops.shardboard.packed_linear
    try:
        yield
    finally:
        attention._attend_segments, packed._packed_linear = kept


def tell_shapes() -> None:
    """What graphs with outlined tensors need to know of these operators."""
    import torch

    from worker_agent.model.linears import packed

    @torch.library.register_fake("shardboard::attend")
    def attend(query: Any, key: Any, value: Any, layer: Any, *_: Any) -> Any:
        return query.new_empty(1, query.shape[2], query.shape[1], value.shape[3])

    @torch.library.register_fake("shardboard::packed_linear")
    def packed_linear(rows: Any, handle: int, bias: Any) -> Any:
        return rows.new_empty(*rows.shape[:-1], packed._packed[handle].shape[0])


def record(way: str, stage: Any) -> Callable[..., Any] | None:
    """The stage's pass by this way, to be called as a `Recording` is."""
    import torch

    from worker_agent.engine import recorded
    from worker_agent.engine.attention import Segment, ragged_step
    from worker_agent.engine.memory.rows import RaggedCache, RowPool

    if way == "eager":
        return None
    cut = stage.slice
    hidden = torch.randn(1, PROMPT, stage.hidden_size).to(stage.dtype)
    given = torch.arange(PROMPT)[None] if stage.is_first else hidden
    places, rows = torch.arange(PROMPT)[None], torch.tensor([1, PROMPT - 1])

    def run(given: Any, places: Any, rows: Any) -> Any:
        return cut.run(given, places, rows, RaggedCache())

    with torch.no_grad(), ragged_step([Segment(RowPool(1, PROMPT).state(), 0, PROMPT)]):
        if way == "script":
            with torch.inference_mode():
                made = recorded.record(cut, given, places, rows)
            assert not isinstance(made, str), made
            return made
        for module in cut.model.modules():
            if isinstance(module, torch.nn.Embedding):
                module.padding_idx = None
        tell_shapes()
        with through_operators():
            if way == "export":

                class Pass(torch.nn.Module):
                    def forward(self, given: Any, places: Any, rows: Any) -> Any:
                        return run(given, places, rows)

                tokens, wanted = torch.export.Dim.DYNAMIC, torch.export.Dim.DYNAMIC
                shapes = {"given": {1: tokens}, "places": {1: tokens}, "rows": {0: wanted}}
                return torch.export.export(Pass(), (given, places, rows), dynamic_shapes=shapes, strict=False).module(
                    check_guards=False
                )
            from torch.fx.experimental.proxy_tensor import make_fx

            graph = make_fx(run, tracing_mode="symbolic", pre_dispatch=way == "fx", _allow_non_fake_inputs=True)(
                given, places, rows
            )
        for node in graph.graph.nodes:
            node.meta.clear()
        return torch.compile(graph, dynamic=True) if way == "compiled" else graph


def load(folder: Path, dtype: str) -> list[Any]:
    from tests.worker_agent.ring import RUNTIME, load_message
    from worker_agent.engine.loading import load_stage
    from worker_agent.wire.messages import decode_parts

    config = (folder / "config.json").read_bytes()
    layers = json.loads(config)["num_hidden_layers"]
    all_parts = decode_parts((folder / "parts.msgpack").read_bytes())
    stages = []
    for number, (start, end) in enumerate(((0, layers // 2), (layers // 2, layers))):
        ends = {"common", "tied", "last" if number else "first"}
        parts = tuple(p for p in all_parts if (p.kind == "layer" and start <= p.index < end) or p.kind in ends)
        message = load_message(None, start, end, number, 2, dtype=dtype)  # type: ignore[arg-type]
        stages.append(
            load_stage(message, config, parts, lambda d: folder / "parts" / d, RUNTIME, 10**12, lambda a, b: None)
        )
    return stages


def decode(stages: list[Any], streams: int, tokens: int) -> float:
    """Tokens per second of so many sequences that are decoded together, the prompt not counted."""
    import torch

    from worker_agent.engine.executor import Admitted, Executor, StepPlan, Turn

    executors = [Executor(stage) for stage in stages]

    def step(turns: list[Turn], given: Any, admitted: tuple[Admitted, ...] = ()) -> Any:
        for executor in executors:
            given = executor.step(StepPlan(tuple(turns), given, admitted=admitted))
        return given.argmax(-1)

    last = torch.cat(
        [
            step(
                [Turn(each, 0, PROMPT, range(PROMPT - 1, PROMPT))], torch.arange(PROMPT) + 7 * each + 3,
                (Admitted(each, PROMPT),),
            )
            for each in range(streams)
        ]
    )  # fmt: skip
    began = time.perf_counter()
    for place in range(PROMPT, PROMPT + tokens):
        last = step([Turn(each, place, 1, range(1)) for each in range(streams)], last)
    seconds = time.perf_counter() - began
    for executor in executors:
        executor.close()
    return streams * tokens / seconds


def resident() -> float:
    """MB that this process holds now."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024 / 1e6


def loading(folder: Path, dtype: str, way: str) -> None:
    """Print what loading by this way takes: seconds, MB."""
    from worker_agent.host import agent  # noqa: F401  # all that an agent imports belongs to its base
    from worker_agent.model.heap import give_back

    began = time.perf_counter()
    os.environ["SHARDBOARD_TRACED"] = "0"  # it is recorded below
    stages = load(folder, dtype)
    os.environ["SHARDBOARD_TRACED"] = "1"
    loaded = time.perf_counter()
    for stage in stages:
        stage.recording = record(way, stage)
    decode(stages, 1, 2)  # what is made at the first step belongs to loading
    decode(stages, 2, 2)
    ready = time.perf_counter()
    give_back()
    print(json.dumps({"way": way, "load": loaded - began, "record": ready - loaded, "mb": resident()}), flush=True)


def speeds(folder: Path, dtype: str, ways: list[str], rounds: int, tokens: int) -> None:
    """Print tokens per second, the ways in turns."""
    import torch

    stages = load(folder, dtype)
    torch.set_num_threads(THREADS)
    made = {way: [record(way, stage) for stage in stages] for way in ways}
    found: dict[tuple[str, int], list[float]] = {(way, streams): [] for way in ways for streams in STREAMS}
    for number in range(rounds + 1):
        for streams in STREAMS:
            for way in ways if number % 2 else reversed(ways):
                for stage, recording in zip(stages, made[way], strict=True):
                    stage.recording = recording
                speed = decode(stages, streams, tokens if number else 4)
                if number:
                    found[way, streams].append(speed)
    for (way, streams), each in found.items():
        ratios = [one / other for one, other in zip(each, found["script", streams], strict=True)]
        print(
            f"{dtype} {way} {streams} streams: {statistics.median(each):.1f} tokens/s, "
            f"{statistics.median(ratios):.3f} of script ({min(ratios):.3f}-{max(ratios):.3f})",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--only", default="", help=argparse.SUPPRESS)
    parser.add_argument("--into", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    ways = options.ways.split(",")
    from worker_agent.engine.runtime import set_up_kernels

    set_up_kernels()
    if options.only == "speeds":
        speeds(options.folder, options.dtype, ways, options.rounds, options.tokens)
        return
    if options.only == "cut":
        from tests.worker_agent.ring import cut_model
        from worker_agent.wire.messages import encode_parts

        made = cut_model(options.folder, options.into / "parts")
        (options.into / "parts.msgpack").write_bytes(bytes(encode_parts(made.parts)))
        (options.into / "config.json").write_bytes(made.config)
        return
    if options.only:
        loading(options.folder, options.dtype, options.only)
        return
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryDirectory() as cache:

        def again(folder: Path, only: str) -> None:
            """Each in a process of its own: what one leaves behind must not count for the next."""
            command = [sys.executable, __file__, str(folder), "--only", only, "--into", name]
            command += ["--dtype", options.dtype, "--ways", options.ways]
            command += ["--rounds", str(options.rounds), "--tokens", str(options.tokens)]
            subprocess.run(command, check=True, env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache})

        again(options.folder, "cut")
        for way in ways + (["compiled"] if "compiled" in ways else []):
            again(Path(name), way)
        again(Path(name), "speeds")


if __name__ == "__main__":
    main()

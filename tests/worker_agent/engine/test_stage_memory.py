"""What a stage holds, and that it is gone with it."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from app.children.starting import child_environment
from tests.warm import starting_cold
from tests.worker_agent.agent_process import AgentProcess, running_agent, until
from tests.worker_agent.conftest import Connect
from tests.worker_agent.loading import load, send_parts
from tests.worker_agent.ring import RUNTIME, CutModel, cut_model, load_message
from tests.worker_agent.tiny_models import make_model
from worker_agent.engine import warming
from worker_agent.engine.loading import drop_stage, load_stage
from worker_agent.engine.stage import Stage
from worker_agent.host import loader, speed
from worker_agent.host.budget import MemoryBudget
from worker_agent.host.compute import Compute
from worker_agent.host.loader import LoadJob
from worker_agent.host.telemetry import Telemetry
from worker_agent.model.linears.blocks import experts
from worker_agent.model.linears.blocks.formats import Blocks
from worker_agent.model.slicing import dismantle
from worker_agent.store.shard_store import ShardStore
from worker_agent.wire.errors import BadWeights
from worker_agent.wire.keys import KeyPair
from worker_agent.wire.messages import Done, Health, HealthReport, Loaded, Speed, Unload
from worker_agent.wire.messages.parts import RECORDED_LAYER_BYTES

MEGABYTE = 1e6
ROUNDS = 4


@contextmanager
def no_collections() -> Iterator[None]:
    """Nothing is freed by luck within this block."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def test_weights_go_when_their_stage_is_closed_and_no_collection_is_needed(tmp_path: Path) -> None:
    make_model("llama", tmp_path / "model")
    cut = cut_model(tmp_path / "model", tmp_path / "parts")
    with no_collections():
        stage = load_stage(
            load_message(cut, 0, 7, 0, 1), cut.config, cut.parts_for(0, 7), lambda digest: cut.folder / digest, RUNTIME,
            10**12, lambda done, total: None,
        )  # fmt: skip
        model = stage.slice.model
        weights = [weakref.ref(each) for each in (*model.parameters(), *model.buffers())]
        assert len(weights) > 20 and stage.recording is not None
        stage.close()
        assert not [each for each in weights if each() is not None]
    drop_stage(stage)


def test_nothing_of_a_stage_is_left_when_it_is_dropped_and_what_was_there_before_is_not_looked_at(
    tmp_path: Path,
) -> None:
    make_model("llama", tmp_path / "model")
    cut = cut_model(tmp_path / "model", tmp_path / "parts")
    stage = load_stage(
        load_message(cut, 0, 7, 0, 1), cut.config, cut.parts_for(0, 7), lambda digest: cut.folder / digest, RUNTIME,
        10**12, lambda done, total: None,
    )  # fmt: skip
    modules = [weakref.ref(each) for each in stage.slice.model.modules()]
    looked_at = {id(each) for each in gc.get_objects()}
    assert all(id(each()) in looked_at for each in modules) and id(torch.nn.Module) not in looked_at
    drop_stage(stage)
    del stage
    gc.collect()
    assert not [each for each in modules if each() is not None]


def test_what_any_stage_needs_is_taken_in_once(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[object] = []
    real = load_stage

    def counted(*arguments: Any) -> Stage:
        loaded.append(arguments)
        return real(*arguments)

    monkeypatch.setattr(warming, "load_stage", counted)
    monkeypatch.setattr(warming, "_warm", set())
    warming.warm_up(RUNTIME)
    warming.warm_up(RUNTIME)
    assert len(loaded) == 1


def test_experts_in_blocks_go_when_their_stage_is_closed(tmp_path: Path) -> None:
    make_model("qwen3_moe", tmp_path / "model", hidden_size=256, head_dim=64, intermediate_size=512)
    cut = cut_model(tmp_path / "model", tmp_path / "parts")
    with no_collections():
        stage = load_stage(
            load_message(cut, 0, 7, 0, 1, quantize="int8"), cut.config, cut.parts_for(0, 7),
            lambda digest: cut.folder / digest, RUNTIME, 10**12, lambda done, total: None,
        )  # fmt: skip
        model = stage.slice.model
        forwards = [vars(each)["forward"] for each in model.modules() if "forward" in vars(each)]
        blocks = [each for forward in forwards for matrices in forward.stacked.values() for each in matrices]
        data = [weakref.ref(each.data) for each in blocks]
        assert len(forwards) == 7 and len(data) >= 7 * 2 * 2
        del forwards, blocks
        stage.close()
        assert not [each for each in data if each() is not None]
    drop_stage(stage)


def test_experts_that_were_not_laid_out_yet_go_with_their_module(tmp_path: Path) -> None:
    module = make_model("qwen3_moe", tmp_path / "model", hidden_size=256).model.layers[0].mlp.experts
    data = torch.zeros(4, 34, dtype=torch.uint8)
    experts.note(module, "down_proj", [Blocks("Q8_0", data, 32)])
    kept = weakref.ref(data)
    with no_collections():
        del data
        dismantle(module)
        assert kept() is None


def test_a_stage_that_fails_to_load_leaves_nothing(tmp_path: Path) -> None:
    make_model("llama", tmp_path / "model")
    cut = cut_model(tmp_path / "model", tmp_path / "parts")
    parts = tuple(part for part in cut.parts if (part.kind, part.index) != ("layer", 5))
    before = {id(each) for each in gc.get_objects() if type(each).__name__ == "LlamaDecoderLayer"}
    with pytest.raises(BadWeights, match="missing"):
        load_stage(
            load_message(cut, 0, 7, 0, 1), cut.config, parts, lambda digest: cut.folder / digest, RUNTIME, 10**12,
            lambda done, total: None,
        )  # fmt: skip
    gc.collect()
    layers = [
        each for each in gc.get_objects() if type(each).__name__ == "LlamaDecoderLayer" and id(each) not in before
    ]
    assert not any(True for layer in layers for _ in layer.parameters())


def test_a_stage_that_is_cancelled_when_it_is_whole_is_freed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_model("llama", tmp_path / "model")
    cut = cut_model(tmp_path / "model", tmp_path / "parts")
    kept: list[weakref.ref[torch.Tensor]] = []
    failed: list[BaseException] = []
    job = LoadJob(
        load_message(cut, 0, 7, 0, 1), cut.config, cut.parts_for(0, 7), lambda done, total: None,
        lambda stage, seconds: None, failed.append,
    )  # fmt: skip

    def load_and_be_cancelled(*arguments: Any) -> Stage:
        stage = load_stage(*arguments)
        kept.extend(weakref.ref(each) for each in stage.slice.model.parameters())
        job.cancelled.set()
        return stage

    monkeypatch.setattr(loader, "load_stage", load_and_be_cancelled)
    (tmp_path / "store").mkdir()
    for part in cut.parts:
        (tmp_path / "store" / part.digest).write_bytes((cut.folder / part.digest).read_bytes())
    budget = MemoryBudget(10**12)
    loader.Loader(ShardStore(tmp_path / "store"), budget, RUNTIME, lambda: 0)._build(job)
    assert isinstance(failed[0], loader.LoadCancelled) and budget.used == 0
    assert kept and not [each for each in kept if each() is not None]


PROMPTS_OF_MANY_LENGTHS = """
import psutil
from worker_agent.engine.runtime import set_up_kernels

set_up_kernels()
import torch
from worker_agent.model.linears.packed import PackedLinear, can_pack

with torch.inference_mode():
    if can_pack(torch.device("cpu"), torch.float32):
        torch.set_num_threads(1)
        layer = PackedLinear(torch.nn.Linear(256, 256))
        for rows in range(1, 141):
            layer(torch.zeros(rows, 256))
        before = psutil.Process().memory_info().rss
        for rows in range(141, 301):
            layer(torch.zeros(rows, 256))
        print(psutil.Process().memory_info().rss - before)
"""


def test_prompts_of_many_lengths_leave_no_programs_behind() -> None:
    """oneDNN writes one for each count of rows, some tens of megabytes for so many, and would keep a thousand."""
    said = subprocess.run(
        [sys.executable, "-c", PROMPTS_OF_MANY_LENGTHS], env=child_environment(), capture_output=True, text=True,
        timeout=100, check=True,
    ).stdout  # fmt: skip
    if not said:
        pytest.skip("this machine has no kernels for packed weights")
    assert int(said) < 10 * MEGABYTE


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> CutModel:
    """A llama of 120 MB in three layers."""
    folder = tmp_path_factory.mktemp("wide")
    make_model(
        "llama", folder / "model", hidden_size=1024, intermediate_size=2816, num_hidden_layers=3, vocab_size=199,
        num_attention_heads=16, num_key_value_heads=4, head_dim=64,
    )  # fmt: skip
    return cut_model(folder / "model", folder / "parts")


def peak(process: int) -> int:
    """The most bytes that a process has held."""
    [line] = [line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmHWM:")]
    return int(line.split()[1]) * 1024


@pytest.fixture
def cold_agent(tmp_path: Path, controller_keys: KeyPair) -> Iterator[AgentProcess]:
    """As users start it: one that was forked counts the pages that it shares with its parent as it comes upon them."""
    with (
        starting_cold(),
        running_agent(tmp_path / "cold", f"--trust={controller_keys.public}", "--memory", "1GB") as agent,
    ):
        yield agent


def test_an_agent_gives_back_what_it_undeploys_and_tells_what_it_holds(
    connect: Connect, cold_agent: AgentProcess, wide_model: CutModel
) -> None:
    client, process = connect(to=cold_agent), psutil.Process(cold_agent.process.pid)
    send_parts(client, wide_model)

    def health() -> HealthReport:
        report = client.ask(lambda call: Health(call=call))
        assert isinstance(report, HealthReport)
        return report

    def settled() -> HealthReport | None:
        """Once the figures that are sampled once a second are of now."""
        report = health()
        return report if abs(report.process_memory - process.memory_info().rss) < 4 * MEGABYTE else None

    after: list[float] = []
    for number in range(ROUNDS):
        if sys.platform == "linux":
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # the peak counts from here
        loaded = load(client, wide_model, f"round{number}", 0, (0, 3))
        assert isinstance(loaded, Loaded), loaded
        assert loaded.weight_bytes > 100 * MEGABYTE
        if sys.platform == "linux" and number:  # the parts have come before
            assert peak(process.pid) < process.memory_info().rss + 24 * MEGABYTE, "a matrix has 11 MB"
        report = until(settled)
        kept = sum(stage.kv_held_bytes for stage in report.stages)
        held = report.memory_base + loaded.weight_bytes + kept + 3 * RECORDED_LAYER_BYTES
        assert report.memory_held == held
        # A tenth, or what an agent needs for its own purposes where the stage is this small.
        assert abs(report.process_memory - report.memory_held) < max(0.1 * report.memory_held, 48 * MEGABYTE)
        gone = client.ask(lambda call, number=number: Unload(call=call, deployment=f"round{number}", stage=0))
        assert isinstance(gone, Done), gone
        after.append(process.memory_info().rss)
        until(lambda: settled() is not None and not health().stages)
    assert after[-1] < after[0] + 0.2 * loaded.weight_bytes, [round(each / MEGABYTE) for each in after]


def test_a_loader_without_a_job_gets_ready_for_the_first_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "IDLE_SECONDS", 0.05)
    thread = loader.Loader(ShardStore(tmp_path / "store"), MemoryBudget(10**12), RUNTIME, lambda: 7)
    thread.start()
    try:
        until(lambda: thread.ready_since)
        assert thread.ready_memory == 7 and not thread.is_busy
    finally:
        thread.stop()
        thread.join()


def test_the_speed_is_not_measured_while_a_stage_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHARDBOARD_SPEED", "1")
    monkeypatch.setattr(speed, "_alone_on_this_machine", lambda: nullcontext(True))
    monkeypatch.setattr(speed, "measure", lambda name, runtime: Speed(name, 1.0, 1.0))
    loading = threading.Event()
    loading.set()
    compute = Compute(lambda outgoing: None, "boot1", RUNTIME, is_loading=loading.is_set)
    compute.start()
    try:
        time.sleep(1.0)
        assert compute.speeds() == ()
        loading.clear()
        until(compute.speeds)
    finally:
        compute.stop()
        compute.join()


def test_memory_that_measuring_the_speed_takes_is_not_told_as_the_agents_own() -> None:
    telemetry = Telemetry(lambda: 0)
    before, at = telemetry.latest.process_memory, telemetry.latest.process_memory_at
    telemetry.is_measuring = lambda: True
    hoard = torch.ones(10**8, dtype=torch.uint8)
    sample = telemetry._sample()
    assert (sample.process_memory, sample.process_memory_at) == (before, at)
    telemetry.is_measuring = lambda: False
    sample = telemetry._sample()
    assert sample.process_memory > before + 0.9 * len(hoard) and sample.process_memory_at > at

"""What a stage holds, and that it is gone with it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from tests.worker_agent.agent_process import AgentProcess, until
from tests.worker_agent.conftest import Connect
from tests.worker_agent.loading import load, send_parts
from tests.worker_agent.ring import RUNTIME, CutModel, cut_model, load_message
from tests.worker_agent.tiny_models import make_model
from worker_agent.engine.loading import drop_stage, load_stage
from worker_agent.engine.stage import Stage
from worker_agent.host import loader
from worker_agent.host.budget import MemoryBudget
from worker_agent.host.loader import LoadJob
from worker_agent.store.shard_store import ShardStore
from worker_agent.wire.errors import BadWeights
from worker_agent.wire.messages import Done, Health, HealthReport, Loaded, Unload

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
    loader.Loader(ShardStore(tmp_path / "store"), budget, RUNTIME)._build(job)
    assert isinstance(failed[0], loader.LoadCancelled) and budget.used == 0
    assert kept and not [each for each in kept if each() is not None]


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> CutModel:
    """A llama of 120 MB in three layers."""
    folder = tmp_path_factory.mktemp("wide")
    make_model(
        "llama", folder / "model", hidden_size=1024, intermediate_size=2816, num_hidden_layers=3, vocab_size=199,
        num_attention_heads=16, num_key_value_heads=4, head_dim=64,
    )  # fmt: skip
    return cut_model(folder / "model", folder / "parts")


def test_an_agent_gives_back_what_it_undeploys_and_tells_what_it_holds(
    connect: Connect, agent: AgentProcess, wide_model: CutModel
) -> None:
    client, process = connect(), psutil.Process(agent.process.pid)
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
        loaded = load(client, wide_model, f"round{number}", 0, (0, 3))
        assert isinstance(loaded, Loaded), loaded
        assert loaded.weight_bytes > 100 * MEGABYTE
        report = until(settled)
        held = report.memory_base + loaded.weight_bytes + sum(stage.kv_held_bytes for stage in report.stages)
        assert report.memory_held == held
        # A tenth, or what an agent needs for its own purposes where the stage is this small.
        assert abs(report.process_memory - report.memory_held) < max(0.1 * report.memory_held, 96 * MEGABYTE)
        gone = client.ask(lambda call, number=number: Unload(call=call, deployment=f"round{number}", stage=0))
        assert isinstance(gone, Done), gone
        after.append(process.memory_info().rss)
        until(lambda: settled() is not None and not health().stages)
    assert after[-1] < after[0] + 0.2 * loaded.weight_bytes, [round(each / MEGABYTE) for each in after]

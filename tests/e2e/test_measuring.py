"""What a model's numbers cost is measured on real agents, and is what transformers finds of the whole model."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from gguf import GGMLQuantizationType
from transformers import AutoModelForCausalLM

from app.children.work import JobProgress
from app.errors import BadInput, Cancelled, ModelError
from app.inference import measuring
from app.inference.measuring import PASSAGES, WINDOW, cut_up, read_text
from app.inference.parameters import GenerationParameters
from app.inference.prompt import TokenPrompt
from app.inference.tokenizer import Tokenizer
from app.paths import Home
from app.registry import DeploymentStatus
from app.runs.measured import measured_text
from app.runs.trace import JobTrace
from app.serving import ServingWish
from tests.e2e.conftest import System, open_system
from tests.inference.tiny_tokenizers import text_words
from tests.models.test_gguf import write_llama
from tests.waiting import wait_until
from tests.worker_agent.tiny_models import make_model

ANSWER_TOKENS = 24
GREEDY = PASSAGES * ANSWER_TOKENS
INT4 = ServingWish(dtype="float32", quantize="int4")


@pytest.fixture(scope="module", autouse=True)
def _little() -> Iterator[None]:
    """Two windows of the text and shorter answers: what is measured at full length is shown by the commands' tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measuring, "MOST_TOKENS", 2 * WINDOW)
        patch.setattr(measuring, "ANSWER_TOKENS", ANSWER_TOKENS)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny llama that can read the text."""
    made = tmp_path_factory.mktemp("measured") / "tiny"
    make_model("llama", made, max_position_embeddings=1024, num_hidden_layers=4)
    text_words(190).save(str(made / "tokenizer.json"))
    return made


@pytest.fixture(scope="module")
def measured(shared: System, folder: Path) -> Iterator[System]:
    shared.run(shared.controller.add_model(str(folder), name="tiny"))
    yield shared
    shared.run(shared.controller.remove_model("tiny"))


@torch.inference_mode()
def perplexity(model: torch.nn.Module, windows: tuple[tuple[int, ...], ...], skipped: int) -> tuple[int, float]:
    """How many tokens were predicted, and how well, straight from the logits."""
    count, nats = 0, 0.0
    for window in windows:
        tokens = torch.tensor(window)
        scores = torch.log_softmax(model(tokens[None]).logits[0].double(), dim=-1)
        nats -= float(scores[skipped - 1 : -1].gather(1, tokens[skipped:, None]).sum())
        count += len(tokens) - skipped
    return count, math.exp(nats / count)


def standing(system: System) -> tuple[set[int], int]:
    """The deployments that answer or wait, and the bytes that stages take on all agents."""
    states = (DeploymentStatus.READY, DeploymentStatus.LOADING)
    deployments = system.controller.registry.deployments.list(status=states)
    memory = system.run(system.controller.node_memory())
    return {deployment.id for deployment in deployments}, sum(agent.used for agent in memory)


@pytest.fixture
def before(measured: System) -> tuple[set[int], int]:
    """What stood when the test began: other tests leave models deployed on these agents."""
    return standing(measured)


def test_int4_is_compared_with_the_floats_and_both_are_gone_afterwards(
    measured: System, folder: Path, before: tuple[set[int], int]
) -> None:
    system, controller = measured, measured.controller
    told: list[JobProgress] = []
    nodes = [node.id for node in system.nodes[:2]]
    record = system.run(
        controller.measure_model("tiny", serving=INT4, nodes=nodes, layers="0-1,2-3", on_progress=told.append)
    )
    passages = cut_up(read_text(), Tokenizer.open(folder), 1024)
    assert max(map(len, passages.windows)) == WINDOW + 1, "a window has its 512 tokens behind the beginning"
    count, expected = perplexity(AutoModelForCausalLM.from_pretrained(folder).eval(), passages.windows, 1)
    assert record.tokens == count and record.reference == "float32"
    assert record.reference_perplexity == pytest.approx(expected, rel=1e-4)
    assert record.perplexity != record.reference_perplexity and record.cost is not None
    assert (record.serving.quantize, record.greedy_tokens) == ("int4", GREEDY)
    assert record.same_tokens is not None and 0 < record.same_tokens < GREEDY
    assert record.nodes == tuple(node.hostname for node in system.nodes[:2])
    assert system.run(controller.measurements("tiny"))[0] == record
    assert standing(system) == before
    counted = {progress.phase: progress for progress in told if progress.unit == "tokens"}
    assert list(counted) == ["measuring tiny in float32", "measuring tiny in float32, weights in int4"]
    assert all(progress.done_bytes == progress.total_bytes for progress in counted.values())
    [job] = [job for job in controller.registry.jobs.list() if job.kind == "measure"]
    trace = controller.runs.job(job.id).trace
    assert isinstance(trace, JobTrace)
    assert {phase.name: phase.total_bytes for phase in trace.phases if phase.name in counted} == dict.fromkeys(
        counted, 0
    )
    assert job.details["measurement"] == record.id and job.model_name == "tiny"


def test_keys_and_values_in_int8_are_compared_with_those_in_floats(measured: System) -> None:
    wish = ServingWish(dtype="float32", kv_dtype="int8")
    record = measured.run(measured.controller.measure_model("tiny", serving=wish))
    assert record.reference == "float32" and record.serving.numbers == "float32, keys and values in int8"
    assert record.cost is not None and 0 < abs(record.cost) < 0.05
    assert record.same_share is not None and record.same_share > 0.8


def test_floats_have_nothing_to_be_compared_with(measured: System) -> None:
    record = measured.run(measured.controller.measure_model("tiny"))
    assert record.reference is record.same_share is record.cost is None
    assert record.remark == "It is in its floats: there is nothing to compare it with."
    assert measured_text(record) == f"perplexity {record.perplexity:.2f}"


def test_what_is_deployed_already_is_used_and_others_are_never_given_what_is_only_measured(measured: System) -> None:
    system, controller = measured, measured.controller
    wish = ServingWish(dtype="float32", context=1024, kv_tokens=2048)
    standing = system.run(controller.deploy("tiny", serving=wish))
    before = {record.id for record in controller.registry.deployments.list()}
    others: list[str | None] = []

    async def measure() -> None:
        asked: set[asyncio.Task[None]] = set()

        async def ask() -> None:
            run = await controller.generate("tiny", TokenPrompt((5, 6, 7)), GenerationParameters(max_tokens=2))
            others.append((await run.wait()).deployment_id)

        def told(progress: JobProgress) -> None:
            if "int4" in progress.phase and progress.unit == "tokens":
                asked.add(asyncio.ensure_future(ask()))

        await controller.measure_model("tiny", serving=INT4, on_progress=told)
        await asyncio.gather(*asked)

    try:
        system.run(measure())
        made = [record for record in controller.registry.deployments.list() if record.id not in before]
        assert [record.quantize for record in made] == ["int4"], "the floats were there"
        assert [record.status for record in made] == [DeploymentStatus.UNLOADED]
        assert len(others) > 3 and set(others) == {standing.id}
        assert controller.registry.deployments.get(standing.id).status is DeploymentStatus.READY
    finally:
        system.run(controller.undeploy("tiny"))


def test_a_measuring_that_is_cancelled_leaves_nothing(measured: System, before: tuple[set[int], int]) -> None:
    controller = measured.controller
    kept = len(controller.registry.measurements.list("tiny"))

    async def cancelled() -> None:
        def told(progress: JobProgress) -> None:
            if progress.unit == "tokens" and progress.done_bytes:
                task.cancel()

        task = asyncio.ensure_future(controller.measure_model("tiny", serving=INT4, on_progress=told))
        with pytest.raises((Cancelled, asyncio.CancelledError)):
            await task

    measured.run(cancelled())
    assert standing(measured) == before
    assert len(controller.registry.measurements.list("tiny")) == kept
    assert controller.registry.jobs.list(kind="measure")[0].status == "cancelled"


def test_what_a_controller_that_ended_had_deployed_to_measure_is_freed_by_the_next_one(
    home: Home, folder: Path
) -> None:
    with open_system(home, leave=True) as system:
        controller = system.controller
        description = system.run(controller.add_model(str(folder), name="tiny"))
        system.launch(1)
        placement = system.run(controller.plan("tiny", serving=ServingWish("float32", 600, 2048)))
        made = system.run(controller.deployments.deploy(description, placement, apart=True)).record
        assert system.run(controller.deployments.ready("tiny")) == [] and standing(system) != (set(), 0)
    with open_system(home) as system:
        assert system.controller.registry.deployments.get(made.id).status is DeploymentStatus.FAILED
        wait_until(lambda: standing(system) == (set(), 0))


def test_where_the_floats_have_no_room_the_rest_is_measured_and_it_says_so(system: System, tmp_path: Path) -> None:
    controller, wide = system.controller, tmp_path / "wide"
    make_model("llama", wide, hidden_size=256, intermediate_size=512, num_hidden_layers=4, max_position_embeddings=1024)
    text_words(190).save(str(wide / "tokenizer.json"))
    system.run(controller.add_model(str(wide), name="wide"))
    system.nodes += system.run(controller.launch_local(1, memory=8_000_000))
    record = system.run(controller.measure_model("wide", serving=INT4))
    assert record.tokens > 1000 and record.perplexity > 1
    assert record.reference is record.reference_perplexity is record.same_tokens is None
    assert record.remark.startswith("There is no room for float32 to compare with: ") and "missing" in record.remark


def test_a_file_in_blocks_is_measured_against_its_own_meaning(shared: System, tmp_path: Path) -> None:
    controller = shared.controller
    path = write_llama(tmp_path / "stored.gguf", kind=GGMLQuantizationType.Q4_0)
    for name, dequantize in (("stored", False), ("floats", True)):
        description = shared.run(controller.add_model(str(path), name=name, dequantize=dequantize))
        text_words(110).save(str(description.path / "tokenizer.json"))
    try:
        wish = ServingWish(dtype="float32")
        alone = shared.run(controller.measure_model("stored", serving=wish))
        assert alone.reference is None and "add the file once more with --dequantize" in alone.remark
        record = shared.run(controller.measure_model("stored", serving=wish, against="floats"))
        assert record.reference == "floats in float32"
        assert record.perplexity == pytest.approx(alone.perplexity, rel=1e-6)  # other company, other sums
        assert record.perplexity == pytest.approx(record.reference_perplexity, rel=1e-5)
        assert record.same_tokens == GREEDY, "blocks are multiplied as what they mean"
        text_words(90).save(str(description.path / "tokenizer.json"))
        controller.inference.forget("floats")
        with pytest.raises(BadInput, match="do not read a text as the same tokens"):
            shared.run(controller.measure_model("stored", against="floats"))
    finally:
        for name in ("stored", "floats"):
            shared.run(controller.remove_model(name))


def test_what_cannot_be_measured_is_refused_before_anything_is_loaded(measured: System, tiny: Path) -> None:
    controller = measured.controller
    before = len(controller.registry.deployments.list())
    with pytest.raises(BadInput, match="'int3' is nothing to quantize to"):
        measured.run(controller.measure_model("tiny", serving=ServingWish(quantize="int3")))
    with pytest.raises(ModelError, match="There is no model named 'nobody'"):
        measured.run(controller.measure_model("nobody"))
    measured.run(controller.add_model(str(tiny), name="mute"))
    try:
        with pytest.raises(ModelError, match="has no tokenizer"):
            measured.run(controller.measure_model("mute", serving=INT4))
    finally:
        measured.run(controller.remove_model("mute"))
    assert len(controller.registry.deployments.list()) == before

from concurrent.futures import ThreadPoolExecutor

import pytest

from app.errors import RegistryError
from app.registry import DeploymentRecord, DeploymentStatus, ModelRecord, NodeRecord, Registry
from app.runs.measured import circumstances_text, measured_text, newest_of_each
from app.serving import Serving


def add_model(registry: Registry, name: str = "smollm") -> ModelRecord:
    return registry.models.add(
        name=name,
        folder="/models/smollm",
        source="HuggingFaceTB/SmolLM2-135M-Instruct",
        architecture="LlamaForCausalLM",
        layers=30,
        parameters=1_000_000_000_000,
        weight_bytes=2**43,
        dtype="float32",
        context=8192,
    )


def add_deployment(registry: Registry) -> DeploymentRecord:
    return registry.deployments.add(model_name="m", plan_hash="ab", serving=Serving("bfloat16", 2048, 2**40))


def test_a_model_comes_back_as_it_was_added(registry: Registry) -> None:
    model = add_model(registry)
    assert registry.models.get("smollm") == model
    assert (model.weight_bytes, model.parameters) == (2**43, 10**12)
    assert registry.models.find("other") is None
    with pytest.raises(RegistryError, match="There is no model other"):
        registry.models.get("other")


def test_models_are_listed_by_name(registry: Registry) -> None:
    for name in ("b", "c", "a"):
        add_model(registry, name)
    assert [model.name for model in registry.models.list()] == ["a", "b", "c"]


def test_a_models_name_is_taken_once(registry: Registry) -> None:
    add_model(registry)
    with pytest.raises(RegistryError, match="There is a model smollm already"):
        add_model(registry)
    assert registry.models.update("smollm", folder="/elsewhere").folder == "/elsewhere"
    registry.models.remove("smollm")
    assert registry.models.list() == []
    assert add_model(registry).name == "smollm"


def test_a_deployment_begins_as_loading_under_an_id_of_its_own(registry: Registry) -> None:
    deployment = add_deployment(registry)
    assert len(deployment.id) == 8 and int(deployment.id, 16) >= 0
    assert (deployment.status, deployment.epoch, deployment.error) == (DeploymentStatus.LOADING, 0, None)
    named = registry.deployments.add(id="deadbeef", model_name="m", plan_hash="ab", serving=Serving("float32", 1, 1))
    assert registry.deployments.get("deadbeef") == named
    assert registry.deployments.list() == [deployment, named]


def test_deployments_are_listed_by_status_and_model(registry: Registry) -> None:
    ready, failed = add_deployment(registry), add_deployment(registry)
    ready = registry.deployments.update(ready.id, status=DeploymentStatus.READY)
    failed = registry.deployments.update(failed.id, status=DeploymentStatus.FAILED, error="node 1 lacks 3 GiB")
    assert registry.deployments.list(status=DeploymentStatus.READY) == [ready]
    assert registry.deployments.list(status=DeploymentStatus.FAILED)[0].error == "node 1 lacks 3 GiB"
    assert registry.deployments.list(model_name="m") == [ready, failed]
    assert registry.deployments.list(model_name="other") == []


def test_no_epoch_is_given_twice(registry: Registry) -> None:
    deployment = add_deployment(registry)
    with ThreadPoolExecutor(8) as threads:
        epochs = list(threads.map(lambda _: registry.deployments.next_epoch(deployment.id), range(40)))
    assert sorted(epochs) == list(range(1, 41))
    assert registry.deployments.get(deployment.id).epoch == 40
    with pytest.raises(RegistryError, match="There is no deployment 00000000"):
        registry.deployments.next_epoch("00000000")


def test_removing_a_deployment_removes_its_shards(registry: Registry, node: NodeRecord) -> None:
    deployment = add_deployment(registry)
    folder = registry.shards.add(model_name="m", shard_id=0, start_layer=0, end_layer=4, path="/shards/shard_0")
    for number in (1, 0):
        registry.shards.add(
            model_name="m",
            shard_id=number,
            start_layer=number * 4,
            end_layer=number * 4 + 4,
            node_id=node.id,
            deployment_id=deployment.id,
        )
    assert [shard.shard_id for shard in registry.shards.list(deployment_id=deployment.id)] == [0, 1]
    assert len(registry.shards.list(node_id=node.id, model_name="m")) == 2
    registry.deployments.remove(deployment.id)
    assert registry.shards.list() == [folder]


def test_a_shard_is_placed_and_marked_as_loaded(registry: Registry, node: NodeRecord) -> None:
    shard = registry.shards.add(model_name="m", shard_id=0, start_layer=0, end_layer=4, path="/shards/shard_0")
    placed = registry.shards.update(shard.id, node_id=node.id, is_loaded=True)
    assert (placed.node_id, placed.deployment_id, placed.is_loaded, placed.path) == (
        node.id,
        None,
        True,
        "/shards/shard_0",
    )
    assert registry.shards.get(shard.id) == placed
    assert registry.shards.remove(shard.id) == placed


def test_a_shard_cannot_be_placed_on_a_node_that_does_not_exist(registry: Registry) -> None:
    with pytest.raises(RegistryError, match=r"(?i)foreign key"):
        registry.shards.add(model_name="m", shard_id=0, start_layer=0, end_layer=4, node_id=77)
    assert registry.shards.list() == []


def test_figures_are_kept_with_their_model_and_go_with_it(registry: Registry) -> None:
    add_model(registry)
    quantized = Serving("float32", 600, 2048, "int4")
    compared = registry.measurements.add(
        "smollm", quantized, nodes=("älpha", "beta"), text="plain", tokens=2191, perplexity=21.0,
        reference="float32", reference_perplexity=20.0, greedy_tokens=512, same_tokens=384,
    )  # fmt: skip
    alone = registry.measurements.add(
        "smollm", Serving("bfloat16", 600, 2048), nodes=("beta",), text="plain", tokens=2191, perplexity=1e300,
        remark="It is in its floats.",
    )  # fmt: skip
    assert registry.measurements.list("smollm") == [alone, compared] == registry.measurements.list()
    assert compared.serving == quantized and compared.nodes == ("älpha", "beta")
    assert compared.cost == pytest.approx(0.05) and compared.same_share == 0.75
    assert alone.perplexity == 1e300 and alone.cost is alone.same_share is None
    assert registry.measurements.list("other") == []
    registry.models.remove("smollm")
    assert registry.measurements.list() == []
    with pytest.raises(RegistryError, match="There is no model smollm any more"):
        registry.measurements.add("smollm", quantized, nodes=(), text="plain", tokens=1, perplexity=2.0)


def test_the_newest_figures_of_each_kind_are_told_in_words(registry: Registry) -> None:
    add_model(registry)
    serving = Serving("float32", 600, 2048, "int4")
    for perplexity in (30.0, 19.9):
        registry.measurements.add(
            "smollm", serving, nodes=("alpha", "beta", "gamma"), text="plain", tokens=2191, perplexity=perplexity,
            reference="float32", reference_perplexity=20.0, greedy_tokens=512, same_tokens=498,
        )  # fmt: skip
    alone = registry.measurements.add("smollm", serving, nodes=("a",), text="plain", tokens=9, perplexity=2e12)
    told = newest_of_each(registry.measurements.list())
    assert [measured_text(each) for each in told] == [
        "perplexity 2.0e+12",
        "perplexity 19.90, 0.50 % below that of float32 (20.00); 97.3 % of 512 greedy tokens are the same",
    ]
    day = alone.created_at.astimezone().date().isoformat()
    assert circumstances_text(told[1]) == f"{day}, 2,191 tokens of plain, on alpha, beta and gamma"
    assert circumstances_text(alone) == f"{day}, 9 tokens of plain, on a"

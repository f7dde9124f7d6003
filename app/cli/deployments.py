"""`plan`, `deploy`, `undeploy` and `deployment list`."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli.options import Context, DType, Json, KvTokens, Layers, Nodes, read_dtype, read_nodes
from app.cli.output import layers, note, print_json, print_table, progress_shown, size
from app.cli.session import open_controller, open_registry
from app.registry import DeploymentRecord, DeploymentStatus, ShardRecord
from app.sharding.placement import Placement

Model = Annotated[str, typer.Argument(help="A name in the library.")]

listing = typer.Typer(no_args_is_help=True)


def register(app: typer.Typer) -> None:
    app.command()(plan)
    app.command()(deploy)
    app.command()(undeploy)
    app.add_typer(listing, name="deployment", help="Models that are loaded.")


def plan(
    model: Model,
    nodes: Nodes = None,
    shard_layers: Layers = None,
    dtype: DType = None,
    context: Context = None,
    kv_tokens: KvTokens = None,
    as_json: Json = False,
) -> None:
    """Show which layers would go to which node, and what memory that takes. Loads nothing."""
    chosen, kind = read_nodes(nodes), read_dtype(dtype)
    with open_controller() as session:
        placement = session.run(
            session.controller.plan(
                model, nodes=chosen, layers=shard_layers, dtype=kind, context=context, kv_tokens=kv_tokens
            )
        )
    if as_json:
        print_json(placement)
    else:
        _show_placement(placement)


def deploy(
    model: Model,
    nodes: Nodes = None,
    shard_layers: Layers = None,
    dtype: DType = None,
    context: Context = None,
    kv_tokens: KvTokens = None,
    as_json: Json = False,
) -> None:
    """Send a model's layers to the nodes that lack them, load them, and make the model answer requests."""
    chosen, kind = read_nodes(nodes), read_dtype(dtype)
    with open_controller() as session, progress_shown(as_json) as progress:
        deployment = session.run(
            session.controller.deploy(
                model,
                nodes=chosen,
                layers=shard_layers,
                dtype=kind,
                context=context,
                kv_tokens=kv_tokens,
                on_progress=progress.deployment,
            )
        )
        shards = session.registry.shards.list(deployment_id=deployment.id)
    if as_json:
        print_json(deployment)
        return
    _show_deployments([deployment], shards)
    note(f"'{deployment.model_name}' answers now; try: generate {deployment.model_name} \"Hello\"")


def undeploy(deployment: Annotated[str, typer.Argument(help="Its id, or the model's name.")]) -> None:
    """Unload a model from its nodes."""
    with open_controller() as session:
        session.run(session.controller.undeploy(deployment))
    note(f"'{deployment}' is unloaded.")


@listing.command("list")
def list_deployments(
    every: Annotated[bool, typer.Option("--all", help="Also those that were unloaded.")] = False,
    as_json: Json = False,
) -> None:
    """Show the deployments."""
    with open_registry() as registry:
        deployments = [d for d in registry.deployments.list() if every or d.status is not DeploymentStatus.UNLOADED]
        shards = registry.shards.list()
    if as_json:
        print_json(deployments)
    else:
        _show_deployments(deployments, shards)


def _show_placement(placement: Placement) -> None:
    print_table(
        f"{placement.model_name}: {placement.dtype}, context {placement.context}, KV for {placement.kv_tokens} tokens",
        ("Stage", "Node", "Layers", "Weights", "KV", "Together", "Free", "Fits"),
        [
            (
                number,
                f"{stage.node.name} ({stage.node.node_id})",
                layers(stage.start, stage.end),
                size(stage.weight_bytes),
                size(stage.kv_bytes),
                size(stage.memory),
                size(stage.node.free_memory),
                f"lacks {size(stage.missing)}" if stage.missing else "yes",
            )
            for number, stage in enumerate(placement.stages)
        ],
        "",
    )
    for node in placement.left_out:
        note(f"{node.name} ({node.node_id}) gets nothing: it has {size(node.free_memory)} free.")


def _show_deployments(deployments: list[DeploymentRecord], shards: list[ShardRecord]) -> None:
    print_table(
        "Deployments",
        ("Id", "Model", "State", "Computes in", "Context", "Layers on nodes", "Error"),
        [(d.id, d.model_name, d.status.value, d.dtype, d.context, _places(d.id, shards), d.error) for d in deployments],
        "Nothing is deployed; load a model with: deploy MODEL",
    )


def _places(deployment: str, shards: list[ShardRecord]) -> str:
    mine = sorted((s for s in shards if s.deployment_id == deployment), key=lambda shard: shard.start_layer)
    return ", ".join(f"{layers(s.start_layer, s.end_layer)} on node {s.node_id}" for s in mine) or "–"

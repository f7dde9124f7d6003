"""`plan`, `deploy`, `undeploy` and `deployment list`."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
import typer

from app.cli.options import (
    Aim,
    Context,
    DType,
    Json,
    KvDType,
    KvTokens,
    Layers,
    Nodes,
    Quantize,
    Recovery,
    Wait,
    read_aim,
    read_nodes,
    read_wish,
)
from app.cli.output import Cell, note, print_fields, print_json, print_table, progress_shown
from app.cli.session import open_controller, open_registry, origin
from app.errors import BadInput
from app.figures import layers, size_text
from app.launching import deploy_on_ray
from app.registry import DeploymentRecord, DeploymentStatus, Registry, ShardRecord
from app.runs.foreseen import corrected_text, predicted_text
from app.runs.trace import DeploymentTrace, Plan, unpack
from app.runs.ways import larger_text, lost_text, way_lines
from app.sharding.placement import Placement
from app.sharding.plan import range_text
from app.sharding.planning.aims import AIMS, DEFAULT_AIM

Model = Annotated[str, typer.Argument(help="A name in the library.")]

HANDED_OVER = ("pause_seconds", "answers", "copied_bytes")
"""What `deploy --live --json` tells of the handover."""

listing = typer.Typer(no_args_is_help=True)


Replica = Annotated[
    bool,
    typer.Option(
        "--replica",
        help="Load what is deployed once more, on --nodes or where there is room: both share the requests, and one "
        "takes over when the other is lost.",
    ),
]


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
    quantize: Quantize = None,
    kv_dtype: KvDType = None,
    wait: Wait = None,
    recovery: Recovery = None,
    replica: Replica = False,
    aim: Aim = DEFAULT_AIM,
    as_json: Json = False,
) -> None:
    """Show which layers would go to which node and why, and what memory that takes. Loads nothing."""
    chosen, wanted = read_nodes(nodes), read_aim(aim)
    serving = read_wish(
        dtype=dtype, quantize=quantize, kv_dtype=kv_dtype, context=context, kv_tokens=kv_tokens, wait=wait,
        recovery=recovery,
    )  # fmt: skip
    with open_controller() as session:
        placement = session.run(
            session.controller.plan(
                model, nodes=chosen, layers=shard_layers, serving=serving, replica=replica, aim=wanted
            )
        )
    if as_json:
        facts = msgspec.to_builtins(placement)
        print_json({**facts.pop("serving"), **facts, "processes": [one.figures() for one in placement.processes]})
    else:
        _show_placement(placement)


def deploy(
    model: Model,
    nodes: Nodes = None,
    shard_layers: Layers = None,
    dtype: DType = None,
    context: Context = None,
    kv_tokens: KvTokens = None,
    quantize: Quantize = None,
    kv_dtype: KvDType = None,
    wait: Wait = None,
    recovery: Recovery = None,
    aim: Aim = DEFAULT_AIM,
    live: Annotated[
        bool,
        typer.Option(
            "--live", help="Move what is deployed to --nodes, or to another cut (--layers), while it answers."
        ),
    ] = False,
    replica: Replica = False,
    ray: Annotated[
        int | None,
        typer.Option(
            "--ray",
            metavar="MOST",
            min=1,
            help="Have Ray bring as many agents as the plan needs, and keep MOST at the most. See: ray up",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Send a model's layers to the nodes that lack them, load them, and make the model answer requests."""
    chosen, wanted = read_nodes(nodes), read_aim(aim)
    serving = read_wish(
        dtype=dtype, quantize=quantize, kv_dtype=kv_dtype, context=context, kv_tokens=kv_tokens, wait=wait,
        recovery=recovery,
    )  # fmt: skip
    with open_controller() as session, progress_shown(as_json) as progress:
        controller, handed = session.controller, None
        if live and not replica:
            handed = session.run(
                controller.hand_over(
                    model, nodes=chosen, layers=shard_layers, serving=serving, on_progress=progress.job,
                    origin=origin(),
                )
            )  # fmt: skip
            deployment = handed.record
        elif ray is not None:
            if replica:
                raise BadInput("--ray brings nodes for a plan, not for a replica.", "Bring them by: ray up")
            deployment = session.ask(
                deploy_on_ray, model, ray, nodes=chosen, layers=shard_layers, serving=serving, aim=wanted,
                on_progress=progress.job, origin=origin(),
            )  # fmt: skip
        else:
            deployment = session.run(
                controller.deploy(
                    model, nodes=chosen, layers=shard_layers, serving=serving, replica=replica,
                    aim=wanted, on_progress=progress.job, origin=origin(),
                )
            )  # fmt: skip
        shards = session.registry.shards.list(deployment_id=deployment.id)
        plan = _plan_of(session.registry, deployment)
    if as_json:
        figures = {} if handed is None else {name: getattr(handed, name) for name in HANDED_OVER}
        print_json({**_with_stages(deployment, plan), **figures})
        return
    _show_deployments([deployment], shards)
    if handed is not None:
        note(f"{model}: {handed.sentence}")
    for stage in plan.stages if plan is not None else ():
        place = f"{stage.node}, {layers(stage.start, stage.end)}"
        if missing := lost_text(stage.ways):
            note(f"It runs slower than it might on {place}: {missing}")
        if why := larger_text(stage.ways):
            note(f"It keeps keys and values as they are computed, not in int8, on {place}: {why}")
    note(f"'{deployment.model_name}' answers now; try: generate {deployment.model_name} \"Hello\"")


def undeploy(deployment: Annotated[str, typer.Argument(help="Its id, or the model's name.")]) -> None:
    """Unload a model from its nodes."""
    with open_controller() as session:
        session.run(session.controller.undeploy(deployment))
    note(f"'{deployment}' is unloaded.")


@listing.command("list")
def list_deployments(
    every: Annotated[bool, typer.Option("--all", help="Also those that were unloaded.")] = False,
    ways: Annotated[bool, typer.Option("--ways", help="Also how each stage runs, and why not faster.")] = False,
    as_json: Json = False,
) -> None:
    """Show the deployments."""
    with open_registry() as registry:
        deployments = [d for d in registry.deployments.list() if every or d.status is not DeploymentStatus.UNLOADED]
        shards = registry.shards.list()
        plans = [_plan_of(registry, deployment) for deployment in deployments] if ways or as_json else []
    if as_json:
        print_json([_with_stages(deployment, plan) for deployment, plan in zip(deployments, plans, strict=True)])
        return
    _show_deployments(deployments, shards)
    for deployment, plan in zip(deployments, plans, strict=False):
        _show_ways(deployment, plan)


def _plan_of(registry: Registry, deployment: DeploymentRecord) -> Plan | None:
    """As it was written down when the deployment was made, with how its stages run; None when that was forgotten."""
    content = registry.traces.get("deployment", deployment.id)
    try:
        trace = None if content is None else unpack(content)
    except ValueError:  # what cannot be read was not written down, for those who look at a list
        return None
    return trace.plan if isinstance(trace, DeploymentTrace) else None


def _with_stages(deployment: DeploymentRecord, plan: Plan | None) -> dict[str, Any]:
    return {**msgspec.to_builtins(deployment), "stages": () if plan is None else plan.stages}


def _show_ways(deployment: DeploymentRecord, plan: Plan | None) -> None:
    print_table(
        f"How {deployment.model_name} ({deployment.id}) runs",
        ("Stage", "Node", "Layers", "Way", "Taken"),
        [
            (stage.stage, f"{stage.node} ({stage.node_id})", range_text((stage.start, stage.end)), title, text)
            for stage in (() if plan is None else plan.stages)
            for title, text in way_lines(stage.ways)
        ],
        f"How {deployment.model_name} ({deployment.id}) runs was not written down.",
    )


def _show_placement(placement: Placement) -> None:
    serving = placement.serving
    print_table(
        f"{placement.model_name}: {serving.numbers}, context {serving.context}, KV for {serving.kv_tokens} tokens",
        ("Stage", "Node", "Layers", "Weights", "KV", "Together", "Free", "Fits"),
        [
            (
                number,
                f"{stage.node.name} ({stage.node.node_id})",
                range_text((stage.start, stage.end)),
                size_text(stage.weight_bytes),
                size_text(stage.kv_bytes),
                size_text(stage.memory),
                size_text(stage.node.free_memory),
                f"lacks {size_text(stage.missing)}" if stage.missing else "yes",
            )
            for number, stage in enumerate(placement.stages)
        ],
        "",
    )
    print_table(
        "What the agents' processes will hold, once their caches are full",
        ("Node", "Agent itself", "Loaded already", "Weights", "KV", "Computing", "In all"),
        [
            (
                f"{one.node.name} ({one.node.node_id})",
                size_text(one.node.agent_memory),
                size_text(one.node.used_memory),
                size_text(one.weight_bytes),
                size_text(one.kv_bytes),
                size_text(one.working_bytes),
                f"{size_text(one.memory)}, the rest on the GPU" if one.node.on_gpu else size_text(one.memory),
            )
            for one in placement.processes
        ],
        "",
    )
    if (told := placement.foreseen) is not None:
        corrected = corrected_text(told.correction, told.corrected_runs)
        print_fields(
            [
                ("Predicted", f"{predicted_text(told)}, one answer at a time"),
                *([("Corrected", corrected)] if corrected else []),
                *(("Assumed", text) for text in told.assumed),
            ]
        )
    for reason in placement.reasons:
        note(reason.sentence)
    if placement.remark:
        note(placement.remark)


def _show_deployments(deployments: list[DeploymentRecord], shards: list[ShardRecord]) -> None:
    print_table(
        "Deployments",
        ("Id", "Model", "State", "Computes in", "Context", "Planned for", "Layers on nodes", "Error"),
        [_line(d, shards) for d in deployments],
        "Nothing is deployed; load a model with: deploy MODEL",
    )


def _line(deployment: DeploymentRecord, shards: list[ShardRecord]) -> list[Cell]:
    numbers, context = deployment.serving.numbers, deployment.context
    known: list[Cell] = [_named(deployment), deployment.model_name, deployment.status.value, numbers, context]
    return [*known, AIMS.get(deployment.aim, "–"), _places(deployment.id, shards), deployment.error]


def _named(deployment: DeploymentRecord) -> str:
    return f"{deployment.id}, replica of {deployment.replica_of}" if deployment.replica_of else deployment.id


def _places(deployment: str, shards: list[ShardRecord]) -> str:
    mine = sorted((s for s in shards if s.deployment_id == deployment), key=lambda shard: shard.start_layer)
    return ", ".join(f"{range_text((s.start_layer, s.end_layer))} on node {s.node_id}" for s in mine) or "–"

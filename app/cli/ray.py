"""`ray up|down|status`: agents on the nodes of a Ray cluster."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli.nodes import show_nodes
from app.cli.options import Json, read_amounts, read_size
from app.cli.output import note, print_json, print_table, progress_shown
from app.cli.session import open_controller, origin
from app.figures import size_text
from app.launchers.launcher import RayWish
from app.launchers.ray_messages import RayCluster, RayNode
from app.launching import end_ray, launch, look_at_ray

app = typer.Typer(no_args_is_help=True)

MOST_NODES = 1000


@app.command("up")
def up(
    nodes: Annotated[int, typer.Option(min=1, max=MOST_NODES, help="How many Ray nodes are to have an agent.")],
    address: Annotated[
        str, typer.Option(help="host:port of Ray's head; auto: the cluster that this machine is in.")
    ] = "auto",
    cpus: Annotated[
        float | None, typer.Option(min=0.01, help="Of Ray's CPUs, what each agent takes. [default: all of its node]")
    ] = None,
    gpus: Annotated[
        float | None, typer.Option(min=0, help="The same of its GPUs. [default: one where the node has one]")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Most memory for stages of each, as 4GB. [default: as the agent finds it]")
    ] = None,
    resource: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=AMOUNT", help="Of a resource of Ray's, what each takes; may be repeated."),
    ] = None,
    wait: Annotated[
        float, typer.Option(min=0, max=3600, help="For how many seconds to wait for Ray nodes that are not there yet.")
    ] = 60.0,
    idle: Annotated[
        float | None,
        typer.Option(min=1, help="End the agents after so many seconds without a request; the next brings them back."),
    ] = None,
    no_token: Annotated[
        bool, typer.Option("--no-token", help="Use a cluster that lets in whoever reaches it, too.")
    ] = False,
    as_json: Json = False,
) -> None:
    """See that so many nodes of a Ray cluster run an agent, each registered as a node.

    Ray starts them again when they end. They go on after this command; `ray down` ends them.
    """
    size = None if memory is None else read_size(memory, "--memory")
    wish = RayWish(
        nodes, address, cpus, gpus, size, read_amounts(resource or (), "--resource"), wait, idle, not no_token
    )
    with open_controller(monitor=False) as session, progress_shown(as_json) as progress:
        brought = session.ask(launch, wish, on_progress=progress.job, origin=origin())
    if as_json:
        print_json(brought)
    else:
        show_nodes(brought)


@app.command("down")
def down() -> None:
    """End all agents that Ray keeps. Their nodes stay, and their layers on the machines' disks: `ray up` finds them."""
    with open_controller(monitor=False) as session:
        stopped = session.ask(end_ray)
    note(f"{len(stopped)} {'agent is' if len(stopped) == 1 else 'agents are'} ended." if stopped else "Ray keeps none.")


@app.command("status")
def status(
    address: Annotated[
        str | None, typer.Option(help="host:port of Ray's head. [default: the one in use, else this machine's]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a Ray cluster's nodes, and which of them run an agent."""
    with open_controller(monitor=False) as session:
        cluster = session.ask(look_at_ray, address)
    if as_json:
        print_json(cluster)
        return
    _show(cluster)


def _show(cluster: RayCluster) -> None:
    print_table(
        f"Ray {cluster.version} at {cluster.address}",
        ("Ray node", "Address", "Name", "CPUs", "GPUs", "Memory", "Agent"),
        [
            (
                node.place[:8], node.address, node.host_name, f"{node.cpus:g}", f"{node.gpus:g}",
                size_text(node.memory), _agent_text(node),
            )
            for node in cluster.nodes
        ],
        "Ray has no node.",
    )  # fmt: skip


def _agent_text(node: RayNode) -> str | None:
    if node.agent is None:
        return "Ray starts it" if node.restarting else None
    return node.agent.address.removeprefix("tcp://")

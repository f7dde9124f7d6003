"""`node add|list|show|remove|drain|start|stop|update|log|launchers|local|invite|find`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import msgspec
import typer

from app.cli.options import Json, read_size
from app.cli.output import note, print_fields, print_json, print_table, printable, progress_shown
from app.cli.session import Session, open_controller, open_registry, origin
from app.cluster.finding import WaitingAgent, chosen
from app.cluster.ghosts import Ghost, ghosts_of
from app.cluster.invitations import AGENT_STARTS, INVITATION_PORT, JoinCommand
from app.cluster.machine_figures import machine_facts
from app.cluster.meetings import Meeting
from app.cluster.memory import AgentMemory
from app.cluster.node_state import Heard, NodeState, node_state
from app.errors import BadInput, RegistryError
from app.figures import ago, size_text
from app.finding import LOOK_SECONDS, begin_meeting, confirm_meeting, end_meeting, find_machines
from app.launchers.launcher import SshWish
from app.launching import launch, launchers, update_agent
from app.registry import NodeRecord
from worker_agent import __version__
from worker_agent.wire.announcing import network_address

app = typer.Typer(no_args_is_help=True)

NOTHING_HEARD: Mapping[int, Heard] = {}
_SYSTEMS = {"": "", "posix": ", on Linux and macOS", "windows": ", on Windows"}

Node = Annotated[str, typer.Argument(help="Its id, name or host:port, as `node list` shows them.")]


@app.command("add")
def add_node(
    address: Annotated[str | None, typer.Argument(help="host:port of an agent that runs.")] = None,
    key: Annotated[str | None, typer.Option(help="The agent's public key; it prints it when it starts.")] = None,
    ssh: Annotated[
        str | None,
        typer.Option(metavar="USER@HOST", help="Put the agent on this machine over SSH, or bring it up to date there."),
    ] = None,
    host_key: Annotated[
        str | None, typer.Option(metavar="FINGERPRINT", help="With --ssh: the host's key, as it is confirmed.")
    ] = None,
    python: Annotated[
        str | None, typer.Option(help="With --ssh: an interpreter there that has torch and transformers.")
    ] = None,
    listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="With --ssh: where the agent is to be reached.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Add a machine: one on which an agent runs, which is asked first, or one that SSH leads to."""
    if ssh is not None and address is None and key is None:
        with open_controller(monitor=False) as session, progress_shown(as_json) as progress:
            wish = SshWish(ssh, host_key, python, listen)
            _added(session.ask(launch, wish, on_progress=progress.job, origin=origin()), as_json)
        return
    if ssh is not None or address is None or key is None or host_key or python or listen:
        raise BadInput(
            "It is not clear what to add.", "Give HOST:PORT and --key of an agent that runs, or --ssh USER@HOST alone."
        )
    with open_controller(monitor=False) as session:
        _added([session.run(session.controller.add_node(address, key))], as_json)


@app.command("list")
def list_nodes(as_json: Json = False) -> None:
    """Show the nodes, which of them answer, and which will hardly come back."""
    memory: dict[int, AgentMemory] = {}
    heard: dict[int, Heard] = {}
    try:
        with open_controller(monitor=False) as session:
            nodes = session.run(session.controller.list_nodes())
            heard = session.run(session.controller.heard_of_nodes())
            memory = {each.node_id: each for each in session.run(session.controller.node_memory())}
    except RegistryError:  # a controller is at work and keeps the registry up to date, or the registry is broken
        with open_registry() as registry:
            nodes = registry.nodes.list()
    ghosts = {ghost.node_id: ghost for ghost in ghosts_of(nodes, heard)}
    if as_json:
        print_json(
            [
                {
                    **msgspec.to_builtins(node),
                    "state": _state(node, heard),
                    "memory": memory.get(node.id),
                    "ghost": ghosts.get(node.id),
                }
                for node in nodes
            ]
        )
        return
    show_nodes(nodes, heard)
    _name_ghosts(list(ghosts.values()))
    if memory:
        _show_memory(nodes, memory)


@app.command("show")
def show_node(node: Node, as_json: Json = False) -> None:
    """Show one node: what it is, how it is, and what its agent has measured of its machine."""
    with open_controller(monitor=False) as session:
        record = session.registry.nodes.find(node)
        session.run(session.controller.list_nodes())  # asks each, so that what is heard is of now
        heard = session.run(session.controller.heard_of_nodes())
    if as_json:
        print_json({**msgspec.to_builtins(record), "state": _state(record, heard)})
        return
    told = record.capacities
    numerics = told.get("numerics")
    print_fields(
        [
            ("Id", record.id), ("Name", record.hostname), ("Address", record.address.removeprefix("tcp://")),
            ("State", _state(record, heard)), ("Heard of", ago(record.last_heartbeat)),
            ("System", str(told.get("system", "–"))),
            ("Processor", f"{told.get('cpu_name', '–')}, {told.get('cpu_count', '?')} cores"),
            ("Computes on", str(numerics.get("device", "–")) if isinstance(numerics, dict) else "–"),
            *machine_facts(told),
        ]
    )  # fmt: skip


@app.command("remove")
def remove_node(
    node: Annotated[str | None, typer.Argument(help="Its id, name or host:port, as `node list` shows them.")] = None,
    ghosts: Annotated[
        bool, typer.Option("--ghosts", help="Remove all that `node list` names as ghosts, instead of one.")
    ] = False,
) -> None:
    """Unload a node's stages and forget it; an agent that was started here ends."""
    if ghosts == (node is not None):
        raise BadInput("Which node to remove is not clear.", "Name one node, or give --ghosts alone.")
    with open_controller(monitor=False) as session:
        if node is not None:
            session.run(session.controller.remove_node(node))
            note(f"Node {node} is removed.")
            return
        nodes = session.run(session.controller.list_nodes())
        found = ghosts_of(nodes, session.run(session.controller.heard_of_nodes()))
        for ghost in found:
            session.run(session.controller.remove_node(str(ghost.node_id)))
            note(f"Node {ghost.node_id} is removed. {ghost.problem}")
        if not found:
            note("There is no ghost among the nodes.")


@app.command("drain")
def drain_node(
    node: Node,
    off: Annotated[bool, typer.Option("--off", help="Take new work again.")] = False,
    move: Annotated[
        bool, typer.Option("--move", help="Hand what it holds over to other nodes, while it answers.")
    ] = False,
) -> None:
    """Give a node no new work; what it runs goes on, there or, with --move, on other nodes."""
    if off and move:
        raise BadInput("--off and --move contradict each other.", "Leave one out.")
    with open_controller(monitor=move) as session, progress_shown(False) as progress:
        drained = session.controller.drain_node(node, not off, move, on_progress=progress.job, origin=origin())
        session.run(drained)
    note(f"Node {node} takes new work again." if off else f"Node {node} takes no new work.")


@app.command("update")
def update_node(node: Node) -> None:
    """End a node's agent and start it with today's program: of one that was started here, put there over SSH or by Ray.

    What it held is loaded again from its disk.
    """
    with open_controller(monitor=False) as session, progress_shown(False) as progress:
        record = session.ask(update_agent, node, on_progress=progress.job, origin=origin())
    note(f"{record.hostname} (node {record.id}) runs with Shardboard {__version__}.")


@app.command("start")
def start_node(
    node: Annotated[str | None, typer.Argument(help="Its id, name or host:port, as `node list` shows them.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All of this machine that do not run, instead of one.")] = False,
) -> None:
    """Start a node's agent that was ended: of one that was started here, put there over SSH or brought by Ray.

    What it held is loaded again with the next request.
    """
    with open_controller(monitor=False) as session:
        chosen = session.run(session.controller.stopped_agents()) if every else None
        for record in _one_or(chosen, node, session):
            started = session.run(session.controller.start_agent(record.id, origin=origin()))
            note(f"The agent of {started.hostname} (node {started.id}) runs.")


@app.command("stop")
def stop_node(
    node: Annotated[str | None, typer.Argument(help="Its id, name or host:port, as `node list` shows them.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All that run on this machine, instead of one.")] = False,
) -> None:
    """End a node's agent; the node stays, with its key and the layers on its disk. `node start` starts it again."""
    with open_controller(monitor=False) as session:
        if every:
            _one_or([], node, session)
            stopped = session.run(session.controller.stop_agents(keep_flagged=False))
        else:
            chosen = _one_or(None, node, session)
            stopped = [session.run(session.controller.stop_agent(each.id, origin=origin())) for each in chosen]
    for record in stopped:
        note(f"The agent of {record.hostname} (node {record.id}) has ended.")


@app.command("log")
def show_log(
    node: Node,
    size: Annotated[int, typer.Option("--bytes", min=1, max=2**20, help="At most so much of its end.")] = 200_000,
) -> None:
    """Print the end of an agent's log, asked of the agent."""
    with open_controller(monitor=False) as session:
        (record,) = _one_or(None, node, session)
        typer.echo(printable(session.run(session.controller.read_agent_log(record.id, size))))


def _one_or(every: list[NodeRecord] | None, node: str | None, session: Session) -> list[NodeRecord]:
    """The node that is named, or all of them where they are asked for. Raises BadInput for both and neither."""
    if (node is None) == (every is None):
        raise BadInput("Which node is meant is not clear.", "Name one node, or give --all alone.")
    return [session.registry.nodes.find(node)] if node is not None else every or []


@app.command("launchers")
def list_launchers(as_json: Json = False) -> None:
    """Show what can bring agents to machines (this machine, SSH, Ray), whether it can here, and what it has brought."""
    with open_controller(monitor=False) as session:
        states = session.ask(launchers)
    if as_json:
        print_json(states)
        return
    print_table(
        "Launchers",
        ("Name", "For", "Nodes", "Gone", "Problem"),
        [
            (each.name, each.title, _ids(each.nodes), _ids(each.gone), each.problem or None)
            for each in states
        ],
        "",
    )  # fmt: skip


def _ids(nodes: Sequence[int]) -> str | None:
    return ", ".join(map(str, nodes)) or None


@app.command("local")
def launch_local(
    count: Annotated[int, typer.Argument(min=1, max=64, help="How many.")],
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of each. [default: an equal share of the cores]")
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Most memory for stages of each, as 4GB. [default: an equal share]")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda:0, … [default: the first GPU, else cpu]")] = None,
    as_json: Json = False,
) -> None:
    """Start agents on this machine, each with its share of cores and memory.

    They go on after this command; `node remove` ends them.
    """
    size = None if memory is None else read_size(memory, "--memory")
    with open_controller(monitor=False) as session, progress_shown(as_json) as progress:
        launching = session.controller.launch_local(
            count, threads=threads, memory=size, device=device, on_progress=progress.job, origin=origin()
        )
        nodes = session.run(launching)
    _added(nodes, as_json)


@app.command("find")
def find(
    machine: Annotated[
        str | None,
        typer.Argument(help="Take this one in: its name, address, or the beginning of its key. [default: list them]"),
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.5, max=600, help="How long to look.")] = LOOK_SECONDS,
    as_json: Json = False,
) -> None:
    """Show the machines on this network whose agents wait to be found (agent --wait), or take one in.

    That agent shows a code, which is asked for here, and then asks for a word itself: nobody is trusted for being seen.
    """
    with open_controller(monitor=False) as session:
        found = session.ask(find_machines, seconds)
        if machine is None:
            _show_waiting(found, as_json)
            return
        agent = chosen(found, machine)
        if agent.problem:
            raise BadInput(f"{agent.name} cannot be taken in: {agent.problem}")
        meeting = session.ask(begin_meeting, agent.address, agent.public_key)
        try:
            record = _confirmed(session, meeting)
        finally:
            session.ask(end_meeting, meeting.id)
    _added([record], as_json)


def _confirmed(session: Session, meeting: Meeting) -> NodeRecord:
    """Ask for the code until it is right, or the meeting is over."""
    note(f"{meeting.name} ({meeting.address}, key {meeting.fingerprint}) shows a code in its terminal.")
    while True:
        code = typer.prompt("Its code", err=True)
        try:
            return session.ask(confirm_meeting, meeting.id, code, note)
        except BadInput as error:
            note(str(error))


def _show_waiting(found: list[WaitingAgent], as_json: bool) -> None:
    if as_json:
        print_json([{**msgspec.to_builtins(agent), "fingerprint": agent.fingerprint, "problem": agent.problem}
                    for agent in found])  # fmt: skip
        return
    print_table(
        "Machines that wait",
        ("Name", "Address", "Key", "Problem"),
        [(agent.name, agent.address, agent.fingerprint, agent.problem) for agent in found],
        "No machine waits on this network; start an agent there with: shardboard-agent --wait",
    )
    if found:
        note("Take one in with: node find NAME")


@app.command("invite")
def invite(
    listen: Annotated[
        str | None, typer.Option(help="host:port to wait on. [default: this machine's address, port 7599]")
    ] = None,
    reachable_as: Annotated[
        str | None, typer.Option(help="Host under which the other machine reaches this one, if that is another.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Print the command that starts an agent on another machine, and wait until it has joined."""

    def show(command: JoinCommand) -> None:
        note("Run one of these on the other machine; --install-service added has it start there by itself.")
        for start in AGENT_STARTS:
            for system in ("",) if start.posix == start.windows else ("posix", "windows"):
                note(f"{start.given}{_SYSTEMS[system]}:")
                # with --json, stdout is the node's alone
                typer.echo(f"{getattr(start, system or 'posix')} {command.options}", err=as_json)
        note(f"It works once, for {command.valid_seconds / 60:.0f} minutes. Waiting; Ctrl-C ends the invitation.")

    place = listen or f"{network_address() or '127.0.0.1'}:{INVITATION_PORT}"
    with open_controller(monitor=False) as session:
        _added(
            [session.run(session.controller.invite(place, show, reachable_as=reachable_as, origin=origin()))], as_json
        )


def _added(nodes: list[NodeRecord], as_json: bool) -> None:
    if as_json:
        print_json(nodes)
    else:
        show_nodes(nodes)


def show_nodes(nodes: list[NodeRecord], heard: Mapping[int, Heard] = NOTHING_HEARD) -> None:
    """A table of nodes to stdout."""
    print_table(
        "Nodes",
        ("Id", "Name", "Address", "State", "Heard of", "Started here"),
        [
            (
                node.id,
                node.hostname,
                node.address.removeprefix("tcp://"),
                _state(node, heard),
                ago(node.last_heartbeat),
                f"process {node.local_pid}" if node.local_pid is not None else None,
            )
            for node in nodes
        ],
        "There is no node yet; start agents here with: node local 2",
    )


def _name_ghosts(ghosts: list[Ghost]) -> None:
    for ghost in ghosts:
        note(f"Node {ghost.node_id} is a ghost. {ghost.problem} {ghost.advice}")
    if len(ghosts) > 1:
        note("All of them go with: node remove --ghosts")


def _show_memory(nodes: list[NodeRecord], memory: dict[int, AgentMemory]) -> None:
    """What is believed beside what is held; of those that answered."""
    print_table(
        "Memory",
        ("Id", "Name", "For stages", "Taken", "Agent itself", "Process should hold", "It holds"),
        [
            (
                node.id, node.hostname, size_text(told.budget), size_text(told.used), size_text(told.agent),
                size_text(told.believed), size_text(told.held),
            )
            for node in nodes
            if (told := memory.get(node.id)) is not None
        ],
        "",
    )  # fmt: skip


def _state(node: NodeRecord, heard: Mapping[int, Heard]) -> NodeState:
    """Where no controller tells of a node, the registry knows whether it answered last."""
    return node_state(node, heard.get(node.id) or Heard(alive=node.is_active))

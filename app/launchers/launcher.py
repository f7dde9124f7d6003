"""What a launcher is, and what can be wished of each.

A launcher brings agents to machines of one kind and registers them as nodes, ends them, starts them again, brings them
up to date and takes them away. Each remembers in the home, by public key, which nodes are its own.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping
from typing import Literal, Protocol, TypeVar

import msgspec

from app.registry import NodeRecord

LauncherName = Literal["local", "ssh", "ray"]
Report = Callable[[str], None]
"""Told what a launcher is doing, in a few words."""


def unheard(phase: str) -> None:
    """The `Report` of who does not want to know."""


class LocalWish(msgspec.Struct, frozen=True, tag="local"):
    """Agents on this machine. None leaves the choice to the launcher."""

    count: int
    threads: int | None = None
    """CPU threads of each."""
    memory: int | None = None
    """Bytes that the stages of each may take."""
    device: str | None = None
    keep: bool = True
    """Whether they go on when the window that started them is closed."""

    @property
    def title(self) -> str:
        return f"Start {_agents(self.count)} on this machine"


class SshWish(msgspec.Struct, frozen=True, tag="ssh"):
    """An agent on a machine that SSH leads to."""

    target: str
    """user@host:port"""
    host_key: str | None = None
    """The fingerprint of the host's key, as its owner has confirmed it."""
    python: str | None = None
    """An interpreter there that has what an agent needs; None sets up an environment."""
    listen: str | None = None
    """Where the agent is to be reached; None stands for the address that SSH leads to."""

    @property
    def title(self) -> str:
        return f"Add {self.target} over SSH"


class RayWish(msgspec.Struct, frozen=True, tag="ray"):
    """An agent on each of so many nodes of a Ray cluster, those that have one already among them."""

    nodes: int
    address: str = "auto"
    """As Ray takes it: host:port of its head, or `auto` for the cluster that this machine is in."""
    cpus: float | None = None
    """Of Ray's CPUs, how many each agent takes, and so its threads; None stands for all that its node has."""
    gpus: float | None = None
    """None stands for one where the node has one."""
    memory: int | None = None
    """Bytes that the stages of each may take, and that Ray sets aside for it; None leaves that to the agent."""
    resources: dict[str, float] = {}
    """Of Ray's own resources by name, what each agent takes: they say on which nodes there may be one."""
    wait_seconds: float = 60.0
    """How long to wait for Ray nodes that are not there yet, and that its autoscaler is asked for."""
    idle_seconds: float | None = None
    """After so long without a request the agents are ended, until the next one comes; None keeps them."""
    needs_token: bool = True
    """Whether a cluster that lets in whoever reaches it is refused."""

    @property
    def title(self) -> str:
        return f"Bring agents to {self.nodes} Ray {'node' if self.nodes == 1 else 'nodes'}"


Wish = LocalWish | SshWish | RayWish


class LauncherState(msgspec.Struct, frozen=True):
    """A launcher as it is now, for people and programs."""

    name: LauncherName
    title: str
    problem: str
    """Why it cannot be used here, and what to do about it; empty when it can."""
    nodes: tuple[int, ...]
    """Ids of the nodes that it has brought here."""
    gone: tuple[int, ...]
    """Those of them whose machine is not there any more, as far as the launcher knows."""


class Brought(msgspec.Struct, frozen=True):
    """What is known of a node whose agent a launcher has brought."""

    launcher: LauncherName
    gone: str
    """What the launcher says where it has its machine no more; empty while it has."""


Wanted = TypeVar("Wanted", bound=Wish, contravariant=True)


class Launcher(Protocol[Wanted]):
    """Brings agents to machines of one kind. Belongs to the controller's loop; whatever takes long can be cancelled,
    which takes away what was begun."""

    @property
    def name(self) -> LauncherName: ...

    @property
    def title(self) -> str:
        """As a menu names it."""
        ...

    def problem(self) -> str:
        """Why it cannot be used here, and what to do about it; empty when it can. Reads folders."""
        ...

    async def start(self, wish: Wanted, report: Report = unheard) -> list[NodeRecord]:
        """Bring agents there and register them; the nodes that there are then, as wished.

        Raises BadInput, NodeError; what this call began is taken away again then. Over SSH, what is set up there stays
        where it took too long.
        """
        ...

    async def keys(self) -> frozenset[str]:
        """The public keys of the agents that it has brought."""
        ...

    async def stop(self, node: NodeRecord) -> NodeRecord:
        """End a node's agent; node, key and layers stay. Raises NodeError."""
        ...

    async def start_again(self, node: NodeRecord, report: Report = unheard) -> NodeRecord:
        """Start the agent of a node that was ended; at once where it runs. Raises NodeError."""
        ...

    async def update(self, node: NodeRecord, report: Report = unheard) -> NodeRecord:
        """End a node's agent and start it with today's program. Raises NodeError."""
        ...

    async def remove(self, node: NodeRecord) -> None:
        """End the agent of a node that was removed and leave nothing there; what cannot be taken away is told to the
        event log."""
        ...

    def gone(self) -> Mapping[str, str]:
        """By public key, the agents whose machine is not there any more, and what there is to say, as a sentence."""
        ...


def missing_extra(module: str, what: str, extra: str) -> str:
    """That a package which an extra brings is not installed here, and what to do about it; empty when it is."""
    if importlib.util.find_spec(module) is not None:
        return ""
    return f"{what} needs the package {module}: {sys.executable} -m pip install 'shardboard[{extra}]'"


def _agents(count: int) -> str:
    return "an agent" if count == 1 else f"{count} agents"

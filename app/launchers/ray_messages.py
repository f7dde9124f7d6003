"""What the controller asks the child process that speaks with Ray, and what that answers."""

from __future__ import annotations

from typing import Literal

import msgspec

NAMESPACE = "shardboard"


class RayAsk(msgspec.Struct, frozen=True):
    """One errand at a Ray cluster."""

    do: Literal["look", "up", "down"]
    address: str
    """As `ray.init` takes it."""
    group: str
    """Whose agents: each controller has its own, named by its key."""
    trust: str = ""
    """Of `up`: the public key that the agents obey."""
    nodes: int = 0
    """Of `up`: how many Ray nodes are to have an agent."""
    places: tuple[str, ...] | None = None
    """Of `down`: the Ray nodes whose agents are ended; None stands for all of the group."""
    forget: bool = False
    """Of `down`: whether nothing of them stays on the machines' disks."""
    cpus: float | None = None
    gpus: float | None = None
    memory: int | None = None
    resources: dict[str, float] = {}
    wait_seconds: float | None = 0.0
    """How long to wait for Ray nodes that are missing before that is an error; None takes those that are there."""
    needs_token: bool = True


class RayAgent(msgspec.Struct, frozen=True):
    """An agent that an actor of ours keeps."""

    place: str
    """The id of its Ray node."""
    address: str
    public_key: str
    pid: int
    host_name: str


class RayNode(msgspec.Struct, frozen=True):
    """A node of Ray that is there."""

    place: str
    """Its id."""
    address: str
    host_name: str
    cpus: float
    gpus: float
    memory: int
    """Bytes that Ray gives to its workers there."""
    agent: RayAgent | None = None
    restarting: bool = False
    """Its actor is there and does not answer: Ray is starting it."""


class RayCluster(msgspec.Struct, frozen=True):
    """A Ray cluster as it is now."""

    address: str
    """Of its head, as other machines reach it."""
    version: str
    nodes: tuple[RayNode, ...]

    @property
    def agents(self) -> tuple[RayAgent, ...]:
        return tuple(node.agent for node in self.nodes if node.agent is not None)

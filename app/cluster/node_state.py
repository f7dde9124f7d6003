"""The state of a node: one rule and one word for each, whether the window asks, a page, HTTP or a command. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from app.registry.records import NodeRecord


class NodeState(StrEnum):
    CONNECTING = "connecting"
    UP = "up"
    DRAINING = "draining"
    YIELDING = "yielding"
    FROZEN = "frozen"
    DOWN = "down"
    STOPPED = "stopped"
    STARTING = "starting"

    @property
    def is_up(self) -> bool:
        """Whether it answers and gets on: the nodes that are counted as up."""
        return self in ANSWERING and self is not NodeState.FROZEN

    @property
    def meaning(self) -> str:
        """The state as a sentence."""
        return _MEANINGS[self]


_MEANINGS = {
    NodeState.CONNECTING: "The agent has not answered yet.",
    NodeState.UP: "The agent answers.",
    NodeState.DRAINING: "It takes no new work; what it runs goes on.",
    NodeState.YIELDING: "Its owner needs it: it takes no new work, and what it holds moves, or goes on slowly.",
    NodeState.FROZEN: "It answers, but its computation does not get on.",
    NodeState.DOWN: "The agent cannot be reached.",
    NodeState.STOPPED: "The agent does not run. It can be started here.",
    NodeState.STARTING: "The agent is being started.",
}

ANSWERING = frozenset({NodeState.UP, NodeState.DRAINING, NodeState.YIELDING, NodeState.FROZEN})
"""States in which the last report is what the agent says now."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What a node's connection and its beats tell at this moment."""

    alive: bool | None = None
    """None as long as it has neither answered nor is known why it does not."""
    trouble: str = ""
    """While it is not alive: the kind of its NodeError, or `stopped` where it was ended or could not be started."""
    reason: str = ""
    """Why it is not there, or does not get on; a sentence."""
    frozen: bool = False
    yields: bool = False
    """Its machine's owner needs it; `reason` says why."""
    starting: bool = False
    """It is being started on this machine."""
    gone: str = ""
    """What the launcher that brought it says where its machine is not there any more; a sentence."""

    @property
    def is_up(self) -> bool:
        """As its state's."""
        return self.alive is True and not self.frozen


NOTHING = Heard()
"""Of a node that has just been registered, or of a controller that has just begun."""


def node_state(record: NodeRecord, heard: Heard) -> NodeState:
    """The one rule. What keeps a node from answering counts before what it is told to do."""
    if heard.alive:
        if heard.frozen:
            return NodeState.FROZEN
        if heard.yields:
            return NodeState.YIELDING
        return NodeState.DRAINING if record.draining else NodeState.UP
    if heard.starting:
        return NodeState.STARTING
    if heard.alive is None:
        return NodeState.CONNECTING
    # Where nothing listens, an agent of this machine does not run; of another machine nobody can tell.
    gone = heard.trouble == "stopped" or (heard.trouble == "refused" and record.local_pid is not None)
    return NodeState.STOPPED if gone else NodeState.DOWN


def unavailable(state: NodeState, reason: str = "") -> str:
    """Why a node cannot take layers now, as the rest of a sentence; empty when it can.

    Args:
        reason: why it is not there, or does not get on.
    """
    match state:
        case NodeState.UP:
            return ""
        case NodeState.DRAINING:
            return "is draining and takes no new work"
        case NodeState.YIELDING:
            return "is needed by its owner and takes no new work"
        case NodeState.FROZEN:
            return f"hangs{': ' + reason if reason else ''}"
        case NodeState.DOWN:
            return f"is down{': ' + reason if reason else ''}"
        case NodeState.STOPPED:
            return "is stopped; start its agent first"
        case NodeState.STARTING:
            return "is starting"
        case NodeState.CONNECTING:
            return "is not connected yet"

"""Why an agent cannot be reached: told apart, and put into a sentence and advice for the user."""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from typing import Literal

from app.errors import NodeError
from app.figures import size_text
from worker_agent.wire.links import Endpoint
from worker_agent.wire.messages import Failed

TroubleKind = Literal["refused", "timeout", "wrong_key", "not_allowed", "version", "lost", "closed"]


@dataclass(frozen=True, slots=True)
class Trouble:
    """What stands between this controller and an agent. `detail` names the system's own reason, where it has one."""

    kind: TroubleKind
    detail: str = ""


async def probe(address: str, seconds: float) -> Trouble | None:
    """Open and close a TCP connection, to learn the reason that ZeroMQ's monitor events do not carry.

    Returns None when the connection stands, so that the trouble has passed or lies above TCP.
    """
    endpoint = Endpoint.parse(address)
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(endpoint.host, endpoint.port)
    except TimeoutError:
        return Trouble("timeout")
    except ConnectionRefusedError:
        return Trouble("refused")
    except socket.gaierror as error:
        return Trouble("refused", f"the name {endpoint.host} could not be resolved: {error.strerror}")
    except OSError as error:
        return Trouble("timeout", error.strerror or str(error))
    writer.close()
    return None


def node_error(trouble: Trouble, node: str, address: str) -> NodeError:
    """The error that tells a user of this trouble with the agent `node` at `address`."""
    message, advice = _sentences(trouble, node, address)
    kind = "lost" if trouble.kind == "closed" else trouble.kind
    return NodeError(message, advice, kind=kind, node=node)


def _sentences(trouble: Trouble, node: str, address: str) -> tuple[str, str]:
    who = f"{node} ({address})" if node and node != address else address
    why = f" ({trouble.detail})" if trouble.detail else ""
    match trouble.kind:
        case "refused" if trouble.detail:
            return f"The agent {who} cannot be reached: {trouble.detail}.", "Check the address."
        case "refused":
            return (
                f"The agent {who} refused the connection: nothing listens there.",
                "Start the agent on that machine, or check the port.",
            )
        case "timeout":
            return (
                f"The agent {who} did not answer in time{why}.",
                "Check that the machine is on, that the address is right and that its firewall lets the port through.",
            )
        case "wrong_key":
            return (
                f"The agent {who} has another key than the one given: it broke off the handshake.",
                "Compare the key with agent.pub on that machine; if the agent was set up anew, remove the node and "
                "add it again. (Another kind of server on that port looks the same.)",
            )
        case "not_allowed":
            return (
                f"The agent {who} does not trust this controller's key.",
                "Invite it (node invite), or start it with --trust and this controller's public key.",
            )
        case "version":
            return (
                f"The agent {who} speaks another version of the protocol{why}.",
                "Install the same version of Shardboard on both machines.",
            )
        case "lost":
            return f"The connection to the agent {who} broke{why}.", "It is being tried again; see the node's log."
        case "closed":
            return f"The link to the agent {who} has been closed.", ""


def failed_error(failed: Failed, node: str) -> NodeError:
    """The error for an agent's own `Failed`: its sentence, and how much is needed and free where it says so."""
    message = f"{node}: {failed.message}" if node else failed.message
    if failed.needed:
        message = f"{message.rstrip('.')} (needed {size_text(failed.needed)}, free {size_text(failed.free)})."
    return NodeError(message, _ADVICE.get(failed.kind, ""), kind=failed.kind, node=node)


_ADVICE = {
    "memory": "Give the node fewer layers or less context, or unload another model there.",
    "disk": "Free disk space on that machine.",
    "damaged": "Deploy it again: what was damaged is sent anew. If it goes on, the disks or the network are at fault, "
    "or the model's files have changed: then add the model again.",
    "weights": "Remove the model and add it again: what does not fit its config.json is named then.",
    "numbers": "Deploy the model in another dtype (--dtype): bfloat16 or float32.",
    "architecture": "Have its layers on one node, or take another model.",
    "draining": "The node takes no new work until it is told to (node drain).",
    "not_allowed": "Invite the agent (node invite), or start it with --trust and this controller's public key.",
    "version": "Install the same version of Shardboard on both machines.",
}

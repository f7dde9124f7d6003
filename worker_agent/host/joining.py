"""Joining a controller by its invitation: one message there, one back."""

from __future__ import annotations

import time

import zmq

from worker_agent.wire.errors import AgentError, WireError
from worker_agent.wire.keys import Invitation, KeyPair
from worker_agent.wire.links import Endpoint, LinkEvent, LinkMonitor, controller_socket
from worker_agent.wire.messages import (
    OLDEST_WIRE_VERSION,
    WIRE_VERSION,
    Failed,
    Join,
    Joined,
    check_payload,
    decode,
    encode,
)

ATTEMPT_SECONDS = 15.0

_EXPLANATIONS = {
    LinkEvent.REFUSED: "Nothing answers at {0}. Is the controller running, and does a firewall let that port through?",
    LinkEvent.NO_ANSWER: "Something other than a controller answers at {0}.",
    LinkEvent.WRONG_KEY: "The controller at {0} has another key than the invitation says. Ask for a new invitation.",
    LinkEvent.NOT_TRUSTED: "The controller at {0} takes no agents at the moment. Make a new invitation there.",
}


class JoinFailed(AgentError):
    """The controller could not be reached, or did not take this agent. The text says what to do."""

    kind = "join"


def join(
    keys: KeyPair,
    invitation: Invitation,
    *,
    hostname: str,
    port: int,
    seconds: float = ATTEMPT_SECONDS,
) -> Joined:
    """Tell the controller that this agent listens on `port`, with the invitation's token. Waits for the answer.

    The controller takes the agent's host from the connection, and its public key too.

    Raises:
        JoinFailed: after `seconds` without an answer, or with the controller's reason.
    """
    endpoint = Endpoint.parse(invitation.address)
    # a context of its own: ending the agent's does not have to wait for this attempt
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = controller_socket(context, keys, invitation.public_key, b"", "control")
    monitor = LinkMonitor(socket)
    request = Join(
        call=1,
        token=invitation.token,
        agent=keys.agent_id,
        hostname=hostname,
        port=port,
        oldest=OLDEST_WIRE_VERSION,
        newest=WIRE_VERSION,
    )
    try:
        socket.connect(endpoint.address)
        socket.send(encode(request))
        return _wait(socket, monitor, endpoint, time.monotonic() + seconds)
    finally:
        monitor.close()
        socket.close(0)
        context.term()


def _wait(socket: zmq.Socket[bytes], monitor: LinkMonitor, endpoint: Endpoint, deadline: float) -> Joined:
    poller = zmq.Poller()
    poller.register(socket, zmq.POLLIN)
    poller.register(monitor.socket, zmq.POLLIN)
    explanation = "The controller at {0} did not answer in time."
    while (left := deadline - time.monotonic()) > 0:
        ready = dict(poller.poll(int(left * 1000) + 1))
        for event in monitor.read():
            explanation = _EXPLANATIONS.get(event, explanation)
            if event is LinkEvent.NOT_TRUSTED:
                raise JoinFailed(explanation.format(endpoint))
        if socket in ready:
            return _read_answer(socket.recv_multipart(), endpoint)
    raise JoinFailed(explanation.format(endpoint))


def _read_answer(frames: list[bytes], endpoint: Endpoint) -> Joined:
    try:
        message = decode(frames[0])
        check_payload(message, frames[1:])
    except WireError as error:
        raise JoinFailed(f"The controller at {endpoint} gave an answer that cannot be read: {error}.") from error
    match message:
        case Joined():
            return message
        case Failed():
            raise JoinFailed(f"The controller at {endpoint} did not take this agent: {message.message}")
    raise JoinFailed(f"The controller at {endpoint} answered with a {type(message).__name__}.")

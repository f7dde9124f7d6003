"""The agent's sockets, its door and its mailbox."""

from __future__ import annotations

from collections.abc import Callable

import zmq

from worker_agent.host.home import AgentHome
from worker_agent.wire.access import Access
from worker_agent.wire.errors import AgentError
from worker_agent.wire.keys import KeyPair, TrustedControllers
from worker_agent.wire.links import Endpoint, agent_socket, bind
from worker_agent.wire.mailbox import Mailbox
from worker_agent.wire.peers import Peers
from worker_agent.wire.zap import Doorkeeper


class Switchboard:
    """Made before torch is imported, so that a port in use shows at once. Used by the I/O thread, except `mailbox`."""

    def __init__(self, home: AgentHome, keys: KeyPair, listen: Endpoint) -> None:
        """Raises AddressError (port in use, no such address)."""
        self.keys = keys
        self.controllers = TrustedControllers(home.controllers)
        self.access = Access(self.controllers)
        self.mailbox: Mailbox[Callable[[], None]] = Mailbox()
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.door = Doorkeeper(self.context, self.access.admits)
        self.door.open()
        self.router = agent_socket(self.context, keys)
        self.poller = zmq.Poller()
        self.poller.register(self.router, zmq.POLLIN)
        self.poller.register(self.mailbox.fileno(), zmq.POLLIN)
        self.peers = Peers(self.context, keys, self.poller)
        try:
            self.endpoint = bind(self.router, listen)
        except AgentError:
            self.close()
            raise

    def close(self) -> None:
        """Close everything; what has been sent still has LINGER to leave."""
        self.peers.close_all()
        self.router.close()
        self.door.close()
        self.mailbox.close()
        self.context.term()

"""Joining: a listener that takes agents in by one-time invitations.

It is the controller's only socket that listens, and only while there is something to join. Anybody may
connect to it (an agent's key is not known before); what counts is the token, and that the agent which the
caller says it is answers the controller under the key that the caller came with.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import zmq.asyncio

from app.cluster.controller_identity import ControllerIdentity
from app.errors import BadInput, NodeError, ShardboardError
from app.registry import NodeRecord
from worker_agent.wire.complaints import Complaints
from worker_agent.wire.errors import VersionMismatch, WireError
from worker_agent.wire.keys import Invitation, key_fingerprint
from worker_agent.wire.links import AddressError, Endpoint, agent_socket, bind
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
from worker_agent.wire.zap import Doorkeeper

INVITATION_PORT = 7599
"""Where agents join unless something else is said."""
VALID_SECONDS = 600.0
MOST_OPEN = 100
"""Invitations that may be open at once."""
MOST_CHECKS = 8
"""Agents that are looked at at the same time; more are told to try again."""
CHECK_SECONDS = 10.0
MAX_MESSAGE_BYTES = 16 * 1024
"""A Join is far shorter; anybody may send here."""

_log = logging.getLogger(__name__)


class Registrar(Protocol):
    """Checks an agent and registers it: `NodeDirectory`."""

    async def add(self, address: str, public_key: str, *, seconds: float = ...) -> NodeRecord: ...


class AgentStart(NamedTuple):
    """How an agent is started on a machine, by what is there of Shardboard. Options follow."""

    given: str
    """What is there, or what brings it."""
    posix: str
    """For Linux and macOS."""
    windows: str


AGENT_STARTS = (
    AgentStart(
        "In the folder of Shardboard's repository",
        "worker_agent/launch/agent.sh",
        "powershell -ExecutionPolicy Bypass -File worker_agent\\launch\\agent.ps1",
    ),
    AgentStart("Installed with pip, pipx or uv", "shardboard-agent", "shardboard-agent"),
    AgentStart("With uv, in the repository's folder", *["uv tool run --from . shardboard-agent"] * 2),
    AgentStart("With pipx, in the repository's folder", *["pipx run --spec . shardboard-agent"] * 2),
)


@dataclass(frozen=True)
class JoinCommand:
    """What a user copies to the machine that shall join."""

    invitation: Invitation
    valid_seconds: float

    @property
    def options(self) -> str:
        """What follows an agent's start. Letters and digits: no shell touches an invitation."""
        return f"--join {self.invitation.encode()}"

    @property
    def posix(self) -> str:
        """For Linux and macOS, in a folder that holds Shardboard."""
        return f"{AGENT_STARTS[0].posix} {self.options}"

    @property
    def windows(self) -> str:
        return f"{AGENT_STARTS[0].windows} {self.options}"


class JoinListener:
    """Answers Join at one address until it is closed. Belongs to the loop's thread.

    Args:
        listen: where, as `host:port`; loopback unless the user names another address. Port 0 is any free one.
    """

    def __init__(self, identity: ControllerIdentity, registrar: Registrar, listen: str = "127.0.0.1:0") -> None:
        try:
            self._wanted = Endpoint.parse(listen, to_listen=True)
        except AddressError as error:
            raise BadInput(str(error)) from error
        self._identity = identity
        self._registrar = registrar
        self._tokens = _Tokens()
        self._checks: set[asyncio.Task[None]] = set()
        self._complaints = Complaints(_log)
        self._endpoint: Endpoint | None = None

    def open(self) -> Endpoint:
        """Begin to listen. Raises BadInput when that address cannot be listened on."""
        # A context of its own: its doorkeeper lets every key in, which must hold for this socket alone.
        self._context = zmq.asyncio.Context()
        self._router = agent_socket(self._context, self._identity.keys)
        self._router.setsockopt(zmq.MAXMSGSIZE, MAX_MESSAGE_BYTES)
        try:
            self._endpoint = bind(self._router, self._wanted)
        except AddressError as error:
            self._router.close(linger=0)
            self._context.term()
            raise BadInput(str(error)) from error
        self._door = Doorkeeper(self._context, lambda key: True)
        self._door.open()
        self._serving = asyncio.create_task(self._serve())
        return self._endpoint

    async def close(self) -> None:
        """Stop listening; open invitations are void."""
        if self._endpoint is None:
            return
        self._endpoint = None
        tasks = [self._serving, *self._checks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._router.close(linger=0)
        await asyncio.to_thread(self._door.close)
        self._context.destroy(linger=0)

    def invite(self, reachable_as: str | None = None) -> JoinCommand:
        """Make an invitation for one agent, good for ten minutes.

        Args:
            reachable_as: host under which other machines reach this one, where that is not the address
                listened on (`0.0.0.0`, or behind a router).

        Raises BadInput while nothing is listened on, or without a host that others could use.
        """
        if self._endpoint is None:
            raise BadInput("Nothing can be joined: the controller does not listen for joins.")
        host = reachable_as or self._endpoint.host
        if host in ("*", "0.0.0.0", "::"):
            raise BadInput(
                f"{host} is no address that another machine could connect to.",
                "Say under which address this machine is reached.",
            )
        address = Endpoint(host, self._endpoint.port).address
        invitation = Invitation.make(address, self._identity.keys.public)
        self._tokens.add(invitation.token, asyncio.get_running_loop().time() + VALID_SECONDS)
        return JoinCommand(invitation, VALID_SECONDS)

    # --- serving ---

    async def _serve(self) -> None:
        while True:
            route, *frames = await self._router.recv_multipart(copy=False)
            if not frames:
                continue
            key, peer = str(frames[0].get("User-Id")), str(frames[0].get("Peer-Address"))
            try:
                answer = self._take(route.bytes, key, peer, [frame.bytes for frame in frames])
            except Exception:
                _log.exception("what %s sent could not be handled", peer)
                continue
            if answer is not None:
                await self._answer(route.bytes, answer)

    def _take(self, route: bytes, key: str, peer: str, frames: Sequence[bytes]) -> Failed | None:
        """Begin to look at an agent that was invited. Whatever else comes is refused at once, and takes up no room."""
        try:
            message = decode(frames[0])
            check_payload(message, frames[1:])
        except VersionMismatch as error:
            return Failed(call=0, kind="version", message=str(error))
        except WireError as error:
            self._complaints.warn(f"{peer} (key {key}) sent what is no message: {error}")
            return None
        if not isinstance(message, Join):
            self._complaints.warn(f"{peer} (key {key}) sent a {type(message).__name__} to where agents join")
            call = getattr(message, "call", 0)
            return Failed(call=call, kind="not_allowed", message="Only Join is answered here.")
        refusal = self._refusal(message, key, peer)
        if refusal is None:
            check = asyncio.create_task(self._look_at(route, message, key, peer))
            self._checks.add(check)
            check.add_done_callback(self._checks.discard)
        return refusal

    def _refusal(self, message: Join, key: str, peer: str) -> Failed | None:
        """Why an agent is not even looked at; None when its invitation is good, which is used up by that."""

        def refused(kind: str, why: str) -> Failed:
            return Failed(call=message.call, kind=kind, message=why)

        if message.oldest > WIRE_VERSION or message.newest < OLDEST_WIRE_VERSION:
            return refused("version", f"This controller speaks wire version {OLDEST_WIRE_VERSION} to {WIRE_VERSION}, "
                           f"the agent {message.oldest} to {message.newest}. Install the same version of Shardboard "
                           "on both machines.")  # fmt: skip
        if message.agent != key_fingerprint(key):
            self._complaints.warn(f"{peer} (key {key}) said that it is the agent {message.agent}")
            return refused("not_allowed", "The agent's id does not fit its key.")
        if len(self._checks) >= MOST_CHECKS:
            return refused("busy", "Too many agents join at once. Try again in a moment.")
        if not self._tokens.take(message.token, asyncio.get_running_loop().time()):
            self._complaints.warn(
                f"{message.hostname!r} ({peer}, key {key}) wanted to join with an invitation that is not valid"
            )
            return refused("not_allowed", "The invitation is not valid: it was used already, or it is older than ten "
                           "minutes. Make a new one.")  # fmt: skip
        return None

    async def _look_at(self, route: bytes, message: Join, key: str, peer: str) -> None:
        answer: Joined | Failed
        try:
            answer = await self._register(message, key, peer)
        except ShardboardError as error:
            answer = Failed(call=message.call, kind=error.kind, message=str(error)[:8000])
        except Exception:
            _log.exception("the join of an agent from %s failed", peer)
            answer = Failed(call=message.call, kind="internal", message="The controller failed; see its log.")
        await self._answer(route, answer)

    async def _answer(self, route: bytes, message: Joined | Failed) -> None:
        try:
            await self._router.send_multipart((route, encode(message)), zmq.NOBLOCK)
        except zmq.ZMQError as error:  # it has gone, or does not read
            _log.info("an agent that wanted to join got no answer: %s", error)

    async def _register(self, message: Join, key: str, peer: str) -> Joined:
        try:
            record = await self._registrar.add(_address_of(peer, message.port), key, seconds=CHECK_SECONDS)
        except BaseException:
            self._tokens.give_back(message.token)
            raise
        _log.info("%r joined as node %d (%s), with the key %s", message.hostname, record.id, record.address, key)
        return Joined(call=message.call, address=record.address)


class _Noticing:
    """Registers agents that join, and notices the first."""

    def __init__(self, registrar: Registrar, joined: asyncio.Future[NodeRecord]) -> None:
        self._registrar, self._joined = registrar, joined

    async def add(self, address: str, public_key: str, *, seconds: float = 10.0) -> NodeRecord:
        record = await self._registrar.add(address, public_key, seconds=seconds)
        if not self._joined.done():
            self._joined.set_result(record)
        return record


async def first_to_join(
    identity: ControllerIdentity,
    registrar: Registrar,
    listen: str,
    on_ready: Callable[[JoinCommand], None],
    *,
    reachable_as: str | None,
    seconds: float,
) -> NodeRecord:
    """Listen for one agent that joins with an invitation; its node. Raises NodeError when none comes in time.

    Args:
        on_ready: told the command to run on the other machine.
    """
    joined: asyncio.Future[NodeRecord] = asyncio.get_running_loop().create_future()
    listener = JoinListener(identity, _Noticing(registrar, joined), listen)
    listener.open()
    try:
        on_ready(listener.invite(reachable_as))
        async with asyncio.timeout(seconds):
            record = await joined
        await asyncio.sleep(0.5)  # the agent's answer is still on its way out
        return record
    except TimeoutError:
        raise NodeError("No agent has joined in time.", "Make a new invitation.", kind="timeout") from None
    finally:
        await listener.close()


def _address_of(peer: str, port: int) -> str:
    """The address of an agent that listens on `port` of the machine that `peer` connected from."""
    host, _, zone = peer.partition("%")
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return Endpoint(f"{address}%{zone}" if zone else str(address), port).address


class _Tokens:
    """The tokens of open invitations, by their hash, with the time until which each is good."""

    def __init__(self) -> None:
        self._open: dict[bytes, float] = {}
        self._taken: dict[bytes, float] = {}

    def add(self, token: str, until: float) -> None:
        """Raises BadInput when there are too many open ones."""
        self._drop_old(until - VALID_SECONDS)
        if len(self._open) >= MOST_OPEN:
            raise BadInput(f"{MOST_OPEN} invitations are open.", "Wait until one of them has been used or is too old.")
        self._open[_digest(token)] = until

    def take(self, token: str, now: float) -> bool:
        """Use a token up, if it is good."""
        self._drop_old(now)
        given = _digest(token)
        for digest in self._open:
            if hmac.compare_digest(digest, given):
                self._taken[digest] = self._open.pop(digest)
                return True
        return False

    def give_back(self, token: str) -> None:
        """The join failed for a reason that may pass: the token is good for the rest of its time."""
        digest = _digest(token)
        if digest in self._taken:
            self._open[digest] = self._taken.pop(digest)

    def _drop_old(self, now: float) -> None:
        self._open = {digest: until for digest, until in self._open.items() if until > now}
        self._taken = {digest: until for digest, until in self._taken.items() if until > now}


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()
